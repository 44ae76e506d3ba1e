/**
 * Checksums of chunks and of our own records (docs/formats/checksums.md).
 *
 * A core may not import the hasher's port, so the function comes in as an argument: XXH64, seed 0, little-endian.
 * A chunk's identity is its root: XXH64 over its length (u64 little-endian) and the sums of its blocks in order. A
 * seeded sum is XXH64 over the seed's bytes followed by the content: what was written under another seed never matches.
 */

import { concatBytes, equalBytes } from '../../base/bytes.ts'
import { blockCount, limits } from '../../model/limits.ts'

/** XXH64 with seed 0 of `bytes`, written as 8 little-endian bytes into `out` at `at`. */
export type Sum = (bytes: Uint8Array, out: Uint8Array, at: number) => void

export const sumBytes = 8

/** The 8-byte sum of the parts as if they were one run of bytes. */
export function sumOf(sum: Sum, parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(sumBytes)
  const first = parts[0]
  sum(parts.length === 1 && first !== undefined ? first : concatBytes(parts), out, 0)
  return out
}

/** Root of a chunk of `length` bytes whose blocks have the sums `blockSums` (8 bytes each, in order). */
export function chunkRoot(sum: Sum, length: number, blockSums: Uint8Array): Uint8Array {
  const prefix = new Uint8Array(8)
  let rest = length
  for (let i = 0; i < 8; i++) {
    prefix[i] = rest % 256
    rest = Math.floor(rest / 256)
  }
  return sumOf(sum, [prefix, blockSums])
}

/** Sums of all blocks of `content`. */
export function blockSumsOf(sum: Sum, content: Uint8Array): Uint8Array {
  const out = new Uint8Array(blockCount(content.length) * sumBytes)
  for (let block = 0; block * limits.blockBytes < content.length; block++) {
    sum(content.subarray(block * limits.blockBytes, (block + 1) * limits.blockBytes), out, block * sumBytes)
  }
  return out
}

/**
 * Checks `piece`, which starts at block `firstBlock` and ends with a whole block or the chunk's end. Gives the number of
 * the first block that does not match, or undefined.
 */
export function firstBadBlock(
  sum: Sum,
  piece: Uint8Array,
  firstBlock: number,
  blockSums: Uint8Array,
): number | undefined {
  const out = new Uint8Array(sumBytes)
  for (let at = 0; at < piece.length; at += limits.blockBytes) {
    const block = firstBlock + at / limits.blockBytes
    sum(piece.subarray(at, at + limits.blockBytes), out, 0)
    if (!equalBytes(out, blockSums.subarray(block * sumBytes, (block + 1) * sumBytes))) return block
  }
  return undefined
}
