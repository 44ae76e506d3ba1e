/**
 * The repair queue: which chunk is copied next, under slots on both sides.
 *
 * Order: class, then attempts so far, then age, then id. An item whose wait is not over is not in the order yet; one
 * that cannot start is parked under a named reason and blocks nobody behind it. A full queue gives up an item of a lower
 * class for one of a higher class and remembers that it `overflowed`: whoever fills it scans again later.
 *
 * Invariants: an item starts only when no ready item before it could have started; no node exceeds its source or target
 * slots, nor all together `copiesMax`; a chunk is in the queue at most once; at most `capacity` items.
 * Pure: time is an argument, where to copy from and to is asked of `plan`.
 */

import { IndexedHeap } from '../../base/heap.ts'
import { assert } from '../../base/assert.ts'
import type { ChunkId, NodeId } from '../../model/ids.ts'
import { type RepairClass, repairClasses } from '../../model/words.ts'

export type ParkReason = 'slots-busy' | 'no-source' | 'no-target' | 'no-better-zone'

export interface RepairItem<F> {
  readonly chunk: ChunkId
  readonly class: RepairClass
  readonly attempts: number
  /** When the shortfall began, as far as is known. */
  readonly sinceMs: number
  /** Not started before this. */
  readonly readyMs: number
  /** What `plan` needs to know of the chunk. */
  readonly facts: F
}

/** What is known of a chunk when it is put in. */
export type RepairEntry<F> = Pick<RepairItem<F>, 'class' | 'sinceMs' | 'readyMs' | 'facts'>

export interface RepairSlots {
  /** Copies that run at once in the cluster. */
  readonly copiesMax: number
  /** Copies that run at once from one node, and to one node. */
  readonly copiesPerNode: number
}

/** Nodes of one copy. */
export interface CopyPlan {
  readonly source: NodeId
  readonly target: NodeId
}

export type PlanAnswer<P extends CopyPlan> =
  | { readonly kind: 'start'; readonly plan: P }
  | { readonly kind: 'park'; readonly reason: ParkReason }
  /** Not needed any more. */
  | { readonly kind: 'drop' }
  /** The class is another one now: goes back into the order. */
  | { readonly kind: 'again'; readonly class: RepairClass; readonly readyMs: number }

/** What a plan may use. */
export interface SlotView {
  sourceFree(node: NodeId): boolean
  targetFree(node: NodeId): boolean
  /** Nodes without a free target slot; at most `copiesMax`. */
  readonly busyTargets: readonly NodeId[]
}

type Where<P> =
  | { readonly at: 'waiting' | 'ready' }
  | { readonly at: 'parked'; readonly reason: ParkReason }
  | { readonly at: 'running'; readonly plan: P }

/** Items looked at in one call of `start`; what is behind them is of lower priority and is looked at by the next call. */
const looksMax = 512

export class RepairQueue<P extends CopyPlan, F> implements SlotView {
  readonly #slots: RepairSlots
  readonly #capacity: number
  readonly #items = new Map<ChunkId, { item: RepairItem<F>; where: Where<P> }>()
  readonly #byClass: readonly Set<ChunkId>[] = repairClasses.map(() => new Set<ChunkId>())
  readonly #waiting = new IndexedHeap<ChunkId, RepairItem<F>>((a, b) => a.readyMs - b.readyMs || a.chunk - b.chunk)
  readonly #ready = new IndexedHeap<ChunkId, RepairItem<F>>(inOrder)
  readonly #parked = new Map<ParkReason, Set<ChunkId>>()
  readonly #sources = new Map<NodeId, number>()
  readonly #targets = new Map<NodeId, number>()
  readonly #busyTargets = new Set<NodeId>()
  #running = 0
  #holdUntilMs = 0
  /** The last `start` looked at as many items as it may and left some. */
  #unfinished = false
  /** True when an item was given up or refused for lack of room since it was last set to false. */
  overflowed = false

  constructor(slots: RepairSlots, capacity: number) {
    assert(capacity > 0, 'queue capacity is positive')
    this.#slots = slots
    this.#capacity = capacity
  }

  get size(): number {
    return this.#items.size
  }

