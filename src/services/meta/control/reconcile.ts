/**
 * Reconciling: what a disk holds against what the metadata says it holds, page by page of its full report.
 *
 * Until it is done the disk's replicas do not count and readers are not sent there. A replica that is gone is asked for
 * by a definite lookup before it is called missing. A chunk that nobody knows is deleted only when, after a barrier, it
 * belongs to no open lease, has no entry for this disk, and no copy to the disk is under way (DESIGN section 12, rules 1
 * and 3). Ids above every lease ever granted are left alone: they are newer than this metadata.
 */

import type { ReplicaRecord } from '../../../core/meta/records.ts'
import { isStoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import { type Changes } from './changes.ts'
import type { Deletes } from './deletes.ts'
import { change, type Evidence } from './evidence.ts'
import type { ReportPage } from './orders.ts'
import type { Session, SessionDisk } from './sessions.ts'
import type { Term } from './term.ts'
import type { Topology } from './topology.ts'

export interface ReconcileParts {
  readonly topology: Topology
  readonly changes: Changes
  readonly evidence: Evidence
  readonly deletes: Deletes
  /** True when the chunk's id is in a lease that is open now. */
  inOpenLease(chunk: ChunkId): boolean
  /** True while a repair copy of the chunk to the disk is ordered. */
  copying(disk: DiskNumber, chunk: ChunkId): boolean
  /** The chunk is to be looked at. */
  changed(chunk: ChunkId): void
}

const reportDeadlineMs = 300_000
const retryMs = 2000
const settleMs = 10_000
const entriesPage = 1024

/** What a page of a report showed. */
interface Findings {
  readonly absent: ChunkId[]
  readonly returned: ChunkId[]
  readonly unknown: ChunkId[]
  missing: number
  orphans: number
}

export class Reconcile {
  readonly #term: Term
  readonly #parts: ReconcileParts
  /** Until when repair waits for the report of a disk that just attached. */
  readonly #settled = new Map<DiskNumber, number>()

  constructor(term: Term, parts: ReconcileParts) {
    this.#term = term
    this.#parts = parts
  }

  /** A node registered: compares the disks that are not reconciled, one after the other. */
  attached(session: Session): void {
    for (const disk of session.disks) {
      const record = this.#parts.topology.disks.get(disk.number)?.record
      if (record?.reconciled === true && record.generation === disk.generation) continue
      this.#settled.set(disk.number, this.#term.nowMs() + settleMs)
    }
    this.#term.run('reconcile the disks of a node', async () => {
      for (const disk of session.disks) await this.#untilDone(session, disk)
    })
  }

  /** Repair waits until then for the disk's copies to count again; 0 when it does not wait. */
  settledMs(disk: DiskNumber): number {
    return this.#settled.get(disk) ?? 0
  }

  /**
   * Looks at ids that the disk holds and has no entry for; resolves with the number of orphans it ordered deleted.
   */
  async unknown(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<number> {
    if (chunks.length === 0) return 0
    await this.#term.barrier()
    const { topology, deletes, inOpenLease, copying } = this.#parts
    const cluster = await this.#term.queries.cluster()
    const orphans: ChunkId[] = []
    const wanted: ChunkId[] = []
    let newer = 0
    for (const chunk of chunks) {
      if (cluster === undefined || chunk >= cluster.nextChunk) {
        newer++
        continue
      }
      if (inOpenLease(chunk) || copying(disk, chunk)) continue
      const record = await this.#term.queries.chunk(chunk)
      if (record?.replicas.some((replica) => replica.disk === disk) === true) continue
      const referenced = record !== undefined && (record.references > 0 || record.pinned)
      if (referenced && topology.counted(record.replicas).length < record.copies) wanted.push(chunk)
      else orphans.push(chunk)
    }
    if (newer > 0) this.#term.log.warn('chunks newer than the metadata are kept', { disk, chunks: newer })
    await this.#welcome(disk, wanted)
    deletes.addOrphans(disk, orphans)
    return orphans.length
  }

  async #untilDone(session: Session, disk: SessionDisk): Promise<void> {
    for (;;) {
      this.#term.check()
      const record = await this.#term.queries.disk(disk.number)
      if (record === undefined || record.generation !== disk.generation || !record.live) return
      if (record.reconciled) break
      try {
        await this.#compare(session, disk)
        break
      } catch (error) {
        // Without a session the node has to attach again anyway; with one, it gets another order.
        if (isStoreError(error) && error.code === 'UNAVAILABLE') return
        this.#term.report('reconcile a disk', error)
        await this.#term.sleep(retryMs)
      }
    }
    this.#settled.delete(disk.number)
  }

  async #compare(session: Session, disk: SessionDisk): Promise<void> {
    const startedMs = this.#term.nowMs()
    const findings: Findings = { absent: [], returned: [], unknown: [], missing: 0, orphans: 0 }
    const end = Number.MAX_SAFE_INTEGER
    await session.orders.report(disk.number, 0, end, reportDeadlineMs, async (page) => {
      await this.#comparePage(disk.number, page, findings)
      await this.#settle(disk, findings)
    })
    const reply = await this.#term.propose({ kind: 'reconciled', disk: disk.number, generation: disk.generation })
    const fields = {
      disk: disk.number,
      node: session.node,
      missing: findings.missing,
      orphans: findings.orphans,
      tookMs: Math.round(this.#term.nowMs() - startedMs),
    }
    if (reply.ok) this.#term.log.info('disk reconciled', fields)
    else this.#term.log.warn('disk not reconciled', { ...fields, code: reply.code, reason: reply.message })
  }

  /** Merges the sorted ids of the page with the sorted entries of the same range. */
  async #comparePage(disk: DiskNumber, page: ReportPage, findings: Findings): Promise<void> {
    let at = 0
    let from = page.from
    for (;;) {
      const entries = await this.#term.queries.diskChunks(disk, from, entriesPage, page.until)
      for (const { chunk, record } of entries) {
        for (let id = page.ids[at]; id !== undefined && id < chunk; id = page.ids[at]) {
          findings.unknown.push(id)
          at++
        }
        const held = page.ids[at] === chunk
        if (held) at++
        const own = record.replicas.find((replica) => replica.disk === disk)
        this.#compareEntry(disk, chunk, own, held, findings)
      }
      const last = entries.at(-1)
      if (last === undefined || entries.length < entriesPage) break
      from = last.chunk + 1
    }
    findings.unknown.push(...page.ids.slice(at))
  }

  #compareEntry(
    disk: DiskNumber,
    chunk: ChunkId,
    own: ReplicaRecord | undefined,
    held: boolean,
    findings: Findings,
  ): void {
    if (own === undefined) return
    if (own.state === 'deleting') this.#parts.deletes.add(disk, chunk)
    else if (own.state === 'current') {
      if (!held) findings.absent.push(chunk)
    } else if (held) findings.returned.push(chunk)
    else if (own.state === 'copying') this.#parts.changed(chunk)
  }

  /** Acts on what was found and empties the lists. */
  async #settle(disk: SessionDisk, findings: Findings): Promise<void> {
    const absent = findings.absent.splice(0)
    if (absent.length > 0) {
      const { generation, missing } = await this.#parts.evidence.missing(disk.number, absent)
      findings.missing += missing.length
      await this.#parts.changes.add(missing.map((chunk) => change(chunk, disk.number, generation, 'missing', '')))
    }
    await this.#welcome(disk.number, findings.returned.splice(0))
    findings.orphans += await this.unknown(disk.number, findings.unknown.splice(0))
  }

  /** Replicas that did not count and are there: they count once they are read and found intact. */
  async #welcome(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<void> {
    if (chunks.length === 0) return
    const { generation, intact } = await this.#parts.evidence.prove(disk, chunks)
    await this.#parts.changes.add(intact.map((chunk) => change(chunk, disk, generation, 'copied', '')))
  }
}
