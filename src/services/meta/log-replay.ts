/**
 * Reads a Raft log out of its segments: frame after frame, each verified against the one before, until one does not follow.
 *
 * Where the log ends is told apart by what lies behind: a frame that says that something was on disk which is not there any
 * more proves a loss, and the node must not vote (DATA_LOST); when nothing says so, the end is a torn write that nobody was
 * told of, and it is cut off. Nothing is changed here; what has to be made unreadable is said in the result.
 */

import { StoreError } from '../../model/errors.ts'
import { crc32c } from '../../base/crc32c.ts'
import { decode, SchemaError } from '../../base/schema.ts'
import { decodeConfig } from '../../core/raft/messages.ts'
import { type ConfigAt, entryBytes, type HardState } from '../../core/raft/types.ts'
import { decodeEntry, recordLength, type StoredEntry } from './log-format.ts'
import {
  type Frame,
  type LogState,
  readFrameHeader,
  sectorBytes,
  segmentHeaderBytes,
  stateRecord,
} from './log-frames.ts'
import type { FoundSegment } from './log-segments.ts'
import { lostAdvice } from './log-types.ts'
import { LogWindow } from './log-window.ts'

/** The log as its frames say it is. */
export class Replay {
  window = new LogWindow(1)
  state: LogState | undefined
  hard: HardState = { term: 0, vote: '' }
  commit = 0
  watermark = 0
  /** Of the last frame. */
  sequence = 0
  chain = 0
  termRuns: { first: number; term: number }[] = []
  configs: ConfigAt[] = []
  /** Chain value before the first entry of the window. */
  #startChain = 0

  /** Takes the next frame; says why not when it is damaged or does not follow. Nothing of such a frame is taken. */
  take(frame: Frame, bytes: Uint8Array, segment: number): string | undefined {
    const begun = this.state !== undefined
    if (begun && (frame.sequence !== this.sequence + 1 || frame.previous !== this.chain)) {
      return 'it does not follow the one before'
    }
    if (frame.offset === segmentHeaderBytes && frame.kind !== 'state') return 'the segment does not begin with a state'
    const fault =
      frame.kind === 'state'
        ? this.#takeState(frame, bytes)
        : frame.kind === 'entries'
          ? this.#takeEntries(frame, bytes, segment)
          : undefined
    if (fault !== undefined) return fault
    this.hard = frame.hard
    this.commit = frame.commit
    this.watermark = frame.watermark
    this.sequence = frame.sequence
    this.chain = frame.chain
    return undefined
  }

  #takeState(frame: Frame, bytes: Uint8Array): string | undefined {
    const state = decodeState(bytes.slice(frame.body, frame.body + frame.length), frame.sum)
    if (state === undefined) return 'its state is damaged'
    const { base, lastChain } = state
    const continues = frame.last === this.window.last && lastChain === this.#chainAt(frame.last)
    if (this.state === undefined || !continues) {
      const replaced = base.index === frame.last && base.chain === lastChain
      if (this.state !== undefined && !replaced) return 'its state does not fit the log'
      this.window.reset(frame.last + 1)
      this.#startChain = lastChain
      this.termRuns = []
      this.configs = []
    }
    this.state = state
    return undefined
  }

  #chainAt(index: number): number | undefined {
    return index === this.window.first - 1 ? this.#startChain : this.window.chainAt(index)
  }

  #takeEntries(frame: Frame, bytes: Uint8Array, segment: number): string | undefined {
    const { first } = frame
    if (first <= (this.state?.base.index ?? 0) || first > this.window.last + 1)
      return 'its entries do not follow the log'
    const records = this.#records(frame, bytes)
    if (typeof records === 'string') return records
    if (first < this.window.first) {
      // What it follows was in a segment that is gone: everything there was covered by a snapshot later.
      this.window.reset(first)
      this.#startChain = records[0]?.stored.previousChain ?? frame.sum
    } else {
      this.window.truncate(first)
    }
    while ((this.termRuns.at(-1)?.first ?? -1) >= first) this.termRuns.pop()
    while ((this.configs.at(-1)?.index ?? -1) >= first) this.configs.pop()
    for (const { stored, at } of records) {
      const { entry, chain } = stored
      if (this.termRuns.at(-1)?.term !== entry.term) this.termRuns.push({ first: entry.index, term: entry.term })
      if (entry.type === 'config') this.configs.push({ index: entry.index, config: decodeConfig(entry.payload) })
      this.window.push(chain, entryBytes(entry), segment, at)
    }
    return undefined
  }

  /** The entries of a frame; why not when one is not what it should be. */
  #records(frame: Frame, bytes: Uint8Array): { stored: StoredEntry; at: number }[] | string {
    const out: { stored: StoredEntry; at: number }[] = []
    const end = frame.body + frame.length
    let at = frame.body
    let chain = this.#chainAt(frame.first - 1)
    let term = this.termRuns.findLast((run) => run.first < frame.first)?.term ?? this.state?.base.term ?? 0
    for (let index = frame.first; index < frame.first + frame.count; index++) {
      const length = recordLength(bytes, at, end)
      const stored = length === undefined ? undefined : decodeEntry(bytes.subarray(at, at + length))
      if (length === undefined || stored === undefined || stored.entry.index !== index)
        return `entry ${index} is damaged`
      if (chain !== undefined && stored.previousChain !== chain) return `entry ${index} does not continue the chain`
      if (stored.entry.term < term) return `entry ${index} has an older term than the one before`
      out.push({ stored, at })
      chain = stored.chain
      term = stored.entry.term
      at += length
    }
    const whole = at === end && frame.last === frame.first + frame.count - 1
    return whole && (chain ?? frame.sum) === frame.sum ? out : 'its entries are not what was written'
  }
}

