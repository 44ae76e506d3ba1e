/**
 * A disk that remembers every write since a moment, sector by sector, so that each state that a loss of power may leave
 * behind can be made: for the crash tests of the real disk engine.
 *
 * What a crash may do is what the ports promise, no more: a sector that was not synced is old, new, or torn at 512 bytes,
 * each on its own; of index batches that were not synced any subset survives, each whole; a name that is being made,
 * moved or removed is in either state, and a file that is being made may have no bytes yet. A sync covers what had
 * returned before it was called. Fsync does not lie.
 *
 * Time is the number of the event. Crash states shrink only when something becomes durable and expectations weaken only
 * when a caller says so (`weaken`), so a crash right before each of these, and one at the end, stand for all others.
 */

import { toHex, fromHex, equalBytes } from '../../src/base/bytes.ts'
import { StoreError } from '../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../src/ports/extents.ts'
import type { Files } from '../../src/ports/files.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange } from '../../src/ports/kv.ts'

const sectorBytes = 4096
const tornBytes = 512
const never = Number.POSITIVE_INFINITY

type Effect =
  | { readonly kind: 'sector'; readonly inode: number; readonly sector: number; readonly bytes: Uint8Array }
  | { readonly kind: 'batch'; readonly store: string; readonly operations: readonly KvOperation[] }
  | { readonly kind: 'create'; readonly name: number; readonly inode: number; readonly size: number }
  | { readonly kind: 'rename'; readonly from: number; readonly to: number }
  | { readonly kind: 'remove'; readonly name: number }
  | { readonly kind: 'file'; readonly name: string; readonly bytes: Uint8Array | undefined }
  | { readonly kind: 'destroy'; readonly store: string }

interface Entry {
  readonly effect: Effect
  readonly issued: number
  returned: boolean
  durable: number
}

interface Inode {
  readonly size: number
  readonly sectors: Map<number, Uint8Array>
}

/** Everything on a disk. Sectors, values and file contents are never changed in place. */
export class Image {
  readonly names = new Map<number, number>()
  readonly inodes = new Map<number, Inode>()
  readonly stores = new Map<string, Map<string, Uint8Array>>()
  readonly files = new Map<string, Uint8Array>()

  clone(): Image {
    const copy = new Image()
    for (const [name, inode] of this.names) copy.names.set(name, inode)
    for (const [id, { size, sectors }] of this.inodes) copy.inodes.set(id, { size, sectors: new Map(sectors) })
    for (const [name, store] of this.stores) copy.stores.set(name, new Map(store))
    for (const [name, bytes] of this.files) copy.files.set(name, bytes)
    return copy
  }

  store(name: string): Map<string, Uint8Array> {
    const store = this.stores.get(name) ?? new Map<string, Uint8Array>()
    this.stores.set(name, store)
    return store
  }

  inodeOf(name: number): Inode {
    const inode = this.inodes.get(this.names.get(name) ?? -1)
    if (inode === undefined) throw new StoreError('IO', `open extent ${name}: no such file`)
    return inode
  }

  /** Bytes of an extent file. */
  read(name: number, offset: number, length: number): Uint8Array {
    return readInode(this.inodeOf(name), offset, new Uint8Array(length))
  }

  /** Changes bytes of an extent file behind everybody's back. */
  change(name: number, offset: number, change: (byte: number) => number): void {
    const { sectors } = this.inodeOf(name)
    const sector = Math.floor(offset / sectorBytes)
    const bytes = (sectors.get(sector) ?? new Uint8Array(sectorBytes)).slice()
    bytes[offset % sectorBytes] = change(bytes[offset % sectorBytes] as number)
    sectors.set(sector, bytes)
  }
}

function readInode(inode: Inode, offset: number, into: Uint8Array): Uint8Array {
  const length = Math.max(0, Math.min(into.length, inode.size - offset))
  for (let at = 0; at < length; ) {
    const sector = Math.floor((offset + at) / sectorBytes)
    const skip = (offset + at) % sectorBytes
    const count = Math.min(sectorBytes - skip, length - at)
    const bytes = inode.sectors.get(sector)
    if (bytes === undefined) into.fill(0, at, at + count)
    else into.set(bytes.subarray(skip, skip + count), at)
    at += count
  }
  return into.subarray(0, length)
}

