/**
 * Carries out what the meta leader orders: report, check, copy, verify, delete.
 *
 * Each order has a deadline, shorter here than at the leader, and is answered exactly once while its stream lives; when
 * the stream ends, what runs is given up (the next leader asks again). Copies run in one lane, the rest in a lane for each
 * disk, all with few at once and a bounded queue: a long copy never delays a check, nor does another disk that hangs.
 * Invariant: a delete is begun only for the disk's current generation and before its deadline.
 */

import { asStoreError, StoreError } from '../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../model/ids.ts'
import { limits } from '../../model/limits.ts'
import type { Env } from '../../ports/env.ts'
import { exactBytes, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { copyChunk } from './copier.ts'
import type { Disks, DiskSlot } from './disks.ts'

type MetaOrder = holdfast.v1.MetaOrder
type ResultOut = holdfast.v1.OrderResult.$Properties

/** Where answers go: the attach stream. */
export interface OrderReplies {
  result(result: ResultOut): void
  /** False: wait for `drained` before the next page. */
  report(report: holdfast.v1.RangeReport.$Properties): boolean
  drained(): Promise<void>
}

const queueMax = 1024
const copiesAtOnce = 4
const othersAtOnce = 4
/** An order without a deadline gets this one. */
const deadlineMsDefault = 60_000

interface Outcome {
  readonly ids?: readonly ChunkId[]
  readonly bytes?: number
}

/** One lane: some at once, the rest in order, bounded. */
class Lane {
  readonly #atOnce: number
  readonly #queue: (() => Promise<void>)[] = []
  #running = 0

  constructor(atOnce: number) {
    this.#atOnce = atOnce
  }

  /** False when the queue is full. `work` must not reject. */
  add(work: () => Promise<void>): boolean {
    if (this.#queue.length >= queueMax) return false
    this.#queue.push(work)
    this.#pump()
    return true
  }

  clear(): void {
    this.#queue.length = 0
  }

  #pump(): void {
    while (this.#running < this.#atOnce) {
      const work = this.#queue.shift()
      if (work === undefined) return
      this.#running += 1
      const ended = (): void => {
        this.#running -= 1
        this.#pump()
      }
      work().then(ended, ended)
    }
  }
}

/** The orders of one attach stream. */
export class Orders {
  readonly #env: Env
  readonly #disks: Disks
  readonly #replies: OrderReplies
  readonly #copies = new Lane(copiesAtOnce)
  /** By disk; 0 for disks that this node does not have, which are answered at once. */
  readonly #others = new Map<DiskNumber, Lane>()
  readonly #over = new AbortController()

  constructor(env: Env, disks: Disks, replies: OrderReplies) {
    this.#env = env
    this.#disks = disks
    this.#replies = replies
  }

  /** Takes one order; it is answered later, or not at all when the stream ends first. */
  take(message: MetaOrder): void {
    const order = safeCounter(message.order, 'order')
    const deadlineMs = safeCounter(message.deadlineMs, 'deadline_ms') || deadlineMsDefault
    const due = this.#env.clock.monotonicMs() + deadlineMs
    const lane = message.copy ? this.#copies : this.#laneOf(message)
    if (!lane.add(() => this.#run(order, message, due))) {
      const full = new StoreError('OVERLOADED', `order ${order}: ${queueMax} orders like it are queued on this node`)
      this.#answer(order, 0, full)
    }
  }

  #laneOf(message: MetaOrder): Lane {
    const named = bodyOf(message)?.disk ?? 0
    const disk = this.#disks.find(named) === undefined ? 0 : named
    const lane = this.#others.get(disk) ?? new Lane(othersAtOnce)
    this.#others.set(disk, lane)
    return lane
  }

  /** The stream is over: gives up everything. */
  stop(): void {
    this.#copies.clear()
    for (const lane of this.#others.values()) lane.clear()
    this.#over.abort()
  }

  async #run(order: number, message: MetaOrder, due: number): Promise<void> {
    if (this.#over.signal.aborted) return
    const stop = new AbortController()
    const abort = (): void => stop.abort()
    this.#over.signal.addEventListener('abort', abort)
    const leftMs = due - this.#env.clock.monotonicMs()
    // At once when it waited past its deadline: the timer would let it begin first.
    if (leftMs <= 0) abort()
    const timer = this.#env.clock.after(Math.max(0, leftMs), abort)
    let slot: DiskSlot | undefined
    try {
      slot = this.#slotOf(message)
      const outcome = await this.#carryOut(order, message, slot, stop.signal)
      if (outcome !== undefined) this.#answer(order, slot.generation, undefined, outcome)
    } catch (error) {
      this.#answer(order, slot?.generation ?? 0, asStoreError(error, `order ${order}`))
    } finally {
      timer.cancel()
      this.#over.signal.removeEventListener('abort', abort)
    }
  }

  #answer(order: number, generation: number, error: StoreError | undefined, outcome: Outcome = {}): void {
    if (this.#over.signal.aborted) return
    this.#replies.result({
      order,
      generation,
      code: error?.code ?? '',
      message: error?.message ?? '',
      ids: [...(outcome.ids ?? [])],
      bytes: outcome.bytes ?? 0,
    })
  }

  #slotOf(message: MetaOrder): DiskSlot {
    const body = bodyOf(message)
    if (!body) throw new StoreError('INCOMPATIBLE_VERSION', 'this order is of a kind that this node does not know')
    const slot = this.#disks.find(safeCounter(body.disk, 'disk'))
    if (slot === undefined) throw new StoreError('NOT_FOUND', `this node has no disk ${body.disk}`)
    if (slot.failed) throw new StoreError('DISK_FAILED', `disk ${body.disk} is out of service`)
    return slot
  }

  async #carryOut(
    order: number,
    message: MetaOrder,
    slot: DiskSlot,
    signal: AbortSignal,
  ): Promise<Outcome | undefined> {
    if (message.reportRange) return this.#reportRange(order, slot, message.reportRange, signal)
    if (message.check) {
      const ids = chunkIds(message.check.ids)
      return { ids: await slot.engine.missing(ids, chunkRoots(message.check)) }
    }
    if (message.verify) return this.#verify(slot, chunkIds(message.verify.ids), chunkRoots(message.verify), signal)
    if (message.delete) return this.#delete(slot, message.delete, signal)
    if (message.copy) return this.#copy(slot, message.copy, signal)
    if (message.scrub) return directScrub(slot, message.scrub)
    throw new StoreError('INCOMPATIBLE_VERSION', 'this order is of a kind that this node does not know')
  }

  async #reportRange(
    order: number,
    slot: DiskSlot,
    range: holdfast.v1.ReportRange,
    signal: AbortSignal,
  ): Promise<undefined> {
    const to = safeCounter(range.to, 'to')
    let from = safeCounter(range.from, 'from')
    for (;;) {
      const page = await slot.engine.list(from, to, limits.reportPageMax)
      checkTime(signal)
      const until = from >= to ? to : page.until
      const more = this.#replies.report({ order, disk: slot.number ?? 0, ids: page.ids, until })
      if (until >= to) return undefined
      from = until
      if (!more) await this.#replies.drained()
      checkTime(signal)
    }
  }

  async #verify(
    slot: DiskSlot,
    ids: readonly ChunkId[],
    roots: readonly Uint8Array[],
    signal: AbortSignal,
  ): Promise<Outcome> {
    const broken: ChunkId[] = []
    for (const [i, id] of ids.entries()) {
      checkTime(signal)
      if ((await slot.engine.verify(id, roots[i])) !== 'intact') broken.push(id)
    }
    return { ids: broken }
  }

  async #delete(slot: DiskSlot, order: holdfast.v1.Delete, signal: AbortSignal): Promise<Outcome> {
    if (order.generation !== slot.generation) {
      throw new StoreError(
        'FENCED',
        `delete on disk ${order.disk}: ordered for generation ${order.generation}, it is ${slot.generation}`,
      )
    }
    const ids = chunkIds(order.ids)
    // Past its deadline the leader may have had the chunks copied here again.
    checkTime(signal)
    await slot.engine.delete(ids)
    return {}
  }

  async #copy(slot: DiskSlot, order: holdfast.v1.Copy, signal: AbortSignal): Promise<Outcome> {
    const copy = {
      chunk: safeCounter(order.chunk, 'chunk'),
      length: safeCounter(order.length, 'length', limits.chunkBytesMax),
      root: exactBytes(order.root, 'root', 8).slice(),
      sources: order.sources.map(({ disk, node, addresses }) => ({ disk, node, addresses: [...addresses] })),
      replace: order.replace,
    }
    return { bytes: await copyChunk(this.#env, slot.engine, copy, signal) }
  }
}

