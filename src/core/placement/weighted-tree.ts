/**
 * Weighted random choice among changing weights: a tree of sums. Choosing and changing one weight are O(log n), so that
 * a placement among 1,000 nodes looks at ten of them.
 *
 * Invariants: every inner sum is recomputed from its two children, never adjusted by a difference, so that rounding
 * does not build up; `total` is 0 exactly when every weight is 0; an index of weight 0 is never chosen.
 */

import { assert } from '../../base/assert.ts'

export class WeightedTree {
  #capacity = 1
  /** Implicit binary tree: node i has children 2i and 2i+1; leaves start at `#capacity`. */
  #sums: Float64Array = new Float64Array(2)

  get total(): number {
    return this.#sums[1] as number
  }

  weight(index: number): number {
    return index < this.#capacity ? (this.#sums[this.#capacity + index] as number) : 0
  }

  /** Sets the weight (finite, not negative) of `index`; the tree grows as needed. */
  set(index: number, weight: number): void {
    assert(Number.isFinite(weight) && weight >= 0, 'weight is finite and not negative')
    if (index >= this.#capacity) this.#grow(index + 1)
    let node = this.#capacity + index
    this.#sums[node] = weight
    for (node >>= 1; node >= 1; node >>= 1) {
      this.#sums[node] = (this.#sums[2 * node] as number) + (this.#sums[2 * node + 1] as number)
    }
  }

  /** The index that `unit` in [0, 1) falls on; undefined when all weights are 0. */
  choose(unit: number): number | undefined {
    if (this.total === 0) return undefined
    let rest = unit * this.total
    let node = 1
    while (node < this.#capacity) {
      const left = this.#sums[2 * node] as number
      const right = this.#sums[2 * node + 1] as number
      // Rounding may leave `rest` just past the left sum: never descend into a side that weighs nothing.
      const goLeft = right === 0 || (left > 0 && rest < left)
      if (!goLeft) rest -= left
      node = goLeft ? 2 * node : 2 * node + 1
    }
    return node - this.#capacity
  }

  #grow(count: number): void {
    const old = this.#sums.slice(this.#capacity)
    while (this.#capacity < count) this.#capacity *= 2
    this.#sums = new Float64Array(2 * this.#capacity)
    this.#sums.set(old, this.#capacity)
    for (let node = this.#capacity - 1; node >= 1; node--) {
      this.#sums[node] = (this.#sums[2 * node] as number) + (this.#sums[2 * node + 1] as number)
    }
  }
}
