/**
 * What the parts of the engine are given, and how they hear that the disk is finished.
 *
 * The gate is the one place that knows whether the disk serves: its state and why, and whether it is closing. A failed
 * disk stays failed: an fsync that failed is never believed and never tried again; a read-only one serves reads and takes
 * no more writes (docs/ARCHITECTURE.md, "The disk"; the rules are in src/core/health/disk.ts).
 */

import type { Damage } from '../../../core/chunk/recovery.ts'
import {
  type DiskFigures,
  DiskHealth,
  type DiskHealthTimes,
  diskHealthTimes,
  type IoKind,
  ioErrorClass,
} from '../../../core/health/disk.ts'
import type { DiskState } from '../../../model/words.ts'
import type { ScrubTargets } from '../../../core/chunk/scrub.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { Clock } from '../../../ports/clock.ts'
import type { Entropy } from '../../../ports/entropy.ts'
import type { ExtentFiles } from '../../../ports/extents.ts'
import type { Files } from '../../../ports/files.ts'
import type { Hasher } from '../../../ports/hasher.ts'
import type { KvFactory } from '../../../ports/kv.ts'
import type { Log } from '../../../ports/log.ts'
import type { Metrics } from '../../../ports/metrics.ts'

/** The world of one disk: everything is of its directory. */
export interface DiskDeps {
  readonly files: Files
  readonly extents: ExtentFiles
  readonly kv: KvFactory
  readonly hasher: Hasher
  readonly clock: Clock
  readonly entropy: Entropy
  readonly log: Log
  readonly metrics: Metrics
}

/** When and how fast the space of deleted chunks is given back. */
export interface CompactionOptions {
  /** An extent is compacted when less of it than this is of use; more is taken on when space gets short. */
  readonly liveRatio: number
  readonly bytesPerSecond: number
  /** A disk that no client uses for so long is tidied to within a tenth of its live bytes. */
  readonly idleMs: number
}

export interface DiskOptions {
  /** The directory, for messages. */
  readonly path: string
  /** The node that opens it: a disk of another node is refused. Left out by tools that only look. */
  readonly nodeId?: string
  /** Size of a new extent file; smaller ones are made when the disk is nearly full. */
  readonly extentBytes: number
  /** New chunks are refused when less than this would be left on the filesystem. */
  readonly reserveBytes: number
  /** Make the index anew from the log, whatever state it is in: for tools. */
  readonly rebuildIndex?: boolean
  /** Told what the start found in the log: for tools. */
  readonly onReplayed?: (found: { readonly groups: number; readonly damage: readonly Damage[] }) => void
  /** Memory for chunks on their way in; 64 MiB by default. */
  readonly arenaBytes?: number
  /** When and how fast deleted space is given back; the defaults of the configuration when left out. */
  readonly compaction?: CompactionOptions
  /** How everything is read and verified over and over; not `on`, or left out: only when somebody starts a pass. */
  readonly scrub?: ScrubTargets & { readonly on: boolean }
  /** Quiet time after which the closing watermark is written; 1 s by default. */
  readonly idleMs?: number
  /** Time between two probes; 10 s by default. */
  readonly probeMs?: number
  /** When an I/O is slow, and when it is given up; see diskHealthTimes. */
  readonly health?: DiskHealthTimes
  /** I/Os of this disk under way at once, so that a hung one leaves others their threads; no bound by default. */
  readonly ioAtOnce?: number
}

/** What the gate tells time by and counts with. Without them the disk has no health but failed or not. */
export interface GateWorld {
  readonly clock: Clock
  readonly metrics: Metrics
  readonly times?: DiskHealthTimes
}

/** Whether the disk serves. */
export class DiskGate {
  readonly #path: string
  readonly #world: GateWorld | undefined
  readonly #health: DiskHealth
  readonly #failMs: number
  /** True while an I/O that was given up has not returned. */
  hung: () => boolean = () => false
  #state: DiskState = 'ok'
  #reason = ''
  #failure: StoreError | undefined
  #refusal: StoreError | undefined
  #closing = false
  #handlers: ((reason: Error) => void)[] = []
  #healthHandlers: ((state: DiskState, reason: string) => void)[] = []

  constructor(path: string, world?: GateWorld) {
    this.#path = path
    this.#world = world
    this.#failMs = (world?.times ?? diskHealthTimes).failMs
    this.#health = new DiskHealth(world?.times)
  }

  /** Set when the disk failed: it is not touched any more. */
  get failure(): StoreError | undefined {
    return this.#failure
  }

