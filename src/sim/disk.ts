/**
 * One simulated disk as a device: how slow it is, how full, and which of its writes and syncs fail.
 *
 * The stores, small files and extents of a disk (kv.ts, files.ts, extents.ts) share one, so that a stalled or failing
 * device is that for all of them. A fault outlives nothing: it is switched on and off from outside (the nemesis), and
 * `faulted` remembers that there was one in this run of the process, which excuses what its owner then logs or refuses.
 */

import { StoreError } from '../model/errors.ts'
import type { SimProcess, World } from './clock.ts'
import type { Seeded } from './seed.ts'

/** How slow a disk is, in milliseconds. */
export interface DiskTimes {
  readonly writeMs: number
  readonly syncMs: number
  /** Probability that one write takes up to `stallMs` more. */
  readonly stallRate: number
  readonly stallMs: number
}

/** What an operation asks of the device. */
export type DiskWork = 'write' | 'sync'

export class SimDevice {
  readonly #world: World
  readonly #random: Seeded
  readonly #times: DiskTimes
  /** Every write fails with EIO. */
  failWrites = false
  /** So many syncs from now on fail; those after them succeed again, which is the trap. */
  failSyncs = 0
  /** Bytes on the filesystem that are not ours: what makes it full. */
  othersBytes = 0
  readonly capacityBytes: number
  readonly #uses: (() => number)[] = []
  /** Nothing completes before this time. */
  #stalledUntilMs = 0
  /** Some write or sync failed since the process started. */
  faulted = false

  constructor(world: World, random: Seeded, times: DiskTimes, capacityBytes: number) {
    this.#world = world
    this.#random = random
    this.#times = times
    this.capacityBytes = capacityBytes
  }

  /** Nothing gets done for so long. */
  stall(forMs: number): void {
    this.#stalledUntilMs = Math.max(this.#stalledUntilMs, this.#world.nowMs + forMs)
  }

  /** All faults are over. */
  mend(): void {
    this.failWrites = false
    this.failSyncs = 0
    this.othersBytes = 0
    this.#stalledUntilMs = 0
  }

  /** From now on `used` is asked how many bytes of the filesystem are somebody's of ours. */
  countsUse(used: () => number): void {
    this.#uses.push(used)
  }

  /** Others fill the filesystem until `leftBytes` are free. */
  fill(leftBytes: number): void {
    this.othersBytes = Math.max(0, this.capacityBytes - this.#usedBytes() - leftBytes)
  }

  #usedBytes(): number {
    return this.#uses.reduce((sum, used) => sum + used(), 0)
  }

  freeBytes(): number {
    return Math.max(0, this.capacityBytes - this.othersBytes - this.#usedBytes())
  }

  /** Throws NO_SPACE when there is not a byte left. */
  checkRoom(label: string): void {
    if (this.freeBytes() > 0) return
    this.faulted = true
    throw new StoreError('NO_SPACE', `${label}: ENOSPC: no space left on device`)
  }

  /** Resolves when the device has done it; rejects with EIO when it fails. */
  async work(kind: DiskWork, host: SimProcess, label: string): Promise<void> {
    const { nowMs } = this.#world
    const delayMs = this.#duration(kind) + Math.max(0, this.#stalledUntilMs - nowMs)
    await new Promise<void>((resolve) => {
      this.#world.after(delayMs, `${host.id} ${label}`, host, resolve)
    })
    if (this.failWrites) throw this.#failed(label)
    if (kind === 'sync' && this.failSyncs > 0) {
      this.failSyncs--
      throw this.#failed(label)
    }
  }

  #failed(label: string): StoreError {
    this.faulted = true
    return new StoreError('IO', `${label}: EIO: i/o error`)
  }

  #duration(kind: DiskWork): number {
    const { writeMs, syncMs, stallRate, stallMs } = this.#times
    const stall = this.#random.chance(stallRate) ? this.#random.between(0, stallMs) : 0
    return this.#random.between(0.3, 1.7) * (kind === 'sync' ? syncMs : writeMs) + stall
  }
}
