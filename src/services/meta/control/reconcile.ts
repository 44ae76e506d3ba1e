/**
 * Reconciling: what a disk holds against what the metadata says it holds, page by page of its full report.
 *
 * Until it is done the disk's replicas do not count and readers are not sent there. A replica that is gone is asked for
 * by a definite lookup before it is called missing. A chunk that nobody knows is deleted only when, after a barrier, it
 * belongs to no open lease, has no entry for this disk, and no copy to the disk is under way (docs/RULES.md, rules 1
 * and 3). Ids above every lease ever granted are left alone: they are newer than this metadata. A copy that was given up
 * without an answer may have arrived all the same: the disk is asked later, and what is there is taken in or deleted.
 */

import type { ReplicaRecord } from '../../../core/meta/records.ts'
import { isStoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import { type Changes } from './changes.ts'
import type { Deletes } from './deletes.ts'
import { change, type Evidence } from './evidence.ts'
import type { ReportPage } from './orders.ts'
import type { Session, SessionDisk } from './sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'
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
const doubtsMax = 65_536
/** Beyond it the count is a lower bound. */
const heldBackMax = 65_536
const doubtMs = 5000

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
  /** Replicas that are read right now and count when they are intact. */
  readonly #welcoming = new Set<string>()
  /** Where copies were given up that may have arrived. */
  readonly #doubts = new Map<DiskNumber, Set<ChunkId>>()
  readonly #doubtPump: Pump
  readonly #doubtAlarm: Alarm
  #doubtsCount = 0
  /** Replicas nobody knows, by disk, that were seen while deletes are held; at most `heldBackMax` of a disk. */
  readonly #heldBack = new Map<DiskNumber, Set<ChunkId>>()

  constructor(term: Term, parts: ReconcileParts) {
    this.#term = term
    this.#parts = parts
    this.#doubtPump = new Pump(term, 'look for copies that were given up', () => this.#lookAtDoubts())
    this.#doubtAlarm = new Alarm(term, () => this.#doubtPump.kick())
  }

  /** A copy to the disk was given up without an answer. Dropped when too many are waiting: the next report finds it. */
  doubt(disk: DiskNumber, chunk: ChunkId): void {
    if (this.#doubtsCount >= doubtsMax) return
    const chunks = this.#doubts.get(disk) ?? new Set<ChunkId>()
    if (!chunks.has(chunk)) this.#doubtsCount++
    this.#doubts.set(disk, chunks.add(chunk))
    this.#doubtAlarm.setEarlier(this.#term.nowMs() + doubtMs)
  }

  /** A node registered: compares the disks that are not reconciled, one after the other. */
  attached(session: Session): void {
    for (const disk of session.disks) {
      const record = this.#parts.topology.disks.get(disk.number)?.record
      // While deletes are held it is compared again only to know what they hold back.
      if (record?.reconciled === true && record.generation === disk.generation) continue
      this.#settled.set(disk.number, this.#term.nowMs() + settleMs)
    }
    this.#term.run('reconcile the disks of a node', () => this.#untilDone(session))
  }

  /** Replicas nobody knows that stay because deletes are held, as far as disks have reported. */
  get heldBack(): number {
    let sum = 0
    for (const chunks of this.#heldBack.values()) sum += chunks.size
    return sum
  }

  /** Deletes are no longer held: what was only counted is looked for again. */
  resume(sessions: readonly Session[]): void {
    this.#heldBack.clear()
    for (const session of sessions) {
      this.#term.run('look for what was held back', async () => {
        for (const disk of session.disks) await this.#compare(session, disk)
      })
    }
  }

  /** Repair waits until then for the disk's copies to count again; 0 when it does not wait. */
  settledMs(disk: DiskNumber): number {
    return this.#settled.get(disk) ?? 0
  }

  /**
   * Looks at ids that the disk holds and has no entry for; resolves with the number of orphans, which are ordered deleted
   * unless deletes are held.
   */
  async unknown(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<number> {
    if (chunks.length === 0) return 0
    const { orphans, wanted, newer } = await this.#sort(disk, chunks)
    if (newer > 0) this.#term.log.warn('chunks newer than the metadata are kept', { disk, chunks: newer })
    if (this.#term.deletesHeld) this.#holdBack(disk, orphans)
    else this.#parts.deletes.addOrphans(disk, orphans)
    await this.#welcome(disk, wanted)
    return orphans.length
  }

  /** Counted, not queued: nothing may be copied to where a deletion waits, and this one may wait for days. */
  #holdBack(disk: DiskNumber, orphans: readonly ChunkId[]): void {
    const held = this.#heldBack.get(disk) ?? new Set<ChunkId>()
    for (const chunk of orphans) if (held.size < heldBackMax) held.add(chunk)
    this.#heldBack.set(disk, held)
  }

  /** Those of `chunks` that are orphans on the disk now. Nothing starts to copy them there while the caller says so. */
  async orphans(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<ChunkId[]> {
    return (await this.#sort(disk, chunks)).orphans
  }

  /** What the state says, after a barrier, of chunks that the disk holds; those it lists there are in no list. */
  async #sort(
    disk: DiskNumber,
    chunks: readonly ChunkId[],
  ): Promise<{ orphans: ChunkId[]; wanted: ChunkId[]; newer: number }> {
    await this.#term.barrier()
    const { topology, inOpenLease, copying } = this.#parts
    const cluster = await this.#term.queries.cluster()
    const orphans: ChunkId[] = []
    const wanted: ChunkId[] = []
    let newer = 0
    for (const chunk of chunks) {
      if (cluster === undefined || chunk >= cluster.nextChunk) {
        newer++
        continue
      }
      // Before the record is read: what ended meanwhile is in it.
      if (inOpenLease(chunk) || copying(disk, chunk) || this.#welcoming.has(`${disk}/${chunk}`)) continue
      const record = await this.#term.queries.chunk(chunk)
      if (record?.replicas.some((replica) => replica.disk === disk) === true) continue
      const referenced = record !== undefined && (record.references > 0 || record.pinned)
      if (referenced && topology.counted(record.replicas).length < record.copies) wanted.push(chunk)
      else orphans.push(chunk)
    }
    return { orphans, wanted, newer }
  }

  async #lookAtDoubts(): Promise<void> {
    for (const disk of [...this.#doubts.keys()].sort((a, b) => a - b)) {
      const chunks = [...(this.#doubts.get(disk) ?? [])].sort((a, b) => a - b)
      this.#doubts.delete(disk)
      this.#doubtsCount -= chunks.length
      const record = this.#parts.topology.disks.get(disk)?.record
      // Otherwise its full report is to come.
      if (record?.live !== true || !record.reconciled) continue
      try {
        const { missing } = await this.#parts.evidence.missing(disk, chunks)
        const gone = new Set(missing)
        await this.unknown(
          disk,
          chunks.filter((chunk) => !gone.has(chunk)),
        )
      } catch (error) {
        this.#term.check()
        if (!isStoreError(error) || error.code !== 'UNAVAILABLE') {
          this.#term.report('look for copies that were given up', error)
        }
        for (const chunk of chunks) this.doubt(disk, chunk)
      }
    }
  }

  /** One disk after the other, in turns: a disk that cannot be compared does not keep the others from counting. */
  async #untilDone(session: Session): Promise<void> {
    let left = session.disks
    while (left.length > 0) {
      const again: SessionDisk[] = []
      for (const disk of left) if (!(await this.#reconcile(session, disk))) again.push(disk)
      left = again
      if (left.length > 0) await this.#term.sleep(retryMs)
    }
  }

  /** False when it is to be tried again. */
  async #reconcile(session: Session, disk: SessionDisk): Promise<boolean> {
    this.#term.check()
    const record = await this.#term.queries.disk(disk.number)
    if (record === undefined || record.generation !== disk.generation || !record.live) return true
    try {
      if (!record.reconciled || this.#term.deletesHeld) await this.#compare(session, disk)
    } catch (error) {
      // Without a session the node has to attach again anyway; with one, it gets another order.
      if (isStoreError(error) && error.code === 'UNAVAILABLE') return true
      this.#term.report('reconcile a disk', error)
      return false
    }
    this.#settled.delete(disk.number)
    return true
  }

  async #compare(session: Session, disk: SessionDisk): Promise<void> {
    const startedMs = this.#term.nowMs()
    this.#heldBack.delete(disk.number)
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
  async #welcome(disk: DiskNumber, returned: readonly ChunkId[]): Promise<void> {
    const { deletes, evidence, changes } = this.#parts
    const chunks = returned.filter((chunk) => !deletes.pending(disk, chunk))
    if (chunks.length === 0) return
    for (const chunk of chunks) this.#welcoming.add(`${disk}/${chunk}`)
    try {
      const { generation, intact } = await evidence.prove(disk, chunks)
      await changes.add(intact.map((chunk) => change(chunk, disk, generation, 'copied', '')))
    } finally {
      for (const chunk of chunks) this.#welcoming.delete(`${disk}/${chunk}`)
    }
  }
}
