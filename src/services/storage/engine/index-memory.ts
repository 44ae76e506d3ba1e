/**
 * What a disk remembers of its index, so that the common questions need no look into LevelDB: records read lately, and
 * the highest id held in each block of ids (a put of a new id asks whether the id is held; ids of a writer lease come in
 * ascending order, so it is nearly always above all that are).
 *
 * Invariants: a remembered record is the one in the index: every change passes here before it is written (`changing`) and
 * after (`changed`), and what was read across a change is not remembered. An id above a known top is not held. Bounded in
 * bytes and in blocks.
 */

import { assert } from '../../../base/assert.ts'
import { chunkIdOfKey } from '../../../core/chunk/keyspace.ts'
import type { ChunkRecord, IndexChange } from '../../../core/chunk/index-record.ts'
import type { ChunkId } from '../../../model/ids.ts'

const bytesMax = 16 * 1024 * 1024
/** What a decoded record costs beside the bytes of its value. */
const recordOverhead = 400
const blockIds = 65_536
const blocksMax = 1024

interface Remembered {
  readonly record: ChunkRecord
  readonly bytes: number
}

interface Top {
  id: ChunkId
  /** False until the index was asked; changes are followed from before that on. */
  known: boolean
}

/** Reads of one id under way, and how often it changed since the first of them began. */
interface Reads {
  count: number
  changes: number
}

/** A read under way; what it gives is remembered unless its id changed meanwhile. */
export interface Reading {
  readonly id: ChunkId
  readonly changes: number
}

export class IndexMemory {
  /** Least recently used first. */
  readonly #records = new Map<ChunkId, Remembered>()
  readonly #reads = new Map<ChunkId, Reads>()
  readonly #changing = new Map<ChunkId, number>()
  readonly #tops = new Map<number, Top>()
  #bytes = 0

  recall(id: ChunkId): ChunkRecord | undefined {
    const found = this.#records.get(id)
    if (found === undefined) return undefined
    this.#records.delete(id)
    this.#records.set(id, found)
    return found.record
  }

  /** True when it is known that nothing is held under the id. */
  isAbsent(id: ChunkId): boolean {
    const top = this.#tops.get(Math.floor(id / blockIds))
    return top?.known === true && id > top.id
  }

  /** The ids around `id` whose highest held one is worth knowing and not known yet, end exclusive. */
  unknownBlock(id: ChunkId): { from: ChunkId; to: ChunkId } | undefined {
    const block = Math.floor(id / blockIds)
    if (this.#tops.has(block)) return undefined
    this.#evictTop()
    this.#tops.set(block, { id: 0, known: false })
    return { from: block * blockIds, to: (block + 1) * blockIds }
  }

  /** The index was asked: `highest` is the highest held id of the block from `from` on, 0 when none is. */
  blockKnown(from: ChunkId, highest: ChunkId): void {
    const top = this.#tops.get(from / blockIds)
    if (top === undefined) return
    top.id = Math.max(top.id, highest)
    top.known = true
  }

  /** It could not be asked. */
  blockUnknown(from: ChunkId): void {
    this.#tops.delete(from / blockIds)
  }

  #evictTop(): void {
    if (this.#tops.size < blocksMax) return
    for (const [block, { known }] of this.#tops) {
      if (!known) continue
      this.#tops.delete(block)
      return
    }
  }

  startReading(id: ChunkId): Reading {
    const reads = this.#reads.get(id) ?? { count: 0, changes: 0 }
    reads.count++
    this.#reads.set(id, reads)
    return { id, changes: reads.changes }
  }

  /** The reading is over; `valueBytes` gave `record`, undefined when there is nothing worth remembering. */
  endReading({ id, changes }: Reading, record: ChunkRecord | undefined, valueBytes: number): void {
    const reads = this.#reads.get(id)
    assert(reads !== undefined, 'a reading ends once')
    reads.count--
    if (reads.count === 0) this.#reads.delete(id)
    // Bytes of small chunks stay where they are: the page cache has them, and what is checked is the index, not a copy.
    if (record === undefined || record.inline !== undefined) return
    if (reads.changes !== changes || this.#changing.has(id)) return
    this.#forget(id)
    const bytes = valueBytes + recordOverhead
    this.#records.set(id, { record, bytes })
    this.#bytes += bytes
    for (const oldest of this.#records.keys()) {
      if (this.#bytes <= bytesMax) return
      this.#forget(oldest)
    }
  }

  #forget(id: ChunkId): void {
    const found = this.#records.get(id)
    if (found === undefined) return
    this.#records.delete(id)
    this.#bytes -= found.bytes
  }

  /** These changes are about to be written. */
  changing(changes: readonly IndexChange[]): void {
    for (const { type, key } of changes) {
      const id = chunkIdOfKey(key)
      if (id === undefined) continue
      this.#changing.set(id, (this.#changing.get(id) ?? 0) + 1)
      this.#forget(id)
      if (type === 'put') this.#raiseTop(id)
    }
  }

  #raiseTop(id: ChunkId): void {
    const top = this.#tops.get(Math.floor(id / blockIds))
    if (top !== undefined) top.id = Math.max(top.id, id)
  }

  /** They were written, or nobody knows: the disk is finished then. */
  changed(changes: readonly IndexChange[]): void {
    for (const { type, key } of changes) {
      const id = chunkIdOfKey(key)
      if (id === undefined) continue
      // Again: who asked for the top while this was on its way may not have seen it.
      if (type === 'put') this.#raiseTop(id)
      const reads = this.#reads.get(id)
      if (reads !== undefined) reads.changes++
      const count = (this.#changing.get(id) ?? 1) - 1
      if (count === 0) this.#changing.delete(id)
      else this.#changing.set(id, count)
    }
  }
}
