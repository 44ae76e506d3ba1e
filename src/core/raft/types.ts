/**
 * The words of the Raft core: entries, hard state, configuration, limits, and the Ready contract with its host.
 *
 * Contract: the host steps messages and ticks in, takes one `Ready` at a time, and carries out
 * its lanes. `send` may leave at once. `append` is the only append task in flight; its `sendAfter` leaves after it is
 * durable and `appendDone(seq)` was called. `apply` is the only apply task in flight, confirmed with `applyDone`.
 * Invariants: indexes and terms are safe integers; index 0 means "before the first entry" and has term 0.
 */

import type { NodeId } from '../../model/ids.ts'
import type { Message } from './messages.ts'

/** A member, or '' for nobody: what hard state and messages carry, where a field is always there. */
export type NodeIdOrNone = NodeId

/**
 * `solo`: the leader goes on with the witness alone, because the other full member is silent (docs/RULES.md, rule 8).
 * `receipt`: what a witness holds in place of a command: its type, length and checksum, never its payload.
 * The position in this list is what is stored; names are only appended. The last two need cluster version 2.
 */
export const entryTypes = ['noop', 'command', 'config', 'solo', 'receipt'] as const
export type EntryType = (typeof entryTypes)[number]

export interface Entry {
  readonly index: number
  readonly term: number
  readonly type: EntryType
  /** Encoded command or encoded `ClusterConfig`; empty for a no-op. Owned by the entry, never a view on a frame. */
  readonly payload: Uint8Array
}

/** What an entry costs in memory beyond its payload, so that a million empty entries are not free. */
export const entryOverheadBytes = 96

export function entryBytes(entry: Entry): number {
  return entry.payload.length + entryOverheadBytes
}

/** What must be durable before anything of `term` leaves the node. `vote` is '' when none was given in `term`. */
export interface HardState {
  readonly term: number
  readonly vote: NodeIdOrNone
}

/**
 * `voter` counts for majorities and may lead; `learner` gets the log and does not count; `witness` votes and counts, but
 * holds no payloads and never leads; `leaving` (was a voter) and `leaving-witness` are on their way out: they vote only
 * through `outgoing`. The position in this list is what is stored.
 */
export const memberRoles = ['voter', 'learner', 'witness', 'leaving', 'leaving-witness'] as const
export type MemberRole = (typeof memberRoles)[number]

export interface Member {
  readonly id: NodeId
  /** 32 hex digits, drawn when the member's directory was made. */
  readonly incarnation: string
  readonly addresses: readonly string[]
  readonly role: MemberRole
}

/**
 * Who takes part, and who decides. The incoming majority is of the members with role `voter` or `witness`. While a
 * change is under way (joint), `outgoing` lists the voters of the old configuration and both majorities must agree;
 * otherwise it is empty. Members sorted by id, `outgoing` too.
 */
export interface ClusterConfig {
  readonly members: readonly Member[]
  readonly outgoing: readonly NodeId[]
}

/** One change of the membership, as it is asked for. Voters change through a joint configuration, learners at once. */
export type MemberChange =
  /** Adds a learner (`role: 'learner'`), or a witness beside exactly two voters. */
  | { readonly kind: 'add'; readonly member: Member }
  /** Makes a learner a voter. */
  | { readonly kind: 'promote'; readonly id: NodeId }
  | { readonly kind: 'remove'; readonly id: NodeId }
  /** The member is reached elsewhere from now on. */
  | { readonly kind: 'move'; readonly id: NodeId; readonly addresses: readonly string[] }

/** A configuration and the index of the entry that brought it. */
export interface ConfigAt {
  readonly index: number
  readonly config: ClusterConfig
}

/** What a snapshot stands for: everything up to `index`. */
export interface SnapshotMark {
  readonly index: number
  readonly term: number
  readonly config: ConfigAt
}

export type Role = 'follower' | 'pre-candidate' | 'candidate' | 'leader'

export interface RaftLimits {
  /** Bytes of entries kept in memory for replication and apply. */
  readonly cacheBytes: number
  /** Largest payload of one entry; it travels in one frame, whose head needs some room too. */
  readonly entryBytes: number
  /** Leader: bytes and count of entries that may be proposed and not yet committed. */
  readonly uncommittedBytes: number
  readonly uncommittedEntries: number
  /** Bytes of entries in one append message, and window per peer in messages and bytes. */
  readonly messageBytes: number
  readonly windowMessages: number
  readonly windowBytes: number
  /** Bytes and count of one apply group. */
  readonly applyBytes: number
  readonly applyEntries: number
  /** Reads waiting for a read index, and read batches under way. */
  readonly readsWaiting: number
  readonly readBatches: number
  /** The log is compacted when it holds more than this many entries or bytes, keeping `trailingEntries`. */
  readonly compactEntries: number
  readonly compactBytes: number
  readonly trailingEntries: number
}

