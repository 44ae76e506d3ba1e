/**
 * Writer leases: expired when their time is over, then swept off the disks.
 *
 * The expiry is a committed, irreversible entry; only after it, and after a barrier, are the lease's ids looked for on
 * every live disk and those that no commit named deleted. The lease is forgotten when a sweep of every live disk found
 * nothing more; a disk that is away reports in full when it returns.
 */

import { IndexedHeap } from '../../../base/heap.ts'
import { StoreError } from '../../../model/errors.ts'
import { type ChunkId, type DiskNumber, formatChunkId, type LeaseId, leaseSpan } from '../../../model/ids.ts'
import type { Session, Sessions } from './sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'
import type { Topology } from './topology.ts'

export interface LeaseParts {
  readonly topology: Topology
  readonly sessions: Sessions
  /** Handles ids a disk holds and has no entry for; resolves with the number of orphans. */
  unknown(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<number>
}

interface Range {
  readonly from: ChunkId
  to: ChunkId
  readonly leases: LeaseId[]
}

const pageLeases = 512
const sweepMax = 256
const reportDeadlineMs = 30_000
const againMs = 5000

export class Leases {
  readonly #term: Term
  readonly #parts: LeaseParts
  /** Open leases by id (a multiple of `leaseSpan`), with the end of their range. */
  readonly #open = new Map<LeaseId, { end: ChunkId }>()
  readonly #expiry = new IndexedHeap<LeaseId, number>((a, b) => a - b)
  readonly #toSweep = new Set<LeaseId>()
  readonly #expiryPump: Pump
  readonly #sweepPump: Pump
  readonly #expiryAlarm: Alarm
  readonly #sweepAlarm: Alarm

  constructor(term: Term, parts: LeaseParts) {
    this.#term = term
    this.#parts = parts
    this.#expiryPump = new Pump(term, 'expire writer leases', () => this.#expire())
    this.#sweepPump = new Pump(term, 'sweep expired leases', () => this.#sweepAll())
    this.#expiryAlarm = new Alarm(term, () => this.#expiryPump.kick())
    this.#sweepAlarm = new Alarm(term, () => this.#sweepPump.kick())
  }

  async load(): Promise<void> {
    let from = 0
    for (;;) {
      const page = await this.#term.queries.leases(from, pageLeases)
      for (const { id, record } of page) this.#note(id, record.open, record.end, record.expiresMs)
      const last = page.at(-1)
      if (last === undefined || page.length < pageLeases) break
      from = last.id + 1
    }
    this.#schedule()
  }

  /** A committed entry changed the lease. */
  changed(lease: LeaseId, open: boolean, expiresMs: number): void {
    this.#note(lease, open, this.#open.get(lease)?.end ?? lease + leaseSpan, expiresMs)
    this.#schedule()
  }

  /** Nodes came or disks changed: a sweep that had to wait may go on. */
  wake(): void {
    if (this.#toSweep.size > 0) this.#sweepAlarm.setEarlier(this.#term.nowMs() + 100)
  }

  inOpenLease(chunk: ChunkId): boolean {
    const lease = this.#open.get(chunk - (chunk % leaseSpan))
    return lease !== undefined && chunk < lease.end
  }

  #note(id: LeaseId, open: boolean, end: ChunkId, expiresMs: number): void {
    if (open) {
      this.#open.set(id, { end })
      this.#expiry.set(id, expiresMs)
      return
    }
    this.#open.delete(id)
    this.#expiry.delete(id)
    this.#toSweep.add(id)
  }

  #schedule(): void {
    const first = this.#expiry.peek()
    this.#expiryAlarm.set(first === undefined ? undefined : this.#term.fromWallMs(first.value) + 1)
    if (this.#toSweep.size > 0) this.#sweepPump.kick()
  }

