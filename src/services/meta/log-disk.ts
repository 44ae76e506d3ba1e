/**
 * The durable Raft log in segment files of its own (docs/formats/raft.md): one frame for each append, encoded straight into
 * memory that is written as it is, into space that the filesystem has written before, with one system call.
 *
 * Why not LevelDB: it copies and sorts what needs no order, and its log grows with each write, which costs the filesystem
 * a journal commit for each sync (docs/decisions/2026-11-22-raft-log-in-segments.md).
 * Invariants: one write is under way at most; a frame says what was on disk before it; a sector with acknowledged bytes is
 * never written again; what a segment holds is dropped only when a later frame, on disk, says that it is not needed; after
 * any failed write nothing is written any more.
 */

import { copyBytes } from '../../base/bytes.ts'
import { encode } from '../../base/schema.ts'
import { StoreError } from '../../model/errors.ts'
import {
  type ConfigAt,
  type Entry,
  entryBytes,
  entryOverheadBytes,
  type HardState,
  type SnapshotMark,
} from '../../core/raft/types.ts'
import { decodeEntry, markOf, putEntry, recordOverheadBytes } from './log-format.ts'
import { type LogState, stateRecord } from './log-frames.ts'
import { type Replayed, replaySegments } from './log-replay.ts'
import type { Segment, Segments } from './log-segments.ts'
import { lostAdvice, type RaftLog, type RecoveredLog, writeFailure } from './log-types.ts'
import { LogWindow } from './log-window.ts'
import { FrameWriter, type Plan, statePlan } from './log-writer.ts'

/** Bytes of entries in one frame, unless one alone is larger. */
const frameBodyMax = 1024 * 1024
/** Bytes of a segment that one read of old entries takes in. */
const readBytesMax = 1024 * 1024

/** What a log begins as. */
export interface LogStart {
  readonly base: SnapshotMark
  readonly baseChain: number
  readonly hard: HardState
  readonly commit: number
}

export class SegmentLog implements RaftLog {
  readonly #segments: Segments
  readonly #onClose: () => Promise<void>
  readonly #writer: FrameWriter
  #base: SnapshotMark
  #baseChain: number
  #installing: SnapshotMark | undefined
  #window: LogWindow
  #hard: HardState
  #commit: number
  /** Entries that are on disk, and what the last frame says of them. */
  #synced = 0
  #watermark = 0
  #queue: Promise<void> = Promise.resolve()
  #failure: StoreError | undefined

  private constructor(segments: Segments, start: LogStart, onClose: () => Promise<void>) {
    this.#segments = segments
    this.#onClose = onClose
    this.#writer = new FrameWriter(segments)
    this.#base = start.base
    this.#baseChain = start.baseChain
    this.#hard = start.hard
    this.#commit = start.commit
    this.#window = new LogWindow(start.base.index + 1)
    this.#synced = start.base.index
    this.#watermark = start.base.index
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

  /** Begins a new log in place of whatever is in the files. */
  static async create(segments: Segments, start: LogStart): Promise<SegmentLog> {
    await segments.clear()
    const log = new SegmentLog(segments, start, () => Promise.resolve())
    await log.#exclusive(() => log.#writeState())
    return log
  }

  /** Opens and verifies, cuts a torn end off. `onClose` is called after everything is closed. */
  static async open(
    segments: Segments,
    cacheBytes: number,
    onClose: () => Promise<void>,
  ): Promise<{ store: SegmentLog; recovered: RecoveredLog }> {
    const found = await segments.find()
    let replayed: Replayed
    try {
      replayed = await replaySegments(found)
      await segments.erase(found[replayed.live - 1] as Segment, replayed.stale)
    } catch (error) {
      for (const { file } of found) await file.close()
      throw error
    }
    const { replay, live, end, cut } = replayed
    const { state, hard, commit } = replay
    if (state === undefined) throw new StoreError('INTERNAL', 'open the raft log: it has no state')
    const start = { base: markOf(state.base), baseChain: state.base.chain, hard, commit }
    const log = new SegmentLog(segments, start, onClose)
    log.#installing = state.installs ? markOf(state.install) : undefined
    log.#window = replay.window
    log.#synced = log.lastIndex
    log.#watermark = Math.min(replay.watermark, log.lastIndex)
    const { sequence, chain } = replay
    log.#writer.resume({ segment: found[live - 1] as Segment, end, sequence, chain })
    await segments.settle(found, live)
    await segments.release(log.#firstNeeded())
    const { lastIndex } = log
    const tail = await log.read(log.#tailFrom(cacheBytes), lastIndex, Number.POSITIVE_INFINITY)
    const { termRuns, configs } = replay
    const rest = { base: start.base, baseChain: start.baseChain, installing: log.#installing }
    return { store: log, recovered: { ...rest, hardState: hard, commit, lastIndex, termRuns, configs, tail, cut } }
  }

  /** First entry of the longest tail of at most `cacheBytes`. */
  #tailFrom(cacheBytes: number): number {
    let from = this.lastIndex + 1
    let left = cacheBytes
    while (from > this.#window.first) {
      left -= this.#window.sizeAt(from - 1)
      if (left < 0) break
      from--
    }
    return from
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

  append(
    truncateFrom: number | undefined,
    entries: readonly Entry[],
    hard: HardState | undefined,
    commit: number,
  ): Promise<void> {
    return this.#exclusive(async () => {
      const oldLast = this.lastIndex
      const first = truncateFrom ?? entries[0]?.index ?? oldLast + 1
      if (first <= this.#base.index || first > oldLast + 1) {
        throw new StoreError('INTERNAL', `append to the raft log: entry ${first} does not follow ${oldLast}`)
      }
      let from = 0
      do {
        const to = frameEnd(entries, from)
        await this.#writeEntries(first + from, entries.slice(from, to), hard ?? this.#hard, commit)
        from = to
      } while (from < entries.length)
    })
  }

  async #writeEntries(first: number, entries: readonly Entry[], hard: HardState, commit: number): Promise<void> {
    const kept = first - 1
    const chains: number[] = []
    let length = 0
    for (const entry of entries) length += recordOverheadBytes + entry.payload.length
    const watermark = Math.min(this.#synced, kept)
    const place = await this.#write({
      kind: 'entries',
      hard,
      commit,
      watermark,
      first,
      last: kept + entries.length,
      count: entries.length,
      length,
      sync: true,
      body: (out, start) => {
        let at = start
        let chain = this.#chainAt(kept)
        for (const entry of entries) {
          chain = putEntry(out, at, entry, chain)
          chains.push(chain)
          at += recordOverheadBytes + entry.payload.length
        }
        return chain
      },
    })
    this.#window.truncate(first)
    let at = place.body
    for (const [position, entry] of entries.entries()) {
      this.#window.push(chains[position] as number, entryBytes(entry), place.segment, at)
      at += recordOverheadBytes + entry.payload.length
    }
    this.#watermark = watermark
    this.#synced = this.lastIndex
  }

