/**
 * A disk that remembers every write since a moment, so that each state which a crash may leave behind can be made: for the
 * exhaustive crash tests of the real log stores and hard-state slots.
 *
 * What is not synced is lost or kept piece by piece: a batch of the key-value store, a sector of a segment file.
 */

import { fromHex, toHex } from '../../../src/base/bytes.ts'
import { StoreError } from '../../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../../src/ports/extents.ts'
import type { Files } from '../../../src/ports/files.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange } from '../../../src/ports/kv.ts'
import { Seeded } from '../../../src/sim/seed.ts'

type Write =
  | { readonly kind: 'batch'; readonly operations: readonly KvOperation[]; readonly sync: boolean }
  | { readonly kind: 'slot'; readonly name: string; readonly bytes: Uint8Array }
  /** A small file, atomically. */
  | { readonly kind: 'file'; readonly name: string; readonly bytes: Uint8Array }
  | { readonly kind: 'destroy' }
  | {
      readonly kind: 'sectors'
      readonly number: number
      readonly offset: number
      readonly bytes: Uint8Array
      /** The file holds nothing yet. */
      readonly fresh: boolean
    }
  | { readonly kind: 'sync'; readonly number: number }
  | { readonly kind: 'create'; readonly number: number; readonly size: number }
  | { readonly kind: 'rename'; readonly number: number; readonly to: number }
  | { readonly kind: 'remove'; readonly number: number }
  /** The state machine is replaced, durably and at once. */
  | { readonly kind: 'state'; readonly index: number }

/** What is on a disk at one moment. */
export interface Content {
  readonly kv: ReadonlyMap<string, Uint8Array>
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Segment files. */
  readonly extents: ReadonlyMap<number, Uint8Array>
  readonly applied: number
}

export const emptyContent: Content = { kv: new Map(), files: new Map(), extents: new Map(), applied: 0 }

const sectorBytes = 4096
/** Subsets of what was not synced: all of them, when there are not more. */
const subsetsMax = 16

/** Pieces that an interrupted overwrite may have written. */
const tornPieces = [1, 16, 40, 200, 511]

export class Journal {
  readonly #start: Content
  readonly #writes: Write[] = []
  #kv: Map<string, Uint8Array>
  readonly #files: Map<string, Uint8Array>
  readonly #extents: Map<number, Uint8Array>
  applied: number

  constructor(start: Content) {
    this.#start = start
    this.#kv = new Map(start.kv)
    this.#files = new Map(start.files)
    this.#extents = new Map([...start.extents].map(([number, bytes]) => [number, bytes.slice()]))
    this.applied = start.applied
  }

  /** Writes since the start. */
  get count(): number {
    return this.#writes.length
  }