/** What a crash does to one effect: 0 it is lost, 1 it is kept, above: half done, the low bits say which half. */
export type Choice = number
export const lost: Choice = 0
export const kept: Choice = 1
/** Only these of the eight 512-byte parts of a sector were written; a file that was being made has no bytes. */
export function torn(parts: number): Choice {
  return 2 + parts
}

function applySector(image: Image, effect: Extract<Effect, { kind: 'sector' }>, choice: Choice): void {
  const inode = image.inodes.get(effect.inode)
  if (inode === undefined) return
  if (choice === kept) {
    inode.sectors.set(effect.sector, effect.bytes)
    return
  }
  const mixed = (inode.sectors.get(effect.sector) ?? new Uint8Array(sectorBytes)).slice()
  for (let part = 0; part < sectorBytes / tornBytes; part++) {
    if (((choice - 2) >>> part) % 2 === 1) {
      const at = part * tornBytes
      mixed.set(effect.bytes.subarray(at, at + tornBytes), at)
    }
  }
  inode.sectors.set(effect.sector, mixed)
}

function apply(image: Image, effect: Effect, choice: Choice): void {
  if (choice === lost) return
  switch (effect.kind) {
    case 'sector':
      return applySector(image, effect, choice)
    case 'batch': {
      const store = image.store(effect.store)
      for (const operation of effect.operations) {
        if (operation.type === 'put') store.set(toHex(operation.key), operation.value)
        else store.delete(toHex(operation.key))
      }
      return
    }
    case 'create':
      image.names.set(effect.name, effect.inode)
      image.inodes.set(effect.inode, { size: choice === kept ? effect.size : 0, sectors: new Map() })
      return
    case 'rename': {
      const inode = image.names.get(effect.from)
      if (inode === undefined) return
      image.names.delete(effect.from)
      image.names.set(effect.to, inode)
      return
    }
    case 'remove':
      image.inodes.delete(image.names.get(effect.name) ?? -1)
      image.names.delete(effect.name)
      return
    case 'file':
      if (effect.bytes === undefined) image.files.delete(effect.name)
      else image.files.set(effect.name, effect.bytes)
      return
    case 'destroy':
      image.stores.delete(effect.store)
  }
}

function isName({ kind }: Effect): boolean {
  return kind !== 'sector' && kind !== 'batch'
}

function describeEffect(effect: Effect): string {
  if (effect.kind === 'sector') return `sector ${effect.sector} of file ${effect.inode}`
  if (effect.kind === 'batch') return `${effect.operations.length} changes of ${effect.store}`
  if (effect.kind === 'create') return `extent ${effect.name} made`
  if (effect.kind === 'rename') return `extent ${effect.from} to ${effect.to}`
  if (effect.kind === 'remove') return `extent ${effect.name} removed`
  if (effect.kind === 'file') return `file ${effect.name}`
  return `store ${effect.store} removed`
}

/** One moment at which the power may go. */
export interface CrashPoint {
  readonly time: number
  /** What is not certain to survive, in the order in which it was written. */
  readonly open: readonly { readonly text: string; readonly tears: boolean }[]
  /** The disk after the crash; one choice for each of `open`. */
  image(choices: readonly Choice[]): Image
  /** Only the process is gone: a disk that has all of it, of which what was not synced is not safe yet. */
  survivor(delay: () => Promise<void>): DiskJournal
}

/** One life of a disk, from `start` on. */
export class DiskJournal {
  readonly #start: Image
  readonly #entries: Entry[] = []
  readonly #points: number[] = []
  readonly #live: Image
  readonly #delay: () => Promise<void>
  #now = 0
  #inodes: number
  #busy = 0
  capacityBytes = 1 << 30
  /** Stores that do not open until they are removed. */
  readonly damaged = new Set<string>()