function decodeState(body: Uint8Array, sum: number): LogState | undefined {
  if (crc32c(body) !== sum) return undefined
  try {
    return decode(stateRecord, body)
  } catch (error) {
    if (error instanceof SchemaError) return undefined
    throw error
  }
}

export interface Replayed {
  readonly replay: Replay
  /** How many of the found segments hold the log, and where it ends in the last of them. */
  readonly live: number
  readonly end: number
  /** Sectors of that segment behind the end in which a torn write left a frame: offsets. */
  readonly stale: readonly number[]
  /** Entries of a torn end, as far as it can be told. */
  readonly cut: number
}

/** Reads and verifies. Throws CORRUPT when there is no log, DATA_LOST when something of it is gone. */
export async function replaySegments(found: readonly FoundSegment[]): Promise<Replayed> {
  const replay = new Replay()
  let live = 0
  let end = segmentHeaderBytes
  let fault: string | undefined
  for (const segment of found) {
    if (segment.seed === undefined) break
    const read = readFrames(replay, await contentOf(segment), segment.seed, segment.number)
    fault ??= read.fault
    if (read.end === segmentHeaderBytes) break
    live++
    end = read.end
  }
  if (live === 0) throw new StoreError('CORRUPT', `open the raft log: its beginning is damaged${lostAdvice}`)
  const behind: Frame[] = []
  const stale: number[] = []
  for (const [position, segment] of found.entries()) {
    if (position < live - 1 || segment.seed === undefined) continue
    const frames = framesFrom(await contentOf(segment), position < live ? end : segmentHeaderBytes, segment.seed)
    if (position < live) stale.push(...frames.map((frame) => frame.offset))
    behind.push(...frames)
  }
  refuseLoss(replay, behind, fault ?? 'the log ends there')
  settleBase(replay)
  const torn = behind.filter((frame) => frame.kind === 'entries' && frame.sequence > replay.sequence)
  return { replay, live, end, stale, cut: torn.reduce((sum, frame) => sum + frame.count, 0) }
}

async function contentOf({ file }: FoundSegment): Promise<Uint8Array> {
  const bytes = new Uint8Array(file.size)
  return bytes.subarray(0, await file.read(bytes, 0))
}

/** Takes frames until one does not follow: where that is, and why when it looks like a frame. */
function readFrames(
  replay: Replay,
  bytes: Uint8Array,
  seed: number,
  segment: number,
): { end: number; fault: string | undefined } {
  let end = segmentHeaderBytes
  for (;;) {
    const frame = readFrameHeader(bytes, end, seed)
    if (frame === undefined) return { end, fault: undefined }
    const fault = replay.take(frame, bytes, segment)
    if (fault !== undefined) return { end, fault }
    end = frame.end
  }
}

/** Every frame header from `offset` on, whatever is between. */
function framesFrom(bytes: Uint8Array, offset: number, seed: number): Frame[] {
  const out: Frame[] = []
  for (let at = offset; at < bytes.length; at += sectorBytes) {
    const frame = readFrameHeader(bytes, at, seed)
    if (frame !== undefined) out.push(frame)
  }
  return out
}

/** Throws when a frame behind the end says that more was on disk than there is. */
function refuseLoss(replay: Replay, behind: readonly Frame[], fault: string): void {
  const proof = behind.find((frame) => frame.synced > replay.sequence)
  if (proof === undefined) return
  const last = replay.window.last
  const watermark = Math.max(...behind.map((frame) => frame.watermark))
  const what =
    watermark > last
      ? `entries ${last + 1} to ${watermark} were acknowledged and are gone`
      : `frame ${replay.sequence + 1} was on disk and is damaged`
  throw new StoreError('DATA_LOST', `open the raft log: ${what} (${fault})${lostAdvice}`)
}

/** Drops what the base covers. Throws when there is a hole between the base and the first entry. */
function settleBase(replay: Replay): void {
  const { window, state } = replay
  const base = state?.base.index ?? 0
  if (base < window.first - 1) {
    const lost = `entries ${base + 1} to ${window.first - 1} were acknowledged and are gone`
    throw new StoreError('DATA_LOST', `open the raft log: ${lost}${lostAdvice}`)
  }
  window.drop(base)
  replay.termRuns = replay.termRuns
    .filter((_, i, runs) => (runs[i + 1]?.first ?? window.last + 1) > base + 1)
    .map((run) => ({ ...run, first: Math.max(run.first, base + 1) }))
  replay.configs = replay.configs.filter((config) => config.index > base)
}
