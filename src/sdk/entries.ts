/**
 * Decoded messages as the SDK's own words: checked, copied out, hex where users see hex.
 */

import { toHex } from '../base/bytes.ts'
import { StoreError } from '../model/errors.ts'
import { formatChunkId } from '../model/ids.ts'
import { diskStates, healthStates, modeStates, replicaStates, scrubStates } from '../model/words.ts'
import { nameOf, safeCounter } from '../wire/checks.ts'
import type { holdfast } from '../wire/messages.ts'
import { targetsOf } from './placements.ts'
import type { Target } from './chunk-streams.ts'
import type {
  BucketEntry,
  ChunkEntry,
  ClusterStatus,
  Conditions,
  DeletesStatus,
  DiskScrub,
  ObjectEntry,
  QuotaEntry,
  ScrubDetails,
  ScrubFinding,
  ScrubSummary,
  StatusMeta,
  VersionStatus,
} from './types.ts'

const metaRoles = ['leader', 'follower', 'learner', 'witness'] as const

/** A field that an answer must have. */
export function present<T>(value: T | null | undefined, field: string): T {
  if (value === null || value === undefined) throw new StoreError('INTERNAL', `the answer has no field ${field}`)
  return value
}

export function objectOf(entry: holdfast.v1.ObjectEntry, bucket: string): ObjectEntry {
  return {
    bucket,
    key: entry.key,
    size: safeCounter(entry.size, 'size'),
    etag: entry.etag,
    version: safeCounter(entry.version, 'version'),
    modifiedMs: safeCounter(entry.modifiedMs, 'modified_ms'),
    contentType: entry.contentType,
    chunks: safeCounter(entry.chunks, 'chunks'),
  }
}

export function bucketOf(entry: holdfast.v1.BucketEntry): BucketEntry {
  return { name: entry.name, createdMs: entry.createdMs, objects: entry.objects, bytes: entry.bytes }
}

/** A chunk with its replicas; a replica on a disk that the answer does not describe shows its disk number as node. */
export function chunkOf(ref: holdfast.v1.ChunkRef, targets: ReadonlyMap<number, Target>): ChunkEntry {
  return {
    id: formatChunkId(ref.id),
    size: ref.length,
    root: toHex(ref.root),
    replicas: ref.replicas.map(({ disk, state }) => ({
      node: targets.get(disk)?.node ?? `disk ${disk}`,
      disk,
      state: nameOf(state, replicaStates, 'state'),
    })),
  }
}

export function chunksOf(page: holdfast.v1.ManifestPageReply | null | undefined): ChunkEntry[] {
  if (page === null || page === undefined) return []
  const targets = targetsOf(page.disks)
  return page.chunks.map((chunk) => chunkOf(chunk, targets))
}

/** Conditions as the wire wants them: a version is told from an etag by a leading "v". */
export function conditionOf(conditions: Conditions): holdfast.v1.Condition.$Properties {
  const { ifAbsent, ifMatch } = conditions
  let match = ''
  if (typeof ifMatch === 'number') match = `v${safeCounter(ifMatch, 'ifMatch')}`
  else if (ifMatch !== undefined) {
    if (/^[0-9a-fA-F]{16}$/.test(ifMatch)) match = ifMatch.toLowerCase()
    else if (/^v?\d{1,16}$/.test(ifMatch)) match = ifMatch.startsWith('v') ? ifMatch : `v${ifMatch}`
    else
      throw new StoreError(
        'INVALID_ARGUMENT',
        `if-match ${JSON.stringify(ifMatch)} is neither an etag of 16 hex digits nor a version`,
      )
  }
  return { ifAbsent: ifAbsent === true, ifMatch: match }
}

function nodeOf(node: holdfast.v1.NodeStatus): ClusterStatus['nodes'][number] {
  return {
    id: node.id,
    address: node.addresses[0] ?? '',
    zone: node.zone,
    health: nameOf(node.health, healthStates, 'health'),
    mode: nameOf(node.mode, modeStates, 'mode'),
    silentMs: node.silentMs,
    disks: node.disks.map((disk) => ({
      id: disk.id,
      number: disk.number,
      state: nameOf(disk.state, diskStates, 'state'),
      reason: disk.reason,
      capacityBytes: disk.capacityBytes,
      usedBytes: disk.usedBytes,
      freeForNewBytes: disk.freeForNewBytes,
      syncMs: disk.syncUs / 1000,
      readMs: disk.readUs / 1000,
      chunks: disk.chunks,
      reconciled: disk.reconciled,
    })),
    faults: node.faults.map(({ path, reason }) => ({ path, reason })),
  }
}

