/**
 * Keys of a disk's index (docs/formats/index.md). One prefix byte, then big-endian parts, so that byte order is id order.
 *
 * | prefix | key | value |
 * | --- | --- | --- |
 * | `c` | chunk u64 | chunk record: sums, place, and the bytes of a small chunk |
 * | `q` | chunk u64, extent u64, payload offset u64 | quarantine record: bytes that are kept and not served |
 * | `e` | extent u64 | live bytes of the extent as of the checkpoint |
 * | `P` | - | checkpoint |
 * | `S` | - | scrub cursor |
 */

import { getU64, isSafeU64, putU64 } from '../../base/bytes.ts'
import { assert } from '../../base/assert.ts'
import type { ChunkId } from '../../model/ids.ts'

function key(prefix: string, ...parts: readonly number[]): Uint8Array {
  const out = new Uint8Array(1 + parts.length * 8)
  out[0] = prefix.charCodeAt(0)
  for (const [i, part] of parts.entries()) putU64(out, 1 + i * 8, part)
  return out
}

const chunkPrefix = 'c'.charCodeAt(0)
const quarantinePrefix = 'q'.charCodeAt(0)

export const indexKeys = {
  chunk: (id: ChunkId): Uint8Array => key('c', id),
  chunksEnd: (): Uint8Array => key('d'),
  quarantine: (id: ChunkId, extent: number, payload: number): Uint8Array => key('q', id, extent, payload),
  quarantinesOf: (id: ChunkId): { gte: Uint8Array; lt: Uint8Array } => ({ gte: key('q', id), lt: key('q', id + 1) }),
  quarantines: (): { gte: Uint8Array; lt: Uint8Array } => ({ gte: key('q'), lt: key('r') }),
  extent: (sequence: number): Uint8Array => key('e', sequence),
  extents: (): { gte: Uint8Array; lt: Uint8Array } => ({ gte: key('e'), lt: key('f') }),
  checkpoint: (): Uint8Array => key('P'),
  scrubCursor: (): Uint8Array => key('S'),
} as const

/** The chunk id of a `c` key; undefined for any other. */
export function chunkIdOfKey(bytes: Uint8Array): ChunkId | undefined {
  return bytes[0] === chunkPrefix && bytes.length === 9 ? numberOfKey(bytes) : undefined
}

export function isQuarantineKey(bytes: Uint8Array): boolean {
  return bytes[0] === quarantinePrefix
}

/** The number after the prefix byte: chunk id of a `c` or `q` key, sequence number of an `e` key. */
export function numberOfKey(bytes: Uint8Array): number {
  assert(isSafeU64(bytes, 1), 'an index key has a number after its prefix')
  return getU64(bytes, 1)
}