  /** `delay`: how an operation waits for the device; it decides what overlaps. `before`: written, and maybe not synced. */
  constructor(start: Image, delay: () => Promise<void>, before: readonly Entry[] = []) {
    this.#start = start
    this.#live = start.clone()
    this.#delay = delay
    for (const { effect, durable } of before) {
      this.#entries.push({ effect, issued: 0, returned: true, durable })
      apply(this.#live, effect, kept)
    }
    this.#inodes = Math.max(0, ...this.#live.inodes.keys())
  }

  get now(): number {
    return this.#now
  }

  /** Operations under way. */
  get busy(): number {
    return this.#busy
  }

  /** What a process that goes on sees: nothing is lost. */
  get live(): Image {
    return this.#live
  }

  /** Something that was required is not from now on; gives the time of that. */
  weaken(): number {
    this.#points.push(this.#now)
    return ++this.#now
  }

  /** What is damaged is so at once and durably. */
  rot(name: number, offset: number): void {
    this.#live.change(name, offset, (byte) => byte ^ 0x40)
    const inode = this.#live.names.get(name) as number
    const sector = Math.floor(offset / sectorBytes)
    const bytes = this.#live.inodeOf(name).sectors.get(sector) as Uint8Array
    const time = ++this.#now
    this.#entries.push({
      effect: { kind: 'sector', inode, sector, bytes },
      issued: time,
      returned: true,
      durable: time,
    })
  }

  /** The moments to crash at; those that leave nothing to chance and nothing new are left out. */
  *points(): Generator<CrashPoint> {
    let last = -1
    for (const time of [...this.#points, this.#now]) {
      if (time === last) continue
      last = time
      yield this.#point(time)
    }
  }

  #point(time: number): CrashPoint {
    const issued = this.#entries.filter((entry) => entry.issued <= time)
    const open = issued.filter((entry) => entry.durable > time)
    const first = issued.findIndex((entry) => entry.durable > time)
    const certain = first < 0 ? issued : issued.slice(0, first)
    const rest = first < 0 ? [] : issued.slice(first)
    const base = this.#start.clone()
    for (const { effect } of certain) apply(base, effect, kept)
    return {
      time,
      open: open.map(({ effect }) => ({
        text: describeEffect(effect),
        tears: effect.kind === 'sector' || effect.kind === 'create',
      })),
      image: (choices) => {
        const image = base.clone()
        let at = 0
        for (const { effect, durable } of rest) apply(image, effect, durable > time ? (choices[at++] ?? lost) : kept)
        return image
      },
      survivor: (delay) => {
        const before = rest.map((entry) => ({ ...entry, durable: entry.durable > time ? never : 0 }))
        return new DiskJournal(base, delay, before)
      },
    }
  }

  async #pass<T>(work: () => T): Promise<T> {
    this.#busy++
    try {
      await this.#delay()
      return work()
    } finally {
      this.#busy--
    }
  }

  /** Begins effects; `end` takes them in and makes them durable when `sync`. */
  #begin(effects: readonly Effect[]): { end(durable: boolean): void } {
    const issued = ++this.#now
    const entries = effects.map((effect): Entry => ({ effect, issued, returned: false, durable: never }))
    this.#entries.push(...entries)
    return {
      end: (durable) => {
        for (const entry of entries) {
          entry.returned = true
          apply(this.#live, entry.effect, kept)
        }
        if (!durable) return
        this.#harden(entries)
        if (effects.some(isName)) this.#hardenNames()
      },
    }
  }

  /** The directory was synced, which is for all names in it. */
  #hardenNames(): void {
    this.#harden(this.#returned(isName))
  }

  #harden(entries: readonly Entry[]): void {
    const fresh = entries.filter((entry) => entry.durable === never)
    if (fresh.length === 0) return
    this.#points.push(this.#now)
    const time = ++this.#now
    for (const entry of fresh) entry.durable = time
  }

  #returned(which: (effect: Effect) => boolean): Entry[] {
    return this.#entries.filter((entry) => entry.returned && entry.durable === never && which(entry.effect))
  }

  async #change(effect: Effect): Promise<void> {
    const change = this.#begin([effect])
    await this.#pass(() => change.end(true))
  }

  get extents(): ExtentFiles {
    const image = this.#live
    const memory = new ArenaPool()
    return {
      alignment: sectorBytes,
      mode: 'buffered',
      list: async () => [...image.names.keys()],
      sizeOf: async (number) => image.inodes.get(image.names.get(number) ?? -1)?.size,
      create: async (number, size) => {
        if (image.names.has(number)) throw new StoreError('IO', `make extent ${number}: it exists`)
        if (this.#free() < size) throw new StoreError('NO_SPACE', `make extent ${number}: the filesystem is full`)
        await this.#change({ kind: 'create', name: number, inode: ++this.#inodes, size })
        return this.#file(number)
      },
      open: async (number) => this.#file(number),
      rename: (from, to) => this.#change({ kind: 'rename', from, to }),
      remove: (name) => this.#change({ kind: 'remove', name }),
      arena: (size) => memory.take(size),
      space: async () => ({ free: this.#free(), total: this.capacityBytes }),
    }
  }

  #free(): number {
    let used = 0
    for (const inode of this.#live.names.values()) used += this.#live.inodes.get(inode)?.size ?? 0
    return Math.max(0, this.capacityBytes - used)
  }

  #file(number: number): ExtentFile {
    const id = this.#live.names.get(number) ?? -1
    const inode = this.#live.inodeOf(number)
    return {
      number,
      size: inode.size,
      write: async (bytes, offset) => {
        if (offset % sectorBytes !== 0 || bytes.length % sectorBytes !== 0) throw new Error('a write is whole sectors')
        if (offset + bytes.length > inode.size) throw new Error('a write is inside of its extent')
        const copy = bytes.slice()
        const effects: Effect[] = []
        for (let at = 0; at < copy.length; at += sectorBytes) {
          const sector = (offset + at) / sectorBytes
          effects.push({ kind: 'sector', inode: id, sector, bytes: copy.subarray(at, at + sectorBytes) })
        }
        const write = this.#begin(effects)
        await this.#pass(() => write.end(false))
        // The device may take them at any time until then.
        if (!equalBytes(copy, bytes)) throw new Error('bytes on their way to the disk were changed')
      },
      sync: async () => {
        const covered = this.#returned((effect) => effect.kind === 'sector' && effect.inode === id)
        await this.#pass(() => this.#harden(covered))
      },
      read: async (into, offset) => readInode(inode, offset, into).length,
      close: async () => undefined,
    }
  }

  get files(): Files {
    return {
      read: async (name) => this.#live.files.get(name)?.slice(),
      write: (name, bytes) => this.#change({ kind: 'file', name, bytes: bytes.slice() }),
      overwrite: () => Promise.reject(new Error('the disk engine overwrites no file')),
      remove: (name) => this.#change({ kind: 'file', name, bytes: undefined }),
      list: async () => [...this.#live.files.keys()].sort(),
      freeBytes: async () => this.#free(),
    }
  }

  get kv(): KvFactory {
    const open = new Set<string>()
    return {
      open: async (name) => {
        if (this.damaged.has(name)) throw new StoreError('CORRUPT', `open store ${name}: damaged`)
        if (open.has(name)) throw new StoreError('LOCKED', `open store ${name}: it is open`)
        open.add(name)
        // Syncs the directory, for what a process that was killed has left.
        await this.#pass(() => this.#hardenNames())
        return this.#store(name, () => open.delete(name))
      },
      destroy: async (store) => {
        await this.#change({ kind: 'destroy', store })
        this.damaged.delete(store)
      },
    }
  }

  #store(name: string, closed: () => void): Kv {
    const get = (key: Uint8Array): Uint8Array | undefined => this.#live.store(name).get(toHex(key))?.slice()
    const iterate = (range: KvRange): AsyncIterable<KvEntry> => scan(this.#live.store(name), range)
    return {
      get: async (key) => get(key),
      getSync: get,
      batch: async (operations, { sync }) => {
        const copies = operations.map((one) => (one.type === 'put' ? { ...one, value: one.value.slice() } : one))
        const batch = this.#begin([{ kind: 'batch', store: name, operations: copies }])
        await this.#pass(() => batch.end(sync))
      },
      iterate,
      snapshot: () => ({ get: async (key) => get(key), iterate, close: async () => undefined }),
      flush: async () => {
        const covered = this.#returned((effect) => effect.kind === 'batch' && effect.store === name)
        await this.#pass(() => this.#harden(covered))
      },
      close: async () => {
        closed()
      },
    }
  }
}

async function* scan(store: ReadonlyMap<string, Uint8Array>, range: KvRange): AsyncGenerator<KvEntry> {
  // Hex sorts as the bytes do.
  const from = range.gte === undefined ? '' : toHex(range.gte)
  const to = range.lt === undefined ? 'g' : toHex(range.lt)
  const keys = [...store.keys()].filter((key) => key >= from && key < to).sort()
  if (range.reverse === true) keys.reverse()
  for (const key of keys.slice(0, range.limit ?? keys.length)) {
    yield { key: fromHex(key) as Uint8Array, value: (store.get(key) as Uint8Array).slice() }
  }
}

/** The same memory for every life: they follow each other, and zeroing megabytes would take most of the time. */
class ArenaPool {
  static readonly #pool = new Map<string, Uint8Array>()
  #taken = 0

  take(size: number): Uint8Array {
    const key = `${++this.#taken}:${size}`
    const memory = ArenaPool.#pool.get(key) ?? new Uint8Array(size)
    ArenaPool.#pool.set(key, memory)
    return memory
  }
}
