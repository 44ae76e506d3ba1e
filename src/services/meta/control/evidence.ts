/**
 * Looking at replicas where they are: nobody's word about a copy is acted on before the node that holds it has looked.
 *
 * `prove` asks for a definite lookup and then a full read with every block checked. Both compare the root with that of
 * the metadata: other content under the same id, left over from before a recovery, is no copy. Findings of nodes and reports of
 * clients end here; so do the replicas that a commit left as `copying` and whose time is over.
 */

import { IndexedHeap } from '../../../base/heap.ts'
import type { ReplicaChange } from '../../../core/meta/commands.ts'
import type { ReplicaRecord } from '../../../core/meta/records.ts'
import { StoreError } from '../../../model/errors.ts'
import type { ChunkId, DiskNumber } from '../../../model/ids.ts'
import type { Changes } from './changes.ts'
import type { Orders } from './orders.ts'
import type { Sessions } from './sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'

export interface Proof {
  /** Generation of the disk that the reads were done under. */
  readonly generation: number
  readonly intact: readonly ChunkId[]
  readonly missing: readonly ChunkId[]
  readonly corrupt: readonly ChunkId[]
}

/** A commit's `copying` replicas have this long (docs/RULES.md, rule 10). */
export const copyingMs = 10_000
/** A straggler is usually done at once: a first look makes it count early, and says nothing if it is not there. */
const firstLookMs = 1000
/** The entry's time is the leader's wall clock: a little later, so that it agrees that the deadline is over. */
const slackMs = 100
const lookMs = 10_000
const checkBatch = 1024
const verifyBatch = 16
const verifyMs = 60_000
const copyingMax = 65_536
const reportsMax = 1024

interface Copying {
  readonly chunk: ChunkId
  readonly disk: DiskNumber
  readonly dueMs: number
  /** The replica is given up at this time. */
  readonly endMs: number
}

export class Evidence {
  readonly #term: Term
  readonly #sessions: Sessions
  readonly #changes: Changes
  readonly #copying = new IndexedHeap<string, Copying>((a, b) => a.dueMs - b.dueMs)
  readonly #copyingAlarm: Alarm
  readonly #copyingPump: Pump
  readonly #reports = new Map<string, { chunk: ChunkId; disk: DiskNumber }>()
  readonly #reportPump: Pump

  constructor(term: Term, sessions: Sessions, changes: Changes) {
    this.#term = term
    this.#sessions = sessions
    this.#changes = changes
    this.#copyingPump = new Pump(term, 'look for late copies', () => this.#lookForCopies())
    this.#copyingAlarm = new Alarm(term, () => this.#copyingPump.kick())
    this.#reportPump = new Pump(term, 'look at reported replicas', () => this.#lookAtReports())
  }

