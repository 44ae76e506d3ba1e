/**
 * The two halves of a meta node and the seam between them: the replicator (Raft, its log, its transport) below, the
 * state machine and its controllers above. Neither knows how the other works.
 */

import type { Effect, Reply } from '../../core/meta/commands.ts'
import type { NodeId } from '../../model/ids.ts'

export interface AppliedEntry {
  readonly index: number
  readonly term: number
  /** Encoded command; empty for a leader's first no-op and for entries that are not commands. */
  readonly payload: Uint8Array
}

/** The replicated state machine as the replicator drives it. */
export interface StateMachine {
  /** Index of the last entry whose effects are durable. */
  appliedIndex(): number
  /**
   * Applies entries in order, each exactly once, in one synced batch with the applied index; resolves when durable.
   * One call at a time. Any rejection is fatal for the node.
   */
  apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]>
  /** Digest of the state at `appliedIndex`, equal on all replicas. */
  digest(): number
  /**
   * A consistent image of the state at the current applied index, taken when called; pieces of at most 1 MiB.
   * Never called while `apply` runs.
   */
  snapshot(): { readonly index: number; readonly term: number; readonly pieces: AsyncIterable<Uint8Array> }
  /** Replaces the state by an image; crash-safe: afterwards either the old state or the new one is there. */
  install(index: number, term: number, pieces: AsyncIterable<Uint8Array>): Promise<void>
}

export interface AppliedReply {
  readonly reply: Reply
  readonly effects: readonly Effect[]
}

export interface PeerStatus {
  readonly id: NodeId
  readonly addresses: readonly string[]
  readonly role: 'leader' | 'follower' | 'learner' | 'witness'
  readonly reachable: boolean
  /** Highest index known to be replicated there. */
  readonly match: number
}

export interface ReplicatorStatus {
  readonly id: NodeId
  readonly role: 'leader' | 'follower' | 'candidate'
  readonly term: number
  readonly commit: number
  readonly applied: number
  readonly leader: NodeId | undefined
  readonly leaderAddresses: readonly string[]
  readonly peers: readonly PeerStatus[]
}

export interface Replicator {
  start(): Promise<void>
  /** Transfers leadership away when leading, then stops. */
  stop(): Promise<void>
  /**
   * Replicates one command; resolves with its reply once applied here. Rejects with NOT_LEADER (definite, nothing was
   * appended), OVERLOADED (definite) or UNAVAILABLE with outcome unknown (it may still commit).
   */
  propose(payload: Uint8Array): Promise<Reply>
  /** Resolves when everything committed before the call is applied here (ReadIndex). Rejects like `propose`. */
  barrier(): Promise<void>
  status(): ReplicatorStatus
  /**
   * Called with the term when this node has become leader and has applied its own first entry, and with undefined when
   * it no longer leads.
   */
  onLeadership(handler: (term: number | undefined) => void): void
  /** Called after every applied group, in order, on every node. */
  onApplied(handler: (index: number, results: readonly AppliedReply[]) => void): void
  /** Called once when the node cannot go on (a write error, a broken log): it has stopped voting and serving. */
  onFatal(handler: (reason: Error) => void): void
}
