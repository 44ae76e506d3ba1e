/**
 * The extent files of a disk: which are in use, which are free to be written again, and the next one, made ahead of need.
 *
 * Rules (docs/RULES.md, rules 5 and 7): a file goes back into use under a new sequence number with a new nonce, its
 * header durable before the first group; it comes here as free only when a checkpoint covers every move out of it, and
 * waits until every reader that holds a place in it is done. Files are opened when first needed, and idle ones closed
 * again, so that a large disk does not need a descriptor per extent.
 */

import { assert } from '../../../base/assert.ts'
import { Mutex } from '../../../base/async/mutex.ts'
import {
  decodeExtentHeader,
  encodeExtentHeader,
  type ExtentHeader,
  newerExtentVersion,
} from '../../../core/chunk/extent-header.ts'
import { firstGroupOffset, sectorBytes } from '../../../core/chunk/position.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { StoreError } from '../../../model/errors.ts'
import type { Entropy } from '../../../ports/entropy.ts'
import type { ExtentFile, ExtentFiles } from '../../../ports/extents.ts'
import type { Space } from './space.ts'

/** Idle files kept open. */
const openMax = 256
/** Free files kept for the next extents; more give their space back to the filesystem. */
const freeMax = 2
/** Size of an extent made for deletes and quarantines alone, out of the reserve of a full disk. */
const urgentBytes = 1024 * 1024

/** What an extent is made for: new chunks, chunks that are moved to free others, or notes (deletes, quarantines). */
export type Purpose = 'chunk' | 'move' | 'note'

/** Part of the reserve that is left alone. Moves leave enough for the index and for notes. */
export const keptOfReserve: Readonly<Record<Purpose, number>> = { chunk: 1, move: 1 / 4, note: 0 }

/** A file in use, held: it is neither closed nor recycled until `release`. */
export interface HeldExtent {
  readonly sequence: number
  readonly file: ExtentFile
  /** Undefined when both copies of the header are damaged. */
  readonly header: ExtentHeader | undefined
  release(): void
}

interface Opened {
  readonly file: ExtentFile
  readonly header: ExtentHeader | undefined
}

interface Entry {
  readonly sequence: number
  holders: number
  retired: boolean
  opening: Promise<Opened> | undefined
}

export interface ExtentTableOptions {
  readonly extentBytes: number
  readonly reserveBytes: number
  readonly diskId: Uint8Array
}

/** Reads an extent's header from its first sector, else from its last. Gives it only if it names this file. */
export async function readExtentHeader(file: ExtentFile, sum: Sum): Promise<ExtentHeader | undefined> {
  const sector = new Uint8Array(sectorBytes)
  for (const offset of [0, Math.max(0, file.size - sectorBytes)]) {
    // A copy that cannot be read is as good as damaged: the other one may be whole.
    const read = await file.read(sector, offset).catch(() => 0)
    if (read < sectorBytes) continue
    const header = decodeExtentHeader(sector, sum)
    if (header !== undefined && header.sequence === file.number) return header
    refuseNewer(file.number, sector, sum)
  }
  return undefined
}

/** Throws INCOMPATIBLE_VERSION for the header of a later format: it is not damaged, and not to be written over. */
export function refuseNewer(number: number, sector: Uint8Array, sum: Sum): void {
  const version = newerExtentVersion(sector, sum)
  if (version === undefined) return
  const message = `extent ${number} has format version ${version}, this program knows up to 1: use a newer Holdfast`
  throw new StoreError('INCOMPATIBLE_VERSION', message)
}

export class ExtentTable {
  readonly #files: ExtentFiles
  readonly #options: ExtentTableOptions
  readonly #space: Space
  readonly #entropy: Entropy
  readonly #sum: Sum
  readonly #entries = new Map<number, Entry>()
  readonly #making = new Mutex()
  readonly #headerSector: Uint8Array
  #free: { number: number; size: number }[] = []
  #ahead: { sequence: number; size: number } | undefined
  #aheadWork: Promise<void> | undefined
  #nextSequence = 1
  #onFreed: (() => void) | undefined
  #closed = false

  constructor(files: ExtentFiles, options: ExtentTableOptions, space: Space, entropy: Entropy, sum: Sum) {
    this.#files = files
    this.#options = options
    this.#space = space
    this.#entropy = entropy
    this.#sum = sum
    this.#headerSector = files.arena(sectorBytes)
  }

