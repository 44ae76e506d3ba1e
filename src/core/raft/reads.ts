/**
 * Linearizable reads by ReadIndex, in batches. A leader's batch remembers the commit index when it began and is
 * confirmed when a quorum answered a heartbeat that was sent after it began. A follower asks its leader for an index
 * and serves the read from its own state.
 *
 * Invariants: contexts are unique and rise (never the caller's token, which a retry could repeat); an answer to context
 * c confirms c and everything older; the read index of a batch is at least every commit known when its reads came.
 */

import type { NodeId } from '../../model/ids.ts'
import { hasQuorum, type VoterGroups } from './quorum.ts'

/** A follower's question: who asked, and under which of its contexts. */
export interface RemoteRead {
  readonly from: NodeId
  readonly context: number
}

interface Batch {
  readonly context: number
  readonly index: number
  readonly tokens: readonly number[]
  readonly remote: readonly RemoteRead[]
  readonly confirmed: Set<NodeId>
}

/** Reads that a quorum has confirmed at `index`. */
export interface ConfirmedReads {
  readonly index: number
  readonly tokens: readonly number[]
  readonly remote: readonly RemoteRead[]
}

/** The leader's reads: its own and those of followers. */
export class Reads {
  #waiting: number[] = []
  #remote: RemoteRead[] = []
  #batches: Batch[] = []
  #contexts = 0

  get waiting(): number {
    return this.#waiting.length + this.#remote.length
  }

  get underWay(): number {
    return this.#batches.length
  }

  /** Context that heartbeats carry: the newest one, which confirms all batches under way; 0 when none is needed. */
  get context(): number {
    return this.#batches.length === 0 ? 0 : this.#contexts
  }

  /** The newest context, needed or not. */
  get newest(): number {
    return this.#contexts
  }

  /** A context of its own for a round of heartbeats, so that the answers tell when they were asked. */
  newRound(): number {
    return ++this.#contexts
  }

  add(token: number): void {
    this.#waiting.push(token)
  }

  /** Notes a follower's question, unless it is a repetition of one that waits. */
  addRemote(read: RemoteRead): void {
    const same = (other: RemoteRead): boolean => other.from === read.from && other.context === read.context
    if (this.#remote.some(same) || this.#batches.some((batch) => batch.remote.some(same))) return
    this.#remote.push(read)
  }

  /** Starts a batch of all waiting reads at `commit`, confirmed by `self`. The caller sends a heartbeat round. */
  begin(commit: number, self: NodeId): void {
    const context = this.newRound()
    const confirmed = new Set([self])
    this.#batches.push({ context, index: commit, tokens: this.#waiting, remote: this.#remote, confirmed })
    this.#waiting = []
    this.#remote = []
  }

  /** `from` answered `context`. */
  confirm(from: NodeId, context: number): void {
    for (const batch of this.#batches) {
      if (batch.context <= context) batch.confirmed.add(from)
    }
  }

  /** Takes the batches that a quorum has confirmed. A newer confirmed batch confirms all older ones. */
  takeConfirmed(voters: VoterGroups): readonly ConfirmedReads[] {
    if (this.#batches.length === 0) return []
    const newest = this.#batches.findLastIndex((batch) => hasQuorum(voters, (id) => batch.confirmed.has(id)))
    return this.#batches.splice(0, newest + 1)
  }

  /** Gives up all reads and returns the tokens of its own. Contexts go on rising. */
  drop(): number[] {
    const tokens = [...this.#batches.flatMap((batch) => batch.tokens), ...this.#waiting]
    this.#batches = []
    this.#waiting = []
    this.#remote = []
    return tokens
  }
}

/** Contexts of one life of a node; its lives are told apart by the seed of each. */
const contextsPerLife = 2 ** 20

/** A follower's reads, which its leader is asked about. */
export class FollowerReads {
  #waiting: number[] = []
  /** Tokens of each question that has no answer yet, in the order they were asked. */
  readonly #asked = new Map<number, readonly number[]>()
  #context: number

  constructor(seed: number) {
    this.#context = seed * contextsPerLife
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** Contexts of the questions that have no answer yet. */
  get asked(): readonly number[] {
    return [...this.#asked.keys()]
  }

  get underWay(): number {
    return this.#asked.size
  }

  add(token: number): void {
    this.#waiting.push(token)
  }

  /** Makes one question of all waiting reads; returns its context. */
  ask(): number {
    this.#context++
    this.#asked.set(this.#context, this.#waiting)
    this.#waiting = []
    return this.#context
  }

  /** Takes the reads of the question that was answered; empty for an unknown one. */
  answered(context: number): readonly number[] {
    const tokens = this.#asked.get(context) ?? []
    this.#asked.delete(context)
    return tokens
  }

  /** Gives up all reads and returns their tokens. */
  drop(): readonly number[] {
    if (this.#asked.size === 0 && this.#waiting.length === 0) return []
    const tokens = [...[...this.#asked.values()].flat(), ...this.#waiting]
    this.#asked.clear()
    this.#waiting = []
    return tokens
  }
}
