/**
 * Linearizable reads by ReadIndex, in batches. A batch remembers the commit index when it began and is confirmed when a
 * quorum answered a heartbeat that was sent after it began.
 *
 * Invariants: contexts are unique and rise (never the caller's token, which a retry could repeat); an answer to context
 * c confirms c and everything older; the read index of a batch is at least every commit known when its reads came.
 */

import type { NodeId } from '../../model/ids.ts'
import { hasQuorum, type VoterGroups } from './quorum.ts'

interface Batch {
  readonly context: number
  readonly index: number
  readonly tokens: readonly number[]
  readonly confirmed: Set<NodeId>
}

export class Reads {
  #waiting: number[] = []
  #batches: Batch[] = []
  #contexts = 0

  get waiting(): number {
    return this.#waiting.length
  }

  get underWay(): number {
    return this.#batches.length
  }

  /** Context that heartbeats carry: the newest batch under way, 0 without one. */
  get context(): number {
    return this.#batches.at(-1)?.context ?? 0
  }

  add(token: number): void {
    this.#waiting.push(token)
  }

  /** Starts a batch of all waiting reads at `commit`, confirmed by `self`. The caller sends a heartbeat round. */
  begin(commit: number, self: NodeId): void {
    this.#contexts++
    this.#batches.push({ context: this.#contexts, index: commit, tokens: this.#waiting, confirmed: new Set([self]) })
    this.#waiting = []
  }

  /** `from` answered `context`. */
  confirm(from: NodeId, context: number): void {
    for (const batch of this.#batches) {
      if (batch.context <= context) batch.confirmed.add(from)
    }
  }

  /** Takes the reads that a quorum has confirmed. A newer confirmed batch confirms all older ones. */
  takeConfirmed(voters: VoterGroups): { token: number; index: number }[] {
    const newest = this.#batches.findLastIndex((batch) => hasQuorum(voters, (id) => batch.confirmed.has(id)))
    const out: { token: number; index: number }[] = []
    for (const batch of this.#batches.splice(0, newest + 1)) {
      for (const token of batch.tokens) out.push({ token, index: batch.index })
    }
    return out
  }

  /** Gives up all reads and returns their tokens. Contexts go on rising. */
  drop(): number[] {
    const tokens = [...this.#batches.flatMap((batch) => batch.tokens), ...this.#waiting]
    this.#batches = []
    this.#waiting = []
    return tokens
  }
}
