/**
 * How long to wait before a retry: exponential with full jitter, and a budget over all calls of the client.
 *
 * The budget is a count of tokens: a retry costs one, a success gives a tenth back. When it is spent, retries go on at
 * the slowest pace only, so that many calls in flight never become a storm on a cluster that is just recovering.
 */

import type { Entropy } from '../ports/entropy.ts'

const baseMs = 20
const capMs = 1000
const tokensMax = 200
const tokensPerSuccess = 0.1

export class RetryPace {
  readonly #entropy: Entropy
  #tokens = tokensMax

  constructor(entropy: Entropy) {
    this.#entropy = entropy
  }

  /** A call was answered. */
  succeeded(): void {
    this.#tokens = Math.min(tokensMax, this.#tokens + tokensPerSuccess)
  }

  /** Wait before retry number `attempt` (from 1), at least `floorMs` when the other side asked for it. */
  delayMs(attempt: number, floorMs = 0): number {
    const spent = this.#tokens < 1
    if (!spent) this.#tokens -= 1
    const ceilingMs = spent ? capMs : Math.min(capMs, baseMs * 2 ** Math.min(attempt, 16))
    const jittered = spent ? capMs / 2 + (this.#entropy.unit() * capMs) / 2 : this.#entropy.unit() * ceilingMs
    return Math.max(floorMs, jittered)
  }
}
