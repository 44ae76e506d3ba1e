/**
 * The index of a disk over the Kv port: what is held and where, and the checkpoint that says from which place of the log
 * on it must be replayed.
 *
 * Changes are written unsynced, in log order, one batch at a time (two in flight may land in either order); the log's
 * fdatasync is what an acknowledgement rests on. A checkpoint makes everything so far durable (Kv.flush) and then says so
 * in one synced batch, with the books of the same moment.
 */

import {
  type ChunkRecord,
  type Checkpoint,
  decodeCheckpoint,
  decodeChunkRecord,
  decodeExtentRecord,
  decodeQuarantine,
  encodeCheckpoint,
  encodeExtentRecord,
  type IndexChange,
} from '../../../core/chunk/index-record.ts'
import { indexKeys, numberOfKey } from '../../../core/chunk/keyspace.ts'
import type { Freed } from '../../../core/chunk/record.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { getU64 } from '../../../base/bytes.ts'
import type { ChunkId } from '../../../model/ids.ts'
import type { Kv, KvOperation } from '../../../ports/kv.ts'

/** What the index says of an id. `damaged`: there is a record and it does not check out. */
export type Held =
  | { readonly kind: 'held'; readonly record: ChunkRecord }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'none' }

export class ChunkIndex {
  readonly #kv: Kv
  readonly #sum: Sum

  constructor(kv: Kv, sum: Sum) {
    this.#kv = kv
    this.#sum = sum
  }

  async get(id: ChunkId): Promise<Held> {
    const value = await this.#kv.get(indexKeys.chunk(id))
    if (value === undefined) return { kind: 'none' }
    const record = decodeChunkRecord(id, value, this.#sum)
    return record === undefined ? { kind: 'damaged' } : { kind: 'held', record }
  }

  async has(id: ChunkId): Promise<boolean> {
    return (await this.#kv.get(indexKeys.chunk(id))) !== undefined
  }

  /** Places of quarantined bytes under `id`, as a record that deletes them names them. */
  async quarantinesOf(id: ChunkId): Promise<Freed[]> {
    const out: Freed[] = []
    for await (const { key, value } of this.#kv.iterate(indexKeys.quarantinesOf(id))) {
      // A damaged record leaves its span in the books: space that is lost until the index is rebuilt, never data.
      const span = decodeQuarantine(key, value, this.#sum)?.location.span ?? 0
      out.push({ extent: getU64(key, 9), payload: getU64(key, 17), span, held: false })
    }
    return out
  }

  /** Held ids from `from` to before `to`, ascending, at most `limit`. */
  async list(from: ChunkId, to: ChunkId, limit: number): Promise<ChunkId[]> {
    const ids: ChunkId[] = []
    const range = { gte: indexKeys.chunk(from), lt: indexKeys.chunk(to), limit }
    for await (const { key } of this.#kv.iterate(range)) ids.push(numberOfKey(key))
    return ids
  }

  /** Held chunks from `from` on, ascending, at most `limit`; without the record where it does not check out. */
  async records(from: ChunkId, limit: number): Promise<{ id: ChunkId; record: ChunkRecord | undefined }[]> {
    const out: { id: ChunkId; record: ChunkRecord | undefined }[] = []
    for await (const { key, value } of this.#kv.iterate({
      gte: indexKeys.chunk(from),
      lt: indexKeys.chunksEnd(),
      limit,
    })) {
      const id = numberOfKey(key)
      out.push({ id, record: decodeChunkRecord(id, value, this.#sum) })
    }
    return out
  }

  /** The highest id that is held, 0 when none is. */
  async highest(): Promise<ChunkId> {
    const range = { gte: indexKeys.chunk(0), lt: indexKeys.chunksEnd(), reverse: true, limit: 1 }
    for await (const { key } of this.#kv.iterate(range)) return numberOfKey(key)
    return 0
  }

  /** Writes changes, unsynced. Callers keep one call in flight. */
  apply(changes: readonly IndexChange[]): Promise<void> {
    return this.#kv.batch(changes as readonly KvOperation[], { sync: false })
  }

  /** The checkpoint, `damaged` when it does not check out, undefined when there is none. */
  async checkpoint(): Promise<Checkpoint | 'damaged' | undefined> {
    const value = await this.#kv.get(indexKeys.checkpoint())
    if (value === undefined) return undefined
    return decodeCheckpoint(value, this.#sum) ?? 'damaged'
  }

  /** Live bytes by extent as of the checkpoint; undefined when a figure is damaged. */
  async liveBytes(): Promise<Map<number, number> | undefined> {
    const live = new Map<number, number>()
    for await (const { key, value } of this.#kv.iterate(indexKeys.extents())) {
      const bytes = decodeExtentRecord(numberOfKey(key), value, this.#sum)
      if (bytes === undefined) return undefined
      live.set(numberOfKey(key), bytes)
    }
    return live
  }

  /** Makes all changes whose `apply` has returned durable, then the checkpoint and the changed figures with it. */
  async saveCheckpoint(checkpoint: Checkpoint, live: readonly (readonly [number, number])[]): Promise<void> {
    await this.#kv.flush()
    const operations: KvOperation[] = live.map(([extent, bytes]) =>
      bytes === 0
        ? { type: 'del', key: indexKeys.extent(extent) }
        : { type: 'put', key: indexKeys.extent(extent), value: encodeExtentRecord(extent, bytes, this.#sum) },
    )
    operations.push({ type: 'put', key: indexKeys.checkpoint(), value: encodeCheckpoint(checkpoint, this.#sum) })
    await this.#kv.batch(operations, { sync: true })
  }

  close(): Promise<void> {
    return this.#kv.close()
  }
}
