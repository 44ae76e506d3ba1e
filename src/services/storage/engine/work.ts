/**
 * What runs on a disk and must be done before the disk is closed: changes, verifications, background work.
 *
 * Invariant: after `quiet` resolved, nothing that went through `run` touches the disk any more (the gate was closed first,
 * so nothing new begins).
 */

import type { DiskGate } from './types.ts'

export class Work {
  readonly #gate: DiskGate
  #running = 0
  #quiet: (() => void) | undefined

  constructor(gate: DiskGate) {
    this.#gate = gate
  }

  /** Runs `work` so that `close` waits for it. Throws DISK_FAILED or SHUTTING_DOWN when the disk takes no new work. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.#gate.check()
    this.#running++
    try {
      return await work()
    } finally {
      this.#running--
      if (this.#running === 0) this.#quiet?.()
    }
  }

  /** Resolves when nothing runs. */
  async quiet(): Promise<void> {
    if (this.#running === 0) return
    await new Promise<void>((resolve) => {
      this.#quiet = resolve
    })
  }
}
