/**
 * Randomness of a simulated run: the project's seeded generator with what a simulation draws from it.
 *
 * Every part of the simulation (network, disks, crashes, workload) draws from its own fork, so that taking one kind of
 * fault away does not reshuffle all the others. The same seed gives the same numbers on every machine.
 */

import { assert } from '../base/assert.ts'
import { Prng } from '../base/prng.ts'

/** 32-bit FNV-1a of `text`, continued from `from`. */
export function fnv(text: string, from = 0x811c9dc5): number {
  let hash = from
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}

/** A generator; see the file comment. */
export class Seeded {
  readonly #prng: Prng

  constructor(seed: number | Prng) {
    this.#prng = typeof seed === 'number' ? new Prng(seed) : seed
  }

  /** An independent generator for `label`; another one each time, for what starts anew draws anew. */
  fork(label: string): Seeded {
    return new Seeded(new Prng(this.u32()).fork(label))
  }

  u32(): number {
    return this.#prng.next()
  }

  /** In [0, 1). */
  unit(): number {
    return this.#prng.unit()
  }

  /** An integer from 0 to `end`, exclusive. */
  below(end: number): number {
    assert(end > 0, 'range of a random integer is not empty')
    return this.#prng.below(end)
  }

  /** A number from `low` to `high`. */
  between(low: number, high: number): number {
    return low + this.unit() * (high - low)
  }

  chance(probability: number): boolean {
    return this.#prng.chance(probability)
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
