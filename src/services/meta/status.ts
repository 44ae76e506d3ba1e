/**
 * The answer to "how is the cluster": verdict first, then what it rests on. Answered by the leader, from what it knows now;
 * the control part (nodes, redundancy, repair) comes from the controllers, the rest from Raft and the state's counters.
 */

import { newestVersion } from '../../model/version.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { MetaMachine } from './machine.ts'
import type { PeerStatus, Replicator, ReplicatorStatus } from './types.ts'

/** The controllers' share of the status. */
export type ControlPart = Pick<
  holdfast.v1.StatusReply.$Properties,
  'verdict' | 'summary' | 'codes' | 'canLose' | 'nodes' | 'chunks' | 'repair' | 'corruptions' | 'scrub'
>

/** What the status is made of beside the controllers' share. */
export interface StatusSources {
  readonly machine: Pick<MetaMachine, 'applied' | 'cluster'>
  readonly replicator: Pick<Replicator, 'status' | 'clusterIncarnation'>
  readonly control: { storageVersions(): readonly { readonly versionMax: number }[] }
}

type Code = holdfast.v1.HealthCode.$Properties

const verdicts = ['healthy', 'degraded', 'at-risk', 'data-lost'] as const
/** Told, and nothing to worry about. */
const notices: ReadonlySet<string> = new Set(['VERSION_BEHIND', 'META_LEARNER'])

export function composeStatus(sources: StatusSources, control: ControlPart): holdfast.v1.StatusReply.$Properties {
  const raft = sources.replicator.status()
  const applied = sources.machine.applied()
  const cluster = sources.machine.cluster()
  const meta = [...metaCodes(raft), ...clusterCodes(sources, raft)]
  const codes = [...meta, ...(control.codes ?? [])]
  const alarming = codes.some(({ code }) => !notices.has(code ?? ''))
  const verdict = worst(control.verdict ?? 'healthy', alarming ? 'degraded' : 'healthy')
  return {
    ...control,
    verdict,
    summary: summaryOf(control, raft, meta, verdict),
    codes,
    meta: membersStatus(raft),
    clusterId: cluster?.clusterId ?? '',
    clusterVersion: cluster?.version ?? 0,
    objects: applied.objects,
    bytes: applied.bytes,
  }
}

function worst(a: string, b: string): string {
  const rank = (verdict: string): number => verdicts.findIndex((one) => one === verdict)
  return rank(a) >= rank(b) ? a : b
}

function silentPeers(raft: ReplicatorStatus): string[] {
  return namesOf(raft, (peer) => peer.id !== raft.id && !peer.reachable)
}

function namesOf(raft: ReplicatorStatus, which: (peer: PeerStatus) => boolean): string[] {
  return raft.peers.filter(which).map((peer) => peer.id)
}

function metaCodes(raft: ReplicatorStatus): Code[] {
  const codes: Code[] = []
  const add = (code: string, severity: 'warning' | 'critical', summary: string): void => {
    codes.push({ code, severity, summary })
  }
  const silent = silentPeers(raft)
  if (silent.length > 0) {
    const voters = raft.peers.filter((peer) => peer.role !== 'learner')
    const gone = voters.filter((peer) => silent.includes(peer.id)).length
    const spare = Math.ceil(voters.length / 2) - 1 - gone
    const margin = spare > 0 ? `${spare} more may fail` : 'none more may fail'
    add(
      'META_DOWN',
      spare > 0 ? 'warning' : 'critical',
      `meta ${silent.join(', ')} does not answer: ${margin}; restart it`,
    )
  }
  if (raft.solo) {
    add('META_ONE_COPY', 'critical', 'the newest metadata has one full copy: bring the other meta node back')
  }
  if (raft.diverged.length > 0) {
    const who = raft.diverged.join(', ')
    add('META_DIVERGED', 'critical', `meta ${who} holds another state than ${raft.id}: replace the one that is wrong`)
  }
  const low = namesOf(raft, (peer) => peer.lowSpace)
  if (low.length > 0) {
    const effect = low.includes(raft.id) ? 'growth is refused' : 'growth will be refused if it leads'
    add('META_LOW_SPACE', 'critical', `the disk of meta ${low.join(', ')} is almost full: ${effect}; make room`)
  }
  const learners = namesOf(raft, (peer) => peer.role === 'learner')
  if (learners.length > 0) {
    add('META_LEARNER', 'warning', `meta ${learners.join(', ')} is catching up and does not count yet`)
  }
  return codes
}

function clusterCodes({ machine, replicator, control }: StatusSources, raft: ReplicatorStatus): Code[] {
  const codes: Code[] = []
  const cluster = machine.cluster()
  if (cluster === undefined) return codes
  if (cluster.deletesHeld || replicator.clusterIncarnation() > cluster.incarnation) {
    const summary = 'deletes are held after a recovery of the metadata: look, then "holdfast deletes resume"'
    codes.push({ code: 'DELETES_HELD', severity: 'warning', summary })
  }
  const versions = [...raft.peers, ...control.storageVersions()].map((node) => node.versionMax)
  const possible = Math.min(newestVersion, ...versions)
  if (possible > cluster.version) {
    const summary = `every node supports version ${possible}, ${cluster.version} is in force: "holdfast upgrade" raises it`
    codes.push({ code: 'VERSION_BEHIND', severity: 'warning', summary })
  }
  return codes
}

function summaryOf(control: ControlPart, raft: ReplicatorStatus, codes: readonly Code[], verdict: string): string {
  const silent = silentPeers(raft)
  const alarm = codes.find(({ code }) => !notices.has(code ?? ''))
  if (alarm === undefined) return control.summary ?? ''
  const meta =
    silent.length > 0
      ? `${raft.peers.length - silent.length} of ${raft.peers.length} meta nodes answer`
      : (alarm.summary ?? '')
  return control.verdict === 'healthy' || !control.summary ? `${verdict}: ${meta}` : `${control.summary}; ${meta}`
}

/** The meta nodes as this one sees them. */
export function membersStatus(raft: ReplicatorStatus): holdfast.v1.MetaStatus.$Properties[] {
  return raft.peers.map((peer) => ({
    id: peer.id,
    addresses: [...peer.addresses],
    role: peer.role,
    reachable: peer.id === raft.id || peer.reachable,
    term: raft.term,
    applied: peer.id === raft.id ? raft.applied : peer.match,
    versionMax: peer.versionMax,
    lowSpace: peer.lowSpace,
  }))
}
