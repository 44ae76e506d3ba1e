/**
 * Extent files and small files in memory, honest about crashes: what is written and not synced survives a crash sector by
 * sector, at random; names (create, rename, remove, atomic write) are durable when the call resolves.
 */

import { StoreError } from '../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../src/ports/extents.ts'
import type { Files } from '../../src/ports/files.ts'
import { FaultPlan } from './fault-plan.ts'

const sector = 4096

class Blocks {
  durable: Uint8Array
  current: Uint8Array
  readonly dirty = new Set<number>()
  /** What the page cache has of it, when that differs from the disk. */
  cached: Uint8Array | undefined

  constructor(size: number) {
    this.durable = new Uint8Array(size)
    this.current = new Uint8Array(size)
  }

  #copy(from: Uint8Array, to: Uint8Array, index: number): void {
    to.set(from.subarray(index * sector, (index + 1) * sector), index * sector)
  }

  write(bytes: Uint8Array, offset: number): void {
    this.current.set(bytes, offset)
    for (let at = offset; at < offset + bytes.length; at += sector) this.dirty.add(at / sector)
  }

  harden(sectors: readonly number[]): void {
    for (const index of sectors) {
      this.#copy(this.current, this.durable, index)
      this.dirty.delete(index)
    }
  }

  crash(chance: () => number): void {
    for (const index of [...this.dirty].sort((a, b) => a - b)) {
      if (chance() < 0.5) this.#copy(this.current, this.durable, index)
      else this.#copy(this.durable, this.current, index)
    }
    this.dirty.clear()
  }
}

export class MemoryExtents implements ExtentFiles {
  readonly alignment = sector
  readonly mode = 'buffered' as const
  readonly files = new Map<number, Blocks>()
  readonly probe = new Blocks(sector)
  faults: FaultPlan
  capacityBytes: number
  /** Bytes of others on the same filesystem. */
  othersBytes = 0

  constructor(capacityBytes = 1 << 30, faults: FaultPlan = new FaultPlan()) {
    this.capacityBytes = capacityBytes
    this.faults = faults
  }

  list(): Promise<number[]> {
    return Promise.resolve([...this.files.keys()].sort((a, b) => a - b))
  }

  sizeOf(number: number): Promise<number | undefined> {
    return Promise.resolve(this.files.get(number)?.current.length)
  }

  async create(number: number, size: number): Promise<ExtentFile> {
    const faults = this.faults
    if ((await this.space()).free < size) throw new StoreError('NO_SPACE', 'make an extent: the filesystem is full')
    await faults.pass('create')
    this.files.set(number, new Blocks(size))
    return this.open(number)
  }

  open(number: number): Promise<ExtentFile> {
    const blocks = this.files.get(number)
    if (blocks === undefined) return Promise.reject(new StoreError('IO', `open extent ${number}: no such file`))
    return Promise.resolve(memoryFile(number, blocks, this.faults))
  }

  openProbe(): Promise<ExtentFile> {
    return Promise.resolve(memoryFile(0, this.probe, this.faults))
  }

  async rename(from: number, to: number): Promise<void> {
    await this.faults.pass('rename')
    const blocks = this.files.get(from)
    if (blocks === undefined) throw new StoreError('IO', `rename extent ${from}: no such file`)
    this.files.delete(from)
    this.files.set(to, blocks)
  }

  async remove(number: number): Promise<void> {
    await this.faults.pass('remove')
    this.files.delete(number)
  }

  arena(size: number): Uint8Array {
    return new Uint8Array(size)
  }

  space(): Promise<{ free: number; total: number }> {
    let used = this.othersBytes
    for (const blocks of this.files.values()) used += blocks.current.length
    return Promise.resolve({ free: Math.max(0, this.capacityBytes - used), total: this.capacityBytes })
  }

