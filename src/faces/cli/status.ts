/**
 * `status` and `node ls`: the state of the cluster on one screen, verdict first.
 */

import type { Command } from 'commander'
import { asStoreError, StoreError } from '../../model/errors.ts'
import type { ClusterStatus } from '../../sdk/types.ts'
import { type CommonOptions, describeError, type Run, runWithStore, type Surroundings, withCommon } from './context.ts'
import { plural, showBytes, showSeconds, showTime, table } from './format.ts'

const watchMs = 1000

function sumOf(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}

function showCounts(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
    .join(', ')
}

/** The nodes as a table. */
export function showNodes(nodes: ClusterStatus['nodes']): string {
  const rows = nodes.map((node) => {
    const used = node.disks.reduce((sum, disk) => sum + disk.usedBytes, 0)
    const capacity = node.disks.reduce((sum, disk) => sum + disk.capacityBytes, 0)
    const chunks = node.disks.reduce((sum, disk) => sum + disk.chunks, 0)
    const bad = node.disks.filter((disk) => disk.state !== 'ok').map((disk) => `disk ${disk.number} ${disk.state}`)
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
      [...bad, ...pending].join(', '),
    ]
  })
  return table(['NODE', 'ZONE', 'HEALTH', 'MODE', 'ADDRESS', 'CHUNKS', 'USED', 'NOTES'], rows, ['CHUNKS'])
}

/** The whole screen. */
export function showStatus(status: ClusterStatus): string {
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
        ['cluster', status.clusterId],
        ['stored', `${plural(status.objects, 'object')}, ${showBytes(status.bytes)}`],
        [
          'chunks',
          `${chunks.total}: ${chunks.full} full, ${chunks.degraded} degraded, ${chunks.lastCopy} at one copy, ${chunks.lost} lost`,
        ],
        ['can lose', `any ${plural(status.canLose, 'node')}`],
        [
          'repair',
          `${working}${parked}${speed}${eta}; ${repair.repaired} repaired (${showBytes(repair.repairedBytes)})`,
        ],
      ],
    ),
  )
  const meta = status.meta.map((node) => [
    node.id,
    node.role,
    node.reachable ? 'yes' : 'NO',
    node.address,
    String(node.term),
    String(node.applied),
  ])
  parts.push('', table(['META', 'ROLE', 'REACHABLE', 'ADDRESS', 'TERM', 'APPLIED'], meta, ['TERM', 'APPLIED']))
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
      text = showStatus(await run.store.admin.status({ ...run.limits, timeoutMs: 5000 }))
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
        const status = await run.store.admin.status(run.limits)
        // Scrub tours and incidents are not recorded yet; scripts may rely on the keys.
        run.result({ ...status, scrub: null, incidents: [] }, showStatus(status))
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
