/**
 * Groups: what one write puts in the log. A group starts on a sector, has one header and the frames of its records, is
 * padded to whole sectors, and is followed by the payload of its only record when that is large.
 *
 * | at | bytes | field |
 * | --- | --- | --- |
 * | 0 | 4 | magic `HFGR` |
 * | 4 | 4 | version, 1 |
 * | 8 | 8 | sequence number of the extent |
 * | 16 | 8 | offset of the group in the extent |
 * | 24 | 8 + 8 | watermark (extent, offset): everything before it was on disk when this was written |
 * | 40 | 8 | chain: checksum of the header of the group before, zero for the first of a disk |
 * | 48 | 8 | salt: random, drawn at each start of the engine |
 * | 56 | 4 | bytes of the frames |
 * | 60 | 4 | number of frames |
 * | 64 | 8 | bytes of the payload after the padded head, padded to sectors |
 * | 72 | 8 + 8 | where the log ended in the extent before this one (extent, offset); zero: not known any more |
 * | 88 | 8 | checksum: XXH64 over the extent's nonce and the 88 bytes before |
 * | 96 | | frames |
 *
 * The nonce keeps records of an earlier use of the file, and user payloads that look like records, from being believed;
 * the chain and the salt keep the rest of a tail that was cut off at a crash from being believed after what replaced it, and
 * so does the end of the extent before when the log went on in another extent without writing over that rest.
 */

import { equalBytes, getU32, getU64, isSafeU64, putU32, putU64 } from '../../base/bytes.ts'
import { alignUp, type Position, sectorBytes } from './position.ts'
import { type Frame, type Location, readFrame } from './record.ts'
import { type Sum, sumOf } from './sums.ts'

const magic = 0x48464752
const version = 1
const checkedBytes = 88

/** Bytes of a group's header; the first frame follows. */
export const groupHeaderBytes = 96
/** Most bytes that the padded head (header and frames) of one group may have. */
export const groupHeadBytesMax: number = 1024 * 1024

export interface GroupHeader {
  readonly extent: number
  readonly offset: number
  readonly watermark: Position
  readonly chain: Uint8Array
  readonly salt: Uint8Array
  readonly framesBytes: number
  readonly frameCount: number
  readonly payloadBytes: number
  /** Where the log ended in the extent before this one; extent 0 when that is not known any more. */
  readonly before: Position
}

export interface FoundGroup extends GroupHeader {
  readonly checksum: Uint8Array
}

/** Bytes of the header and the frames, padded. */
export function headBytes(framesBytes: number): number {
  return alignUp(groupHeaderBytes + framesBytes)
}

/** Bytes of the whole group. */
export function groupBytes(header: GroupHeader): number {
  return headBytes(header.framesBytes) + header.payloadBytes
}

/** The place after the group. */
export function groupEnd(header: GroupHeader): Position {
  return { extent: header.extent, offset: header.offset + groupBytes(header) }
}

/** Writes the header at the start of `out` and gives its checksum. */
export function encodeGroupHeader(header: GroupHeader, nonce: Uint8Array, out: Uint8Array, sum: Sum): Uint8Array {
  putU32(out, 0, magic)
  putU32(out, 4, version)
  putU64(out, 8, header.extent)
  putU64(out, 16, header.offset)
  putU64(out, 24, header.watermark.extent)
  putU64(out, 32, header.watermark.offset)
  out.set(header.chain, 40)
  out.set(header.salt, 48)
  putU32(out, 56, header.framesBytes)
  putU32(out, 60, header.frameCount)
  putU64(out, 64, header.payloadBytes)
  putU64(out, 72, header.before.extent)
  putU64(out, 80, header.before.offset)
  const checksum = sumOf(sum, [nonce, out.subarray(0, checkedBytes)])
  out.set(checksum, checkedBytes)
  return checksum
}

/** The header at the start of `from`, if it is one that was written for this place in this use of the extent. */
export function decodeGroupHeader(from: Uint8Array, at: Position, nonce: Uint8Array, sum: Sum): FoundGroup | undefined {
  if (from.length < groupHeaderBytes || getU32(from, 0) !== magic || getU32(from, 4) !== version) return undefined
  const checksum = sumOf(sum, [nonce, from.subarray(0, checkedBytes)])
  if (!equalBytes(checksum, from.subarray(checkedBytes, groupHeaderBytes))) return undefined
  for (const field of [8, 16, 24, 32, 64, 72, 80]) if (!isSafeU64(from, field)) return undefined
  const header: FoundGroup = {
    extent: getU64(from, 8),
    offset: getU64(from, 16),
    watermark: { extent: getU64(from, 24), offset: getU64(from, 32) },
    chain: from.slice(40, 48),
    salt: from.slice(48, 56),
    framesBytes: getU32(from, 56),
    frameCount: getU32(from, 60),
    payloadBytes: getU64(from, 64),
    before: { extent: getU64(from, 72), offset: getU64(from, 80) },
    checksum,
  }
  const fits = headBytes(header.framesBytes) <= groupHeadBytesMax && header.payloadBytes % sectorBytes === 0
  return fits && header.extent === at.extent && header.offset === at.offset ? header : undefined
}

/** What seeds the checksums of a group's frames. */
export function frameSeed(nonce: Uint8Array, groupChecksum: Uint8Array): readonly Uint8Array[] {
  return [nonce, groupChecksum]
}

export interface PlacedFrame extends Frame {
  /** Offset of the frame from the group's start. */
  readonly at: number
}

/**
 * The frames of a group in order. `whole` is false when one of them is damaged; the frames before it are given, the ones
 * after it cannot be found.
 */
export function readFrames(
  head: Uint8Array,
  header: FoundGroup,
  nonce: Uint8Array,
  sum: Sum,
): { readonly frames: readonly PlacedFrame[]; readonly whole: boolean } {
  const frames: PlacedFrame[] = []
  const seed = frameSeed(nonce, header.checksum)
  const end = groupHeaderBytes + header.framesBytes
  let at = groupHeaderBytes
  for (let i = 0; i < header.frameCount; i++) {
    const frame = readFrame(head.subarray(0, end), at, seed, sum)
    if (frame === undefined) return { frames, whole: false }
    frames.push({ ...frame, at })
    at += frame.length
  }
  return { frames, whole: at === end }
}

/** Where the bytes of a frame's record are: in the frame itself, or after the head of its group. */
export function locationOf(group: FoundGroup, frame: PlacedFrame): Location {
  const large = group.payloadBytes > 0
  const head = headBytes(group.framesBytes)
  return {
    extent: group.extent,
    group: group.offset,
    record: frame.at,
    payload: group.offset + (large ? head : frame.at + frame.inlineAt),
    span: large ? head + group.payloadBytes : frame.length,
  }
}
