/**
 * `status` and `node ls`: the state of the cluster on one screen, verdict first.
 */

import type { Command } from 'commander'
import { asStoreError, errorTable, StoreError } from '../../model/errors.ts'
import { limits } from '../../model/limits.ts'
import type { ClusterStatus, StatusDisk, StatusMeta } from '../../sdk/types.ts'
import {
  type CommonOptions,
  describeError,
  ExitWith,
  parseTime,
  type Run,
  runWithStore,
  type Surroundings,
  withCommon,
} from './context.ts'
import { plural, showBytes, showSeconds, showTime, table } from './format.ts'
import { showMeta } from './meta.ts'
import { showScrubLine } from './scrub.ts'

const watchMs = 1000
/** A screen is due within this time, leader or not. */
const screenMs = 5000
const leaderShare = 0.6
const surveyShare = 0.3
const noQuorum = 'no quorum'

function sumOf(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}

function showCounts(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')
}

/** What is wrong with a disk, short; the reason is with its code. Undefined when nothing is. */
function noteOf(disk: StatusDisk): string | undefined {
  if (disk.state !== 'ok') return `disk ${disk.number} ${disk.state}`
  // Less than one chunk of the largest size is not placed here any more.
  return disk.capacityBytes > 0 && disk.freeForNewBytes < limits.chunkBytesMax ? `disk ${disk.number} full` : undefined
}

/** The nodes as a table. */
export function showNodes(nodes: ClusterStatus['nodes']): string {
  const rows = nodes.map((node) => {
    const used = node.disks.reduce((sum, disk) => sum + disk.usedBytes, 0)
    const capacity = node.disks.reduce((sum, disk) => sum + disk.capacityBytes, 0)
    const chunks = node.disks.reduce((sum, disk) => sum + disk.chunks, 0)
    const bad = node.disks.flatMap((disk) => noteOf(disk) ?? [])
    const closed = node.faults.map(({ path }) => `${path} does not open`)
    const pending = node.health === 'up' && node.disks.some((disk) => !disk.reconciled) ? ['reconciling'] : []
    const share = capacity === 0 ? '-' : `${showBytes(used)} of ${showBytes(capacity)}`
    return [
      node.id,
      node.zone,
      node.health,
      node.mode,
      node.address,
      String(chunks),
      share,
      [...bad, ...closed, ...pending].join(', '),
    ]
  })
  return table(['NODE', 'ZONE', 'HEALTH', 'MODE', 'ADDRESS', 'CHUNKS', 'USED', 'NOTES'], rows, ['CHUNKS'])
}

/** What can be said without a leader: who of the meta nodes answers. Everything else is zero, not known. */
function withoutLeader(meta: readonly StatusMeta[], error: StoreError): ClusterStatus {
  const answering = meta.filter((node) => node.reachable).length
  const why = error.code === 'UNAVAILABLE' || error.code === 'NO_QUORUM' ? `; ${error.message}` : ''
  const summary = `${answering} of ${plural(meta.length, 'meta node')} answer and none leads${why}`
  return {
    verdict: noQuorum,
    summary,
    codes: [{ code: 'NO_QUORUM', severity: 'critical', summary }],
    canLose: 0,
    clusterId: '',
    clusterVersion: 0,
    objects: 0,
    bytes: 0,
    meta,
    nodes: [],
    chunks: { total: 0, full: 0, degraded: 0, lastCopy: 0, lost: 0 },
    repair: { queue: {}, running: 0, parked: {}, bytesPerSecond: 0, etaSeconds: 0, repaired: 0, repairedBytes: 0 },
    corruptions: [],
    scrub: null,
  }
}

function showWithoutLeader(status: ClusterStatus): string {
  const rows = status.meta.map((node) => [node.address, node.reachable ? 'yes' : 'NO'])
  const unknown = 'Nodes, chunks and repair are not known until a meta node leads.'
  return `${status.verdict}: ${status.summary}\n\n${table(['META', 'REACHABLE'], rows)}\n\n${unknown}`
}

/** The state within `allowedMs`; of the meta nodes alone when none leads. */
async function statusWithin(run: Run, allowedMs: number): Promise<ClusterStatus> {
  try {
    return await run.store.admin.status({ ...run.limits, timeoutMs: allowedMs * leaderShare })
  } catch (error) {
    const failure = asStoreError(error, 'status')
    const leaderless = failure.code === 'NO_QUORUM' || failure.code === 'UNAVAILABLE' || failure.code === 'TIMEOUT'
    if (!leaderless || run.limits.signal.aborted) throw failure
    const { meta, status } = await run.store.admin.survey({ ...run.limits, timeoutMs: allowedMs * surveyShare })
    if (run.limits.signal.aborted) throw failure
    return status ?? withoutLeader(meta, failure)
  }
}

