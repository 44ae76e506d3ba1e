/**
 * Garbage: chunks that nothing refers to, reclaimed once their grace is over, and manifests in the trash, whose
 * references are dropped one page at a time, after the same grace (readers of the old version still fetch its pages).
 *
 * Time is the only reason to wake up: both ranges are ordered by it, so one alarm at the first entry of each is enough.
 */

import { StoreError } from '../../../model/errors.ts'
import { Alarm, Pump, type Term } from './term.ts'

/** With 8 replicas each, an entry touches less than 4,096 records. */
const reclaimMax = 400
const trashMax = 16

export class Garbage {
  readonly #term: Term
  readonly #pump: Pump
  readonly #trashPump: Pump
  readonly #alarm: Alarm
  readonly #trashAlarm: Alarm

  constructor(term: Term) {
    this.#term = term
    this.#pump = new Pump(term, 'reclaim garbage', () => this.#reclaim())
    this.#trashPump = new Pump(term, 'empty the trash', () => this.#emptyTrash())
    this.#alarm = new Alarm(term, () => this.#pump.kick())
    this.#trashAlarm = new Alarm(term, () => this.#trashPump.kick())
  }

  /** At the start of a term, and when deletes are no longer held. */
  start(): void {
    this.#pump.kick()
    this.#trashPump.kick()
  }

  /** A chunk lost its last reference at `sinceMs` (wall). */
  garbage(sinceMs: number): void {
    this.#alarm.setEarlier(this.#overMs(sinceMs))
  }

  /** A manifest went to the trash at `sinceMs` (wall). */
  trash(sinceMs: number): void {
    this.#trashAlarm.setEarlier(this.#overMs(sinceMs))
  }

  /** When the grace that began at `sinceMs` (wall) is over; a past one is not taken up more than 20 times a second. */
  #overMs(sinceMs: number): number {
    const overMs = this.#term.fromWallMs(sinceMs + this.#term.config.gcGraceMs) + 1
    return Math.max(overMs, this.#term.nowMs() + 50)
  }

  async #reclaim(): Promise<void> {
    const graceMs = this.#term.config.gcGraceMs
    for (;;) {
      // Taken up again by `start`.
      if (this.#term.deletesHeld) return
      const beforeMs = this.#term.env.clock.wallMs() - graceMs
      const due = beforeMs < 0 ? [] : await this.#term.queries.garbage(beforeMs, reclaimMax)
      if (due.length === 0) break
      const reply = await this.#term.propose({ kind: 'reclaim', graceMs, chunks: due.map((entry) => entry.chunk) })
      if (!reply.ok) throw new StoreError(reply.code, `reclaim ${due.length} chunks: ${reply.message}`)
      this.#term.log.info('unreferenced chunks reclaimed', { chunks: due.length })
      const first = (await this.#term.queries.garbage(beforeMs, 1))[0]
      // Entries that stay although they were named are not asked for again at once.
      if (first !== undefined && first.chunk === due[0]?.chunk) {
        this.#alarm.setEarlier(this.#term.nowMs() + 1000)
        return
      }
    }
    const next = (await this.#term.queries.garbage(Number.MAX_SAFE_INTEGER - 1, 1))[0]
    if (next !== undefined) this.garbage(next.sinceMs)
  }

  async #emptyTrash(): Promise<void> {
    for (;;) {
      // What is in it may be wanted back. Taken up again by `start`.
      if (this.#term.deletesHeld) return
      const beforeMs = this.#term.env.clock.wallMs() - this.#term.config.gcGraceMs
      const trashed = beforeMs < 0 ? [] : await this.#term.queries.trash(beforeMs, trashMax)
      if (trashed.length === 0) break
      for (const { manifest, nextPage } of trashed) {
        const reply = await this.#term.propose({ kind: 'dropPage', manifest, page: nextPage })
        if (!reply.ok) throw new StoreError(reply.code, `drop a page of a deleted manifest: ${reply.message}`)
      }
    }
    const next = (await this.#term.queries.trash(Number.MAX_SAFE_INTEGER - 1, 1))[0]
    if (next !== undefined) this.trash(next.sinceMs)
  }
}
