/**
 * Moves what is of use out of one extent: read, checked, appended again as a record that frees the old place.
 *
 * Invariants (docs/RULES.md, rule 5):
 * - A move is a `put` record of the same chunk that frees its old place, appended under the id's lock after the place was
 *   looked up again: a delete, a replacement or a quarantine that came first wins.
 * - Bytes are checked against the chunk's sums before they are appended; what does not match is quarantined where it is.
 * - What is quarantined is not moved.
 * - A chunk whose index record is damaged is appended again from here; while there is one whose place is not known, the
 *   books of no extent are put right.
 * - What the extent's records hide or quarantine elsewhere is said again (core/chunk/tombstones.ts).
 * Memory: one window, one slot of the arena, and a batch of small chunks.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { type ChunkRecord, freedBy } from '../../../core/chunk/index-record.ts'
import { alignUp, firstGroupOffset, sectorBytes } from '../../../core/chunk/position.ts'
import {
  type Freed,
  type Location,
  type LogRecord,
  type PutRecord,
  quarantineAgain,
  type QuarantineLogRecord,
} from '../../../core/chunk/record.ts'
import { blockSumsOf, firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { shadowsOf } from '../../../core/chunk/tombstones.ts'
import { ioErrorClass } from '../../../core/health/disk.ts'
import { isStoreError } from '../../../model/errors.ts'
import type { ChunkId } from '../../../model/ids.ts'
import type { Arena } from './arena.ts'
import type { LogCopy } from './damaged.ts'
import { type Content, ExtentWalk, walkBufferBytes } from './extent-walk.ts'
import type { HeldExtent } from './extent-table.ts'
import type { KeyedLocks } from './keyed-locks.ts'
import type { DiskParts } from './open.ts'
import type { Replicas } from './replicas.ts'
import type { DiskDeps } from './types.ts'

/** Small chunks appended at once. */
const batchBytes = 512 * 1024
const batchRecords = 1024
/** Index records read at once by the search for what the headers do not show. */
const pageRecords = 256
/** About what reading one of them costs. */
const recordBytes = 256

export interface MoverParts {
  readonly path: string
  readonly deps: DiskDeps
  readonly disk: DiskParts
  readonly sum: Sum
  readonly locks: KeyedLocks
  readonly arena: Arena
  readonly replicas: Replicas
}

/** What a mover asks before each step, and whom it tells. */
export interface MoverPass {
  readonly signal: AbortSignal
  over(): boolean
  /** Waits until `bytes` may be read or written. False when it is over. */
  allow(bytes: number): Promise<boolean>
  /** A chunk of so many bytes has another place now. */
  moved(bytes: number): void
  /** Something went wrong that does not end the work. */
  failed(error: unknown): void
}

export class Mover {
  readonly #parts: MoverParts
  readonly #pass: MoverPass
  #buffer: Uint8Array | undefined

  constructor(parts: MoverParts, pass: MoverPass) {
    this.#parts = parts
    this.#pass = pass
  }

