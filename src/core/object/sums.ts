/**
 * The checksums of a chunk and of an object (docs/formats/checksums.md).
 *
 * Block sum: XXH64, seed 0, little-endian, of each 64 KiB block. Root: the same over [length u64le][block sums in order].
 * Etag: the same over [size u64le][root of every chunk in order]; a zero-byte object has no chunk and hashes its size.
 *
 * Invariant: a root commits to the length and to every block, so whoever trusts a root can check any block alone.
 */

import { assert } from '../../base/assert.ts'
import { equalBytes } from '../../base/bytes.ts'
import { blockCount, limits } from '../../model/limits.ts'

/** XXH64 with seed 0 of `bytes`, written as 8 little-endian bytes into `out` at `at`. */
export type SumInto = (bytes: Uint8Array, out: Uint8Array, at: number) => void

/** Length of one sum, root or etag in bytes. */
export const sumBytes = 8

function putU64le(out: Uint8Array, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `u64 out of the safe range: ${value}`)
  let rest = value
  for (let i = 0; i < 8; i++) {
    out[at + i] = rest % 256
    rest = Math.floor(rest / 256)
  }
}

/** Sums of all blocks of one chunk, in order. */
export function sumBlocks(chunk: Uint8Array, sumInto: SumInto): Uint8Array {
  const count = blockCount(chunk.length)
  const out = new Uint8Array(count * sumBytes)
  for (let block = 0; block < count; block++) {
    const start = block * limits.blockBytes
    sumInto(chunk.subarray(start, start + limits.blockBytes), out, block * sumBytes)
  }
  return out
}

/** Root of a chunk of `length` bytes with these block sums. */
export function chunkRoot(length: number, blockSums: Uint8Array, sumInto: SumInto): Uint8Array {
  const input = new Uint8Array(sumBytes + blockSums.length)
  putU64le(input, 0, length)
  input.set(blockSums, sumBytes)
  const root = new Uint8Array(sumBytes)
  sumInto(input, root, 0)
  return root
}

/** True when the block sums belong to a chunk of `length` bytes with `root`: after this, they can be believed. */
export function sumsMatchRoot(length: number, blockSums: Uint8Array, root: Uint8Array, sumInto: SumInto): boolean {
  if (blockSums.length !== blockCount(length) * sumBytes) return false
  return equalBytes(chunkRoot(length, blockSums, sumInto), root)
}

/** Gathers the roots of an object's chunks in order and gives its etag: 8 bytes a chunk, whatever the object's size. */
export class EtagBuilder {
  #bytes = new Uint8Array(1024)
  #length = sumBytes
  #size = 0

  /** Adds the next chunk. */
  add(length: number, root: Uint8Array): void {
    assert(root.length === sumBytes, 'root has 8 bytes')
    if (this.#length + sumBytes > this.#bytes.length) {
      const grown = new Uint8Array(this.#bytes.length * 2)
      grown.set(this.#bytes.subarray(0, this.#length))
      this.#bytes = grown
    }
    this.#bytes.set(root, this.#length)
    this.#length += sumBytes
    this.#size += length
  }

  /** Bytes of all chunks so far. */
  get size(): number {
    return this.#size
  }

  /** 8 bytes. */
  finish(sumInto: SumInto): Uint8Array {
    putU64le(this.#bytes, 0, this.#size)
    const etag = new Uint8Array(sumBytes)
    sumInto(this.#bytes.subarray(0, this.#length), etag, 0)
    return etag
  }
}
