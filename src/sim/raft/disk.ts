/**
 * The disk of one simulated Raft node, as batches: a synced image of its log, batches that were written and not synced,
 * the one that is being written, and the two slots of the hard state.
 *
 * A power loss keeps the synced image and a random subset, not a prefix, of the unsynced batches; the batch under way is
 * there, or not, or (when it only appends) there in part with a damaged end. The end of the process alone loses nothing
 * that was written. A write that fails has left nobody knows what.
 * Invariant: one batch is under way at most; batches are atomic but for the torn append.
 */

import { assert } from '../../base/assert.ts'
import type { ConfigAt, Entry, HardState, SnapshotMark } from '../../core/raft/types.ts'
import type { Seeded } from '../seed.ts'
import type { Loop, Process } from './loop.ts'

export interface StoredEntry {
  readonly entry: Entry
  /** Chain value of the entry before, and of this one. */
  readonly previous: number
  readonly chain: number
  /** False when its checksum does not fit. */
  readonly intact: boolean
}

export interface BaseRecord {
  readonly index: number
  readonly term: number
  readonly chain: number
  readonly config: ConfigAt
}

export interface HardRecord extends HardState {
  readonly commit: number
  readonly watermark: number
}

/** What one write changes, in this order: entries `dropFrom..dropTo` go, `entries` come. */
export interface Batch {
  readonly dropFrom?: number
  readonly dropTo?: number
  readonly entries?: readonly StoredEntry[]
  readonly base?: BaseRecord
  readonly hard?: HardRecord
  /** null takes the record away. */
  readonly install?: SnapshotMark | null
}

/** The log as it lies on the disk. */
export interface DiskImage {
  readonly entries: Map<number, StoredEntry>
  base: BaseRecord
  hard: HardRecord
  install: SnapshotMark | undefined
}

export interface SlotRecord extends HardState {
  readonly sequence: number
  readonly intact: boolean
}

/** How slow a disk is, in microseconds. */
export interface DiskTimes {
  readonly writeUs: number
  readonly syncUs: number
  /** Probability that a write takes up to `stallUs` more. */
  readonly stallRate: number
  readonly stallUs: number
}

/** What the next write does instead of succeeding. */
export type DiskFault = 'sync' | 'space' | 'io'

/** No single write of a slow disk takes longer. */
const slowestUs = 500_000

export class RaftDisk {
  readonly #loop: Loop
  readonly #owner: Process
  readonly #random: Seeded
  readonly #times: DiskTimes
  image: DiskImage
  slots: [SlotRecord | undefined, SlotRecord | undefined]
  #unsynced: Batch[] = []
  #writing: Batch | undefined
  #overwriting: { readonly position: 0 | 1; readonly record: SlotRecord } | undefined
  /** Set when the faults are over: it is fast from then on. */
  healed = false
  /** Armed by the nemesis. */
  fault: DiskFault | undefined
  /** Times longer than they should be. */
  slowness = 1
  /** Nothing is written before. */
  stalledUntilUs = 0

  constructor(loop: Loop, owner: Process, random: Seeded, times: DiskTimes, image: DiskImage, slot: HardState) {
    this.#loop = loop
    this.#owner = owner
    this.#random = random
    this.#times = times
    this.image = image
    this.slots = [undefined, { ...slot, sequence: 1, intact: true }]
  }