  /** Moves what the extent's own headers show, and carries on what it hides. False when it was stopped before the end. */
  async walk(held: HeldExtent): Promise<boolean> {
    this.#buffer ??= this.#parts.deps.extents.arena(walkBufferBytes)
    const walk = new ExtentWalk(held, this.#parts.sum, this.#buffer, true)
    let batch: Content[] = []
    let bytes = 0
    const flush = async (): Promise<void> => {
      const items = batch
      batch = []
      bytes = 0
      await this.#all(items.map((content) => this.#moveSmall(content, held)))
    }
    try {
      for await (const group of walk.groups(firstGroupOffset, held.file.size - sectorBytes)) {
        if (!(await this.#pass.allow(sectorBytes))) return false
        for (const content of (await walk.contents(group)).contents) {
          const { record, location, inline } = content
          if (record.kind === 'put' && inline === undefined) await this.#moveLarge(record, location, held)
          else {
            batch.push({ location, inline, record: keptOf(record) })
            bytes += inline?.length ?? 0
          }
          if (bytes < batchBytes && batch.length < batchRecords) continue
          if (!(await this.#pass.allow(bytes))) return false
          await flush()
        }
      }
      if (!(await this.#pass.allow(bytes))) return false
    } catch (error) {
      // A header that cannot be read hides records: they are found by the index.
      if (isStoreError(error) && error.code !== 'IO') throw error
      this.#pass.failed(error)
    }
    await flush()
    return !this.#pass.over()
  }

  /** All of them: one that fails must not leave others behind its back. */
  async #all(work: readonly Promise<unknown>[]): Promise<void> {
    for (const end of await Promise.allSettled(work)) if (end.status === 'rejected') throw end.reason
  }

  #inUse(extent: number): boolean {
    return this.#parts.disk.table.has(extent)
  }

  /** The chunk's record when the index has it at this place; `damaged` when it does not say where it has it. */
  async #current(id: ChunkId, { extent, payload }: Location): Promise<ChunkRecord | 'damaged' | undefined> {
    const known = await this.#parts.disk.index.get(id)
    if (known.kind === 'damaged') return 'damaged'
    if (known.kind === 'none') return undefined
    const { location } = known.record
    return location.extent === extent && location.payload === payload ? known.record : undefined
  }

  /** A small chunk, a tombstone, or a quarantine: under the id's lock all is known. */
  async #moveSmall({ record, location, inline }: Content, held: HeldExtent): Promise<void> {
    if (record.kind === 'quarantine') return this.#sayAgain(record, location.extent)
    const { id } = record
    const shadows = shadowsOf(record.frees, location.extent, (extent) => this.#inUse(extent))
    if (inline === undefined && shadows.length === 0) return
    let rotten: ChunkRecord | 'damaged' | undefined
    await this.#parts.locks.run([id], async () => {
      const current = inline === undefined ? undefined : await this.#current(id, location)
      if (current === undefined || inline === undefined) return this.#carry(id, shadows)
      if (current === 'damaged') {
        rotten = current
        return
      }
      if (inline.length !== current.length || !equalBytes(blockSumsOf(this.#parts.sum, inline), current.blockSums)) {
        rotten = current
        return
      }
      await this.#append(id, current, shadows, { inline })
    })
    if (rotten === undefined) return
    if (rotten === 'damaged') {
      if (record.kind === 'put') await this.#restore({ put: record, location, inline, shadows }, held)
      return
    }
    const finding = 'its bytes in the log do not match their checksum'
    const { replicas } = this.#parts
    if (!(await replicas.healLog(id, rotten, finding))) await replicas.bad(id, rotten, finding)
  }

  /** Quarantined bytes elsewhere stay known, as long as they are kept. */
  #sayAgain(record: QuarantineLogRecord, from: number): Promise<void> {
    const { id, location } = record
    return this.#parts.locks.run([id], async () => {
      const { index, log } = this.#parts.disk
      const { extent, payload } = location
      if (extent === from || !this.#inUse(extent) || !(await index.isQuarantined(id, extent, payload))) return
      await log.append({ record: quarantineAgain(record), move: true })
    })
  }

  /** Under the id's lock. A deleted chunk stays deleted whatever is recycled; one that is here hides older copies itself. */
  async #carry(id: ChunkId, shadows: readonly Freed[]): Promise<void> {
    const { index, log } = this.#parts.disk
    if (shadows.length === 0 || (await index.has(id)) || (await index.quarantinesOf(id)).length > 0) return
    await log.append({ record: { kind: 'delete', id, frees: [...shadows] }, move: true })
  }

  /** Under the id's lock, which was held since `current` was looked up. */
  async #append(
    id: ChunkId,
    current: ChunkRecord,
    shadows: readonly Freed[],
    content: { inline?: Uint8Array; payload?: Uint8Array },
  ): Promise<void> {
    const { length, lease, root, blockSums, location } = current
    const frees = [freedBy(location, true), ...shadows]
    await this.#parts.disk.log.append({
      record: { kind: 'put', id, length, lease, root, blockSums, frees },
      ...content,
      move: true,
    })
    this.#pass.moved(location.span)
  }

  /** The index does not know where it has the chunk, the log's record is here. */
  async #restore(copy: LogCopy, held: HeldExtent): Promise<void> {
    const { damaged } = this.#parts.replicas
    if (await damaged.restore(copy, held)) this.#pass.moved(copy.location.span)
    else await damaged.note(copy.put.id)
  }

  async #moveLarge(put: PutRecord, place: Location, held: HeldExtent): Promise<void> {
    const { locks, arena, sum, replicas } = this.#parts
    const { id } = put
    const shadows = shadowsOf(put.frees, place.extent, (extent) => this.#inUse(extent))
    const seen = await this.#current(id, place)
    if (seen === undefined) {
      if (shadows.length > 0) await locks.run([id], () => this.#carry(id, shadows))
      return
    }
    if (!(await this.#pass.allow(2 * place.span))) return
    if (seen === 'damaged') return this.#restore({ put, location: place, inline: undefined, shadows }, held)
    const slot = await arena.take(sectorBytes + alignUp(seen.length), this.#pass.signal)
    try {
      const payload = slot.bytes.subarray(sectorBytes)
      const finding = await this.#read(held, seen, payload, sum)
      if (finding !== undefined) return await replicas.bad(id, seen, finding)
      payload.fill(0, seen.length)
      await locks.run([id], async () => {
        const current = await this.#current(id, place)
        if (current !== undefined && current !== 'damaged')
          await this.#append(id, current, shadows, { payload: slot.bytes })
      })
    } finally {
      slot.release()
    }
  }

  /** Fills `into` with a large chunk from the disk; gives what is wrong with it. */
  async #read(held: HeldExtent, record: ChunkRecord, into: Uint8Array, sum: Sum): Promise<string | undefined> {
    const { file } = held
    const { payload } = record.location
    try {
      const read = await (file.readDirect?.(into, payload) ?? file.read(into, payload))
      if (read < record.length) return 'its extent ends early'
    } catch (error) {
      if (ioErrorClass(error) === 'other') throw error
      return `it cannot be read: ${error instanceof Error ? error.message : String(error)}`
    }
    const bad = firstBadBlock(sum, into.subarray(0, record.length), 0, record.blockSums)
    return bad === undefined ? undefined : `block ${bad} does not match its checksum`
  }

  /**
   * The books say that more of the extent is of use than its headers show. The index is looked through for what is in it;
   * when nothing is, the books are put right by a record of their own, so that no space is lost for good. A chunk whose
   * index record is damaged could be in it, unseen: then the extent is kept until that one is whole or gone.
   */
  async search(held: HeldExtent): Promise<void> {
    const { index, ledger, log } = this.#parts.disk
    const extent = held.sequence
    let unknown = false
    for (let from = 0; ; ) {
      if (!(await this.#pass.allow(pageRecords * recordBytes))) return
      const page = await index.records(from, pageRecords)
      for (const { id, record } of page) {
        if (this.#pass.over()) return
        if (record === undefined) unknown = true
        else if (record.location.extent === extent) await this.#rescue(id, record, held)
      }
      const last = page.at(-1)
      if (last === undefined || page.length < pageRecords) break
      from = last.id + 1
    }
    const span = ledger.liveBytes(extent) - ledger.pinnedBytes(extent)
    if (span <= 0 || unknown || this.#pass.over()) return
    this.#parts.deps.log.warn('the books of an extent were off and are put right', {
      disk: this.#parts.path,
      extent,
      span,
    })
    await log.append({
      record: { kind: 'delete', id: 0, frees: [{ extent, payload: 0, span, held: false }] },
      move: true,
    })
  }

  /** A chunk whose header in the log is damaged: its bytes are moved when they check out, else it is quarantined. */
  async #rescue(id: ChunkId, record: ChunkRecord, held: HeldExtent): Promise<void> {
    const { length, lease, root, blockSums } = record
    const put: PutRecord = { kind: 'put', id, length, lease, root, blockSums, frees: [] }
    if (record.inline === undefined) return this.#moveLarge(put, record.location, held)
    const inline = new Uint8Array(record.length)
    await held.file.read(inline, record.location.payload).catch(() => 0)
    await this.#moveSmall({ record: put, location: record.location, inline }, held)
  }
}

/** A record that outlives the buffer it was read into. */
function keptOf(record: LogRecord): LogRecord {
  return record.kind === 'put' ? { ...record, root: record.root.slice(), blockSums: record.blockSums.slice() } : record
}
