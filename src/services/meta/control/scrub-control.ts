/**
 * The scrub of all disks, as the leader sees it: what nodes report of theirs with each heartbeat, orders to begin, pause or
 * go on, and the list of findings with what became of them.
 *
 * Kept in memory: a new leader has it again with the first heartbeats. Findings are committed state (a ring of the newest);
 * only where a repair came from is known to this term alone.
 */

import type { FindingRecord } from '../../../core/meta/records.ts'
import { asStoreError, StoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber, NodeId } from '../../../model/ids.ts'
import type { ScrubState } from '../../../model/words.ts'
import type { holdfast } from '../../../wire/messages.ts'
import type { Session, Sessions } from './sessions.ts'
import type { Term } from './term.ts'
import type { Topology } from './topology.ts'

/** A report, checked at the door. */
export interface ScrubFacts {
  readonly state: ScrubState
  readonly pass: number
  readonly scannedBytes: number
  readonly totalBytes: number
  readonly bytesPerSecond: number
  readonly debtSeconds: number
  readonly startedMs: number
  readonly finishedMs: number
  readonly findings: number
  readonly healed: number
  readonly suspects: number
  readonly direct: boolean
  readonly notes: readonly string[]
}

export const scrubActions = ['start', 'pause', 'resume'] as const
export type ScrubAction = (typeof scrubActions)[number]

type ScrubReply = Required<holdfast.v1.ScrubStatusReply.$Properties>

const findingsMax = 256
/** Repairs whose source is remembered. */
const sourcesMax = 1024
/** The node only notes it. */
const orderMs = 5000

export class ScrubControl {
  readonly #term: Term
  readonly #sessions: Sessions
  readonly #topology: Topology
  readonly #reports = new Map<DiskNumber, ScrubFacts>()
  readonly #sources = new Map<ChunkId, NodeId>()

  constructor(term: Term, sessions: Sessions, topology: Topology) {
    this.#term = term
    this.#sessions = sessions
    this.#topology = topology
  }

  /** A node reported how the scrub of a disk stands. */
  reported(disk: DiskNumber, facts: ScrubFacts | undefined): void {
    if (facts === undefined) this.#reports.delete(disk)
    else this.#reports.set(disk, facts)
  }

  /** The node is away: what it said is out of date. */
  lost(session: Session): void {
    for (const { number } of session.disks) this.#reports.delete(number)
  }

  /** A chunk that had a corrupt replica was copied from `source`. */
  repaired(chunk: ChunkId, source: NodeId): void {
    this.#sources.delete(chunk)
    this.#sources.set(chunk, source)
    const oldest = this.#sources.keys().next().value
    if (this.#sources.size > sourcesMax && oldest !== undefined) this.#sources.delete(oldest)
  }

  /** The disks that report, and sums over them; no findings. */
  summary(): ScrubReply {
    const disks = [...this.#reports]
      .map(([disk, report]) => ({ node: this.#topology.nodeOf(disk)?.id ?? '', disk, report }))
      .sort((a, b) => (a.node === b.node ? a.disk - b.disk : a.node < b.node ? -1 : 1))
    const reply = { scannedBytes: 0, totalBytes: 0, bytesPerSecond: 0, debtSeconds: 0 }
    for (const { report } of disks) {
      reply.scannedBytes += report.scannedBytes
      reply.totalBytes += report.totalBytes
      reply.bytesPerSecond += report.bytesPerSecond
      reply.debtSeconds = Math.max(reply.debtSeconds, report.debtSeconds)
    }
    const told = disks.map(({ node, disk, report }) => ({
      node,
      disk,
      report: { ...report, notes: [...report.notes] },
    }))
    return { ...reply, disks: told, found: 0, open: 0, findings: [], $unknowns: [] }
  }

  /** The same with the findings and how many there ever were. */
  async status(): Promise<ScrubReply> {
    const applied = await this.#term.queries.applied()
    const findings = await this.#term.queries.findings()
    findings.sort((a, b) => b.foundMs - a.foundMs || a.chunk - b.chunk)
    const listed = await this.#judge(findings.slice(0, findingsMax))
    const open = listed.filter(({ state }) => state === 'quarantined').length
    return { ...this.summary(), found: applied?.findings ?? 0, open, findings: listed }
  }

  /** What became of the findings. */
  async #judge(findings: readonly FindingRecord[]): Promise<holdfast.v1.ScrubFinding.$Properties[]> {
    const records = await this.#term.queries.chunks(findings.map(({ chunk }) => chunk))
    return findings.map((finding, i) => {
      const listed = records[i]?.replicas.some(({ disk }) => disk === finding.disk) === true
      const state = finding.repaired ? 'repaired' : listed ? 'quarantined' : 'deleted'
      const source = state === 'repaired' ? (this.#sources.get(finding.chunk) ?? '') : ''
      const node = this.#topology.nodeOf(finding.disk)?.id ?? ''
      return { finding: { ...finding, node }, state, source }
    })
  }

  /** Directs the scrub of one node, or of all that are attached. NOT_FOUND for a node that is not. */
  async direct(action: ScrubAction, node: NodeId): Promise<{ disks: number; refused: string[] }> {
    const asked = this.#sessions.all().filter((session) => node === '' || session.node === node)
    if (asked.length === 0) {
      const who = node === '' ? 'no storage node is attached' : `storage node ${node} is not attached`
      throw new StoreError('NOT_FOUND', `${action} the scrub: ${who}: "holdfast node ls" lists them`)
    }
    const refused: string[] = []
    let disks = 0
    const give = async (session: Session, disk: DiskNumber): Promise<void> => {
      try {
        await session.orders.give({ scrub: { disk, action } }, orderMs)
        disks++
      } catch (error) {
        this.#term.check()
        refused.push(`${session.node}, disk ${disk}: ${asStoreError(error, `${action} the scrub`).message}`)
      }
    }
    await Promise.all(asked.flatMap((session) => session.disks.map(({ number }) => give(session, number))))
    return { disks, refused: refused.sort() }
  }
}
