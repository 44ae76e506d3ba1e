/**
 * A leader's side: appending, committing, hearing of the others, serving read indexes.
 *
 * Safety rules kept here: only entries of the current term commit by counting (`advanceCommit`); the leader counts
 * itself only up to what it has on disk; the first entry of a term is a no-op; reads wait for it and for a quorum that
 * answered after they came; a leader that hears no quorum for an election timeout steps down; answers of another
 * replication session change nothing.
 */

import { emptyBytes } from '../../base/bytes.ts'
import type { NodeId } from '../../model/ids.ts'
import type { AppendReply, HeartbeatReply, ReadIndexRequest } from './messages.ts'
import { hasQuorum, quorumIndex } from './quorum.ts'
import { noteTold, settleConfig, tickDepartures, tickRemoved } from './reconfigure.ts'
import { probeAgain, replicate } from './replicate.ts'
import type { RaftState } from './state.ts'
import { handOver, tickTransfer } from './transfer.ts'
import { entryOverheadBytes, type ProposeResult } from './types.ts'
import { considerSolo } from './witness.ts'

/** First act of a new leader. */
export function lead(state: RaftState): void {
  state.appendOwn('noop', emptyBytes)
  considerSolo(state, 0)
  advanceCommit(state)
  broadcastHeartbeat(state)
}

export function propose(state: RaftState, payload: Uint8Array): ProposeResult {
  if (state.role !== 'leader') return { ok: false, reason: 'not-leader' }
  if (state.transferee !== '') return { ok: false, reason: 'transferring' }
  const { uncommittedBytes, uncommittedEntries, entryBytes } = state.limits
  if (payload.length > entryBytes) return { ok: false, reason: 'too-large' }
  const bytes = state.uncommittedBytes + payload.length + entryOverheadBytes
  const full =
    state.log.lastIndex - state.log.commit >= uncommittedEntries ||
    (state.uncommittedBytes > 0 && bytes > uncommittedBytes)
  if (full) return { ok: false, reason: 'overloaded' }
  const entry = state.appendOwn('command', payload)
  return { ok: true, term: entry.term, index: entry.index }
}

/** Counts what is durable where; commits entries of this term that a quorum has. */
export function advanceCommit(state: RaftState): void {
  const { log } = state
  const matchOf = (id: NodeId): number => (id === state.id ? log.durable : (state.progress.get(id)?.match ?? 0))
  const index = quorumIndex(state.voters, matchOf)
  if (index <= log.commit || log.term(index) !== state.term) return
  const committed = log.bytesOf(log.commit + 1, index)
  log.commitTo(index)
  state.uncommittedBytes = Math.max(0, state.uncommittedBytes - committed)
  settleConfig(state)
}

/** Sends what may be sent to everybody and serves reads. Called once before each `Ready`. */
export function flushLeader(state: RaftState): void {
  const { reads, log } = state
  if (reads.waiting > 0 && reads.underWay < state.limits.readBatches && log.commit >= state.firstOwnIndex) {
    reads.begin(log.commit, state.id)
    broadcastHeartbeat(state)
  }
  for (const { index, tokens, remote } of reads.takeConfirmed(state.voters)) {
    for (const token of tokens) state.confirmedReads.push({ token, index })
    for (const { from: to, context } of remote) {
      state.emit({ kind: 'readIndexReply', to, term: state.term, context, index }, false)
    }
  }
  replicate(state)
}

/** Asks for a linearizable read of this leader. */
export function readHere(state: RaftState, token: number): 'waiting' | 'not-leader' | 'overloaded' {
  const { reads, log, lease, limits } = state
  if (state.transferee !== '') return 'not-leader'
  if (reads.waiting >= limits.readsWaiting) return 'overloaded'
  const settled = log.commit >= state.firstOwnIndex
  if (state.leaseReads && settled && lease.holds(state.voters, state.id)) {
    state.confirmedReads.push({ token, index: log.commit })
  } else reads.add(token)
  return 'waiting'
}

/** A member wants to serve reads itself. When it cannot be helped now, it asks again. */
export function handleReadRequest(state: RaftState, request: ReadIndexRequest): void {
  const { reads, limits } = state
  if (!state.isMember(request.from) || state.transferee !== '' || reads.waiting >= limits.readsWaiting) return
  reads.addRemote({ from: request.from, context: request.context })
}

function broadcastHeartbeat(state: RaftState): void {
  state.heartbeatElapsed = 0
  const { term } = state
  if (state.leaseReads) state.lease.sent(state.reads.newRound())
  const context = state.leaseReads ? state.reads.newest : state.reads.context
  for (const [to, progress] of state.progress) {
    const commit = Math.min(progress.match, state.log.commit)
    state.emit({ kind: 'heartbeat', to, term, commit, context }, false)
    noteTold(state, to, progress, false)
  }
}

export function handleHeartbeatReply(state: RaftState, reply: HeartbeatReply): void {
  const progress = state.progress.get(reply.from)
  if (progress === undefined) return
  progress.heard()
  state.reads.confirm(reply.from, reply.context)
  state.lease.answered(reply.from, reply.context)
  probeAgain(state, reply.from, progress)
  if (state.transferee === reply.from) handOver(state)
  noteTold(state, reply.from, progress, true)
}

export function handleAppendReply(state: RaftState, reply: AppendReply): void {
  const progress = state.progress.get(reply.from)
  if (progress === undefined || progress.session !== reply.session) return
  progress.heard()
  const { log } = state
  if (!reply.accepted) {
    const candidate = reply.hintTerm > 0 ? log.lastAtMost(reply.hintIndex, reply.hintTerm).index : reply.hintIndex
    progress.refused(reply.index, candidate)
    return
  }
  if (reply.index > log.lastIndex) return
  const news = progress.acknowledged(reply.index)
  const met = news || (progress.state === 'probe' && reply.index === progress.match)
  if (!met) return
  const outOfSnapshot = progress.state === 'snapshot' && progress.match >= log.baseIndex
  if (progress.state === 'probe' || outOfSnapshot) progress.becomeReplicate()
  if (news) advanceCommit(state)
  if (state.transferee === reply.from) handOver(state)
}

export function tickLeader(state: RaftState): void {
  tickTransfer(state)
  if (tickRemoved(state)) return
  for (const progress of state.progress.values()) progress.silence++
  if (++state.electionElapsed >= state.electionTicks) {
    state.electionElapsed = 0
    const heard = hasQuorum(state.voters, (id) => id === state.id || state.progress.get(id)?.active === true)
    if (!heard) {
      state.becomeFollower(state.term, '')
      return
    }
    for (const progress of state.progress.values()) progress.active = false
  }
  considerSolo(state, 1)
  tickDepartures(state)
  if (++state.heartbeatElapsed >= state.heartbeatTicks) broadcastHeartbeat(state)
}