  note(hard: HardState, commit: number, sync = false): Promise<void> {
    return this.#exclusive(() => this.#writeNote(hard, commit, this.#watermark, sync))
  }

  closeWatermark(commit: number): Promise<void> {
    return this.#exclusive(async () => {
      await this.#writeNote(this.#hard, commit, this.#synced, true)
      this.#watermark = this.#synced
    })
  }

  async #writeNote(hard: HardState, commit: number, watermark: number, sync: boolean): Promise<void> {
    const place = { first: this.lastIndex + 1, last: this.lastIndex, count: 0, length: 0 }
    await this.#write({ kind: 'note', hard, commit, watermark, ...place, sync, body: () => 0 })
  }

  /** Writes all that is not entries, as it is from now on. */
  async #writeState(
    change: { base?: SnapshotMark; baseChain?: number; installing?: SnapshotMark | undefined } = {},
    log: { commit: number; watermark: number; last: number; lastChain: number } = this.#logNow(),
  ): Promise<void> {
    const { base, baseChain, installing } = {
      base: this.#base,
      baseChain: this.#baseChain,
      installing: this.#installing,
      ...change,
    }
    const body = encodeState(base, baseChain, installing, log.lastChain)
    const { commit, watermark, last } = log
    await this.#write(statePlan({ hard: this.#hard, commit, watermark, last, body }))
    this.#base = base
    this.#baseChain = baseChain
    this.#installing = installing
    this.#watermark = watermark
  }

  /** What a new segment begins with: all that is not entries, as it is now. */
  #state(): Plan {
    const { commit, last, lastChain } = this.#logNow()
    return statePlan({
      hard: this.#hard,
      commit,
      watermark: this.#synced,
      last,
      body: encodeState(this.#base, this.#baseChain, this.#installing, lastChain),
    })
  }

  #logNow(): { commit: number; watermark: number; last: number; lastChain: number } {
    const last = this.lastIndex
    return { commit: this.#commit, watermark: this.#watermark, last, lastChain: this.#chainAt(last) }
  }

  #chainAt(index: number): number {
    return index === this.#base.index ? this.#baseChain : (this.#window.chainAt(index) ?? 0)
  }

  /** Writes one frame, in a new segment when the active one is full. Resolves to where its body is. */
  async #write(plan: Plan): Promise<{ segment: number; body: number }> {
    try {
      const place = await this.#writer.write(plan, () => this.#state())
      this.#hard = plan.hard
      this.#commit = plan.commit
      return place
    } catch (error) {
      // A failed write may be there in part: nothing that this log says can be relied on any more.
      this.#failure = writeFailure(error)
      throw this.#failure
    }
  }

  async read(first: number, last: number, bytesMax: number): Promise<Entry[]> {
    const out: Entry[] = []
    let size = 0
    for (let next = first; next <= last && size <= bytesMax; ) {
      const entries = await this.#readRange(next, Math.min(last, this.lastIndex))
      if (entries.length === 0) break
      for (const entry of entries) {
        size += entryBytes(entry)
        if (out.length > 0 && size > bytesMax) return out
        out.push(entry)
      }
      next += entries.length
    }
    return out
  }

  /** The entries from `first` to `last` that lie together, in one read; none when `first` is not in the log. */
  async #readRange(first: number, last: number): Promise<Entry[]> {
    const window = this.#window
    if (first < window.first || first > last) return []
    const segment = window.segmentAt(first)
    const begin = window.offsetAt(first)
    const places: { at: number; length: number; chain: number | undefined }[] = []
    let end = begin
    for (let index = first; index <= last && window.segmentAt(index) === segment; index++) {
      const at = window.offsetAt(index) - begin
      const length = window.sizeAt(index) - entryOverheadBytes + recordOverheadBytes
      if (places.length > 0 && at + length > readBytesMax) break
      places.push({ at, length, chain: window.chainAt(index) })
      end = begin + at + length
    }
    const bytes = new Uint8Array(end - begin)
    const count = await this.#segments.read(segment, bytes, begin)
    return places.map(({ at, length, chain }, position) => {
      const stored = at + length > count ? undefined : decodeEntry(bytes.subarray(at, at + length))
      if (stored === undefined || stored.entry.index !== first + position || stored.chain !== chain) {
        throw new StoreError('CORRUPT', `read the raft log: entry ${first + position} is damaged${lostAdvice}`)
      }
      return { ...stored.entry, payload: copyBytes(stored.entry.payload) }
    })
  }

  async compact(index: number, term: number, config: ConfigAt): Promise<void> {
    await this.#exclusive(async () => {
      const chain = this.#window.chainAt(index)
      if (chain === undefined) return
      await this.#writeState({ base: { index, term, config }, baseChain: chain })
      this.#window.drop(index)
    })
    await this.#release()
  }

  beginInstall(mark: SnapshotMark): Promise<void> {
    return this.#exclusive(() => this.#writeState({ installing: mark }))
  }

  cancelInstall(): Promise<void> {
    return this.#exclusive(() => this.#writeState({ installing: undefined }))
  }

  async finishInstall(mark: SnapshotMark, keepSuffix: boolean): Promise<void> {
    await this.#exclusive(async () => {
      const baseChain = keepSuffix ? this.#chainAt(mark.index) : 0
      const commit = Math.max(this.#commit, mark.index)
      const last = keepSuffix ? this.lastIndex : mark.index
      const lastChain = keepSuffix ? this.#chainAt(last) : 0
      const watermark = keepSuffix ? this.#synced : mark.index
      await this.#writeState({ base: mark, baseChain, installing: undefined }, { commit, watermark, last, lastChain })
      if (keepSuffix) this.#window.drop(mark.index)
      else this.#window.reset(mark.index + 1)
      this.#synced = this.lastIndex
    })
    // Nobody waits for the space; a failure shows at the next write.
    this.#release().catch(() => undefined)
  }

  /** The first segment with an entry that is in the log. */
  #firstNeeded(): number {
    const { first, last } = this.#window
    return first <= last ? this.#window.segmentAt(first) : this.#writer.segment
  }

  /** Gives segments back that hold nothing of the log any more. */
  async #release(): Promise<void> {
    try {
      await this.#segments.release(this.#firstNeeded())
    } catch (error) {
      this.#failure ??= writeFailure(error)
      throw this.#failure
    }
  }

  /** Resolves when nothing is in flight any more; then closes the files alone. */
  async closeFiles(): Promise<void> {
    await this.#queue
    await this.#segments.close()
  }

  async close(): Promise<void> {
    await this.closeFiles()
    await this.#onClose()
  }
}

/** The first of `entries` that goes into a later frame than the one that begins with `from`. */
function frameEnd(entries: readonly Entry[], from: number): number {
  let length = 0
  let to = from
  for (; to < entries.length; to++) {
    length += recordOverheadBytes + (entries[to] as Entry).payload.length
    if (to > from && length > frameBodyMax) break
  }
  return to
}

function encodeState(
  base: SnapshotMark,
  baseChain: number,
  installing: SnapshotMark | undefined,
  lastChain: number,
): Uint8Array {
  const recordOf = ({ index, term, config }: SnapshotMark): LogState['install'] => {
    return { index, term, configIndex: config.index, config: config.config }
  }
  return encode(stateRecord, {
    base: { ...recordOf(base), chain: baseChain },
    lastChain,
    installs: installing !== undefined,
    install: recordOf(installing ?? base),
  })
}
