/**
 * The scrub of one disk: reads everything that is of use on it, again and again, at the rate that its period asks for.
 *
 * One step at a time (one window, one chunk, one page of the index), then a pause by core/chunk/scrub.ts. Suspects come
 * first (scrub-suspects.ts). Then the pass goes on in the order of extents, up to the one that was written when it began. Its cursor is kept in the
 * index after each extent; a pass that was cut off goes on at the start of the extent it was in.
 *
 * Findings are dealt with by `replicas`: quarantined, kept, reported.
 */

import {
  debtMs,
  neededRate,
  pauseMs,
  RateMeter,
  restMs,
  type ScrubCursor,
  scrubRate,
  type ScrubTargets,
} from '../../../core/chunk/scrub.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { asStoreError } from '../../../model/errors.ts'
import type { ChunkId } from '../../../model/ids.ts'
import type { Timer } from '../../../ports/clock.ts'
import type { ScrubStatus } from '../types.ts'
import type { DiskParts } from './open.ts'
import type { Replicas } from './replicas.ts'
import { Suspects, suspectExtentsMax, type Walking } from './scrub-suspects.ts'
import { ScrubWalk, type WalkParts } from './scrub-walk.ts'
import type { DiskDeps, DiskGate } from './types.ts'
import type { Work } from './work.ts'

/** A node that just started has better things to do. */
const firstStepMs = 10_000
/** A disk that takes no writes is looked at again after this. */
const refusedMs = 60_000
/** Notes about extents that are told with the status. */
const notesMax = 16
const rateSpanMs = 60_000
/** A pause that nobody ended ends by itself. */
const pauseEndsMs = 24 * 60 * 60 * 1000
/** Pause after a step that read no extent. */
const emptyStepMs = 10

export interface ScrubberParts {
  readonly path: string
  readonly deps: DiskDeps
  readonly parts: DiskParts
  readonly gate: DiskGate
  readonly sum: Sum
  readonly work: Work
  readonly replicas: Replicas
  /** Not `on`, or undefined: nothing is scrubbed by itself, only when somebody starts a pass. */
  readonly options: (ScrubTargets & { readonly on: boolean }) | undefined
  /** True while clients use the disk, or did a moment ago. */
  busy(): boolean
}

/** What a step did; `urgent`: it was not the pass's turn. */
interface Done {
  readonly bytes: number
  readonly urgent: boolean
}
/** Nothing to do for so long; undefined: until somebody asks. */
interface Idle {
  readonly waitMs: number | undefined
}

const targetsDefault: ScrubTargets = { periodMs: 7 * 24 * 60 * 60 * 1000, rateMin: 1 << 20, rateMax: 128 << 20 }

export class Scrubber {
  readonly #p: ScrubberParts
  readonly #targets: ScrubTargets
  readonly #on: boolean
  readonly #walkParts: WalkParts
  readonly #meter = new RateMeter(rateSpanMs)
  readonly #notes = new Map<number, string>()
  #cursor: ScrubCursor = emptyCursor
  /** Extents of the pass that are left, in order. */
  #left: number[] = []
  readonly #suspects: Suspects
  #walk: Walking | undefined
  #pausedUntilMs = 0
  #timer: Timer | undefined
  #stepping = false
  /** The pass is looking at its extent: what it finds there is no reason to look again. */
  #walkStepping = false
  #again = false
  #stopped = false