/** Meta nodes as the leader sees them. */
export function membersOf(members: readonly holdfast.v1.MetaStatus[]): StatusMeta[] {
  return members.map(({ id, addresses, role, reachable, term, applied, versionMax, lowSpace }) => ({
    id,
    address: addresses[0] ?? '',
    role: nameOf(role, metaRoles, 'role'),
    reachable,
    term,
    applied,
    versionMax,
    lowSpace,
  }))
}

export function quotaOf(quota: holdfast.v1.Quota): QuotaEntry {
  const { bucket, bytesMax, objectsMax, bytes, objects } = quota
  return { bucket: bucket === '' ? null : bucket, bytesMax, objectsMax, bytes, objects }
}

export function versionsOf(reply: holdfast.v1.VersionStatusReply): VersionStatus {
  const nodes = reply.nodes.map(({ id, kind, versionMax }) => ({ id, kind, versionMax }))
  return { version: reply.version, possible: reply.possible, nodes }
}

export function deletesOf(reply: holdfast.v1.DeletesStatusReply): DeletesStatus {
  return { held: reply.held, incarnation: reply.incarnation, unknownReplicas: reply.unknownReplicas }
}

function diskScrubOf({ node, disk, report }: holdfast.v1.DiskScrub): DiskScrub {
  // Field by field: what has its default value is no own property of a message.
  const told = present(report, 'report')
  return {
    node,
    disk,
    state: nameOf(told.state, scrubStates, 'state'),
    pass: told.pass,
    scannedBytes: told.scannedBytes,
    totalBytes: told.totalBytes,
    bytesPerSecond: told.bytesPerSecond,
    debtSeconds: told.debtSeconds,
    startedMs: told.startedMs,
    finishedMs: told.finishedMs,
    findings: told.findings,
    healed: told.healed,
    suspects: told.suspects,
    direct: told.direct,
    notes: [...told.notes],
  }
}

function scrubSummaryOf(reply: holdfast.v1.ScrubStatusReply): ScrubSummary {
  const { scannedBytes, totalBytes, bytesPerSecond, debtSeconds, found, open } = reply
  const disks = reply.disks.map(diskScrubOf)
  return { scannedBytes, totalBytes, bytesPerSecond, debtSeconds, found, open, disks }
}

const findingStates = ['quarantined', 'repaired', 'deleted'] as const

export function scrubOf(reply: holdfast.v1.ScrubStatusReply): ScrubDetails {
  const findings = reply.findings.map(({ finding: entry, state, source }): ScrubFinding => {
    const { chunk, node, disk, foundMs, finding } = present(entry, 'finding')
    const what = nameOf(state, findingStates, 'state')
    return { chunk: formatChunkId(chunk), node, disk, foundMs, finding, state: what, source: source || null }
  })
  return { ...scrubSummaryOf(reply), findings }
}

export function statusOf(reply: holdfast.v1.StatusReply): ClusterStatus {
  const { total, full, degraded, lastCopy, lost } = present(reply.chunks, 'chunks')
  const repair = present(reply.repair, 'repair')
  return {
    verdict: reply.verdict,
    summary: reply.summary,
    codes: reply.codes.map(({ code, severity, summary }) => ({ code, severity, summary })),
    canLose: reply.canLose,
    clusterId: reply.clusterId,
    clusterVersion: reply.clusterVersion,
    objects: reply.objects,
    bytes: reply.bytes,
    meta: membersOf(reply.meta),
    nodes: reply.nodes.map(nodeOf),
    chunks: { total, full, degraded, lastCopy, lost },
    repair: {
      queue: { ...repair.queue },
      running: repair.running,
      parked: { ...repair.parked },
      bytesPerSecond: repair.bytesPerSecond,
      etaSeconds: repair.etaSeconds,
      repaired: repair.repaired,
      repairedBytes: repair.repairedBytes,
    },
    corruptions: reply.corruptions.map(({ chunk, node, disk, foundMs, finding, repaired }) => ({
      chunk: formatChunkId(chunk),
      node,
      disk,
      foundMs,
      finding,
      repaired,
    })),
    scrub: reply.scrub === null || reply.scrub === undefined ? null : scrubSummaryOf(reply.scrub),
  }
}
