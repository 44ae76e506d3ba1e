/** A clock that moves only when a test moves it. */

import type { Clock, Timer } from '../../src/ports/clock.ts'

export class ManualClock implements Clock {
  #nowMs = 0
  #timers: { dueMs: number; handler: () => void }[] = []

  monotonicMs(): number {
    return this.#nowMs
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs
  }

  after(delayMs: number, handler: () => void): Timer {
    const timer = { dueMs: this.#nowMs + delayMs, handler }
    this.#timers.push(timer)
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer)
      },
    }
  }

  /** Moves on and fires what is due, in order. */
  advance(byMs: number): void {
    this.#nowMs += byMs
    for (;;) {
      const due = this.#timers.filter((timer) => timer.dueMs <= this.#nowMs).sort((a, b) => a.dueMs - b.dueMs)[0]
      if (due === undefined) return
      this.#timers = this.#timers.filter((other) => other !== due)
      due.handler()
    }
  }
}
