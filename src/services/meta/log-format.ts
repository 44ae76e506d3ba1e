/**
 * Bytes that both ways to store the Raft log share (docs/formats/raft.md): entry records with checksum and hash chain,
 * and small sealed records; and the keys of the store over LevelDB, whose own read checks are off.
 *
 * Entry record: version u8, type u8, index u64, term u64, previous chain u32, payload length u32, payload, CRC32C u32 of
 * all before it. The chain value of an entry is its CRC32C; since that covers the previous chain value, it stands for
 * the whole log up to there.
 */

import { allocateBytes, concatBytes, getU32, getU64, isSafeU64, putU32, putU64, utf8 } from '../../base/bytes.ts'
import { crc32c } from '../../base/crc32c.ts'
import { decode, encode, type Schema, SchemaError, struct, text, uint } from '../../base/schema.ts'
import { clusterConfig } from '../../core/raft/messages.ts'
import { type Entry, entryTypes, type SnapshotMark } from '../../core/raft/types.ts'

const version = 1
const headerBytes = 26

export const baseKey: Uint8Array = utf8('base')
export const hardKey: Uint8Array = utf8('hard')
export const installKey: Uint8Array = utf8('install')
const entryPrefix = 0x65

export function entryKey(index: number): Uint8Array {
  const key = allocateBytes(9)
  key[0] = entryPrefix
  putU64(key, 1, index)
  return key
}

/** First key after all entry keys. */
export const entriesEnd: Uint8Array = new Uint8Array([entryPrefix + 1])

/** Index of an entry key, or undefined when it is none. */
export function indexOfKey(key: Uint8Array): number | undefined {
  return key.length === 9 && key[0] === entryPrefix && isSafeU64(key, 1) ? getU64(key, 1) : undefined
}

/** Bytes of an entry record beyond the payload. */
export const recordOverheadBytes: number = headerBytes + 4

/** Writes the record of `entry` at `at`; returns its chain value. */
export function putEntry(out: Uint8Array, at: number, entry: Entry, previousChain: number): number {
  const { payload } = entry
  out[at] = version
  out[at + 1] = entryTypes.indexOf(entry.type)
  putU64(out, at + 2, entry.index)
  putU64(out, at + 10, entry.term)
  putU32(out, at + 18, previousChain)
  putU32(out, at + 22, payload.length)
  out.set(payload, at + headerBytes)
  const end = at + headerBytes + payload.length
  const chain = crc32c(out, 0, at, end)
  putU32(out, end, chain)
  return chain
}

export function encodeEntry(entry: Entry, previousChain: number): { value: Uint8Array; chain: number } {
  const value = allocateBytes(recordOverheadBytes + entry.payload.length)
  return { value, chain: putEntry(value, 0, entry, previousChain) }
}

/** Length of the record that begins at `at`; undefined when it would end behind `end`. */
export function recordLength(bytes: Uint8Array, at: number, end: number): number | undefined {
  if (at + recordOverheadBytes > end) return undefined
  const length = recordOverheadBytes + getU32(bytes, at + 22)
  return at + length <= end ? length : undefined
}

export interface StoredEntry {
  readonly entry: Entry
  readonly previousChain: number
  readonly chain: number
}

/** The entry in `value`, or undefined when the bytes are damaged. */
export function decodeEntry(value: Uint8Array): StoredEntry | undefined {
  if (value.length < headerBytes + 4 || value[0] !== version) return undefined
  const chain = getU32(value, value.length - 4)
  if (chain !== crc32c(value, 0, 0, value.length - 4)) return undefined
  const type = entryTypes[value[1] as number]
  if (type === undefined || !isSafeU64(value, 2) || !isSafeU64(value, 10)) return undefined
  if (getU32(value, 22) !== value.length - headerBytes - 4) return undefined
  const payload = value.subarray(headerBytes, value.length - 4)
  const entry = { index: getU64(value, 2), term: getU64(value, 10), type, payload }
  return { entry, previousChain: getU32(value, 18), chain }
}

/** What is written with every batch: the second copy of term and vote, the commit hint, and the durable watermark. */
export const hardRecord = struct({
  term: uint,
  vote: text,
  commit: uint,
  /** Every entry up to here was synced before this record was written. */
  watermark: uint,
})

/** What precedes the first entry. `chain` is the chain value there. */
export const baseRecord = struct({
  index: uint,
  term: uint,
  chain: uint,
  configIndex: uint,
  config: clusterConfig,
})

/** A snapshot that is being installed; present from before the state machine is replaced until the log matches it. */
export const installRecord = struct({
  index: uint,
  term: uint,
  configIndex: uint,
  config: clusterConfig,
})

export function markOf(record: {
  index: number
  term: number
  configIndex: number
  config: SnapshotMark['config']['config']
}): SnapshotMark {
  const { index, term, configIndex, config } = record
  return { index, term, config: { index: configIndex, config } }
}

/** Bytes of a small record, with version and checksum. */
export function seal<T>(schema: Schema<T>, value: T): Uint8Array {
  const sealed = concatBytes([new Uint8Array([version]), encode(schema, value), new Uint8Array(4)])
  putU32(sealed, sealed.length - 4, crc32c(sealed, 0, 0, sealed.length - 4))
  return sealed
}

/** The record in `sealed`, or undefined when the bytes are damaged or of another version. */
export function unseal<T>(schema: Schema<T>, sealed: Uint8Array): T | undefined {
  if (sealed.length < 5 || sealed[0] !== version) return undefined
  if (getU32(sealed, sealed.length - 4) !== crc32c(sealed, 0, 0, sealed.length - 4)) return undefined
  try {
    return decode(schema, sealed.slice(1, sealed.length - 4))
  } catch (error) {
    if (error instanceof SchemaError) return undefined
    throw error
  }
}
