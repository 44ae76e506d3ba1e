/**
 * Reads of the state that take a while, and the chunks that changed while they ran: what was read of those is out of date
 * by the time it is looked at.
 */

import type { ChunkId } from '../../../model/ids.ts'

export interface Reading {
  /** True when the chunk changed since: what was read of it may be out of date, and it is looked at anyway. */
  overtaken(chunk: ChunkId): boolean
  end(): void
}

export class Readings {
  readonly #max: number
  readonly #lookAgain: (chunk: ChunkId) => void
  readonly #running = new Set<Set<ChunkId>>()

  /** At most `max` changes are kept for each read; beyond it, every chunk that it asks about is looked at again. */
  constructor(max: number, lookAgain: (chunk: ChunkId) => void) {
    this.#max = max
    this.#lookAgain = lookAgain
  }

  begin(): Reading {
    const changed = new Set<ChunkId>()
    this.#running.add(changed)
    return {
      overtaken: (chunk) => {
        // More changes than are kept: any chunk may be one of them.
        if (changed.size > this.#max) this.#lookAgain(chunk)
        return changed.size > this.#max || changed.has(chunk)
      },
      end: () => void this.#running.delete(changed),
    }
  }

  changed(chunk: ChunkId): void {
    for (const changed of this.#running) if (changed.size <= this.#max) changed.add(chunk)
  }
}
