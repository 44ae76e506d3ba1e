/**
 * What repair has done, for `status` and for the timeline: chunks, bytes, the rate of the last 10 s, and one log event
 * when repair starts and one when everything that was found is whole again.
 */

import { Ring } from '../../../base/ring.ts'
import type { RepairQueue } from '../../../core/repair/queue.ts'
import { repairClasses } from '../../../model/words.ts'
import type { Term } from './term.ts'

type AnyQueue = Pick<RepairQueue<never, unknown>, 'count' | 'running' | 'size'>

const windowMs = 10_000
const samplesMax = 4096

export class RepairMeter {
  repaired = 0
  repairedBytes = 0
  readonly #term: Term
  readonly #samples = new Ring<{ atMs: number; bytes: number }>(samplesMax)
  #windowBytes = 0
  /** When the running repair started; undefined while there is nothing to do. */
  #sinceMs: number | undefined
  #before = { chunks: 0, bytes: 0 }

  constructor(term: Term) {
    this.#term = term
  }

  started(queue: AnyQueue): void {
    if (this.#sinceMs !== undefined) return
    this.#sinceMs = this.#term.nowMs()
    this.#before = { chunks: this.repaired, bytes: this.repairedBytes }
    const counts = Object.fromEntries(repairClasses.map((name) => [name, queue.count(name)]))
    this.#term.log.info('repair started', counts)
  }

  copied(bytes: number): void {
    this.repaired++
    this.repairedBytes += bytes
    this.#expire()
    if (this.#samples.full) this.#windowBytes -= this.#samples.shift()?.bytes ?? 0
    this.#samples.push({ atMs: this.#term.nowMs(), bytes })
    this.#windowBytes += bytes
    this.#term.env.metrics.count('holdfast_repair_chunks_total', 'Chunks copied by repair.')
    this.#term.env.metrics.count('holdfast_repair_bytes_total', 'Bytes copied by repair.', bytes)
  }

  /** Called when the queue changed. */
  settled(queue: AnyQueue): void {
    if (this.#sinceMs === undefined || queue.running > 0 || queue.size > 0) return
    this.#term.log.info('repair finished', {
      chunks: this.repaired - this.#before.chunks,
      bytes: this.repairedBytes - this.#before.bytes,
      tookMs: Math.round(this.#term.nowMs() - this.#sinceMs),
    })
    this.#sinceMs = undefined
  }

  /** Mean of the last 10 s. */
  bytesPerSecond(): number {
    this.#expire()
    return Math.round((this.#windowBytes * 1000) / windowMs)
  }

  #expire(): void {
    const beforeMs = this.#term.nowMs() - windowMs
    for (;;) {
      const first = this.#samples.peek()
      if (first === undefined || first.atMs >= beforeMs) return
      this.#windowBytes -= first.bytes
      this.#samples.shift()
    }
  }
}
