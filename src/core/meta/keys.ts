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
 * | `e` | session id (16) | client session |
 * | `r` | session id (16), sequence u64 | what a call of the session answered |
 */

import { allocateBytes, getU32, getU64, putHex, putU32, putU64, toHex, utf8 } from '../../base/bytes.ts'
import { assert } from '../../base/assert.ts'
import type { ChunkId, DiskNumber, LeaseId, NodeId } from '../../model/ids.ts'

const idLength = 16

/** A key of the prefix and `length` bytes to fill in after it. */
function start(prefix: string, length: number): Uint8Array {
  const key = allocateBytes(1 + length)
  key[0] = prefix.charCodeAt(0)
  return key
}

function putId(key: Uint8Array, at: number, hex: string): void {
  assert(hex.length === 2 * idLength && putHex(key, at, hex), 'id has 32 hex digits')
}

function ofU32(prefix: string, value: number): Uint8Array {
  const key = start(prefix, 4)
  putU32(key, 1, value)
  return key
}

function ofU64(prefix: string, value: number): Uint8Array {
  const key = start(prefix, 8)
  putU64(key, 1, value)
  return key
}

function ofId(prefix: string, id: string): Uint8Array {
  const key = start(prefix, idLength)
  putId(key, 1, id)
  return key
}

function ofU64AndId(prefix: string, value: number, id: string): Uint8Array {
  const key = start(prefix, 8 + idLength)
  putU64(key, 1, value)
  putId(key, 9, id)
  return key
}

function ofText(prefix: string, text: string): Uint8Array {
  const bytes = utf8(text)
  const key = start(prefix, bytes.length)
  key.set(bytes, 1)
  return key
}

function objectKey(bucket: number, name: string): Uint8Array {
  const bytes = utf8(name)
  const key = start('o', 4 + bytes.length)
  putU32(key, 1, bucket)
  key.set(bytes, 5)
  return key
}

function pageKey(id: string, page: number): Uint8Array {
  const key = start('p', idLength + 4)
  putId(key, 1, id)
  putU32(key, 1 + idLength, page)
  return key
}

function keptReplyKey(session: string, sequence: number): Uint8Array {
  const key = start('r', idLength + 8)
  putId(key, 1, session)
  putU64(key, 1 + idLength, sequence)
  return key
}

function diskChunkKey(disk: DiskNumber, id: ChunkId): Uint8Array {
  const key = start('d', 12)
  putU32(key, 1, disk)
  putU64(key, 5, id)
  return key
}

function shortKey(classIndex: number, id: ChunkId): Uint8Array {
  const key = start('s', 9)
  key[1] = classIndex
  putU64(key, 2, id)
  return key
}

function garbageKey(sinceMs: number, id: ChunkId): Uint8Array {
  const key = start('g', 16)
  putU64(key, 1, sinceMs)
  putU64(key, 9, id)
  return key
}

export const keys = {
  applied: (): Uint8Array => start('A', 0),
  cluster: (): Uint8Array => start('C', 0),
  bucket: (name: string): Uint8Array => ofText('b', name),
  object: objectKey,
  manifest: (id: string): Uint8Array => ofId('m', id),
  page: pageKey,
  chunk: (id: ChunkId): Uint8Array => ofU64('c', id),
  diskChunk: diskChunkKey,
  short: shortKey,
  garbage: garbageKey,
  trash: (sinceMs: number, manifest: string): Uint8Array => ofU64AndId('t', sinceMs, manifest),
  node: (id: NodeId): Uint8Array => ofText('n', id),
  disk: (number: DiskNumber): Uint8Array => ofU32('k', number),
  diskById: (id: string): Uint8Array => ofId('i', id),
  lease: (id: LeaseId): Uint8Array => ofU64('l', id),
  upload: (lease: LeaseId, manifest: string): Uint8Array => ofU64AndId('u', lease, manifest),
  outcome: (commitId: string): Uint8Array => ofId('w', commitId),
  outcomeOrder: (sequence: number): Uint8Array => ofU64('q', sequence),
  finding: (slot: number): Uint8Array => ofU32('x', slot),
  session: (id: string): Uint8Array => ofId('e', id),
  keptReply: keptReplyKey,
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
  session: (key: Uint8Array): string => toHex(key.subarray(1)),
  upload: (key: Uint8Array): { lease: LeaseId; manifest: string } => ({
    lease: getU64(key, 1),
    manifest: toHex(key.subarray(9, 25)),
  }),
} as const
