/**
 * The state as applied, over a store that lags behind: what apply has written and the store has not synced yet is kept
 * here, and written as one synced batch at a time.
 *
 * Why: a reply waits for the log's fsync and the apply. The state can always be rebuilt from the log, so its own sync is
 * on nobody's path, and the syncs of many groups become one.
 * Invariants: on disk the state is always that of one index, because a batch holds every write between two indexes and the
 * next one begins when it is durable; point reads see everything applied; scans wait until what was applied when they
 * began is in the store. A failed write ends it: nothing is written or promised after it.
 */

import { prefixEnd } from '../../core/meta/keys.ts'
import type { AppliedRecord } from '../../core/meta/records.ts'
import { keyName, type StateReader, type StateWrite } from '../../core/meta/view.ts'
import type { Clock, Timer } from '../../ports/clock.ts'
import type { Kv, KvEntry, KvRange, KvSnapshot } from '../../ports/kv.ts'
import { KnownOutcomes } from './known-outcomes.ts'

/** Writes gather for so long, unless somebody waits for them. */
const gatherMs = 200
/** A batch this large is written without waiting for more. */
const gatherBytes = 1024 * 1024
/** Apply waits while more than this is not written. */
const pendingBytesMax = 32 * 1024 * 1024
/** What a write costs in memory beside its bytes. */
const writeOverheadBytes = 100
const outcomePrefix: number = 'w'.charCodeAt(0)
const outcomeRange: KvRange = { gte: new Uint8Array([outcomePrefix]), lt: prefixEnd('w') }

interface Waiter {
  readonly index: number
  readonly done: () => void
  readonly failed: (error: unknown) => void
}

/** Writes of one batch, by the names of their keys: only the last one of a key counts. */
class Batch {
  readonly writes = new Map<string, StateWrite>()
  bytes = 0
  /** Index of the last entry whose writes are in. */
  index = 0
}

function valueOf(write: StateWrite): Uint8Array | undefined {
  return write.type === 'put' ? write.value : undefined
}

export class Pending implements StateReader {
  readonly #kv: Kv
  readonly #clock: Pick<Clock, 'after'> | undefined
  readonly #onFailure: (error: unknown) => void
  readonly #outcomes: KnownOutcomes
  #filling = new Batch()
  #writing: Batch | undefined
  #durable: number
  #applied: number
  #timer: Timer | undefined
  #waiters: Waiter[] = []
  #failure: { readonly error: unknown } | undefined

