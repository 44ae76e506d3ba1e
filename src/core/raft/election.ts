/**
 * Elections: campaigning, granting votes, counting them.
 *
 * Safety rules kept here: a vote goes only to a log that is at least as complete (`mayVote`), once per term, and is
 * answered only after it is durable (gated). Requests for votes are gated too: a candidate that crashed before its own
 * vote was durable must not be able to win the same term twice. A node counts its own vote when it is durable.
 * Pre-votes change nothing at anybody; they keep a node that cannot win from raising the term.
 */

import type { VoteReply, VoteRequest } from './messages.ts'
import { voteOutcome } from './quorum.ts'
import type { RaftState } from './state.ts'
import { lead } from './leader.ts'

/** `pre`: ask first. `real`: raise the term and ask. `forced`: the leader asked us to take over. */
export type CampaignKind = 'pre' | 'real' | 'forced'

export function campaign(state: RaftState, kind: CampaignKind): void {
  if (state.role === 'leader' || !state.isMember(state.id)) return
  const pre = kind === 'pre'
  if (pre) state.becomePreCandidate()
  else state.becomeCandidate()
  const { lastIndex, lastTerm } = state.log
  const term = pre ? state.term + 1 : state.term
  for (const to of state.peers) {
    state.emit({ kind: 'vote', to, term, pre, forced: kind === 'forced', lastIndex, lastTerm }, true)
  }
  if (pre) countVote(state, state.id, true)
}

/** The candidate's own vote counts once it is on disk. */
export function ownVoteSaved(state: RaftState): void {
  if (state.role !== 'candidate' || state.hardChanged || state.votes.has(state.id)) return
  countVote(state, state.id, true)
}

function mayVote(state: RaftState, request: VoteRequest): boolean {
  const free = request.pre
    ? request.term > state.term
    : state.vote === request.from || (state.vote === '' && state.leader === '')
  return free && state.log.isUpToDate(request.lastIndex, request.lastTerm)
}

export function handleVoteRequest(state: RaftState, request: VoteRequest): void {
  const granted = mayVote(state, request)
  if (granted && !request.pre) {
    state.giveVote(request.from)
    state.electionElapsed = 0
  }
  const term = granted ? request.term : state.term
  state.emit({ kind: 'voteReply', to: request.from, term, pre: request.pre, granted }, true)
}

export function handleVoteReply(state: RaftState, reply: VoteReply): void {
  if (state.role !== (reply.pre ? 'pre-candidate' : 'candidate')) return
  if (reply.pre && reply.granted && reply.term !== state.term + 1) return
  countVote(state, reply.from, reply.granted)
}

function countVote(state: RaftState, from: string, granted: boolean): void {
  if (!state.votes.has(from)) state.votes.set(from, granted)
  const outcome = voteOutcome(state.voters, state.votes)
  if (outcome === 'lost') state.becomeFollower(state.term, '')
  else if (outcome === 'won' && state.role === 'pre-candidate') campaign(state, 'real')
  else if (outcome === 'won') {
    if (state.hardChanged) return
    state.becomeLeader()
    lead(state)
  }
}
