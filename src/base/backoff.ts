/**
 * Delays between tries: doubling up to a bound, with jitter so that many who failed together do not come back together.
 *
 * Randomness is an argument, so that the same class serves the simulator.

 */

export interface BackoffOptions {
  /** First delay. */
  readonly firstMs: number
  /** No delay is longer. */
  readonly maxMs: number
}

export class Backoff {
  readonly #options: BackoffOptions
  #failures = 0

  constructor(options: BackoffOptions) {
    this.#options = options
  }

  /** The next delay in milliseconds: between half and all of the doubled one. `unit` is a number in [0, 1). */
  next(unit: number): number {
    const { firstMs, maxMs } = this.#options
    const full = Math.min(maxMs, firstMs * 2 ** Math.min(this.#failures, 30))
    this.#failures += 1
    return full / 2 + (full / 2) * unit
  }

  /** Something worked: start again from the first delay. */
  reset(): void {
    this.#failures = 0
  }
}
