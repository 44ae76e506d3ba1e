/**
 * Sizes of an object's chunks: all of `chunkBytes`, the last one shorter, none empty.
 */

import { assert } from '../../base/assert.ts'
import { limits } from '../../model/limits.ts'

/** Bytes to gather for the chunk that starts at `offset` of an object whose size may be known. */
export function nextChunkBytes(offset: number, size: number | undefined, chunkBytes: number): number {
  assert(chunkBytes > 0 && chunkBytes <= limits.chunkBytesMax, 'chunk size within its bound')
  if (size === undefined || offset >= size) return chunkBytes
  return Math.min(chunkBytes, size - offset)
}
