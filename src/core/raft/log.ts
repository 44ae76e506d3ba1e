/**
 * The log as the core sees it: terms of all indexes, a window of the newest entries in memory, the configurations, and
 * the cursors.
 *
 * Invariants (asserted): base <= applied <= applying <= min(commit, durable) <= lastIndex; commit and applied never go
 * back; nothing at or below commit is truncated; entries that are not durable or not committed stay in memory.
 * A configuration is in force from the moment its entry is in the log, and falls with it when the entry is truncated.
 * Durability is by append task: each run of entries remembers the task that wrote it last, so that the late completion
 * of an older task never vouches for newer content at the same index.
 */

import { assert } from '../../base/assert.ts'
import { EntryWindow } from './window.ts'
import { TermRuns } from './terms.ts'
import type { ConfigAt, Entry, SnapshotMark } from './types.ts'
import { decodeConfig } from './messages.ts'

/** Entries up to `last` that append task `seq` took and has not completed. */
interface Writing {
  last: number
  readonly seq: number
}

export class RaftLog {
  readonly #terms: TermRuns
  /** The newest entries, ending at `lastIndex`. */
  readonly #window: EntryWindow
  #durable: number
  /** Entries above `durable` that a task took, in order; what is behind them is unsaved. */
  #writing: Writing[] = []
  /** First index that no append task has taken yet. */
  #unsaved: number
  /** Lowest index to be removed from the log store by the next append task. */
  #truncateFrom: number | undefined
  #commit: number
  #applying: number
  #applied: number
  /** Configurations by index; the first is the one of the base. */
  #configs: ConfigAt[]

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
    this.#window = new EntryWindow(options.tail, options.lastIndex, options.cacheBytes)
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
    return this.#terms.lastTerm
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

  /** The configurations of entries and snapshots up to `index`, in order; not the one that a log begins with. */
  configsUpTo(index: number): readonly ConfigAt[] {
    return this.#configs.filter((item) => item.index > 0 && item.index <= index)
  }

