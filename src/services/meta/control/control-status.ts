/**
 * What the controllers know of the cluster's state, verdict first: the parts of `Meta.Status` that are theirs.
 *
 * Counts of short chunks are those the repair queue knows of: exact once the first walk over the disks is done, a lower
 * bound before it and when the queue has overflowed. `canLose` is 0 until that walk is done, for it promises something.
 */

import type { FindingRecord } from '../../../core/meta/records.ts'
import { repairClasses } from '../../../model/words.ts'
import type { Sample } from '../../../ports/metrics.ts'
import type { holdfast } from '../../../wire/messages.ts'
import { diskCodes, shownHealth } from './disk-health.ts'
import type { HealthControl } from './health-control.ts'
import type { Repair } from './repair.ts'
import type { ScrubControl } from './scrub-control.ts'
import type { Term } from './term.ts'
import type { Topology } from './topology.ts'

/** The parts of a StatusReply that the controllers give. */
export type ControlStatus = Required<
  Pick<
    holdfast.v1.StatusReply.$Properties,
    'verdict' | 'summary' | 'codes' | 'canLose' | 'nodes' | 'chunks' | 'repair' | 'corruptions' | 'scrub'
  >
>

export interface StatusSources {
  readonly topology: Topology
  readonly health: HealthControl
  readonly repair: Repair
  readonly scrub: ScrubControl
  readonly surplus: () => number
  readonly scanned: () => boolean
}

const corruptionsMax = 20

interface Counts {
  readonly lost: number
  readonly lastCopy: number
  readonly atRisk: number
  readonly degraded: number
  readonly short: number
}

export async function controlStatus(term: Term, sources: StatusSources): Promise<ControlStatus> {
  const applied = await term.queries.applied()
  const findings = (await term.queries.findings()).sort((a, b) => b.foundMs - a.foundMs || a.chunk - b.chunk)
  const counts = countsOf(sources.repair)
  const total = applied?.chunks ?? 0
  const codes = codesOf(sources, counts, findings)
  const verdict = verdictOf(counts, codes)
  const repair = repairStatus(sources, counts)
  return {
    verdict,
    summary: summaryOf(verdict, counts, codes, repair.etaSeconds),
    codes,
    canLose: canLose(sources, counts, total),
    nodes: nodesStatus(sources),
    chunks: {
      total,
      full: Math.max(0, total - counts.short),
      degraded: counts.short,
      lastCopy: counts.lastCopy,
      lost: counts.lost,
    },
    repair,
    scrub: {
      ...sources.scrub.summary(),
      found: applied?.findings ?? 0,
      open: findings.filter(({ repaired }) => !repaired).length,
    },
    corruptions: findings.slice(0, corruptionsMax).map((finding) => ({
      ...finding,
      node: sources.topology.nodeOf(finding.disk)?.id ?? '',
    })),
  }
}

/** The same as gauges, without a look at the state: nodes that are up, and the `total` chunks by state as far as is known. */
export function controlSamples(topology: Topology, repair: Repair, total: number): Sample[] {
  const { lost, lastCopy, atRisk, degraded, short } = countsOf(repair)
  const chunks = { full: Math.max(0, total - short), lost, 'last-copy': lastCopy, 'at-risk': atRisk, degraded }
  return [
    ...[...topology.nodes.values()].map((node) => ({
      name: 'holdfast_node_up',
      help: '1 while the storage node is up, 0 while it is suspected or down.',
      value: node.health === 'up' ? 1 : 0,
      labels: { node: node.id },
    })),
    ...Object.entries(chunks).map(([state, value]) => ({
      name: 'holdfast_chunks',
      help: 'Committed chunks by redundancy, as far as the repair queue knows; each is counted once.',
      value,
      labels: { state },
    })),
  ]
}

function countsOf(repair: Repair): Counts {
  const lost = repair.lost.size
  const lastCopy = repair.queue.count('last-copy')
  const atRisk = repair.queue.count('at-risk')
  const degraded = repair.queue.count('degraded')
  return { lost, lastCopy, atRisk, degraded, short: lost + lastCopy + atRisk + degraded }
}

function repairStatus(sources: StatusSources, counts: Counts): Required<holdfast.v1.RepairStatus.$Properties> {
  const { queue, meter } = sources.repair
  const bytesPerSecond = meter.bytesPerSecond()
  const toCopy = counts.short - counts.lost
  const meanBytes = meter.repaired === 0 ? 0 : meter.repairedBytes / meter.repaired
  const counted = Object.fromEntries(repairClasses.map((name) => [name, queue.count(name)]))
  return {
    queue: { ...counted, surplus: sources.surplus() },
    running: queue.running,
    parked: Object.fromEntries(queue.parkedCounts()),
    bytesPerSecond,
    etaSeconds: bytesPerSecond === 0 ? 0 : Math.ceil((toCopy * meanBytes) / bytesPerSecond),
    repaired: meter.repaired,
    repairedBytes: meter.repairedBytes,
    $unknowns: [],
  }
}

