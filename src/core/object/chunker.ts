/**
 * Sizes of an object's chunks: all of `chunkBytes`, the last one shorter, none empty.
 */

import { assert } from '../../base/assert.ts'
import { limits } from '../../model/limits.ts'

/** Chunks of an object of `size` bytes. A zero-byte object has none. */
export function chunkCount(size: number, chunkBytes: number = limits.chunkBytesDefault): number {
  return Math.ceil(size / chunkBytes)
}

/** Bytes to gather for the chunk that starts at `offset` of an object whose size may be known. */
export function nextChunkBytes(offset: number, size: number | undefined, chunkBytes: number): number {
  assert(chunkBytes > 0 && chunkBytes <= limits.chunkBytesMax, 'chunk size within its bound')
  if (size === undefined || offset >= size) return chunkBytes
  return Math.min(chunkBytes, size - offset)
}

/** Pages of a manifest of `chunks` chunks, when it is staged. */
export function pageCount(chunks: number): number {
  return Math.ceil(chunks / limits.pageChunksMax)
}