  /** The configuration in force at `index` and all later ones, in order. */
  configsFrom(index: number): readonly ConfigAt[] {
    const at = this.#configs.findLastIndex((item) => item.index <= index)
    return this.#configs.slice(Math.max(0, at))
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

  /** Appends one entry, which follows the last one. */
  append(entry: Entry): void {
    this.#terms.push(entry.index, entry.term)
    this.#window.push(entry)
    if (entry.type === 'config') this.#configs.push({ index: entry.index, config: decodeConfig(entry.payload) })
  }

  /**
   * Takes entries that follow a matching previous entry. What is already there is skipped; a conflict removes
   * everything from it on (never at or below commit); the rest is appended.
   */
  merge(entries: readonly Entry[]): void {
    let position = 0
    for (; position < entries.length; position++) {
      const { index, term } = entries[position] as Entry
      if (index > this.lastIndex) break
      if (index <= this.baseIndex || this.matches(index, term)) continue
      this.#truncate(index)
      break
    }
    for (; position < entries.length; position++) this.append(entries[position] as Entry)
  }

  #truncate(index: number): void {
    assert(index > this.#commit, `a committed entry is never replaced: index ${index}, commit ${this.#commit}`)
    this.#terms.truncate(index)
    this.#window.truncate(index)
    if (index < this.#unsaved) {
      this.#truncateFrom = Math.min(this.#truncateFrom ?? index, index)
      this.#unsaved = index
    }
    if (index <= this.#durable) this.#durable = index - 1
    for (let newest = this.#writing.at(-1); newest !== undefined && newest.last >= index; ) {
      newest.last = index - 1
      const before = this.#writing.at(-2)?.last ?? this.#durable
      if (newest.last > before) break
      this.#writing.pop()
      newest = this.#writing.at(-1)
    }
    while ((this.#configs.at(-1)?.index ?? 0) >= index) this.#configs.pop()
  }

  get hasUnsaved(): boolean {
    return this.#unsaved <= this.lastIndex || this.#truncateFrom !== undefined
  }

  /** Hands everything not yet saved to append task `seq`. */
  takeUnsaved(seq: number): { truncateFrom: number | undefined; entries: readonly Entry[] } {
    const entries = this.cached(this.#unsaved, this.lastIndex)
    assert(entries !== undefined, 'unsaved entries are in memory')
    if (entries.length > 0) this.#writing.push({ last: this.lastIndex, seq })
    const truncateFrom = this.#truncateFrom
    this.#truncateFrom = undefined
    this.#unsaved = this.lastIndex + 1
    return { truncateFrom, entries }
  }

  /** Task `seq` and all before it are on disk. */
  saved(seq: number): void {
    while ((this.#writing[0]?.seq ?? Number.POSITIVE_INFINITY) <= seq) {
      this.#durable = (this.#writing.shift() as Writing).last
    }
    this.#evict()
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
    const last = this.#window.batchEnd(first, end, bytesMax, entriesMax)
    this.#applying = last
    return { first, last }
  }

  appliedTo(index: number): void {
    assert(index === this.#applying, `apply completes what was started: ${index}, ${this.#applying}`)
    this.#applied = index
    this.#evict()
  }

  /** Index of the oldest entry in memory. */
  get cachedFrom(): number {
    return this.#window.first
  }

  /** Entries `first..last` when all of them are in memory. */
  cached(first: number, last: number): readonly Entry[] | undefined {
    return this.#window.slice(first, last)
  }

  /** Bytes of what is in memory of `first..last`. */
  bytesOf(first: number, last: number): number {
    return this.#window.bytesOf(first, last)
  }

  /** Last index of a batch that starts at `first`, ends by `end` and holds at most `bytesMax` (at least one entry). */
  batchEnd(first: number, end: number, bytesMax: number, entriesMax: number): number {
    return this.#window.batchEnd(first, Math.min(end, this.lastIndex), bytesMax, entriesMax)
  }

  #evict(): void {
    this.#window.evict(Math.min(this.#durable, this.#commit, this.#unsaved - 1))
  }

  /** Forgets what is at or before `index`, which must be applied. */
  compact(index: number): void {
    assert(index <= this.#applied, `only applied entries are compacted: ${index}, applied ${this.#applied}`)
    if (index <= this.baseIndex) return
    this.#configs = [...this.configsFrom(index)]
    this.#terms.compact(index)
    this.#window.dropTo(index)
  }

  /**
   * The state machine was replaced by a snapshot and the log store was reset to match: everything up to the mark is
   * applied. Whether the suffix stays is what `keepsSuffix` says, to the log store too.
   */
  restore(mark: SnapshotMark): void {
    assert(mark.index > this.#commit, 'a snapshot behind commit is not installed')
    assert(!this.hasUnsaved && this.#writing.length === 0, 'no append is under way when a snapshot is installed')
    const kept = this.keepsSuffix(mark)
    this.#commit = mark.index
    this.#applied = mark.index
    this.#applying = mark.index
    if (kept) {
      this.compact(mark.index)
      return
    }
    this.#terms.reset(mark.index, mark.term)
    this.#window.reset(mark.index)
    this.#configs = [mark.config]
    this.#durable = mark.index
    this.#unsaved = mark.index + 1
  }

  /** True when the log continues the snapshot, so that what is after it stays valid. */
  keepsSuffix(mark: SnapshotMark): boolean {
    return this.matches(mark.index, mark.term)
  }

  /** The local invariants, cheap enough to be checked after every step. */
  check(): void {
    const { lastIndex } = this
    assert(this.baseIndex <= this.#applied, 'nothing unapplied is compacted')
    assert(this.#applied <= this.#applying, 'applied is at most applying')
    assert(this.#applying <= Math.min(this.#commit, this.#durable), 'only committed and durable entries are applied')
    assert(this.#commit <= lastIndex, 'commit is within the log')
    const written = this.#writing.at(-1)?.last ?? this.#durable
    assert(
      this.#durable <= written && written === this.#unsaved - 1,
      'every entry is durable, being written or unsaved',
    )
    assert(written <= lastIndex && this.#window.last === lastIndex, 'the window ends at the end of the log')
  }
}
