/**
 * The log as the core sees it: terms of all indexes, a window of the newest entries in memory, and the cursors.
 *
 * Invariants (asserted): base <= applied <= applying <= min(commit, durable) <= lastIndex; commit and applied never go
 * back; nothing at or below commit is truncated; entries that are not durable or not committed stay in memory.
 * Durability is by slots: each entry remembers the append task that wrote it last, so that the late completion of an
 * older task never vouches for newer content at the same index.
 */

import { assert } from '../../base/assert.ts'
import { TermRuns } from './terms.ts'
import { type ConfigAt, type Entry, entryBytes, type SnapshotMark } from './types.ts'
import { decodeConfig } from './messages.ts'

export class RaftLog {
  readonly #terms: TermRuns
  /** Entries `#cacheFirst .. lastIndex`. */
  #cache: Entry[]
  #cacheFirst: number
  #cacheBytes = 0
  readonly #cacheBytesMax: number
  /** For each index above `durable`: the task that wrote it, undefined until one took it. */
  #slots: (number | undefined)[] = []
  #durable: number
  #commit: number
  #applying: number
  #applied: number
  /** Configurations by index; the first is the one of the base. */
  #configs: ConfigAt[]
  /** Lowest index to be removed from the log store by the next append task. */
  #truncateFrom: number | undefined
  /** First index that no append task has taken yet. */
  #unsaved: number

