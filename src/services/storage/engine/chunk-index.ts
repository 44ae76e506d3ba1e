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
import { indexKeys, isQuarantineKey, numberOfKey } from '../../../core/chunk/keyspace.ts'
import { decodeScrubCursor, encodeScrubCursor, type ScrubCursor } from '../../../core/chunk/scrub.ts'
import type { Freed, Location } from '../../../core/chunk/record.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { equalBytes, getU64 } from '../../../base/bytes.ts'
import type { ChunkId } from '../../../model/ids.ts'
import type { Kv, KvOperation } from '../../../ports/kv.ts'
import { IndexMemory } from './index-memory.ts'
import type { Recount } from './ledger.ts'

/** Ids with quarantined bytes that are remembered. */
const quarantinesMax = 65_536
/** A root begins at most here in a chunk record: behind a u32, the version and two integers. */
const rootAtMax = 32

/** What the index says of an id. `damaged`: there is a record and it does not check out. */
export type Held =
  | { readonly kind: 'held'; readonly record: ChunkRecord }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'none' }

export class ChunkIndex {
  readonly #kv: Kv
  readonly #sum: Sum
  readonly #memory = new IndexMemory()
  /** Ids that have or had quarantined bytes: those since the start, and all once the rest was read. */
  readonly #quarantined = new Set<ChunkId>()
  #quarantinesRead: Promise<void> | undefined

  constructor(kv: Kv, sum: Sum) {
    this.#kv = kv
    this.#sum = sum
  }

