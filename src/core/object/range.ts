/**
 * From a byte range of an object to the parts of its chunks.
 *
 * Ranges are inclusive at both ends, as users give them. A range that starts beyond the object is refused; one that ends
 * beyond it ends with it. Inside, spans are [start, end) so that an empty object has a span of no bytes.
 */

import { StoreError } from '../../model/errors.ts'

/** First and last byte wanted, both inclusive. */
export type ByteRange = readonly [first: number, last: number]

/** Bytes `start` up to `end`, exclusive. */
export interface Span {
  readonly start: number
  readonly end: number
}

/** Bytes [from, to) of one chunk that a span covers. */
export interface ChunkSlice {
  readonly from: number
  readonly to: number
}

/** The span of an object of `size` bytes that `range` names; all of it without a range. Throws INVALID_ARGUMENT. */
export function spanOfRange(size: number, range: ByteRange | undefined): Span {
  if (range === undefined) return { start: 0, end: size }
  const [first, last] = range
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last) || first < 0 || last < first) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `range ${first}-${last} is not valid: give first and last byte, first at most last`,
    )
  }
  if (first >= size) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `range ${first}-${last} starts beyond the end: the object has ${size} bytes`,
    )
  }
  return { start: first, end: Math.min(last + 1, size) }
}

/** What `span` covers of a chunk that lies at `offset` of the object and has `length` bytes; undefined for nothing. */
export function sliceOfChunk(span: Span, offset: number, length: number): ChunkSlice | undefined {
  const from = Math.max(span.start - offset, 0)
  const to = Math.min(span.end - offset, length)
  return from < to ? { from, to } : undefined
}
