/**
 * Reads one extent and checks all that is of use in it, a window at a time: the two copies of its header,
 * every group, every record against the index, every block against its sum.
 *
 * The log and the index are compared both ways. What the log has is looked up in the index: a record that is live there
 * must say the same. What the index has and the walk did not meet shows in the books: less was seen than they say is of
 * use. Then, and after anything that did not check out, the extent is `flawed`, and whoever walks looks up what the index
 * has in it, chunk by chunk.
 *
 * A chunk that moved, was replaced or deleted meanwhile is not where its record in the log is any more; nothing is said
 * of it. The extent is held for one step only, so that a slow scrub keeps no space from being used again.
 */

import { decodeExtentHeader } from '../../../core/chunk/extent-header.ts'
import {
  decodeGroupHeader,
  type FoundGroup,
  groupEnd,
  groupHeadBytesMax,
  headBytes,
  locationOf,
  type PlacedFrame,
  readFrames,
} from '../../../core/chunk/group.ts'
import type { ChunkRecord } from '../../../core/chunk/index-record.ts'
import { firstGroupOffset, sectorBytes } from '../../../core/chunk/position.ts'
import type { Location } from '../../../core/chunk/record.ts'
import { firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { ioErrorClass } from '../../../core/health/disk.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { ChunkIndex } from './chunk-index.ts'
import type { ExtentTable, HeldExtent } from './extent-table.ts'
import type { Replicas } from './replicas.ts'
import { type DirectRead, recordsDiffer, sameContent, type Verifier } from './verify.ts'

/** A head of one sector, and whole blocks behind it. */
const windowBytes = groupHeadBytesMax + sectorBytes

export interface WalkParts {
  readonly table: ExtentTable
  readonly index: ChunkIndex
  readonly sum: Sum
  readonly verifier: Verifier
  readonly replicas: Pick<Replicas, 'bad' | 'damaged' | 'healIndex' | 'healLog'>
  /** A copy of the extent's header is not intact. */
  onHeader(extent: number, finding: string): void
}

/** A large chunk that is being checked over several windows. */
interface Large {
  readonly id: ChunkId
  readonly record: ChunkRecord
  readonly end: number
  at: number
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

export class ScrubWalk {
  readonly extent: number
  readonly #parts: WalkParts
  readonly #expected: number
  readonly #limit: number
  #at = firstGroupOffset
  #headers = true
  /** Something that is no group was stepped over, and no group came after it so far. */
  #gap = false
  #large: Large | undefined
  #seen = 0
  #flawed = false
  #ended = false

  /**
   * `bound`: for an extent that is not written any more, what the books say is of use in it, by which the walk knows when it
   * has seen all; for the one that is, the offset up to which everything is synced and in the index.
   */
  constructor(parts: WalkParts, extent: number, bound: { expectedBytes: number } | { limit: number }) {
    this.#parts = parts
    this.extent = extent
    this.#expected = 'expectedBytes' in bound ? bound.expectedBytes : Number.POSITIVE_INFINITY
    this.#limit = 'limit' in bound ? bound.limit : Number.POSITIVE_INFINITY
  }

  /** Bytes of use that were met so far. */
  get seenBytes(): number {
    return this.#seen
  }

  get ended(): boolean {
    return this.#ended
  }

  /** What the index says is in the extent has to be looked at one by one. `liveBytes`: the books after the end. */
  isFlawed(liveBytes: number): boolean {
    return this.#flawed || (this.#limit === Number.POSITIVE_INFINITY && this.#seen < liveBytes)
  }

  /** Reads and checks the next window. Gives the bytes read. */
  async step(): Promise<number> {
    let held: HeldExtent | undefined
    try {
      held = await this.#parts.table.hold(this.extent)
    } catch {
      this.#giveUp()
    }
    if (held === undefined) {
      // Gone meanwhile: whatever was of use in it is somewhere else, and is met there.
      this.#ended = true
      return 0
    }
    const extent = held
    try {
      return await this.#parts.verifier.alone((read) => this.#read(extent, read))
    } finally {
      held.release()
    }
  }

  /** The rest cannot be walked. */
  #giveUp(): number {
    this.#flawed = true
    this.#ended = true
    return 0
  }

  async #read(held: HeldExtent, read: DirectRead): Promise<number> {
    let bytes = 0
    if (this.#headers) {
      this.#headers = false
      bytes += await this.#checkHeaders(held, read)
    }
    if (held.header === undefined) return bytes + this.#giveUp()
    if (this.#large !== undefined) return bytes + (await this.#checkMore(this.#large, held, read))
    return bytes + (await this.#checkWindow(held, read))
  }

  async #checkHeaders(held: HeldExtent, read: DirectRead): Promise<number> {
    const bad: string[] = []
    for (const [name, offset] of [
      ['first', 0],
      ['last', Math.max(0, held.file.size - sectorBytes)],
    ] as const) {
      const sector = await read(held, offset, sectorBytes).catch(() => undefined)
      const header = sector === undefined ? undefined : decodeExtentHeader(sector, this.#parts.sum)
      if (header?.sequence !== this.extent) bad.push(name)
    }
    if (bad.length > 0) {
      const which = bad.length === 2 ? 'both copies of its header are' : `the ${bad[0]} copy of its header is`
      this.#parts.onHeader(this.extent, `${which} damaged`)
    }
    return 2 * sectorBytes
  }

  async #checkWindow(held: HeldExtent, read: DirectRead): Promise<number> {
    const size = held.header?.size ?? held.file.size
    const wanted = Math.min(windowBytes, Math.min(this.#limit, size - sectorBytes) - this.#at)
    if (wanted < sectorBytes || this.#seen >= this.#expected) {
      // What is synced ends with a group.
      if (this.#gap && this.#at >= this.#limit) this.#flawed = true
      this.#ended = true
      return 0
    }
    let window: Uint8Array
    try {
      window = await read(held, this.#at, wanted)
    } catch {
      return this.#giveUp()
    }
    if (window.length < wanted) this.#flawed = true
    if (window.length < sectorBytes) return this.#giveUp()
    await this.#checkGroups(held, window)
    return window.length
  }

  /** The groups of a window that lie in it with their heads; at least one step forward. */
  async #checkGroups(held: HeldExtent, window: Uint8Array): Promise<void> {
    const nonce = held.header?.nonce
    const start = this.#at
    while (nonce !== undefined && this.#at - start + sectorBytes <= window.length) {
      const from = this.#at - start
      const place = { extent: this.extent, offset: this.#at }
      const group = decodeGroupHeader(window.subarray(from), place, nonce, this.#parts.sum)
      if (group === undefined) {
        // The end of what was written here, or damage: what follows says which.
        if (this.#seen >= this.#expected) {
          this.#ended = true
          return
        }
        this.#gap = true
        this.#at += sectorBytes
        continue
      }
      if (this.#gap) this.#flawed = true
      this.#gap = false
      const head = headBytes(group.framesBytes)
      if (from + head > window.length) {
        if (from > 0) return
        this.#giveUp()
        return
      }
      const { frames, whole } = readFrames(window.subarray(from, from + head), group, nonce, this.#parts.sum)
      if (!whole) this.#flawed = true
      const seen = this.#seen
      try {
        for (const frame of frames) await this.#checkFrame(held, group, frame, window.subarray(from + head))
      } catch (error) {
        // A finding that could not be written down: the group is looked at again.
        this.#seen = seen
        this.#large = undefined
        throw error
      }
      if (this.#large !== undefined) return
      this.#at = groupEnd(group).offset
    }
  }

  /** `payload`: what the window has of the bytes after the head. */
  async #checkFrame(held: HeldExtent, group: FoundGroup, frame: PlacedFrame, payload: Uint8Array): Promise<void> {
    const { record: put } = frame
    if (put.kind !== 'put') return
    const location = locationOf(group, frame)
    const record = await this.#live(put.id, location)
    if (record === 'damaged') {
      const { damaged } = this.#parts.replicas
      const inline = group.payloadBytes > 0 ? undefined : frame.inline
      if (await damaged.restore({ put, location, inline, shadows: [] }, held)) this.#seen += location.span
      else await damaged.note(put.id)
      return
    }
    if (record === undefined) return
    const { replicas, sum } = this.#parts
    if (!sameContent(put, record)) return replicas.bad(put.id, record, recordsDiffer)
    if (group.payloadBytes > 0) {
      const fits = payload.length >= record.length ? record.length : wholeBlocks(payload.length)
      const large = { id: put.id, record, end: groupEnd(group).offset, at: 0 }
      this.#large = large
      return this.#checkPiece(large, payload.subarray(0, fits))
    }
    const whole = frame.inline.length === record.length
    const bad = whole ? firstBadBlock(sum, frame.inline, 0, record.blockSums) : 0
    if (bad === undefined) return replicas.healIndex(put.id, record, () => Promise.resolve(frame.inline.slice()))
    const finding = `block ${bad} does not match its checksum`
    if (!(await replicas.healLog(put.id, record, finding))) await replicas.bad(put.id, record, finding)
  }

  /** What the index has of the chunk, if this is where it has it; `damaged`: it does not say where. */
  async #live(id: ChunkId, place: Location): Promise<ChunkRecord | 'damaged' | undefined> {
    const { index } = this.#parts
    const known = await index.get(id, true)
    if (known.kind === 'damaged') return 'damaged'
    if (known.kind === 'held') {
      const { extent, payload } = known.record.location
      if (extent === place.extent && payload === place.payload) {
        this.#seen += place.span
        return known.record
      }
    }
    if (await index.isQuarantined(id, place.extent, place.payload)) this.#seen += place.span
    return undefined
  }

  /** The next window of a large chunk. */
  async #checkMore(large: Large, held: HeldExtent, read: DirectRead): Promise<number> {
    const { location, length } = large.record
    const wanted = Math.min(wholeBlocks(windowBytes), length - large.at)
    let piece: Uint8Array
    try {
      piece = await read(held, location.payload + large.at, wanted)
    } catch (error) {
      if (ioErrorClass(error) === 'other') throw error
      await this.#foundBad(large, `bytes ${large.at} on cannot be read: ${reasonOf(error)}`)
      return wanted
    }
    if (piece.length < wanted) await this.#foundBad(large, 'its extent ends early')
    else await this.#checkPiece(large, piece)
    return wanted
  }

  /** Whole blocks, or all that is left. */
  async #checkPiece(large: Large, piece: Uint8Array): Promise<void> {
    const { blockSums, length } = large.record
    const bad = firstBadBlock(this.#parts.sum, piece, large.at / limits.blockBytes, blockSums)
    if (bad !== undefined) return this.#foundBad(large, `block ${bad} does not match its checksum`)
    large.at += piece.length
    if (large.at >= length) this.#pass(large)
  }

  async #foundBad(large: Large, finding: string): Promise<void> {
    await this.#parts.replicas.bad(large.id, large.record, finding)
    this.#pass(large)
  }

  /** Done with the chunk: on to the group behind it. */
  #pass(large: Large): void {
    this.#large = undefined
    this.#at = large.end
  }
}

function wholeBlocks(bytes: number): number {
  return Math.floor(bytes / limits.blockBytes) * limits.blockBytes
}
