/**
 * The books of a disk: how many chunks are served and how many bytes of each extent are still of use, as of the last
 * record that is in the index.
 *
 * Everything follows from the log's records alone (each says what it frees), so replay from a checkpoint gives the same
 * figures whatever the index kept. Invariant: figures saved with a checkpoint are those of exactly its position.
 */

import type { Location, LogRecord } from '../../../core/chunk/record.ts'

export class Ledger {
  readonly #live = new Map<number, number>()
  readonly #dirty = new Set<number>()
  #chunks: number

  constructor(chunks: number, live: ReadonlyMap<number, number>) {
    this.#chunks = chunks
    for (const [extent, bytes] of live) this.#live.set(extent, bytes)
  }

  /** Chunks that are served. */
  get chunks(): number {
    return this.#chunks
  }

  liveBytes(extent: number): number {
    return this.#live.get(extent) ?? 0
  }

  /** Takes in a record that is at `location`. Gives the extents of which nothing is of use any more. */
  apply(record: LogRecord, location: Location): number[] {
    if (record.kind === 'quarantine') {
      this.#chunks--
      return []
    }
    if (record.kind === 'put') {
      this.#chunks++
      this.#add(location.extent, location.span)
    }
    const emptied: number[] = []
    for (const freed of record.frees) {
      if (freed.held) this.#chunks--
      this.#add(freed.extent, -freed.span)
      if (this.liveBytes(freed.extent) === 0) emptied.push(freed.extent)
    }
    return emptied
  }

  #add(extent: number, bytes: number): void {
    const live = Math.max(0, this.liveBytes(extent) + bytes)
    if (live === 0) this.#live.delete(extent)
    else this.#live.set(extent, live)
    this.#dirty.add(extent)
  }

  /** Figures that changed since the last call, in extent order: extent and live bytes. */
  takeDirty(): [number, number][] {
    const out = [...this.#dirty]
      .sort((a, b) => a - b)
      .map((extent): [number, number] => [extent, this.liveBytes(extent)])
    this.#dirty.clear()
    return out
  }
}