  /** `stored`: what the state in `kv` says of itself. Without a clock nothing is gathered: every group is written at once. */
  constructor(
    kv: Kv,
    stored: Pick<AppliedRecord, 'index' | 'outcomesFrom' | 'outcomesTo'>,
    clock: Pick<Clock, 'after'> | undefined,
    onFailure: (error: unknown) => void = () => undefined,
  ) {
    this.#kv = kv
    this.#durable = stored.index
    this.#applied = stored.index
    this.#clock = clock
    this.#onFailure = onFailure
    const noOutcomes = stored.outcomesFrom === stored.outcomesTo
    this.#outcomes = new KnownOutcomes(
      () => kv.iterate(outcomeRange),
      noOutcomes,
      (error) => this.#fail(error),
    )
  }

  /** Index of the state that is on disk. */
  get durableIndex(): number {
    return this.#durable
  }

  /** The value of `key` as applied. */
  getSync(key: Uint8Array, name: string = keyName(key)): Uint8Array | undefined {
    if (key[0] === outcomePrefix && !this.#outcomes.mayHold(key)) return undefined
    const write = this.#filling.writes.get(name) ?? this.#writing?.writes.get(name)
    return write === undefined ? this.#kv.getSync(key) : valueOf(write)
  }

  /** Like `getSync`, without blocking for the disk. */
  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    const write = this.#pending(key)
    return write === undefined ? this.#kv.get(key) : valueOf(write)
  }

  #pending(key: Uint8Array): StateWrite | undefined {
    const name = keyName(key)
    return this.#filling.writes.get(name) ?? this.#writing?.writes.get(name)
  }

  /** The values of keys that rise and lie close together: one scan and not one read each. */
  async getNear(sorted: readonly Uint8Array[], end: Uint8Array): Promise<(Uint8Array | undefined)[]> {
    const first = sorted[0]
    if (first === undefined) return []
    // Before the scan begins: what is written meanwhile is then seen by one or the other.
    const pending = sorted.map((key) => this.#pending(key))
    if (pending.every((write) => write !== undefined)) return pending.map(valueOf)
    const stored = new Map<string, Uint8Array>()
    for await (const { key, value } of this.#kv.iterate({ gte: first, lt: end })) stored.set(keyName(key), value)
    return sorted.map((key, i) => {
      const write = pending[i]
      return write === undefined ? stored.get(keyName(key)) : valueOf(write)
    })
  }

  /** Entries of the state as it is when the first one is asked for, or later. */
  async *iterate(range: KvRange): AsyncGenerator<KvEntry> {
    await this.flushed()
    yield* this.#kv.iterate(range)
  }

  /** A consistent image of the state, not older than the call; must be closed. Its index is that of its applied record. */
  async snapshot(): Promise<KvSnapshot> {
    await this.flushed()
    return this.#kv.snapshot()
  }

  /** Throws what ended the writing. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure.error
  }

  /** Resolves when there is room for another group. Rejects when nothing can be written any more. */
  async room(): Promise<void> {
    this.check()
    while (this.#filling.bytes + (this.#writing?.bytes ?? 0) > pendingBytesMax) await this.flushed()
  }

  /** Takes the writes of an apply group that ends with `index`. */
  add(writes: readonly StateWrite[], index: number): void {
    const batch = this.#filling
    for (const write of writes) {
      const { key, name } = write
      batch.writes.set(name, write)
      if (key[0] === outcomePrefix && write.type === 'put') this.#outcomes.wrote(key)
      batch.bytes += key.length + (write.type === 'put' ? write.value.length : 0) + writeOverheadBytes
    }
    batch.index = index
    this.#applied = index
    this.#schedule()
  }

  /** Resolves when everything applied so far is on disk. */
  flushed(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error)
    if (this.#durable >= this.#applied) return Promise.resolve()
    const done = new Promise<void>((resolve, reject) => {
      this.#waiters.push({ index: this.#applied, done: resolve, failed: reject })
    })
    this.#schedule()
    return done
  }

  /** Nothing is read behind the callers' backs any more; what was begun to be written goes on. */
  stop(): Promise<void> {
    return this.#outcomes.stop()
  }

  #schedule(): void {
    if (this.#writing !== undefined || this.#filling.writes.size === 0 || this.#failure !== undefined) return
    if (this.#clock === undefined || this.#waiters.length > 0 || this.#filling.bytes >= gatherBytes) this.#write()
    else this.#timer ??= this.#clock.after(gatherMs, () => this.#write())
  }

  #write(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    if (this.#writing !== undefined) return
    const batch = this.#filling
    this.#writing = batch
    this.#filling = new Batch()
    this.#kv.batch([...batch.writes.values()], { sync: true }).then(
      () => this.#written(batch.index),
      (error: unknown) => this.#fail(error),
    )
  }

  #written(index: number): void {
    this.#writing = undefined
    this.#durable = index
    const waiters = this.#waiters
    this.#waiters = waiters.filter((waiter) => waiter.index > index)
    for (const waiter of waiters) if (waiter.index <= index) waiter.done()
    this.#schedule()
  }

  /** What was being written stays readable: it was applied, and the log has it. */
  #fail(error: unknown): void {
    this.#failure = { error }
    this.#timer?.cancel()
    const waiters = this.#waiters
    this.#waiters = []
    for (const waiter of waiters) waiter.failed(error)
    this.#onFailure(error)
  }
}
