/**
 * A leader's side: appending, replicating, committing, serving read indexes, handing over.
 *
 * Safety rules kept here: only entries of the current term commit by counting (`advanceCommit`); the leader counts
 * itself only up to what it has on disk; the first entry of a term is a no-op; reads wait for it and for a quorum that
 * answered after they came; a leader that hears no quorum for an election timeout steps down; answers of another
 * replication session change nothing.
 */

import { emptyBytes } from '../../base/bytes.ts'
import { assert } from '../../base/assert.ts'
import type { NodeId } from '../../model/ids.ts'
import type { AppendReply, HeartbeatReply } from './messages.ts'
import type { Progress } from './progress.ts'
import { hasQuorum, quorumIndex } from './quorum.ts'
import type { RaftState } from './state.ts'
import { type Entry, entryBytes, type ProposeResult } from './types.ts'

/** Entries in one append message, whatever their size. */
const messageEntriesMax = 1024

/** First act of a new leader. */
export function lead(state: RaftState): void {
  appendOwn(state, 'noop', emptyBytes)
  advanceCommit(state)
  broadcastHeartbeat(state)
}

function appendOwn(state: RaftState, type: Entry['type'], payload: Uint8Array): Entry {
  const entry: Entry = { index: state.log.lastIndex + 1, term: state.term, type, payload }
  state.log.append([entry])
  state.uncommittedBytes += entryBytes(entry)
  return entry
}

export function propose(state: RaftState, payload: Uint8Array): ProposeResult {
  if (state.role !== 'leader') return { ok: false, reason: 'not-leader' }
  if (state.transferee !== '') return { ok: false, reason: 'transferring' }
  const { uncommittedBytes, uncommittedEntries } = state.limits
  const full =
    state.log.lastIndex - state.log.commit >= uncommittedEntries ||
    (state.uncommittedBytes > 0 && state.uncommittedBytes + payload.length > uncommittedBytes)
  if (full) return { ok: false, reason: 'overloaded' }
  const entry = appendOwn(state, 'command', payload)
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
}

/** Sends what may be sent to everybody and starts waiting reads. Called once before each `Ready`. */
export function flushLeader(state: RaftState): void {
  const { reads, log } = state
  const mayRead = log.term(log.commit) === state.term && reads.underWay < state.limits.readBatches
  if (reads.waiting > 0 && mayRead) {
    reads.begin(log.commit, state.id)
    broadcastHeartbeat(state)
  }
  for (const to of state.peers) {
    const progress = state.progress.get(to)
    if (progress === undefined) continue
    while (progress.maySend && (progress.state === 'probe' || progress.next <= log.lastIndex)) {
      if (!sendAppend(state, to, progress)) break
    }
  }
}

/** Sends the next entries (or an empty probe) to one member; false when it has to wait for something. */
function sendAppend(state: RaftState, to: NodeId, progress: Progress): boolean {
  const { log, limits } = state
  const prevIndex = progress.next - 1
  if (log.term(prevIndex) === undefined) {
    if (!progress.active) return false
    progress.becomeSnapshot()
    state.snapshots.push({ to, term: state.term })
    return false
  }
  if (progress.next > log.lastIndex) {
    emitAppend(state, to, progress, prevIndex, [])
    return true
  }
  const last = log.batchEnd(progress.next, limits.messageBytes, messageEntriesMax)
  const entries = log.cached(progress.next, last)
  if (entries === undefined) {
    progress.fetching = true
    state.fetches.push({ to, first: progress.next, last, bytes: limits.messageBytes })
    return false
  }
  emitAppend(state, to, progress, prevIndex, entries)
  return true
}

function emitAppend(
  state: RaftState,
  to: NodeId,
  progress: Progress,
  prevIndex: number,
  entries: readonly Entry[],
): void {
  const { log, term } = state
  const prevTerm = log.term(prevIndex)
  assert(prevTerm !== undefined, 'the entry before a sent one is known')
  const { session } = progress
  state.emit({ kind: 'append', to, term, session, prevIndex, prevTerm, commit: log.commit, entries }, false)
  let bytes = 0
  for (const entry of entries) bytes += entryBytes(entry)
  progress.sent(prevIndex + entries.length, bytes)
}