  /** Set when the disk takes no writes any more: it failed or turned read-only. */
  get refusal(): StoreError | undefined {
    return this.#refusal
  }

  get closing(): boolean {
    return this.#closing
  }

  get state(): DiskState {
    return this.#state
  }

  /** One line; empty while the disk is ok. */
  get reason(): string {
    return this.#reason
  }

  get figures(): DiskFigures {
    return this.#health.figures(this.#nowMs())
  }

  #nowMs(): number {
    return this.#world?.clock.monotonicMs() ?? 0
  }

  startClosing(): void {
    this.#closing = true
  }

  /** Throws DISK_FAILED or SHUTTING_DOWN when the disk takes no new work. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#closing) throw new StoreError('SHUTTING_DOWN', `disk ${this.#path} is closing: use another replica`)
  }

  /** The same for work that writes: a read-only disk throws too. */
  checkWritable(): void {
    if (this.#refusal !== undefined) throw this.#refusal
    this.check()
  }

  /** An I/O came back after `ms`. */
  ioDone(kind: IoKind, ms: number): void {
    this.#health.done(kind, ms, this.#nowMs())
    this.look()
  }

  /** An I/O failed. `place` tells one spot of the disk from another. */
  ioError(kind: IoKind, error: unknown, place = ''): void {
    const found = ioErrorClass(error)
    this.#world?.metrics.count('holdfast_disk_errors_total', 'I/O errors of disks by kind of I/O.', 1, {
      path: this.#path,
      kind,
      error: found,
    })
    this.#health.error(kind, found, wordsOf(error), place, this.#nowMs())
    this.look(error)
  }

  /** An I/O in flight has been waiting for so long; true when it is to be given up. */
  ioWaiting(kind: IoKind, ms: number): boolean {
    this.#health.waiting(kind, ms, this.#nowMs())
    this.look()
    return ms >= this.#failMs
  }

  /** Takes over what the rules say now, and tells whoever wants to know. */
  look(cause?: unknown): void {
    const { state, reason } = this.#health.verdict(this.#nowMs())
    if (state === this.#state) {
      this.#reason = reason
      return
    }
    this.#state = state
    this.#reason = reason
    if (state === 'read-only') {
      const message = `disk ${this.#path} is read-only (${reason}): what it holds is served; write elsewhere`
      this.#refusal = new StoreError('DISK_FAILED', message, { cause })
    }
    if (state === 'failed') {
      // Only the index is called corrupt here: what it lost is in the log.
      const mendable = isStoreError(cause) && cause.code === 'CORRUPT'
      const advice = mendable
        ? 'restart the node, which rebuilds the index from the log'
        : 'replace the disk, its chunks are repaired elsewhere'
      const message = `disk ${this.#path} failed: ${reason}; ${advice}`
      const failure = new StoreError('DISK_FAILED', message, { cause })
      this.#failure = failure
      this.#refusal = failure
      for (const handler of this.#handlers.splice(0)) handler(failure)
    }
    for (const handler of this.#healthHandlers) handler(state, reason)
  }

  /** The disk is finished. The first cause counts; every later call gives the same error. */
  fail(doing: string, cause: unknown): StoreError {
    this.#health.fail(`${doing}: ${wordsOf(cause)}`)
    this.look(cause)
    return this.#failure as StoreError
  }

  /**
   * Something could not be written: gives what whoever waits for it is to be told. The disk is failed by it, unless it only
   * turned read-only, or the process lacked something and `doing` can be tried again by others.
   */
  stop(doing: 'writing' | 'syncing' | 'writing the index' | 'saving the index', cause: unknown): StoreError {
    if (this.#failure !== undefined) return this.#failure
    const found = ioErrorClass(cause)
    if (this.#refusal !== undefined && (cause === this.#refusal || found === 'read-only' || found === 'full')) {
      return this.#refusal
    }
    if (found === 'other' && doing === 'writing') {
      const message = `disk ${this.#path}: ${wordsOf(cause)}; raise the limits of this process, try again later`
      return new StoreError('OVERLOADED', message, { cause, details: { retryAfterMs: 1000 } })
    }
    return this.fail(doing, cause)
  }

  /** Called once, also when the disk failed before the handler was set. */
  onFailed(handler: (reason: Error) => void): void {
    if (this.#failure !== undefined) handler(this.#failure)
    else this.#handlers.push(handler)
  }

  /** Called after each change of the state. */
  onHealth(handler: (state: DiskState, reason: string) => void): void {
    this.#healthHandlers.push(handler)
  }
}

function wordsOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