  /** What the chunks must hold to be copies; empty for those that nobody knows. */
  async #roots(chunks: readonly ChunkId[]): Promise<Uint8Array[]> {
    const records = await this.#term.queries.chunks(chunks)
    return records.map((record) => record?.root ?? new Uint8Array(0))
  }

  /** Ids of `chunks` that the disk does not hold, or with other content, by lookup. Rejects when the node is not attached or does not answer. */
  async missing(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<{ generation: number; missing: ChunkId[] }> {
    const asked = new Set(chunks)
    const missing: ChunkId[] = []
    let generation = this.#generation(disk)
    for (let at = 0; at < chunks.length; at += checkBatch) {
      const ids = chunks.slice(at, at + checkBatch)
      const roots = await this.#roots(ids)
      const done = await this.#orders(disk).give({ check: { disk, ids, roots } }, lookMs)
      generation = done.generation
      for (const id of done.ids) if (asked.has(id)) missing.push(id)
    }
    return { generation, missing }
  }

  /** Looks the chunks up and reads them in full on the disk. Rejects like `missing`. */
  async prove(disk: DiskNumber, chunks: readonly ChunkId[]): Promise<Proof> {
    const { missing } = await this.missing(disk, chunks)
    const gone = new Set(missing)
    const held = chunks.filter((chunk) => !gone.has(chunk))
    const bad = new Set<ChunkId>()
    let generation = this.#generation(disk)
    for (let at = 0; at < held.length; at += verifyBatch) {
      const ids = held.slice(at, at + verifyBatch)
      const roots = await this.#roots(ids)
      const done = await this.#orders(disk).give({ verify: { disk, ids, roots } }, verifyMs)
      if (at > 0 && done.generation !== generation) {
        throw new StoreError('FENCED', `disk ${disk} changed its generation during a verification`)
      }
      generation = done.generation
      for (const id of done.ids) bad.add(id)
    }
    const intact = held.filter((chunk) => !bad.has(chunk))
    return { generation, intact, missing, corrupt: held.filter((chunk) => bad.has(chunk)) }
  }

  /** Commits what a proof says against replicas that were believed good. */
  async condemn(disk: DiskNumber, proof: Proof): Promise<void> {
    const { generation } = proof
    const missing = proof.missing.map((chunk) => change(chunk, disk, generation, 'missing', ''))
    const finding = 'its bytes do not match its checksums'
    const corrupt = proof.corrupt.map((chunk) => change(chunk, disk, generation, 'corrupt', finding))
    await this.#changes.add([...missing, ...corrupt])
  }

  /** A client met a bad replica. Looked at behind; dropped when too many are waiting, for readers will tell again. */
  report(chunk: ChunkId, disk: DiskNumber): void {
    if (this.#reports.size >= reportsMax) return
    this.#reports.set(`${disk}/${chunk}`, { chunk, disk })
    this.#reportPump.kick()
  }

  /** Notes the `copying` replicas of a chunk; `committedMs` is monotonic. */
  watchCopying(chunk: ChunkId, replicas: readonly ReplicaRecord[], committedMs: number): void {
    for (const replica of replicas) {
      const key = `${replica.disk}/${chunk}`
      if (replica.state !== 'copying') {
        this.#copying.delete(key)
        continue
      }
      if (this.#copying.has(key) || this.#copying.size >= copyingMax) continue
      const endMs = committedMs + copyingMs + slackMs
      const dueMs = Math.min(endMs, Math.max(this.#term.nowMs(), committedMs + firstLookMs))
      this.#copying.set(key, { chunk, disk: replica.disk, dueMs, endMs })
    }
    this.#schedule()
  }

  #schedule(): void {
    const next = this.#copying.peek()?.value.dueMs
    if (next !== undefined) this.#copyingAlarm.setEarlier(next + 50)
  }

  async #lookForCopies(): Promise<void> {
    const nowMs = this.#term.nowMs()
    const byDisk = new Map<DiskNumber, Copying[]>()
    for (;;) {
      const first = this.#copying.peek()?.value
      if (first === undefined || first.dueMs > nowMs) break
      this.#copying.pop()
      const list = byDisk.get(first.disk) ?? []
      list.push(first)
      byDisk.set(first.disk, list)
    }
    const disks = [...byDisk.keys()].sort((a, b) => a - b)
    await Promise.all(disks.map((disk) => this.#lookOnDisk(disk, byDisk.get(disk) ?? [])))
    this.#schedule()
  }

  async #lookOnDisk(disk: DiskNumber, looked: readonly Copying[]): Promise<void> {
    try {
      const { generation, missing } = await this.missing(
        disk,
        looked.map((copying) => copying.chunk),
      )
      const gone = new Set(missing)
      const changes: ReplicaChange[] = []
      for (const copying of looked) {
        if (!gone.has(copying.chunk)) changes.push(change(copying.chunk, disk, generation, 'copied', ''))
        else if (copying.endMs <= this.#term.nowMs()) {
          changes.push(change(copying.chunk, disk, generation, 'copy-failed', ''))
        } else this.#again(copying, copying.endMs)
      }
      await this.#changes.add(changes)
    } catch (error) {
      // A node that is away is scanned when it attaches again; one that is busy is asked again.
      if (this.#sessions.ofDisk(disk) === undefined) return
      this.#term.report('look for late copies', error)
      for (const copying of looked) this.#again(copying, this.#term.nowMs() + lookMs)
    }
  }

  #again(copying: Copying, dueMs: number): void {
    if (this.#copying.size < copyingMax) this.#copying.set(`${copying.disk}/${copying.chunk}`, { ...copying, dueMs })
  }

  async #lookAtReports(): Promise<void> {
    for (;;) {
      const first = this.#reports.entries().next().value
      if (first === undefined) return
      const [key, { chunk, disk }] = first
      this.#reports.delete(key)
      const record = await this.#term.queries.chunk(chunk)
      const stored = record?.replicas.find((replica) => replica.disk === disk)
      if (stored?.state !== 'current') continue
      try {
        await this.condemn(disk, await this.prove(disk, [chunk]))
      } catch (error) {
        this.#term.report('look at a reported replica', error)
      }
    }
  }

  #generation(disk: DiskNumber): number {
    return this.#sessions.ofDisk(disk)?.disks.find((known) => known.number === disk)?.generation ?? 0
  }

  #orders(disk: DiskNumber): Orders {
    const session = this.#sessions.ofDisk(disk)
    if (session === undefined) throw new StoreError('UNAVAILABLE', `the node of disk ${disk} is not attached`)
    return session.orders
  }
}

export function change(
  chunk: ChunkId,
  disk: DiskNumber,
  generation: number,
  kind: ReplicaChange['change'],
  finding: string,
): ReplicaChange {
  return { chunk, disk, generation, change: kind, finding }
}
