/**
 * Gives the space of deleted chunks back: what is still of use in an extent is appended to the log again, and the empty
 * extent is recycled. When and which: core/chunk/compaction.ts; how fast: core/chunk/pace.ts.
 *
 * Invariants: nothing here recycles, an extent goes when a checkpoint covers what emptied it and no reader is in it
 * (docs/RULES.md, rule 5); an extent that hides older copies of deleted chunks is looked through before it goes; one extent
 * at a time; it ends at once on close and on failure. The moves themselves: mover.ts.
 */

import { liveRatioWanted, pressureOf, type Room } from '../../../core/chunk/compaction.ts'
import { Pace } from '../../../core/chunk/pace.ts'
import { asStoreError, isStoreError } from '../../../model/errors.ts'
import type { Timer } from '../../../ports/clock.ts'
import { Mover, type MoverParts } from './mover.ts'
import type { CompactionOptions, DiskGate } from './types.ts'
import type { Work } from './work.ts'

/** After a change that makes an extent worth compacting: its next deletes may come in a moment and save moves. */
const settleMs = 5000
/** From this pressure on space is what clients need most. */
const pressedFrom = 0.9
export const compactionDefaults: CompactionOptions = {
  liveRatio: 0.5,
  bytesPerSecond: 64 * 1024 * 1024,
  idleMs: 300_000,
}

/** A full disk and a crowded arena are expected: it is tried again. */
function isPassing(error: unknown): boolean {
  return isStoreError(error) && (error.code === 'NO_SPACE' || error.code === 'OVERLOADED')
}

export interface CompactorParts extends MoverParts {
  readonly options: CompactionOptions
  readonly gate: DiskGate
  readonly work: Work
  /** Space of the disk; `writable` is what moves may take. */
  readonly room: () => Room
}

export class Compactor {
  readonly #parts: CompactorParts
  readonly #pace: Pace
  readonly #mover: Mover
  readonly #stopped = new AbortController()
  #running = false
  #timer: Timer | undefined
  #timerMs = 0
  #wake: (() => void) | undefined

