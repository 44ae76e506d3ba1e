/**
 * The Raft core: a pure, synchronous step machine. Messages, ticks, proposals and completions go in; `ready()` gives
 * what to do, in three lanes (types.ts). No clock, no I/O, no promise.
 *
 * Invariants: terms are compared in one place, the top of `step`; `step` never throws on what a peer sends (assertions
 * are for broken invariants of this node); one append task and one apply task are under way at most.
 */

import { assert } from '../../base/assert.ts'
import type { NodeId } from '../../model/ids.ts'
import { campaign, leaderLost, ownVoteSaved, tickElection } from './election.ts'
import { acknowledgeSnapshot, askAgain, flushFollower, readThroughLeader } from './follower.ts'
import * as leading from './leader.ts'
import type { RaftLog } from './log.ts'
import type { Message, SnapshotOffer } from './messages.ts'
import { change } from './reconfigure.ts'
import { fetched, snapshotSent } from './replicate.ts'
import { RaftState } from './state.ts'
import { step } from './step.ts'
import { transferTo } from './transfer.ts'
import type {
  AppendTask,
  ApplyTask,
  ChangeResult,
  ConfigAt,
  Entry,
  MemberChange,
  NodeIdOrNone,
  ProposeResult,
  RaftOptions,
  Ready,
  Role,
  SnapshotMark,
} from './types.ts'

/** What is worth showing of a node. */
export interface RaftView {
  readonly role: Role
  readonly term: number
  readonly leader: NodeIdOrNone
  readonly commit: number
  readonly applied: number
  readonly lastIndex: number
  /** Leader: index of its first entry of this term. */
  readonly firstOwnIndex: number
  readonly transferring: boolean
  /** Leader: commits with the witness alone, because the other full member is silent. */
  readonly solo: boolean
}

/** Read-only cursors of the log, for the host and for oracles. */
export type LogView = Pick<
  RaftLog,
  | 'baseIndex'
  | 'lastIndex'
  | 'lastTerm'
  | 'durable'
  | 'commit'
  | 'applied'
  | 'term'
  | 'cached'
  | 'configAt'
  | 'configsFrom'
>

export class Raft {
  readonly #state: RaftState
  #task: AppendTask | undefined
  #seq = 0
  /** Set while a snapshot is being put in place: no append task starts. */
  #held = false

  constructor(options: RaftOptions) {
    this.#state = new RaftState(options)
  }

  get view(): RaftView {
    const { role, term, leader, log, firstOwnIndex, transferee, solo } = this.#state
    const { commit, applied, lastIndex } = log
    return {
      role,
      term,
      leader,
      commit,
      applied,
      lastIndex,
      firstOwnIndex,
      transferring: transferee !== '',
      solo,
    }
  }

  get log(): LogView {
    return this.#state.log
  }

  get config(): ConfigAt {
    return this.#state.log.config
  }