  get running(): number {
    return this.#running
  }

  /** Items of a class, running ones included. */
  count(of: RepairClass): number {
    return this.#set(of).size
  }

  parkedCounts(): ReadonlyMap<ParkReason, number> {
    return new Map([...this.#parked].map(([reason, chunks]) => [reason, chunks.size]))
  }

  get(
    chunk: ChunkId,
  ): { readonly item: RepairItem<F>; readonly at: 'waiting' | 'ready' | 'parked' | 'running' } | undefined {
    const entry = this.#items.get(chunk)
    return entry === undefined ? undefined : { item: entry.item, at: entry.where.at }
  }

  /** Until then only `last-copy` starts. */
  hold(untilMs: number): void {
    this.#holdUntilMs = untilMs
  }

  /**
   * Adds a chunk or changes its class and wait; its age and attempts stay. A running copy is left alone: whoever
   * finishes it looks at the chunk again.
   */
  put(chunk: ChunkId, entry: RepairEntry<F>): void {
    const known = this.#items.get(chunk)
    if (known?.where.at === 'running') return
    if (known === undefined && this.#items.size >= this.#capacity && !this.#makeRoom(entry.class)) return
    const attempts = known?.item.attempts ?? 0
    const sinceMs = Math.min(entry.sinceMs, known?.item.sinceMs ?? entry.sinceMs)
    // A backoff after a failed attempt outlives the news that the chunk is still short, unless it became worse.
    const backoffMs = attempts > 0 && known?.item.class === entry.class ? known.item.readyMs : 0
    this.#remove(chunk)
    this.#add({ ...entry, chunk, attempts, sinceMs, readyMs: Math.max(entry.readyMs, backoffMs) })
  }

  /** Forgets a chunk that is not running. */
  drop(chunk: ChunkId): void {
    if (this.#items.get(chunk)?.where.at !== 'running') this.#remove(chunk)
  }

  /** Something in the cluster changed: every parked item is tried again. */
  wakeParked(): void {
    for (const reason of this.#parked.keys()) this.#wake(reason)
  }

  /** Starts what can start, first things first. */
  start(
    nowMs: number,
    plan: (item: RepairItem<F>, slots: SlotView) => PlanAnswer<P>,
  ): { item: RepairItem<F>; plan: P }[] {
    this.#ripen(nowMs)
    const started: { item: RepairItem<F>; plan: P }[] = []
    this.#unfinished = false
    for (let looks = 0; this.#running < this.#slots.copiesMax; looks++) {
      const item = this.#ready.peek()?.value
      if (item === undefined || (item.class !== 'last-copy' && nowMs < this.#holdUntilMs)) break
      if (looks === looksMax) {
        this.#unfinished = true
        break
      }
      const answer = plan(item, this)
      this.#remove(item.chunk)
      if (answer.kind === 'start') {
        this.#run(item, answer.plan)
        started.push({ item, plan: answer.plan })
      } else if (answer.kind === 'park') this.#park(item, answer.reason)
      else if (answer.kind === 'again') {
        this.#add({ ...item, class: answer.class, readyMs: answer.readyMs })
        this.#ripen(nowMs)
      }
    }
    return started
  }

  /** The copy of `chunk` ended. `retryMs`: it failed and is tried again at that time; undefined: it leaves the queue. */
  finish(chunk: ChunkId, retryMs: number | undefined): void {
    const entry = this.#items.get(chunk)
    assert(entry !== undefined && entry.where.at === 'running', 'only a running copy finishes')
    const { plan } = entry.where
    this.#running--
    release(this.#sources, plan.source)
    release(this.#targets, plan.target)
    this.#busyTargets.delete(plan.target)
    this.#items.delete(chunk)
    this.#set(entry.item.class).delete(chunk)
    if (retryMs !== undefined) this.#add({ ...entry.item, attempts: entry.item.attempts + 1, readyMs: retryMs })
    this.#wake('slots-busy')
  }

  /** When `start` may have something new to do without any event; undefined when only an event can. */
  nextMs(nowMs: number): number | undefined {
    const waitingMs = this.#waiting.peek()?.value.readyMs
    if (this.#unfinished) return nowMs
    if (this.#ready.size === 0 || nowMs >= this.#holdUntilMs) return waitingMs
    return Math.min(waitingMs ?? this.#holdUntilMs, this.#holdUntilMs)
  }

  sourceFree(node: NodeId): boolean {
    return (this.#sources.get(node) ?? 0) < this.#slots.copiesPerNode
  }

  targetFree(node: NodeId): boolean {
    return (this.#targets.get(node) ?? 0) < this.#slots.copiesPerNode
  }

  get busyTargets(): readonly NodeId[] {
    return [...this.#busyTargets]
  }

  #run(item: RepairItem<F>, plan: P): void {
    assert(this.sourceFree(plan.source) && this.targetFree(plan.target), 'a copy starts only with free slots')
    this.#running++
    this.#sources.set(plan.source, (this.#sources.get(plan.source) ?? 0) + 1)
    this.#targets.set(plan.target, (this.#targets.get(plan.target) ?? 0) + 1)
    if (!this.targetFree(plan.target)) this.#busyTargets.add(plan.target)
    this.#items.set(item.chunk, { item, where: { at: 'running', plan } })
    this.#set(item.class).add(item.chunk)
  }

  #add(item: RepairItem<F>): void {
    this.#items.set(item.chunk, { item, where: { at: 'waiting' } })
    this.#set(item.class).add(item.chunk)
    this.#waiting.set(item.chunk, item)
  }

  #park(item: RepairItem<F>, reason: ParkReason): void {
    this.#items.set(item.chunk, { item, where: { at: 'parked', reason } })
    this.#set(item.class).add(item.chunk)
    const chunks = this.#parked.get(reason) ?? new Set<ChunkId>()
    chunks.add(item.chunk)
    this.#parked.set(reason, chunks)
  }

  #remove(chunk: ChunkId): void {
    const entry = this.#items.get(chunk)
    if (entry === undefined) return
    this.#items.delete(chunk)
    this.#set(entry.item.class).delete(chunk)
    this.#waiting.delete(chunk)
    this.#ready.delete(chunk)
    if (entry.where.at === 'parked') this.#parked.get(entry.where.reason)?.delete(chunk)
  }

  #ripen(nowMs: number): void {
    for (;;) {
      const item = this.#waiting.peek()?.value
      if (item === undefined || item.readyMs > nowMs) return
      this.#waiting.pop()
      this.#ready.set(item.chunk, item)
      this.#items.set(item.chunk, { item, where: { at: 'ready' } })
    }
  }

  #wake(reason: ParkReason): void {
    const chunks = this.#parked.get(reason)
    if (chunks === undefined) return
    this.#parked.delete(reason)
    for (const chunk of chunks) {
      const item = this.#items.get(chunk)?.item
      assert(item !== undefined, 'a parked chunk is in the queue')
      this.#items.set(chunk, { item, where: { at: 'ready' } })
      this.#ready.set(chunk, item)
    }
  }

  /** Gives up one item of the lowest class below `of`; false when there is none. */
  #makeRoom(of: RepairClass): boolean {
    this.overflowed = true
    for (let index = repairClasses.length - 1; index > repairClasses.indexOf(of); index--) {
      for (const chunk of this.#byClass[index] ?? []) {
        if (this.#items.get(chunk)?.where.at === 'running') continue
        this.#remove(chunk)
        return true
      }
    }
    return false
  }

  #set(of: RepairClass): Set<ChunkId> {
    const chunks = this.#byClass[repairClasses.indexOf(of)]
    assert(chunks !== undefined, 'every class has its set')
    return chunks
  }
}

function inOrder(a: RepairItem<unknown>, b: RepairItem<unknown>): number {
  const byClass = repairClasses.indexOf(a.class) - repairClasses.indexOf(b.class)
  return byClass || a.attempts - b.attempts || a.sinceMs - b.sinceMs || a.chunk - b.chunk
}

function release(slots: Map<NodeId, number>, node: NodeId): void {
  const count = (slots.get(node) ?? 0) - 1
  assert(count >= 0, 'a released slot was taken')
  if (count === 0) slots.delete(node)
  else slots.set(node, count)
}
