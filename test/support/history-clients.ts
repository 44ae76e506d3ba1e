/**
 * Clients that write and read a few keys at once, all the time, and keep a record of what they did and saw: the history
 * that a linearizability check judges.
 *
 * Every put carries a value of its own (as content type, which lists show too), most without any chunk. A write that ends
 * without an answer stays open for ever: it may appear at any later time, or never. Beside the contended keys each client
 * puts keys of its own that nobody deletes; those that were acknowledged must be there at the end.
 */

import { Prng } from '../../src/base/prng.ts'
import { connect } from '../../src/main/index.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { ObjectEntry, Store } from '../../src/sdk/types.ts'
import type { Operation, RegisterOp, RegisterResult } from '../../src/sim/check/register.ts'

export interface ClientOptions {
  readonly meta: readonly string[]
  readonly clients: number
  readonly keys: number
  readonly seed: number
  /** Bytes of objects that are not empty, of which every eighth put is one; 0: all are empty. */
  readonly bytes?: number
}

const bucket = 'history'
/** A call that takes longer is given up, its outcome unknown. */
const callMs = 4_000
/** After so many open writes a key is left for a fresh one: each of them doubles what a checker has to think of. */
const openMax = 8

export class HistoryClients {
  readonly operations: Operation[] = []
  /** Own keys that were acknowledged, with their values. */
  readonly acknowledged = new Map<string, string>()
  /** Writes that were acknowledged so far. */
  writes = 0
  /** Longest time in which no write was acknowledged by anybody. */
  longestGapMs = 0
  readonly #options: ClientOptions
  readonly #stores: Store[] = []
  readonly #loops: Promise<void>[] = []
  readonly #open = new Map<string, number>()
  readonly #seen = new Map<string, number>()
  #lastAckMs = 0
  #stopped = false
  #values = 0
  #failure: unknown

  private constructor(options: ClientOptions) {
    this.#options = options
  }

  /** Connects the clients and starts them. */
  static async start(options: ClientOptions): Promise<HistoryClients> {
    const all = new HistoryClients(options)
    for (let i = 0; i < options.clients; i++) {
      all.#stores.push(await connect({ meta: options.meta, retryMs: callMs }))
    }
    await all.#store(0).buckets.create(bucket)
    all.#lastAckMs = performance.now()
    for (let i = 0; i < options.clients; i++) {
      const loop = all.#run(i)
      loop.catch((error: unknown) => {
        all.#failure ??= error
      })
      all.#loops.push(loop)
    }
    return all
  }

