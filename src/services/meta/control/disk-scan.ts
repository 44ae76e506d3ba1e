/**
 * Walks the chunks of disks: when a disk went (what is short now?), when it came back (what is whole or surplus now?),
 * and once over every disk when a leadership starts (what is misplaced, what is still to be deleted?).
 *
 * One page at a time, urgent disks first. What is not urgent takes a share of the time only, so that clients hardly notice
 * a new leader that walks over millions of chunks. While the repair queue has overflowed, a disk is walked again after the queue
 * has emptied by half.
 */

import type { DiskChunkRecord } from '../../../core/meta/records.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import type { Reading } from './readings.ts'
import { Alarm, Pump, type Term } from './term.ts'

export interface DiskScanParts {
  /** A page is about to be read; says which chunks change while it is. */
  reading(): Reading
  /** One entry of the walk. `overtaken`: the chunk changed while it was read. */
  look(disk: DiskNumber, chunk: ChunkId, record: DiskChunkRecord, overtaken: boolean): void
  /** After each page. */
  page(): void
  /** True when entries were given up for lack of room since the last call. */
  overflowed(): boolean
  /** True when there is room to walk again what overflowed. */
  room(): boolean
}

const pageEntries = 512
const roomRetryMs = 1000
/** Pause after a page of a calm walk, in times of what the page took. */
const calmPauses = 3

export class DiskScan {
  readonly #term: Term
  readonly #parts: DiskScanParts
  readonly #urgent = new Set<DiskNumber>()
  readonly #calm = new Set<DiskNumber>()
  readonly #again = new Set<DiskNumber>()
  readonly #pump: Pump
  readonly #alarm: Alarm
  #done = false
  #walking = false

  constructor(term: Term, parts: DiskScanParts) {
    this.#term = term
    this.#parts = parts
    this.#pump = new Pump(term, 'walk the chunks of a disk', () => this.#pass())
    this.#alarm = new Alarm(term, () => this.#retry())
  }

  /** True once every disk that was asked for has been walked. */
  get complete(): boolean {
    return this.#done && !this.#walking && this.#urgent.size + this.#calm.size + this.#again.size === 0
  }

  add(disk: DiskNumber, urgent: boolean): void {
    if (urgent) {
      this.#calm.delete(disk)
      this.#urgent.add(disk)
    } else if (!this.#urgent.has(disk)) this.#calm.add(disk)
    this.#pump.kick()
  }

  async #pass(): Promise<void> {
    for (;;) {
      await this.#walkUrgent()
      const disk = this.#calm.values().next().value
      if (disk === undefined) break
      this.#calm.delete(disk)
      await this.#walk(disk, false)
    }
    this.#walking = false
    this.#done = true
    if (this.#again.size > 0) this.#alarm.setEarlier(this.#term.nowMs() + roomRetryMs)
  }

  async #walkUrgent(): Promise<void> {
    for (const disk of this.#urgent) {
      this.#urgent.delete(disk)
      await this.#walk(disk, true)
    }
  }

  async #walk(disk: DiskNumber, urgent: boolean): Promise<void> {
    let from = 0
    for (;;) {
      this.#walking = true
      const startedMs = this.#term.nowMs()
      const page = await this.#page(disk, from)
      this.#parts.page()
      const last = page.at(-1)
      if (last === undefined || page.length < pageEntries) break
      from = last.chunk + 1
      if (urgent) continue
      const tookMs = this.#term.nowMs() - startedMs
      if (tookMs > 0) await this.#term.sleep(tookMs * calmPauses)
      await this.#walkUrgent()
    }
    if (this.#parts.overflowed()) this.#again.add(disk)
  }

  async #page(disk: DiskNumber, from: ChunkId): Promise<readonly { readonly chunk: ChunkId }[]> {
    const reading = this.#parts.reading()
    try {
      const page = await this.#term.queries.diskChunks(disk, from, pageEntries)
      for (const { chunk, record } of page) this.#parts.look(disk, chunk, record, reading.overtaken(chunk))
      return page
    } finally {
      reading.end()
    }
  }

  #retry(): void {
    if (!this.#parts.room()) {
      this.#alarm.setEarlier(this.#term.nowMs() + roomRetryMs)
      return
    }
    for (const disk of this.#again) this.#calm.add(disk)
    this.#again.clear()
    this.#pump.kick()
  }
}
