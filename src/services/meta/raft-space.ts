/**
 * Watches the free space of the filesystem that holds log and state (docs/RULES.md, rule 17). Asked for now and then, not
 * at each write: the reserve is far larger than what is written in between.
 */

import type { Files } from '../../ports/files.ts'
import type { Log } from '../../ports/log.ts'
import { asStoreError } from '../../model/errors.ts'

/** Low space ends when this share of the reserve is free on top of it, so that it does not flap. */
const recoveredShare = 1 / 8

export class SpaceWatch {
  readonly #files: Files
  readonly #log: Log
  readonly #reserveBytes: number
  #asking = false
  #low = false

  constructor(files: Files, log: Log, reserveBytes: number) {
    this.#files = files
    this.#log = log
    this.#reserveBytes = reserveBytes
  }

  /** Less is free than the reserve. */
  get low(): boolean {
    return this.#low
  }

  /** Looks at the filesystem; resolves when `low` is up to date. Never rejects. */
  async look(): Promise<void> {
    if (this.#asking || this.#reserveBytes === 0) return
    this.#asking = true
    try {
      const free = await this.#files.freeBytes()
      const low = free < this.#reserveBytes * (this.#low ? 1 + recoveredShare : 1)
      if (low !== this.#low) {
        const event = low ? 'the filesystem is almost full: growth is refused' : 'the filesystem has space again'
        this.#log[low ? 'warn' : 'info'](event, { freeBytes: free, reserveBytes: this.#reserveBytes })
      }
      this.#low = low
    } catch (error) {
      this.#log.warn('free space is not known', { reason: asStoreError(error, 'read the free space').message })
    } finally {
      this.#asking = false
    }
  }
}
