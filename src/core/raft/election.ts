/**
 * Elections: campaigning, granting votes, counting them, and how the loss of a leader is noticed.
 *
 * Safety rules kept here: a vote goes only to a log that is at least as complete (`mayVote`), once per term, and is
 * answered only after it is durable (gated). Requests for votes are gated too: a candidate that crashed before its own
 * vote was durable must not be able to win the same term twice. A node counts its own vote when it is durable.
 * Pre-votes change nothing at anybody; they keep a node that cannot win from raising the term.
 * Who may vote is not asked: a candidate asks those who decide by its own configuration, and one that is behind (a
 * learner that was promoted meanwhile, a member that does not know the candidate yet) must be able to help. A learner that
 * cannot help, because it has more than the candidate, leads itself when the voters want it: its promotion may have begun,
 * and then there is nobody else who could. It counts in no majority; when it has committed what it has it steps aside.
 */

import { termMax } from '../../model/fence.ts'
import type { Message, VoteReply, VoteRequest } from './messages.ts'
import { lead } from './leader.ts'
import { isFull, isWitness } from './membership.ts'
import { voteOutcome } from './quorum.ts'
import type { RaftState } from './state.ts'

/** `pre`: ask first. `real`: raise the term and ask. `forced`: the leader asked us to take over. */
export type CampaignKind = 'pre' | 'real' | 'forced'

/** Ticks between the campaigns of the members that lost the same leader, and for which a campaign is new. */
const rankTicks = 2

/**
 * True when this node may lead: it holds everything, and decides under a configuration that may be in force. A node
 * whose removal is not known to be committed is still needed to commit it; a learner that was asked in vain is needed too.
 */
function mayCampaign(state: RaftState): boolean {
  const role = state.ownRole
  if (isWitness(role) || state.term >= termMax) return false
  if (state.isVoter || (role === 'learner' && state.askedInVain)) return true
  const possible = state.log.configsFrom(state.log.commit)
  return possible.some(({ config }) => config.members.some((member) => state.isSelf(member) && isFull(member.role)))
}

export function campaign(state: RaftState, kind: CampaignKind): void {
  if (state.role === 'leader' || !mayCampaign(state)) return
  const pre = kind === 'pre'
  if (pre) state.becomePreCandidate()
  else state.becomeCandidate()
  const { lastIndex, lastTerm } = state.log
  const term = pre ? state.term + 1 : state.term
  for (const to of state.roster.voters) {
    if (to === state.id) continue
    state.emit({ kind: 'vote', to, term, pre, forced: kind === 'forced', lastIndex, lastTerm }, true)
  }
  if (pre) countVote(state, state.id, true)
}

/** Time passes without a word of a leader. */
export function tickElection(state: RaftState): void {
  state.sinceLeader++
  if (++state.electionElapsed < state.electionTimeout) return
  // A disk that is slower than the timeout would otherwise never let a vote of its own count.
  if (state.role === 'candidate' && state.hardChanged) return
  state.electionElapsed = 0
  if (mayCampaign(state)) campaign(state, 'pre')
  else state.forgetLeader()
}

/**
 * The connection to the leader was reset or refused. Nobody here waits for it any more, and the members that may follow
 * it campaign one after the other, in the order of their ids, so that they do not split the votes. A member that still
 * hears the leader refuses, so a reset for another reason changes nothing. With lease reads a leader is believed to be
 * alive for the whole election timeout.
 */
export function leaderLost(state: RaftState, id: string): void {
  if (state.role !== 'follower' || state.leader !== id || state.leaseReads) return
  state.forgetLeader()
  state.sinceLeader = Math.max(state.sinceLeader, state.electionTicks)
  if (!mayCampaign(state)) return
  const rank = state.roster.full.filter((other) => other !== id && other < state.id).length
  if (rank === 0) {
    campaign(state, 'pre')
    return
  }
  state.hurried = true
  state.electionTimeout = Math.min(state.electionTimeout, state.electionElapsed + rank * rankTicks)
}

/** The candidate's own vote counts once it is on disk. */
export function ownVoteSaved(state: RaftState): void {
  if (state.role !== 'candidate' || state.hardChanged || state.votes.has(state.id)) return
  countVote(state, state.id, true)
}

/** While a leader is alive here, nobody else's election is supported, except on the leader's own request. */
export function supportsLeader(state: RaftState, message: Message): boolean {
  if (message.kind !== 'vote' || message.forced) return false
  const { leader, electionElapsed, electionTicks } = state
  return (leader !== '' && electionElapsed < electionTicks) || withholdsVotes(state)
}

/** A lease may rest on this node having heard a leader, even if it has forgotten it (a restart, a newer term). */
function withholdsVotes(state: RaftState): boolean {
  return state.leaseReads && state.role !== 'leader' && state.sinceLeader < state.electionTicks
}

function mayVote(state: RaftState, request: VoteRequest): boolean {
  const free = request.pre
    ? request.term > state.term
    : state.vote === request.from || (state.vote === '' && state.leader === '')
  if ((withholdsVotes(state) && !request.forced) || goesFirst(state, request)) return false
  return free && state.log.isUpToDate(request.lastIndex, request.lastTerm)
}

/**
 * Two members with equal logs that ask at the same time would grant each other and then split the votes: the one whose
 * id comes first goes on. Only while its own campaign is new, since it may not be heard.
 */
function goesFirst(state: RaftState, { pre, from, lastIndex, lastTerm }: VoteRequest): boolean {
  const asks = pre && state.role === 'pre-candidate' && state.electionElapsed < rankTicks
  return asks && state.id < from && state.log.lastIndex === lastIndex && state.log.lastTerm === lastTerm
}

export function handleVoteRequest(state: RaftState, request: VoteRequest): void {
  const granted = mayVote(state, request)
  if (granted && !request.pre) {
    state.giveVote(request.from)
    state.electionElapsed = 0
  }
  const term = granted ? request.term : state.term
  state.emit({ kind: 'voteReply', to: request.from, term, pre: request.pre, granted }, true)
  if (granted || state.ownRole !== 'learner' || state.role !== 'follower' || state.leader !== '') return
  if (state.log.isUpToDate(request.lastIndex, request.lastTerm)) return
  state.askedInVain = true
  campaign(state, 'pre')
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
