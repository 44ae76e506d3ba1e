/**
 * What of the log is believed after a stop (docs/RULES.md, rule 7). Pure: it is shown the headers of all groups that
 * check out, in log order, and says of each what to do with it.
 *
 * Below the watermark everything was acknowledged or could have been: every valid group counts, and a hole is damage that
 * is reported. From the watermark on, groups count only as an unbroken chain whose payloads check out, and the first one
 * that does not ends the log, even if valid groups follow: they were never acknowledged.
 */

import { equalBytes } from '../../base/bytes.ts'
import { type FoundGroup, groupEnd } from './group.ts'
import { comparePositions, firstGroupOffset, isBefore, laterOf, type Position } from './position.ts'

/** A hole below the watermark: its records are lost, what the index has of them stays. */
export interface Damage {
  readonly from: Position
  readonly to: Position
}

/** `apply`: durable, repeat its records. `check`: read its payload first, then `accept` it or stop. `stop`: log ends. */
export type Verdict = 'apply' | 'check' | 'stop'

export interface WalkStart {
  readonly from: Position
  /** Checksum of the last group before `from`; undefined when the index is being rebuilt and nothing is known. */
  readonly chain: Uint8Array | undefined
  /** The highest watermark of any valid header, or `from` if that is later. */
  readonly watermark: Position
}

export class RecoveryWalk {
  readonly #watermark: Position
  readonly #rebuilding: boolean
  #end: Position
  #chain: Uint8Array | undefined
  readonly damage: Damage[] = []

  constructor(start: WalkStart) {
    this.#end = start.from
    this.#chain = start.chain
    this.#rebuilding = start.chain === undefined
    this.#watermark = laterOf(start.watermark, start.from)
  }

  /** Where the believed log ends so far: the place of the next group. Never before the watermark once `finish` ran. */
  get end(): Position {
    return this.#end
  }

  /** Checksum of the last believed group; undefined when there is none. */
  get chain(): Uint8Array | undefined {
    return this.#chain
  }

  /** The verdict on the next valid group. A group to check is taken in by `accept` only. */
  judge(group: FoundGroup): Verdict {
    if (isBefore(group, this.#watermark)) {
      if (!this.#follows(group)) this.#note(group)
      this.accept(group)
      return 'apply'
    }
    this.finish()
    return this.#follows(group) ? 'check' : 'stop'
  }

  accept(group: FoundGroup): void {
    this.#end = groupEnd(group)
    this.#chain = group.checksum
  }

  /** No more groups below the watermark: if the log ends before it, what is missing is damage and is never written over. */
  finish(): void {
    if (!isBefore(this.#end, this.#watermark)) return
    this.#note(this.#watermark)
    this.#end = this.#watermark
  }

  #note(to: Position): void {
    // A rebuild meets extents whose predecessors were recycled; only a hole inside one extent is certain damage there.
    if (this.#rebuilding && to.extent !== this.#end.extent) return
    this.damage.push({ from: this.#end, to: { extent: to.extent, offset: to.offset } })
  }

  #follows(group: FoundGroup): boolean {
    const adjacent = comparePositions(group, this.#end) === 0
    const nextExtent = group.extent > this.#end.extent && group.offset === firstGroupOffset
    if (this.#chain === undefined) return adjacent || nextExtent
    return (adjacent || nextExtent) && equalBytes(group.chain, this.#chain)
  }
}
