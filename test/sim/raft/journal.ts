/**
 * A disk that remembers every write since a moment, so that each state which a crash may leave behind can be made: for the
 * exhaustive crash tests of the real log store and hard-state slots.
 */

import { fromHex, toHex } from '../../../src/base/bytes.ts'
import { StoreError } from '../../../src/model/errors.ts'
import type { Files } from '../../../src/ports/files.ts'
import type { Kv, KvEntry, KvOperation, KvRange } from '../../../src/ports/kv.ts'

type Write =
  | { readonly kind: 'batch'; readonly operations: readonly KvOperation[]; readonly sync: boolean }
  | { readonly kind: 'slot'; readonly name: string; readonly bytes: Uint8Array }
  /** The state machine is replaced, durably and at once. */
  | { readonly kind: 'state'; readonly index: number }

/** What is on a disk at one moment. */
export interface Content {
  readonly kv: ReadonlyMap<string, Uint8Array>
  readonly files: ReadonlyMap<string, Uint8Array>
  readonly applied: number
}

export const emptyContent: Content = { kv: new Map(), files: new Map(), applied: 0 }

/** Pieces that an interrupted overwrite may have written. */
const tornPieces = [1, 16, 40, 200, 511]

export class Journal {
  readonly #start: Content
  readonly #writes: Write[] = []
  #kv: Map<string, Uint8Array>
  readonly #files: Map<string, Uint8Array>
  applied: number

  constructor(start: Content) {
    this.#start = start
    this.#kv = new Map(start.kv)
    this.#files = new Map(start.files)
    this.applied = start.applied
  }

  /** Writes since the start. */
  get count(): number {
    return this.#writes.length
  }

  get content(): Content {
    return { kv: new Map(this.#kv), files: new Map(this.#files), applied: this.applied }
  }

  replaceState(index: number): void {
    this.#writes.push({ kind: 'state', index })
    this.applied = index
  }

  /**
   * Every content that a loss of power may leave when `done` writes had ended and the next one (if there is one) was under
   * way: all synced ones, any subset of the others.
   */
  *crashes(done: number): Generator<Content> {
    const ended = this.#writes.slice(0, done)
    const loose = ended.filter((write) => write.kind === 'batch' && !write.sync)
    for (let mask = 0; mask < 2 ** loose.length; mask++) {
      const kept = ended.filter((write) => !loose.includes(write) || (mask >>> loose.indexOf(write)) % 2 === 1)
      const content = kept.reduce(written, this.#start)
      yield content
      const next = this.#writes[done]
      if (next === undefined) continue
      yield written(content, next)
      if (next.kind === 'slot') yield* torn(content, next)
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
      throw new StoreError('INTERNAL', 'only slots are read and overwritten here')
    }
    return {
      read: async (name) => this.#files.get(name)?.slice(),
      overwrite: async (name, bytes) => {
        this.#writes.push({ kind: 'slot', name, bytes: bytes.slice() })
        this.#files.set(name, bytes.slice())
      },
      write: none,
      remove: none,
      list: none,
      freeBytes: none,
    }
  }
}

function written(content: Content, write: Write): Content {
  if (write.kind === 'state') return { ...content, applied: write.index }
  if (write.kind === 'slot') return { ...content, files: new Map(content.files).set(write.name, write.bytes) }
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
