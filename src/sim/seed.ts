/**
 * Randomness of a simulated run: a small seeded generator (xoshiro128**) with named sub-streams.
 *
 * Every part of the simulation (network, disks, crashes, workload) draws from its own fork, so that taking one kind of
 * fault away does not reshuffle all the others. The same seed gives the same numbers on every machine.
 */

import { assert } from '../base/assert.ts'

function rotateLeft(value: number, by: number): number {
  return (value << by) | (value >>> (32 - by))
}

/** 32-bit FNV-1a of `text`, continued from `from`. */
export function fnv(text: string, from = 0x811c9dc5): number {
  let hash = from
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

/** A generator; see the file comment. */
export class Seeded {
  readonly #state: Uint32Array
  readonly #name: string

  constructor(seed: number, name = '') {
    this.#name = name
    this.#state = new Uint32Array(4)
    // SplitMix32 spreads a small seed over the state, which must not be all zero.
    let at = (seed ^ Math.imul(fnv(name), 0x9e3779b1)) >>> 0
    for (let i = 0; i < 4; i++) {
      at = (at + 0x9e3779b9) >>> 0
      let mixed = Math.imul(at ^ (at >>> 16), 0x85ebca6b)
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
      this.#state[i] = (mixed ^ (mixed >>> 16)) >>> 0 || 1
    }
  }

  /** An independent generator that depends only on this one's seed, now, and on `label`. */
  fork(label: string): Seeded {
    return new Seeded(this.u32(), `${this.#name}/${label}`)
  }

  u32(): number {
    const s = this.#state as unknown as [number, number, number, number]
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0
    const shifted = s[1] << 9
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= shifted
    s[3] = rotateLeft(s[3], 11)
    return result
  }

  /** In [0, 1). */
  unit(): number {
    return this.u32() / 0x1_0000_0000
  }

  /** An integer from 0 to `end`, exclusive. */
  below(end: number): number {
    assert(end > 0, 'range of a random integer is not empty')
    return Math.floor(this.unit() * end)
  }

  /** A number from `low` to `high`. */
  between(low: number, high: number): number {
    return low + this.unit() * (high - low)
  }

  chance(probability: number): boolean {
    return this.unit() < probability
  }

  pick<T>(items: readonly T[]): T {
    assert(items.length > 0, 'something to pick from')
    return items[this.below(items.length)] as T
  }

  /** The items in a random order, as a new array. */
  shuffle<T>(items: readonly T[]): T[] {
    const out = [...items]
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const kept = out[i] as T
      out[i] = out[j] as T
      out[j] = kept
    }
    return out
  }

  bytes(length: number): Uint8Array {
    const out = new Uint8Array(length)
    for (let i = 0; i < length; i++) out[i] = this.u32() >>> 24
    return out
  }
}
