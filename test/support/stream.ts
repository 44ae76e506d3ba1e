/**
 * A stream of puts and gets that goes on while things break: it remembers the SHA-256 of everything that was
 * acknowledged, and fails on any read that gives other bytes.
 */

import { isStoreError } from '../../src/model/errors.ts'
import type { Store } from '../../src/sdk/types.ts'
import { content, sha256 } from './content.ts'

/** What a stream saw. */
export interface StreamReport {
  /** Key -> SHA-256 of every object that was acknowledged. */
  readonly acknowledged: ReadonlyMap<string, string>
  /** Keys whose put failed or has an unknown end. */
  readonly unsure: ReadonlySet<string>
  readonly reads: number
  readonly errors: readonly string[]
  /** Longest time between two acknowledgements, in milliseconds. */
  readonly longestGapMs: number
}

/** Puts and gets until `stop`. */
export class PutGetStream {
  readonly #store: Store
  readonly #bucket: string
  readonly #prefix: string
  readonly #objectBytes: number
  readonly #acknowledged = new Map<string, string>()
  readonly #unsure = new Set<string>()
  readonly #errors: string[] = []
  #reads = 0
  #longestGapMs = 0
  #stopped = false
  #work: Promise<void>

  constructor(store: Store, bucket: string, prefix: string, objectBytes: number, writers = 2, readers = 1) {
    this.#store = store
    this.#bucket = bucket
    this.#prefix = prefix
    this.#objectBytes = objectBytes
    const lanes = [
      ...Array.from({ length: writers }, (_, i) => this.#write(i)),
      ...Array.from({ length: readers }, () => this.#read()),
    ]
    this.#work = Promise.all(lanes).then(() => {})
    this.#work.catch(() => {})
  }

  get acknowledged(): number {
    return this.#acknowledged.size
  }

  /** The last failure so far. */
  get lastError(): string | undefined {
    return this.#errors.at(-1)
  }

  async stop(): Promise<StreamReport> {
    this.#stopped = true
    await this.#work
    return {
      acknowledged: this.#acknowledged,
      unsure: this.#unsure,
      reads: this.#reads,
      errors: this.#errors,
      longestGapMs: this.#longestGapMs,
    }
  }

  /** Notes a failure and waits a moment: a store that is closed fails at once, for ever. */
  async #note(doing: string, thrown: unknown): Promise<void> {
    if (!isStoreError(thrown)) throw thrown
    this.#errors.push(`${doing}: ${thrown.code} ${thrown.message}`)
    await new Promise((done) => setTimeout(done, 50))
  }

  async #write(lane: number): Promise<void> {
    let lastMs = performance.now()
    for (let i = 0; !this.#stopped; i++) {
      const key = `${this.#prefix}/${lane}/${i}`
      const bytes = content(lane * 100_003 + i + 1, this.#objectBytes + i)
      try {
        await this.#store.put(this.#bucket, key, bytes, { timeoutMs: 60_000 })
        this.#acknowledged.set(key, sha256(bytes))
        this.#longestGapMs = Math.max(this.#longestGapMs, performance.now() - lastMs)
        lastMs = performance.now()
      } catch (thrown) {
        this.#unsure.add(key)
        await this.#note(`put ${key}`, thrown)
      }
    }
  }

  async #read(): Promise<void> {
    for (let i = 0; !this.#stopped; i++) {
      const keys = [...this.#acknowledged.keys()]
      const key = keys[i % Math.max(1, keys.length)]
      if (key === undefined) {
        await new Promise((done) => setTimeout(done, 10))
        continue
      }
      try {
        const bytes = await (await this.#store.get(this.#bucket, key, { timeoutMs: 60_000 })).bytes()
        if (sha256(bytes) !== this.#acknowledged.get(key)) throw new Error(`${key} came back with other bytes`)
        this.#reads++
      } catch (thrown) {
        await this.#note(`get ${key}`, thrown)
      }
    }
  }
}

/** Reads every acknowledged object; throws on the first that is not there byte for byte. */
export async function verifyAll(
  store: Store,
  bucket: string,
  acknowledged: ReadonlyMap<string, string>,
): Promise<void> {
  const left = [...acknowledged]
  const lane = async (): Promise<void> => {
    for (let next = left.pop(); next !== undefined; next = left.pop()) {
      const bytes = await (await store.get(bucket, next[0], { timeoutMs: 60_000 })).bytes()
      if (sha256(bytes) !== next[1]) throw new Error(`${next[0]} came back with other bytes`)
    }
  }
  await Promise.all([lane(), lane(), lane(), lane()])
}