  constructor(parts: ScrubberParts) {
    this.#p = parts
    this.#targets = parts.options ?? targetsDefault
    this.#on = parts.options?.on === true
    const { table, index } = parts.parts
    const { replicas, sum } = parts
    this.#walkParts = {
      table,
      index,
      sum,
      verifier: replicas.verifier,
      replicas,
      onHeader: (extent, finding) => this.#note(extent, finding),
    }
    this.#suspects = new Suspects({
      path: parts.path,
      deps: parts.deps,
      parts: parts.parts,
      gate: parts.gate,
      replicas,
      beginWalk: (extent) => this.#beginWalk(extent),
    })
    replicas.onSuspect = (extent) => {
      // What the pass finds in its extent is no reason to look at the extent again.
      if (!this.#walkStepping || extent !== this.#walk?.walk.extent) this.#suspects.addExtent(extent)
    }
    this.#countRead(0)
  }

  /** Takes up the pass that was under way when the disk was closed. */
  async start(): Promise<void> {
    const { index } = this.#p.parts
    this.#cursor = (await index.scrubCursor()) ?? emptyCursor
    for (const { extent } of await index.quarantines(suspectExtentsMax)) this.#suspects.addExtent(extent)
    if (this.#cursor.running) this.#takeUp()
    if (this.#on || this.#cursor.hurried) this.#arm(firstStepMs)
  }

  /** Begins a pass now, as fast as is allowed; one that is under way begins again. */
  startPass(): void {
    this.#pausedUntilMs = 0
    this.#beginPass(true)
    this.#kick()
  }

  /** Rests until `resume`, or for a day. */
  pause(): void {
    this.#pausedUntilMs = this.#p.deps.clock.monotonicMs() + pauseEndsMs
    this.#meter.reset()
    this.#kick()
  }

  resume(): void {
    this.#pausedUntilMs = 0
    this.#kick()
  }

  /** Looks at this chunk first. */
  suspect(id: ChunkId): void {
    this.#suspects.addChunk(id)
    this.#kick()
  }

  #note(extent: number, finding: string): void {
    this.#p.deps.log.error('an extent is damaged', { disk: this.#p.path, extent, finding })
    if (this.#notes.size < notesMax || this.#notes.has(extent)) this.#notes.set(extent, finding)
  }

  status(): ScrubStatus {
    const { deps, replicas } = this.#p
    const { pass, startedMs, finishedMs, scannedBytes, totalBytes, running } = this.#cursor
    const scanned = Math.min(totalBytes, scannedBytes + this.#walkedBytes())
    const nowMs = deps.clock.wallMs()
    const state = { startedMs, remainingBytes: totalBytes - scanned }
    const paused = this.#pausedUntilMs > deps.clock.monotonicMs()
    const needed = neededRate(state, nowMs, this.#targets.periodMs)
    const rate = paused ? 0 : (this.#meter.rate ?? 0)
    const debt = running ? debtMs(state, nowMs, rate > 0 ? rate : needed, this.#targets.periodMs) : 0
    const active = this.#on || running
    return {
      state: !active ? 'off' : paused ? 'paused' : running ? 'running' : 'resting',
      pass,
      scannedBytes: scanned,
      totalBytes,
      rateBytesPerSecond: running ? Math.round(rate) : 0,
      debtSeconds: Math.ceil(debt / 1000),
      startedMs,
      finishedMs,
      findings: replicas.found,
      healed: replicas.healed,
      suspects: this.#suspects.size,
      direct: deps.extents.mode === 'direct',
      notes: [...this.#notes].map(([extent, finding]) => `extent ${extent}: ${finding}`),
    }
  }

  #walkedBytes(): number {
    const current = this.#walk
    return current === undefined ? 0 : Math.min(current.liveBytes, current.walk.seenBytes)
  }

  /** No step begins any more. */
  stop(): void {
    this.#stopped = true
    this.#timer?.cancel()
    this.#timer = undefined
  }

  /** Keeps the cursor; after the last step. */
  async save(): Promise<void> {
    if (this.#cursor.pass > 0) await this.#p.parts.index.saveScrubCursor(this.#cursor)
  }

  #kick(): void {
    if (this.#stepping) this.#again = true
    else this.#arm(0)
  }

  #arm(delayMs: number): void {
    if (this.#stopped) return
    this.#timer?.cancel()
    this.#timer = this.#p.deps.clock.after(delayMs, () => {
      this.#timer = undefined
      this.#run().catch((error: unknown) => {
        this.#p.deps.log.error('the scrub stopped by a bug', { disk: this.#p.path, reason: String(error) })
      })
    })
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#p.deps
    this.#stepping = true
    this.#again = false
    let waitMs: number | undefined
    try {
      const startMs = clock.monotonicMs()
      // What the rest needs is asked before it shrinks: the last window takes its share of the time like the others.
      const neededMin = this.#needed()
      const step = await this.#p.work.run(() => this.#step())
      waitMs = 'bytes' in step ? this.#paceOf(step, startMs, neededMin) : step.waitMs
    } catch (error) {
      // A disk that failed or closes is scrubbed no more; anything else is tried again.
      if (this.#p.gate.failure === undefined && !this.#p.gate.closing) {
        log.warn('the scrub could not go on', { disk: this.#p.path, reason: asStoreError(error, 'scrub').message })
        waitMs = firstStepMs
      }
    }
    this.#stepping = false
    if (waitMs !== undefined || this.#again) this.#arm(this.#again ? 0 : (waitMs ?? 0))
  }

  #paceOf({ bytes, urgent }: Done, startMs: number, neededMin: number): number {
    const { clock } = this.#p.deps
    const nowMs = clock.monotonicMs()
    this.#countRead(bytes)
    const { hurried, running } = this.#cursor
    if (running && !urgent) this.#meter.add(bytes, nowMs)
    if (bytes === 0) return emptyStepMs
    const busy = this.#p.busy()
    const needed = Math.max(neededMin, this.#needed())
    const rate = scrubRate(this.#targets, needed, { busy, hurried: hurried || urgent })
    return pauseMs(bytes, nowMs - startMs, rate, busy)
  }

  /** Bytes per second that the pass needs from here on. */
  #needed(): number {
    const { startedMs, totalBytes, scannedBytes } = this.#cursor
    const remainingBytes = Math.max(0, totalBytes - scannedBytes - this.#walkedBytes())
    return neededRate({ startedMs, remainingBytes }, this.#p.deps.clock.wallMs(), this.#targets.periodMs)
  }

  #countRead(bytes: number): void {
    this.#p.deps.metrics.count('holdfast_scrub_read_bytes_total', 'Bytes read from disk by the scrub.', bytes)
  }

  /** One piece of work. */
  async #step(): Promise<Done | Idle> {
    const nowMs = this.#p.deps.clock.monotonicMs()
    // Nothing could be written down of what is found.
    if (this.#p.gate.refusal !== undefined) return { waitMs: refusedMs }
    if (this.#pausedUntilMs > nowMs) return { waitMs: this.#pausedUntilMs - nowMs }
    const bytes = await this.#suspects.step(nowMs, this.#left.length === 0)
    return bytes === undefined ? this.#passStep() : { bytes, urgent: true }
  }

  async #passStep(): Promise<Done | Idle> {
    if (!this.#cursor.running) {
      if (!this.#on) return { waitMs: undefined }
      const { pass, startedMs } = this.#cursor
      const dueMs = pass === 0 ? 0 : restMs(startedMs, this.#p.deps.clock.wallMs(), this.#targets.periodMs)
      if (dueMs > 0) return { waitMs: dueMs }
      this.#beginPass(false)
    }
    const extent = this.#left[0]
    if (extent === undefined) {
      await this.#finishPass()
      return { bytes: 0, urgent: false }
    }
    if (this.#walk === undefined) {
      this.#cursor = { ...this.#cursor, extent }
      this.#walk = this.#beginWalk(extent)
    }
    const walking = this.#walk
    if (walking === undefined) {
      await this.#extentDone(0)
      return { bytes: 0, urgent: false }
    }
    this.#walkStepping = true
    const bytes = await walking.walk.step().finally(() => {
      this.#walkStepping = false
    })
    // Unless somebody began another pass meanwhile.
    if (this.#walk === walking && walking.walk.ended) {
      this.#walk = undefined
      this.#suspects.walked(walking.walk)
      await this.#extentDone(walking.liveBytes)
    }
    return { bytes, urgent: false }
  }

  #beginPass(hurried: boolean): void {
    const { pass, finishedMs } = this.#cursor
    const until = this.#p.parts.checkpointer.position.extent
    const startedMs = this.#p.deps.clock.wallMs()
    this.#cursor = {
      pass: pass + 1,
      startedMs,
      finishedMs,
      running: true,
      hurried,
      extent: 0,
      until,
      scannedBytes: 0,
      totalBytes: 0,
    }
    this.#walk = undefined
    this.#meter.reset()
    this.#takeUp()
    this.#p.deps.log.info('scrub pass begins', { disk: this.#p.path, pass: pass + 1, bytes: this.#cursor.totalBytes })
  }

  /** What is left of the pass at its cursor, and how much that is. */
  #takeUp(): void {
    const { table, ledger } = this.#p.parts
    const { extent, until, scannedBytes } = this.#cursor
    this.#left = table.sequences(extent, until)
    let bytes = scannedBytes
    for (const sequence of this.#left) bytes += ledger.liveBytes(sequence)
    this.#cursor = { ...this.#cursor, totalBytes: bytes }
  }

  async #finishPass(): Promise<void> {
    const { deps, path } = this.#p
    const finishedMs = deps.clock.wallMs()
    const { pass, startedMs, totalBytes } = this.#cursor
    this.#cursor = { ...this.#cursor, running: false, hurried: false, finishedMs, scannedBytes: totalBytes }
    this.#meter.reset()
    await this.save()
    deps.metrics.count('holdfast_scrub_passes_total', 'Full passes of the scrub over a disk.')
    const seconds = Math.round(Math.max(0, finishedMs - startedMs) / 1000)
    deps.log.info('scrub pass done', { disk: path, pass, bytes: totalBytes, seconds, findings: this.#p.replicas.found })
  }

  /** Undefined when the extent is not in use any more. */
  #beginWalk(extent: number): Walking | undefined {
    const { table, ledger, checkpointer } = this.#p.parts
    const { position } = checkpointer
    if (!table.has(extent) || extent > position.extent) return undefined
    const liveBytes = ledger.liveBytes(extent)
    const bound = extent === position.extent ? { limit: position.offset } : { expectedBytes: liveBytes }
    this.#notes.delete(extent)
    return { walk: new ScrubWalk(this.#walkParts, extent, bound), liveBytes }
  }

  async #extentDone(liveBytes: number): Promise<void> {
    this.#left.shift()
    const { scannedBytes, totalBytes } = this.#cursor
    const extent = this.#left[0] ?? this.#cursor.until + 1
    this.#cursor = { ...this.#cursor, extent, scannedBytes: Math.min(totalBytes, scannedBytes + liveBytes) }
    await this.save()
  }
}

const emptyCursor: ScrubCursor = {
  pass: 0,
  startedMs: 0,
  finishedMs: 0,
  running: false,
  hurried: false,
  extent: 0,
  until: 0,
  scannedBytes: 0,
  totalBytes: 0,
}
