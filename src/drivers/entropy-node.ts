/**
 * The entropy port over the operating system's generator: ids, nonces and jitter. Never seeded, never repeated.
 */

import { randomBytes, randomInt } from 'node:crypto'
import type { Entropy } from '../ports/entropy.ts'

const unitSteps = 2 ** 32

/** Cryptographic randomness. */
export function createNodeEntropy(): Entropy {
  return {
    bytes: (length) => new Uint8Array(randomBytes(length)),
    unit: () => randomInt(unitSteps) / unitSteps,
  }
}
