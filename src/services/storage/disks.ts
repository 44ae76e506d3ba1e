/**
 * The disks of one node and what meta has said of them: number, generation, and when meta last answered.
 *
 * Invariants: an acknowledgement carries the number and generation that were granted, never made up ones; without a grant
 * or without meta contact for `metaSilenceMs` nothing new is stored (it may have been fenced meanwhile), while reads of
 * immutable chunks go on; a failed disk never comes back within the life of the process. What waits for one disk holds
 * nothing that another one needs: reads are bounded for each.
 */

import { Semaphore } from '../../base/async/semaphore.ts'
import { StoreError } from '../../model/errors.ts'
import type { ChunkId, DiskNumber, Generation } from '../../model/ids.ts'
import type { DiskState } from '../../model/words.ts'
import type { Clock } from '../../ports/clock.ts'
import type { Log } from '../../ports/log.ts'
import type { ChunkReader, DiskEngine } from './types.ts'

/** Pieces read from one disk at once, for all streams. */
const readsMax = 16

/** One disk of this node. */
export interface DiskSlot {
  readonly engine: DiskEngine
  /** Given by meta; undefined before the first registration of this process. */
  number: DiskNumber | undefined
  generation: Generation
  failed: boolean
  readonly reads: Semaphore
}

/** A directory of the configuration that could not be opened and whose disk is not known. */
export interface DiskFault {
  readonly path: string
  /** One line. */
  readonly reason: string
}

/** A chunk on its way out, and the disk that it comes from. */
export interface OpenRead {
  readonly reader: ChunkReader
  readonly slot: DiskSlot
}

export interface DiskGrant {
  readonly id: string
  readonly number: DiskNumber
  readonly generation: Generation
}

export class Disks {
  readonly slots: readonly DiskSlot[]
  readonly #clock: Clock
  readonly #metaSilenceMs: number
  #contactMs: number | undefined
  #stopping = false

  constructor(engines: readonly DiskEngine[], clock: Clock, log: Log, metaSilenceMs: number, onChange: () => void) {
    this.#clock = clock
    this.#metaSilenceMs = metaSilenceMs
    this.slots = engines.map((engine) => ({
      engine,
      number: undefined,
      generation: 0,
      failed: false,
      reads: new Semaphore(readsMax),
    }))
    for (const slot of this.slots) {
      slot.engine.onFailed((reason) => {
        slot.failed = true
        log.error('disk failed', { disk: slot.engine.id, path: slot.engine.path, reason: reason.message })
        onChange()
      })
      slot.engine.onHealth(onChange)
    }
  }

  /** Takes over the grants of a registration. Disks that were not granted keep what they had. */
  grant(grants: readonly DiskGrant[]): void {
    for (const { id, number, generation } of grants) {
      const slot = this.slots.find((candidate) => candidate.engine.id === id)
      if (slot === undefined) continue
      slot.number = number
      slot.generation = generation
    }
  }

  /** Meta answered something that was sent at `sentMs` of the monotonic clock. */
  contact(sentMs: number): void {
    if (this.#contactMs === undefined || sentMs > this.#contactMs) this.#contactMs = sentMs
  }

  /** No more writes from now on. */
  stop(): void {
    this.#stopping = true
  }

  /** True while writes are taken. */
  fresh(): boolean {
    return this.#contactMs !== undefined && this.#clock.monotonicMs() - this.#contactMs <= this.#metaSilenceMs
  }

  /** Throws unless new chunks may be stored now. */
  checkWritable(): void {
    if (this.#stopping) throw new StoreError('SHUTTING_DOWN', 'store a chunk: this node is stopping; use another one')
    this.checkContact()
  }

  /** Throws UNAVAILABLE unless meta has been heard of lately. */
  checkContact(): void {
    if (this.#contactMs === undefined) {
      throw new StoreError('UNAVAILABLE', 'store a chunk: this node is not registered yet; use another one', {
        outcome: 'definite',
      })
    }
    if (!this.fresh()) {
      throw new StoreError('UNAVAILABLE', 'store a chunk: this node has lost contact with meta; use another one', {
        outcome: 'definite',
      })
    }
  }

  /** State of a disk for reports. */
  stateOf(slot: DiskSlot): DiskState {
    return slot.failed ? 'failed' : slot.engine.status().state
  }

  /** True when no disk is left that serves anything. */
  get allFailed(): boolean {
    return this.slots.every((slot) => slot.failed)
  }

  /** The disk with this number, or undefined. */
  find(number: DiskNumber): DiskSlot | undefined {
    return this.slots.find((slot) => slot.number === number)
  }

  /** The disk a new chunk goes to; 0: the one with most room, one that is suspect only when there is no other. */
  forPut(number: DiskNumber): DiskSlot {
    if (number !== 0) {
      const slot = this.find(number)
      if (slot === undefined) throw new StoreError('NOT_FOUND', `store a chunk: this node has no disk ${number}`)
      if (slot.failed) throw new StoreError('DISK_FAILED', `store a chunk: disk ${number} is out of service`)
      return slot
    }
    let best: DiskSlot | undefined
    let bestFree = Number.NEGATIVE_INFINITY
    for (const slot of this.slots) {
      const { state, capacityBytes, usedBytes } = slot.engine.status()
      if (slot.number === undefined || slot.failed || state === 'failed' || state === 'read-only') continue
      const freeBytes = capacityBytes - usedBytes - (state === 'suspect' ? Number.MAX_SAFE_INTEGER : 0)
      if (freeBytes <= bestFree) continue
      best = slot
      bestFree = freeBytes
    }
    if (best === undefined) throw new StoreError('DISK_FAILED', 'store a chunk: no disk of this node takes chunks')
    return best
  }

  /** Opens a chunk on disk `number` (0: whichever has it). NOT_FOUND when none has. */
  async openRead(number: DiskNumber, id: ChunkId, offset: number, length: number): Promise<OpenRead> {
    if (id === 0) throw new StoreError('INVALID_ARGUMENT', 'read a chunk: 0 is not a chunk id')
    let reason: unknown = new StoreError('NOT_FOUND', `read chunk ${id}: this node does not hold it`)
    for (const slot of this.slots) {
      if (slot.failed || (number !== 0 && slot.number !== number)) continue
      try {
        return { reader: await slot.engine.openRead(id, offset, length), slot }
      } catch (error) {
        reason = error
        if (!(error instanceof StoreError) || error.code !== 'NOT_FOUND') break
      }
    }
    throw reason
  }
}
