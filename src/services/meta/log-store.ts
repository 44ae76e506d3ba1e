/**
 * The Raft log over the key-value port: how Holdfast 0.1 keeps it, and so how it stays until the cluster version is 2 and
 * no node can go back any more. Then log-place.ts moves it into segment files (log-segments.ts).
 *
 * Why not trust the store: LevelDB drops a damaged record of its own log in silence and goes on with later ones, which
 * leaves holes or stale entries. So every entry has a checksum and the chain value of the one before it, everything is
 * verified at open, and a watermark tells a torn tail (never acknowledged: cut off) from lost acknowledged entries
 * (the node must not vote: refused with DATA_LOST).
 * Invariants: one batch is in flight at most; truncation and the entries that replace the tail are one synced batch; the
 * base record moves before the prefix is deleted; after any failed write nothing is written any more.
 */

import { StoreError } from '../../model/errors.ts'
import type { Kv, KvOperation } from '../../ports/kv.ts'
import {
  type ClusterConfig,
  type ConfigAt,
  type Entry,
  entryBytes,
  type HardState,
  type SnapshotMark,
} from '../../core/raft/types.ts'
import { decodeConfig } from '../../core/raft/messages.ts'
import {
  baseKey,
  baseRecord,
  decodeEntry,
  encodeEntry,
  entriesEnd,
  entryKey,
  hardKey,
  hardRecord,
  indexOfKey,
  installKey,
  installRecord,
  markOf,
  seal,
  unseal,
} from './log-format.ts'
import { lostAdvice as advice, type RaftLog, type RecoveredLog, writeFailure } from './log-types.ts'
import { LogWindow } from './log-window.ts'

/** Entries deleted in one batch of a compaction. */
const deleteBatch = 1024

export class LogStore implements RaftLog {
  readonly #kv: Kv
  #base: SnapshotMark
  #baseChain = 0
  /** Every entry after the base. */
  readonly #window: LogWindow
  #hard: HardState = { term: 0, vote: '' }
  #commit = 0
  /** Synced up to here, and what the stored watermark says. */
  #synced = 0
  #watermark = 0
  #queue: Promise<void> = Promise.resolve()
  #failure: StoreError | undefined

  private constructor(kv: Kv, base: SnapshotMark) {
    this.#kv = kv
    this.#base = base
    this.#window = new LogWindow(base.index + 1)
  }

  get lastIndex(): number {
    return this.#window.last
  }
  get baseIndex(): number {
    return this.#base.index
  }
  get bytes(): number {
    return this.#window.bytes
  }
  get watermarkBehind(): boolean {
    return this.#watermark < this.#synced
  }

  /**
   * Creates a log. `first` is entry 1 of a newly formed cluster; without it the log is empty and everything, also the
   * configuration that `config` stands for until then, comes from the leader.
   */
  static async create(kv: Kv, config: ClusterConfig, first?: Entry): Promise<void> {
    const store = new LogStore(kv, { index: 0, term: 0, config: { index: 0, config } })
    const base = { index: 0, term: 0, chain: 0, configIndex: 0, config }
    const hard = { term: first?.term ?? 0, vote: '', commit: first?.index ?? 0, watermark: 0 }
    const operations: KvOperation[] = [
      { type: 'put', key: baseKey, value: seal(baseRecord, base) },
      { type: 'put', key: hardKey, value: seal(hardRecord, hard) },
    ]
    if (first !== undefined) {
      operations.push({ type: 'put', key: entryKey(first.index), value: encodeEntry(first, 0).value })
    }
    await store.#write(operations)
  }

  /** True when nothing was ever written here. */
  static async isEmpty(kv: Kv): Promise<boolean> {
    for await (const _ of kv.iterate({ limit: 1 })) return false
    return true
  }

  /**
   * Opens and verifies. `cacheBytes` bounds the tail that is returned. Throws DATA_LOST when acknowledged entries are
   * missing or damaged, CORRUPT when a record beside them is.
   */
  static async open(kv: Kv, cacheBytes: number): Promise<{ store: LogStore; recovered: RecoveredLog }> {
    const baseValue = await kv.get(baseKey)
    const hardValue = await kv.get(hardKey)
    const base = baseValue === undefined ? undefined : unseal(baseRecord, baseValue)
    const hard = hardValue === undefined ? undefined : unseal(hardRecord, hardValue)
    if (base === undefined || hard === undefined) {
      throw new StoreError('CORRUPT', `open the raft log: its header is damaged${advice}`)
    }
    const installValue = await kv.get(installKey)
    const install = installValue === undefined ? undefined : unseal(installRecord, installValue)
    if (installValue !== undefined && install === undefined) {
      throw new StoreError('CORRUPT', `open the raft log: its install record is damaged${advice}`)
    }
    const store = new LogStore(kv, markOf(base))
    store.#baseChain = base.chain
    store.#hard = { term: hard.term, vote: hard.vote }
    store.#commit = hard.commit
    store.#watermark = hard.watermark
    await store.#sweep()
    const scan = await store.#scan(cacheBytes)
    store.#synced = store.lastIndex
    const recovered = {
      ...scan,
      hardState: store.#hard,
      commit: hard.commit,
      base: store.#base,
      baseChain: base.chain,
      lastIndex: store.lastIndex,
      installing: install === undefined ? undefined : markOf(install),
    }
    return { store, recovered }
  }