  /** Writes a batch; `done` says whether that worked. */
  write(batch: Batch, sync: boolean, done: (worked: boolean) => void): void {
    assert(this.#writing === undefined, 'one batch is under way at most')
    this.#writing = batch
    this.#loop.after(this.#duration(sync), 'disk', this.#owner, () => {
      if (this.fault !== undefined) {
        // What a failed write left is decided at the crash that has to follow.
        this.fault = undefined
        done(false)
        return
      }
      this.#writing = undefined
      if (sync) this.#settle(batch)
      else this.#unsynced.push(batch)
      done(true)
    })
  }

  /** A synced batch is there for good; what unsynced ones wrote before in the same place is over. */
  #settle(batch: Batch): void {
    apply(this.image, batch)
    if (batch.hard === undefined || this.#unsynced.length === 0) return
    this.#unsynced = this.#unsynced.map(withoutHard)
  }

  /** Overwrites one slot of the hard state, synced. */
  overwrite(position: 0 | 1, record: SlotRecord, done: (worked: boolean) => void): void {
    this.#overwriting = { position, record }
    this.#loop.after(this.#duration(true), 'slot', this.#owner, () => {
      if (this.fault !== undefined) {
        this.fault = undefined
        done(false)
        return
      }
      this.#overwriting = undefined
      this.slots[position] = record
      done(true)
    })
  }

  #duration(sync: boolean): number {
    const { writeUs, syncUs, stallRate, stallUs } = this.#times
    const random = this.#random
    if (this.healed) return 50 + 100 * random.unit()
    const stall = random.chance(stallRate) ? random.unit() * stallUs : 0
    const waiting = Math.max(0, this.stalledUntilUs - this.#loop.nowUs)
    const usual = (sync ? syncUs : writeUs) * (0.3 + 1.4 * random.unit())
    return waiting + Math.min(usual * this.slowness, Math.max(usual, slowestUs)) + stall
  }

  /** The process ended (`power`: with its machine). Then everything that is there is durable, as reopening it makes it. */
  crash(power: boolean): void {
    const random = this.#random
    for (const batch of this.#unsynced) if (!power || random.chance(0.5)) apply(this.image, batch)
    this.#unsynced = []
    const writing = this.#writing
    this.#writing = undefined
    if (writing !== undefined) {
      const fate = random.below(3)
      if (fate === 0) this.#settle(writing)
      else if (fate === 1 && power) this.#tear(writing)
    }
    const overwriting = this.#overwriting
    this.#overwriting = undefined
    if (overwriting !== undefined) {
      const fate = random.below(3)
      const { position, record } = overwriting
      if (fate === 0) this.slots[position] = record
      else if (fate === 1) this.slots[position] = { ...record, intact: false }
    }
    this.fault = undefined
  }

  /** Some of an append is there, and its last entry is damaged. */
  #tear(batch: Batch): void {
    const { entries } = batch
    if (entries === undefined || batch.dropFrom !== undefined || batch.base !== undefined) return
    const count = this.#random.below(entries.length + 1)
    for (const [position, stored] of entries.slice(0, count).entries()) {
      this.image.entries.set(stored.entry.index, position < count - 1 ? stored : { ...stored, intact: false })
    }
  }

  /** No faults any more. */
  heal(): void {
    this.healed = true
    this.fault = undefined
  }

  /** True when `index` with `term` is on the disk for good. */
  has(index: number, term: number): boolean {
    const { base, entries } = this.image
    if (index <= base.index) return true
    const stored = entries.get(index)
    return stored?.entry.term === term && stored.intact
  }

  /** The newest intact hard state of the slots. */
  get hard(): SlotRecord | undefined {
    const intact = this.slots.filter((slot) => slot?.intact === true)
    return intact.toSorted((a, b) => (b?.sequence ?? 0) - (a?.sequence ?? 0))[0]
  }
}

function withoutHard({ hard: _hard, ...rest }: Batch): Batch {
  return rest
}

function apply(image: DiskImage, batch: Batch): void {
  if (batch.dropFrom !== undefined && batch.dropTo !== undefined) {
    for (let i = batch.dropFrom; i <= batch.dropTo; i++) image.entries.delete(i)
  }
  for (const stored of batch.entries ?? []) image.entries.set(stored.entry.index, stored)
  if (batch.base !== undefined) image.base = batch.base
  if (batch.hard !== undefined) image.hard = batch.hard
  if (batch.install !== undefined) image.install = batch.install ?? undefined
}
