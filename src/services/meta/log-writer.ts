/**
 * Writes the frames of a Raft log, one after the other: encoded straight into the memory that is written, one system call
 * each, in a new segment when the active one is full.
 *
 * Invariants: a frame says which frames were on disk before it; a sector that was written is not written again; the frame
 * that begins a segment goes with the one that did not fit into the last, in one write.
 */

import { crc32c } from '../../base/crc32c.ts'
import type { HardState } from '../../core/raft/types.ts'
import { type FrameKind, frameBytes, frameHeaderBytes, putFrameHeader, segmentHeaderBytes } from './log-frames.ts'
import type { Segment, Segments } from './log-segments.ts'

const arenaBytesMin = 64 * 1024

/** A frame to be written. */
export interface Plan {
  readonly kind: FrameKind
  readonly hard: HardState
  readonly commit: number
  readonly watermark: number
  readonly first: number
  readonly last: number
  readonly count: number
  readonly length: number
  /** False: a crash may take it, and nothing rests on it. */
  readonly sync: boolean
  /** Writes the body at `at` of `out`; returns what the header keeps of it. */
  body(out: Uint8Array, at: number): number
}

/** A frame with all that is not entries: `body` is a state. */
export function statePlan(
  state: Pick<Plan, 'hard' | 'commit' | 'watermark' | 'last'> & { readonly body: Uint8Array },
): Plan {
  const { body, last } = state
  return {
    ...state,
    kind: 'state',
    first: last + 1,
    count: 0,
    length: body.length,
    sync: true,
    body: (out, at) => {
      out.set(body, at)
      return crc32c(body)
    },
  }
}

export class FrameWriter {
  readonly #segments: Segments
  #arena: Uint8Array
  #active: Segment | undefined
  /** Where the next frame goes in the active segment. */
  #offset = 0
  /** Frames that are written, and that are on disk. */
  #frames = 0
  #framesSynced = 0
  #frameChain = 0

  constructor(segments: Segments) {
    this.#segments = segments
    this.#arena = segments.arena(arenaBytesMin)
  }

  /** Number of the segment that is written; 0 before the first frame. */
  get segment(): number {
    return this.#active?.number ?? 0
  }

  /** Goes on behind the last frame of a log that was read. */
  resume(at: { segment: Segment; end: number; sequence: number; chain: number }): void {
    this.#active = at.segment
    this.#offset = at.end
    this.#frames = at.sequence
    this.#framesSynced = at.sequence
    this.#frameChain = at.chain
  }

  /** Writes one frame, in a new segment when the active one is full, which begins with `state()`. Resolves to where its body is. */
  async write(plan: Plan, state: () => Plan): Promise<{ segment: number; body: number }> {
    const bytes = frameBytes(plan.hard.vote, plan.length)
    let start = 0
    if (this.#active === undefined || this.#offset + bytes > this.#active.file.size)
      start = await this.#roll(bytes, state())
    const segment = this.#active as Segment
    const out = this.#room(start + bytes)
    const chain = this.#put(plan, out, start, segment, this.#offset + start)
    await segment.file.write(out.subarray(0, start + bytes), this.#offset)
    if (plan.sync && segment.file.durable !== true) await segment.file.sync()
    const place = { segment: segment.number, body: this.#offset + start + frameHeaderBytes(plan.hard.vote) }
    this.#frames++
    if (plan.sync || segment.file.durable === true) this.#framesSynced = this.#frames
    this.#frameChain = chain
    this.#offset += start + bytes
    return place
  }

  /** Memory of `bytes` bytes to write from, with what is in it already. */
  #room(bytes: number): Uint8Array {
    if (this.#arena.length < bytes) {
      const larger = this.#segments.arena(2 ** Math.ceil(Math.log2(bytes)))
      larger.set(this.#arena)
      this.#arena = larger
    }
    return this.#arena
  }

  /**
   * Goes on in the next segment, which begins with a state frame, so that it can be the first one some day. That frame is
   * put at the start of the arena, to be written together with the one of `bytes` bytes that did not fit; returns its size.
   */
  async #roll(bytes: number, state: Plan): Promise<number> {
    const size = frameBytes(state.hard.vote, state.length)
    // The sync of the new file will not cover the old one.
    if (this.#active !== undefined && this.#framesSynced < this.#frames) await this.#active.file.sync()
    this.#framesSynced = this.#frames
    const segment = await this.#segments.next(size + bytes)
    this.#frameChain = this.#put(state, this.#room(size + bytes), 0, segment, segmentHeaderBytes)
    this.#frames++
    this.#active = segment
    this.#offset = segmentHeaderBytes
    return size
  }

  /** Encodes the next frame at `at` of `out`, for `offset` of the segment; returns its chain value. */
  #put(plan: Plan, out: Uint8Array, at: number, segment: Segment, offset: number): number {
    const header = {
      ...plan,
      sequence: this.#frames + 1,
      synced: this.#framesSynced,
      previous: this.#frameChain,
      sum: plan.body(out, at + frameHeaderBytes(plan.hard.vote)),
    }
    return putFrameHeader(out, at, header, segment.seed, offset)
  }
}
