/**
 * A seeded pseudo-random generator (xoshiro128**): the same numbers for the same seed, everywhere, for ever. For
 * election jitter, sampling and the simulator; never for secrets.
 *
 * `fork(label)` gives an independent stream that depends only on the parent's seed and the label, not on how much was
 * drawn before: removing one user of randomness does not reshuffle the others.
 */

const two32 = 0x1_0000_0000

/** One step of splitmix32: spreads a seed over 32 bits. Returns the next state and the output. */
function splitmix(state: number): { state: number; value: number } {
  const next = (state + 0x9e3779b9) >>> 0
  let z = next
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
  return { state: next, value: (z ^ (z >>> 15)) >>> 0 }
}

function rotateLeft(value: number, by: number): number {
  return ((value << by) | (value >>> (32 - by))) >>> 0
}

export class Prng {
  readonly #seed: number
  #a: number
  #b: number
  #c: number
  #d: number

  /** `seed`: any unsigned 32-bit integer. */
  constructor(seed: number) {
    this.#seed = seed >>> 0
    let step = splitmix(this.#seed)
    this.#a = step.value
    step = splitmix(step.state)
    this.#b = step.value
    step = splitmix(step.state)
    this.#c = step.value
    step = splitmix(step.state)
    this.#d = step.value
  }

  /** The next unsigned 32-bit integer. */
  next(): number {
    const result = Math.imul(rotateLeft(Math.imul(this.#b, 5) >>> 0, 7), 9) >>> 0
    const shifted = (this.#b << 9) >>> 0
    this.#c = (this.#c ^ this.#a) >>> 0
    this.#d = (this.#d ^ this.#b) >>> 0
    this.#b = (this.#b ^ this.#c) >>> 0
    this.#a = (this.#a ^ this.#d) >>> 0
    this.#c = (this.#c ^ shifted) >>> 0
    this.#d = rotateLeft(this.#d, 11)
    return result
  }

  /** An integer in [0, bound); `bound` is 1 to 2^32. */
  below(bound: number): number {
    return Math.floor((this.next() / two32) * bound)
  }

  /** A number in [0, 1). */
  unit(): number {
    return this.next() / two32
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.unit() < probability
  }

  /** An independent generator for `label`. */
  fork(label: string): Prng {
    let hash = (this.#seed ^ 0x811c9dc5) >>> 0
    for (let i = 0; i < label.length; i++) hash = Math.imul(hash ^ label.charCodeAt(i), 0x01000193) >>> 0
    return new Prng(hash)
  }
}
