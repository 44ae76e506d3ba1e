/**
 * One chunk on its way out, in pieces of up to limits.frameBytes, one piece read ahead of the caller.
 *
 * Every block is checked against the sums before it is given. A piece that does not match ends the read with CORRUPT, and
 * `onBad` has dealt with the replica by then. The reader holds its extent until it is closed, so that the bytes under it
 * are not recycled.
 */

import type { Semaphore } from '../../../base/async/semaphore.ts'
import type { ChunkRecord } from '../../../core/chunk/index-record.ts'
import { firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { ioErrorClass } from '../../../core/health/disk.ts'
import { StoreError } from '../../../model/errors.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { ChunkReader } from '../types.ts'
import type { HeldExtent } from './extent-table.ts'
import type { DiskGate } from './types.ts'

/** The blocks that cover `length` bytes from `offset` (0: to the end). Throws INVALID_ARGUMENT for a range outside. */
export function blockRange(id: ChunkId, size: number, offset: number, length: number): { start: number; end: number } {
  const stop = length === 0 ? size : offset + length
  const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0
  if (!valid || offset >= size || stop > size) {
    const message = `read chunk ${formatChunkId(id)}: bytes ${offset} to ${stop} are outside its ${size} bytes`
    throw new StoreError('INVALID_ARGUMENT', message)
  }
  const { blockBytes } = limits
  return {
    start: Math.floor(offset / blockBytes) * blockBytes,
    end: Math.min(Math.ceil(stop / blockBytes) * blockBytes, size),
  }
}

export interface ReadParts {
  readonly sum: Sum
  readonly gate: DiskGate
  /** Bounds reads that run at once, so that they do not keep the log's writes waiting. */
  readonly permits: Semaphore
  /** Intact bytes came from the disk. */
  onRead(bytes: number): void
  /** Deals with a replica that is not intact; resolves when it is no longer served. */
  onBad(id: ChunkId, record: ChunkRecord, finding: string): Promise<void>
}

export class ExtentReader implements ChunkReader {
  readonly length: number
  readonly root: Uint8Array
  readonly blockSums: Uint8Array
  readonly offset: number
  readonly bytes: number
  readonly #id: ChunkId
  readonly #record: ChunkRecord
  readonly #held: HeldExtent
  readonly #parts: ReadParts
  readonly #end: number
  #at: number
  #ahead: Promise<Uint8Array> | undefined
  #reading = 0
  #closed = false

  constructor(
    id: ChunkId,
    record: ChunkRecord,
    range: { start: number; end: number },
    held: HeldExtent,
    parts: ReadParts,
  ) {
    this.length = record.length
    this.root = record.root
    this.blockSums = record.blockSums
    this.offset = range.start
    this.bytes = range.end - range.start
    this.#id = id
    this.#record = record
    this.#held = held
    this.#parts = parts
    this.#at = range.start
    this.#end = range.end
  }

  async next(): Promise<Uint8Array | undefined> {
    this.#parts.gate.check()
    const piece = this.#ahead ?? this.#start()
    this.#ahead = undefined
    if (piece === undefined) return undefined
    const content = await piece
    this.#ahead = this.#start()
    return content
  }

  #start(): Promise<Uint8Array> | undefined {
    if (this.#closed || this.#at >= this.#end) return undefined
    const from = this.#at
    this.#at = Math.min(from + limits.frameBytes, this.#end)
    const piece = this.#read(from, this.#at)
    // A piece read ahead may fail with nobody waiting for it (yet); who waits sees the failure all the same.
    piece.catch(() => undefined)
    return piece
  }

  async #read(from: number, to: number): Promise<Uint8Array> {
    this.#reading++
    const release = await this.#parts.permits.acquire()
    try {
      // Its file may be closed by now.
      this.#parts.gate.check()
      const into = new Uint8Array(to - from)
      const finding = await this.#fill(into, from)
      if (finding === undefined) {
        this.#parts.onRead(into.length)
        return into
      }
      await this.#parts.onBad(this.#id, this.#record, finding)
      throw new StoreError('CORRUPT', `read chunk ${formatChunkId(this.#id)}: ${finding}; use another replica`)
    } finally {
      release()
      this.#reading--
      if (this.#closed && this.#reading === 0) this.#held.release()
    }
  }

  /** Reads and checks; gives what is wrong with the bytes on disk, or undefined. */
  async #fill(into: Uint8Array, from: number): Promise<string | undefined> {
    try {
      const read = await this.#held.file.read(into, this.#record.location.payload + from)
      if (read < into.length) return `the extent ends ${into.length - read} bytes early`
    } catch (error) {
      // The process lacked something: that says nothing about what is on the disk.
      if (ioErrorClass(error) === 'other') {
        const message = `read chunk ${formatChunkId(this.#id)}: ${String(error)}; raise the limits of this process, or use another replica`
        throw new StoreError('OVERLOADED', message, { cause: error, details: { retryAfterMs: 1000 } })
      }
      return `bytes ${from} on cannot be read: ${error instanceof Error ? error.message : String(error)}`
    }
    const bad = firstBadBlock(this.#parts.sum, into, from / limits.blockBytes, this.#record.blockSums)
    return bad === undefined ? undefined : `block ${bad} does not match its checksum`
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#ahead = undefined
    if (this.#reading === 0) this.#held.release()
  }
}

/** A small chunk out of the index: one piece, checked before the reader is made. */
export class InlineReader implements ChunkReader {
  readonly length: number
  readonly root: Uint8Array
  readonly blockSums: Uint8Array
  readonly offset = 0
  readonly bytes: number
  #content: Uint8Array | undefined

  constructor(record: ChunkRecord, content: Uint8Array) {
    this.length = record.length
    this.root = record.root
    this.blockSums = record.blockSums
    this.bytes = content.length
    this.#content = content
  }

  next(): Promise<Uint8Array | undefined> {
    const content = this.#content
    this.#content = undefined
    return Promise.resolve(content)
  }

  close(): void {
    this.#content = undefined
  }
}
