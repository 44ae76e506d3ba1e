/**
 * What the Raft log of a simulated node says, read out of the bytes on their way to its disk: for checks of what was
 * applied, and for faults that have to hit an entry. It trusts nobody but the format.
 */

import { decode } from '../base/schema.ts'
import type { Entry } from '../core/raft/types.ts'
import type { ExtentFile, ExtentFiles } from '../ports/extents.ts'
import { decodeEntry, recordLength } from '../services/meta/log-format.ts'
import {
  type Frame,
  readFrameHeader,
  readSegmentHeader,
  sectorBytes,
  segmentHeaderBytes,
  stateRecord,
} from '../services/meta/log-frames.ts'
import type { SimExtentDisk } from './extents.ts'

/** Where the record of an entry lies. */
export interface EntryPlace {
  readonly segment: number
  readonly offset: number
  readonly length: number
}

/** The entries of a frame in `bytes`, which begin at `origin` of the segment. */
function* entriesOf(frame: Frame, bytes: Uint8Array): Generator<{ entry: Entry; at: number; length: number }> {
  const end = frame.body + frame.length
  for (let at = frame.body; at < end; ) {
    const length = recordLength(bytes, at, end)
    const stored = length === undefined ? undefined : decodeEntry(bytes.slice(at, at + length))
    if (length === undefined || stored === undefined) return
    yield { entry: stored.entry, at, length }
    at += length
  }
}

/** Follows what is written. What a crash takes away again stays until something takes its place. */
export class LogWatch {
  readonly #entries = new Map<number, Entry>()
  readonly #seeds = new Map<number, number>()
  /** Writes of frames so far. */
  writes = 0
  /** When set, writes of frames fail with it. */
  failure: Error | undefined

  entry(index: number): Entry | undefined {
    return this.#entries.get(index)
  }

  /** The same files, watched. */
  over(files: ExtentFiles): ExtentFiles {
    return {
      ...files,
      create: async (number, size) => this.#file(await files.create(number, size)),
      open: async (number, durable) => this.#file(await files.open(number, durable)),
    }
  }

  #file(file: ExtentFile): ExtentFile {
    const write = async (bytes: Uint8Array, offset: number): Promise<void> => {
      if (this.failure !== undefined && offset >= segmentHeaderBytes) throw this.failure
      this.#saw(file.number, bytes, offset)
      await file.write(bytes, offset)
    }
    return { ...file, write }
  }

  #saw(number: number, bytes: Uint8Array, offset: number): void {
    if (offset === 0 && bytes.length >= segmentHeaderBytes) {
      const seed = readSegmentHeader(bytes, number)
      if (seed === undefined) this.#seeds.delete(number)
      else this.#seeds.set(number, seed)
      return
    }
    const seed = this.#seeds.get(number)
    if (seed === undefined) return
    for (let at = 0; at < bytes.length; ) {
      const frame = readFrameHeader(bytes, at, seed, offset)
      if (frame === undefined) return
      this.writes++
      this.#take(frame, bytes)
      at = frame.end
    }
  }

  #take(frame: Frame, bytes: Uint8Array): void {
    for (const { entry } of entriesOf(frame, bytes)) this.#entries.set(entry.index, entry)
    let base = 0
    if (frame.kind === 'state') {
      base = decode(stateRecord, bytes.slice(frame.body, frame.body + frame.length)).base.index
    }
    if (frame.kind === 'note') return
    for (const index of this.#entries.keys()) if (index > frame.last || index <= base) this.#entries.delete(index)
  }
}

/** Where each entry lies that the disk knows to be synced. The node must not run. */
export function syncedEntries(disk: SimExtentDisk): ReadonlyMap<number, EntryPlace> {
  const frames: { frame: Frame; segment: number; bytes: Uint8Array }[] = []
  for (const segment of disk.numbers) {
    const bytes = disk.peek(segment)
    const seed = bytes === undefined ? undefined : readSegmentHeader(bytes, segment)
    if (bytes === undefined || seed === undefined) continue
    for (let at = segmentHeaderBytes; at < bytes.length; at += sectorBytes) {
      const frame = readFrameHeader(bytes, at, seed)
      if (frame !== undefined) frames.push({ frame, segment, bytes })
    }
  }
  frames.sort((a, b) => a.frame.sequence - b.frame.sequence)
  const watermark = frames.at(-1)?.frame.watermark ?? 0
  const places = new Map<number, EntryPlace>()
  for (const { frame, segment, bytes } of frames) {
    for (const { entry, at, length } of entriesOf(frame, bytes)) {
      if (entry.index <= watermark) places.set(entry.index, { segment, offset: at, length })
    }
  }
  return places
}
