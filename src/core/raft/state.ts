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
import type { NodeId } from '../../model/ids.ts'
import { RaftLog } from './log.ts'
import type { Message } from './messages.ts'
import { Progress } from './progress.ts'
import { type VoterGroups, voterGroups } from './quorum.ts'
import { Reads } from './reads.ts'
import type { FetchTask, HardState, NodeIdOrNone, RaftLimits, RaftOptions, Role } from './types.ts'

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never
/** A message without its sender, which is always this node. */
export type Outgoing = DistributiveOmit<Message, 'from'>

export class RaftState {
  readonly id: NodeId
  readonly limits: RaftLimits
  readonly electionTicks: number
  readonly electionSpreadTicks: number
  readonly heartbeatTicks: number
  readonly log: RaftLog
  readonly reads = new Reads()
  readonly #prng: Prng

  #term: number
  #vote: NodeIdOrNone
  /** What is known to be durable of term and vote. */
  savedHard: HardState
  role: Role = 'follower'
  leader: NodeIdOrNone = ''

  /** Ticks since the leader was heard of (follower), the election began, or quorum was checked (leader). */
  electionElapsed = 0
  heartbeatElapsed = 0
  electionTimeout: number

  readonly votes = new Map<NodeId, boolean>()
  readonly progress = new Map<NodeId, Progress>()
  /** Leader: index of its first entry; reads and configuration changes wait until it is committed. */
  firstOwnIndex = 0
  uncommittedBytes = 0
  /** Leader: member that leadership is being handed to, and for how long that has been tried. */
  transferee: NodeIdOrNone = ''
  transferElapsed = 0

  send: Message[] = []
  after: Message[] = []
  fetches: FetchTask[] = []
  snapshots: { to: NodeId; term: number }[] = []
  droppedReads: number[] = []

  constructor(options: RaftOptions) {
    this.id = options.id
    this.limits = options.limits
    this.electionTicks = options.electionTicks
    this.electionSpreadTicks = options.electionSpreadTicks
    this.heartbeatTicks = options.heartbeatTicks
    this.#prng = new Prng(options.seed)
    this.log = new RaftLog({ ...options, cacheBytes: options.limits.cacheBytes })
    this.#term = options.hardState.term
    this.#vote = options.hardState.vote
    this.savedHard = options.hardState
    this.electionTimeout = this.#drawTimeout()
    this.check()
  }

  get term(): number {
    return this.#term
  }
  get vote(): NodeIdOrNone {
    return this.#vote
  }

  /** Voters in force, one list for each majority that must agree. */
  get voters(): VoterGroups {
    return voterGroups(this.log.config.config)
  }

  /** All members but this node, in the order of the configuration (sorted by id). */
  get peers(): NodeId[] {
    return this.log.config.config.members.map((member) => member.id).filter((id) => id !== this.id)
  }

  isMember(id: NodeId): boolean {
    return this.log.config.config.members.some((member) => member.id === id)
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
    this.transferee = ''
    this.transferElapsed = 0
    this.uncommittedBytes = 0
    this.firstOwnIndex = 0
    this.fetches = []
    this.snapshots = []
    this.droppedReads.push(...this.reads.drop())
  }

  #setTerm(term: number): void {
    assert(term >= this.#term && Number.isSafeInteger(term), 'the term never goes back')
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
    this.#reset()
    this.role = 'leader'
    this.leader = this.id
    const { windowMessages, windowBytes } = this.limits
    const session = this.log.config.index
    for (const id of this.peers) {
      this.progress.set(id, new Progress(this.log.lastIndex + 1, session, windowMessages, windowBytes))
    }
    this.firstOwnIndex = this.log.lastIndex + 1
  }

  /** The local invariants; called after every step. */
  check(): void {
    this.log.check()
    assert(this.log.lastTerm <= this.#term, 'the log has no term above the current one')
    assert(this.role !== 'leader' || (this.leader === this.id && this.#vote === this.id), 'a leader leads itself')
    assert(this.role === 'leader' || this.progress.size === 0, 'only a leader follows the progress of others')
    assert(this.role === 'leader' || this.transferee === '', 'only a leader hands over')
    for (const progress of this.progress.values()) progress.check(this.log.lastIndex)
  }
}