  get content(): Content {
    const extents = new Map([...this.#extents].map(([number, bytes]) => [number, bytes.slice()]))
    return { kv: new Map(this.#kv), files: new Map(this.#files), extents, applied: this.applied }
  }

  replaceState(index: number): void {
    this.#writes.push({ kind: 'state', index })
    this.applied = index
  }

  /**
   * Every content that a loss of power may leave when `done` writes had ended and the next one (if there is one) was under
   * way: all synced ones, any subset of the pieces of the others.
   */
  *crashes(done: number): Generator<Content> {
    const next = this.#writes[done]
    const steps = stepsOf(this.#writes.slice(0, done), next)
    const firstLoose = steps.findIndex((step) => step.loose)
    const settled = steps.slice(0, firstLoose < 0 ? steps.length : firstLoose)
    const content = settled.reduce((left, step) => written(left, step.write), this.#start)
    const rest = steps.slice(settled.length)
    const loose = rest.filter((step) => step.loose)
    for (const lost of subsets(loose, done)) {
      const left = rest.filter((step) => !lost.has(step)).reduce((some, step) => written(some, step.write), content)
      yield left
      if (next === undefined || next.kind === 'sectors' || next.kind === 'sync') continue
      yield written(left, next)
      if (next.kind === 'slot') yield* torn(left, next)
    }
  }

  get kv(): Kv {
    const scan = (range: KvRange): AsyncIterable<KvEntry> => this.#scan(range)
    const get = (key: Uint8Array): Uint8Array | undefined => this.#kv.get(toHex(key))?.slice()
    return {
      get: async (key) => get(key),
      getSync: get,
      batch: async (operations, { sync }) => {
        const write = { kind: 'batch', operations: operations.map((operation) => ({ ...operation })), sync } as const
        this.#writes.push(write)
        this.#kv = new Map(written(this.content, write).kv)
      },
      iterate: scan,
      snapshot: () => {
        throw new Error('the raft log takes no snapshots')
      },
      flush: async () => {},
      close: async () => {},
    }
  }

  /** The store of the log; others hold nothing. */
  get factory(): KvFactory {
    return {
      open: async (name) => (name === 'raft-log' ? this.kv : new Journal(emptyContent).kv),
      destroy: async () => {
        this.#writes.push({ kind: 'destroy' })
        this.#kv = new Map()
      },
    }
  }

  get extents(): ExtentFiles {
    const there = this.#extents
    const of = (number: number): Uint8Array => {
      const bytes = there.get(number)
      if (bytes === undefined) throw new StoreError('IO', `no segment ${number}`)
      return bytes
    }
    const open = async (number: number): Promise<ExtentFile> => {
      const bytes = of(number)
      return {
        number,
        size: bytes.length,
        write: async (from, offset) => {
          const fresh = bytes.every((byte) => byte === 0)
          this.#writes.push({ kind: 'sectors', number, offset, bytes: from.slice(), fresh })
          bytes.set(from, offset)
        },
        sync: async () => {
          this.#writes.push({ kind: 'sync', number })
        },
        read: async (into, offset) => {
          const piece = bytes.subarray(offset, offset + into.length)
          into.set(piece)
          return piece.length
        },
        close: async () => {},
      }
    }
    return {
      alignment: sectorBytes,
      mode: 'direct',
      list: async () => [...there.keys()].sort((a, b) => a - b),
      sizeOf: async (number) => there.get(number)?.length,
      create: async (number, size) => {
        this.#writes.push({ kind: 'create', number, size })
        there.set(number, new Uint8Array(size))
        return open(number)
      },
      open,
      rename: async (number, to) => {
        const bytes = of(number)
        this.#writes.push({ kind: 'rename', number, to })
        there.delete(number)
        there.set(to, bytes)
      },
      remove: async (number) => {
        this.#writes.push({ kind: 'remove', number })
        there.delete(number)
      },
      arena: (size) => new Uint8Array(size),
      space: async () => ({ free: 1024 ** 4, total: 1024 ** 4 }),
    }
  }

  async *#scan(range: KvRange): AsyncGenerator<KvEntry> {
    const low = range.gte === undefined ? '' : toHex(range.gte)
    const high = range.lt === undefined ? 'g' : toHex(range.lt)
    const keys = [...this.#kv.keys()].filter((key) => key >= low && key < high).sort()
    for (const key of keys.slice(0, range.limit ?? keys.length)) {
      yield { key: fromHex(key) as Uint8Array, value: (this.#kv.get(key) as Uint8Array).slice() }
    }
  }

  get files(): Files {
    const none = (): never => {
      throw new StoreError('INTERNAL', 'not used here')
    }
    return {
      read: async (name) => this.#files.get(name)?.slice(),
      overwrite: async (name, bytes) => {
        this.#writes.push({ kind: 'slot', name, bytes: bytes.slice() })
        this.#files.set(name, bytes.slice())
      },
      write: async (name, bytes) => {
        this.#writes.push({ kind: 'file', name, bytes: bytes.slice() })
        this.#files.set(name, bytes.slice())
      },
      remove: none,
      list: none,
      freeBytes: none,
    }
  }
}

function written(content: Content, write: Write): Content {
  if (write.kind === 'state') return { ...content, applied: write.index }
  if (write.kind === 'slot' || write.kind === 'file') {
    return { ...content, files: new Map(content.files).set(write.name, write.bytes) }
  }
  if (write.kind === 'destroy') return { ...content, kv: new Map() }
  if (write.kind === 'sync') return content
  if (write.kind !== 'batch') return { ...content, extents: changedExtents(content.extents, write) }
  const kv = new Map(content.kv)
  for (const operation of write.operations) {
    if (operation.type === 'put') kv.set(toHex(operation.key), operation.value.slice())
    else kv.delete(toHex(operation.key))
  }
  return { ...content, kv }
}

/** Only the first so many bytes are new, or only those behind them. */
function* torn(content: Content, { name, bytes }: Extract<Write, { kind: 'slot' }>): Generator<Content> {
  const old = content.files.get(name) ?? new Uint8Array(bytes.length)
  for (const at of tornPieces) {
    for (const [head, tail] of [
      [bytes, old],
      [old, bytes],
    ] as const) {
      const mixed = new Uint8Array(bytes.length)
      mixed.set(head.subarray(0, at))
      mixed.set(tail.subarray(at), at)
      yield { ...content, files: new Map(content.files).set(name, mixed) }
    }
  }
}

type ExtentWrite = Extract<Write, { kind: 'sectors' | 'create' | 'rename' | 'remove' }>

function changedExtents(extents: Content['extents'], write: ExtentWrite): Content['extents'] {
  const out = new Map(extents)
  if (write.kind === 'create') return out.set(write.number, new Uint8Array(write.size))
  const bytes = out.get(write.number)
  if (write.kind === 'sectors') {
    const copy = (bytes ?? new Uint8Array(0)).slice()
    copy.set(write.bytes, write.offset)
    return out.set(write.number, copy)
  }
  out.delete(write.number)
  return write.kind === 'rename' && bytes !== undefined ? out.set(write.to, bytes) : out
}

type Sectors = Extract<Write, { kind: 'sectors' }>

function piecesOf(write: Sectors): Sectors[] {
  const out: Sectors[] = []
  for (let at = 0; at < write.bytes.length; at += sectorBytes) {
    out.push({ ...write, offset: write.offset + at, bytes: write.bytes.subarray(at, at + sectorBytes) })
  }
  return out
}

/** A write, or one sector of it. */
interface Step {
  readonly write: Write
  /** Not synced: the power may take it. */
  loose: boolean
}

/** What was written, in order; of `next`, which is under way, the sectors. */
function stepsOf(ended: readonly Write[], next: Write | undefined): Step[] {
  const steps: Step[] = []
  /** What is not synced of each file, under its present number. */
  const dirty = new Map<number, Step[]>()
  const add = (write: Sectors): void => {
    const pieces = piecesOf(write).map((piece) => ({ write: piece, loose: true }))
    steps.push(...pieces)
    dirty.set(write.number, [...(dirty.get(write.number) ?? []), ...pieces])
  }
  for (const write of ended) {
    if (write.kind === 'sectors') add(write)
    else if (write.kind === 'sync') {
      for (const step of dirty.get(write.number) ?? []) step.loose = false
      dirty.delete(write.number)
    } else {
      steps.push({ write, loose: write.kind === 'batch' && !write.sync })
      if (write.kind === 'rename') dirty.set(write.to, dirty.get(write.number) ?? [])
      // What is lost with the file cannot be lost otherwise.
      if (write.kind === 'remove') for (const step of dirty.get(write.number) ?? []) step.loose = false
      if (write.kind === 'rename' || write.kind === 'remove') dirty.delete(write.number)
    }
  }
  if (next?.kind === 'sectors') add(next)
  // Zeros in a new file are there already.
  for (const step of steps) {
    if (step.write.kind === 'sectors' && step.write.fresh && step.write.bytes.every((byte) => byte === 0))
      step.loose = false
  }
  return steps
}

/** Subsets of what may be lost: all of them; or of too many nothing, everything, and some by chance. */
function* subsets(loose: readonly Step[], seed: number): Generator<Set<Step>> {
  const count = 2 ** loose.length
  if (count <= subsetsMax) {
    for (let mask = 0; mask < count; mask++) yield new Set(loose.filter((_, i) => (mask >>> i) % 2 === 1))
    return
  }
  const random = new Seeded(seed)
  yield new Set()
  yield new Set(loose)
  for (let i = 2; i < subsetsMax; i++) yield new Set(loose.filter(() => random.chance(0.5)))
}
