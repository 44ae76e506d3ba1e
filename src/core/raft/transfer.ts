/**
 * Handing leadership over: proposals stop, the successor gets everything, then it is told to start an election at once.
 *
 * Invariants: only a voter is handed to; the attempt ends after an election timeout, whatever happened; the successor
 * is named the last entry, and does nothing unless it has it. Once tried, this term has no lease any more (lease.ts).
 */

import type { NodeId } from '../../model/ids.ts'
import type { RaftState } from './state.ts'

/** Starts handing leadership to `to`; false when that is not possible. */
export function transferTo(state: RaftState, to: NodeId): boolean {
  if (state.role !== 'leader' || !state.progress.has(to) || state.roster.roleOf(to) !== 'voter') return false
  state.transferee = to
  state.transferElapsed = 0
  state.lease.giveUp()
  handOver(state)
  return true
}

/** Tells the successor to start an election, once it has everything. Repeated when it answers: the message may be lost. */
export function handOver(state: RaftState): void {
  const { log, term, transferee: to } = state
  if (state.progress.get(to)?.match !== log.lastIndex) return
  state.emit({ kind: 'timeoutNow', to, term, lastIndex: log.lastIndex, lastTerm: log.lastTerm }, false)
}

/** The voter that needs the least to take over, among those that answer; undefined when there is none. */
export function bestSuccessor(state: RaftState): NodeId | undefined {
  let best: NodeId | undefined
  let match = -1
  for (const [id, progress] of state.progress) {
    const able = state.roster.roleOf(id) === 'voter' && progress.silence < state.electionTicks
    if (!able || progress.match <= match) continue
    best = id
    match = progress.match
  }
  return best
}

export function tickTransfer(state: RaftState): void {
  if (state.transferee === '' || ++state.transferElapsed < state.electionTicks) return
  state.transferee = ''
  state.transferElapsed = 0
}
