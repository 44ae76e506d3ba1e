/**
 * Simulated extent files of one disk, honest about what a crash and a bad device leave of unsynced writes.
 *
 * A crash keeps any subset of the sectors that were written and not synced, and tears some of them at 512 bytes; a write
 * in flight counts as unsynced. A sync covers the writes that had come back before it was called. A sync that fails drops
 * the sectors it was for: reads still see them, as the page cache does, no later sync writes them, and a crash takes them.
 * Names (create, rename, remove) are durable when the call resolves; a crash in its middle leaves either state.
 *
 * Kept: the present content, and for each sector that is not synced what a crash may put back.
 */

import { assert } from '../base/assert.ts'
import { StoreError } from '../model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../ports/extents.ts'
import type { SimProcess } from './clock.ts'
import type { SimDevice } from './disk.ts'
import type { Seeded } from './seed.ts'

const sectorBytes = 4096
const tornBytes = 512

interface Dirty {
  /** What is on disk for certain. */
  durable: Uint8Array
  /** What a sync that runs now will have made durable, when the sector was written again since. */
  covered: Uint8Array | undefined
  /** A sync failed for it: no later one writes it. */
  dropped: boolean
}

/** One file: present content and what of it is not on disk. */
class Extent {
  readonly bytes: Uint8Array
  readonly dirty = new Map<number, Dirty>()

  constructor(size: number) {
    this.bytes = new Uint8Array(size)
  }

  #sector(index: number): Uint8Array {
    return this.bytes.subarray(index * sectorBytes, (index + 1) * sectorBytes)
  }

  write(bytes: Uint8Array, offset: number): void {
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      const index = (offset + at) / sectorBytes
      const dirty = this.dirty.get(index)
      if (dirty === undefined) {
        this.dirty.set(index, { durable: this.#sector(index).slice(), covered: undefined, dropped: false })
      } else {
        dirty.covered ??= this.#sector(index).slice()
        dirty.dropped = false
      }
      this.#sector(index).set(bytes.subarray(at, at + sectorBytes))
    }
  }

  /** The sectors that a sync from now on covers; each as it is now. */
  cover(): number[] {
    const out: number[] = []
    for (const [index, dirty] of this.dirty) {
      if (dirty.dropped) continue
      dirty.covered = undefined
      out.push(index)
    }
    return out
  }

  /** The sync came back. What was written since it began is still not on disk. */
  harden(sectors: readonly number[]): void {
    for (const index of sectors) {
      const dirty = this.dirty.get(index)
      if (dirty === undefined) continue
      if (dirty.covered === undefined) this.dirty.delete(index)
      else this.dirty.set(index, { durable: dirty.covered, covered: undefined, dropped: false })
    }
  }

  /** The sync failed. */
  drop(sectors: readonly number[]): void {
    for (const index of sectors) {
      const dirty = this.dirty.get(index)
      if (dirty !== undefined) dirty.dropped = true
    }
  }

  crash(random: Seeded): void {
    for (const [index, { durable, dropped }] of this.dirty) {
      const dice = random.unit()
      if (dice < 0.45 && !dropped) continue
      const sector = this.#sector(index)
      if (dice < 0.9) sector.set(durable)
      else {
        for (let at = 0; at < sectorBytes; at += tornBytes) {
          if (random.chance(0.5)) sector.set(durable.subarray(at, at + tornBytes), at)
        }
      }
    }
    this.dirty.clear()
  }
}

/** The extents of one simulated disk; they outlive their process. */
export class SimExtentDisk {
  readonly #random: Seeded
  readonly #device: SimDevice
  readonly #files = new Map<number, Extent>()
  readonly #probe = new Extent(sectorBytes)
  /** Writes that are on their way to the device. */
  readonly #inFlight = new Set<{ readonly extent: Extent; readonly bytes: Uint8Array; readonly offset: number }>()

