/**
 * Room on the filesystem, as last seen: admission of new chunks and the size of new extents come from it.
 *
 * The figure is asked for again when it is old or when it would refuse, so a full disk comes back by itself and a refusal
 * never rests on an old figure. Does not promise that the room is there a moment later: other programs use the disk too.
 */

import type { Clock } from '../../../ports/clock.ts'
import type { ExtentFiles } from '../../../ports/extents.ts'

/** A figure older than this is asked for again. */
const freshMs = 1000

export class Space {
  readonly #extents: ExtentFiles
  readonly #clock: Clock
  #free = 0
  #total = 0
  #seenMs = Number.NEGATIVE_INFINITY
  #asking: Promise<void> | undefined

  constructor(extents: ExtentFiles, clock: Clock) {
    this.#extents = extents
    this.#clock = clock
  }

  get freeBytes(): number {
    return this.#free
  }

  get totalBytes(): number {
    return this.#total
  }

  get stale(): boolean {
    return this.#clock.monotonicMs() - this.#seenMs > freshMs
  }

  /** Asks the filesystem; callers at the same time share one question. */
  refresh(): Promise<void> {
    this.#asking ??= this.#ask().finally(() => {
      this.#asking = undefined
    })
    return this.#asking
  }

  async #ask(): Promise<void> {
    const { free, total } = await this.#extents.space()
    this.#free = free
    this.#total = total
    this.#seenMs = this.#clock.monotonicMs()
  }
}
