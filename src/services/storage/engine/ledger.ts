/**
 * The books of a disk: how many chunks are served and how many bytes of each extent are still of use, as of the last
 * record that is in the index.
 *
 * Everything follows from the log's records alone (each says what it frees), so replay from a checkpoint gives the same
 * figures whatever the index kept. Where records are missing, in a damaged log, they are counted anew from the index. Invariant: figures saved with a checkpoint are those of exactly its position; an extent
 * has a figure, be it 0, until it is recycled.
 * What compaction chooses by (the ranking, quarantined bytes, who hides what) is kept in step here and not saved.
 */

import type { ExtentRanking } from '../../../core/chunk/compaction.ts'
import { isSaidAgain, type Location, type LogRecord, type QuarantineLogRecord } from '../../../core/chunk/record.ts'
import { Tombstones } from '../../../core/chunk/tombstones.ts'

/** What the index says of all chunks together. */
export interface Recount {
  readonly chunks: number
  /** Bytes of use by extent, quarantined ones too. */
  readonly live: ReadonlyMap<number, number>
  /** False when a record did not check out, so that its place is not known. */
  readonly exact: boolean
}

export class Ledger {
  readonly ranking: ExtentRanking
  readonly tombstones = new Tombstones()
  readonly #live = new Map<number, number>()
  readonly #pinned = new Map<number, number>()
  readonly #dirty = new Set<number>()
  #chunks: number
  #total = 0
  #listener: (() => void) | undefined

  constructor(chunks: number, live: ReadonlyMap<number, number>, ranking: ExtentRanking) {
    this.#chunks = chunks
    this.ranking = ranking
    for (const [extent, bytes] of live) {
      this.#live.set(extent, bytes)
      this.#total += bytes
    }
  }

  /** Chunks that are served. */
  get chunks(): number {
    return Math.max(0, this.#chunks)
  }

  /** Bytes of use in all extents. */
  get totalLiveBytes(): number {
    return this.#total
  }

  /** Extents that have a figure. */
  extents(): number[] {
    return [...this.#live.keys()]
  }

  liveBytes(extent: number): number {
    return this.#live.get(extent) ?? 0
  }

  /** Those of the live bytes that are quarantined: kept where they are. */
  pinnedBytes(extent: number): number {
    return this.#pinned.get(extent) ?? 0
  }

  /** Nothing in the extent is of use. Quarantined bytes keep it, whatever the other figure says. */
  isEmpty(extent: number): boolean {
    return this.liveBytes(extent) === 0 && this.pinnedBytes(extent) === 0
  }

  /** At the start, when the index is up to date: quarantined bytes by extent. */
  setPinned(pinned: ReadonlyMap<number, number>): void {
    this.#pinned.clear()
    for (const [extent, bytes] of pinned) this.#pinned.set(extent, bytes)
  }

  /** At the start, when records are missing in the log: the figures as the index has them. */
  recount({ chunks, live, exact }: Recount): void {
    this.#chunks = chunks
    for (const extent of new Set([...this.#live.keys(), ...live.keys()])) {
      const counted = live.get(extent) ?? 0
      // A place that nobody can read is somewhere: what may be of use is not given up for it.
      this.#add(extent, (exact ? counted : Math.max(counted, this.liveBytes(extent))) - this.liveBytes(extent))
    }
  }

  /** The log has left the extent; `end` is where its last group ends, undefined when that is not known. */
  seal(extent: number, size: number, end: number | undefined): void {
    if (!this.#live.has(extent)) this.#add(extent, 0)
    this.ranking.seal(extent, size, end, this.liveBytes(extent), this.pinnedBytes(extent))
  }

  /** The extent is not in use any more. */
  retired(extent: number): void {
    this.ranking.drop(extent)
    this.tombstones.forget(extent)
    this.#live.delete(extent)
    this.#dirty.add(extent)
  }

  /** Takes in a record that is at `location`. Gives the extents of which nothing is of use any more. */
  apply(record: LogRecord, location: Location): number[] {
    this.tombstones.note(location.extent, record)
    if (record.kind === 'quarantine') {
      if (isSaidAgain(record)) return []
      this.#chunks--
      this.#pin(record.location.extent, record.location.span)
      return []
    }
    if (record.kind === 'put') {
      this.#chunks++
      this.#add(location.extent, location.span)
    }
    const emptied: number[] = []
    for (const freed of record.frees) {
      if (freed.held) this.#chunks--
      // No record is at the start of a file: that only puts the books right, and no quarantined bytes are freed by it.
      else if (freed.payload > 0) this.#pin(freed.extent, -freed.span)
      this.#add(freed.extent, -freed.span)
      if (this.isEmpty(freed.extent)) emptied.push(freed.extent)
    }
    return emptied
  }

  /** In a rebuild: takes in a quarantine of bytes that count as freed, because the chunk has another place by now. */
  keep(record: QuarantineLogRecord, location: Location): void {
    this.tombstones.note(location.extent, record)
    const { extent, span } = record.location
    this.#add(extent, span)
    this.#pin(extent, span)
  }

  #add(extent: number, bytes: number): void {
    const before = this.liveBytes(extent)
    const live = Math.max(0, before + bytes)
    this.#live.set(extent, live)
    this.#total += live - before
    this.#dirty.add(extent)
    this.ranking.update(extent, live, this.pinnedBytes(extent))
  }

  #pin(extent: number, bytes: number): void {
    const pinned = Math.max(0, this.pinnedBytes(extent) + bytes)
    if (pinned === 0) this.#pinned.delete(extent)
    else this.#pinned.set(extent, pinned)
    this.ranking.update(extent, this.liveBytes(extent), pinned)
  }

  /** `listener` hears of every batch of records that was taken in. */
  onBooked(listener: () => void): void {
    this.#listener = listener
  }

  booked(): void {
    this.#listener?.()
  }

  /** Figures that changed since the last call, in extent order: extent and live bytes, undefined when it is not in use. */
  takeDirty(): [number, number | undefined][] {
    const out = [...this.#dirty]
      .sort((a, b) => a - b)
      .map((extent): [number, number | undefined] => [extent, this.#live.get(extent)])
    this.#dirty.clear()
    return out
  }
}
