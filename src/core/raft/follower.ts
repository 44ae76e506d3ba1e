/**
 * A follower's side of replication.
 *
 * Safety rules kept here: entries are taken only after a matching previous entry; commit is at most what the leader and
 * this log are known to share (`min(leaderCommit, prevIndex + entries)`); every answer about the log is gated behind
 * the disk, refusals included.
 */

import { assert } from '../../base/assert.ts'
import type { AppendRequest, Heartbeat, ReadIndexReply, SnapshotOffer, TimeoutNow } from './messages.ts'
import { campaign } from './election.ts'
import type { RaftState } from './state.ts'

/** A message of the current term's leader arrived: follow it. */
function follow(state: RaftState, leader: string): void {
  assert(state.role !== 'leader', 'one leader per term')
  if (state.role !== 'follower') state.becomeFollower(state.term, leader)
  state.hearLeader(leader)
}

export function handleAppend(state: RaftState, request: AppendRequest): void {
  follow(state, request.from)
  const { log } = state
  const { from: to, session, prevIndex, prevTerm, entries } = request
  const reply = { kind: 'appendReply', to, term: state.term, session } as const
  if (prevIndex < log.commit) {
    state.emit({ ...reply, accepted: true, index: log.commit, hintIndex: 0, hintTerm: 0 }, true)
    return
  }
  if (!log.matches(prevIndex, prevTerm)) {
    const hint = log.lastAtMost(Math.min(prevIndex, log.lastIndex), prevTerm)
    state.emit({ ...reply, accepted: false, index: prevIndex, hintIndex: hint.index, hintTerm: hint.term }, true)
    return
  }
  log.merge(entries)
  const last = prevIndex + entries.length
  log.commitTo(Math.min(request.commit, last))
  state.emit({ ...reply, accepted: true, index: last, hintIndex: 0, hintTerm: 0 }, true)
}

export function handleHeartbeat(state: RaftState, message: Heartbeat): void {
  follow(state, message.from)
  // The leader sends at most what it knows to match here; a message of an earlier life of this log may say more.
  state.log.commitTo(Math.min(message.commit, state.log.lastIndex))
  const { from: to, context } = message
  state.emit({ kind: 'heartbeatReply', to, term: state.term, context }, false)
}

/** Announces a snapshot: the host receives and installs it, then calls `snapshotInstalled`. */
export function handleSnapshotOffer(state: RaftState, offer: SnapshotOffer): void {
  follow(state, offer.from)
  if (offer.index > state.log.commit) return
  acknowledgeSnapshot(state, offer.from, offer.session, state.log.commit)
}

export function acknowledgeSnapshot(state: RaftState, to: string, session: number, index: number): void {
  const { term } = state
  state.emit({ kind: 'appendReply', to, term, session, accepted: true, index, hintIndex: 0, hintTerm: 0 }, true)
}

export function handleTimeoutNow(state: RaftState, message: TimeoutNow): void {
  if (state.role !== 'follower') return
  if (!state.log.matches(message.lastIndex, message.lastTerm)) return
  campaign(state, 'forced')
}

/** Asks the leader about the reads that wait here. Called once before each `Ready`. */
export function flushFollower(state: RaftState): void {
  const { followerReads, leader, limits } = state
  if (followerReads.waiting === 0 || leader === '' || followerReads.underWay >= limits.readBatches) return
  state.emit({ kind: 'readIndex', to: leader, term: state.term, context: followerReads.ask() }, false)
}

/** What was asked may be lost: it is asked again under the same context, as often as the leader sends heartbeats. */
export function askAgain(state: RaftState): void {
  if (++state.heartbeatElapsed < state.heartbeatTicks) return
  state.heartbeatElapsed = 0
  const { leader: to, term } = state
  if (to === '') return
  for (const context of state.followerReads.asked) state.emit({ kind: 'readIndex', to, term, context }, false)
}

export function readThroughLeader(state: RaftState, token: number): 'waiting' | 'not-leader' | 'overloaded' {
  if (state.leader === '' || state.clusterVersion < 2) return 'not-leader'
  if (state.followerReads.waiting >= state.limits.readsWaiting) return 'overloaded'
  state.followerReads.add(token)
  return 'waiting'
}

export function handleReadReply(state: RaftState, reply: ReadIndexReply): void {
  if (reply.from !== state.leader) return
  for (const token of state.followerReads.answered(reply.context)) {
    state.confirmedReads.push({ token, index: reply.index })
  }
}
