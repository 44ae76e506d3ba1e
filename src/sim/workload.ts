/** What the clients of a simulated run share: the keys they meet on, the values they store, the record of what they saw. */

import type { History } from './history.ts'
import type { Seeded } from './seed.ts'
import type { Values } from './values.ts'

export interface WorkloadOptions {
  readonly random: Seeded
  readonly bucket: string
  readonly keys: readonly string[]
  readonly copies: number
  readonly history: History
  readonly values: Values
  /** Virtual time without any process's skew. */
  readonly trueMs: () => number
  readonly onAcked: (key: string, version: number, etag: string) => void
}

/** A client that works until it is told to stop. */
export interface SimWorker {
  stopped: boolean
  /** Operations that ended well. */
  readonly done: number
  /** The last thing that did not work, for the trace. */
  readonly trouble: string
  /** Runs operations one after the other until `stopped`. */
  run(): Promise<void>
}
