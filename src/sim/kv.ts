/**
 * Simulated key-value stores of one disk, with what a crash really does to LevelDB.
 *
 * A batch is visible once it has resolved; with `sync` it is then on disk. A crash keeps every synced batch and a random
 * subset, not a prefix, of the others, in their order; a batch in flight may be there or not. Two batches in flight
 * finish in any order. Reads resolve at once, because order among reads is not what is being tested.
 */

import { assert } from '../base/assert.ts'
import { StoreError } from '../model/errors.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange, KvSnapshot } from '../ports/kv.ts'
import type { SimProcess, World } from './clock.ts'
import { bytesOf, keyOf, type Tree, treeDelete, treeGet, treePut, treeScan } from './ordered-map.ts'
import type { Seeded } from './seed.ts'

/** How slow a disk is, in milliseconds. */
export interface DiskTimes {
  readonly writeMs: number
  readonly syncMs: number
  /** Probability that one write takes `stallMs` more. */
  readonly stallRate: number
  readonly stallMs: number
}

interface StoredBatch {
  readonly operations: readonly KvOperation[]
  synced: boolean
}

function applyTo(tree: Tree, operations: readonly KvOperation[]): Tree {
  let out = tree
  for (const operation of operations) {
    const key = keyOf(operation.key)
    out = operation.type === 'put' ? treePut(out, key, operation.value) : treeDelete(out, key)
  }
  return out
}

/** One store as it lies on the disk: it outlives its process. */
class StoredKv {
  /** What no crash can take away. */
  durable: Tree = undefined
  visible: Tree = undefined
  /** Batches above `durable`, oldest first. */
  batches: StoredBatch[] = []
  inFlight = new Set<StoredBatch>()
  openBy: { host: SimProcess; incarnation: number } | undefined

  finish(batch: StoredBatch): void {
    this.inFlight.delete(batch)
    this.visible = applyTo(this.visible, batch.operations)
    this.batches.push(batch)
    this.#fold(64)
  }

  flush(): void {
    this.durable = this.visible
    this.batches = []
  }

  crash(random: Seeded): void {
    for (const batch of random.shuffle([...this.inFlight]))
      if (random.chance(0.5)) this.batches.push({ ...batch, synced: true })
    this.inFlight.clear()
    for (const batch of this.batches) {
      if (batch.synced || random.chance(0.5)) this.durable = applyTo(this.durable, batch.operations)
    }
    this.batches = []
    this.visible = this.durable
    this.openBy = undefined
  }

  /** Moves batches that cannot be lost any more into `durable`; a long unsynced tail ages into it as LevelDB's does. */
  #fold(keep: number): void {
    let folded = 0
    while (folded < this.batches.length) {
      const batch = this.batches[folded] as StoredBatch
      if (!batch.synced && this.batches.length - folded <= keep) break
      this.durable = applyTo(this.durable, batch.operations)
      folded++
    }
    if (folded > 0) this.batches.splice(0, folded)
  }
}

function copyOperations(operations: readonly KvOperation[]): KvOperation[] {
  return operations.map((operation) =>
    operation.type === 'put'
      ? { type: 'put', key: operation.key.slice(), value: operation.value.slice() }
      : { type: 'del', key: operation.key.slice() },
  )
}

async function* scan(tree: Tree, range: KvRange): AsyncGenerator<KvEntry> {
  const gte = range.gte === undefined ? undefined : keyOf(range.gte)
  const lt = range.lt === undefined ? undefined : keyOf(range.lt)
  let left = range.limit ?? Number.POSITIVE_INFINITY
  if (left <= 0) return
  for (const entry of treeScan(tree, gte, lt, range.reverse === true)) {
    yield { key: bytesOf(entry.key), value: entry.value.slice() }
    if (--left <= 0) return
  }
}

function get(tree: Tree, key: Uint8Array): Uint8Array | undefined {
  return treeGet(tree, keyOf(key))?.slice()
}

/** A watcher of finished batches, for the invariants of the simulator. */
export type BatchWatcher = (store: string, operations: readonly KvOperation[], sync: boolean) => void

/** The key-value stores of one simulated disk. */
export class SimKvDisk {
  readonly #world: World
  readonly #random: Seeded
  readonly #times: DiskTimes
  readonly #stores = new Map<string, StoredKv>()
  #watcher: BatchWatcher | undefined

  constructor(world: World, random: Seeded, times: DiskTimes) {
    this.#world = world
    this.#random = random
    this.#times = times
  }

  onBatch(watcher: BatchWatcher): void {
    this.#watcher = watcher
  }

  /** What reads of an open store would see; for checks from outside. */
  peek(name: string, key: Uint8Array): Uint8Array | undefined {
    return treeGet(this.#stores.get(name)?.visible, keyOf(key))
  }

  crash(): void {
    for (const store of this.#stores.values()) store.crash(this.#random)
  }

  /** Everything on the disk is gone: a new disk in the same place. */
  wipe(): void {
    this.#stores.clear()
  }

  /** The KvFactory port for one incarnation of a process. */
  factory(host: SimProcess): KvFactory {
    return {
      open: async (name) => {
        const store = this.#stores.get(name) ?? new StoredKv()
        this.#stores.set(name, store)
        const { openBy } = store
        if (openBy !== undefined && openBy.host.alive && openBy.incarnation === openBy.host.incarnation) {
          throw new StoreError('LOCKED', `open store ${name} of ${host.id}: it is open already; close it first`)
        }
        store.openBy = { host, incarnation: host.incarnation }
        return this.#open(name, store, host)
      },
      destroy: async (name) => {
        const store = this.#stores.get(name)
        assert(store?.openBy === undefined, `store ${name} is closed before it is destroyed`)
        this.#stores.delete(name)
      },
    }
  }

  #open(name: string, store: StoredKv, host: SimProcess): Kv {
    const check = (): void => assert(store.openBy?.host === host, `store ${name} of ${host.id} is open`)
    const wait = (ms: number, label: string): Promise<void> =>
      new Promise((resolve) => {
        this.#world.after(ms, `${host.id} ${label}`, host, resolve)
      })
    return {
      get: async (key) => {
        check()
        return get(store.visible, key)
      },
      getSync: (key) => {
        check()
        return get(store.visible, key)
      },
      batch: async (operations, { sync }) => {
        check()
        const batch: StoredBatch = { operations: copyOperations(operations), synced: sync }
        store.inFlight.add(batch)
        await wait(this.#duration(sync), `${name} batch`)
        store.finish(batch)
        this.#watcher?.(name, batch.operations, sync)
      },
      iterate: (range) => {
        check()
        return scan(store.visible, range)
      },
      snapshot: (): KvSnapshot => {
        check()
        const view = store.visible
        return {
          get: async (key) => get(view, key),
          iterate: (range) => scan(view, range),
          close: async () => {},
        }
      },
      flush: async () => {
        await wait(this.#duration(true), `${name} flush`)
        store.flush()
      },
      close: async () => {
        check()
        // LevelDB writes its buffers out when it is closed in order.
        store.flush()
        store.openBy = undefined
      },
    }
  }

  #duration(sync: boolean): number {
    const { writeMs, syncMs, stallRate, stallMs } = this.#times
    const stall = this.#random.chance(stallRate) ? this.#random.between(0, stallMs) : 0
    return this.#random.between(0.3, 1.7) * (sync ? syncMs : writeMs) + stall
  }
}