const MiB = 1024 * 1024

export const defaultRaftLimits: RaftLimits = {
  cacheBytes: 32 * MiB,
  entryBytes: 4 * MiB - 64 * 1024,
  uncommittedBytes: 16 * MiB,
  uncommittedEntries: 16384,
  messageBytes: 256 * 1024,
  windowMessages: 8,
  windowBytes: MiB,
  applyBytes: MiB,
  applyEntries: 512,
  readsWaiting: 16384,
  readBatches: 4,
  compactEntries: 20000,
  compactBytes: 64 * MiB,
  trailingEntries: 5000,
}

/** What a node starts the core with: its durable state as the log store verified it. */
export interface RaftOptions {
  readonly id: NodeId
  /**
   * Incarnation of this node's directory: a member of the same id and another incarnation is an earlier life, whose rights
   * this node does not have. Absent: not compared, for tests with one life.
   */
  readonly incarnation?: string | undefined
  /** An election starts after `electionTicks` to `electionTicks + electionSpreadTicks` of silence. */
  readonly electionTicks: number
  readonly electionSpreadTicks: number
  readonly heartbeatTicks: number
  /**
   * The leader answers reads from its lease instead of asking a quorum. Needs clocks whose rates differ by little, the
   * host's `Raft.clock`, and the same setting on all members: with it, votes are withheld while a leader may be alive.
   */
  readonly leaseReads: boolean
  /** Cluster version in force (docs/RULES.md, rule 15): nothing newer is sent or proposed. See `Raft.setVersion`. */
  readonly clusterVersion: number
  readonly limits: RaftLimits
  /**
   * Seed of the election jitter and of the contexts of this node's reads, 32-bit unsigned. It must differ at each start:
   * an answer to a read of an earlier life must not look like one to a read of this life.
   */
  readonly seed: number
  /** Also checks the invariants that cost time (invariants.ts) after every step: for tests and simulations. */
  readonly paranoid?: boolean
  readonly hardState: HardState
  /** What precedes the first entry of the log: index, term and configuration in force there. */
  readonly base: SnapshotMark
  /** Term of each entry after the base, in order, as runs: the first index of each term. */
  readonly termRuns: readonly { readonly first: number; readonly term: number }[]
  readonly lastIndex: number
  /** Configuration entries after the base, in order. */
  readonly configs: readonly ConfigAt[]
  /** The newest entries, ending at `lastIndex`; may be fewer than there are. */
  readonly tail: readonly Entry[]
  /** Index known to be committed (hint of the log, applied index), at most `lastIndex`. */
  readonly commit: number
  readonly applied: number
}

export interface AppendTask {
  readonly seq: number
  /** Entries from this index on are replaced by `entries`; absent when nothing is removed. */
  readonly truncateFrom: number | undefined
  readonly entries: readonly Entry[]
  /** Present when term or vote changed. */
  readonly hardState: HardState | undefined
  /** Hint to be stored with it, never a reason to sync. */
  readonly commit: number
  /** False when the task only orders its messages behind earlier ones: nothing is written. */
  readonly mustSync: boolean
  readonly sendAfter: readonly Message[]
}

/** Committed and locally durable entries `first..last`; those not in memory are read from the log store. */
export interface ApplyTask {
  readonly first: number
  readonly last: number
  readonly entries: readonly Entry[] | undefined
}

/** Entries that a peer needs and that are not in memory any more: read them, then call `fetched`. */
export interface FetchTask {
  readonly to: NodeId
  readonly first: number
  readonly last: number
  readonly bytes: number
}

export interface Ready {
  readonly send: readonly Message[]
  readonly append: AppendTask | undefined
  readonly apply: ApplyTask | undefined
  readonly fetches: readonly FetchTask[]
  /** Peers to stream a snapshot to; answered with `snapshotSent`. */
  readonly snapshots: readonly { readonly to: NodeId; readonly term: number }[]
  /** Reads whose index is confirmed: serve once `index` is applied. */
  readonly reads: readonly { readonly token: number; readonly index: number }[]
  /** Reads that were given up because this node stopped leading, or lost the leader that it had asked. */
  readonly droppedReads: readonly number[]
}

export type ProposeResult =
  | { readonly ok: true; readonly term: number; readonly index: number }
  | { readonly ok: false; readonly reason: 'not-leader' | 'overloaded' | 'transferring' | 'too-large' }

/**
 * Answer to a membership change. `pending`: another one is under way. `not-ready`: nothing of this term is committed yet.
 * `invalid`: `why` says what is wrong with it, in words for an operator.
 */
export type ChangeResult =
  | { readonly ok: true; readonly term: number; readonly index: number }
  | { readonly ok: false; readonly reason: 'not-leader' | 'transferring' | 'pending' | 'not-ready' | 'version' }
  | { readonly ok: false; readonly reason: 'invalid'; readonly why: string }
