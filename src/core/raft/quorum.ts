/**
 * Counting majorities: the committed index and the outcome of a vote. `groups` holds one list of voters for each
 * majority that must agree: one today, two during a joint change.
 *
 * Invariant: every decision needs a majority of every group, so two decisions always share a voter.
 */

import type { NodeId } from '../../model/ids.ts'
import type { ClusterConfig } from './types.ts'

export type VoterGroups = readonly (readonly NodeId[])[]

/** The majorities that decide under `config`. */
export function voterGroups(config: ClusterConfig): VoterGroups {
  const incoming = config.members.filter((member) => member.role === 'voter' || member.role === 'witness')
  const ids = incoming.map((member) => member.id)
  return config.outgoing.length === 0 ? [ids] : [ids, config.outgoing]
}

export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1
}

/** The largest index that a majority of every group has; 0 without voters. */
export function quorumIndex(groups: VoterGroups, matchOf: (id: NodeId) => number): number {
  let lowest = Number.POSITIVE_INFINITY
  for (const voters of groups) {
    if (voters.length === 0) return 0
    const sorted = voters.map(matchOf).sort((a, b) => b - a)
    lowest = Math.min(lowest, sorted[majorityOf(voters.length) - 1] ?? 0)
  }
  return lowest === Number.POSITIVE_INFINITY ? 0 : lowest
}

/** True when `holds` is true for a majority of every group. */
export function hasQuorum(groups: VoterGroups, holds: (id: NodeId) => boolean): boolean {
  if (groups.length === 0) return false
  return groups.every((voters) => voters.length > 0 && voters.filter(holds).length >= majorityOf(voters.length))
}

/** What the votes so far decide. */
export function voteOutcome(groups: VoterGroups, votes: ReadonlyMap<NodeId, boolean>): 'won' | 'lost' | 'pending' {
  if (hasQuorum(groups, (id) => votes.get(id) === true)) return 'won'
  return hasQuorum(groups, (id) => votes.get(id) !== false) ? 'pending' : 'lost'
}