  #store(client: number): Store {
    return this.#stores[client] as Store
  }

  /** True when a client ended by itself; `finish` says why. */
  get failed(): boolean {
    return this.#failure !== undefined
  }

  async #run(client: number): Promise<void> {
    const random = new Prng(this.#options.seed).fork(`client ${client}`)
    while (!this.#stopped) {
      const what = random.unit()
      const key = this.#key(random.below(this.#options.keys))
      if (what < 0.3) await this.#get(client, key)
      else if (what < 0.36) await this.#list(client)
      else if (what < 0.58) await this.#put(client, key, undefined)
      else if (what < 0.74) await this.#put(client, key, this.#seen.get(key) ?? 1)
      else if (what < 0.84) await this.#put(client, key, 0)
      else if (what < 0.92) await this.#delete(client, key)
      else await this.#putOwn(client)
    }
  }

  /** The key in use at a position: a fresh one when too many writes to the last have no known end. */
  #key(position: number): string {
    for (let life = 0; ; life++) {
      const key = `k${position}.${life}`
      if ((this.#open.get(key) ?? 0) < openMax) return key
    }
  }

  #record(client: number, key: string, op: RegisterOp, call: number, result: RegisterResult | undefined): void {
    const now = performance.now()
    const known = result !== undefined
    this.operations.push({ client: String(client), key, op, call, return: known ? now : undefined, result })
    if (!known) this.#open.set(key, (this.#open.get(key) ?? 0) + 1)
    if (op.kind !== 'get' && result?.ok === true) this.#acknowledged()
  }

  #acknowledged(): void {
    const now = performance.now()
    this.writes++
    this.longestGapMs = Math.max(this.longestGapMs, now - this.#lastAckMs)
    this.#lastAckMs = now
  }

  /** What a failed write says about its key. Rejects with what a store must never answer. */
  #failed(client: number, key: string, op: RegisterOp, call: number, thrown: unknown): void {
    if (!isStoreError(thrown) || thrown.code === 'INTERNAL') throw thrown
    if (thrown.outcome === 'unknown') this.#record(client, key, op, call, undefined)
    else if (thrown.code === 'CONDITION_FAILED' || thrown.code === 'NOT_FOUND') {
      this.#record(client, key, op, call, { ok: false })
    }
  }

  /** Puts on the condition that `onVersion` is in place (0: nothing is), or on none. */
  async #put(client: number, key: string, onVersion: number | undefined): Promise<void> {
    const value = `v/${client}-${++this.#values}`
    const op: RegisterOp = onVersion === undefined ? { kind: 'put', value } : { kind: 'cas', onVersion, value }
    const call = performance.now()
    const { bytes = 0 } = this.#options
    const body = this.#values % 8 === 0 && bytes > 0 ? value.padEnd(bytes) : ''
    const condition = onVersion === undefined ? {} : onVersion === 0 ? { ifAbsent: true } : { ifMatch: onVersion }
    try {
      const options = { contentType: value, timeoutMs: callMs, replicas: 1, ...condition }
      const put = await this.#store(client).put(bucket, key, body, options)
      this.#record(client, key, op, call, { ok: true, version: put.version })
      this.#seen.set(key, put.version)
    } catch (thrown) {
      this.#failed(client, key, op, call, thrown)
    }
  }

  async #putOwn(client: number): Promise<void> {
    const key = `own/${client}/${++this.#values}`
    const value = `v/${client}-${this.#values}`
    try {
      await this.#store(client).put(bucket, key, '', { contentType: value, timeoutMs: callMs, ifAbsent: true })
      this.acknowledged.set(key, value)
    } catch (thrown) {
      if (!isStoreError(thrown) || thrown.code === 'INTERNAL') throw thrown
    }
  }

  async #delete(client: number, key: string): Promise<void> {
    const call = performance.now()
    try {
      await this.#store(client).delete(bucket, key, { timeoutMs: callMs })
      this.#record(client, key, { kind: 'delete' }, call, { ok: true })
    } catch (thrown) {
      this.#failed(client, key, { kind: 'delete' }, call, thrown)
    }
  }

  #sawAt(client: number, key: string, call: number, entry: ObjectEntry | undefined): void {
    const value = entry?.contentType
    const version = entry?.version
    this.#record(client, key, { kind: 'get' }, call, { ok: true, value, version })
    if (version !== undefined) this.#seen.set(key, version)
  }

  async #get(client: number, key: string): Promise<void> {
    const call = performance.now()
    try {
      const object = await this.#store(client).get(bucket, key, { timeoutMs: callMs })
      const text = await object.text()
      if (text !== '' && text.trimEnd() !== object.contentType) {
        throw new Error(`${key} has the bytes of another version`)
      }
      this.#sawAt(client, key, call, object)
    } catch (thrown) {
      if (!isStoreError(thrown) || thrown.code === 'INTERNAL') throw thrown
      if (thrown.code === 'NOT_FOUND') this.#sawAt(client, key, call, undefined)
    }
  }

  /** One page: a read of every key in use, all at the same index. */
  async #list(client: number): Promise<void> {
    const startMs = performance.now()
    const keys = Array.from({ length: this.#options.keys }, (_, position) => this.#key(position))
    try {
      const entries = new Map<string, ObjectEntry>()
      for await (const entry of this.#store(client).list(bucket, { prefix: 'k', timeoutMs: callMs })) {
        entries.set(entry.key, entry)
      }
      for (const key of keys) this.#sawAt(client, key, startMs, entries.get(key))
    } catch (thrown) {
      if (!isStoreError(thrown) || thrown.code === 'INTERNAL') throw thrown
    }
  }

  /**
   * Ends the clients, then reads everything once more with all nodes well. Rejects when a client failed, or when an
   * acknowledged own key is not there.
   */
  async finish(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#loops)
    for (let position = 0; position < this.#options.keys; position++) {
      for (let life = 0; ; life++) {
        const key = `k${position}.${life}`
        await this.#get(0, key)
        if ((this.#open.get(key) ?? 0) < openMax) break
      }
    }
    const there = new Map<string, string>()
    for await (const entry of this.#store(0).list(bucket, { prefix: 'own/' })) there.set(entry.key, entry.contentType)
    for (const [key, value] of this.acknowledged) {
      if (there.get(key) !== value) throw new Error(`${key} was acknowledged with ${value} and is ${there.get(key)}`)
    }
  }

  async close(): Promise<void> {
    this.#stopped = true
    await Promise.allSettled(this.#loops)
    await Promise.all(this.#stores.map(async (store) => await store.close()))
  }
}