  constructor(parts: CompactorParts) {
    this.#parts = parts
    this.#pace = new Pace(parts.options.bytesPerSecond, this.#nowMs())
    this.#mover = new Mover(parts, {
      signal: this.#stopped.signal,
      over: () => this.#over,
      allow: (bytes) => this.#allow(bytes),
      moved: (bytes) => this.#show(bytes, 1),
      failed: (error) => this.#failed(error),
    })
    parts.disk.ledger.onBooked(() => this.look())
    // What stopped for want of room goes on when there is some, also on a disk that nobody writes to.
    parts.disk.table.onFreed(() => this.look())
    this.#show(0, 0)
  }

  #nowMs(): number {
    return this.#parts.deps.clock.monotonicMs()
  }

  /** A client's operation begins or ends; with `ms`: a write that took so long. */
  client(ms?: number): void {
    this.#pace.client(this.#nowMs())
    if (ms !== undefined) this.#pace.took(ms)
  }

  /** Ends what runs; whoever waits for the disk's work sees it end. */
  stop(): void {
    this.#stopped.abort()
    this.#timer?.cancel()
    this.#timer = undefined
    this.#wake?.()
  }

  get #over(): boolean {
    return this.#stopped.signal.aborted || this.#parts.gate.refusal !== undefined || this.#parts.gate.closing
  }

  /** Something changed: starts now, or later, or sees that there is nothing to do. */
  look(): void {
    if (this.#running || this.#over) return
    const { ranking } = this.#parts.disk.ledger
    if (this.#parts.disk.checkpointer.unsettled !== undefined) return this.#start()
    if (this.#pick() !== undefined) {
      if (this.#pressure() >= pressedFrom) this.#start()
      else this.#startIn(settleMs)
    } else if (ranking.untidy && this.#idleInMs() > 0) this.#startIn(this.#idleInMs())
  }

  #idleInMs(): number {
    return Math.max(0, this.#parts.options.idleMs - this.#pace.quietMs(this.#nowMs()))
  }

  #startIn(ms: number): void {
    const dueMs = this.#nowMs() + ms
    if (this.#timer !== undefined && this.#timerMs <= dueMs) return
    this.#timer?.cancel()
    this.#timerMs = dueMs
    this.#timer = this.#parts.deps.clock.after(ms, () => {
      this.#timer = undefined
      this.#start()
    })
  }

  #pressure(): number {
    return pressureOf(this.#parts.room())
  }

  #pick(): number | undefined {
    const { ledger, checkpointer } = this.#parts.disk
    const idle = ledger.ranking.untidy && this.#idleInMs() === 0
    const ratio = liveRatioWanted(this.#parts.options.liveRatio, this.#pressure(), idle)
    return ledger.ranking.pick(ratio, this.#parts.room().writable, checkpointer.position.extent)
  }

  #start(): void {
    if (this.#running || this.#over) return
    this.#running = true
    let again = settleMs
    this.#parts.work
      .run(() => this.#run())
      .then(
        () => {
          again = 0
        },
        (error: unknown) => this.#failed(error),
      )
      .finally(() => {
        this.#running = false
        this.#show(0, 0)
        if (this.#over) return
        if (again > 0) this.#startIn(again)
        else this.look()
      })
  }

  #failed(error: unknown): void {
    if (this.#over) return
    const { code, message } = asStoreError(error, 'compact')
    if (isPassing(error)) return
    this.#parts.deps.log.warn('compaction met a failure', {
      disk: this.#parts.path,
      code,
      reason: message,
    })
  }

  async #run(): Promise<void> {
    const { checkpointer, ledger } = this.#parts.disk
    while (!this.#over) {
      const empty = checkpointer.unsettled
      if (empty !== undefined) {
        await this.#settle(empty)
        continue
      }
      const next = this.#pick()
      if (next === undefined) return
      try {
        await this.#compact(next)
      } catch (error) {
        if (this.#over || isPassing(error)) throw error
        this.#failed(error)
      }
      // What could not be emptied now is left until its figures change, so that it does not keep the others waiting.
      if (!this.#over && ledger.liveBytes(next) > 0) ledger.ranking.setAside(next)
    }
  }

  /** An empty extent: what it hides is said again, then it may go. Without room for that it goes all the same. */
  async #settle(extent: number): Promise<void> {
    const { table, checkpointer } = this.#parts.disk
    const held = await table.hold(extent).catch(() => undefined)
    try {
      if (held !== undefined && !(await this.#mover.walk(held))) return
    } catch (error) {
      if (this.#over) return
      this.#failed(error)
    } finally {
      held?.release()
    }
    checkpointer.settled(extent)
  }

  async #compact(extent: number): Promise<void> {
    const { table, ledger, checkpointer } = this.#parts.disk
    const held = await table.hold(extent).catch(() => undefined)
    if (held === undefined) return ledger.ranking.setAside(extent)
    try {
      if (!(await this.#mover.walk(held))) return
      if (ledger.liveBytes(extent) > ledger.pinnedBytes(extent)) await this.#mover.search(held)
      if (this.#over || ledger.liveBytes(extent) > 0) return
      this.#parts.deps.metrics.count('holdfast_disk_compaction_extents_total', 'Extents emptied by compaction.')
      checkpointer.settled(extent)
    } finally {
      held.release()
    }
  }

  /** Waits until `bytes` may be read and written. False when it is over. */
  async #allow(bytes: number): Promise<boolean> {
    const waitMs = this.#pace.take(bytes, this.#nowMs(), this.#pressure() >= pressedFrom)
    if (waitMs > 0 && !this.#over) {
      await new Promise<void>((resolve) => {
        const timer = this.#parts.deps.clock.after(waitMs, resolve)
        this.#wake = () => {
          timer.cancel()
          resolve()
        }
      })
      this.#wake = undefined
    }
    return !this.#over
  }

  #show(bytes: number, chunks: number): void {
    const { metrics } = this.#parts.deps
    const { ranking } = this.#parts.disk.ledger
    const labels = { disk: this.#parts.path }
    metrics.count(
      'holdfast_disk_compaction_bytes_total',
      'Bytes moved to give the space of deleted chunks back.',
      bytes,
    )
    metrics.count('holdfast_disk_compaction_chunks_total', 'Chunks moved by compaction.', chunks)
    if (bytes > 0) return
    const backlog = 'Bytes of deleted chunks in extents that are in use.'
    metrics.gauge('holdfast_disk_compaction_backlog_bytes', backlog, ranking.deadBytes, labels)
    const pinned = 'Bytes of extents that are kept because a part of them is quarantined.'
    metrics.gauge('holdfast_disk_pinned_bytes', pinned, ranking.pinnedBytes, labels)
  }
}
