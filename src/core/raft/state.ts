/**
 * The mutable state of one Raft node and the primitives that its roles share: changing term, changing role, emitting
 * messages into the right lane. The rules of the roles are in election.ts, leader.ts and follower.ts; `step` is in
 * raft.ts.
 *
 * Invariants (asserted in `check`): the term never goes back; one vote per term; a leader leads itself, voted for itself
 * and has its term durable; nothing of a term leaves before that term is durable (`emit`).
 */

import { assert } from '../../base/assert.ts'
import { Prng } from '../../base/prng.ts'
import { termMax } from '../../model/fence.ts'
import type { NodeId } from '../../model/ids.ts'
import { RaftLog } from './log.ts'
import type { Message } from './messages.ts'
import { checkThoroughly } from './invariants.ts'
import { Lease } from './lease.ts'
import { isFull, isWitness, Roster } from './membership.ts'
import { Progress } from './progress.ts'
import type { VoterGroups } from './quorum.ts'
import { FollowerReads, Reads } from './reads.ts'
import {
  type ConfigAt,
  type Entry,
  entryBytes,
  type FetchTask,
  type HardState,
  type NodeIdOrNone,
  type RaftLimits,
  type RaftOptions,
  type Role,
  type Member,
  type MemberRole,
} from './types.ts'

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
/** A message without its sender, which is always this node. */
export type Outgoing = DistributiveOmit<Message, 'from'>

export class RaftState {
  readonly id: NodeId
  readonly #incarnation: string | undefined
  readonly limits: RaftLimits
  readonly electionTicks: number
  readonly electionSpreadTicks: number
  readonly heartbeatTicks: number
  readonly leaseReads: boolean
  readonly #paranoid: boolean
  readonly log: RaftLog
  readonly #prng: Prng
  clusterVersion: number

  #term: number
  #vote: NodeIdOrNone
  /** What is known to be durable of term and vote. */
  savedHard: HardState
  role: Role = 'follower'
  leader: NodeIdOrNone = ''
  #roster: Roster
  /** The configuration that `#roster` was made from. */
  #rosterOf: ConfigAt

  /** Ticks since the leader was heard of (follower), the election began, or quorum was checked (leader). */
  electionElapsed = 0
  heartbeatElapsed = 0
  electionTimeout: number
  /** The timeout was shortened because the leader seems to be gone. */
  hurried = false
  /** Who led last as far as this node knows, and the ticks since it was heard of, in whatever term. */
  lastLeader: NodeIdOrNone = ''
  sinceLeader = 0

  /** Learner: its log is newer than that of a candidate, and no leader was heard of since. */
  askedInVain = false

  readonly votes = new Map<NodeId, boolean>()
  /** Leader: of every other member and of those that just left, sorted by id. */
  readonly progress = new Map<NodeId, Progress>()
  /** Leader: index of its first entry; reads and configuration changes wait until it is committed. */
  firstOwnIndex = 0
  uncommittedBytes = 0
  /** Leader: member that leadership is being handed to, and for how long that has been tried. */
  transferee: NodeIdOrNone = ''
  transferElapsed = 0
  /** Leader: commits with the witness alone (witness.ts). */
  solo = false
  /** Leader: its newest entry that says so; 0 when there is none of its term. */
  soloIndex = 0
  /** Leader with a witness: the last entry that a full member is waited for, and for how many ticks. */
  pairMark = 0
  pairWait = 0

  readonly reads = new Reads()
  readonly followerReads: FollowerReads
  readonly lease: Lease

  send: Message[] = []
  after: Message[] = []
  fetches: FetchTask[] = []
  snapshots: { to: NodeId; term: number }[] = []
  confirmedReads: { token: number; index: number }[] = []
  droppedReads: number[] = []

  constructor(options: RaftOptions) {
    this.id = options.id
    this.#incarnation = options.incarnation
    this.limits = options.limits
    this.electionTicks = options.electionTicks
    this.electionSpreadTicks = options.electionSpreadTicks
    this.heartbeatTicks = options.heartbeatTicks
    this.leaseReads = options.leaseReads
    this.clusterVersion = options.clusterVersion
    this.#paranoid = options.paranoid ?? false
    this.#prng = new Prng(options.seed)
    this.followerReads = new FollowerReads(options.seed)
    this.lease = new Lease(options.electionTicks)
    this.log = new RaftLog({ ...options, cacheBytes: options.limits.cacheBytes })
    this.#term = options.hardState.term
    this.#vote = options.hardState.vote
    this.savedHard = options.hardState
    this.#rosterOf = this.log.config
    this.#roster = new Roster(this.#rosterOf.config)
    this.electionTimeout = this.#drawTimeout()
    this.check()
  }

  get term(): number {
    return this.#term
  }
  get vote(): NodeIdOrNone {
    return this.#vote
  }

  /** Who takes part under the configuration in force. */
  get roster(): Roster {
    const { config } = this.log
    if (config !== this.#rosterOf) {
      this.#rosterOf = config
      this.#roster = new Roster(config.config)
    }
    return this.#roster
  }

  /** Voters in force, one list for each majority that must agree. */
  get voters(): VoterGroups {
    return this.roster.groups
  }

  isMember(id: NodeId): boolean {
    return this.roster.roleOf(id) !== undefined
  }

  /** True when the configuration in force lets this node lead. */
  get isVoter(): boolean {
    return isFull(this.ownRole)
  }

  /** Part that this very directory plays; undefined also when only an earlier life of this id is listed. */
  get ownRole(): MemberRole | undefined {
    return this.log.config.config.members.find((member) => this.isSelf(member))?.role
  }

