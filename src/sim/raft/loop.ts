/**
 * The event loop of the Raft simulator: one heap of events by (time, order), synchronous from end to end.
 *
 * Invariants: time is integer microseconds and never goes back; two events of one time run in the order they were made; an
 * event of a process runs only in the life that made it, and not while the process is paused (a pause holds events back,
 * in order).
 */

/** What happens, by kind: the first words of a line of the trace. Positions are part of the trace's hash. */
export const eventKinds = [
  'tick',
  'frame',
  'disk',
  'slot',
  'apply',
  'fetch',
  'image',
  'piece',
  'install',
  'flush',
  'request',
  'reply',
  'client',
  'operator',
  'fault',
  'mend',
  'lost',
  'check',
] as const
export type EventKind = (typeof eventKinds)[number]

/** What can crash and be paused. */
export interface Process {
  /** Position among the processes. */
  readonly slot: number
  /** Rises with every crash: events of older lives are dropped. */
  life: number
  paused: boolean
  /** Events held back by a pause. */
  held: SimEvent[]
}

export interface SimEvent {
  timeUs: number
  order: number
  readonly kind: EventKind
  readonly owner: Process | undefined
  readonly life: number
  readonly run: () => void
  /** What the trace shows of it. */
  readonly detail: unknown
}

function before(a: SimEvent, b: SimEvent): boolean {
  return a.timeUs < b.timeUs || (a.timeUs === b.timeUs && a.order < b.order)
}

export class Loop {
  readonly #heap: SimEvent[] = []
  #order = 0
  nowUs = 0
  events = 0

  get waiting(): number {
    return this.#heap.length
  }

  /** Runs `run` after `delayUs`; of a process: unless it crashes before. */
  after(delayUs: number, kind: EventKind, owner: Process | undefined, run: () => void, detail?: unknown): void {
    const timeUs = this.nowUs + Math.max(0, Math.round(delayUs))
    this.#push({ timeUs, order: this.#order++, kind, owner, life: owner?.life ?? 0, run, detail })
  }

  #push(event: SimEvent): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(event)
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = heap[parent] as SimEvent
      if (!before(event, above)) break
      heap[at] = above
      at = parent
    }
    heap[at] = event
  }

  #pop(): SimEvent | undefined {
    const heap = this.#heap
    const first = heap[0]
    const last = heap.pop()
    if (first === undefined || last === undefined || heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = at * 2 + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1] as SimEvent, heap[child] as SimEvent)) child++
      const below = heap[child] as SimEvent
      if (!before(below, last)) break
      heap[at] = below
      at = child
    }
    heap[at] = last
    return first
  }

  /** The paused process goes on: what was held back runs now, in order. */
  resume(owner: Process): void {
    owner.paused = false
    const held = owner.held
    owner.held = []
    for (const event of held) this.#push({ ...event, timeUs: this.nowUs, order: this.#order++ })
  }

  /** Runs events up to `untilUs` or until `done`; `seen` is called after each. */
  run(untilUs: number, seen: (event: SimEvent) => void, done?: () => boolean): void {
    for (;;) {
      const next = this.#heap[0]
      if (next === undefined || next.timeUs > untilUs) break
      this.#pop()
      this.nowUs = Math.max(this.nowUs, next.timeUs)
      const { owner } = next
      if (owner !== undefined) {
        if (owner.life !== next.life) continue
        if (owner.paused) {
          owner.held.push(next)
          continue
        }
      }
      this.events++
      next.run()
      seen(next)
      if (done?.() === true) return
    }
    if (done === undefined) this.nowUs = Math.max(this.nowUs, untilUs)
  }
}
