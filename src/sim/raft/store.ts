/**
 * The log of a simulated node: what both real ones (`RaftLog`), `HardStateSlots` and the start of a node do, on the
 * simulated disk and without promises. Order of writes, watermark, chain and the reasons to refuse are theirs; a change
 * there has a counterpart here. What a crash leaves here is what it leaves in LevelDB, which is more than segments allow:
 * there a torn append is gone whole but for appends above a MiB, and of writes that were not synced a prefix is left, not
 * any subset. (The real ones are tried at every crash point in test/sim/raft/crash-points.test.ts, and the simulated
 * cluster runs on segments.)
 */

import { assert } from '../../base/assert.ts'
import { decodeConfig } from '../../core/raft/messages.ts'
import {
  type ConfigAt,
  type Entry,
  entryBytes,
  type HardState,
  type RaftOptions,
  type SnapshotMark,
} from '../../core/raft/types.ts'
import { mix, payloadHash } from './command.ts'
import type { Batch, HardRecord, RaftDisk, SlotRecord, StoredEntry } from './disk.ts'

/** What the core starts from, or why the node must not start. */
export type Boot =
  | {
      readonly start: Pick<
        RaftOptions,
        'hardState' | 'base' | 'termRuns' | 'lastIndex' | 'configs' | 'tail' | 'commit' | 'applied'
      >
    }
  | { readonly refused: string }

interface Job {
  readonly sync: boolean
  /** Looks at the store when its turn has come; undefined: nothing to write. */
  readonly batch: () => Batch | undefined
  readonly done: (worked: boolean) => void
}

export class SimStore {
  readonly #disk: RaftDisk
  readonly #jobs: Job[] = []
  #busy = false
  #hard: HardRecord
  #slot: SlotRecord
  #last: number
  #synced: number
  #bytes = 0
  /** Entries that a batch could not be written for: nothing may be written after that. */
  failed = false

  constructor(disk: RaftDisk) {
    this.#disk = disk
    const { image, hard } = disk
    assert(hard !== undefined, 'a store is opened on intact slots')
    this.#hard = image.hard
    this.#slot = hard
    this.#last = image.base.index
    while (image.entries.has(this.#last + 1)) this.#bytes += entryBytes(this.#stored(++this.#last).entry)
    this.#synced = this.#last
  }

  #stored(index: number): StoredEntry {
    const stored = this.#disk.image.entries.get(index)
    assert(stored !== undefined, `entry ${index} is in the simulated log`)
    return stored
  }

  get baseIndex(): number {
    return this.#disk.image.base.index
  }
  get lastIndex(): number {
    return this.#last
  }
  get bytes(): number {
    return this.#bytes
  }
  get watermarkBehind(): boolean {
    return this.#hard.watermark < this.#synced
  }

  #run(job: Job): void {
    this.#jobs.push(job)
    this.#next()
  }

