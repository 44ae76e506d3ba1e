/**
 * Which extents the records of an extent hide older copies in. A rebuild of the index reads the whole log: if the extent
 * with a delete is recycled while one with the deleted chunk's record is still there, the chunk would come back.
 *
 * The same goes for quarantines: bytes under quarantine must not be served, nor freed, after a rebuild.
 * So an extent that hides something in an extent still in use is looked through before it is recycled, and what it hides
 * is said again at the log's head. This keeps, without a scan, which extents need that. Bounded: an extent that hides too
 * much, or that was written before this start, counts as unknown and is looked through.
 */

import type { Freed, LogRecord } from './record.ts'

/** Extents remembered for one extent; beyond that it is unknown. */
const hiddenMax = 64
/** Places carried on by one record. */
const shadowsMax = 16

export class Tombstones {
  readonly #hidden = new Map<number, Set<number> | 'unknown'>()

  /** The extent was written before this start. */
  unknown(extent: number): void {
    this.#hidden.set(extent, 'unknown')
  }

  /** A record in `extent` is in force. */
  note(extent: number, record: LogRecord): void {
    for (const freed of record.kind === 'quarantine' ? [record.location] : record.frees) {
      if (freed.extent === 0 || freed.extent === extent) continue
      const known = this.#hidden.get(extent) ?? new Set<number>()
      if (known === 'unknown') return
      known.add(freed.extent)
      this.#hidden.set(extent, known.size > hiddenMax ? 'unknown' : known)
    }
  }

  /** True when the extent may be recycled as it is. */
  settled(extent: number, inUse: (other: number) => boolean): boolean {
    const hidden = this.#hidden.get(extent)
    if (hidden === undefined) return true
    if (hidden === 'unknown') return false
    for (const other of hidden) {
      if (inUse(other)) return false
      hidden.delete(other)
    }
    return true
  }

  /** The extent was looked through, or is gone: nothing depends on it. */
  forget(extent: number): void {
    this.#hidden.delete(extent)
  }
}

/** The places of `frees` that a record at the log's head has to go on hiding. They free nothing a second time. */
export function shadowsOf(frees: readonly Freed[], from: number, inUse: (extent: number) => boolean): Freed[] {
  return frees
    .filter(({ extent }) => extent !== 0 && extent !== from && inUse(extent))
    .slice(0, shadowsMax)
    .map(({ extent, payload }) => ({ extent, payload, span: 0, held: false }))
}
