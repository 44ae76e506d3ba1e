/**
 * The groups and records of one extent, in order, found by its own headers: for replay, compaction and whoever else reads
 * the log as such. What is no valid header is stepped over by sectors, so damage hides only the group it is in.
 *
 * Memory: one window per walk, whatever the extent holds.
 */

import {
  decodeGroupHeader,
  type FoundGroup,
  groupEnd,
  headBytes,
  locationOf,
  readFrames,
} from '../../../core/chunk/group.ts'
import { groupHeadBytesMax } from '../../../core/chunk/group.ts'
import { sectorBytes } from '../../../core/chunk/position.ts'
import type { Location, LogRecord } from '../../../core/chunk/record.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import type { HeldExtent } from './extent-table.ts'

/** Read at once while looking for headers. */
const windowBytes = 128 * 1024
/** Bytes of memory that a walk needs. */
export const walkBufferBytes: number = groupHeadBytesMax

export interface Content {
  readonly record: LogRecord
  readonly location: Location
  /** Bytes of a small chunk, a copy. */
  readonly inline: Uint8Array | undefined
}

export class ExtentWalk {
  readonly #held: HeldExtent
  readonly #sum: Sum
  readonly #buffer: Uint8Array
  readonly #direct: boolean
  #start = 0
  #filled = 0

  /** `buffer` of `walkBufferBytes`. `direct`: past the page cache where the driver can; the buffer is aligned then. */
  constructor(held: HeldExtent, sum: Sum, buffer: Uint8Array, direct = false) {
    this.#held = held
    this.#sum = sum
    this.#buffer = buffer
    this.#direct = direct
  }

  /** The groups whose headers check out, from `from` to `until`. */
  async *groups(from: number, until: number): AsyncGenerator<FoundGroup> {
    const nonce = this.#held.header?.nonce
    if (nonce === undefined) return
    for (let at = from; at < until; ) {
      const sector = await this.#at(at, sectorBytes, windowBytes)
      if (sector.length < sectorBytes) return
      const group = decodeGroupHeader(sector, { extent: this.#held.sequence, offset: at }, nonce, this.#sum)
      if (group === undefined) at += sectorBytes
      else {
        yield group
        at = groupEnd(group).offset
      }
    }
  }

  /** The records of a group; not `whole` when one of its frames is damaged, which hides those after it. */
  async contents(group: FoundGroup): Promise<{ contents: Content[]; whole: boolean }> {
    const nonce = this.#held.header?.nonce
    if (nonce === undefined) return { contents: [], whole: false }
    const length = headBytes(group.framesBytes)
    const { frames, whole } = readFrames(await this.#at(group.offset, length, length), group, nonce, this.#sum)
    const contents = frames.map((frame): Content => {
      const small = group.payloadBytes === 0 && frame.record.kind === 'put'
      return {
        record: frame.record,
        location: locationOf(group, frame),
        inline: small ? frame.inline.slice() : undefined,
      }
    })
    return { contents, whole }
  }

  /** `length` bytes at `offset`, fewer at the end of the file; reads `ahead` bytes when they are not there yet. A view. */
  async #at(offset: number, length: number, ahead: number): Promise<Uint8Array> {
    if (offset < this.#start || offset + length > this.#start + this.#filled) {
      const into = this.#buffer.subarray(0, Math.max(length, ahead))
      const { file } = this.#held
      this.#start = offset
      this.#filled = 0
      this.#filled = await ((this.#direct ? file.readDirect?.(into, offset) : undefined) ?? file.read(into, offset))
    }
    const at = offset - this.#start
    return this.#buffer.subarray(at, Math.min(at + length, this.#filled))
  }
}