  #next(): void {
    if (this.#busy || this.failed) return
    const job = this.#jobs.shift()
    if (job === undefined) return
    const batch = job.batch()
    if (batch === undefined) {
      job.done(true)
      this.#next()
      return
    }
    this.#busy = true
    this.#disk.write(batch, job.sync, (worked) => {
      this.#busy = false
      if (!worked) this.failed = true
      job.done(worked)
      this.#next()
    })
  }

  saveSlot(value: HardState, done: (worked: boolean) => void): void {
    const record = { ...value, sequence: this.#slot.sequence + 1, intact: true }
    this.#disk.overwrite(record.sequence % 2 === 0 ? 0 : 1, record, (worked) => {
      if (worked) this.#slot = record
      else this.failed = true
      done(worked)
    })
  }

  append(
    truncateFrom: number | undefined,
    entries: readonly Entry[],
    hard: HardState | undefined,
    commit: number,
    done: (worked: boolean) => void,
  ): void {
    let next: HardRecord | undefined
    let last = 0
    const batch = (): Batch => {
      const { base, entries: there } = this.#disk.image
      const first = truncateFrom ?? entries[0]?.index ?? this.#last + 1
      assert(first > base.index && first <= this.#last + 1, `entry ${first} follows ${this.#last}`)
      let chain = first - 1 === base.index ? base.chain : this.#stored(first - 1).chain
      const stored: StoredEntry[] = []
      for (const entry of entries) {
        const previous = chain
        chain = chainAfter(previous, entry)
        stored.push({ entry, previous, chain, intact: true })
      }
      for (let i = first; i <= this.#last; i++) this.#bytes -= entryBytes(there.get(i)?.entry as Entry)
      for (const entry of entries) this.#bytes += entryBytes(entry)
      last = first - 1 + entries.length
      next = { ...(hard ?? this.#hard), commit, watermark: Math.min(this.#synced, first - 1) }
      const drop = this.#last > last ? { dropFrom: last + 1, dropTo: this.#last } : {}
      return { ...drop, entries: stored, hard: next }
    }
    this.#run({
      sync: true,
      batch,
      done: (worked) => {
        if (worked && next !== undefined) {
          this.#hard = next
          this.#last = last
          this.#synced = last
        }
        done(worked)
      },
    })
  }

  /** The second copy of a term and vote that the slots hold already; not synced. */
  note(hard: HardState, commit: number, done: (worked: boolean) => void): void {
    let next: HardRecord | undefined
    this.#run({
      sync: false,
      batch: () => {
        next = { ...hard, commit, watermark: this.#hard.watermark }
        return { hard: next }
      },
      done: (worked) => {
        if (worked && next !== undefined) this.#hard = next
        done(worked)
      },
    })
  }

  closeWatermark(commit: number, done: (worked: boolean) => void): void {
    let next: HardRecord | undefined
    this.#run({
      sync: true,
      batch: () => {
        next = { ...this.#hard, commit, watermark: this.#synced }
        return { hard: next }
      },
      done: (worked) => {
        if (worked && next !== undefined) this.#hard = next
        done(worked)
      },
    })
  }

  /** Entries from `first` on; undefined when one is damaged. */
  read(first: number, last: number, bytesMax: number): Entry[] | undefined {
    const out: Entry[] = []
    let size = 0
    for (let i = first; i <= last; i++) {
      const stored = this.#disk.image.entries.get(i)
      if (stored === undefined) break
      if (!stored.intact) return undefined
      size += entryBytes(stored.entry)
      if (out.length > 0 && size > bytesMax) break
      out.push(stored.entry)
    }
    return out
  }

  /** Moves the base first, synced; then the prefix goes, unsynced. */
  compact(index: number, term: number, config: ConfigAt, done: (worked: boolean) => void): void {
    const from = this.baseIndex + 1
    this.#run({
      sync: true,
      batch: () => {
        const chain = this.#disk.image.entries.get(index)?.chain
        if (chain === undefined || index <= this.baseIndex) return undefined
        for (let i = this.baseIndex + 1; i <= index; i++) this.#bytes -= entryBytes(this.#stored(i).entry)
        return { base: { index, term, chain, config } }
      },
      done: (worked) => {
        if (!worked) done(false)
      },
    })
    this.#run({ sync: false, batch: () => ({ dropFrom: from, dropTo: index }), done })
  }

  beginInstall(mark: SnapshotMark, done: (worked: boolean) => void): void {
    this.#run({ sync: true, batch: () => ({ install: mark }), done })
  }

  cancelInstall(done: (worked: boolean) => void): void {
    this.#run({ sync: true, batch: () => ({ install: null }), done })
  }

  finishInstall(mark: SnapshotMark, keepSuffix: boolean, done: (worked: boolean) => void): void {
    let next: HardRecord | undefined
    this.#run({
      sync: true,
      batch: () => {
        const plan = finished(this.#disk, this.#hard, mark, keepSuffix, this.#last)
        next = plan.hard
        return plan
      },
      done: (worked) => {
        if (worked && next !== undefined) {
          this.#hard = next
          if (!keepSuffix) this.#last = mark.index
          this.#synced = keepSuffix ? this.#last : mark.index
          this.#bytes = 0
          for (let i = mark.index + 1; i <= this.#last; i++) this.#bytes += entryBytes(this.#stored(i).entry)
        }
        done(worked)
      },
    })
  }
}

function finished(
  disk: RaftDisk,
  hard: HardRecord,
  mark: SnapshotMark,
  keepSuffix: boolean,
  last: number,
): Batch & { readonly hard: HardRecord } {
  const { base, entries } = disk.image
  const chain = keepSuffix ? (entries.get(mark.index)?.chain ?? base.chain) : 0
  const watermark = keepSuffix ? last : mark.index
  return {
    dropFrom: base.index + 1,
    dropTo: keepSuffix ? mark.index : last,
    base: { index: mark.index, term: mark.term, chain, config: mark.config },
    hard: { ...hard, commit: Math.max(hard.commit, mark.index), watermark },
    install: null,
  }
}

