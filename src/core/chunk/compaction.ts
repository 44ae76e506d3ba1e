/**
 * Which extent is compacted next, and when it is worth it. Pure: the books of the disk are told to it change by change, so
 * that no choice needs a scan.
 *
 * Sealed extents (the log has left them) lie in classes by live ratio, the oldest first in each. The choice is by cost
 * and benefit as in log-structured file systems: space gained times age, over what must be read and written. Age is how
 * far the log has gone on since; what was deleted from lately is likely to lose more by itself.
 *
 * Invariants: an extent is in one class, by its latest figure; one with quarantined bytes is in none, because these bytes
 * are kept and so the extent cannot be emptied; room that nothing could have been written into does not count as waste,
 * else extents of few large chunks would be compacted for ever.
 */

import { IndexedHeap } from '../../base/heap.ts'
import { firstGroupOffset, sectorBytes } from './position.ts'

const classes = 20
/** Less than this is not worth a move: padding of groups may cost as much. */
const gainBytesMin = 4 * sectorBytes
/** Live ratio up to which extents are compacted when space is needed or nothing else is to do. */
export const liveRatioEager = 0.95
/** Dead bytes that an idle disk keeps, by its live bytes: with the padding of groups this stays within a tenth. */
const idleDeadRatio = 0.08
/** Below this part of the disk, compaction gets more eager; at the reserve it takes whatever frees space. */
const shortBelow = 0.2

interface Extent {
  readonly sequence: number
  /** Bytes of the file. */
  readonly size: number
  /** Bytes that records could have gone into. */
  readonly room: number
  live: number
  pinned: number
  /** Index of its class, -1 when it is in none. */
  level: number
}

export interface Room {
  /** Bytes that compaction may write. */
  readonly writable: number
  /** Bytes left on the disk, its size, and what is kept back of it. */
  readonly free: number
  readonly total: number
  readonly reserve: number
}

/** How short of space the disk is: 0 with a fifth of it free, 1 at the reserve. */
export function pressureOf(room: Room): number {
  const from = Math.max(room.total * shortBelow, room.reserve * 1.5)
  const span = Math.max(1, from - room.reserve)
  return Math.min(1, Math.max(0, (from - room.free) / span))
}

/** Live ratio below which an extent is compacted now. `idle`: nothing else is to do, and there is more waste than is kept. */
export function liveRatioWanted(base: number, pressure: number, idle: boolean): number {
  return idle ? liveRatioEager : base + Math.max(0, liveRatioEager - base) * pressure
}

export class ExtentRanking {
  readonly #extents = new Map<number, Extent>()
  readonly #levels = Array.from({ length: classes + 1 }, () => new IndexedHeap<number, number>((a, b) => a - b))
  /** A payload up to this size may not have fit at the end of an extent. */
  readonly #payloadMax: number
  #live = 0
  #room = 0

  constructor(payloadMax: number) {
    this.#payloadMax = payloadMax
  }

  /** Bytes of sealed extents that hold nothing of use. */
  get deadBytes(): number {
    return Math.max(0, this.#room - this.#live)
  }

  /** Bytes that are kept because a part of their extent is quarantined. */
  get pinnedBytes(): number {
    let bytes = 0
    for (const extent of this.#extents.values()) if (extent.pinned > 0) bytes += extent.size
    return bytes
  }

  /** True when the dead bytes are more than an idle disk keeps. */
  get untidy(): boolean {
    return this.deadBytes > this.#live * idleDeadRatio
  }

  /**
   * The log has left the extent. `end`: where its last group ends, undefined when that is not known; then as much as may
   * not have fit is taken as never written.
   */
  seal(sequence: number, size: number, end: number | undefined, live: number, pinned: number): void {
    this.drop(sequence)
    const last = size - sectorBytes
    const written = end ?? (last > 2 * this.#payloadMax ? last - this.#payloadMax : last)
    // An extent that was left with room for more than one payload was left early: that room is waste.
    const room = (last - written > this.#payloadMax ? last : written) - firstGroupOffset
    const extent = { sequence, size, room: Math.max(1, room), live, pinned, level: -1 }
    this.#extents.set(sequence, extent)
    this.#live += live
    this.#room += extent.room
    this.#place(extent)
  }

  /** New figures of an extent; one that is not sealed is passed over. */
  update(sequence: number, live: number, pinned: number): void {
    const extent = this.#extents.get(sequence)
    if (extent === undefined) return
    this.#live += live - extent.live
    extent.live = live
    extent.pinned = pinned
    this.#place(extent)
  }

  /** The extent is not in use any more. */
  drop(sequence: number): void {
    const extent = this.#extents.get(sequence)
    if (extent === undefined) return
    if (extent.level >= 0) this.#levels[extent.level]?.delete(sequence)
    this.#extents.delete(sequence)
    this.#live -= extent.live
    this.#room -= extent.room
  }

  /** Leaves the extent out until its figures change: nothing more can be got out of it now. */
  setAside(sequence: number): void {
    const extent = this.#extents.get(sequence)
    if (extent === undefined || extent.level < 0) return
    this.#levels[extent.level]?.delete(sequence)
    extent.level = -1
  }

  #place(extent: Extent): void {
    const { live, room, pinned, sequence } = extent
    // What is empty needs no moves: it goes by the checkpoint.
    const candidate = live > 0 && pinned === 0 && room - live >= gainBytesMin
    const level = candidate ? Math.min(classes - 1, Math.floor((live / room) * classes)) : -1
    if (level === extent.level) return
    if (extent.level >= 0) this.#levels[extent.level]?.delete(sequence)
    if (level >= 0) this.#levels[level]?.set(sequence, sequence)
    extent.level = level
  }

  /**
   * The extent to compact now: one of the classes below `ratio` whose live bytes fit into `writable`. `head`: the extent
   * that the log is in.
   */
  pick(ratio: number, writable: number, head: number): number | undefined {
    let best: Extent | undefined
    let bestScore = 0
    let tooLarge = false
    for (const heap of this.#levels.slice(0, Math.ceil(ratio * classes - 1e-9))) {
      const extent = this.#extents.get(heap.peek()?.key ?? -1)
      if (extent === undefined) continue
      if (!fits(extent, writable)) {
        tooLarge = true
        continue
      }
      const live = extent.live / extent.room
      const score = ((1 - live) * (head - extent.sequence)) / (1 + live)
      if (best === undefined || score > bestScore) [best, bestScore] = [extent, score]
    }
    return best === undefined && tooLarge ? this.#pickSmallest(ratio, writable) : best?.sequence
  }

  /** On a disk that is nearly full the extents at the head of their classes may not fit: then all are looked at. */
  #pickSmallest(ratio: number, writable: number): number | undefined {
    let best: Extent | undefined
    for (const extent of this.#extents.values()) {
      if (extent.level < 0 || extent.level >= ratio * classes || !fits(extent, writable)) continue
      if (best === undefined || extent.live < best.live) best = extent
    }
    return best?.sequence
  }
}

/** True when the live bytes can be written elsewhere, with what groups and headers add. */
function fits(extent: Extent, writable: number): boolean {
  return extent.live + extent.live / 64 + 4 * sectorBytes <= writable
}
