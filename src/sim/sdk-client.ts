/**
 * Clients of the SDK, the real one: puts, gets with every byte compared, deletes, lists, copies, commits of several
 * objects and admin calls, each recorded in the history.
 *
 * The options of each (sessions or commit ids alone, reads of the leader or of any node) are drawn from the seed.
 */

import { asStoreError, type StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import { createClient } from '../sdk/client.ts'
import type { CommitOperation, Conditions, ObjectEntry, PutOptions, Store } from '../sdk/types.ts'
import type { History, ReadRecord, WriteRecord } from './history.ts'
import type { Value } from './values.ts'
import type { SimWorker, WorkloadOptions } from './workload.ts'

const chunkBytes = 64 * 1024
const retryMs = 6000

export interface SdkClientOptions extends WorkloadOptions {
  readonly env: Env
  readonly meta: readonly string[]
}

/** What a put or a commit is to do with one key. */
interface Draft {
  readonly write: WriteRecord
  readonly operation: CommitOperation
}

export class SdkClient implements SimWorker {
  readonly #options: SdkClientOptions
  readonly #store: Store
  stopped = false
  trouble = ''
  done = 0
  #copies = 0

  constructor(options: SdkClientOptions) {
    this.#options = options
    const { random, env, meta } = options
    this.#store = createClient(env, {
      meta: random.shuffle(meta),
      retryMs,
      chunkBytes,
      sessions: random.chance(0.7),
      reads: random.chance(0.5) ? 'any' : 'leader',
    })
  }

  async run(): Promise<void> {
    const { random, keys } = this.#options
    while (!this.stopped) {
      const key = random.pick(keys)
      const dice = random.unit()
      if (dice < 0.4) await this.put(key)
      else if (dice < 0.5) await this.#delete(key)
      else if (dice < 0.8) await this.read(key)
      else if (dice < 0.88) await this.list()
      else if (dice < 0.96) await this.#commit()
      else await this.#copy(key)
      await this.#wait(random.between(0, 80))
    }
    await this.#store.close()
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.env.clock.after(delayMs, resolve)
    })
  }

  get #history(): History {
    return this.#options.history
  }

  /** Runs one call; undefined when it failed, which is an outcome like any other. */
  async #try<T>(what: string, call: () => Promise<T>, onError?: (error: StoreError) => void): Promise<T | undefined> {
    try {
      const result = await call()
      this.done++
      return result
    } catch (thrown) {
      const error = asStoreError(thrown, what)
      if (error.code === 'INTERNAL') throw thrown
      this.trouble = `${what}: ${error.code} ${error.message}`
      this.#options.env.log.debug('failed', { what, code: error.code, reason: error.message })
      onError?.(error)
      return undefined
    }
  }

  /** Mostly small; some that are kept outside of the index, some of several chunks. */
  #value(): Value {
    const { random, values } = this.#options
    const dice = random.unit()
    const length =
      dice < 0.75 ? 1 + random.below(3000) : dice < 0.93 ? 17_000 + random.below(20_000) : 66_000 + random.below(90_000)
    return values.make(length, chunkBytes)
  }

  #conditions(key: string): { readonly conditions: Conditions; readonly onVersion: number | undefined } {
    const { random } = this.#options
    const dice = random.unit()
    if (dice < 0.7) return { conditions: {}, onVersion: undefined }
    if (dice < 0.8) return { conditions: { ifAbsent: true }, onVersion: 0 }
    const seen = this.#history.reads.findLast((read) => read.key === key)?.seen
    if (seen === undefined) return { conditions: {}, onVersion: undefined }
    return { conditions: { ifMatch: random.chance(0.5) ? seen.version : seen.etag }, onVersion: seen.version }
  }

  /** A put of a new value, entered in the history. */
  #draftPut(key: string): Draft {
    const { bucket, copies, random, trueMs } = this.#options
    const { etag, bytes } = this.#value()
    const { conditions, onVersion } = this.#conditions(key)
    const write = this.#history.begin({ kind: 'put', key, etag, startMs: trueMs(), onVersion })
    const concern: PutOptions = { replicas: copies, write: random.chance(0.8) ? 'quorum' : 'all' }
    return { write, operation: { put: { bucket, key, body: bytes, ...concern, ...conditions } } }
  }

  #acked(write: WriteRecord, entry: ObjectEntry | undefined): void {
    write.outcome = 'acked'
    write.endMs = this.#options.trueMs()
    if (entry === undefined) return
    write.version = entry.version
    if (entry.etag !== write.etag) throw new Error(`put ${write.key}: stored ${entry.etag} and not ${write.etag}`)
    this.#options.onAcked(write.key, entry.version, entry.etag)
  }

  /** An unknown outcome stays open: the write may be carried out at any later time. */
  #failed(write: WriteRecord, error: StoreError): void {
    if (error.outcome !== 'definite') return
    write.outcome = 'failed'
    write.endMs = this.#options.trueMs()
  }

  /** Stores a new value under `key`; true when it was acknowledged. */
  async put(key: string): Promise<boolean> {
    const { write, operation } = this.#draftPut(key)
    if (!('put' in operation)) return false
    const { bucket, body, ...options } = operation.put
    const entry = await this.#try(
      `put ${key}`,
      () => this.#store.put(bucket, key, body, options),
      (error) => this.#failed(write, error),
    )
    if (entry !== undefined) this.#acked(write, entry)
    return entry !== undefined
  }

  async #delete(key: string): Promise<void> {
    const { bucket, trueMs } = this.#options
    const startMs = trueMs()
    const write = this.#history.begin({ kind: 'delete', key, etag: '', startMs })
    const done = await this.#try(
      `delete ${key}`,
      async () => {
        await this.#store.delete(bucket, key)
        return true
      },
      (error) => {
        this.#failed(write, error)
        const absent = error.code === 'NOT_FOUND' && error.outcome === 'definite'
        if (absent) this.#history.reads.push({ key, startMs, endMs: trueMs(), seen: undefined })
      },
    )
    if (done === true) this.#acked(write, undefined)
  }

  /** Several keys at once, all or none. */
  async #commit(): Promise<void> {
    const { random, keys, bucket, trueMs } = this.#options
    const chosen = random.shuffle(keys).slice(0, 2 + random.below(2))
    const drafts = chosen.map((key, i): Draft => {
      if (i === 0 || random.chance(0.7)) return this.#draftPut(key)
      const write = this.#history.begin({ kind: 'delete', key, etag: '', startMs: trueMs() })
      return { write, operation: { delete: { bucket, key } } }
    })
    const writes = drafts.map((draft) => draft.write)
    this.#history.commits.push(writes)
    const results = await this.#try(
      `commit ${chosen.join(' ')}`,
      () => this.#store.commit(drafts.map((draft) => draft.operation)),
      (error) => {
        for (const write of writes) this.#failed(write, error)
      },
    )
    if (results === undefined) return
    for (const [i, write] of writes.entries()) this.#acked(write, results[i])
  }

  /** A copy by reference under a name of its own, read back and removed again. */
  async #copy(key: string): Promise<void> {
    const { bucket, env } = this.#options
    const name = `copy-${env.clock.monotonicMs()}-${this.#copies++}-${this.#options.random.u32()}`
    const from = { bucket, key }
    const to = { bucket, key: name }
    const entry = await this.#try(`copy ${key}`, () => this.#store.copy(from, to))
    if (entry === undefined) return
    await this.#read(name, undefined)
    await this.#try(`delete ${name}`, () => this.#store.delete(bucket, name))
  }

  /** Reads all bytes; true when they were there, or the key was not. */
  async read(key: string): Promise<boolean> {
    return await this.#read(key, (record) => this.#history.reads.push(record))
  }

  async #read(key: string, record: ((read: ReadRecord) => void) | undefined): Promise<boolean> {
    const { bucket, trueMs, values } = this.#options
    const startMs = trueMs()
    let absent = false
    const object = await this.#try(
      `get ${key}`,
      () => this.#store.get(bucket, key),
      (error) => {
        absent = error.code === 'NOT_FOUND'
      },
    )
    const endMs = trueMs()
    if (absent) record?.({ key, startMs, endMs, seen: undefined })
    if (object === undefined) return absent
    record?.({ key, startMs, endMs, seen: { etag: object.etag, version: object.version } })
    const bytes = await this.#try(`bytes of ${key}`, () => object.bytes())
    if (bytes === undefined) return false
    const wrong = values.wrong(object.etag, bytes)
    if (wrong !== undefined) throw new Error(`get ${key} version ${object.version}: ${wrong}`)
    return true
  }

  async list(): Promise<void> {
    const { bucket, keys, trueMs } = this.#options
    const startMs = trueMs()
    const entries = await this.#try('list', async () => {
      const seen = new Map<string, ReadRecord['seen']>()
      for await (const { key, etag, version } of this.#store.list(bucket)) seen.set(key, { etag, version })
      return seen
    })
    if (entries !== undefined) this.#history.list(startMs, trueMs(), keys, entries)
  }
}
