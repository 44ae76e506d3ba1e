/**
 * What the scrub of a disk looks at before its pass goes on: chunks that somebody named, extents near a finding, and every
 * chunk that the index has in an extent that did not check out.
 *
 * The last is a sweep: one walk over the index for all such extents, a page at a time. It also meets what is in no extent
 * at all. Bounds: chunks, extents and pages as below; what does not fit is met by the pass.
 */

import { asStoreError } from '../../../model/errors.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { DiskParts } from './open.ts'
import type { Replicas } from './replicas.ts'
import type { ScrubWalk } from './scrub-walk.ts'
import type { DiskDeps, DiskGate } from './types.ts'

const chunksMax = 4096
export const suspectExtentsMax = 64
/** Index records looked at in one step of a sweep. */
const pageRecords = 256
/** Sweeps take at most this part of the time, so that a disk full of flaws is not only swept. */
const sweepShare = 0.1

/** An extent that is being walked. */
export interface Walking {
  readonly walk: ScrubWalk
  /** What the books said is of use in the extent when it began. */
  readonly liveBytes: number
}

export interface SuspectsParts {
  readonly path: string
  readonly deps: DiskDeps
  readonly parts: DiskParts
  readonly gate: DiskGate
  readonly replicas: Replicas
  /** Undefined when the extent is not in use any more. */
  beginWalk(extent: number): Walking | undefined
}

/** A walk over the index for what it has in flawed extents. */
interface Sweep {
  readonly extents: ReadonlySet<number>
  readonly startedMs: number
  from: ChunkId | undefined
  readonly queue: { id: ChunkId; length: number }[]
}

export class Suspects {
  readonly #p: SuspectsParts
  readonly #chunks = new Set<ChunkId>()
  readonly #extents = new Set<number>()
  readonly #flawed = new Set<number>()
  #side: Walking | undefined
  #sweep: Sweep | undefined
  #sweepAllowedMs = 0

  constructor(parts: SuspectsParts) {
    this.#p = parts
  }

  /** What waits to be looked at. */
  get size(): number {
    const walking = this.#side === undefined ? 0 : 1
    return this.#chunks.size + this.#extents.size + walking + this.#flawed.size + (this.#sweep?.extents.size ?? 0)
  }

  addChunk(id: ChunkId): void {
    if (this.#chunks.size < chunksMax) this.#chunks.add(id)
  }

  addExtent(extent: number): void {
    if (extent === this.#side?.walk.extent || this.#sweep?.extents.has(extent) === true) return
    if (this.#extents.size < suspectExtentsMax) this.#extents.add(extent)
  }

  /** A walk has ended. */
  walked(walk: ScrubWalk): void {
    if (walk.isFlawed(this.#p.parts.ledger.liveBytes(walk.extent))) this.#flawed.add(walk.extent)
  }

  /** One piece of work, with the bytes read; undefined when nothing is suspect. `last`: the pass waits for it to end. */
  async step(nowMs: number, last: boolean): Promise<number | undefined> {
    for (const id of this.#chunks) {
      this.#chunks.delete(id)
      await this.#verify(id)
      return limits.chunkBytesDefault
    }
    if (this.#sweep !== undefined) return this.#sweepStep(this.#sweep)
    if (this.#flawed.size > 0 && (nowMs >= this.#sweepAllowedMs || last)) {
      this.#beginSweep(this.#flawed)
      return 0
    }
    if (this.#side === undefined) {
      for (const extent of this.#extents) {
        this.#extents.delete(extent)
        this.#side = this.#p.beginWalk(extent)
        if (this.#side !== undefined) break
      }
    }
    const side = this.#side
    if (side === undefined) return undefined
    const bytes = await side.walk.step()
    if (side.walk.ended) {
      this.#side = undefined
      this.walked(side.walk)
    }
    return bytes
  }

  #beginSweep(flawed: Set<number>): void {
    const extents = new Set(flawed)
    flawed.clear()
    this.#sweep = { extents, startedMs: this.#p.deps.clock.monotonicMs(), from: 0, queue: [] }
    const named = [...extents].slice(0, 20).join(' ')
    this.#p.deps.log.warn('extents did not check out: looking at each chunk in them', {
      disk: this.#p.path,
      extents: named,
    })
  }

  async #sweepStep(sweep: Sweep): Promise<number> {
    const next = sweep.queue.shift()
    if (next !== undefined) {
      await this.#verify(next.id)
      return next.length
    }
    if (sweep.from === undefined) {
      const nowMs = this.#p.deps.clock.monotonicMs()
      this.#sweepAllowedMs = nowMs + (nowMs - sweep.startedMs) / sweepShare
      this.#sweep = undefined
      return 0
    }
    const page = await this.#p.parts.index.records(sweep.from, pageRecords)
    for (const { id, record } of page) {
      const place = record?.location.extent
      const there = place !== undefined && this.#p.parts.table.has(place) && !sweep.extents.has(place)
      if (!there) sweep.queue.push({ id, length: record?.length ?? 0 })
    }
    const last = page.at(-1)
    sweep.from = last === undefined || page.length < pageRecords ? undefined : last.id + 1
    return 0
  }

  async #verify(id: ChunkId): Promise<void> {
    try {
      await this.#p.replicas.verify(id)
    } catch (error) {
      if (this.#p.gate.failure !== undefined || this.#p.gate.closing) throw error
      const reason = asStoreError(error, 'scrub').message
      this.#p.deps.log.warn('a chunk could not be checked', { disk: this.#p.path, chunk: id, reason })
    }
  }
}
