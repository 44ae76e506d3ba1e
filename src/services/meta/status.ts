/**
 * The answer to "how is the cluster": verdict first, then what it rests on. Answered by the leader, from what it knows now;
 * the control part (nodes, redundancy, repair) comes from the controllers, the rest from Raft and the state's counters.
 */

import type { holdfast } from '../../wire/messages.ts'
import type { MetaQueries } from './queries.ts'
import type { ReplicatorStatus } from './types.ts'

/** The controllers' share of the status. */
export type ControlPart = Pick<
  holdfast.v1.StatusReply.$Properties,
  'verdict' | 'summary' | 'codes' | 'canLose' | 'nodes' | 'chunks' | 'repair' | 'corruptions'
>

const verdicts = ['healthy', 'degraded', 'at-risk', 'data-lost'] as const

export async function composeStatus(
  queries: MetaQueries,
  raft: ReplicatorStatus,
  control: ControlPart,
): Promise<holdfast.v1.StatusReply.$Properties> {
  const [applied, cluster] = await Promise.all([queries.applied(), queries.cluster()])
  const codes = [...metaCodes(raft), ...(control.codes ?? [])]
  const verdict = worst(control.verdict ?? 'healthy', codes.length > 0 ? 'degraded' : 'healthy')
  return {
    ...control,
    verdict,
    summary: summaryOf(control, raft),
    codes,
    meta: metaStatus(raft),
    clusterId: cluster?.clusterId ?? '',
    clusterVersion: cluster?.version ?? 0,
    objects: applied?.objects ?? 0,
    bytes: applied?.bytes ?? 0,
  }
}

function worst(a: string, b: string): string {
  const rank = (verdict: string): number => verdicts.findIndex((one) => one === verdict)
  return rank(a) >= rank(b) ? a : b
}

function silentPeers(raft: ReplicatorStatus): string[] {
  return raft.peers.filter((peer) => peer.id !== raft.id && !peer.reachable).map((peer) => peer.id)
}

function metaCodes(raft: ReplicatorStatus): holdfast.v1.HealthCode.$Properties[] {
  const silent = silentPeers(raft)
  if (silent.length === 0) return []
  const voters = raft.peers.filter((peer) => peer.role !== 'learner').length
  const spare = Math.ceil(voters / 2) - 1 - silent.length
  const severity = spare > 0 ? 'warning' : 'critical'
  const margin = spare > 0 ? `${spare} more may fail` : 'none more may fail'
  return [{ code: 'META_DOWN', severity, summary: `meta ${silent.join(', ')} does not answer: ${margin}; restart it` }]
}

function summaryOf(control: ControlPart, raft: ReplicatorStatus): string {
  const silent = silentPeers(raft)
  if (silent.length === 0) return control.summary ?? ''
  const meta = `${raft.peers.length - silent.length} of ${raft.peers.length} meta nodes answer`
  return control.verdict === 'healthy' || !control.summary ? `degraded: ${meta}` : `${control.summary}; ${meta}`
}

function metaStatus(raft: ReplicatorStatus): holdfast.v1.MetaStatus.$Properties[] {
  return raft.peers.map((peer) => ({
    id: peer.id,
    addresses: [...peer.addresses],
    role: peer.role,
    reachable: peer.id === raft.id || peer.reachable,
    term: raft.term,
    applied: peer.id === raft.id ? raft.applied : peer.match,
  }))
}