  /** `fresh`: what the index has, not what is remembered of it. */
  async get(id: ChunkId, fresh = false): Promise<Held> {
    if (!fresh && this.#memory.isAbsent(id)) return { kind: 'none' }
    const remembered = fresh ? undefined : this.#memory.recall(id)
    if (remembered !== undefined) return { kind: 'held', record: remembered }
    const reading = this.#memory.startReading(id)
    let record: ChunkRecord | undefined
    let value: Uint8Array | undefined
    try {
      value = await this.#kv.get(indexKeys.chunk(id))
      if (value !== undefined) record = decodeChunkRecord(id, value, this.#sum)
    } finally {
      this.#memory.endReading(reading, record, value?.length ?? 0)
    }
    if (value === undefined) {
      await this.#learnBlock(id)
      return { kind: 'none' }
    }
    return record === undefined ? { kind: 'damaged' } : { kind: 'held', record }
  }

  /** Looks once for the highest id held near `id`, so that new ids above it need no look-up. */
  async #learnBlock(id: ChunkId): Promise<void> {
    const block = this.#memory.unknownBlock(id)
    if (block === undefined) return
    const { from, to } = block
    try {
      let highest = 0
      const range = { gte: indexKeys.chunk(from), lt: indexKeys.chunk(to), reverse: true, limit: 1 }
      for await (const { key } of this.#kv.iterate(range)) highest = numberOfKey(key)
      this.#memory.blockKnown(from, highest)
    } catch (error) {
      this.#memory.blockUnknown(from)
      throw error
    }
  }

  /** True when a record that does not check out still has these bytes where a root is: damage is seldom everywhere. */
  async showsRoot(id: ChunkId, root: Uint8Array): Promise<boolean> {
    const value = await this.#kv.get(indexKeys.chunk(id))
    for (let at = 0; value !== undefined && at <= Math.min(rootAtMax, value.length - root.length); at++)
      if (equalBytes(value.subarray(at, at + root.length), root)) return true
    return false
  }

  async has(id: ChunkId): Promise<boolean> {
    if (this.#memory.isAbsent(id)) return false
    return (await this.#kv.get(indexKeys.chunk(id))) !== undefined
  }

  /** Places of quarantined bytes under `id`, as a record that deletes them names them. */
  async quarantinesOf(id: ChunkId): Promise<Freed[]> {
    this.#quarantinesRead ??= this.#readQuarantines().catch((error: unknown) => {
      this.#quarantinesRead = undefined
      throw error
    })
    await this.#quarantinesRead
    if (this.#quarantined.size <= quarantinesMax && !this.#quarantined.has(id)) return []
    const out: Freed[] = []
    for await (const { key, value } of this.#kv.iterate(indexKeys.quarantinesOf(id))) {
      // A damaged record leaves its span in the books: space that is lost until the index is rebuilt, never data.
      const span = decodeQuarantine(key, value, this.#sum)?.location.span ?? 0
      out.push({ extent: getU64(key, 9), payload: getU64(key, 17), span, held: false })
    }
    return out
  }

  /** Quarantined bytes by extent. A damaged record counts as one byte: its extent is kept. */
  async quarantinedBytes(): Promise<Map<number, number>> {
    const out = new Map<number, number>()
    for await (const { key, value } of this.#kv.iterate(indexKeys.quarantines())) {
      const extent = getU64(key, 9)
      const span = decodeQuarantine(key, value, this.#sum)?.location.span ?? 1
      out.set(extent, (out.get(extent) ?? 0) + span)
    }
    return out
  }

  /** Counts everything: one pass over the whole index. */
  async recount(): Promise<Recount> {
    const live = new Map<number, number>()
    const add = ({ extent, span }: Location): void => void live.set(extent, (live.get(extent) ?? 0) + span)
    let chunks = 0
    let exact = true
    for await (const { key, value } of this.#kv.iterate({ gte: indexKeys.chunk(0), lt: indexKeys.chunksEnd() })) {
      chunks++
      const record = decodeChunkRecord(numberOfKey(key), value, this.#sum)
      if (record === undefined) exact = false
      else add(record.location)
    }
    for await (const { key, value } of this.#kv.iterate(indexKeys.quarantines())) {
      const record = decodeQuarantine(key, value, this.#sum)
      if (record === undefined) exact = false
      else add(record.location)
    }
    return { chunks, live, exact }
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

  /** Quarantine is rare, deletes are not: what is known to have none is not looked up. */
  async #readQuarantines(): Promise<void> {
    const range = { ...indexKeys.quarantines(), limit: quarantinesMax + 1 }
    for await (const { key } of this.#kv.iterate(range)) this.#quarantined.add(numberOfKey(key))
  }

  /** Writes changes, unsynced. Callers keep one call in flight. */
  async apply(changes: readonly IndexChange[]): Promise<void> {
    this.#memory.changing(changes)
    for (const { type, key } of changes) {
      const added = type === 'put' && isQuarantineKey(key)
      if (added && this.#quarantined.size <= quarantinesMax) this.#quarantined.add(numberOfKey(key))
    }
    try {
      await this.#kv.batch(changes as readonly KvOperation[], { sync: false })
    } finally {
      this.#memory.changed(changes)
    }
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
  async saveCheckpoint(
    checkpoint: Checkpoint,
    live: readonly (readonly [number, number | undefined])[],
  ): Promise<void> {
    await this.#kv.flush()
    const operations: KvOperation[] = live.map(([extent, bytes]) =>
      bytes === undefined
        ? { type: 'del', key: indexKeys.extent(extent) }
        : { type: 'put', key: indexKeys.extent(extent), value: encodeExtentRecord(extent, bytes, this.#sum) },
    )
    operations.push({ type: 'put', key: indexKeys.checkpoint(), value: encodeCheckpoint(checkpoint, this.#sum) })
    await this.#kv.batch(operations, { sync: true })
  }

  /** True when the bytes at this place are kept under quarantine. */
  async isQuarantined(id: ChunkId, extent: number, payload: number): Promise<boolean> {
    return (await this.#kv.get(indexKeys.quarantine(id, extent, payload))) !== undefined
  }

  /** Quarantined bytes, by id, at most `limit`; a damaged record gives neither place nor finding. */
  async quarantines(limit: number): Promise<{ id: ChunkId; extent: number; finding: string | undefined }[]> {
    const out: { id: ChunkId; extent: number; finding: string | undefined }[] = []
    for await (const { key, value } of this.#kv.iterate({ ...indexKeys.quarantines(), limit })) {
      out.push({
        id: numberOfKey(key),
        extent: getU64(key, 9),
        finding: decodeQuarantine(key, value, this.#sum)?.finding,
      })
    }
    return out
  }

  /** Where the scrub was; undefined when that is not known. */
  async scrubCursor(): Promise<ScrubCursor | undefined> {
    const value = await this.#kv.get(indexKeys.scrubCursor())
    return value === undefined ? undefined : decodeScrubCursor(value, this.#sum)
  }

  /** Not synced: a cursor that is lost only repeats work. */
  saveScrubCursor(cursor: ScrubCursor): Promise<void> {
    const value = encodeScrubCursor(cursor, this.#sum)
    return this.#kv.batch([{ type: 'put', key: indexKeys.scrubCursor(), value }], { sync: false })
  }

  close(): Promise<void> {
    return this.#kv.close()
  }
}