function canLose(sources: StatusSources, counts: Counts, total: number): number {
  const wanted = sources.repair.wantedLeast
  if (!sources.scanned() || counts.lost > 0 || counts.lastCopy > 0) return 0
  if (total === 0 || wanted === undefined) return sources.topology.nodes.size
  // At least two copies of every short chunk are left when none is at its last one.
  return Math.max(0, counts.short > 0 ? Math.min(1, wanted - 1) : wanted - 1)
}

function verdictOf(counts: Counts, codes: readonly holdfast.v1.HealthCode.$Properties[]): string {
  if (counts.lost > 0) return 'data-lost'
  if (counts.lastCopy > 0 || counts.atRisk > 0) return 'at-risk'
  return counts.degraded > 0 || codes.length > 0 ? 'degraded' : 'healthy'
}

function summaryOf(
  verdict: string,
  counts: Counts,
  codes: readonly holdfast.v1.HealthCode.$Properties[],
  etaSeconds: number,
): string {
  if (verdict === 'healthy') return 'healthy'
  const parts: string[] = []
  if (counts.lost > 0) parts.push(`${plural(counts.lost, 'chunk')} without a copy now`)
  if (counts.lastCopy > 0) parts.push(`${plural(counts.lastCopy, 'chunk')} at 1 copy`)
  const rest = counts.atRisk + counts.degraded
  if (rest > 0) parts.push(`${plural(rest, 'chunk')} short of copies`)
  if (parts.length === 0) parts.push(...codes.slice(0, 2).map((code) => code.summary ?? ''))
  if (etaSeconds > 0) parts.push(`${duration(etaSeconds)} to full redundancy`)
  return `${verdict}: ${parts.join(', ')}`
}

function codesOf(
  sources: StatusSources,
  counts: Counts,
  findings: readonly FindingRecord[],
): holdfast.v1.HealthCode.$Properties[] {
  const codes: holdfast.v1.HealthCode.$Properties[] = []
  const nodes = [...sources.topology.nodes.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  const down = nodes.filter((node) => node.health === 'down').map((node) => node.id)
  const suspected = nodes.filter((node) => node.health === 'suspected').map((node) => node.id)
  const open = findings.filter((finding) => !finding.repaired).length
  const add = (code: string, severity: 'warning' | 'critical', summary: string): void => {
    codes.push({ code, severity, summary })
  }
  if (counts.lost > 0)
    add('CHUNKS_LOST', 'critical', `${plural(counts.lost, 'chunk')} without a copy now: bring nodes back`)
  if (counts.lastCopy > 0) add('CHUNKS_LAST_COPY', 'critical', `${plural(counts.lastCopy, 'chunk')} with one copy left`)
  if (counts.short - counts.lost - counts.lastCopy > 0) {
    const rest = counts.short - counts.lost - counts.lastCopy
    add('CHUNKS_DEGRADED', 'warning', `${plural(rest, 'chunk')} short of copies`)
  }
  if (down.length > 0) add('NODE_DOWN', 'warning', `storage ${down.join(', ')} down`)
  if (suspected.length > 0) add('NODE_SUSPECTED', 'warning', `storage ${suspected.join(', ')} suspected`)
  codes.push(...diskCodes(sources.topology.disks.values(), nodes))
  if (open > 0) add('CORRUPTION_FOUND', 'warning', `${plural(open, 'corrupt replica')} not repaired yet`)
  return codes
}

function nodesStatus(sources: StatusSources): holdfast.v1.NodeStatus.$Properties[] {
  const nodes = [...sources.topology.nodes.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
  return nodes.map((node) => ({
    id: node.id,
    addresses: [...node.record.addresses],
    zone: node.record.zone,
    health: node.health,
    mode: node.record.mode,
    silentMs: Math.round(sources.health.silentMs(node.id)),
    disks: [...node.record.disks]
      .sort((a, b) => a - b)
      .flatMap((number) => {
        const disk = sources.topology.disks.get(number)
        if (disk === undefined) return []
        const { id, generation, reconciled } = disk.record
        const { capacityBytes, usedBytes, freeForNewBytes, chunks, speed } = disk
        const syncUs = Math.ceil(speed.syncMs * 1000)
        const readUs = Math.ceil(speed.readMs * 1000)
        const figures = { capacityBytes, usedBytes, freeForNewBytes, chunks, syncUs, readUs }
        return [{ number, id, ...shownHealth(disk), generation, reconciled, ...figures }]
      }),
    faults: node.faults.map(({ path, reason }) => ({ path, reason })),
  }))
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

function duration(seconds: number): string {
  if (seconds < 60) return `${seconds}s`
  return seconds < 3600 ? `${Math.ceil(seconds / 60)}m` : `${Math.ceil(seconds / 3600)}h`
}