  /** Bytes of free files: room that the filesystem does not count. */
  get freeBytes(): number {
    let bytes = this.#ahead?.size ?? 0
    for (const free of this.#free) bytes += free.size
    return bytes
  }

  /** At the start: an extent that holds records. */
  addUsed(sequence: number): void {
    this.#entries.set(sequence, { sequence, holders: 0, retired: false, opening: undefined })
    this.#nextSequence = Math.max(this.#nextSequence, sequence + 1)
  }

  /** At the start: a file of which nothing is of use. */
  addFree(number: number, size: number): void {
    this.#free.push({ number, size })
    this.#nextSequence = Math.max(this.#nextSequence, number + 1)
  }

  /** At the start: the file holds nothing that counts. Closes it and gives its size. */
  async forget(sequence: number): Promise<number> {
    const entry = this.#entries.get(sequence)
    assert(entry !== undefined && entry.holders === 0, 'a file that is forgotten is not held')
    this.#entries.delete(sequence)
    const { file } = await (entry.opening ?? this.#open(sequence))
    await file.close()
    return file.size
  }

  /** Never give out a sequence number up to `sequence` again. */
  reserveSequence(sequence: number): void {
    this.#nextSequence = Math.max(this.#nextSequence, sequence + 1)
  }

  /** Sequence numbers of the extents in use from `from` to `to`, both included, ascending. */
  sequences(from: number, to: number): number[] {
    const out = [...this.#entries.keys()].filter((sequence) => sequence >= from && sequence <= to)
    return out.sort((a, b) => a - b)
  }

  /** True while the extent is known as one that holds records. */
  has(sequence: number): boolean {
    return this.#entries.has(sequence)
  }

  /** The extent, held; undefined when it is not in use (any more): look the place up again. */
  async hold(sequence: number): Promise<HeldExtent | undefined> {
    const entry = this.#entries.get(sequence)
    if (entry === undefined || entry.retired) return undefined
    entry.holders++
    let held = true
    const release = (): void => {
      if (!held) return
      held = false
      entry.holders--
      if (entry.retired && entry.holders === 0) this.#recycle(entry)
    }
    try {
      entry.opening ??= this.#open(sequence)
      const opened = await entry.opening
      // Most recently used last, so that the idle ones are found at the front.
      if (this.#entries.delete(sequence)) this.#entries.set(sequence, entry)
      this.#closeIdle()
      return { sequence, ...opened, release }
    } catch (error) {
      entry.opening = undefined
      release()
      throw error
    }
  }

  async #open(sequence: number): Promise<Opened> {
    const file = await this.#files.open(sequence)
    try {
      return { file, header: await readExtentHeader(file, this.#sum) }
    } catch (error) {
      await file.close()
      throw error
    }
  }

  #closeIdle(): void {
    if (this.#entries.size <= openMax) return
    let open = 0
    for (const entry of this.#entries.values()) if (entry.opening !== undefined) open++
    for (const entry of this.#entries.values()) {
      if (open <= openMax) return
      if (entry.opening === undefined || entry.holders > 0) continue
      this.#closeFile(entry)
      open--
    }
  }

  #closeFile(entry: Entry): void {
    const opening = entry.opening
    entry.opening = undefined
    // A file that does not close costs a descriptor, no data: everything it got was synced.
    opening?.then((opened) => opened.file.close()).catch(() => undefined)
  }

  /**
   * The next extent, in use and held, with room for a group of `bytes`; what for says how much of the reserve it may use.
   * Rejects with NO_SPACE when there is no room for it.
   */
  next(bytes: number, purpose: Purpose): Promise<HeldExtent> {
    return this.#making.run(async () => {
      const needed = firstGroupOffset + bytes + sectorBytes
      if (this.#ahead === undefined || this.#ahead.size < needed) {
        if (this.#ahead !== undefined) this.#free.push({ number: this.#ahead.sequence, size: this.#ahead.size })
        this.#ahead = await this.#make(needed, purpose)
      }
      const { sequence, size } = this.#ahead
      this.#ahead = undefined
      this.addUsed(sequence)
      const held = await this.hold(sequence).catch((error: unknown) => {
        // It holds nothing yet.
        if (this.#entries.get(sequence)?.holders === 0) {
          this.#entries.delete(sequence)
          this.#free.push({ number: sequence, size })
        }
        throw error
      })
      assert(held?.header !== undefined, 'an extent that was just made has its header')
      return held
    })
  }

  /** Makes the next extent now, so that no write has to wait for it. A failure shows when the extent is needed. */
  prepareAhead(): void {
    if (this.#ahead !== undefined || this.#aheadWork !== undefined) return
    this.#aheadWork = this.#making
      .run(async () => {
        if (this.#ahead === undefined) this.#ahead = await this.#make(this.#options.extentBytes, 'chunk')
      })
      .catch(() => undefined)
      .finally(() => {
        this.#aheadWork = undefined
      })
  }

  async #make(needed: number, purpose: Purpose): Promise<{ sequence: number; size: number }> {
    const sequence = this.#nextSequence++
    const index = this.#free.findIndex((free) => free.size >= needed)
    const free = this.#free[index]
    if (free !== undefined) {
      this.#free.splice(index, 1)
      try {
        await this.#files.rename(free.number, sequence)
        await this.#writeHeader(await this.#files.open(sequence), sequence, free.size)
      } catch (error) {
        await this.#takeBack([sequence, free.number])
        throw error
      }
      return { sequence, size: free.size }
    }
    const size = await this.#sizeOfNew(needed, purpose)
    try {
      await this.#writeHeader(await this.#files.create(sequence, size), sequence, size)
    } catch (error) {
      await this.#takeBack([sequence])
      throw error
    } finally {
      await this.#space.refresh().catch(() => undefined)
    }
    return { sequence, size }
  }

  /**
   * A file did not become an extent, for want of a descriptor or of room: it is free, under the first of the names that it
   * has. Where files are not preallocated the next try takes this file, not one more.
   */
  async #takeBack(names: readonly number[]): Promise<void> {
    for (const number of names) {
      const size = await this.#files.sizeOf(number).catch(() => undefined)
      if (size === undefined) continue
      this.#free.push({ number, size })
      return
    }
  }

  async #sizeOfNew(needed: number, purpose: Purpose): Promise<number> {
    if (this.#space.stale) await this.#space.refresh()
    const { extentBytes, reserveBytes } = this.#options
    const room = this.#space.freeBytes - reserveBytes * keptOfReserve[purpose]
    const tight = purpose === 'note' && room - reserveBytes < extentBytes
    const wanted = tight ? Math.min(urgentBytes, extentBytes) : extentBytes
    const size = Math.floor(Math.min(Math.max(wanted, needed), room) / sectorBytes) * sectorBytes
    if (size >= needed) return size
    throw new StoreError('NO_SPACE', 'no room for another extent above the reserve: free some space or add a disk')
  }

  async #writeHeader(file: ExtentFile, sequence: number, size: number): Promise<void> {
    const nonce = this.#entropy.bytes(16)
    const sector = this.#headerSector
    encodeExtentHeader({ sequence, size, diskId: this.#options.diskId, nonce }, sector, this.#sum)
    try {
      await file.write(sector, size - sectorBytes)
      await file.write(sector, 0)
      await file.sync()
    } finally {
      await file.close()
    }
  }

  /** Nothing in the extent is of use and a checkpoint says so: it is free as soon as its last reader is done. */
  retire(sequence: number): void {
    const entry = this.#entries.get(sequence)
    if (entry === undefined || entry.retired) return
    entry.retired = true
    if (entry.holders === 0) this.#recycle(entry)
  }

  /** Called when a file has become free: there is room that was not there before. */
  onFreed(listener: () => void): void {
    this.#onFreed = listener
  }

  #recycle(entry: Entry): void {
    this.#making
      .run(async () => {
        // The files may be another engine's by now.
        if (this.#closed) return
        const { opening } = entry
        // Out of reach of `#closeIdle` first: a descriptor closed twice may be somebody else's by then.
        this.#entries.delete(entry.sequence)
        entry.opening = undefined
        const opened = await (opening ?? this.#open(entry.sequence))
        const { size } = opened.file
        await opened.file.close()
        this.#free.push({ number: entry.sequence, size })
        await this.#trimFree()
        this.#onFreed?.()
      })
      // What fails to be recycled stays as it is and is found free at the next start.
      .catch(() => undefined)
  }

  async #trimFree(): Promise<void> {
    while (this.#free.length > freeMax) {
      const first = this.#free[0]
      if (first === undefined) return
      await this.#files.remove(first.number)
      this.#free.shift()
    }
    await this.#space.refresh()
  }

  /** Gives back what is free beyond what is kept for the next extents. */
  trim(): Promise<void> {
    return this.#making.run(() => this.#trimFree())
  }

  /** Closes all files. What a late reader still holds stays as it is, and is found free at the next start. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#making.run(async () => {
      for (const entry of this.#entries.values()) {
        const opening = entry.opening
        entry.opening = undefined
        if (opening !== undefined) await opening.then((opened) => opened.file.close()).catch(() => undefined)
      }
    })
  }
}
