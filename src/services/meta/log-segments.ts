/**
 * The files of a Raft log: those with frames, in order of their numbers, and behind them the ones that come next.
 *
 * Space is made before it is needed: the next segment has its header when the active one fills up, and what compaction
 * frees becomes a later segment, so that appends overwrite blocks that the filesystem has written before. Growing a file
 * costs a commit of the filesystem's journal with each sync; overwriting does not. A new file is therefore filled with
 * zeros once, in the background. Sizes double from a small first segment, so that a small cluster stays small.
 * Invariants: numbers only rise; a file gets a new header with a new nonce before its first frame; a segment goes only when
 * nobody reads it, lowest number first, so that what is there is always without a hole.
 */

import { isStoreError, StoreError } from '../../model/errors.ts'
import type { Entropy } from '../../ports/entropy.ts'
import type { ExtentFile, ExtentFiles } from '../../ports/extents.ts'
import { nonceBytes, putSegmentHeader, readSegmentHeader, sectorBytes, segmentHeaderBytes } from './log-frames.ts'

export interface SegmentSizes {
  /** Bytes of the first segment; each next one has twice as many, up to `max`. */
  readonly first: number
  readonly max: number
}

const MiB = 1024 * 1024
export const defaultSegmentSizes: SegmentSizes = { first: MiB, max: 16 * MiB }

/** Files kept for later beyond the next one. */
const sparesMax = 4
/** Size of a segment on a full filesystem: enough for a while of deletes. */
const smallBytes = 64 * 1024
const fillBytes = 256 * 1024

export interface Segment {
  readonly number: number
  readonly file: ExtentFile
  /** Where the checksums of its frames begin. */
  readonly seed: number
}

interface Live extends Segment {
  readers: number
  /** Called when the last reader is done. */
  unread: () => void
}

/** A file as it was found: `seed` is undefined when it was never made the segment of its number. */
export interface FoundSegment {
  readonly number: number
  readonly file: ExtentFile
  readonly seed: number | undefined
}

export class Segments {
  readonly #files: ExtentFiles
  readonly #entropy: Entropy
  readonly #sizes: SegmentSizes
  readonly #header: Uint8Array
  readonly #live = new Map<number, Live>()
  /** Numbers of the files behind the active one that have no header yet, in order. */
  readonly #spares: number[] = []
  #next: Promise<Segment | undefined> = Promise.resolve(undefined)
  /** Changes of files, one after the other. */
  #work: Promise<unknown> = Promise.resolve()
  /** Of the segment that is written, and the highest of any file. */
  #active = 0
  #highest = 0

  constructor(files: ExtentFiles, entropy: Entropy, sizes: SegmentSizes) {
    this.#files = files
    this.#entropy = entropy
    this.#sizes = sizes
    this.#header = files.arena(segmentHeaderBytes)
  }

  arena(bytes: number): Uint8Array {
    return this.#files.arena(bytes)
  }

  /** All files in order, open. They are to be handed back to `settle`. */
  async find(): Promise<FoundSegment[]> {
    const out: FoundSegment[] = []
    for (const number of await this.#files.list()) {
      const file = await this.#files.open(number, true)
      const head = new Uint8Array(segmentHeaderBytes)
      const count = await file.read(head, 0)
      out.push({ number, file, seed: readSegmentHeader(head.subarray(0, count), number) })
    }
    return out
  }

  /**
   * The first `live` of the found files hold the log; the rest is for later. What a roll that did not finish may have left
   * there is made unreadable before anything new is written.
   */
  async settle(found: readonly FoundSegment[], live: number): Promise<void> {
    for (const [position, { number, file, seed }] of found.entries()) {
      if (position < live && seed !== undefined) {
        this.#adopt({ number, file, seed })
        continue
      }
      if (seed !== undefined) {
        this.#header.fill(0)
        await writeThrough(file, this.#header, 0)
      }
      await file.close()
      if (number === this.#highest + 1) this.#addSpare(number)
      else await this.#files.remove(number)
    }
    this.prepare()
  }

  /** Makes the sectors at `offsets` unreadable, and has all that was written to the file on disk. */
  async erase({ file }: Pick<Segment, 'file'>, offsets: readonly number[]): Promise<void> {
    const zeros = this.#header.fill(0).subarray(0, sectorBytes)
    for (const offset of offsets) await file.write(zeros, offset)
    await file.sync()
  }

  #adopt(segment: Segment): Segment {
    this.#live.set(segment.number, { ...segment, readers: 0, unread: () => undefined })
    this.#active = segment.number
    this.#highest = Math.max(this.#highest, segment.number)
    return segment
  }

  #addSpare(number: number): void {
    this.#spares.push(number)
    this.#highest = number
  }