  /** Leader: highest index known to be on disk at `id`; 0 otherwise. */
  matchOf(id: NodeId): number {
    if (id === this.#state.id) return this.#state.log.durable
    return this.#state.progress.get(id)?.match ?? 0
  }

  /** Leader: replication session of `id`, which its answers must carry; 0 otherwise. */
  sessionOf(id: NodeId): number {
    return this.#state.progress.get(id)?.session ?? 0
  }

  /** Leader: true when `id` has not answered for an election timeout. */
  silent(id: NodeId): boolean {
    const { progress, electionTicks } = this.#state
    return (progress.get(id)?.silence ?? 0) >= electionTicks
  }

  /**
   * Leader: lowest match of the members that answer, which compaction should not pass without need. A witness does not
   * matter: its snapshot is a mark.
   */
  slowestMatch(): number {
    let lowest = this.#state.log.lastIndex
    for (const progress of this.#state.progress.values()) {
      if (progress.active && !progress.witness && progress.departing === 0) lowest = Math.min(lowest, progress.match)
    }
    return lowest
  }

  /**
   * What committed configurations say of this node, known by its `incarnation`. A new member's log begins before it was
   * added (`unknown`); `removed` is final, because whoever comes back has another incarnation.
   */
  membership(incarnation: string): 'member' | 'removed' | 'unknown' {
    const { id, log } = this.#state
    const listed = log
      .configsUpTo(log.commit)
      .map(({ config }) => config.members.some((member) => member.id === id && member.incarnation === incarnation))
    if (listed.at(-1) === true) return 'member'
    return listed.includes(true) ? 'removed' : 'unknown'
  }

  tick(): void {
    const state = this.#state
    if (state.role === 'leader') leading.tickLeader(state)
    else {
      askAgain(state)
      tickElection(state)
    }
    state.check()
  }

  /** The host's monotonic clock, in ticks. Only lease reads need it, and there are none without it. */
  clock(now: number): void {
    this.#state.lease.now = now
  }

  /** Starts an election at once: for a single node, which has nobody to wait for. */
  campaign(): void {
    campaign(this.#state, 'pre')
    this.#state.check()
  }

  step(message: Message): void {
    // The log store is being reset to a snapshot: entries are as good as lost, and commit stands still, because the
    // snapshot must not be behind it when it is in place. The leader says both again.
    if (this.#held && message.kind === 'append') return
    if (this.#held && message.kind === 'heartbeat') step(this.#state, { ...message, commit: 0 })
    else step(this.#state, message)
    this.#state.check()
  }

  propose(payload: Uint8Array): ProposeResult {
    return leading.propose(this.#state, payload)
  }

  /**
   * Asks for a linearizable read; the token comes back in `reads` or `droppedReads`. A follower asks its leader, and
   * serves the read itself.
   */
  readIndex(token: number): 'waiting' | 'not-leader' | 'overloaded' {
    const state = this.#state
    return state.role === 'leader' ? leading.readHere(state, token) : readThroughLeader(state, token)
  }

  /**
   * Starts a change of the membership (types.ts says which). It is done when a configuration at or after the index in
   * the result is committed and not joint.
   */
  change(wanted: MemberChange): ChangeResult {
    const result = change(this.#state, wanted)
    this.#state.check()
    return result
  }

  /** The connection to `id` was reset or refused: if it leads, an election need not wait for the timeout. */
  leaderLost(id: NodeId): void {
    this.unreachable(id)
    leaderLost(this.#state, id)
    this.#state.check()
  }

  /** The cluster version in force was raised; it never goes back. */
  setVersion(version: number): void {
    this.#state.clusterVersion = Math.max(version, this.#state.clusterVersion)
  }

  /** Hands leadership over; false when this node does not lead or `to` is no voter. */
  transfer(to: NodeId): boolean {
    const started = transferTo(this.#state, to)
    this.#state.check()
    return started
  }

  /** The connection to a peer broke: what was sent may be lost. */
  unreachable(id: NodeId): void {
    this.#state.progress.get(id)?.restart()
  }

  fetched(to: NodeId, entries: readonly Entry[]): void {
    if (this.#state.role === 'leader') fetched(this.#state, to, entries)
    this.#state.check()
  }

  snapshotSent(to: NodeId, installed: boolean, index: number): void {
    if (this.#state.role === 'leader') snapshotSent(this.#state, to, installed, index)
    this.#state.check()
  }

  /** Steps the announcement of a snapshot; true when the host should receive and install it. */
  offerSnapshot(offer: SnapshotOffer): boolean {
    this.step(offer)
    return this.wantsSnapshot(offer)
  }

  wantsSnapshot(offer: SnapshotOffer): boolean {
    const { role, term, leader, log } = this.#state
    return role === 'follower' && term === offer.term && leader === offer.from && offer.index > log.commit
  }

  /** While held, no append task starts, so that the log store can be reset. True when none is under way. */
  hold(held: boolean): boolean {
    this.#held = held
    return this.#task === undefined
  }

  /** True when what follows the snapshot in the log stays valid. */
  keepsSuffix(mark: SnapshotMark): boolean {
    return this.#state.log.keepsSuffix(mark)
  }

  /** State machine and log store hold the snapshot now. Only while held and with no append task under way. */
  snapshotInstalled(mark: SnapshotMark, offer: SnapshotOffer): void {
    const state = this.#state
    assert(this.#held && this.#task === undefined, 'a snapshot is installed while appends are held')
    state.log.restore(mark)
    acknowledgeSnapshot(state, offer.from, offer.session, mark.index)
    state.check()
  }

  /** Unsaved entries would be lost by a reset of the log store: they are saved or refused first. */
  get hasUnsaved(): boolean {
    return this.#state.log.hasUnsaved
  }

  /** The log store has dropped everything up to `index`. */
  compacted(index: number): void {
    this.#state.log.compact(index)
    this.#state.check()
  }

  /** What there is to do; undefined when nothing is. What it gives is under way from then on. */
  ready(): Ready | undefined {
    const state = this.#state
    if (state.role === 'leader') leading.flushLeader(state)
    else flushFollower(state)
    const append = this.#takeAppend()
    const apply = this.#takeApply()
    const { send, fetches, snapshots, confirmedReads: reads, droppedReads } = state
    const listed = send.length + fetches.length + snapshots.length + reads.length + droppedReads.length
    if (append === undefined && apply === undefined && listed === 0) return undefined
    state.send = []
    state.fetches = []
    state.snapshots = []
    state.confirmedReads = []
    state.droppedReads = []
    for (const message of send) assert(message.term <= state.savedHard.term, 'nothing of an unsaved term leaves')
    return { send, append, apply, fetches, snapshots, reads, droppedReads }
  }

  #takeAppend(): AppendTask | undefined {
    const state = this.#state
    if (this.#task !== undefined || this.#held) return undefined
    if (!state.log.hasUnsaved && !state.hardChanged && state.after.length === 0) return undefined
    const seq = ++this.#seq
    const hardState = state.hardChanged ? state.hardState : undefined
    const { truncateFrom, entries } = state.log.takeUnsaved(seq)
    const mustSync = hardState !== undefined || truncateFrom !== undefined || entries.length > 0
    const task = { seq, truncateFrom, entries, hardState, commit: state.log.commit, mustSync, sendAfter: state.after }
    state.after = []
    this.#task = task
    return task
  }

  #takeApply(): ApplyTask | undefined {
    const { log, limits } = this.#state
    const range = log.takeApply(limits.applyBytes, limits.applyEntries)
    return range === undefined ? undefined : { ...range, entries: log.cached(range.first, range.last) }
  }

  /** The append task `seq` is durable; its `sendAfter` may leave now. */
  appendDone(seq: number): void {
    const state = this.#state
    const task = this.#task
    assert(task !== undefined && task.seq === seq, 'append tasks complete one at a time and in order')
    this.#task = undefined
    if (task.hardState !== undefined) state.savedHard = task.hardState
    state.log.saved(seq)
    for (const message of task.sendAfter) {
      if (message.kind !== 'appendReply' || !message.accepted || message.term !== state.term) continue
      assert(message.index <= state.log.durable, 'only what is durable is acknowledged')
    }
    if (state.role === 'leader') leading.advanceCommit(state)
    ownVoteSaved(state)
    state.check()
  }

  applyDone(index: number): void {
    this.#state.log.appliedTo(index)
    this.#state.check()
  }
}
