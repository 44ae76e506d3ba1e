/**
 * Bytes of the Raft log in segment files (docs/formats/raft.md): segment headers, and the frames behind them.
 *
 * A frame is one write of the log: it begins on a sector of its own, so that a sector with acknowledged bytes is never
 * written again. Its header carries the chain value of the frame before, so that frames are read in the order in which
 * they were written or not at all, and says up to which frame all was on disk before it was written: damage up to there
 * is a loss, damage beyond it a torn write. Header checksums begin with the nonce that is drawn for each use of a file:
 * nothing that a file held before, and no payload, is ever taken for a frame.
 */

import { fromUtf8, getU32, getU64, isSafeU64, putU32, putU64, utf8 } from '../../base/bytes.ts'
import { crc32c } from '../../base/crc32c.ts'
import { bool, struct, type TypeOf, uint } from '../../base/schema.ts'
import type { HardState } from '../../core/raft/types.ts'
import { baseRecord, installRecord } from './log-format.ts'

export const sectorBytes = 4096
/** Two copies of the header, a sector each: one that rots does not take the segment with it. */
export const segmentHeaderBytes: number = 2 * sectorBytes
export const nonceBytes = 16
const formatVersion = 1

const segmentMagic = 0x48467273
const segmentSumAt = 32
/** magic u32, version u8, 3 zeros, number u64, nonce, CRC32C u32. */
const segmentRecordBytes = 36

/** Writes both copies of the header of segment `number` to the start of `out`, the rest of which is zero. */
export function putSegmentHeader(out: Uint8Array, number: number, nonce: Uint8Array): void {
  out.fill(0, 0, segmentHeaderBytes)
  for (const at of [0, sectorBytes]) {
    putU32(out, at, segmentMagic)
    out[at + 4] = formatVersion
    putU64(out, at + 8, number)
    out.set(nonce, at + 16)
    putU32(out, at + segmentSumAt, crc32c(out, 0, at, at + segmentSumAt))
  }
}

/** The seed of the frames of segment `number`; undefined when neither copy is the header of a use as that segment. */
export function readSegmentHeader(bytes: Uint8Array, number: number): number | undefined {
  for (const at of [0, sectorBytes]) {
    if (bytes.length < at + segmentRecordBytes || getU32(bytes, at) !== segmentMagic) continue
    if (bytes[at + 4] !== formatVersion || !isSafeU64(bytes, at + 8)) continue
    if (getU32(bytes, at + segmentSumAt) !== crc32c(bytes, 0, at, at + segmentSumAt)) continue
    if (getU64(bytes, at + 8) === number) return crc32c(bytes, 0, at + 8, at + segmentSumAt)
  }
  return undefined
}

/** `state`: all that is not entries, again. `entries`: replaces the log from `first` on. `note`: hard state alone. */
export const frameKinds = ['state', 'entries', 'note'] as const
export type FrameKind = (typeof frameKinds)[number]

export interface FrameHeader {
  readonly kind: FrameKind
  /** Of the frames of a log, from 1. */
  readonly sequence: number
  /** All frames up to this one were on disk before this one was written. */
  readonly synced: number
  /** Chain value of the frame before. */
  readonly previous: number
  readonly hard: HardState
  readonly commit: number
  /** All entries up to here were on disk before this frame was written. */
  readonly watermark: number
  /** Entries: the log is replaced from here on. */
  readonly first: number
  /** Last entry of the log after this frame. */
  readonly last: number
  /** Entries in the body. */
  readonly count: number
  /** Bytes of the body. */
  readonly length: number
  /** Entries: chain value of the last entry. State: CRC32C of the body. */
  readonly sum: number
}

/** A header as it was read, and where the body is. */
export interface Frame extends FrameHeader {
  readonly offset: number
  readonly body: number
  /** Where the next frame of the segment begins. */
  readonly end: number
  /** CRC32C of the header: the chain value of the frame, because it covers the body by its sum. */
  readonly chain: number
}

