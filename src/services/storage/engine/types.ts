/**
 * What the parts of the engine are given, and how they hear that the disk is finished.
 *
 * The gate is the one place that knows whether the disk serves: open, closing, closed or failed. A failed disk stays
 * failed: an fsync that failed is never believed and never tried again (docs/ARCHITECTURE.md, "The disk").
 */

import { StoreError } from '../../../model/errors.ts'
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

export interface DiskOptions {
  /** The directory, for messages. */
  readonly path: string
  /** The node that opens it: a disk of another node is refused. Left out by tools that only look. */
  readonly nodeId?: string
  /** Size of a new extent file; smaller ones are made when the disk is nearly full. */
  readonly extentBytes: number
  /** New chunks are refused when less than this would be left on the filesystem. */
  readonly reserveBytes: number
  /** Memory for chunks on their way in; 64 MiB by default. */
  readonly arenaBytes?: number
  /** Quiet time after which the closing watermark is written; 1 s by default. */
  readonly idleMs?: number
}

/** Whether the disk serves. */
export class DiskGate {
  readonly #path: string
  #failure: StoreError | undefined
  #closing = false
  #handlers: ((reason: Error) => void)[] = []

  constructor(path: string) {
    this.#path = path
  }

  get failure(): StoreError | undefined {
    return this.#failure
  }

  get closing(): boolean {
    return this.#closing
  }

  startClosing(): void {
    this.#closing = true
  }

  /** Throws DISK_FAILED or SHUTTING_DOWN when the disk takes no new work. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#closing) throw new StoreError('SHUTTING_DOWN', `disk ${this.#path} is closing: use another replica`)
  }

  /** The disk is finished. The first cause counts; every later call gives the same error. */
  fail(doing: string, cause: unknown): StoreError {
    if (this.#failure !== undefined) return this.#failure
    const reason = cause instanceof Error ? cause.message : String(cause)
    const message = `disk ${this.#path} failed while ${doing}: ${reason}; replace the disk, its chunks are repaired elsewhere`
    const failure = new StoreError('DISK_FAILED', message, { cause })
    this.#failure = failure
    for (const handler of this.#handlers) handler(failure)
    this.#handlers = []
    return failure
  }

  /** Called once, also when the disk failed before the handler was set. */
  onFailed(handler: (reason: Error) => void): void {
    if (this.#failure !== undefined) handler(this.#failure)
    else this.#handlers.push(handler)
  }
}
