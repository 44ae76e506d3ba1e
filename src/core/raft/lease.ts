/**
 * The leader's lease: while a quorum heard this leader recently, nobody else can have been elected, and reads need no
 * round of messages. Off unless `leaseReads` is set on every member.
 *
 * What counts is when the heartbeat was sent, not when its answer came. The lease lasts half an election timeout by the
 * host's monotonic clock (`Raft.clock`), while members withhold their votes for a whole one, counted in their own ticks:
 * the other half is the margin for clocks whose rates differ. Ticks would not do for the leader: a process that was
 * paused has not counted them. A leader that tried to hand over has no lease for the rest of its term, because the vote
 * that it asked for is given without waiting.
 * Invariant: without `Raft.clock` there is no lease.
 */

import type { NodeId } from '../../model/ids.ts'
import { hasQuorum, type VoterGroups } from './quorum.ts'

/** Rounds of heartbeats whose time is remembered; an answer to an older one proves nothing recent. */
const roundsMax = 64

export class Lease {
  readonly #span: number
  #now: number | undefined
  #off = false
  /** When each round was sent, in order. */
  #rounds: { readonly context: number; readonly at: number }[] = []
  /** When the newest round that a member answered was sent. */
  readonly #answered = new Map<NodeId, number>()

  constructor(electionTicks: number) {
    this.#span = electionTicks / 2
  }

  /** The host's monotonic clock, in ticks. */
  set now(now: number) {
    this.#now = now
  }

  /** No lease for the rest of this term. */
  giveUp(): void {
    this.#off = true
  }

  reset(): void {
    this.#off = false
    this.#rounds = []
    this.#answered.clear()
  }

  /** A round of heartbeats leaves. */
  sent(context: number): void {
    if (this.#now === undefined) return
    this.#rounds.push({ context, at: this.#now })
    if (this.#rounds.length > roundsMax) this.#rounds.shift()
  }

  answered(from: NodeId, context: number): void {
    const round = this.#rounds.find((item) => item.context === context)
    if (round !== undefined) this.#answered.set(from, Math.max(round.at, this.#answered.get(from) ?? round.at))
  }

  holds(groups: VoterGroups, self: NodeId): boolean {
    const now = this.#now
    if (now === undefined || this.#off) return false
    return hasQuorum(groups, (id) => id === self || now - (this.#answered.get(id) ?? -Infinity) < this.#span)
  }
}
