/**
 * The entropy port over the operating system's generator: ids, nonces and jitter. Never seeded, never repeated.
 */

import { randomBytes, randomInt } from 'node:crypto'
import type { Entropy } from '../ports/entropy.ts'

const unitSteps = 2 ** 32
/** Asked of the operating system at once; every commit needs an id, and asking costs more than the bytes. */
const poolBytes = 4096

/** Cryptographic randomness. */
export function createNodeEntropy(): Entropy {
  let pool = new Uint8Array(0)
  let used = 0
  /** Each byte of the pool is given out once, and not kept there. */
  const take = (length: number): Uint8Array => {
    if (used + length > pool.length) {
      pool = new Uint8Array(randomBytes(poolBytes))
      used = 0
    }
    const out = pool.slice(used, used + length)
    pool.fill(0, used, used + length)
    used += length
    return out
  }
  return {
    bytes: (length) => (length <= poolBytes / 16 ? take(length) : new Uint8Array(randomBytes(length))),
    unit: () => randomInt(unitSteps) / unitSteps,
  }
}