  /** Removes every file. */
  async clear(): Promise<void> {
    for (const number of await this.#files.list()) await this.#files.remove(number)
  }

  /** The segment after the active one, with room for `bytes` of frames. From now on it is the active one. */
  async next(bytes: number): Promise<Segment> {
    const number = this.#active + 1
    let segment = await this.#next
    this.#next = Promise.resolve(undefined)
    if (segment !== undefined && segment.file.size < segmentHeaderBytes + bytes) {
      await segment.file.close()
      segment = undefined
    }
    segment ??= await this.#exclusive(() => this.#makeNow(number, segmentHeaderBytes + bytes))
    this.#adopt(segment)
    this.prepare()
    return segment
  }

  /** Makes the next segment in the background, unless it is there. */
  prepare(): void {
    const before = this.#next
    this.#next = this.#exclusive(async () => {
      const there = await before
      if (there !== undefined) return there
      try {
        return await this.#make(this.#active + 1, 0)
      } catch (error) {
        // Not needed yet: it is tried again when it is, and fails the write then.
        if (isStoreError(error) && error.code === 'NO_SPACE') return undefined
        throw error
      }
    })
    this.#next.catch(() => undefined)
  }

  #exclusive<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#work.then(task)
    this.#work = run.catch(() => undefined)
    return run
  }

  #sizeOf(number: number): number {
    return Math.min(this.#sizes.max, this.#sizes.first * 2 ** Math.min(number - 1, 30))
  }

  /** A segment that a frame waits for: a small one when the filesystem has no room for more, out of what the reserve left. */
  async #makeNow(number: number, bytesMin: number): Promise<Segment> {
    try {
      return await this.#make(number, bytesMin)
    } catch (error) {
      if (!isStoreError(error) || error.code !== 'NO_SPACE') throw error
      return await this.#make(number, bytesMin, smallBytes)
    }
  }

  /** File `number` with a new header, out of a spare one when that is large enough. */
  async #make(number: number, bytesMin: number, usual = this.#sizeOf(number)): Promise<Segment> {
    if (this.#spares[0] === number) this.#spares.shift()
    const unit = Math.min(usual, fillBytes)
    const size = bytesMin <= usual ? usual : Math.ceil(bytesMin / unit) * unit
    const there = await this.#files.sizeOf(number)
    if (there !== undefined && there < size) await this.#files.remove(number)
    if (there === undefined || there < size) await this.#create(number, size)
    this.#highest = Math.max(this.#highest, number)
    const file = await this.#files.open(number, true)
    const nonce = this.#entropy.bytes(nonceBytes)
    putSegmentHeader(this.#header, number, nonce)
    await writeThrough(file, this.#header, 0)
    const seed = readSegmentHeader(this.#header, number)
    if (seed === undefined) throw new StoreError('INTERNAL', `make raft log segment ${number}: its header is not one`)
    return { number, file, seed }
  }

  async #create(number: number, size: number): Promise<void> {
    const file = await this.#files.create(number, size)
    try {
      const zeros = this.#files.arena(Math.min(size, fillBytes))
      for (let at = 0; at < size; at += zeros.length) {
        await file.write(zeros.subarray(0, Math.min(zeros.length, size - at)), at)
      }
      await file.sync()
    } finally {
      await file.close()
    }
  }

  /** Fills `into` from a segment with frames; resolves to the bytes read, none when it is gone. */
  async read(number: number, into: Uint8Array, offset: number): Promise<number> {
    const live = this.#live.get(number)
    if (live === undefined) return 0
    live.readers++
    try {
      return await live.file.read(into, offset)
    } finally {
      live.readers--
      if (live.readers === 0) live.unread()
    }
  }

  /** Nothing below segment `number` is needed any more. */
  release(number: number): Promise<void> {
    const gone = [...this.#live.values()].filter((live) => live.number < number)
    for (const live of gone) this.#live.delete(live.number)
    if (gone.length === 0) return Promise.resolve()
    return this.#exclusive(async () => {
      for (const live of gone) await this.#recycle(live)
    }).then(() => this.prepare())
  }

  async #recycle(live: Live): Promise<void> {
    if (live.readers > 0) {
      await new Promise<void>((resolve) => {
        live.unread = resolve
      })
    }
    await live.file.close()
    const number = this.#highest + 1
    const fits = live.file.size >= this.#sizeOf(number)
    if (!fits || this.#spares.length >= sparesMax) {
      await this.#files.remove(live.number)
      return
    }
    await this.#files.rename(live.number, number)
    this.#addSpare(number)
  }

  async close(): Promise<void> {
    await this.#work
    const next = await this.#next.catch(() => undefined)
    await next?.file.close()
    for (const { file } of this.#live.values()) await file.close()
    this.#live.clear()
  }
}

/** Writes and syncs. */
export async function writeThrough(file: ExtentFile, bytes: Uint8Array, offset: number): Promise<void> {
  await file.write(bytes, offset)
  if (file.durable !== true) await file.sync()
}
