/**
 * A leader's changes of the membership.
 *
 * One change at a time, and none before an entry of this term is committed: otherwise two leaders could each change
 * what the other does not know. A change of voters appends the joint configuration, and when that is committed the
 * final one; a leader that finds a joint configuration in its log does the same after its own first commit. A
 * configuration is in force from its append on.
 * A leader that is not part of the final configuration works on until that is committed, then hands over and steps
 * down. Whoever left is still sent the entries up to the one that removed it, so that it learns of it; for a bounded
 * time.
 */

import type { NodeId } from '../../model/ids.ts'
import { leaveJoint, planChange } from './membership.ts'
import { encodeConfig } from './messages.ts'
import type { Progress } from './progress.ts'
import type { RaftState } from './state.ts'
import { bestSuccessor, transferTo } from './transfer.ts'
import type { ChangeResult, ClusterConfig, Entry, MemberChange } from './types.ts'

/** A learner is promoted when it lacks at most this many of the committed entries. */
const promotionLag = 1024
/** Election timeouts for which a member that left is told so. */
const departureTimeouts = 4
/** Answers of a member that left to messages that said all: the first may be to an earlier one. */
const toldEnough = 2

export function change(state: RaftState, wanted: MemberChange): ChangeResult {
  const { log } = state
  if (state.role !== 'leader') return { ok: false, reason: 'not-leader' }
  if (state.clusterVersion < 2) return { ok: false, reason: 'version' }
  if (state.transferee !== '') return { ok: false, reason: 'transferring' }
  if (log.commit < state.firstOwnIndex) return { ok: false, reason: 'not-ready' }
  const { index, config } = log.config
  if (index > log.commit || config.outgoing.length > 0) return { ok: false, reason: 'pending' }
  const plan = planChange(config, wanted, {
    lag: (id) => lagOf(state, id),
    silent: (id) => id !== state.id && (state.progress.get(id)?.silence ?? 0) >= state.electionTicks,
  })
  if ('why' in plan) return { ok: false, reason: 'invalid', why: plan.why }
  const entry = appendConfig(state, plan.config)
  return { ok: true, term: entry.term, index: entry.index }
}

function lagOf(state: RaftState, id: NodeId): string | undefined {
  const progress = state.progress.get(id)
  if (progress === undefined || progress.silence >= state.electionTicks) return 'it does not answer'
  const { commit } = state.log
  if (progress.state === 'replicate' && commit - progress.match <= promotionLag) return undefined
  return `it has entry ${progress.match} of ${commit}`
}

function appendConfig(state: RaftState, config: ClusterConfig): Entry {
  const entry = state.appendOwn('config', encodeConfig(config))
  state.adoptMembers()
  return entry
}

/** Commit has moved: goes on with the change that is under way. */
export function settleConfig(state: RaftState): void {
  const { log } = state
  const { index, config } = log.config
  if (index > log.commit || log.commit < state.firstOwnIndex) return
  if (config.outgoing.length > 0) appendConfig(state, leaveJoint(config))
  else if (!state.isVoter) stepAside(state)
}

/** This leader was removed, and that is committed. */
function stepAside(state: RaftState): void {
  if (state.transferee !== '') return
  const successor = bestSuccessor(state)
  if (successor === undefined || !transferTo(state, successor)) state.becomeFollower(state.term, '')
}

/** A leader that is no voter and could not hand over leaves its post. True when it did. */
export function tickRemoved(state: RaftState): boolean {
  const { log } = state
  const settled = log.config.index <= log.commit && state.firstOwnIndex <= log.commit
  if (state.isVoter || !settled || state.transferee !== '') return false
  state.becomeFollower(state.term, '')
  return true
}

/** Forgets those who left when they know it, or after a while. */
export function tickDepartures(state: RaftState): void {
  const { commit } = state.log
  for (const [id, progress] of state.progress) {
    if (progress.departing === 0 || commit < progress.departing) continue
    progress.departingTicks++
    if (progress.departingTicks > departureTimeouts * state.electionTicks) state.progress.delete(id)
  }
}

/** A message that tells a member that left of its removal was sent, or such a member answered. */
export function noteTold(state: RaftState, id: NodeId, progress: Progress, answered: boolean): void {
  if (progress.departing === 0) return
  const knows = Math.min(progress.match, state.log.commit) >= progress.departing
  if (!answered) {
    if (knows) progress.told = Math.max(1, progress.told)
    return
  }
  if (progress.told > 0 && ++progress.told > toldEnough) state.progress.delete(id)
}
