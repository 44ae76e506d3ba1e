/**
 * An ordered key-value store in memory that is honest about crashes: synced state, and batches that are not synced yet, of
 * which a crash keeps a random subset (as LevelDB may), each whole.
 */

import { fromHex, toHex } from '../../src/base/bytes.ts'
import { StoreError } from '../../src/model/errors.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange } from '../../src/ports/kv.ts'
import { FaultPlan } from './fault-plan.ts'

type State = Map<string, Uint8Array>

function applyTo(state: State, operations: readonly KvOperation[]): void {
  for (const operation of operations) {
    if (operation.type === 'put') state.set(toHex(operation.key), operation.value.slice())
    else state.delete(toHex(operation.key))
  }
}

class Store {
  durable: State = new Map()
  current: State = new Map()
  unsynced: (readonly KvOperation[])[] = []
  open = false

  crash(chance: () => number): void {
    for (const batch of this.unsynced) if (chance() < 0.5) applyTo(this.durable, batch)
    this.unsynced = []
    this.current = new Map(this.durable)
    this.open = false
  }

  harden(): void {
    for (const batch of this.unsynced) applyTo(this.durable, batch)
    this.unsynced = []
  }
}

export class MemoryKvFactory implements KvFactory {
  readonly #stores = new Map<string, Store>()
  /** Replaced after a crash, so that the old world's calls stay stopped. */
  faults: FaultPlan
  /** Makes the next open of any store fail as a damaged one does. */
  corrupt = false

  constructor(faults: FaultPlan = new FaultPlan()) {
    this.faults = faults
  }

  open(name: string): Promise<Kv> {
    if (this.corrupt) return Promise.reject(new StoreError('CORRUPT', 'open store: damaged'))
    const store = this.#stores.get(name) ?? new Store()
    this.#stores.set(name, store)
    if (store.open) return Promise.reject(new StoreError('LOCKED', 'open store: another process has it'))
    store.open = true
    return Promise.resolve(memoryKv(store, this.faults))
  }

  destroy(name: string): Promise<void> {
    this.corrupt = false
    this.#stores.delete(name)
    return Promise.resolve()
  }

  /** The process is gone: what was not synced survives by chance. */
  crash(chance: () => number, faults: FaultPlan): void {
    for (const store of this.#stores.values()) store.crash(chance)
    this.faults = faults
  }

  /** Changes a stored value behind everybody's back. */
  tamper(name: string, key: Uint8Array, change: (value: Uint8Array) => void): void {
    const store = this.#stores.get(name)
    const states = store === undefined ? [] : [store.durable, store.current]
    // What was flushed is one value in both: it is changed once.
    for (const value of new Set(states.map((state) => state.get(toHex(key))))) if (value !== undefined) change(value)
  }
}

function select(state: State, range: KvRange): KvEntry[] {
  // Hex sorts as the bytes do.
  const from = range.gte === undefined ? '' : toHex(range.gte)
  const to = range.lt === undefined ? undefined : toHex(range.lt)
  const keys = [...state.keys()].filter((key) => key >= from && (to === undefined || key < to)).sort()
  if (range.reverse === true) keys.reverse()
  const entries: KvEntry[] = []
  for (const hex of range.limit === undefined ? keys : keys.slice(0, range.limit)) {
    entries.push({ key: fromHex(hex) ?? new Uint8Array(0), value: state.get(hex)?.slice() ?? new Uint8Array(0) })
  }
  return entries
}

function memoryKv(store: Store, faults: FaultPlan): Kv {
  const alive = async (): Promise<void> => {
    if (faults.stopped) await new Promise<never>(() => undefined)
  }
  async function* iterate(state: State, range: KvRange): AsyncIterable<KvEntry> {
    await alive()
    yield* select(state, range)
  }
  return {
    get: async (key) => {
      await alive()
      return store.current.get(toHex(key))?.slice()
    },
    getSync: (key) => store.current.get(toHex(key))?.slice(),
    batch: async (operations, options) => {
      const copy = operations.map((operation) => ({ ...operation }))
      store.unsynced.push(copy)
      await faults.pass('batch')
      applyTo(store.current, copy)
      if (options.sync) store.harden()
    },
    iterate: (range) => iterate(store.current, range),
    snapshot: () => {
      const state = new Map(store.current)
      return {
        get: (key) => Promise.resolve(state.get(toHex(key))?.slice()),
        iterate: (range) => iterate(state, range),
        close: () => Promise.resolve(),
      }
    },
    flush: async () => {
      const batches = [...store.unsynced]
      await faults.pass('flush')
      for (const batch of batches) applyTo(store.durable, batch)
      store.unsynced = store.unsynced.filter((batch) => !batches.includes(batch))
    },
    close: () => {
      store.open = false
      return Promise.resolve()
    },
  }
}
