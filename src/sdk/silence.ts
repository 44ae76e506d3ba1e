/**
 * Notices that the other side has gone quiet, and does not mistake our own standstill for it.
 *
 * A process that was stopped (SIGSTOP, a laptop asleep) finds its timers due before it reads what waits in its sockets:
 * silence is counted only while we were there to hear. Invariant: after `stop` nothing is called.
 */

import type { Clock, Timer } from '../ports/clock.ts'

/** A timer this late says that this process stood still. */
const standstillMs = 1_000

export class SilenceWatch {
  readonly #clock: Clock
  readonly #silentMs: number
  readonly #onSilent: () => void
  #heardMs = 0
  #timer: Timer | undefined

  /** `onSilent` is called once per `start`, when nothing was heard for `silentMs`. */
  constructor(clock: Clock, silentMs: number, onSilent: () => void) {
    this.#clock = clock
    this.#silentMs = silentMs
    this.#onSilent = onSilent
  }

  /** Counts from now on. */
  start(): void {
    this.heard()
    if (this.#timer === undefined) this.#arm(this.#silentMs)
  }

  /** There was a sign of life. */
  heard(): void {
    this.#heardMs = this.#clock.monotonicMs()
  }

  stop(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  #arm(delayMs: number): void {
    const dueMs = this.#clock.monotonicMs() + delayMs
    this.#timer = this.#clock.after(delayMs, () => {
      this.#timer = undefined
      const nowMs = this.#clock.monotonicMs()
      if (nowMs - dueMs > standstillMs) this.#heardMs = nowMs
      const quietMs = nowMs - this.#heardMs
      if (quietMs >= this.#silentMs) this.#onSilent()
      else this.#arm(this.#silentMs - quietMs)
    })
  }
}