  constructor(options: {
    base: SnapshotMark
    termRuns: readonly { readonly first: number; readonly term: number }[]
    lastIndex: number
    configs: readonly ConfigAt[]
    tail: readonly Entry[]
    commit: number
    applied: number
    cacheBytes: number
  }) {
    this.#terms = new TermRuns(options.base.index, options.base.term, options.termRuns, options.lastIndex)
    this.#cache = [...options.tail]
    this.#cacheFirst = options.lastIndex - options.tail.length + 1
    for (const entry of this.#cache) this.#cacheBytes += entryBytes(entry)
    this.#cacheBytesMax = options.cacheBytes
    this.#durable = options.lastIndex
    this.#unsaved = options.lastIndex + 1
    this.#commit = Math.max(options.commit, options.applied, options.base.index)
    this.#applied = options.applied
    this.#applying = options.applied
    this.#configs = [options.base.config, ...options.configs]
    this.check()
  }

  get baseIndex(): number {
    return this.#terms.baseIndex
  }
  get lastIndex(): number {
    return this.#terms.last
  }
  get lastTerm(): number {
    return this.#terms.at(this.#terms.last) ?? 0
  }
  get durable(): number {
    return this.#durable
  }
  get commit(): number {
    return this.#commit
  }
  get applied(): number {
    return this.#applied
  }
  get applying(): number {
    return this.#applying
  }
  /** The configuration in force: the newest one in the log, committed or not. */
  get config(): ConfigAt {
    const newest = this.#configs.at(-1)
    assert(newest !== undefined, 'a log has a configuration')
    return newest
  }

  /** The configuration in force at `index`. */
  configAt(index: number): ConfigAt {
    const found = this.#configs.findLast((item) => item.index <= index) ?? this.#configs[0]
    assert(found !== undefined, 'a log has a configuration')
    return found
  }

  /** Term at `index`, undefined when it is compacted away or beyond the end. */
  term(index: number): number | undefined {
    return this.#terms.at(index)
  }

  matches(index: number, term: number): boolean {
    return this.#terms.at(index) === term
  }

  /** Vote rule: true when a log that ends at (term, index) has everything that ours may have committed. */
  isUpToDate(lastIndex: number, lastTerm: number): boolean {
    return lastTerm > this.lastTerm || (lastTerm === this.lastTerm && lastIndex >= this.lastIndex)
  }

  /** Conflict back-off: the largest index up to `index` whose term is at most `term`. */
  lastAtMost(index: number, term: number): { index: number; term: number } {
    return this.#terms.lastAtMost(index, term)
  }

  /** Appends entries of this leader's own term. */
  append(entries: readonly Entry[]): void {
    for (const entry of entries) {
      this.#terms.push(entry.index, entry.term)
      this.#cache.push(entry)
      this.#cacheBytes += entryBytes(entry)
      this.#slots.push(undefined)
      if (entry.type === 'config') this.#configs.push({ index: entry.index, config: decodeConfig(entry.payload) })
    }
  }

  /**
   * Takes entries that follow a matching previous entry. What is already there is skipped; a conflict removes
   * everything from it on (never at or below commit); the rest is appended.
   */
  merge(entries: readonly Entry[]): void {
    for (const [position, entry] of entries.entries()) {
      if (entry.index <= this.baseIndex || this.matches(entry.index, entry.term)) continue
      if (entry.index <= this.lastIndex) this.#truncate(entry.index)
      this.append(entries.slice(position))
      return
    }
  }

  #truncate(index: number): void {
    assert(index > this.#commit, `a committed entry is never replaced: index ${index}, commit ${this.#commit}`)
    this.#terms.truncate(index)
    const keep = Math.max(0, index - this.#cacheFirst)
    for (const entry of this.#cache.splice(keep)) this.#cacheBytes -= entryBytes(entry)
    this.#cacheFirst = Math.min(this.#cacheFirst, index)
    if (index < this.#unsaved) {
      this.#truncateFrom = Math.min(this.#truncateFrom ?? index, index)
      this.#unsaved = index
    }
    if (index <= this.#durable) this.#durable = index - 1
    this.#slots.length = Math.min(this.#slots.length, index - 1 - this.#durable)
    while ((this.#configs.at(-1)?.index ?? 0) >= index) this.#configs.pop()
  }

  get hasUnsaved(): boolean {
    return this.#unsaved <= this.lastIndex || this.#truncateFrom !== undefined
  }

  /** Hands everything not yet saved to append task `seq`. */
  takeUnsaved(seq: number): { truncateFrom: number | undefined; entries: readonly Entry[] } {
    const entries = this.cached(this.#unsaved, this.lastIndex)
    assert(entries !== undefined, 'unsaved entries are in memory')
    for (let i = this.#unsaved; i <= this.lastIndex; i++) this.#slots[i - this.#durable - 1] = seq
    const truncateFrom = this.#truncateFrom
    this.#truncateFrom = undefined
    this.#unsaved = this.lastIndex + 1
    return { truncateFrom, entries }
  }

  /** Task `seq` and all before it are on disk. Returns true when more became durable. */
  saved(seq: number): boolean {
    let released = 0
    while (released < this.#slots.length && (this.#slots[released] ?? Number.POSITIVE_INFINITY) <= seq) released++
    this.#slots.splice(0, released)
    this.#durable += released
    this.#evict()
    return released > 0
  }

  /** Moves commit forward to `index`, at most the end of the log; returns true when it moved. */
  commitTo(index: number): boolean {
    assert(index <= this.lastIndex, `commit ${index} is within the log that ends at ${this.lastIndex}`)
    if (index <= this.#commit) return false
    this.#commit = index
    return true
  }

  /** The next group to apply: committed and durable here, bounded; undefined when one is under way or none is there. */
  takeApply(bytesMax: number, entriesMax: number): { first: number; last: number } | undefined {
    const end = Math.min(this.#commit, this.#durable)
    if (this.#applying !== this.#applied || this.#applied >= end) return undefined
    const first = this.#applied + 1
    let last = first
    let size = this.#sizeAt(first)
    while (last < end && last - first + 1 < entriesMax && size + this.#sizeAt(last + 1) <= bytesMax) {
      last++
      size += this.#sizeAt(last)
    }
    this.#applying = last
    return { first, last }
  }

  /** Entries that are not in memory are taken as small: the host bounds what it reads. */
  #sizeAt(index: number): number {
    const entry = this.#cache[index - this.#cacheFirst]
    return entry === undefined ? 0 : entryBytes(entry)
  }

  get canApply(): boolean {
    return this.#applying === this.#applied && this.#applied < Math.min(this.#commit, this.#durable)
  }

  appliedTo(index: number): void {
    assert(index === this.#applying, `apply completes what was started: ${index}, ${this.#applying}`)
    this.#applied = index
    this.#evict()
  }

  /** Entries `first..last` when all of them are in memory. */
  cached(first: number, last: number): readonly Entry[] | undefined {
    if (first > last) return []
    if (first < this.#cacheFirst || last > this.lastIndex) return undefined
    return this.#cache.slice(first - this.#cacheFirst, last + 1 - this.#cacheFirst)
  }

  /** Bytes of what is in memory of `first..last`. */
  bytesOf(first: number, last: number): number {
    let total = 0
    for (let i = Math.max(first, this.#cacheFirst); i <= last; i++) total += this.#sizeAt(i)
    return total
  }

  /** Last index of a batch that starts at `first` and holds at most `bytesMax` (at least one entry). */
  batchEnd(first: number, bytesMax: number, entriesMax: number): number {
    let last = first
    let size = this.#sizeAt(first)
    const end = Math.min(this.lastIndex, first + entriesMax - 1)
    while (last < end && size + this.#sizeAt(last + 1) <= bytesMax) {
      last++
      size += this.#sizeAt(last)
    }
    return last
  }

  #evict(): void {
    if (this.#cacheBytes <= this.#cacheBytesMax) return
    const evictable = Math.min(this.#durable, this.#commit, this.#unsaved - 1)
    let drop = 0
    while (
      this.#cacheBytes > this.#cacheBytesMax &&
      drop < this.#cache.length &&
      this.#cacheFirst + drop <= evictable
    ) {
      this.#cacheBytes -= entryBytes(this.#cache[drop] as Entry)
      drop++
    }
    this.#cache.splice(0, drop)
    this.#cacheFirst += drop
  }

  /** Forgets what is at or before `index`, which must be applied. */
  compact(index: number): void {
    assert(index <= this.#applied, `only applied entries are compacted: ${index}, applied ${this.#applied}`)
    if (index <= this.baseIndex) return
    this.#configs = [this.configAt(index), ...this.#configs.filter((item) => item.index > index)]
    this.#terms.compact(index)
    if (index >= this.#cacheFirst) {
      for (const entry of this.#cache.splice(0, index - this.#cacheFirst + 1)) this.#cacheBytes -= entryBytes(entry)
      this.#cacheFirst = index + 1
    }
  }

  /**
   * The state machine was replaced by a snapshot and the log store was reset to match: everything up to the mark is
   * applied. `keepSuffix` is what the log store did; it must be asked with `keepsSuffix` first.
   */
  restore(mark: SnapshotMark): void {
    assert(mark.index > this.#commit, 'a snapshot behind commit is not installed')
    assert(!this.hasUnsaved && this.#slots.length === 0, 'no append is under way when a snapshot is installed')
    if (this.keepsSuffix(mark)) {
      this.#commit = mark.index
      this.#applied = mark.index
      this.#applying = mark.index
      this.compact(mark.index)
      return
    }
    this.#terms.reset(mark.index, mark.term)
    this.#cache = []
    this.#cacheBytes = 0
    this.#cacheFirst = mark.index + 1
    this.#configs = [mark.config]
    this.#durable = mark.index
    this.#unsaved = mark.index + 1
    this.#commit = mark.index
    this.#applied = mark.index
    this.#applying = mark.index
  }

  /** True when the log continues the snapshot, so that what is after it stays valid. */
  keepsSuffix(mark: SnapshotMark): boolean {
    return this.matches(mark.index, mark.term)
  }

  /** The local invariants, cheap enough to be checked after every step. */
  check(): void {
    assert(this.baseIndex <= this.#applied, 'nothing unapplied is compacted')
    assert(this.#applied <= this.#applying, 'applied is at most applying')
    assert(this.#applying <= Math.min(this.#commit, this.#durable), 'only committed and durable entries are applied')
    assert(this.#commit <= this.lastIndex, 'commit is within the log')
    assert(this.#durable + this.#slots.length === this.lastIndex, 'every entry that is not durable has a slot')
    assert(this.#cacheFirst + this.#cache.length === this.lastIndex + 1, 'the cache ends at the end of the log')
  }
}
