/** Puts of empty objects to unique keys, one after the other, and what was acknowledged: load on the metadata alone. */

import { isStoreError } from '../../src/model/errors.ts'
import type { Store } from '../../src/sdk/types.ts'
import { until } from './processes.ts'

const bucket = 'load'

export class MetaLoad {
  readonly acknowledged: string[] = []
  readonly #store: Store
  readonly #work: Promise<void>
  #stopped = false
  #lastError = ''

  private constructor(store: Store) {
    this.#store = store
    this.#work = this.#run()
    this.#work.catch(() => {})
  }

  static async start(store: Store): Promise<MetaLoad> {
    await store.buckets.create(bucket)
    return new MetaLoad(store)
  }

  async #run(): Promise<void> {
    for (let i = 0; !this.#stopped; i++) {
      const key = `k${String(i).padStart(6, '0')}`
      try {
        await this.#store.put(bucket, key, '', { contentType: `v/${i}`, timeoutMs: 30_000 })
        this.acknowledged.push(key)
      } catch (thrown) {
        if (!isStoreError(thrown) || thrown.code === 'INTERNAL') throw thrown
        this.#lastError = `${thrown.code} ${thrown.message}`
        await new Promise((done) => setTimeout(done, 50))
      }
    }
  }

  /** Resolves when further puts were acknowledged. */
  async goesOn(timeoutMs = 20_000): Promise<void> {
    const wanted = this.acknowledged.length + 10
    await until(
      'puts go on',
      () => {
        if (this.acknowledged.length >= wanted) return true
        throw new Error(`${this.acknowledged.length} of ${wanted} acknowledged, last failure: ${this.#lastError}`)
      },
      timeoutMs,
    )
  }

  /** Ends the puts; rejects when one that was acknowledged is not listed. */
  async finish(): Promise<void> {
    this.#stopped = true
    await this.#work
    const there = new Set<string>()
    for await (const entry of this.#store.list(bucket)) there.add(entry.key)
    const gone = this.acknowledged.filter((key) => !there.has(key))
    if (gone.length > 0) throw new Error(`${gone.length} acknowledged objects are gone, the first is ${gone[0]}`)
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#work.catch(() => {})
  }
}
