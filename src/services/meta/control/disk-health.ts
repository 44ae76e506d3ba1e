/**
 * How the leader sees the health of disks: what their nodes report, and which are slow against their peers.
 *
 * The states are in the metadata (`diskState`); reasons and figures are as of the last heartbeat and are heard anew by the
 * next leader. Slowness is this leader's judgement alone (src/core/health/slow.ts): it keeps new copies and reads away and
 * changes nothing that is stored.
 */

import { type SpeedFigures, SlowWatch } from '../../../core/health/slow.ts'
import type { DiskNumber } from '../../../model/ids.ts'
import type { DiskState } from '../../../model/words.ts'
import type { holdfast } from '../../../wire/messages.ts'
import type { Term } from './term.ts'
import type { DiskView, NodeView, Topology } from './topology.ts'

/** Figures are of the last minute; this often they are compared. */
const windowMs = 10_000
/** Disks that one line of the status names. */
const namedMax = 3
const runbook = 'docs/operating/replace-a-disk.md'

/** The state of a disk in the status, and why. */
export function shownHealth(disk: DiskView): { readonly state: DiskState; readonly reason: string } {
  if (disk.absent) return { state: 'failed', reason: 'its node runs without it' }
  const { state } = disk.record
  if (state === 'ok' && disk.slow !== undefined) return { state: 'suspect', reason: disk.slow }
  return { state, reason: disk.reason }
}

/** Compares the speed of all disks, window by window, until the term is over. */
export class SlowDisks {
  readonly #term: Term
  readonly #topology: Topology
  readonly #watch = new SlowWatch()

  constructor(term: Term, topology: Topology) {
    this.#term = term
    this.#topology = topology
  }

  start(): void {
    this.#term.after(windowMs, () => {
      this.#window()
      this.start()
    })
  }

  #window(): void {
    const figures = new Map<DiskNumber, SpeedFigures>()
    for (const disk of this.#topology.disks.values()) {
      const node = this.#topology.nodes.get(disk.record.node)
      if (node?.health === 'up' && disk.record.live && !disk.absent) figures.set(disk.number, disk.speed)
    }
    const slow = this.#watch.window(figures)
    for (const disk of this.#topology.disks.values()) {
      const reason = slow.get(disk.number)
      if ((reason === undefined) === (disk.slow === undefined)) continue
      const fields = { disk: disk.number, node: disk.record.node }
      if (reason === undefined) this.#term.log.info('disk is no longer slow', fields)
      else this.#term.log.warn('disk is slow', { ...fields, reason })
      this.#topology.setSlow(disk.number, reason)
    }
  }
}

function nameOf(disk: DiskView): string {
  const { reason } = shownHealth(disk)
  return `disk ${disk.number} of ${disk.record.node}${reason === '' ? '' : `: ${reason}`}`
}

function listed(lines: readonly string[]): string {
  const more = lines.length > namedMax ? `; and ${lines.length - namedMax} more` : ''
  return `${lines.slice(0, namedMax).join('; ')}${more}`
}

/** The named findings about disks. One that its node runs without was taken out by someone: what it held is named elsewhere. */
export function diskCodes(
  disks: Iterable<DiskView>,
  nodes: Iterable<NodeView>,
): Required<Pick<holdfast.v1.HealthCode.$Properties, 'code' | 'severity' | 'summary'>>[] {
  const here = [...disks].filter((disk) => !disk.absent).sort((a, b) => a.number - b.number)
  const inState = (state: DiskState): string[] =>
    here.filter((disk) => shownHealth(disk).state === state).map((disk) => nameOf(disk))
  const faults = [...nodes].flatMap((node) =>
    node.faults.map(({ path, reason }) => `${path} of ${node.id} does not open: ${reason}`),
  )
  const failed = [...inState('failed'), ...faults]
  const readOnly = inState('read-only')
  const suspect = inState('suspect')
  const codes = []
  if (failed.length > 0) {
    const summary = `failed: ${listed(failed)}; replace the disk: ${runbook}`
    codes.push({ code: 'DISK_FAILED', severity: 'warning', summary })
  }
  if (readOnly.length > 0) {
    const summary = `read-only: ${listed(readOnly)}; mend the filesystem, then restart the node: ${runbook}`
    codes.push({ code: 'DISK_READ_ONLY', severity: 'warning', summary })
  }
  if (suspect.length > 0) {
    const summary = `suspect, gets nothing new: ${listed(suspect)}; see ${runbook}`
    codes.push({ code: 'DISK_SUSPECT', severity: 'warning', summary })
  }
  return codes
}
