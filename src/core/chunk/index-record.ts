/**
 * Values of a disk's index. LevelDB does not check what it reads, so each value carries its own checksum: XXH64 over the
 * key and the body, in the last 8 bytes. A value under the wrong key does not pass. A chunk record is a u32 length, the
 * sealed record of that length, and the bytes of a small chunk: damage to those leaves the way to the log's copy open.
 *
 * `decode*` are total: damaged bytes give undefined, and the caller decides whether that is corruption.
 */

import { concatBytes, emptyBytes, equalBytes, getU32, putU32 } from '../../base/bytes.ts'
import { bool, bytes, decode, encode, fixed, type Schema, SchemaError, struct, text, uint } from '../../base/schema.ts'
import type { TypeOf } from '../../base/schema.ts'
import { blockCount } from '../../model/limits.ts'
import { indexKeys } from './keyspace.ts'
import {
  type Freed,
  isSaidAgain,
  type Location,
  locationSchema,
  type LogRecord,
  type QuarantineLogRecord,
} from './record.ts'
import { type Sum, sumBytes, sumOf } from './sums.ts'

const chunkSchema = struct({
  version: uint,
  length: uint,
  lease: uint,
  root: fixed(8),
  blockSums: bytes,
  location: locationSchema,
})
export interface ChunkRecord extends Omit<TypeOf<typeof chunkSchema>, 'version'> {
  /** The chunk's bytes when it is small. Not covered by the record's checksum: the block sums say whether they are intact. */
  readonly inline: Uint8Array | undefined
}

const quarantineSchema = struct({ version: uint, location: locationSchema, finding: text })
export type QuarantineRecord = Omit<TypeOf<typeof quarantineSchema>, 'version'>

const extentSchema = struct({ version: uint, liveBytes: uint })

const checkpointSchema = struct({
  version: uint,
  extent: uint,
  offset: uint,
  /** Checksum of the header of the last group before the position. */
  chain: fixed(8),
  chunks: uint,
  /** True while the engine is stopped in order; false from its start on. */
  clean: bool,
})
/** Everything in the log before (extent, offset) is in the index, durably. */
export type Checkpoint = Omit<TypeOf<typeof checkpointSchema>, 'version'>

const version = 1

function seal<T>(schema: Schema<T>, key: Uint8Array, value: T, sum: Sum): Uint8Array {
  const body = encode(schema, value)
  const out = new Uint8Array(body.length + sumBytes)
  out.set(body)
  out.set(sumOf(sum, [key, body]), body.length)
  return out
}

function unseal<T extends { version: number }>(
  schema: Schema<T>,
  key: Uint8Array,
  value: Uint8Array,
  sum: Sum,
): T | undefined {
  if (value.length < sumBytes) return undefined
  const body = value.subarray(0, value.length - sumBytes)
  if (!equalBytes(sumOf(sum, [key, body]), value.subarray(body.length))) return undefined
  try {
    const out = decode(schema, body)
    return out.version === version ? out : undefined
  } catch (error) {
    if (error instanceof SchemaError) return undefined
    throw error
  }
}

export function encodeChunkRecord(id: number, record: ChunkRecord, sum: Sum): Uint8Array {
  const { length, lease, root, blockSums, location, inline } = record
  const sealed = seal(chunkSchema, indexKeys.chunk(id), { version, length, lease, root, blockSums, location }, sum)
  const head = new Uint8Array(4)
  putU32(head, 0, sealed.length)
  return concatBytes([head, sealed, inline ?? emptyBytes])
}

/** The record, or undefined when it is damaged. Byte fields are views on `value`. */
export function decodeChunkRecord(id: number, value: Uint8Array, sum: Sum): ChunkRecord | undefined {
  if (value.length < 4) return undefined
  const end = 4 + getU32(value, 0)
  if (end > value.length) return undefined
  const record = unseal(chunkSchema, indexKeys.chunk(id), value.subarray(4, end), sum)
  if (record === undefined || record.blockSums.length !== blockCount(record.length) * sumBytes) return undefined
  const { length, lease, root, blockSums, location } = record
  return { length, lease, root, blockSums, location, inline: end < value.length ? value.subarray(end) : undefined }
}

export function decodeQuarantine(key: Uint8Array, value: Uint8Array, sum: Sum): QuarantineRecord | undefined {
  return unseal(quarantineSchema, key, value, sum)
}

export function encodeExtentRecord(sequence: number, liveBytes: number, sum: Sum): Uint8Array {
  return seal(extentSchema, indexKeys.extent(sequence), { version, liveBytes }, sum)
}

export function decodeExtentRecord(sequence: number, value: Uint8Array, sum: Sum): number | undefined {
  return unseal(extentSchema, indexKeys.extent(sequence), value, sum)?.liveBytes
}

export function encodeCheckpoint(checkpoint: Checkpoint, sum: Sum): Uint8Array {
  return seal(checkpointSchema, indexKeys.checkpoint(), { version, ...checkpoint }, sum)
}

export function decodeCheckpoint(value: Uint8Array, sum: Sum): Checkpoint | undefined {
  return unseal(checkpointSchema, indexKeys.checkpoint(), value, sum)
}

/** One change of the index; the shape of the Kv port's operations. */
export type IndexChange =
  | { readonly type: 'put'; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: 'del'; readonly key: Uint8Array }

/** What is freed when the place `location` of a chunk goes out of use. */
export function freedBy(location: Location, held: boolean): Freed {
  return { extent: location.extent, payload: location.payload, span: location.span, held }
}

/** What keeps quarantined bytes known; the chunk's own record is another matter. */
export function quarantineChange({ id, location, finding }: QuarantineLogRecord, sum: Sum): IndexChange {
  const key = indexKeys.quarantine(id, location.extent, location.payload)
  return { type: 'put', key, value: seal(quarantineSchema, key, { version, location, finding }, sum) }
}

/** What a log record changes in the index. `inline` are the bytes of a small chunk. */
export function indexChanges(
  record: LogRecord,
  location: Location,
  inline: Uint8Array | undefined,
  sum: Sum,
): IndexChange[] {
  if (record.kind === 'quarantine') {
    if (isSaidAgain(record)) return []
    return [{ type: 'del', key: indexKeys.chunk(record.id) }, quarantineChange(record, sum)]
  }
  if (record.kind === 'delete') {
    const changes: IndexChange[] = [{ type: 'del', key: indexKeys.chunk(record.id) }]
    for (const freed of record.frees) {
      if (!freed.held) changes.push({ type: 'del', key: indexKeys.quarantine(record.id, freed.extent, freed.payload) })
    }
    return changes
  }
  const { length, lease, root, blockSums } = record
  const value = encodeChunkRecord(record.id, { length, lease, root, blockSums, location, inline }, sum)
  return [{ type: 'put', key: indexKeys.chunk(record.id), value }]
}
