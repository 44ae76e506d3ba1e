/** Lines of a trace: one for each event, with a column for every node. */

import type { Message } from '../../core/raft/messages.ts'
import type { SimEvent } from './loop.ts'
import type { SimNode } from './node.ts'

/** Virtual milliseconds, who, what. The same shape as the traces of the whole-cluster simulator. */
export type TraceLine = (timeMs: number, host: string, text: string) => void

const roleLetters: Readonly<Record<string, string>> = {
  follower: 'F',
  'pre-candidate': 'P',
  candidate: 'C',
  leader: 'L',
}

function describeMessage(message: Message): string {
  switch (message.kind) {
    case 'vote':
      return `${message.pre ? 'pre-vote' : 'vote'} t${message.term} last ${message.lastIndex}/${message.lastTerm}`
    case 'voteReply':
      return `${message.pre ? 'pre-' : ''}${message.granted ? 'grant' : 'refusal'} t${message.term}`
    case 'append': {
      const { entries, prevIndex, prevTerm, commit } = message
      return `append t${message.term} ${entries.length} after ${prevIndex}/${prevTerm} commit ${commit}`
    }
    case 'appendReply':
      return message.accepted
        ? `ack t${message.term} ${message.index}`
        : `reject t${message.term} ${message.index} hint ${message.hintIndex}/${message.hintTerm}`
    case 'heartbeat':
    case 'heartbeatReply':
      return `${message.kind} t${message.term} context ${message.context}`
    case 'snapshot':
      return `snapshot t${message.term} ${message.index}/${message.indexTerm}`
    case 'timeoutNow':
      return `take over t${message.term}`
    case 'readIndex':
    case 'readIndexReply':
      return `${message.kind} ${message.context}`
  }
}

function describeDetail(detail: unknown): string {
  if (detail === undefined) return ''
  if (typeof detail === 'string') return detail
  if (typeof detail !== 'object' || detail === null) return ''
  if ('messages' in detail && 'name' in detail) {
    return `${String(detail.name)}: ${(detail.messages as Message[]).map(describeMessage).join('; ')}`
  }
  if ('offer' in detail || ('configIndex' in detail && 'indexTerm' in detail)) return describeMessage(detail as Message)
  return JSON.stringify(detail)
}

/** `L5 12/14/10`: role and term, commit, last and applied index; `-` when it does not run. */
function column(node: SimNode): string {
  const { core } = node
  if (core === undefined) return `${node.id} ${node.state}`
  const { role, term, commit, lastIndex, applied, solo } = core.view
  const flags = `${solo ? '!' : ''}${node.paused ? '~' : ''}`
  return `${node.id} ${roleLetters[role]}${term}${flags} ${commit}/${lastIndex}/${applied}`
}

export function traceEvent(trace: TraceLine, event: SimEvent, nodes: readonly SimNode[]): void {
  const who = event.owner === undefined ? '' : (nodes[event.owner.slot]?.id ?? '')
  const columns = nodes.filter((node) => node.state !== 'spare').map((node) => column(node).padEnd(20))
  trace(event.timeUs / 1000, who, `${event.kind.padEnd(8)} ${columns.join('| ')} ${describeDetail(event.detail)}`)
}
