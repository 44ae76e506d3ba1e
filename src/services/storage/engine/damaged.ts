/**
 * Chunks whose record in the index does not check out. Where their bytes are is not known, but the log still has them:
 * nothing is deleted. The index is made again at the next start; until then readers are sent to other replicas, and
 * whoever comes by the chunk's `put` in the log (compaction, the scrub) has it appended again, which heals it.
 *
 * Invariants: a chunk is reported once until it is whole or gone; what is appended again matched its sums, and is the
 * content that the index had (its root is still there to see): an older content of the same id does not come back.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { alignUp, sectorBytes } from '../../../core/chunk/position.ts'
import type { Freed, Location, PutRecord } from '../../../core/chunk/record.ts'
import { blockSumsOf, firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { ioErrorClass } from '../../../core/health/disk.ts'
import { asStoreError } from '../../../model/errors.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import type { Arena } from './arena.ts'
import type { HeldExtent } from './extent-table.ts'
import { wantRebuild } from './index-state.ts'
import type { KeyedLocks } from './keyed-locks.ts'
import type { DiskParts } from './open.ts'
import type { DiskDeps, DiskGate } from './types.ts'

/** What goes with an index record that does not check out: one chunk less, and no bytes that we know of. */
export const placeUnknown: Freed = { extent: 0, payload: 0, span: 0, held: true }
/** Ids remembered as told; beyond that they are told again. */
const toldMax = 4096
const finding = 'its record in the index is damaged'

export interface DamagedParts {
  readonly path: string
  readonly deps: DiskDeps
  readonly parts: DiskParts
  readonly gate: DiskGate
  readonly sum: Sum
  readonly locks: KeyedLocks
  readonly arena: Arena
  /** The replica is out of service. */
  report(id: ChunkId, finding: string): void
  /** The replica is whole again. */
  healed(id: ChunkId, finding: string): void
}

/** A `put` as the log has it, with the bytes of a small chunk. */
export interface LogCopy {
  readonly put: PutRecord
  readonly location: Location
  readonly inline: Uint8Array | undefined
  /** Older places that the record goes on hiding. */
  readonly shadows: readonly Freed[]
}

export class DamagedRecords {
  readonly #p: DamagedParts
  readonly #told = new Set<ChunkId>()
  readonly #stopped = new AbortController()
  #marking: Promise<void> | undefined

  constructor(parts: DamagedParts) {
    this.#p = parts
  }

  /** Reports the chunk when its record is damaged, and gives whether it is. */
  async note(id: ChunkId): Promise<boolean> {
    const damaged = await this.#p.locks.run([id], async () => {
      if (!(await this.#isDamaged(id))) return false
      if (this.#told.has(id)) return true
      if (this.#told.size >= toldMax) this.#told.clear()
      this.#told.add(id)
      this.#p.report(id, finding)
      return true
    })
    if (damaged) await this.#mark()
    return damaged
  }

  /** The chunk was replaced or deleted. */
  forget(id: ChunkId): void {
    this.#told.delete(id)
  }

  /** Nobody waits for memory any more. */
  stop(): void {
    this.#stopped.abort()
  }

  /** Resolves when the mark of the index is written. */
  async marked(): Promise<void> {
    await this.#marking
  }

  async #isDamaged(id: ChunkId): Promise<boolean> {
    return (await this.#p.parts.index.get(id, true)).kind === 'damaged'
  }

  /** The index is made again at the next start: where one value has changed, others may have. */
  #mark(): Promise<void> {
    const { deps, parts, gate, path } = this.#p
    if (this.#marking === undefined && gate.refusal !== undefined) return Promise.resolve()
    const mark = (): Promise<void> => wantRebuild(deps.files, 'a record in it is damaged')
    this.#marking ??= parts.guard.marks.run(mark).catch((error: unknown) => {
      this.#marking = undefined
      const { message } = asStoreError(error, 'mark the index')
      deps.log.warn('the index could not be marked for a rebuild', { disk: path, reason: message })
    })
    return this.#marking
  }

  /** Appends the chunk again from the log's copy. False: that one is not intact, not the one that the index had, or not needed. */
  async restore(copy: LogCopy, held: HeldExtent): Promise<boolean> {
    const { put, inline } = copy
    // Views on a buffer that others use.
    const mine = { ...copy, put: { ...put, root: put.root.slice(), blockSums: put.blockSums.slice() } }
    if (inline !== undefined) {
      const whole = inline.length === put.length && equalBytes(blockSumsOf(this.#p.sum, inline), put.blockSums)
      return whole && this.#append(mine, { inline: inline.slice() })
    }
    const slot = await this.#p.arena.take(sectorBytes + alignUp(put.length), this.#stopped.signal)
    try {
      const payload = slot.bytes.subarray(sectorBytes)
      if (!(await this.#read(mine, held, payload))) return false
      payload.fill(0, put.length)
      return await this.#append(mine, { payload: slot.bytes })
    } finally {
      slot.release()
    }
  }

  async #read({ put, location }: LogCopy, { file }: HeldExtent, into: Uint8Array): Promise<boolean> {
    try {
      const read = await (file.readDirect?.(into, location.payload) ?? file.read(into, location.payload))
      if (read < put.length) return false
    } catch (error) {
      if (ioErrorClass(error) === 'other') throw error
      return false
    }
    return firstBadBlock(this.#p.sum, into.subarray(0, put.length), 0, put.blockSums) === undefined
  }

  #append(copy: LogCopy, content: { inline?: Uint8Array; payload?: Uint8Array }): Promise<boolean> {
    const { put, location, shadows } = copy
    const { id, length, lease, root, blockSums } = put
    const { index, log } = this.#p.parts
    return this.#p.locks.run([id], async () => {
      if (!(await this.#isDamaged(id)) || !(await index.showsRoot(id, root))) return false
      const hidden = { extent: location.extent, payload: location.payload, span: 0, held: false }
      const frees = [placeUnknown, hidden, ...shadows]
      // Nothing else may be left of it: it may use a part of the reserve.
      await log.append({ record: { kind: 'put', id, length, lease, root, blockSums, frees }, ...content, move: true })
      this.#told.delete(id)
      this.#p.healed(id, finding)
      await this.#mark()
      return true
    })
  }

  /** The error of whoever wants to read it. */
  message(id: ChunkId): string {
    return `chunk ${formatChunkId(id)}: its record in the index of disk ${this.#p.path} is damaged; use another replica`
  }
}