/** What is ordered; nothing when this node does not know its kind. */
function bodyOf(message: MetaOrder): { readonly disk: DiskNumber } | null | undefined {
  return message.reportRange ?? message.check ?? message.copy ?? message.verify ?? message.delete ?? message.scrub
}

function directScrub({ engine }: DiskSlot, { action }: holdfast.v1.Scrub): Outcome {
  if (action === 'start') engine.startScrub()
  else if (action === 'pause') engine.pauseScrub()
  else if (action === 'resume') engine.resumeScrub()
  else throw new StoreError('INCOMPATIBLE_VERSION', `this node cannot ${JSON.stringify(action.slice(0, 20))} its scrub`)
  return {}
}

function chunkIds(ids: readonly number[]): ChunkId[] {
  if (ids.length > limits.reportPageMax) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `an order names ${ids.length} chunks: at most ${limits.reportPageMax} are allowed`,
    )
  }
  return ids.map((id) => safeCounter(id, 'ids'))
}

/** Roots in the order of the ids, empty for any; none at all when the leader compares none. */
function chunkRoots({
  ids,
  roots,
}: {
  readonly ids: readonly number[]
  readonly roots: readonly Uint8Array[]
}): Uint8Array[] {
  if (roots.length !== 0 && roots.length !== ids.length) {
    throw new StoreError('INVALID_ARGUMENT', `an order names ${ids.length} chunks and ${roots.length} roots`)
  }
  return roots.map((root) => (root.length === 0 ? root : exactBytes(root, 'roots', 8)))
}

function checkTime(signal: AbortSignal): void {
  if (signal.aborted) throw new StoreError('TIMEOUT', "not done before the order's deadline")
}
