/**
 * How fast background work on a disk may go: a token bucket in bytes whose rate gives way to clients. Pure: time is an
 * argument.
 *
 * Idle: the whole rate. Clients at work: a quarter of it. Clients that wait clearly longer than they are used to: a
 * sixteenth. A disk that is short of space gets the whole rate whatever clients do, because they need the space.
 * Invariant: over any time t no more than burst + rate * t bytes are let through.
 */

/** A disk without a client's operation for so long is idle. */
const restMs = 1000
/** Tokens that may gather, as time at the full rate. */
const burstMs = 250
const busyPart = 1 / 4
const slowPart = 1 / 16
/** Clients are slowed down when their recent times are so many times the usual ones. */
const slowFactor = 2

export class Pace {
  readonly #rate: number
  #tokens: number
  #filledMs: number
  #clientMs: number
  #recentMs = 0
  #usualMs = 0

  /** `rate` in bytes a second. */
  constructor(rate: number, nowMs: number) {
    this.#rate = rate
    this.#tokens = this.#burst
    this.#filledMs = nowMs
    // Clients come back right after a start.
    this.#clientMs = nowMs
  }

  get #burst(): number {
    return (this.#rate * burstMs) / 1000
  }

  /** A client's operation was begun or has ended. */
  client(nowMs: number): void {
    this.#clientMs = nowMs
  }

  /** A client's write took so long. */
  took(ms: number): void {
    if (this.#usualMs === 0) this.#usualMs = ms
    this.#recentMs += (ms - this.#recentMs) / 8
    // Quick to believe that the disk can be faster, slow to get used to its being slower.
    this.#usualMs += (ms - this.#usualMs) / (ms < this.#usualMs ? 16 : 512)
  }

  /** Time since a client wanted something. */
  quietMs(nowMs: number): number {
    return nowMs - this.#clientMs
  }

  /** Part of the rate that is allowed now. */
  part(nowMs: number, pressed: boolean): number {
    if (pressed || this.quietMs(nowMs) >= restMs) return 1
    return this.#recentMs > this.#usualMs * slowFactor ? slowPart : busyPart
  }

  /** Takes `bytes` and gives how long to wait before doing the work. The work may overdraw: the wait makes up for it. */
  take(bytes: number, nowMs: number, pressed: boolean): number {
    const rate = this.#rate * this.part(nowMs, pressed)
    this.#tokens = Math.min(this.#burst, this.#tokens + ((nowMs - this.#filledMs) * rate) / 1000)
    this.#filledMs = nowMs
    this.#tokens -= bytes
    return this.#tokens >= 0 ? 0 : Math.ceil((-this.#tokens * 1000) / rate)
  }
}
