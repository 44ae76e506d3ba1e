/**
 * One chunk on its way in: frames are copied straight into an aligned slot, hashed block by block as they come, and the
 * slot is what goes to disk. No other copy is made of a large chunk.
 *
 * Invariants: the slot is given back when nothing writes from it any more; bytes that do not match their sums are never
 * stored; what was promised to the filesystem's reserve is given back with the slot.
 */

import { equalBytes, emptyBytes } from '../../../base/bytes.ts'
import { alignUp, sectorBytes } from '../../../core/chunk/position.ts'
import { chunkRoot, type Sum, sumBytes } from '../../../core/chunk/sums.ts'
import { StoreError } from '../../../model/errors.ts'
import { formatChunkId } from '../../../model/ids.ts'
import { blockCount, limits } from '../../../model/limits.ts'
import type { ChunkWriter, PutRequest, PutResult } from '../types.ts'
import type { Slot } from './arena.ts'
import type { LogItem } from './log-writer.ts'

/** Bytes of arena for a chunk: a sector for the head before a large payload, none for a small one. */
export function slotBytes(length: number): number {
  return length > limits.inlineBytesMax ? sectorBytes + alignUp(length) : alignUp(length)
}

/** Throws INVALID_ARGUMENT unless the request's fields fit each other and the limits. */
export function checkPut(request: PutRequest): void {
  const { id, length, lease, blockSums, root } = request
  const refuse = (reason: string): never => {
    throw new StoreError('INVALID_ARGUMENT', `put chunk ${id}: ${reason}`)
  }
  if (!Number.isSafeInteger(id) || id <= 0) refuse('the id is not a positive integer below 2^53')
  if (!Number.isSafeInteger(lease) || lease < 0) refuse('the lease is not an integer below 2^53')
  if (!Number.isSafeInteger(length) || length < 1 || length > limits.chunkBytesMax) {
    refuse(`a chunk has 1 to ${limits.chunkBytesMax} bytes, not ${length}`)
  }
  if ((blockSums === undefined) !== (root === undefined)) refuse('give both root and block sums, or neither')
  if (blockSums !== undefined && blockSums.length !== blockCount(length) * sumBytes) {
    refuse(`${length} bytes have ${blockCount(length)} block sums of ${sumBytes} bytes`)
  }
  if (root !== undefined && root.length !== sumBytes) refuse(`the root has ${sumBytes} bytes`)
}

export interface StoreParts {
  readonly sum: Sum
  /** Stores the checked chunk; see ChunkWriter.commit for what it rejects with. */
  store(request: PutRequest, result: PutResult, item: Omit<LogItem, 'record'>): Promise<void>
  /** The writer is done with its memory and its share of the reserve. */
  settled(): void
}

export class SlotWriter implements ChunkWriter {
  readonly #request: PutRequest
  readonly #slot: Slot
  readonly #parts: StoreParts
  readonly #payload: Uint8Array
  readonly #blockSums: Uint8Array
  #received = 0
  #hashed = 0
  #state: 'open' | 'committing' | 'done' = 'open'

  constructor(request: PutRequest, slot: Slot, parts: StoreParts) {
    // The sums are views on a received frame: they outlive it here.
    const { blockSums, root } = request
    this.#request = {
      ...request,
      ...(blockSums === undefined ? {} : { blockSums: blockSums.slice() }),
      ...(root === undefined ? {} : { root: root.slice() }),
    }
    this.#slot = slot
    this.#parts = parts
    const start = request.length > limits.inlineBytesMax ? sectorBytes : 0
    this.#payload = slot.bytes.subarray(start, start + request.length)
    this.#blockSums = new Uint8Array(blockCount(request.length) * sumBytes)
  }

  write(bytes: Uint8Array): void {
    if (this.#state !== 'open') return
    const { id, length } = this.#request
    if (this.#received + bytes.length > length) {
      throw new StoreError(
        'INVALID_ARGUMENT',
        `put chunk ${formatChunkId(id)}: more than the announced ${length} bytes came`,
      )
    }
    this.#payload.set(bytes, this.#received)
    this.#received += bytes.length
    const { blockBytes } = limits
    const whole = this.#received === length
    while (this.#received - this.#hashed >= blockBytes || (whole && this.#hashed < length)) {
      const end = Math.min(this.#hashed + blockBytes, length)
      this.#parts.sum(
        this.#payload.subarray(this.#hashed, end),
        this.#blockSums,
        (this.#hashed / blockBytes) * sumBytes,
      )
      this.#hashed = end
    }
  }

  async commit(): Promise<PutResult> {
    if (this.#state !== 'open')
      throw new StoreError('INVALID_ARGUMENT', 'put: the chunk was committed or given up before')
    this.#state = 'committing'
    try {
      const result = this.#check()
      await this.#parts.store(this.#request, result, this.#item())
      return result
    } finally {
      this.#release()
    }
  }

  abort(): void {
    if (this.#state === 'open') this.#release()
  }

  #release(): void {
    this.#state = 'done'
    this.#slot.release()
    this.#parts.settled()
  }

  #item(): Omit<LogItem, 'record'> {
    if (this.#request.length <= limits.inlineBytesMax) return { inline: this.#payload }
    this.#slot.bytes.fill(0, sectorBytes + this.#request.length)
    return { payload: this.#slot.bytes }
  }

  #check(): PutResult {
    const { id, length, blockSums, root } = this.#request
    if (this.#received !== length) {
      const message = `put chunk ${formatChunkId(id)}: ${this.#received} of ${length} bytes came; send the rest before the end`
      throw new StoreError('INVALID_ARGUMENT', message)
    }
    const found = chunkRoot(this.#parts.sum, length, this.#blockSums)
    const matches = blockSums === undefined || equalBytes(blockSums, this.#blockSums)
    if (!matches || !equalBytes(root ?? found, found)) {
      const block = this.#firstDifference(blockSums ?? emptyBytes)
      const what = matches ? 'the root' : `block ${block}`
      const message = `put chunk ${formatChunkId(id)}: what came does not match its checksum (${what}); nothing was stored, send it again`
      throw new StoreError('CORRUPT', message)
    }
    return { root: found, blockSums: this.#blockSums }
  }

  #firstDifference(sums: Uint8Array): number {
    return Math.floor(this.#blockSums.findIndex((byte, i) => byte !== sums[i]) / sumBytes)
  }
}
