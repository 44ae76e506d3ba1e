/**
 * Records of the extent log: every change of the index after a checkpoint is one of these, so that replay can repeat it.
 *
 * A record says what it frees (places that no longer hold anything of use), so that the accounting of live bytes per
 * extent follows from the log alone, whatever subset of the index's unsynced batches a crash left behind.
 *
 * A frame in a group: u32 body length, u32 inline payload length, 8 bytes checksum, body, inline payload. The checksum
 * is seeded with the extent's nonce and the checksum of the group's header, so a frame is believed only in the group it
 * was written for. It covers the two lengths and the body; a payload is covered by the block sums in the body.
 */

import { equalBytes, getU32, putU32 } from '../../base/bytes.ts'
import { bool, bytes, decode, encode, fixed, list, SchemaError, struct, text, uint, union } from '../../base/schema.ts'
import type { TypeOf } from '../../base/schema.ts'
import { type Sum, sumOf } from './sums.ts'

/** Where a chunk's bytes are. */
export const locationSchema = struct({
  /** Sequence number of the extent. */
  extent: uint,
  /** Offset of the group's header in the extent. */
  group: uint,
  /** Offset of the record's frame from the group's header. */
  record: uint,
  /** Offset of the payload in the extent. */
  payload: uint,
  /** Bytes of the extent that this record keeps alive. */
  span: uint,
})
export type Location = TypeOf<typeof locationSchema>

const freedSchema = struct({
  extent: uint,
  payload: uint,
  span: uint,
  /** True when the place was served (counted as a chunk), false when it was quarantined. */
  held: bool,
})
export type Freed = TypeOf<typeof freedSchema>

const recordSchema = union({
  put: {
    tag: 1,
    body: struct({
      id: uint,
      length: uint,
      lease: uint,
      root: fixed(8),
      blockSums: bytes,
      frees: list(freedSchema),
    }),
  },
  delete: { tag: 2, body: struct({ id: uint, frees: list(freedSchema) }) },
  quarantine: { tag: 3, body: struct({ id: uint, location: locationSchema, finding: text }) },
})
export type LogRecord = TypeOf<typeof recordSchema>
export type PutRecord = Extract<LogRecord, { kind: 'put' }>

export type QuarantineLogRecord = Extract<LogRecord, { kind: 'quarantine' }>

/** The same quarantine once more, for a rebuild of the index only: group 0, where no group is, tells the two apart. */
export function quarantineAgain(record: QuarantineLogRecord): QuarantineLogRecord {
  return { ...record, location: { ...record.location, group: 0, record: 0 } }
}

/** True for a quarantine that an earlier record has put in force. */
export function isSaidAgain(record: QuarantineLogRecord): boolean {
  return record.location.group === 0
}

/** Bytes of a frame before its body. */
export const frameHeadBytes = 16

export interface Frame {
  readonly record: LogRecord
  /** The payload when it is in the frame; empty otherwise. A view. */
  readonly inline: Uint8Array
  /** Bytes of the whole frame. */
  readonly length: number
  /** Offset of the inline payload from the frame's start. */
  readonly inlineAt: number
}

/** The encoded body of a record, to know the frame's size before its place is known. */
export function encodeRecord(record: LogRecord): Uint8Array {
  return encode(recordSchema, record)
}

export function frameBytes(body: Uint8Array, inlineLength: number): number {
  return frameHeadBytes + body.length + inlineLength
}

/** Writes a frame at `at`; `seed` is nonce then group checksum. Gives the offset after it. */
export function writeFrame(
  out: Uint8Array,
  at: number,
  body: Uint8Array,
  inline: Uint8Array,
  seed: readonly Uint8Array[],
  sum: Sum,
): number {
  putU32(out, at, body.length)
  putU32(out, at + 4, inline.length)
  out.set(sumOf(sum, [...seed, out.subarray(at, at + 8), body]), at + 8)
  out.set(body, at + frameHeadBytes)
  out.set(inline, at + frameHeadBytes + body.length)
  return at + frameBytes(body, inline.length)
}

/** The frame at `at`, or undefined when what is there is not one written for this group. */
export function readFrame(from: Uint8Array, at: number, seed: readonly Uint8Array[], sum: Sum): Frame | undefined {
  if (at + frameHeadBytes > from.length) return undefined
  const bodyLength = getU32(from, at)
  const inlineLength = getU32(from, at + 4)
  const inlineAt = frameHeadBytes + bodyLength
  if (at + inlineAt + inlineLength > from.length) return undefined
  const body = from.subarray(at + frameHeadBytes, at + inlineAt)
  const found = sumOf(sum, [...seed, from.subarray(at, at + 8), body])
  if (!equalBytes(found, from.subarray(at + 8, at + frameHeadBytes))) return undefined
  try {
    return {
      record: decode(recordSchema, body),
      inline: from.subarray(at + inlineAt, at + inlineAt + inlineLength),
      length: inlineAt + inlineLength,
      inlineAt,
    }
  } catch (error) {
    if (error instanceof SchemaError) return undefined
    throw error
  }
}
