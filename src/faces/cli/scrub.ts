/**
 * `scrub`: how far everything on the disks is read and verified, what was found, and passes out of turn.
 */

import type { Command } from 'commander'
import { ExitWith, type CommonOptions, type Run, runWithStore, type Surroundings, withCommon } from './context.ts'
import { errorTable } from '../../model/errors.ts'
import type { DiskScrub, ScrubDetails, ScrubDirected, ScrubFinding, ScrubSummary } from '../../sdk/types.ts'
import { examples, plural, showBytes, showSeconds, showTime, table } from './format.ts'

function showProgress(scannedBytes: number, totalBytes: number): string {
  const share = totalBytes === 0 ? 100 : Math.floor((100 * scannedBytes) / totalBytes)
  return `${share} % of ${showBytes(totalBytes)}`
}

function showDebt(seconds: number): string {
  return seconds === 0 ? 'none' : showSeconds(seconds)
}

/** The line of `status`. */
export function showScrubLine(scrub: ScrubSummary): string {
  const { disks, scannedBytes, totalBytes, bytesPerSecond, debtSeconds, found, open } = scrub
  if (disks.length === 0) return 'no disk reports'
  const count = (state: DiskScrub['state']): number => disks.filter((disk) => disk.state === state).length
  const idle = [...(['off', 'paused'] as const)].flatMap((state) =>
    count(state) > 0 ? [`${state} on ${plural(count(state), 'disk')}`] : [],
  )
  const speed = bytesPerSecond > 0 ? `, ${showBytes(bytesPerSecond)}/s` : ''
  const parts = [`${showProgress(scannedBytes, totalBytes)}${speed}`, `debt ${showDebt(debtSeconds)}`, ...idle]
  return `${parts.join(', ')}; ${plural(found, 'finding')}, ${open} open`
}

function showDisk(disk: DiskScrub): string[] {
  const began = disk.pass === 0 ? 'never' : showTime(disk.startedMs)
  return [
    disk.node,
    String(disk.disk),
    disk.state,
    disk.pass === 0 ? '-' : String(disk.pass),
    showProgress(disk.scannedBytes, disk.totalBytes),
    disk.bytesPerSecond === 0 ? '-' : `${showBytes(disk.bytesPerSecond)}/s`,
    showDebt(disk.debtSeconds),
    began,
    disk.finishedMs === 0 ? 'never' : showTime(disk.finishedMs),
    String(disk.findings),
    disk.direct ? 'disk' : 'page cache',
  ]
}

function showFinding({ foundMs, chunk, node, disk, state, source, finding }: ScrubFinding): string[] {
  const what = state === 'repaired' && source !== null ? `repaired from ${source}` : state
  return [showTime(foundMs), chunk, node, String(disk), what, finding]
}

export function showScrub(scrub: ScrubDetails): string {
  const { disks, findings, found } = scrub
  const parts = [`scrub: ${showScrubLine(scrub)}`, '']
  const columns = ['NODE', 'DISK', 'STATE', 'PASS', 'DONE', 'RATE', 'DEBT', 'BEGAN (UTC)', 'LAST DONE (UTC)']
  parts.push(table([...columns, 'FINDINGS', 'READS'], disks.map(showDisk), ['DISK', 'PASS', 'FINDINGS']))
  const notes = disks.flatMap((disk) => disk.notes.map((note) => `! ${disk.node}, disk ${disk.disk}: ${note}`))
  if (notes.length > 0) parts.push('', ...notes)
  if (disks.some((disk) => !disk.direct)) {
    parts.push(
      '',
      '"page cache": the filesystem gives no reads past it, damage on the disk may hide behind cached pages',
    )
  }
  if (findings.length > 0) {
    const more = found > findings.length ? `, the newest ${findings.length} of ${found}` : ''
    parts.push('', `corrupt replicas${more}:`)
    parts.push(table(['FOUND (UTC)', 'CHUNK', 'NODE', 'DISK', 'STATE', 'FINDING'], findings.map(showFinding), ['DISK']))
  }
  return parts.join('\n')
}

const done = { start: 'a pass begins', pause: 'paused for 24 hours at most', resume: 'goes on' } as const

function showDirected(action: keyof typeof done, { disks, refused }: ScrubDirected): string {
  return [`scrub of ${plural(disks, 'disk')}: ${done[action]}`, ...refused.map((line) => `! not on ${line}`)].join('\n')
}

interface NodeFlags extends CommonOptions {
  readonly node?: string
}

async function direct(run: Run, action: keyof typeof done, node: string | undefined): Promise<void> {
  const directed = await run.store.admin.scrub[action](node, run.limits)
  run.result(directed, showDirected(action, directed))
  if (directed.refused.length > 0) throw new ExitWith(errorTable.UNAVAILABLE.exit)
}

/** Adds `scrub`. */
export function addScrubCommands(program: Command, surroundings: Surroundings): void {
  const scrub = program.command('scrub').description('read and verify everything that is stored')
  withCommon(scrub.command('status'))
    .description('show progress, rate, debt and findings')
    .addHelpText('after', '\nDebt: by how much a full pass will be older than --scrub-period when it is done.')
    .action((flags: CommonOptions) =>
      runWithStore(surroundings, flags, async (run) => {
        const status = await run.store.admin.scrub.status(run.limits)
        run.result(status, showScrub(status))
      }),
    )
  const texts = {
    start: 'begin a full pass now, as fast as --scrub-rate-max of the nodes allows',
    pause: 'stop reading, for 24 hours at most',
    resume: 'go on after a pause',
  } as const
  for (const action of ['start', 'pause', 'resume'] as const) {
    withCommon(scrub.command(action))
      .description(texts[action])
      .option('--node <id>', 'only the disks of this storage node')
      .addHelpText('after', examples(`holdfast scrub ${action}`, `holdfast scrub ${action} --node s1`))
      .action((flags: NodeFlags) => runWithStore(surroundings, flags, (run) => direct(run, action, flags.node)))
  }
}
