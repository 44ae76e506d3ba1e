/**
 * Simulated key-value stores of one disk, with what a crash really does to LevelDB.
 *
 * A batch is visible once it has resolved; with `sync` it is then on disk. A crash keeps every synced batch and a random
 * subset, not a prefix, of the others, in their order; a batch in flight may be there or not. Two batches in flight
 * finish in any order. Reads resolve at once, because order among reads is not what is being tested.
 *
 * A batch whose write fails is not visible, and what comes after it is written all the same: a hole, as a failed append to
 * LevelDB's log leaves one. A sync that fails ends the store until it is opened again, and its batch is on disk or not.
 */

import { assert } from '../base/assert.ts'
import { StoreError } from '../model/errors.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange, KvSnapshot } from '../ports/kv.ts'
import type { SimProcess } from './clock.ts'
import type { SimDevice } from './disk.ts'
import { bytesOf, keyOf, type Tree, treeDelete, treeGet, treePut, treeScan } from './ordered-map.ts'
import type { Seeded } from './seed.ts'

/** Unsynced batches beyond these age to disk, as LevelDB's do when a memtable is written out. */
const unsyncedMax = 64

interface StoredOperation {
  readonly key: string
  /** Undefined: deleted. */
  readonly value: Uint8Array | undefined
}

interface StoredBatch {
  readonly operations: readonly StoredOperation[]
  synced: boolean
}

function applyTo(tree: Tree, operations: readonly StoredOperation[]): Tree {
  let out = tree
  for (const { key, value } of operations) out = value === undefined ? treeDelete(out, key) : treePut(out, key, value)
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
  /** A sync failed: LevelDB takes no more writes until it is opened again. */
  latched = false

  finish(batch: StoredBatch): void {
    this.inFlight.delete(batch)
    this.visible = applyTo(this.visible, batch.operations)
    this.batches.push(batch)
    this.fold()
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
    this.latched = false
  }

  /** Moves batches that cannot be lost any more into `durable`. */
  fold(): void {
    let folded = 0
    while (folded < this.batches.length) {
      const batch = this.batches[folded] as StoredBatch
      if (!batch.synced && this.batches.length - folded <= unsyncedMax) break
      folded++
    }
    if (folded === this.batches.length) {
      this.flush()
      return
    }
    for (const batch of this.batches.splice(0, folded)) this.durable = applyTo(this.durable, batch.operations)
  }
}

function stored(operations: readonly KvOperation[]): StoredOperation[] {
  return operations.map((operation) => ({
    key: keyOf(operation.key),
    value: operation.type === 'put' ? operation.value.slice() : undefined,
  }))
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

/** The key-value stores of one simulated disk. */
export class SimKvDisk {
  readonly #random: Seeded
  readonly #device: SimDevice
  readonly #stores = new Map<string, StoredKv>()

  constructor(random: Seeded, device: SimDevice) {
    this.#random = random
    this.#device = device
  }

  /** What reads of an open store would see; for checks from outside. A view, not to be changed. */
  peek(name: string, key: Uint8Array): Uint8Array | undefined {
    return treeGet(this.#stores.get(name)?.visible, keyOf(key))
  }

  /** Keys and values of a store, for faults and checks from outside. */
  *entries(name: string, gte?: Uint8Array, lt?: Uint8Array): Generator<KvEntry> {
    const low = gte === undefined ? undefined : keyOf(gte)
    const high = lt === undefined ? undefined : keyOf(lt)
    for (const { key, value } of treeScan(this.#stores.get(name)?.visible, low, high, false)) {
      yield { key: bytesOf(key), value }
    }
  }

  /** Changes a stored value behind everybody's back, as rot does. The key must be there. */
  tamper(name: string, key: Uint8Array, change: (value: Uint8Array) => Uint8Array): void {
    const store = this.#stores.get(name)
    const text = keyOf(key)
    const old = treeGet(store?.visible, text)
    assert(store !== undefined && old !== undefined, 'what rots is there')
    const value = change(old.slice())
    store.visible = treePut(store.visible, text, value)
    if (treeGet(store.durable, text) !== undefined) store.durable = treePut(store.durable, text, value)
    // Batches above it that wrote the key hold what rotted.
    store.batches = store.batches.map((batch) => ({
      ...batch,
      operations: batch.operations.map((one) =>
        one.key === text && one.value !== undefined ? { key: text, value } : one,
      ),
    }))
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
        if (store.latched) throw new StoreError('IO', `${name}: an earlier sync failed, the store takes no writes`)
        const batch: StoredBatch = { operations: stored(operations), synced: sync }
        store.inFlight.add(batch)
        try {
          await this.#device.work(sync ? 'sync' : 'write', host, `${name} batch`)
          this.#device.checkRoom(`${name} batch`)
        } catch (error) {
          this.#failed(store, batch)
          throw error
        }
        store.finish(batch)
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
        const covered = [...store.batches]
        await this.#device.work('sync', host, `${name} flush`)
        for (const batch of covered) batch.synced = true
        store.fold()
      },
      close: async () => {
        check()
        // LevelDB writes its buffers out when it is closed in order.
        if (!store.latched) store.flush()
        store.openBy = undefined
      },
    }
  }

  /** A write that fails leaves nothing or a torn record; a sync that fails leaves the batch on disk or not. */
  #failed(store: StoredKv, batch: StoredBatch): void {
    store.inFlight.delete(batch)
    if (batch.synced) store.latched = true
    if (this.#random.chance(0.5)) store.batches.push({ ...batch, synced: false })
  }
}
