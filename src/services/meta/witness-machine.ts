/**
 * What a witness has in place of the metadata state (docs/RULES.md, rule 8): the index up to which it has seen entries
 * committed, and nothing else. It needs no store: at a start, what the log knows to be committed counts as applied, and a
 * snapshot is a mark without pieces.
 */

import { StoreError } from '../../model/errors.ts'
import type { AppliedEntry, AppliedReply, StateMachine } from './types.ts'

export class WitnessMachine implements StateMachine {
  #index: number

  constructor(index: number) {
    this.#index = index
  }

  appliedIndex(): number {
    return this.#index
  }

  durableIndex(): number {
    return this.#index
  }

  /** Nobody waits for a reply of a witness. */
  async apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]> {
    this.#index = entries.at(-1)?.index ?? this.#index
    return []
  }

  digest(): number {
    return 0
  }

  snapshot(): never {
    throw new StoreError('INTERNAL', 'take a snapshot: a witness has no state and never leads')
  }

  async install(
    index: number,
    _term: number,
    pieces: AsyncIterable<Uint8Array>,
    ready?: () => Promise<void>,
  ): Promise<void> {
    for await (const piece of pieces) {
      if (piece.length > 0) throw new StoreError('CORRUPT', 'install a snapshot: a witness takes the mark alone')
    }
    await ready?.()
    this.#index = index
  }

  /** There is nothing to make durable. */
  onFailure(): void {}
}
