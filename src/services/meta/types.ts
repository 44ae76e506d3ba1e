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
  /** Index of the last entry that was applied. Right after opening it is `durableIndex`. */
  appliedIndex(): number
  /**
   * Index of the last entry whose effects survive a crash; at most `appliedIndex`. The log is never compacted beyond it,
   * and a start replays from it. It follows `appliedIndex` by itself, also when nothing more is applied.
   */
  durableIndex(): number
  /**
   * Applies entries in order, each exactly once; resolves when reads see them (not: when they are durable). A crash
   * leaves the state of one index. One call at a time. Any rejection is fatal for the node.
   */
  apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]>
  /** Digest of the state at `appliedIndex`, equal on all replicas. */
  digest(): number
  /**
   * A consistent image of the state at the index that is applied when called. Never called while `apply` runs, nor is
   * `apply` while this runs; it runs while the pieces are read.
   */
  snapshot(): Promise<StateImage>
  /**
   * Replaces the state by an image; crash-safe: afterwards either the old state or the new one is there. `ready` is called
   * when the new one is complete and durable: until it resolves, and when it rejects, the old one stays in place.
   */
  install(index: number, term: number, pieces: AsyncIterable<Uint8Array>, ready?: () => Promise<void>): Promise<void>
  /** Called once when what was applied cannot be made durable any more: the node must stop. */
  onFailure(handler: (error: unknown) => void): void
}

/** An image of the state, to be read once; pieces of at most 1 MiB. */
export interface StateImage {
  readonly index: number
  readonly term: number
  readonly pieces: AsyncIterable<Uint8Array>
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
  /** Highest version of commands and formats that it supports; 0 when it was not heard of. */
  readonly versionMax: number
  /** Its filesystem has less free than its reserve. */
  readonly lowSpace: boolean
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
  /** Leader: it commits with the witness alone (META_ONE_COPY). */
  readonly solo: boolean
  /** Peers whose state differs from this node's at the same index (META_DIVERGED). */
  readonly diverged: readonly NodeId[]
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
  /**
   * Resolves when everything committed before the call is applied here (ReadIndex). A follower asks its leader for the
   * index, once the cluster version is 2. Rejects like `propose`.
   */
  barrier(): Promise<void>
  /**
   * Adds the node that answers at `address` as a learner and promotes it when it has caught up (a witness at once).
   * Resolves with true when it counts, with false when it is still catching up after the time that was allowed.
   * Rejects with CONDITION_FAILED or INVALID_ARGUMENT when the change is not possible, or like `propose`.
   */
  addMember(id: NodeId, address: string): Promise<boolean>
  removeMember(id: NodeId): Promise<void>
  /** Hands leadership to `to`, or to the voter that has most; resolves with the new leader. TIMEOUT when nobody took it. */
  transfer(to: NodeId | undefined): Promise<NodeId>
  /** Incarnation of the cluster this node belongs to; 1 unless the metadata was recovered. */
  clusterIncarnation(): number
  /** The cluster version in force, as the state machine knows it after each change. */
  setVersion(version: number): void
  /** True while this node's filesystem has less free than the reserve. */
  lowSpace(): boolean
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
