/**
 * Physical deletes: what a committed entry moved to `deleting` (or what is an orphan) is ordered away, disk by disk.
 *
 * A replica in `deleting` never comes back, so an order may be repeated at any time. One order is outstanding for a
 * disk; while it is, `pending` says so, for no copy of such a chunk may be sent to that disk meanwhile. Only nodes that
 * attached in this term get orders.
 */

import { isStoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import type { Sessions } from './sessions.ts'
import { Pump, type Term } from './term.ts'

interface DiskQueue {
  readonly chunks: Set<ChunkId>
  readonly orphans: Set<ChunkId>
  readonly outstanding: Set<ChunkId>
  readonly pump: Pump
}

/** Ids of one order: well below the 4,096 it may hold, so that a node answers within the deadline. */
const batchMax = 1000
const pendingMax = 262_144
const deadlineMs = 20_000

export class Deletes {
  readonly #term: Term
  readonly #sessions: Sessions
  readonly #disks = new Map<DiskNumber, DiskQueue>()
  /** Disks for which something was not taken for lack of room: to be scanned again. */
  readonly overflowed = new Set<DiskNumber>()
  #pending = 0

  constructor(term: Term, sessions: Sessions) {
    this.#term = term
    this.#sessions = sessions
  }

  /** A replica that a committed entry moved to `deleting`. */
  add(disk: DiskNumber, chunk: ChunkId): void {
    this.#put(disk, chunk, this.#queue(disk).chunks)
  }

  /** Chunks that the disk holds and nobody refers to: the caller has made sure after a barrier. */
  addOrphans(disk: DiskNumber, chunks: readonly ChunkId[]): void {
    for (const chunk of chunks) this.#put(disk, chunk, this.#queue(disk).orphans)
  }

  /** True while the deletion of the chunk on the disk is waiting or under way. */
  pending(disk: DiskNumber, chunk: ChunkId): boolean {
    const queue = this.#disks.get(disk)
    if (queue === undefined) return false
    return queue.chunks.has(chunk) || queue.orphans.has(chunk) || queue.outstanding.has(chunk)
  }

  /** Its node attached. */
  attached(disk: DiskNumber): void {
    this.#disks.get(disk)?.pump.kick()
  }

  #put(disk: DiskNumber, chunk: ChunkId, into: Set<ChunkId>): void {
    if (into.has(chunk)) return
    if (this.#pending >= pendingMax) {
      this.overflowed.add(disk)
      return
    }
    into.add(chunk)
    this.#pending++
    this.#queue(disk).pump.kick()
  }

  #queue(disk: DiskNumber): DiskQueue {
    const known = this.#disks.get(disk)
    if (known !== undefined) return known
    const pump = new Pump(this.#term, 'delete replicas', () => this.#pass(disk))
    const queue: DiskQueue = { chunks: new Set(), orphans: new Set(), outstanding: new Set(), pump }
    this.#disks.set(disk, queue)
    return queue
  }

  async #pass(disk: DiskNumber): Promise<void> {
    const queue = this.#queue(disk)
    while (queue.chunks.size + queue.orphans.size > 0) {
      if (this.#sessions.ofDisk(disk) === undefined) return
      await this.#batch(disk, queue, queue.chunks, true)
      await this.#batch(disk, queue, queue.orphans, false)
    }
  }

  async #batch(disk: DiskNumber, queue: DiskQueue, from: Set<ChunkId>, committed: boolean): Promise<void> {
    const session = this.#sessions.ofDisk(disk)
    const generation = session?.disks.find((known) => known.number === disk)?.generation
    if (session === undefined || generation === undefined || from.size === 0) return
    const ids = firstOf(from, batchMax)
    for (const id of ids) {
      from.delete(id)
      queue.outstanding.add(id)
    }
    this.#pending -= ids.length
    try {
      const done = await session.orders.give({ delete: { disk, generation, ids } }, deadlineMs)
      const kept = new Set(done.ids)
      const gone = ids.filter((id) => !kept.has(id))
      if (committed && gone.length > 0) await this.#deleted(disk, done.generation, gone)
      if (!committed) this.#term.log.info('orphans deleted', { disk, chunks: gone.length })
      this.#term.env.metrics.count('holdfast_deleted_replicas_total', 'Replicas deleted by order.', gone.length)
    } catch (error) {
      // A replica in `deleting` is found again by the scan of its disk, an orphan by the next report.
      const again = committed && isStoreError(error) && error.code !== 'UNAVAILABLE'
      if (again) this.#term.after(1000, () => ids.forEach((id) => this.add(disk, id)))
      throw error
    } finally {
      for (const id of ids) queue.outstanding.delete(id)
    }
  }

  async #deleted(disk: DiskNumber, generation: number, chunks: readonly ChunkId[]): Promise<void> {
    const reply = await this.#term.propose({ kind: 'deleted', disk, generation, chunks })
    if (!reply.ok) this.#term.log.warn('deleted replicas not noted', { disk, code: reply.code, reason: reply.message })
  }
}

function firstOf(from: ReadonlySet<ChunkId>, count: number): ChunkId[] {
  const out: ChunkId[] = []
  for (const id of from) {
    if (out.length >= count) break
    out.push(id)
  }
  return out.sort((a, b) => a - b)
}
