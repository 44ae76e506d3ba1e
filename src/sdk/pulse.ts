/**
 * Tells a meta node that is slow from one that is gone: while calls wait and nothing comes, it is asked a question that any
 * live node answers at once, and when that stays unanswered too the node is given up. So a node whose process hangs costs a
 * write half a second and not the whole time of an attempt, and one that is merely busy is not left.
 *
 * Bytes of a message that is not whole yet are a sign of life, and what is still to be sent has its time: a large answer
 * or a large call on a slow line is not silence. Patience follows the connection: a far node answers late but it does answer. Our own standstill (a pause of this process,
 * a laptop asleep) is not taken for the node's. Invariant: nothing is called while no call waits, nor after `stop`.
 */

import type { Clock, Timer } from '../ports/clock.ts'
import type { Traffic } from '../ports/net.ts'

/** Silence before the question, and again before the end. */
const patienceMinMs = 200
/** The same for a node that never answered yet: connecting takes longer than answering. */
const patienceNewMs = 1_000
/** What waits to be sent is taken for a line that is busy, for as long as this rate would need. */
const lineBytesPerMs = 128
/** A queue of this size that becomes shorter is a sign of life; a short one goes into the buffers of the system. */
const queueMinBytes = 256 * 1024
/** A timer this late says that this process stood still. */
const standstillMs = 100

export class Pulse {
  readonly #clock: Clock
  readonly #waiting: () => boolean
  readonly #ask: () => void
  readonly #onSilent: (silentMs: number) => void
  readonly #traffic: () => Traffic
  readonly #openedMs: number
  #patienceMs = patienceNewMs
  #heardMs = 0
  #answered = false
  #asked = false
  /** What was seen at the last look. */
  #seen: Traffic = { receivedBytes: 0, queuedBytes: 0 }
  #timer: Timer | undefined

  /** `waiting`: true while calls wait. `ask` sends the question; `onSilent` is called when it was not answered. */
  constructor(
    clock: Clock,
    waiting: () => boolean,
    ask: () => void,
    onSilent: (silentMs: number) => void,
    traffic: () => Traffic,
  ) {
    this.#clock = clock
    this.#waiting = waiting
    this.#ask = ask
    this.#onSilent = onSilent
    this.#traffic = traffic
    this.#openedMs = clock.monotonicMs()
  }

  /** Something came. */
  heard(): void {
    this.#heardMs = this.#clock.monotonicMs()
    this.#asked = false
    this.#seen = this.#traffic()
    if (this.#answered) return
    this.#answered = true
    this.#patienceMs = Math.max(patienceMinMs, 2 * (this.#heardMs - this.#openedMs))
  }

  /** The first call waits: counts from now on. */
  waits(): void {
    this.#heardMs = this.#clock.monotonicMs()
    this.#asked = false
    this.#seen = this.#traffic()
    // A timer of earlier calls finds out by itself how long there has been silence.
    if (this.#timer === undefined) this.#arm(this.#patienceMs)
  }

  stop(): void {
    this.#timer?.cancel()
    this.#timer = undefined
  }

  #arm(delayMs: number): void {
    const dueMs = this.#clock.monotonicMs() + delayMs
    this.#timer = this.#clock.after(delayMs, () => {
      this.#timer = undefined
      if (!this.#waiting()) return
      const nowMs = this.#clock.monotonicMs()
      if (nowMs - dueMs > standstillMs) this.#heardMs = nowMs
      this.#look(nowMs)
      const quietMs = nowMs - this.#heardMs
      const limitMs = 2 * this.#patienceMs + this.#seen.queuedBytes / lineBytesPerMs
      if (quietMs < this.#patienceMs) this.#arm(this.#patienceMs - quietMs)
      else if (!this.#asked) {
        this.#asked = true
        this.#ask()
        this.#arm(this.#patienceMs)
      } else if (quietMs < limitMs) this.#arm(Math.min(this.#patienceMs, limitMs - quietMs))
      else this.#onSilent(quietMs)
    })
  }

  /** Something moved since the last look: the node is there, and has not said anything to the question yet. */
  #look(nowMs: number): void {
    const before = this.#seen
    this.#seen = this.#traffic()
    const received = this.#seen.receivedBytes !== before.receivedBytes
    const sent = before.queuedBytes >= queueMinBytes && this.#seen.queuedBytes < before.queuedBytes
    if (!received && !sent) return
    this.#heardMs = nowMs
    this.#asked = false
  }
}