  isSelf(member: Member): boolean {
    return member.id === this.id && (this.#incarnation === undefined || member.incarnation === this.#incarnation)
  }

  get hardChanged(): boolean {
    return this.savedHard.term !== this.#term || this.savedHard.vote !== this.#vote
  }

  get hardState(): HardState {
    return { term: this.#term, vote: this.#vote }
  }

  #drawTimeout(): number {
    return this.electionTicks + this.#prng.below(this.electionSpreadTicks + 1)
  }

  /** The leader was heard of: nothing is known that speaks against waiting in full. */
  hearLeader(leader: NodeId): void {
    this.leader = leader
    this.lastLeader = leader
    this.sinceLeader = 0
    this.electionElapsed = 0
    this.askedInVain = false
    if (!this.hurried) return
    this.hurried = false
    this.electionTimeout = this.#drawTimeout()
  }

  /** No leader is known any more; what was asked of it is given up. */
  forgetLeader(): void {
    this.leader = ''
    this.droppedReads.push(...this.followerReads.drop())
  }

  /** Appends an entry of this leader. */
  appendOwn(type: Entry['type'], payload: Uint8Array): Entry {
    assert(this.role === 'leader', 'only a leader appends on its own')
    const entry: Entry = { index: this.log.lastIndex + 1, term: this.#term, type, payload }
    this.log.append(entry)
    this.uncommittedBytes += entryBytes(entry)
    return entry
  }

  /**
   * Queues a message. Gated messages (votes, requests for votes, answers about the log) leave only after everything
   * that is unsaved now is durable; others at once, if their term is durable already.
   */
  emit(message: Outgoing, gated: boolean): void {
    const whole: Message = { ...message, from: this.id }
    if (gated || this.savedHard.term !== this.#term) this.after.push(whole)
    else this.send.push(whole)
  }

  /** The one place where a vote is given: at most one per term. */
  giveVote(candidate: NodeId): void {
    assert(this.#vote === '' || this.#vote === candidate, 'one vote per term')
    this.#vote = candidate
  }

  #reset(): void {
    this.votes.clear()
    this.progress.clear()
    this.electionElapsed = 0
    this.heartbeatElapsed = 0
    this.electionTimeout = this.#drawTimeout()
    this.hurried = false
    this.transferee = ''
    this.transferElapsed = 0
    this.uncommittedBytes = 0
    this.firstOwnIndex = 0
    this.solo = false
    this.soloIndex = 0
    this.pairMark = 0
    this.pairWait = 0
    this.fetches = []
    this.snapshots = []
    this.lease.reset()
    this.droppedReads.push(...this.reads.drop(), ...this.followerReads.drop())
  }

  #setTerm(term: number): void {
    assert(term >= this.#term && term <= termMax, 'the term never goes back, and stays within its bound')
    if (term === this.#term) return
    this.#term = term
    this.#vote = ''
  }

  becomeFollower(term: number, leader: NodeIdOrNone): void {
    this.#setTerm(term)
    this.#reset()
    this.role = 'follower'
    this.leader = leader
  }

  becomePreCandidate(): void {
    assert(this.role !== 'leader', 'a leader does not campaign')
    this.#reset()
    this.role = 'pre-candidate'
    this.leader = ''
  }

  becomeCandidate(): void {
    assert(this.role !== 'leader', 'a leader does not campaign')
    this.#setTerm(this.#term + 1)
    this.#reset()
    this.role = 'candidate'
    this.leader = ''
    this.giveVote(this.id)
  }

  becomeLeader(): void {
    assert(this.role === 'candidate', 'only a candidate is elected')
    assert(!this.hardChanged && this.#vote === this.id, 'a leader has its own vote durable')
    const answered = new Set(this.votes.keys())
    this.#reset()
    this.role = 'leader'
    this.leader = this.id
    this.askedInVain = false
    this.uncommittedBytes = this.log.bytesOf(this.log.commit + 1, this.log.lastIndex)
    this.adoptMembers()
    const lost = this.progress.get(this.lastLeader)
    if (lost !== undefined && !answered.has(this.lastLeader)) lost.silence = this.sinceLeader
    this.lastLeader = this.id
    this.firstOwnIndex = this.log.lastIndex + 1
  }

  /**
   * Leader: follows the progress of whoever is a member now. A new one gets the index of the configuration that brought
   * it as its session; one that is no member any more is kept for a while, to be told.
   */
  adoptMembers(): void {
    const { index } = this.log.config
    const { windowMessages, windowBytes } = this.limits
    for (const [id, progress] of this.progress) {
      if (progress.departing === 0 && !this.isMember(id)) progress.departing = index
    }
    const known = new Map(this.progress)
    for (const id of this.roster.ids) {
      const old = known.get(id)
      if (id === this.id || (old !== undefined && old.departing === 0)) continue
      known.set(id, new Progress(this.log.lastIndex + 1, index, windowMessages, windowBytes))
    }
    this.progress.clear()
    for (const [id, progress] of [...known].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      if (progress.departing === 0) progress.witness = isWitness(this.roster.roleOf(id))
      this.progress.set(id, progress)
    }
  }

  /** The local invariants; called after every step. */
  check(): void {
    this.log.check()
    assert(this.log.lastTerm <= this.#term, 'the log has no term above the current one')
    assert(this.role !== 'leader' || (this.leader === this.id && this.#vote === this.id), 'a leader leads itself')
    assert(this.role === 'leader' || this.progress.size === 0, 'only a leader follows the progress of others')
    assert(this.role === 'leader' || this.transferee === '', 'only a leader hands over')
    assert(this.role === 'leader' || !this.solo, 'only a leader is alone')
    for (const progress of this.progress.values()) progress.check(this.log.lastIndex)
    if (!this.#paranoid) return
    checkThoroughly(this.log, this.roster, this.role === 'leader' && this.log.commit >= this.firstOwnIndex)
  }
}
