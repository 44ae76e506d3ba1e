/**
 * The contents that simulated clients store: each put has bytes of its own, known by its etag, so that every read can be
 * checked byte for byte (docs/ARCHITECTURE.md, invariant I2) and every version be told from every other.
 */

import { equalBytes, toHex } from '../base/bytes.ts'
import { chunkRoot, EtagBuilder, sumBlocks } from '../core/object/sums.ts'
import { simHasher } from './sinks.ts'

const sumInto = simHasher.sumInto

export interface ValueChunk {
  readonly bytes: Uint8Array
  readonly blockSums: Uint8Array
  readonly root: Uint8Array
}

export interface Value {
  /** 16 hex digits. */
  readonly etag: string
  readonly bytes: Uint8Array
  readonly chunks: readonly ValueChunk[]
}

/** `length` bytes that depend on `seed`: xorshift. */
function contentOf(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4))
  let at = Math.imul(seed + 1, 0x9e3779b1) >>> 0 || 1
  for (let i = 0; i < words.length; i++) {
    at ^= at << 13
    at ^= at >>> 17
    at ^= at << 5
    words[i] = at
  }
  return new Uint8Array(words.buffer, 0, length)
}

/** All values of a run. */
export class Values {
  readonly #made = new Map<string, { readonly seed: number; readonly length: number }>()
  #next = 0

  /** A value that nobody had before, cut into chunks of `chunkBytes`. An empty one gets a tag of its own all the same. */
  make(length: number, chunkBytes: number): Value {
    const seed = this.#next++
    const bytes = contentOf(seed, length)
    const etag = new EtagBuilder()
    const chunks: ValueChunk[] = []
    for (let at = 0; at < length; at += chunkBytes) {
      const piece = bytes.subarray(at, at + chunkBytes)
      const blockSums = sumBlocks(piece, sumInto)
      const root = chunkRoot(piece.length, blockSums, sumInto)
      etag.add(piece.length, root)
      chunks.push({ bytes: piece, blockSums, root })
    }
    const name = length > 0 ? toHex(etag.finish(sumInto)) : seed.toString(16).padStart(16, '0')
    this.#made.set(name, { seed, length })
    return { etag: name, bytes, chunks }
  }

  /** What is wrong with `bytes` as the content of version `etag`; undefined when nothing is. */
  wrong(etag: string, bytes: Uint8Array): string | undefined {
    const made = this.#made.get(etag)
    if (made === undefined) return `nobody stored ${etag}`
    if (bytes.length !== made.length) return `${bytes.length} bytes instead of ${made.length}`
    return equalBytes(bytes, contentOf(made.seed, made.length)) ? undefined : 'other bytes than were stored'
  }
}
