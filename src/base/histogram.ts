/**
 * A histogram over fixed upper bounds: counts per bucket, sum, and quantiles by linear interpolation in a bucket.
 *
 * Why fixed bounds: two histograms of one kind can be added, which is how a monitoring system joins many processes.
 * Invariants: `counts` has one more entry than `bounds` (the last is "above all"); a quantile never leaves its bucket.
 */

import { assert } from './assert.ts'

export class Histogram {
  /** Upper bounds of the buckets, rising, inclusive. */
  readonly bounds: readonly number[]
  /** Observations in each bucket, not cumulative; the last counts what is above every bound. */
  readonly counts: number[]
  #sum = 0
  #count = 0

  constructor(bounds: readonly number[]) {
    for (let i = 1; i < bounds.length; i++) {
      assert((bounds[i - 1] as number) < (bounds[i] as number), 'histogram bounds rise')
    }
    this.bounds = bounds
    this.counts = Array.from({ length: bounds.length + 1 }, () => 0)
  }

  /** Sum of all observed values. */
  get sum(): number {
    return this.#sum
  }

  /** Number of observed values. */
  get count(): number {
    return this.#count
  }

  observe(value: number): void {
    let low = 0
    let high = this.bounds.length
    while (low < high) {
      const middle = (low + high) >> 1
      if (value <= (this.bounds[middle] as number)) high = middle
      else low = middle + 1
    }
    this.counts[low] = (this.counts[low] as number) + 1
    this.#sum += value
    this.#count += 1
  }

  /** Adds the observations of another histogram over the same bounds. */
  merge(other: Histogram): void {
    assert(this.bounds.length === other.bounds.length, 'histograms that are added have the same bounds')
    for (const [i, count] of other.counts.entries()) this.counts[i] = (this.counts[i] as number) + count
    this.#sum += other.sum
    this.#count += other.count
  }

  /** The value below which a share `q` (0 to 1) of the observations is; undefined before the first one. */
  quantile(q: number): number | undefined {
    if (this.#count === 0) return undefined
    const rank = q * this.#count
    let seen = 0
    for (let i = 0; i < this.counts.length; i++) {
      const inBucket = this.counts[i] as number
      if (inBucket > 0 && seen + inBucket >= rank) {
        const from = i === 0 ? 0 : (this.bounds[i - 1] as number)
        const to = this.bounds[i] ?? from
        return from + (to - from) * Math.max(0, (rank - seen) / inBucket)
      }
      seen += inBucket
    }
    return this.bounds[this.bounds.length - 1]
  }
}

/** Bounds in seconds from 100 µs to about 100 s, three a decade: for latencies of calls and disk operations. */
export const latencyBounds: readonly number[] = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100,
]