/** The whole screen. */
export function showStatus(status: ClusterStatus): string {
  if (status.verdict === noQuorum) return showWithoutLeader(status)
  const { chunks, repair } = status
  const parts: string[] = [
    status.summary === ''
      ? status.verdict
      : status.summary.startsWith(status.verdict)
        ? status.summary
        : `${status.verdict}: ${status.summary}`,
  ]
  for (const { code, severity, summary } of status.codes)
    parts.push(`  ${severity === 'critical' ? '!!' : '! '} ${code}: ${summary}`)
  parts.push('')
  const waiting = sumOf(repair.queue)
  const working = `${repair.running} running, ${waiting} waiting${waiting > 0 ? ` (${showCounts(repair.queue)})` : ''}`
  const parked = sumOf(repair.parked) > 0 ? `, parked: ${showCounts(repair.parked)}` : ''
  const speed = repair.bytesPerSecond > 0 ? `, ${showBytes(repair.bytesPerSecond)}/s` : ''
  const eta = repair.etaSeconds > 0 ? `, ${showSeconds(repair.etaSeconds)} to full redundancy` : ''
  parts.push(
    table(
      [],
      [
        ['cluster', `${status.clusterId}, version ${status.clusterVersion}`],
        ['stored', `${plural(status.objects, 'object')}, ${showBytes(status.bytes)}`],
        [
          'chunks',
          `${chunks.total}: ${chunks.full} full, ${chunks.degraded} degraded, ${chunks.lastCopy} at one copy, ${chunks.lost} lost`,
        ],
        ['can lose', `any ${plural(status.canLose, 'node')}`],
        ['scrub', status.scrub === null ? 'not known' : showScrubLine(status.scrub)],
        [
          'repair',
          `${working}${parked}${speed}${eta}; ${repair.repaired} repaired (${showBytes(repair.repairedBytes)})`,
        ],
      ],
    ),
  )
  parts.push('', showMeta(status.meta))
  parts.push('', status.nodes.length === 0 ? 'no storage node has registered' : showNodes(status.nodes))
  if (status.corruptions.length > 0) {
    const rows = status.corruptions.map((one) => [
      showTime(one.foundMs),
      one.chunk,
      one.node,
      one.repaired ? 'repaired' : 'not repaired',
      one.finding,
    ])
    parts.push('', table(['FOUND (UTC)', 'CORRUPT CHUNK', 'NODE', 'STATE', 'FINDING'], rows))
  }
  return parts.join('\n')
}

async function watch(run: Run): Promise<void> {
  for (;;) {
    let text: string
    try {
      text = showStatus(await statusWithin(run, screenMs))
    } catch (error) {
      if (run.limits.signal.aborted) throw error
      text = describeError(asStoreError(error, 'status'), false)
    }
    run.print(`\x1b[2J\x1b[H${text}\n\n(Ctrl-C ends)`)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, watchMs)
      function done(): void {
        clearTimeout(timer)
        run.limits.signal.removeEventListener('abort', done)
        resolve()
      }
      run.limits.signal.addEventListener('abort', done, { once: true })
    })
    if (run.limits.signal.aborted) return
  }
}

/** Adds `status` and `node`. */
export function addStatusCommands(program: Command, surroundings: Surroundings): void {
  withCommon(program.command('status'))
    .description('the state of the cluster on one screen, verdict first')
    .option('--watch', 'show it again every second')
    .action((flags: CommonOptions & { watch?: boolean }) =>
      runWithStore(surroundings, flags, async (run) => {
        if (flags.watch === true) {
          if (run.json) throw new StoreError('USAGE', '--json prints one document: leave out --watch')
          return watch(run)
        }
        const allowedMs = flags.timeout === undefined ? screenMs : parseTime(flags.timeout, '--timeout')
        const status = await statusWithin(run, Math.min(screenMs, allowedMs))
        // Incidents are not recorded yet; scripts may rely on the key.
        run.result({ ...status, incidents: [] }, showStatus(status))
        if (status.verdict === noQuorum) throw new ExitWith(errorTable.NO_QUORUM.exit)
      }),
    )
  const node = program.command('node').description('storage nodes')
  withCommon(node.command('ls'))
    .description('list storage nodes')
    .action((flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const { nodes } = await run.store.admin.status(run.limits)
        run.result(nodes, nodes.length === 0 ? 'no storage node has registered' : showNodes(nodes))
      }),
    )
}
