/**
 * Reads a stored chunk from the disk and checks all of it: the group's header, the record, every block of the payload.
 *
 * Reads go past the page cache where the driver can, so that what is checked is the disk. One at a time per disk, in one
 * aligned buffer: checking is background work and must not grow with its callers.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { Mutex } from '../../../base/async/mutex.ts'
import { decodeGroupHeader, frameSeed } from '../../../core/chunk/group.ts'
import type { ChunkRecord } from '../../../core/chunk/index-record.ts'
import { alignUp, sectorBytes } from '../../../core/chunk/position.ts'
import { readFrame } from '../../../core/chunk/record.ts'
import { firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { HeldExtent } from './extent-table.ts'

/** Room for one frame's worth of payload that starts anywhere in a sector. */
export const verifyBufferBytes: number = limits.frameBytes + 2 * sectorBytes

/** Most bytes of one record's frame: a small chunk, its sums and its fields. */
const frameBytesMax = limits.inlineBytesMax + 4096

export class Verifier {
  readonly #buffer: Uint8Array
  readonly #sum: Sum
  readonly #mutex = new Mutex()

  constructor(buffer: Uint8Array, sum: Sum) {
    this.#buffer = buffer
    this.#sum = sum
  }

  /** One line that says what is wrong with the chunk on disk, or undefined when it is intact. */
  check(id: ChunkId, record: ChunkRecord, held: HeldExtent): Promise<string | undefined> {
    return this.#mutex.run(async () => {
      try {
        return (await this.#checkRecord(id, record, held)) ?? (await this.#checkPayload(record, held))
      } catch (error) {
        return `it cannot be read: ${error instanceof Error ? error.message : String(error)}`
      }
    })
  }

  async #checkRecord(id: ChunkId, record: ChunkRecord, held: HeldExtent): Promise<string | undefined> {
    const { extent, group, record: at } = record.location
    const nonce = held.header?.nonce
    if (nonce === undefined) return 'both headers of its extent are damaged'
    const header = decodeGroupHeader(
      await this.#read(held, group, sectorBytes),
      { extent, offset: group },
      nonce,
      this.#sum,
    )
    if (header === undefined) return 'the header of its group is damaged'
    const seed = frameSeed(nonce, header.checksum)
    const frame = readFrame(await this.#read(held, group + at, frameBytesMax), 0, seed, this.#sum)
    const put = frame?.record
    if (put?.kind !== 'put' || put.id !== id || !equalBytes(put.root, record.root))
      return 'its record in the log is damaged'
    return undefined
  }

  async #checkPayload(record: ChunkRecord, held: HeldExtent): Promise<string | undefined> {
    for (let at = 0; at < record.length; at += limits.frameBytes) {
      const length = Math.min(limits.frameBytes, record.length - at)
      const piece = await this.#read(held, record.location.payload + at, length)
      if (piece.length < length) return 'its extent ends early'
      const bad = firstBadBlock(this.#sum, piece, at / limits.blockBytes, record.blockSums)
      if (bad !== undefined) return `block ${bad} does not match its checksum`
    }
    return undefined
  }

  /** Up to `length` bytes from `offset`, a view that the next call overwrites. */
  async #read(held: HeldExtent, offset: number, length: number): Promise<Uint8Array> {
    const skip = offset % sectorBytes
    const into = this.#buffer.subarray(0, alignUp(skip + length))
    const read = await (held.file.readDirect?.(into, offset - skip) ?? held.file.read(into, offset - skip))
    return into.subarray(Math.min(skip, read), Math.min(skip + length, read))
  }
}
