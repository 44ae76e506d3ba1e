/**
 * The ticks of Raft: one call a tick, by the monotonic clock.
 *
 * Rules: ticks that were missed are not made up for (a process that was paused must not see its whole pause as silence of
 * the leader); after a late timer, what arrived meanwhile is heard before the tick. Small delays do not add up.
 */

import type { Clock, Timer } from '../../ports/clock.ts'
import type { Metrics } from '../../ports/metrics.ts'

/** Ticks between two readings of the lag for the metrics. */
const readingTicks = 40

export class Ticker {
  readonly #clock: Clock
  readonly #metrics: Metrics
  readonly #tickMs: number
  readonly #onTick: () => void
  #timer: Timer | undefined
  #dueMs = 0
  #deferred = false
  /** Worst lateness since the last reading. */
  #lagMs = 0
  #ticks = 0

  constructor(clock: Clock, metrics: Metrics, tickMs: number, onTick: () => void) {
    this.#clock = clock
    this.#metrics = metrics
    this.#tickMs = tickMs
    this.#onTick = onTick
  }

  start(): void {
    this.#dueMs = this.#clock.monotonicMs() + this.#tickMs
    this.#arm()
  }

  stop(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  #arm(): void {
    const delayMs = Math.max(0, this.#dueMs - this.#clock.monotonicMs())
    this.#timer = this.#clock.after(delayMs, () => this.#fire())
  }

  #fire(): void {
    const nowMs = this.#clock.monotonicMs()
    const lateMs = nowMs - this.#dueMs
    this.#lagMs = Math.max(this.#lagMs, lateMs)
    if (lateMs > this.#tickMs && !this.#deferred) {
      this.#deferred = true
      this.#timer = this.#clock.after(0, () => this.#fire())
      return
    }
    this.#deferred = false
    this.#dueMs = lateMs > this.#tickMs ? nowMs + this.#tickMs : this.#dueMs + this.#tickMs
    this.#arm()
    this.#read()
    this.#onTick()
  }

  #read(): void {
    if (++this.#ticks % readingTicks !== 0) return
    const help = 'Longest delay of a timer of the event loop in the last second or so.'
    this.#metrics.gauge('holdfast_event_loop_lag_seconds', help, this.#lagMs / 1000)
    this.#lagMs = 0
  }
}
