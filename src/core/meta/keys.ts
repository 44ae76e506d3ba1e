/**
 * The key space of the metadata state (docs/formats/meta-state.md). One prefix byte, then big-endian parts, so that
 * byte order is the order scans want.
 *
 * | prefix | key | value |
 * | --- | --- | --- |
 * | `A` | - | applied record: index, term, clock, digest, counters |
 * | `C` | - | cluster record |
 * | `b` | bucket name | bucket |
 * | `o` | bucket number u32, object key | object |
 * | `m` | manifest id (16) | manifest |
 * | `p` | manifest id (16), page u32 | chunks of the page |
 * | `c` | chunk u64 | chunk |
 * | `d` | disk u32, chunk u64 | the chunk's replicas: a disk's death is one range scan that yields copies left |
 * | `s` | class u8, chunk u64 | since when: chunks that are short or surplus whatever disks are up |
 * | `g` | time ms u64, chunk u64 | - : unreferenced since |
 * | `t` | time ms u64, manifest id (16) | next page to drop: deleted or aborted manifests, since when |
 * | `n` | node id | node |
 * | `k` | disk u32 | disk |
 * | `i` | disk id (16) | disk number |
 * | `l` | lease u64 | writer lease |
 * | `u` | lease u64, manifest id (16) | - : uploads staged under the lease and not yet committed |
 * | `w` | commit id (16) | what a commit answered, kept a while so that a repeated one answers the same |
 * | `q` | sequence u64 | commit id: the order in which `w` entries are forgotten |
 * | `x` | slot u32 | corruption finding, a ring |
 */

import { concatBytes, fromHex, getU32, getU64, putU32, putU64, toHex, utf8 } from '../../base/bytes.ts'
import { assert } from '../../base/assert.ts'
import type { ChunkId, DiskNumber, LeaseId, NodeId } from '../../model/ids.ts'

const prefix = (letter: string): Uint8Array => utf8(letter)

function u32(value: number): Uint8Array {
  const out = new Uint8Array(4)
  putU32(out, 0, value)
  return out
}

function u64(value: number): Uint8Array {
  const out = new Uint8Array(8)
  putU64(out, 0, value)
  return out
}

/** Bytes of an id of 32 hex digits. */
export function idBytes(hex: string): Uint8Array {
  const bytes = fromHex(hex)
  assert(bytes !== undefined && bytes.length === 16, 'id has 32 hex digits')
  return bytes
}

export const keys = {
  applied: (): Uint8Array => prefix('A'),
  cluster: (): Uint8Array => prefix('C'),
  bucket: (name: string): Uint8Array => concatBytes([prefix('b'), utf8(name)]),
  object: (bucket: number, key: string): Uint8Array => concatBytes([prefix('o'), u32(bucket), utf8(key)]),
  manifest: (id: string): Uint8Array => concatBytes([prefix('m'), idBytes(id)]),
  page: (id: string, page: number): Uint8Array => concatBytes([prefix('p'), idBytes(id), u32(page)]),
  chunk: (id: ChunkId): Uint8Array => concatBytes([prefix('c'), u64(id)]),
  diskChunk: (disk: DiskNumber, id: ChunkId): Uint8Array => concatBytes([prefix('d'), u32(disk), u64(id)]),
  short: (classIndex: number, id: ChunkId): Uint8Array =>
    concatBytes([prefix('s'), new Uint8Array([classIndex]), u64(id)]),
  garbage: (sinceMs: number, id: ChunkId): Uint8Array => concatBytes([prefix('g'), u64(sinceMs), u64(id)]),
  trash: (sinceMs: number, manifest: string): Uint8Array => concatBytes([prefix('t'), u64(sinceMs), idBytes(manifest)]),
  node: (id: NodeId): Uint8Array => concatBytes([prefix('n'), utf8(id)]),
  disk: (number: DiskNumber): Uint8Array => concatBytes([prefix('k'), u32(number)]),
  diskById: (id: string): Uint8Array => concatBytes([prefix('i'), idBytes(id)]),
  lease: (id: LeaseId): Uint8Array => concatBytes([prefix('l'), u64(id)]),
  upload: (lease: LeaseId, manifest: string): Uint8Array => concatBytes([prefix('u'), u64(lease), idBytes(manifest)]),
  outcome: (commitId: string): Uint8Array => concatBytes([prefix('w'), idBytes(commitId)]),
  outcomeOrder: (sequence: number): Uint8Array => concatBytes([prefix('q'), u64(sequence)]),
  finding: (slot: number): Uint8Array => concatBytes([prefix('x'), u32(slot)]),
} as const

/** First key after every key with the prefix `letter`. */
export function prefixEnd(letter: string): Uint8Array {
  return new Uint8Array([letter.charCodeAt(0) + 1])
}

/** First key after every key that starts with `start`; undefined when there is none. */
export function keyAfterPrefix(start: Uint8Array): Uint8Array | undefined {
  let last = start.length - 1
  while (last >= 0 && start[last] === 0xff) last--
  if (last < 0) return undefined
  const out = start.slice(0, last + 1)
  out[last] = (out[last] as number) + 1
  return out
}

/** A key may start with U+FEFF; the default decoder would swallow it. */
const keyDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Reads back the parts of scanned keys. */
export const keyParts = {
  bucketName: (key: Uint8Array): string => new TextDecoder().decode(key.subarray(1)),
  objectKey: (key: Uint8Array): string => keyDecoder.decode(key.subarray(5)),
  diskChunk: (key: Uint8Array): { disk: DiskNumber; chunk: ChunkId } => ({
    disk: getU32(key, 1),
    chunk: getU64(key, 5),
  }),
  chunk: (key: Uint8Array): ChunkId => getU64(key, 1),
  short: (key: Uint8Array): { classIndex: number; chunk: ChunkId } => ({
    classIndex: key[1] as number,
    chunk: getU64(key, 2),
  }),
  garbage: (key: Uint8Array): { sinceMs: number; chunk: ChunkId } => ({
    sinceMs: getU64(key, 1),
    chunk: getU64(key, 9),
  }),
  trash: (key: Uint8Array): { sinceMs: number; manifest: string } => ({
    sinceMs: getU64(key, 1),
    manifest: toHex(key.subarray(9, 25)),
  }),
  nodeId: (key: Uint8Array): NodeId => new TextDecoder().decode(key.subarray(1)),
  disk: (key: Uint8Array): DiskNumber => getU32(key, 1),
  lease: (key: Uint8Array): LeaseId => getU64(key, 1),
  upload: (key: Uint8Array): { lease: LeaseId; manifest: string } => ({
    lease: getU64(key, 1),
    manifest: toHex(key.subarray(9, 25)),
  }),
} as const
