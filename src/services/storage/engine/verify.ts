/**
 * Reads a stored chunk from the disk and checks all of it: the group's header, the record, every block of the payload.
 *
 * Reads go past the page cache where the driver can, so that what is checked is the disk. One at a time per disk, in one
 * aligned buffer: checking is background work and must not grow with its callers.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { Mutex } from '../../../base/async/mutex.ts'
import { decodeGroupHeader, frameSeed, groupHeadBytesMax } from '../../../core/chunk/group.ts'
import type { ChunkRecord } from '../../../core/chunk/index-record.ts'
import { alignUp, sectorBytes } from '../../../core/chunk/position.ts'
import { type PutRecord, readFrame } from '../../../core/chunk/record.ts'
import { firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { ioErrorClass } from '../../../core/health/disk.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { HeldExtent } from './extent-table.ts'

/** Room for the longest head of a group, or a head of one sector and blocks of payload that start anywhere in a sector. */
export const verifyBufferBytes: number = groupHeadBytesMax + 2 * sectorBytes

/** Reads `length` bytes from `offset` of an extent; a view that the next call overwrites. */
export type DirectRead = (held: HeldExtent, offset: number, length: number) => Promise<Uint8Array>

/** Most bytes of one record's frame: a small chunk, its sums and its fields. */
const frameBytesMax = limits.inlineBytesMax + 4096

export const recordsDiffer = 'its record in the index differs from the one in the log'

/** True when the log's record and the index's describe the same bytes. */
export function sameContent(put: PutRecord, record: ChunkRecord): boolean {
  const same = put.length === record.length && put.lease === record.lease
  return same && equalBytes(put.root, record.root) && equalBytes(put.blockSums, record.blockSums)
}

export class Verifier {
  readonly #buffer: Uint8Array
  readonly #sum: Sum
  readonly #mutex = new Mutex()

  constructor(buffer: Uint8Array, sum: Sum) {
    this.#buffer = buffer
    this.#sum = sum
  }

  /** Runs `work` with the buffer to itself; it must not call back in here. */
  alone<T>(work: (read: DirectRead) => Promise<T>): Promise<T> {
    return this.#mutex.run(() => work((held, offset, length) => this.#read(held, offset, length)))
  }

  /** One line that says what is wrong with the chunk on disk, or undefined when it is intact. */
  check(id: ChunkId, record: ChunkRecord, held: HeldExtent): Promise<string | undefined> {
    return this.#mutex.run(async () => {
      try {
        return (await this.#checkRecord(id, record, held)) ?? (await this.#checkPayload(record, held))
      } catch (error) {
        // The process lacked something: that says nothing about what is on the disk.
        if (ioErrorClass(error) === 'other') throw error
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
    if (put?.kind !== 'put' || put.id !== id) return 'its record in the log is damaged'
    return sameContent(put, record) ? undefined : recordsDiffer
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

  /** The bytes of a small chunk as the log has them; undefined when they do not match its sums. The caller's own copy. */
  content(record: ChunkRecord, held: HeldExtent): Promise<Uint8Array | undefined> {
    return this.#mutex.run(async () => {
      const bytes = (await this.#read(held, record.location.payload, record.length)).slice()
      const whole = bytes.length === record.length
      return whole && firstBadBlock(this.#sum, bytes, 0, record.blockSums) === undefined ? bytes : undefined
    })
  }

  /** Up to `length` bytes from `offset`, a view that the next call overwrites. */
  async #read(held: HeldExtent, offset: number, length: number): Promise<Uint8Array> {
    const skip = offset % sectorBytes
    const into = this.#buffer.subarray(0, alignUp(skip + length))
    const read = await (held.file.readDirect?.(into, offset - skip) ?? held.file.read(into, offset - skip))
    return into.subarray(Math.min(skip, read), Math.min(skip + length, read))
  }
}