/** Entries that were asked for with a fetch task have been read. */
export function fetched(state: RaftState, to: NodeId, entries: readonly Entry[]): void {
  const progress = state.progress.get(to)
  if (progress === undefined || !progress.fetching) return
  progress.fetching = false
  const first = entries[0]
  const usable =
    first !== undefined &&
    first.index === progress.next &&
    progress.maySend &&
    state.log.term(first.index - 1) !== undefined &&
    entries.every((entry) => state.log.matches(entry.index, entry.term))
  if (usable) emitAppend(state, to, progress, first.index - 1, entries)
}

export function broadcastHeartbeat(state: RaftState): void {
  state.heartbeatElapsed = 0
  const { term } = state
  const { context } = state.reads
  for (const to of state.peers) {
    const commit = Math.min(state.progress.get(to)?.match ?? 0, state.log.commit)
    state.emit({ kind: 'heartbeat', to, term, commit, context }, false)
  }
}

export function handleHeartbeatReply(state: RaftState, reply: HeartbeatReply): void {
  const progress = state.progress.get(reply.from)
  if (progress === undefined) return
  progress.active = true
  state.reads.confirm(reply.from, reply.context)
  if (progress.state === 'snapshot' || progress.fetching) return
  progress.paused = false
  // What was sent may be lost: one message at the end of what was sent finds out, by its refusal.
  if (progress.match < state.log.lastIndex) {
    const pipelined = progress.state === 'replicate'
    const prevIndex = progress.next - 1
    if (pipelined && state.log.term(prevIndex) !== undefined) emitAppend(state, reply.from, progress, prevIndex, [])
    else sendAppend(state, reply.from, progress)
  }
}

export function handleAppendReply(state: RaftState, reply: AppendReply): void {
  const progress = state.progress.get(reply.from)
  if (progress === undefined || progress.session !== reply.session) return
  progress.active = true
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
  advanceCommit(state)
  if (state.transferee === reply.from) handOver(state)
}

/** The host finished (or failed) streaming a snapshot that ends at `index`. */
export function snapshotSent(state: RaftState, to: NodeId, installed: boolean, index: number): void {
  const progress = state.progress.get(to)
  if (progress === undefined || progress.state !== 'snapshot') return
  progress.becomeProbe(installed ? Math.min(index, state.log.lastIndex) + 1 : progress.match + 1)
  // After a failure, wait for a sign of life before the next try.
  if (!installed) {
    progress.paused = true
    progress.active = false
  }
}

/** Starts handing leadership to `to`; false when that is not possible. */
export function transferTo(state: RaftState, to: NodeId): boolean {
  if (state.role !== 'leader' || to === state.id || !state.progress.has(to)) return false
  state.transferee = to
  state.transferElapsed = 0
  handOver(state)
  return true
}

/** Tells the transferee to start an election, once it has everything. */
function handOver(state: RaftState): void {
  const { log, term, transferee: to } = state
  if (state.progress.get(to)?.match !== log.lastIndex) return
  state.emit({ kind: 'timeoutNow', to, term, lastIndex: log.lastIndex, lastTerm: log.lastTerm }, false)
}

export function tickLeader(state: RaftState): void {
  if (state.transferee !== '' && ++state.transferElapsed >= state.electionTicks) {
    state.transferee = ''
    state.transferElapsed = 0
  }
  if (++state.electionElapsed >= state.electionTicks) {
    state.electionElapsed = 0
    const heard = hasQuorum(state.voters, (id) => id === state.id || state.progress.get(id)?.active === true)
    if (!heard) {
      state.becomeFollower(state.term, '')
      return
    }
    for (const progress of state.progress.values()) progress.active = false
  }
  if (++state.heartbeatElapsed >= state.heartbeatTicks) broadcastHeartbeat(state)
}