  /** The same files as one process sees them: when its world has stopped, its calls never reach them. */
  under(faults: FaultPlan): ExtentFiles {
    const alive = async <T>(work: () => Promise<T>): Promise<T> => {
      if (faults.stopped) await new Promise<never>(() => undefined)
      return work()
    }
    return {
      alignment: this.alignment,
      mode: this.mode,
      arena: (size) => this.arena(size),
      list: () => alive(() => this.list()),
      sizeOf: (number) => alive(() => this.sizeOf(number)),
      create: (number, size) => alive(() => this.create(number, size)),
      open: (number) => alive(() => this.open(number)),
      openProbe: () => alive(() => this.openProbe()),
      rename: (from, to) => alive(() => this.rename(from, to)),
      remove: (number) => alive(() => this.remove(number)),
      space: () => alive(() => this.space()),
    }
  }

  crash(chance: () => number, faults: FaultPlan): void {
    for (const number of [...this.files.keys()].sort((a, b) => a - b)) this.files.get(number)?.crash(chance)
    this.faults = faults
  }

  /** Somebody cuts the file off. */
  truncate(number: number, size: number): void {
    const blocks = this.files.get(number)
    if (blocks === undefined) throw new Error(`no extent ${number}`)
    blocks.durable = blocks.durable.slice(0, size)
    blocks.current = blocks.current.slice(0, size)
    for (const index of blocks.dirty) if (index * sector >= size) blocks.dirty.delete(index)
  }

  /** Everything is in the page cache from here on, and stays there as it is now. */
  cacheAll(): void {
    for (const blocks of this.files.values()) blocks.cached = blocks.current.slice()
  }

  /** Flips a bit of what is on disk. */
  flip(number: number, offset: number): void {
    const blocks = this.files.get(number)
    if (blocks === undefined) throw new Error(`no extent ${number}`)
    for (const bytes of [blocks.durable, blocks.current]) bytes[offset] = (bytes[offset] ?? 0) ^ 0x40
  }
}

function memoryFile(number: number, blocks: Blocks, faults: FaultPlan): ExtentFile {
  const readFrom = (bytes: Uint8Array, into: Uint8Array, offset: number): Promise<number> => {
    if (faults.failRead?.(number, offset, into.length) === true)
      return Promise.reject(new Error('EIO: i/o error, read'))
    const piece = bytes.subarray(offset, offset + into.length)
    into.set(piece)
    return Promise.resolve(piece.length)
  }
  return {
    number,
    size: blocks.current.length,
    write: async (bytes, offset) => {
      if (offset % sector !== 0 || bytes.length % sector !== 0) throw new Error('a write is not whole sectors')
      if (faults.stopped) return faults.pass('write')
      if (faults.failWrite) throw new Error('EIO: i/o error, write')
      blocks.write(bytes, offset)
      await faults.pass('write')
    },
    sync: async () => {
      const sectors = [...blocks.dirty]
      if (faults.failSync) throw new Error('EIO: i/o error, fdatasync')
      await faults.pass('sync')
      blocks.harden(sectors)
    },
    read: (into, offset) => readFrom(blocks.cached ?? blocks.current, into, offset),
    readDirect: (into, offset) => readFrom(blocks.current, into, offset),
    close: () => Promise.resolve(),
  }
}

/** Small files: atomic and durable when the call resolves. */
export class MemoryFiles implements Files {
  readonly contents = new Map<string, Uint8Array>()
  faults: FaultPlan

  constructor(faults: FaultPlan = new FaultPlan()) {
    this.faults = faults
  }

  read(name: string): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.contents.get(name)?.slice())
  }

  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.faults.pass('file')
    this.contents.set(name, bytes.slice())
  }

  overwrite(name: string, bytes: Uint8Array): Promise<void> {
    return this.write(name, bytes)
  }

  remove(name: string): Promise<void> {
    this.contents.delete(name)
    return Promise.resolve()
  }

  list(): Promise<string[]> {
    return Promise.resolve([...this.contents.keys()].sort())
  }

  freeBytes(): Promise<number> {
    return Promise.resolve(1024 ** 4)
  }
}
