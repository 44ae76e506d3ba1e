/**
 * Virtual time: one queue of events for the whole simulated world, ordered by (time, sequence), and the Clock port of
 * each simulated process.
 *
 * Invariants: time is integer microseconds and never goes back; two events of one time run in the order they were made;
 * an event of a process runs only in the incarnation that made it (a crash forgets all of them) and only while the
 * process is not paused (a pause holds them back, in order). After each event every promise that it settled is
 * followed to its end before the next event runs: that is what makes asynchronous services deterministic here.
 */

import type { Clock, Timer } from '../ports/clock.ts'
import { fnv } from './seed.ts'

interface SimEvent {
  timeUs: number
  order: number
  readonly label: string
  readonly host: SimProcess | undefined
  readonly incarnation: number
  run: (() => void) | undefined
}

/** One simulated process: what can be crashed, paused and given a wrong clock. */
export class SimProcess {
  readonly id: string
  /** Rises with every crash; events of older ones are dropped. */
  incarnation = 0
  alive = false
  paused = false
  /** Events held back by a pause. */
  held: SimEvent[] = []
  /** Wall clock minus what a right one would show. */
  wallOffsetMs = 0
  /** How fast its clocks run: 1 is right. */
  #rate = 1
  #rateSinceMs = 0
  #clockAtRateMs = 0

  constructor(id: string) {
    this.id = id
  }

  get rate(): number {
    return this.#rate
  }

  /** From true time `trueMs` on its clocks run at `rate`; timers that are already set keep their true time. */
  setRate(trueMs: number, rate: number): void {
    this.#clockAtRateMs = this.clockMs(trueMs)
    this.#rateSinceMs = trueMs
    this.#rate = rate
  }

  /** What its monotonic clock shows at true time `trueMs`. */
  clockMs(trueMs: number): number {
    return this.#clockAtRateMs + (trueMs - this.#rateSinceMs) * this.#rate
  }
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.timeUs < b.timeUs || (a.timeUs === b.timeUs && a.order < b.order)
}

/** Binary heap of events. */
class EventQueue {
  readonly #items: SimEvent[] = []

  get size(): number {
    return this.#items.length
  }

  push(event: SimEvent): void {
    const items = this.#items
    let at = items.length
    items.push(event)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(event, items[parent] as SimEvent)) break
      items[at] = items[parent] as SimEvent
      at = parent
    }
    items[at] = event
  }

  peek(): SimEvent | undefined {
    return this.#items[0]
  }

  pop(): SimEvent | undefined {
    const items = this.#items
    const first = items[0]
    const last = items.pop()
    if (first === undefined || last === undefined || items.length === 0) return first
    let at = 0
    for (;;) {
      let child = at * 2 + 1
      if (child >= items.length) break
      if (child + 1 < items.length && before(items[child + 1] as SimEvent, items[child] as SimEvent)) child++
      if (!before(items[child] as SimEvent, last)) break
      items[at] = items[child] as SimEvent
      at = child
    }
    items[at] = last
    return first
  }
}

/** One line of a trace: virtual milliseconds, who, what. */
export type TraceLine = (timeMs: number, host: string, text: string) => void

/**
 * Calls `step` again and again until it gives false, and between two calls lets every settled promise be followed to its
 * end. Given from outside, because only the real event loop can do that. Rejects with what `step` throws.
 */
export type Turns = (step: () => boolean) => Promise<void>

export interface WorldOptions {
  readonly turns: Turns
  readonly trace?: TraceLine | undefined
}

/** More events than this at one instant are a loop that does not let time go on. */
const eventsPerInstantMax = 20_000

/** The event loop of a simulated world. */
export class World {
  readonly #queue = new EventQueue()
  readonly #turns: Turns
  readonly #trace: TraceLine | undefined
  #order = 0
  #nowUs = 0
  #hash = 0x811c9dc5
  #events = 0
  #eventsNow = 0
  /** Whose event ran last; undefined when it was nobody's. */
  last: SimProcess | undefined

  constructor(options: WorldOptions) {
    this.#turns = options.turns
    this.#trace = options.trace
  }

  get nowMs(): number {
    return this.#nowUs / 1000
  }

  /** Hash of every event so far: equal for equal runs. */
  get hash(): number {
    return this.#hash
  }

  get events(): number {
    return this.#events
  }

  /** Adds a fact to the trace and its hash. */
  note(host: string, text: string): void {
    this.#hash = fnv(text, fnv(host, (this.#hash ^ this.#nowUs) >>> 0))
    this.#trace?.(this.nowMs, host, text)
  }

  /** Runs `run` after `delayMs` of true time; for a process: unless it has crashed, and not while it is paused. */
  after(delayMs: number, label: string, host: SimProcess | undefined, run: () => void): Timer {
    const delayUs = Math.max(0, Math.ceil(delayMs * 1000))
    const event: SimEvent = {
      timeUs: this.#nowUs + delayUs,
      order: this.#order++,
      label,
      host,
      incarnation: host?.incarnation ?? 0,
      run,
    }
    this.#queue.push(event)
    return {
      cancel: () => {
        event.run = undefined
      },
    }
  }

  /** Lets a paused process go on: what was held back runs now, in order. */
  resume(host: SimProcess): void {
    host.paused = false
    const held = host.held
    host.held = []
    for (const event of held) {
      event.timeUs = this.#nowUs
      event.order = this.#order++
      this.#queue.push(event)
    }
  }

  /** Runs events until `untilMs` or until `done`; `check` runs after each event and throws when something is broken. */
  async run(untilMs: number, check: () => void, done?: () => boolean): Promise<void> {
    const untilUs = untilMs * 1000
    let begun = false
    let ran = false
    await this.#turns(() => {
      if (!begun) {
        // The first turn follows up what was begun before the run.
        begun = true
        return true
      }
      if (ran) {
        check()
        if (done?.() === true) return false
      }
      ran = this.#runNext(untilUs)
      return ran
    })
    if (done === undefined) this.#nowUs = Math.max(this.#nowUs, untilUs)
  }

  /** Runs the next event up to `untilUs`; false when there is none. */
  #runNext(untilUs: number): boolean {
    for (;;) {
      const next = this.#queue.peek()
      if (next === undefined || next.timeUs > untilUs) return false
      this.#queue.pop()
      this.#eventsNow = next.timeUs > this.#nowUs ? 0 : this.#eventsNow + 1
      if (this.#eventsNow > eventsPerInstantMax) {
        throw new Error(`time stands still at ${this.nowMs} ms: ${this.#eventsNow} events, the last is "${next.label}"`)
      }
      this.#nowUs = Math.max(this.#nowUs, next.timeUs)
      const { host, run } = next
      if (run === undefined || (host !== undefined && host.incarnation !== next.incarnation)) continue
      if (host?.paused === true) {
        host.held.push(next)
        continue
      }
      this.#events++
      this.#hash = fnv(next.label, (this.#hash ^ next.timeUs) >>> 0)
      next.run = undefined
      this.last = host
      run()
      return true
    }
  }
}

/** The Clock port of one process. Timers never fire early by the process's own clock. */
export function simClock(world: World, host: SimProcess): Clock {
  const epochMs = 1_700_000_000_000
  return {
    monotonicMs: () => host.clockMs(world.nowMs),
    wallMs: () => Math.floor(epochMs + host.clockMs(world.nowMs) + host.wallOffsetMs),
    after: (delayMs, handler) => world.after(delayMs / host.rate, `${host.id} timer`, host, handler),
  }
}