  async #expire(): Promise<void> {
    for (;;) {
      const first = this.#expiry.peek()
      if (first === undefined || first.value > this.#term.env.clock.wallMs()) break
      const id = first.key
      const record = await this.#term.queries.lease(id)
      if (record === undefined || !record.open) {
        this.#open.delete(id)
        this.#expiry.delete(id)
        continue
      }
      if (record.expiresMs > this.#term.env.clock.wallMs()) {
        this.#expiry.set(id, record.expiresMs)
        continue
      }
      await this.#term.propose({ kind: 'expireLease', id })
      this.#term.log.debug('writer lease expired', { lease: formatChunkId(id) })
      this.#expiry.delete(id)
    }
    this.#schedule()
  }

  async #sweepAll(): Promise<void> {
    while (this.#toSweep.size > 0) {
      const ids = [...this.#toSweep].sort((a, b) => a - b).slice(0, sweepMax)
      for (const id of ids) this.#toSweep.delete(id)
      const ranges = await this.#ranges(ids)
      await this.#term.barrier()
      let waits = false
      for (const range of ranges) {
        const clean = await this.#sweep(range).catch((error: unknown) => {
          this.#term.report('sweep an expired lease', error)
          return false
        })
        this.#term.check()
        for (const id of range.leases) {
          const forgotten = clean && (await this.#term.propose({ kind: 'forgetLease', id })).ok
          if (forgotten) continue
          this.#toSweep.add(id)
          waits = true
        }
      }
      if (waits) {
        this.#sweepAlarm.setEarlier(this.#term.nowMs() + againMs)
        return
      }
    }
  }

  /** Expired leases as ranges; leases side by side are one range. */
  async #ranges(ids: readonly LeaseId[]): Promise<Range[]> {
    const ranges: Range[] = []
    for (const id of ids) {
      const record = await this.#term.queries.lease(id)
      if (record === undefined || record.open) continue
      const last = ranges.at(-1)
      if (last !== undefined && last.to === id) {
        last.to = record.end
        last.leases.push(id)
      } else ranges.push({ from: id, to: record.end, leases: [id] })
    }
    return ranges
  }

  /** True when every live disk was asked and held nothing that is not accounted for. */
  async #sweep(range: Range): Promise<boolean> {
    for (const lease of range.leases) await this.#abortUploads(lease)
    const live = [...this.#parts.topology.disks.values()].filter((disk) => disk.record.live)
    const found = await Promise.all(
      live.map((disk) => this.#sweepDisk(disk.number, this.#parts.sessions.ofDisk(disk.number), range)),
    )
    return found.every((orphans) => orphans === 0)
  }

  async #sweepDisk(disk: DiskNumber, session: Session | undefined, range: Range): Promise<number> {
    if (session === undefined) return 1
    let orphans = 0
    await session.orders.report(disk, range.from, range.to, reportDeadlineMs, async (page) => {
      const unknown: ChunkId[] = []
      let at = 0
      let from = page.from
      while (at < page.ids.length) {
        const entries = await this.#term.queries.diskChunks(disk, from, 1024, page.until)
        const known = new Set(entries.map((entry) => entry.chunk))
        const last = entries.length < 1024 ? page.until : (entries.at(-1)?.chunk ?? page.until) + 1
        for (; at < page.ids.length; at++) {
          const id = page.ids[at]
          if (id === undefined || id >= last) break
          if (!known.has(id)) unknown.push(id)
        }
        from = last
      }
      orphans += await this.#parts.unknown(disk, unknown)
    })
    return orphans
  }

  async #abortUploads(lease: LeaseId): Promise<void> {
    for (;;) {
      const manifests = await this.#term.queries.uploads(lease, 128)
      if (manifests.length === 0) return
      for (const manifest of manifests) {
        const reply = await this.#term.propose({ kind: 'abortUpload', manifest })
        if (!reply.ok) throw new StoreError(reply.code, `abort an upload of an expired lease: ${reply.message}`)
        this.#term.log.info('upload of an expired lease aborted', { lease: formatChunkId(lease), manifest })
      }
    }
  }
}