  /** Deletes what a compaction that did not finish left before the base. */
  async #sweep(): Promise<void> {
    let operations: KvOperation[] = []
    for await (const { key } of this.#kv.iterate({ gte: entryKey(0), lt: entryKey(this.#base.index + 1) })) {
      operations.push({ type: 'del', key })
      if (operations.length < deleteBatch) continue
      await this.#write(operations, false)
      operations = []
    }
    if (operations.length > 0) await this.#write(operations, false)
  }

  /** Reads every entry after the base; cuts off a torn tail, refuses anything worse. */
  async #scan(cacheBytes: number): Promise<Pick<RecoveredLog, 'termRuns' | 'configs' | 'tail' | 'cut'>> {
    const termRuns: { first: number; term: number }[] = []
    const configs: ConfigAt[] = []
    const tail: Entry[] = []
    let tailBytes = 0
    let dropped = 0
    let term = this.#base.term
    let chain = this.#baseChain
    let damage: string | undefined
    const surplus: KvOperation[] = []
    for await (const { key, value } of this.#kv.iterate({ gte: entryKey(this.#base.index + 1), lt: entriesEnd })) {
      const expected = this.lastIndex + 1
      const stored = damage === undefined ? decodeEntry(value) : undefined
      damage ??= faultOf(indexOfKey(key), stored, expected, chain, term)
      if (damage !== undefined || stored === undefined) {
        surplus.push({ type: 'del', key })
        continue
      }
      const entry = { ...stored.entry, payload: stored.entry.payload.slice() }
      if (termRuns.at(-1)?.term !== entry.term) termRuns.push({ first: entry.index, term: entry.term })
      if (entry.type === 'config') configs.push({ index: entry.index, config: decodeConfig(entry.payload) })
      term = entry.term
      chain = stored.chain
      this.#window.push(chain, entryBytes(entry))
      tail.push(entry)
      tailBytes += entryBytes(entry)
      while (tailBytes > cacheBytes && dropped < tail.length) tailBytes -= entryBytes(tail[dropped++] as Entry)
      if (dropped > 4096) {
        tail.splice(0, dropped)
        dropped = 0
      }
    }
    if (this.lastIndex < this.#watermark) {
      const found = damage ?? 'the log ends there'
      throw new StoreError(
        'DATA_LOST',
        `open the raft log: entries ${this.lastIndex + 1} to ${this.#watermark} were acknowledged and are gone (${found})${advice}`,
      )
    }
    if (surplus.length > 0) await this.#write(surplus)
    return { termRuns, configs, tail: tail.slice(dropped), cut: surplus.length }
  }

  append(
    truncateFrom: number | undefined,
    entries: readonly Entry[],
    hard: HardState | undefined,
    commit: number,
  ): Promise<void> {
    return this.#exclusive(async () => {
      const oldLast = this.lastIndex
      const operations: KvOperation[] = []
      const first = truncateFrom ?? entries[0]?.index ?? oldLast + 1
      const kept = first - 1
      if (first <= this.#base.index || first > oldLast + 1) {
        throw new StoreError('INTERNAL', `append to the raft log: entry ${first} does not follow ${oldLast}`)
      }
      let chain = this.#chainAt(kept)
      const chains: number[] = []
      for (const entry of entries) {
        const encoded = encodeEntry(entry, chain)
        chain = encoded.chain
        chains.push(chain)
        operations.push({ type: 'put', key: entryKey(entry.index), value: encoded.value })
      }
      for (let i = kept + entries.length + 1; i <= oldLast; i++) operations.push({ type: 'del', key: entryKey(i) })
      const watermark = Math.min(this.#synced, kept)
      const next = hard ?? this.#hard
      operations.push({ type: 'put', key: hardKey, value: seal(hardRecord, { ...next, commit, watermark }) })
      await this.#write(operations)
      this.#window.truncate(first)
      for (const [position, entry] of entries.entries()) {
        this.#window.push(chains[position] as number, entryBytes(entry))
      }
      this.#hard = next
      this.#commit = commit
      this.#watermark = watermark
      this.#synced = this.lastIndex
    })
  }

  note(hard: HardState, commit: number, sync = false): Promise<void> {
    return this.#exclusive(async () => {
      const watermark = this.#watermark
      await this.#write([{ type: 'put', key: hardKey, value: seal(hardRecord, { ...hard, commit, watermark }) }], sync)
      this.#hard = hard
      this.#commit = commit
    })
  }

  #chainAt(index: number): number {
    return index === this.#base.index ? this.#baseChain : (this.#window.chainAt(index) ?? 0)
  }

  closeWatermark(commit: number): Promise<void> {
    return this.#exclusive(async () => {
      const watermark = this.#synced
      await this.#write([{ type: 'put', key: hardKey, value: seal(hardRecord, { ...this.#hard, commit, watermark }) }])
      this.#commit = commit
      this.#watermark = watermark
    })
  }

  async read(first: number, last: number, bytesMax: number): Promise<Entry[]> {
    const out: Entry[] = []
    let size = 0
    for await (const { value } of this.#kv.iterate({ gte: entryKey(first), lt: entryKey(last + 1) })) {
      const stored = decodeEntry(value)
      if (stored === undefined || stored.entry.index !== first + out.length) {
        throw new StoreError('CORRUPT', `read the raft log: entry ${first + out.length} is damaged${advice}`)
      }
      const entry = { ...stored.entry, payload: stored.entry.payload.slice() }
      size += entryBytes(entry)
      if (out.length > 0 && size > bytesMax) break
      out.push(entry)
    }
    return out
  }

  async compact(index: number, term: number, config: ConfigAt): Promise<void> {
    const from = this.#base.index + 1
    await this.#exclusive(async () => {
      const chain = this.#window.chainAt(index)
      if (chain === undefined) return
      await this.#putBase({ index, term, config }, chain)
      this.#window.drop(index)
      this.#base = { index, term, config }
      this.#baseChain = chain
    })
    for (let start = from; start <= index; start += deleteBatch) {
      const operations: KvOperation[] = []
      for (let i = start; i <= Math.min(index, start + deleteBatch - 1); i++) {
        operations.push({ type: 'del', key: entryKey(i) })
      }
      await this.#exclusive(() => this.#write(operations, false))
    }
  }

  #putBase(mark: SnapshotMark, chain: number): Promise<void> {
    const { index, term, config } = mark
    const record = { index, term, chain, configIndex: config.index, config: config.config }
    return this.#write([{ type: 'put', key: baseKey, value: seal(baseRecord, record) }])
  }

  beginInstall(mark: SnapshotMark): Promise<void> {
    const { index, term, config } = mark
    const record = { index, term, configIndex: config.index, config: config.config }
    return this.#exclusive(() => this.#write([{ type: 'put', key: installKey, value: seal(installRecord, record) }]))
  }

  cancelInstall(): Promise<void> {
    return this.#exclusive(() => this.#write([{ type: 'del', key: installKey }]))
  }

  finishInstall(mark: SnapshotMark, keepSuffix: boolean): Promise<void> {
    return this.#exclusive(async () => {
      const { index, term, config } = mark
      const chain = keepSuffix ? this.#chainAt(index) : 0
      const record = { index, term, chain, configIndex: config.index, config: config.config }
      const operations: KvOperation[] = [{ type: 'put', key: baseKey, value: seal(baseRecord, record) }]
      const lastDeleted = keepSuffix ? index : this.lastIndex
      for (let i = this.#base.index + 1; i <= lastDeleted; i++) operations.push({ type: 'del', key: entryKey(i) })
      const watermark = keepSuffix ? this.#synced : index
      const commit = Math.max(this.#commit, index)
      operations.push({ type: 'put', key: hardKey, value: seal(hardRecord, { ...this.#hard, commit, watermark }) })
      operations.push({ type: 'del', key: installKey })
      await this.#write(operations)
      if (keepSuffix) this.#window.drop(index)
      else this.#window.reset(index + 1)
      this.#base = mark
      this.#baseChain = chain
      this.#commit = commit
      this.#watermark = watermark
      this.#synced = watermark
    })
  }

  async close(): Promise<void> {
    await this.#queue
    await this.#kv.close()
  }

  /** Runs one write at a time, in order. After a failure, everything is refused with it. */
  #exclusive(task: () => Promise<void>): Promise<void> {
    const run = this.#queue.then(() => {
      if (this.#failure !== undefined) throw this.#failure
      return task()
    })
    this.#queue = run.catch(() => undefined)
    return run
  }

  async #write(operations: readonly KvOperation[], sync = true): Promise<void> {
    try {
      await this.#kv.batch(operations, { sync })
    } catch (error) {
      // A failed write may be there in part: nothing that this store says can be relied on any more.
      this.#failure = writeFailure(error)
      throw this.#failure
    }
  }
}

/** Why a stored entry does not continue the log; undefined when it does. */
function faultOf(
  keyIndex: number | undefined,
  stored: ReturnType<typeof decodeEntry>,
  expected: number,
  chain: number,
  term: number,
): string | undefined {
  if (keyIndex !== expected) return `entry ${expected} is missing`
  if (stored === undefined || stored.entry.index !== expected) return `entry ${expected} is damaged`
  if (stored.previousChain !== chain) return `entry ${expected} does not continue the chain`
  if (stored.entry.term < term) return `entry ${expected} has an older term than the one before`
  return undefined
}
