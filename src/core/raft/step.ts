/**
 * One message arrives. Terms are compared here and nowhere else.
 *
 * Messages are not refused because their sender is no member: the configuration of a node that lags does not name a
 * leader or candidate that came later, and following it is how the node learns of it. The transport has checked the
 * cluster and, of members, the incarnation. Four rules keep a stranger from disturbing: its vote requests are not
 * supported while a leader is alive; its answers do not carry a newer term in, and count for nothing, because what
 * counts is asked of the configuration; it carries in no term that is far ahead, so that no single message can use up
 * the terms there are; and it cannot lead without the votes of a majority.
 */

import { handleVoteReply, handleVoteRequest, supportsLeader } from './election.ts'
import { handleAppend, handleHeartbeat, handleReadReply, handleSnapshotOffer, handleTimeoutNow } from './follower.ts'
import { handleAppendReply, handleHeartbeatReply, handleReadRequest } from './leader.ts'
import type { Message } from './messages.ts'
import type { RaftState } from './state.ts'

/** How far above this node's a term may be that somebody unknown carries in. */
const strangerTermsMax = 65_536

type FromLeader = Extract<Message, { kind: 'append' | 'heartbeat' | 'snapshot' }>

export function step(state: RaftState, message: Message): void {
  if (message.to !== state.id || message.from === state.id) return
  if (message.term > state.term) {
    if (supportsLeader(state, message) || !mayRaiseTerm(state, message)) return
    // A pre-vote and its grant carry a term that nobody is in yet.
    const asksOnly = (message.kind === 'vote' || (message.kind === 'voteReply' && message.granted)) && message.pre
    if (!asksOnly) state.becomeFollower(message.term, isFromLeader(message) ? message.from : '')
  } else if (message.term < state.term) {
    answerOldTerm(state, message)
    return
  }
  dispatch(state, message)
}

/**
 * Leaders and candidates may be unknown here. Whoever answers was asked by this node, so it is a member. A node that missed
 * more elections than `strangerTermsMax` and knows no member any more is replaced.
 */
function mayRaiseTerm(state: RaftState, message: Message): boolean {
  if (state.isMember(message.from)) return true
  const near = message.term - state.term <= strangerTermsMax
  return near && (isFromLeader(message) || message.kind === 'vote')
}

/** Tells a sender with an older term about the newer one, so that it does not stay stuck. */
function answerOldTerm(state: RaftState, message: Message): void {
  const { term } = state
  if (isFromLeader(message)) {
    const session = message.kind === 'heartbeat' ? 0 : message.session
    const refusal = { accepted: false, index: 0, hintIndex: 0, hintTerm: 0 }
    state.emit({ kind: 'appendReply', to: message.from, term, session, ...refusal }, true)
  } else if (message.kind === 'vote') {
    state.emit({ kind: 'voteReply', to: message.from, term, pre: message.pre, granted: false }, true)
  }
}

function dispatch(state: RaftState, message: Message): void {
  // A second leader of one term does not exist; if a peer says so, it is not believed.
  if (state.role === 'leader' && isFromLeader(message)) return
  if (message.kind === 'append') handleAppend(state, message)
  else if (message.kind === 'heartbeat') handleHeartbeat(state, message)
  else if (message.kind === 'snapshot') handleSnapshotOffer(state, message)
  else if (message.kind === 'vote') handleVoteRequest(state, message)
  else if (message.kind === 'voteReply') handleVoteReply(state, message)
  else if (message.kind === 'timeoutNow') handleTimeoutNow(state, message)
  else if (message.kind === 'readIndexReply') handleReadReply(state, message)
  else if (state.role !== 'leader') return
  else if (message.kind === 'appendReply') handleAppendReply(state, message)
  else if (message.kind === 'heartbeatReply') handleHeartbeatReply(state, message)
  else handleReadRequest(state, message)
}

/** Messages that only a leader sends. */
function isFromLeader(message: Message): message is FromLeader {
  return message.kind === 'append' || message.kind === 'heartbeat' || message.kind === 'snapshot'
}