const frameMagic = 0x48467266
const fixedBytes = 84

function toSectors(bytes: number): number {
  return Math.ceil(bytes / sectorBytes) * sectorBytes
}

/** Bytes of a header with this vote: its body begins behind it. */
export function frameHeaderBytes(vote: string): number {
  return fixedBytes + utf8(vote).length + 4
}

/** Bytes that a frame takes in a segment. */
export function frameBytes(vote: string, bodyLength: number): number {
  return toSectors(frameHeaderBytes(vote) + bodyLength)
}

/** Writes a header at `at` and zeros behind the body, which is there already; returns the frame's chain value. */
export function putFrameHeader(out: Uint8Array, at: number, header: FrameHeader, seed: number, offset: number): number {
  const vote = utf8(header.hard.vote)
  putU32(out, at, frameMagic)
  out[at + 4] = formatVersion
  out[at + 5] = frameKinds.indexOf(header.kind)
  out[at + 6] = vote.length
  out[at + 7] = 0
  putU64(out, at + 8, header.sequence)
  putU64(out, at + 16, header.synced)
  putU32(out, at + 24, header.previous)
  putU32(out, at + 28, offset)
  putU64(out, at + 32, header.hard.term)
  putU64(out, at + 40, header.commit)
  putU64(out, at + 48, header.watermark)
  putU64(out, at + 56, header.first)
  putU64(out, at + 64, header.last)
  putU32(out, at + 72, header.count)
  putU32(out, at + 76, header.length)
  putU32(out, at + 80, header.sum)
  out.set(vote, at + fixedBytes)
  const sumAt = at + fixedBytes + vote.length
  const chain = crc32c(out, seed, at, sumAt)
  putU32(out, sumAt, chain)
  const used = sumAt + 4 + header.length
  out.fill(0, used, at + toSectors(used - at))
  return chain
}

/**
 * The header at `offset` of `bytes`, which begin at `origin` of the segment; undefined when there is none. Says nothing of
 * the body.
 */
export function readFrameHeader(bytes: Uint8Array, offset: number, seed: number, origin = 0): Frame | undefined {
  if (offset + fixedBytes + 4 > bytes.length || getU32(bytes, offset) !== frameMagic) return undefined
  const sumAt = offset + fixedBytes + (bytes[offset + 6] as number)
  if (bytes[offset + 4] !== formatVersion || sumAt + 4 > bytes.length) return undefined
  const chain = getU32(bytes, sumAt)
  if (chain !== crc32c(bytes, seed, offset, sumAt) || getU32(bytes, offset + 28) !== origin + offset) return undefined
  const kind = frameKinds[bytes[offset + 5] as number]
  const vote = fromUtf8(bytes.subarray(offset + fixedBytes, sumAt))
  const body = sumAt + 4
  const length = getU32(bytes, offset + 76)
  if (kind === undefined || vote === undefined || body + length > bytes.length) return undefined
  return {
    kind,
    sequence: getU64(bytes, offset + 8),
    synced: getU64(bytes, offset + 16),
    previous: getU32(bytes, offset + 24),
    hard: { term: getU64(bytes, offset + 32), vote },
    commit: getU64(bytes, offset + 40),
    watermark: getU64(bytes, offset + 48),
    first: getU64(bytes, offset + 56),
    last: getU64(bytes, offset + 64),
    count: getU32(bytes, offset + 72),
    length,
    sum: getU32(bytes, offset + 80),
    offset,
    body,
    end: offset + toSectors(body + length - offset),
    chain,
  }
}

/** Body of a state frame: what the log is besides its entries. */
export const stateRecord = struct({
  base: baseRecord,
  /** Chain value of the last entry. */
  lastChain: uint,
  /** A snapshot is being installed. */
  installs: bool,
  /** Which; the base when none is. */
  install: installRecord,
})
export type LogState = TypeOf<typeof stateRecord>
