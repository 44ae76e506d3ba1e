/**
 * Any body as a sequence of chunks.
 *
 * Bytes in memory are cut without a copy; everything else is gathered into chunk buffers that are used again once their
 * chunk is stored. A source is asked for more only when the upload has room: that is the back-pressure.
 *
 * Invariant: a piece is given out once and its bytes are untouched until `recycle`.
 */

import { utf8 } from '../base/bytes.ts'
import { nextChunkBytes } from '../core/object/chunker.ts'
import { StoreError } from '../model/errors.ts'
import type { BlobLike, Body, FillSource, StreamBody, WebStream } from './types.ts'

/** One chunk's worth of bytes. */
export interface Piece {
  readonly bytes: Uint8Array
  /** The buffer may be used for another chunk. Not called: it is left to the garbage collector. */
  recycle(): void
}

export interface ChunkSource {
  /** The next chunk, full except for the last; undefined at the end. */
  next(): Promise<Piece | undefined>
  /** Lets go of the underlying stream, also half read. */
  close(reason?: Error): Promise<void>
}

/** Buffers of one size, used again. */
export class BufferPool {
  readonly #free: Uint8Array[] = []
  readonly #bytes: number
  readonly #keep: number

  constructor(bytes: number, keep: number) {
    this.#bytes = bytes
    this.#keep = keep
  }

  take(length: number): Uint8Array {
    if (length < this.#bytes / 2) return new Uint8Array(length)
    return this.#free.pop() ?? new Uint8Array(this.#bytes)
  }

  give(buffer: Uint8Array): void {
    if (buffer.length === this.#bytes && this.#free.length < this.#keep) this.#free.push(buffer)
  }
}

function isWebStream(body: object): body is WebStream {
  return 'getReader' in body && typeof body.getReader === 'function'
}

function isBlob(body: object): body is BlobLike {
  return 'stream' in body && typeof body.stream === 'function' && 'size' in body && typeof body.size === 'number'
}

function isFill(body: object): body is FillSource {
  return 'fill' in body && typeof body.fill === 'function'
}

/** True for what a put can read. Looks at the kind only and reads nothing. */
export function isBody(body: unknown): body is Body {
  if (typeof body === 'string' || typeof body === 'function') return true
  if (typeof body !== 'object' || body === null) return false
  return isWebStream(body) || isBlob(body) || isFill(body) || Symbol.asyncIterator in body || Symbol.iterator in body
}

/** True when the body can be read again from its start. */
export function isReplayable(body: Body): boolean {
  if (typeof body === 'string' || typeof body === 'function' || body instanceof Uint8Array) return true
  return isBlob(body)
}

/** Size of the body when it tells it. */
export function sizeOfBody(body: Body): number | undefined {
  if (body instanceof Uint8Array) return body.length
  if (typeof body === 'object' && isBlob(body)) return body.size
  return undefined
}

async function* readWeb(stream: WebStream): AsyncGenerator<Uint8Array, void, void> {
  const reader = stream.getReader()
  let done = false
  try {
    for (;;) {
      const step = await reader.read()
      if (step.done) {
        done = true
        return
      }
      if (step.value !== undefined) yield step.value
    }
  } finally {
    if (!done) await reader.cancel().catch(() => undefined) // the stream's own failure is what matters
    reader.releaseLock()
  }
}

/** Bytes in memory: views, no copies. */
function cutBytes(bytes: Uint8Array, chunkBytes: number): ChunkSource {
  let at = 0
  return {
    next: async () => {
      if (at >= bytes.length) return undefined
      const piece = bytes.subarray(at, at + chunkBytes)
      at += piece.length
      return { bytes: piece, recycle: () => undefined }
    },
    close: async () => undefined,
  }
}

/** Gathers what `fill` gives into chunk buffers. */
function gather(
  fill: (into: Uint8Array) => Promise<number>,
  close: () => Promise<void>,
  pool: BufferPool,
  chunkBytes: number,
  size: number | undefined,
): ChunkSource {
  let offset = 0
  let ended = false
  return {
    next: async () => {
      if (ended) return undefined
      const want = nextChunkBytes(offset, size, chunkBytes)
      const buffer = pool.take(want)
      let length = 0
      while (length < want) {
        const got = await fill(buffer.subarray(length, want))
        if (got === 0) {
          ended = true
          break
        }
        length += got
      }
      offset += length
      if (length === 0) {
        pool.give(buffer)
        return undefined
      }
      return { bytes: buffer.subarray(0, length), recycle: () => pool.give(buffer) }
    },
    close: async () => close(),
  }
}

/** Turns pieces of any size into a filler that copies them and keeps the rest of a piece for the next call. */
function fillFromIterator(iterator: AsyncIterator<unknown> | Iterator<unknown>): (into: Uint8Array) => Promise<number> {
  let rest: Uint8Array = new Uint8Array(0)
  return async (into) => {
    while (rest.length === 0) {
      const step = await iterator.next()
      if (step.done === true) return 0
      if (typeof step.value === 'string') rest = utf8(step.value)
      else if (step.value instanceof Uint8Array) rest = step.value
      else
        throw new StoreError(
          'INVALID_ARGUMENT',
          'put: the body gave something other than bytes or text: give Uint8Array pieces',
        )
    }
    const taken = rest.subarray(0, into.length)
    into.set(taken)
    rest = rest.subarray(taken.length)
    return taken.length
  }
}

/** Opens the body for one reading. Throws INVALID_ARGUMENT for what is no body. */
export function openBody(body: Body, pool: BufferPool, chunkBytes: number, size: number | undefined): ChunkSource {
  if (typeof body === 'string') return cutBytes(utf8(body), chunkBytes)
  if (body instanceof Uint8Array) return cutBytes(body, chunkBytes)
  const stream: unknown = typeof body === 'function' ? body() : isBlob(body) ? body.stream() : body
  if (typeof stream !== 'object' || stream === null) {
    throw new StoreError('INVALID_ARGUMENT', 'put: the body is not bytes, text, a stream or an iterable')
  }
  return openStream(stream as StreamBody, pool, chunkBytes, size)
}

function openStream(stream: StreamBody, pool: BufferPool, chunkBytes: number, size: number | undefined): ChunkSource {
  let iterator: AsyncIterator<unknown> | Iterator<unknown>
  if (Symbol.asyncIterator in stream) iterator = stream[Symbol.asyncIterator]()
  else if (isWebStream(stream)) iterator = readWeb(stream)
  else if (Symbol.iterator in stream) iterator = stream[Symbol.iterator]()
  else if (isFill(stream))
    return gather(
      (into) => stream.fill(into),
      async () => undefined,
      pool,
      chunkBytes,
      size,
    )
  else throw new StoreError('INVALID_ARGUMENT', 'put: the body is not bytes, text, a stream or an iterable')
  const close = async (): Promise<void> => {
    await iterator.return?.(undefined)
  }
  return gather(fillFromIterator(iterator), close, pool, chunkBytes, size)
}
