/**
 * Physical deletes: what a committed entry moved to `deleting` (or what is an orphan) is ordered away, disk by disk.
 *
 * An order is given only for what the state still says is to go at that moment: what was queued may be out of date, and
 * a replica that was deleted and forgotten may have been copied to the same disk again. `pending` is true from before
 * that look until the answer, and no copy of the chunk to the disk starts meanwhile; so what is found to go stays so.
 * One order is outstanding for a disk. Only nodes that attached in this term get orders, and none while deletes are held.
 */

import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import type { Sessions } from './sessions.ts'
import { Pump, type Term } from './term.ts'

export interface DeleteParts {
  readonly sessions: Sessions
  /** Those of `chunks` that are orphans on the disk now, after a barrier; none that is being copied there. */
  orphans(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<ChunkId[]>
}

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
  readonly #parts: DeleteParts
  readonly #disks = new Map<DiskNumber, DiskQueue>()
  /** Disks for which something was not taken for lack of room: to be scanned again. */
  readonly overflowed = new Set<DiskNumber>()
  #pending = 0

  constructor(term: Term, parts: DeleteParts) {
    this.#term = term
    this.#parts = parts
    this.#sessions = parts.sessions
  }

  /** A replica that a committed entry moved to `deleting`. */
  add(disk: DiskNumber, chunk: ChunkId): void {
    this.#put(disk, chunk, this.#queue(disk).chunks)
  }

  /** Chunks that the disk holds and nobody refers to; looked at once more before the order. */
  addOrphans(disk: DiskNumber, chunks: readonly ChunkId[]): void {
    for (const chunk of chunks) this.#put(disk, chunk, this.#queue(disk).orphans)
  }

  /** True while the deletion of the chunk on the disk is waiting or under way. */
  pending(disk: DiskNumber, chunk: ChunkId): boolean {
    const queue = this.#disks.get(disk)
    if (queue === undefined) return false
    return queue.chunks.has(chunk) || queue.orphans.has(chunk) || queue.outstanding.has(chunk)
  }

  /** Deletes are no longer held. */
  resume(): void {
    for (const { pump } of this.#disks.values()) pump.kick()
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
      if (this.#term.deletesHeld || this.#sessions.ofDisk(disk) === undefined) return
      await this.#batch(disk, queue, queue.chunks, true)
      await this.#batch(disk, queue, queue.orphans, false)
    }
  }

  async #batch(disk: DiskNumber, queue: DiskQueue, from: Set<ChunkId>, committed: boolean): Promise<void> {
    const session = this.#sessions.ofDisk(disk)
    const generation = session?.disks.find((known) => known.number === disk)?.generation
    if (session === undefined || generation === undefined || from.size === 0 || this.#term.deletesHeld) return
    const chosen = firstOf(from, batchMax)
    for (const id of chosen) {
      from.delete(id)
      queue.outstanding.add(id)
    }
    this.#pending -= chosen.length
    try {
      const ids = committed ? await this.#deleting(disk, chosen) : await this.#parts.orphans(disk, chosen)
      if (ids.length === 0) return
      // A look at the state takes a while: what it says now is what counts.
      if (this.#term.deletesHeld) throw new StoreError('UNAVAILABLE', 'delete replicas: deletes are held')
      const done = await session.orders.give({ delete: { disk, generation, ids } }, deadlineMs)
      const kept = new Set(done.ids)
      const gone = ids.filter((id) => !kept.has(id))
      if (committed && gone.length > 0) await this.#deleted(disk, done.generation, gone)
      if (!committed) this.#term.log.info('orphans deleted', { disk, chunks: gone.length })
      this.#term.env.metrics.count('holdfast_deleted_replicas_total', 'Replicas deleted by order.', gone.length)
    } catch (error) {
      // A replica in `deleting` is found again by the scan of its disk, an orphan by the next report. A failed disk does
      // nothing more before it is registered anew.
      const over = !isStoreError(error) || error.code === 'UNAVAILABLE' || error.code === 'DISK_FAILED'
      if (committed && !over) this.#term.after(1000, () => chosen.forEach((id) => this.add(disk, id)))
      throw error
    } finally {
      for (const id of chosen) queue.outstanding.delete(id)
    }
  }

  /** Those of `chunks` whose replica on the disk is in `deleting` still; from there it never returns. */
  async #deleting(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<ChunkId[]> {
    const records = await this.#term.queries.chunks(chunks)
    return chunks.filter(
      (_chunk, i) => records[i]?.replicas.some((one) => one.disk === disk && one.state === 'deleting') === true,
    )
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
