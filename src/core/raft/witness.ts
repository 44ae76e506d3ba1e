/**
 * The witness rule (docs/RULES.md, rule 8): two full members and a witness stay available when either full member is
 * lost, and what was acknowledged is not lost with it.
 *
 * The leader sends an entry to the witness only when it has it on its own disk and another full member has it too, so
 * the witness is never ahead of either, and its vote always helps the one that is left. When no other full member has
 * kept up for an election timeout, the leader is alone: it notes that with a `solo` entry, sends to the witness what is
 * on its own disk and commits with it. From then on the witness is ahead of the silent member and does not elect it, so
 * an entry that was acknowledged by the pair is never replaced; and never ahead of the leader, which it must be able to
 * elect again. A leader that hears neither of them is not alone but cut off: it could still speak to the witness, and put
 * it ahead of the member that the witness has to elect. That ends when the member has caught up with all that the witness was sent, the `solo` entry included:
 * it is committed then, so that a member that is slow again and again does not make the log grow by such entries alone.
 * Invariants: no entry is sent to a witness that is not on the leader's disk; without `solo`, none that no other full
 * member has acknowledged.
 */

import { emptyBytes } from '../../base/bytes.ts'
import type { Progress } from './progress.ts'
import type { RaftState } from './state.ts'

/** A member this close behind is waited for, so that the witness does not run ahead of it for ever. */
const nearEntries = 1024

/** The other members that hold everything. */
function partners(state: RaftState): Progress[] {
  const out: Progress[] = []
  for (const id of state.roster.full) {
    const progress = state.progress.get(id)
    if (progress !== undefined) out.push(progress)
  }
  return out
}

/** Last entry that a witness may be sent. */
export function witnessEnd(state: RaftState): number {
  const { lastIndex, durable } = state.log
  const others = partners(state)
  if (!state.solo)
    return Math.min(
      durable,
      others.reduce((best, { match }) => Math.max(best, match), 0),
    )
  const near = others.find(
    (other) => other.state === 'replicate' && lastIndex - other.match <= nearEntries && !isLate(state, other),
  )
  return Math.min(durable, near?.match ?? durable)
}

function isLate(state: RaftState, other: Progress): boolean {
  return other.silence >= state.electionTicks || state.pairWait >= state.electionTicks
}

/** True when a witness answered while the silent member, silent for an election timeout by now, did not. */
function hearsWitness(state: RaftState): boolean {
  return [...state.progress.values()].some(({ witness, silence }) => witness && silence * 2 < state.electionTicks)
}

/** Looks whether this leader became alone, or is not any more. Called when it is elected and at each tick. */
export function considerSolo(state: RaftState, ticks: number): void {
  if (state.roster.witnesses.length === 0) {
    state.solo = false
    return
  }
  const others = partners(state)
  if (others.some(({ match }) => match >= state.pairMark)) {
    state.pairMark = state.log.lastIndex
    state.pairWait = 0
  } else state.pairWait += ticks
  if (!state.solo) {
    if (!others.every((other) => isLate(state, other)) || !hearsWitness(state)) return
    state.solo = true
    if (state.soloIndex <= state.log.commit) state.soloIndex = state.appendOwn('solo', emptyBytes).index
    return
  }
  const sent = [...state.progress.values()].filter(({ witness }) => witness).map(({ furthest }) => furthest)
  const all = Math.max(state.log.commit, state.soloIndex, ...sent)
  if (others.some((other) => other.state === 'replicate' && !isLate(state, other) && other.match >= all)) {
    state.solo = false
  }
}
