/**
 * Time. Promises only that monotonic time never goes back and that a timer never fires early.
 * Does not promise: that timers fire on time (a process may be paused), nor anything about wall clocks.
 */

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Milliseconds since an arbitrary start; never goes back. */
  monotonicMs(): number
  /** Milliseconds since 1970-01-01 UTC by the machine's clock; may jump. */
  wallMs(): number
  /** Calls `handler` once, not before `delayMs` have passed. */
  after(delayMs: number, handler: () => void): Timer
  /**
   * Calls `handler` once, when what has arrived by now was handled and before more is waited for: so that one answer is
   * made of many questions. Where it is missing there is no such moment, and a microtask does.
   */
  turn?(handler: () => void): void
}