export function chainAfter(previous: number, entry: Entry): number {
  return mix(mix(mix(previous, entry.index), entry.term), payloadHash(entry.payload))
}

/**
 * Verifies what is on the disk, finishes or undoes an install, cuts a torn tail off. `durable`: index of the state machine,
 * undefined for a witness, which has none.
 */
export function bootStore(disk: RaftDisk, durable: number | undefined, cacheBytes: number): Boot {
  const { image } = disk
  const slot = disk.hard
  if (slot === undefined) return { refused: 'both slots are damaged' }
  const scanned = scan(disk)
  if (scanned !== undefined) return { refused: scanned }
  const mark = image.install
  if (mark !== undefined) {
    image.install = undefined
    if (durable === undefined || durable >= mark.index) settle(disk, mark)
  }
  const { base, entries, hard } = image
  const last = lastOf(disk)
  const ahead = hard.term > slot.term || (hard.term === slot.term && hard.vote !== '' && hard.vote !== slot.vote)
  const lastTerm = entries.get(last)?.entry.term ?? base.term
  if (ahead || lastTerm > slot.term) return { refused: 'the log is ahead of the hard state' }
  const state = durable ?? Math.max(hard.commit, base.index)
  if (hard.commit > last || state > last || state < base.index) return { refused: 'log and state do not meet' }
  const start = { hardState: { term: slot.term, vote: slot.vote }, base: markOf(base), lastIndex: last }
  const commit = Math.max(hard.commit, durable ?? 0, base.index, Math.min(1, last))
  return { start: { ...start, ...contents(disk, last, cacheBytes), commit, applied: durable ?? commit } }
}

function markOf(base: DiskBase): SnapshotMark {
  return { index: base.index, term: base.term, config: base.config }
}
type DiskBase = RaftDisk['image']['base']

function lastOf(disk: RaftDisk): number {
  const { base, entries } = disk.image
  let last = base.index
  while (entries.has(last + 1)) last++
  return last
}

/** Cuts off a torn tail; why the log is refused, if it is. */
function scan(disk: RaftDisk): string | undefined {
  const { base, entries, hard } = disk.image
  let last = base.index
  let { chain, term } = base
  for (const index of entries.keys()) if (index <= base.index) entries.delete(index)
  for (;;) {
    const stored = entries.get(last + 1)
    if (stored === undefined || !stored.intact || stored.previous !== chain || stored.entry.term < term) break
    last++
    chain = stored.chain
    term = stored.entry.term
  }
  if (last < hard.watermark) return `entries ${last + 1} to ${hard.watermark} were acknowledged and are gone`
  for (const index of entries.keys()) if (index > last) entries.delete(index)
  return undefined
}

function settle(disk: RaftDisk, mark: SnapshotMark): void {
  const { image } = disk
  const inLog = mark.index > image.base.index && image.entries.get(mark.index)?.entry.term === mark.term
  const { dropFrom, dropTo, base, hard } = finished(disk, image.hard, mark, inLog, lastOf(disk))
  for (let i = dropFrom ?? 0; i <= (dropTo ?? -1); i++) image.entries.delete(i)
  if (base !== undefined) image.base = base
  image.hard = hard
}

function contents(
  disk: RaftDisk,
  last: number,
  cacheBytes: number,
): Pick<RaftOptions, 'termRuns' | 'configs' | 'tail'> {
  const { base, entries } = disk.image
  const termRuns: { first: number; term: number }[] = []
  const configs: ConfigAt[] = []
  const all: Entry[] = []
  for (let i = base.index + 1; i <= last; i++) {
    const { entry } = entries.get(i) as StoredEntry
    if (termRuns.at(-1)?.term !== entry.term) termRuns.push({ first: i, term: entry.term })
    if (entry.type === 'config') configs.push({ index: i, config: decodeConfig(entry.payload) })
    all.push(entry)
  }
  let size = 0
  let from = all.length
  while (from > 0 && size + entryBytes(all[from - 1] as Entry) <= cacheBytes) size += entryBytes(all[--from] as Entry)
  return { termRuns, configs, tail: all.slice(from) }
}