  constructor(random: Seeded, device: SimDevice) {
    this.#random = random
    this.#device = device
    device.countsUse(() => this.#usedBytes())
  }

  crash(): void {
    for (const { extent, bytes, offset } of this.#inFlight) extent.write(bytes, offset)
    this.#inFlight.clear()
    for (const extent of this.#files.values()) extent.crash(this.#random)
  }

  wipe(): void {
    this.#inFlight.clear()
    this.#files.clear()
  }

  /** Numbers of all files. */
  get numbers(): number[] {
    return [...this.#files.keys()].sort((a, b) => a - b)
  }

  /** What reads of a file would see, for faults and checks from outside. A view, not to be changed. */
  peek(number: number): Uint8Array | undefined {
    return this.#files.get(number)?.bytes
  }

  /** Flips a bit of what is on disk; false when that place is not synced yet, so that nothing is there to rot. */
  flip(number: number, offset: number): boolean {
    const extent = this.#files.get(number)
    if (extent === undefined || extent.dirty.has(Math.floor(offset / sectorBytes))) return false
    extent.bytes[offset] = (extent.bytes[offset] as number) ^ 0x40
    return true
  }

  #usedBytes(): number {
    let used = 0
    for (const extent of this.#files.values()) used += extent.bytes.length
    return used
  }

  /** The ExtentFiles port for one incarnation of a process. */
  port(host: SimProcess): ExtentFiles {
    const device = this.#device
    return {
      alignment: sectorBytes,
      mode: 'direct',
      list: async () => this.numbers,
      sizeOf: async (number) => this.#files.get(number)?.bytes.length,
      create: async (number, size) => {
        if (device.freeBytes() < size) {
          throw new StoreError('NO_SPACE', `make extent ${number}: the filesystem is full`)
        }
        assert(!this.#files.has(number), 'an extent is made once')
        const extent = new Extent(size)
        // From here on a crash may leave it or not: it is there, and empty either way.
        if (this.#random.chance(0.5)) this.#files.set(number, extent)
        await device.work('sync', host, `extent ${number} made`)
        this.#files.set(number, extent)
        return this.#open(number, extent, host)
      },
      open: async (number) => this.#open(number, this.#file(number), host),
      openProbe: async () => this.#open(0, this.#probe, host),
      rename: async (from, to) => {
        const extent = this.#file(from)
        const early = this.#random.chance(0.5)
        const move = (): void => {
          this.#files.delete(from)
          this.#files.set(to, extent)
        }
        if (early) move()
        await device.work('sync', host, `extent ${from} renamed`)
        if (!early) move()
      },
      remove: async (number) => {
        if (this.#random.chance(0.5)) this.#files.delete(number)
        await device.work('sync', host, `extent ${number} removed`)
        this.#files.delete(number)
      },
      arena: (size) => new Uint8Array(size),
      space: async () => ({ free: device.freeBytes(), total: device.capacityBytes }),
    }
  }

  #file(number: number): Extent {
    const extent = this.#files.get(number)
    if (extent === undefined) throw new StoreError('IO', `open extent ${number}: no such file`)
    return extent
  }

  #open(number: number, extent: Extent, host: SimProcess): ExtentFile {
    const device = this.#device
    return {
      number,
      size: extent.bytes.length,
      write: async (bytes, offset) => {
        assert(offset % sectorBytes === 0 && bytes.length % sectorBytes === 0, 'a write is whole sectors')
        assert(offset + bytes.length <= extent.bytes.length, 'a write is inside of its extent')
        // Not a copy: the device takes the bytes when it pleases, and their owner must leave them alone until then.
        const flight = { extent, bytes, offset }
        this.#inFlight.add(flight)
        try {
          await device.work('write', host, `extent ${number} write`)
          extent.write(bytes, offset)
        } finally {
          this.#inFlight.delete(flight)
        }
      },
      sync: async () => {
        const sectors = extent.cover()
        try {
          await device.work('sync', host, `extent ${number} sync`)
        } catch (error) {
          extent.drop(sectors)
          throw error
        }
        extent.harden(sectors)
      },
      read: async (into, offset) => {
        const piece = extent.bytes.subarray(offset, offset + into.length)
        into.set(piece)
        return piece.length
      },
      close: async () => {},
    }
  }
}
