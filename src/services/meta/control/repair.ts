/**
 * Repair: finds what is short, in order of risk, and has it copied.
 *
 * Chunks come in by effects of committed entries, by the scan of a disk that went or came, and by the range of short
 * chunks when a leadership starts. Classes follow from the copies that count now and are looked at again at the moment
 * of starting, so a queue entry may be stale but a copy never starts because of one.
 * A copy counts only by a committed `copied` with the generation its node acknowledged under.
 */

import { IndexedHeap } from '../../../base/heap.ts'
import type { ChunkRecord, ReplicaRecord } from '../../../core/meta/records.ts'
import { classify, type CountedCopy, waitMs } from '../../../core/repair/class.ts'
import {
  type CopyPlan,
  type PlanAnswer,
  type RepairItem,
  RepairQueue,
  type SlotView,
} from '../../../core/repair/queue.ts'
import { isStoreError } from '../../../model/errors.ts'
import { type ChunkId, type DiskNumber, formatChunkId } from '../../../model/ids.ts'
import { type RepairClass, repairClasses } from '../../../model/words.ts'
import type { Changes } from './changes.ts'
import { change, copyingMs, type Evidence } from './evidence.ts'
import { type Reading, Readings } from './readings.ts'
import { RepairMeter } from './repair-meter.ts'
import type { Sessions } from './sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'
import type { Topology } from './topology.ts'

/** What the queue knows of a chunk. */
interface ChunkFacts {
  readonly wanted: number
  readonly replicas: readonly ReplicaRecord[]
}

interface Plan extends CopyPlan {
  readonly targetDisk: DiskNumber
  /** Best first. */
  readonly sourceDisks: readonly DiskNumber[]
  readonly replace: boolean
}

export interface RepairParts {
  readonly topology: Topology
  readonly sessions: Sessions
  readonly changes: Changes
  readonly evidence: Evidence
  /** A chunk has more copies than wanted. */
  surplus(chunk: ChunkId): void
  /** A chunk with a corrupt replica was copied from a node. */
  repaired(chunk: ChunkId, source: string): void
  /** A copy to the disk was given up without an answer: it may have arrived. */
  doubt(disk: DiskNumber, chunk: ChunkId): void
  /** Ids whose deletion on the disk is under way: no copy may go there. */
  beingDeleted(disk: DiskNumber, chunk: ChunkId): boolean
  /** When the reconciliation of a disk that just attached is waited for until; 0 when it is not. */
  settledMs(disk: DiskNumber): number
}

const queueMax = 65_536
const dirtyMax = 65_536
const lostMax = 65_536
const shortPage = 512
const dirtyPage = 64
const copyDeadlineMs = 30_000
/** After these the chunk is not on the target, or was there before. */
const copyNotMade: readonly string[] = ['CORRUPT', 'CONFLICT', 'NOT_FOUND', 'NO_SPACE', 'DISK_FAILED']
const replaceMax = 4096
const backoffMs = 1000
const backoffMaxMs = 30_000
const lastCopyBackoffMaxMs = 5000

export class Repair {
  readonly queue: RepairQueue<Plan, ChunkFacts>
  readonly meter: RepairMeter
  /** Chunks without any copy that counts now; at most `lostMax`. */
  readonly lost = new Set<ChunkId>()
  /** Least copies wanted of any chunk seen; undefined when none was. */
  wantedLeast: number | undefined
  readonly #term: Term
  readonly #parts: RepairParts
  readonly #dirty = new Set<ChunkId>()
  readonly #dirtyPump: Pump
  readonly #alarm: Alarm
  /** Chunks whose `copying` replicas are waited for, by the end of the wait. */
  readonly #deferred = new IndexedHeap<ChunkId, number>((a, b) => a - b)
  readonly #deferredAlarm: Alarm
  readonly #copies = new Set<string>()
  readonly #replaceNext = new Set<string>()
  readonly #readings = new Readings(dirtyMax, (chunk) => this.changed(chunk))
  #dirtyOverflow = false

  constructor(term: Term, parts: RepairParts) {
    this.#term = term
    this.#parts = parts
    this.queue = new RepairQueue(term.config.repair, queueMax)
    this.meter = new RepairMeter(term)
    this.#dirtyPump = new Pump(term, 'look at changed chunks', () => this.#lookAtDirty())
    this.#alarm = new Alarm(term, () => this.schedule())
    this.#deferredAlarm = new Alarm(term, () => this.#lookAtDeferred())
  }

  /** The record of a chunk changed, or may have. */
  changed(chunk: ChunkId): void {
    if (this.#dirty.size >= dirtyMax) this.#dirtyOverflow = true
    else this.#dirty.add(chunk)
    this.#readings.changed(chunk)
    this.#dirtyPump.kick()
  }

  /** Begins a read that changes may overtake; end it. */
  reading(): Reading {
    return this.#readings.begin()
  }

  /** True while a copy of the chunk to the disk is ordered: what arrives there is not an orphan. */
  copying(disk: DiskNumber, chunk: ChunkId): boolean {
    return this.#copies.has(`${disk}/${chunk}`)
  }

  /** Chunks that the state keeps as short, most urgent class first. */
  async scanShort(): Promise<void> {
    for (const index of repairClasses.keys()) {
      let from: ChunkId | undefined = 0
      while (from !== undefined && !this.#fullDownTo(index)) from = await this.#scanShortPage(index, from)
      this.schedule()
    }
  }

  /** Looks at one page of short chunks; answers where the next one begins. */
  async #scanShortPage(classIndex: number, from: ChunkId): Promise<ChunkId | undefined> {
    const reading = this.reading()
    try {
      const page = await this.#term.queries.short(classIndex, from, shortPage)
      const records = await this.#term.queries.chunks(page.map(({ chunk }) => chunk))
      for (const [i, { chunk, sinceMs }] of page.entries()) {
        if (!reading.overtaken(chunk)) this.#look(chunk, records[i], this.#term.fromWallMs(sinceMs))
      }
      const last = page.at(-1)
      return last === undefined || page.length < shortPage ? undefined : last.chunk + 1
    } finally {
      reading.end()
    }
  }

  /** True when the queue has no room for the class and nothing in it that would make room: a walk brings nothing more. */
  #fullDownTo(classIndex: number): boolean {
    if (this.queue.size < queueMax) return false
    if (repairClasses.some((name, index) => index > classIndex && this.queue.count(name) > 0)) return false
    this.queue.overflowed = true
    return true
  }

  /**
   * A chunk as a disk's entry shows it. The entry does not say whether anything refers to the chunk, so one that seems
   * lost is looked up: it may be on its way out.
   */
  consider(chunk: ChunkId, facts: ChunkFacts): void {
    const { topology } = this.#parts
    const copying = facts.replicas.some((replica) => replica.state === 'copying')
    const lost = classify(facts.wanted, topology.counted(facts.replicas), topology.zones) === 'lost'
    if (lost && this.lost.size >= lostMax) return
    if (copying || lost) this.changed(chunk)
    else this.#judge(chunk, facts, undefined)
  }

  /** Starts what can start; called when anything changed that may allow more. */
  schedule(): void {
    if (this.#term.over) return
    const nowMs = this.#term.nowMs()
    for (const { item, plan } of this.queue.start(nowMs, (item, slots) => this.#plan(item, slots))) {
      this.meter.started(this.queue)
      this.#copies.add(`${plan.targetDisk}/${item.chunk}`)
      this.#term.run('repair a chunk', () => this.#copy(item, plan))
    }
    this.#alarm.set(this.queue.nextMs(nowMs))
    this.meter.settled(this.queue)
  }

  async #lookAtDirty(): Promise<void> {
    while (this.#dirty.size > 0) {
      const chunks: ChunkId[] = []
      for (const chunk of this.#dirty) {
        this.#dirty.delete(chunk)
        if (chunks.push(chunk) === dirtyPage) break
      }
      const records = await this.#term.queries.chunks(chunks)
      for (const [i, chunk] of chunks.entries()) this.#look(chunk, records[i], undefined)
      if (this.#dirty.size === 0) this.schedule()
    }
    if (!this.#dirtyOverflow) return
    this.#dirtyOverflow = false
    await this.scanShort()
  }

  #look(chunk: ChunkId, record: ChunkRecord | undefined, sinceMs: number | undefined): void {
    if (record === undefined || (record.references === 0 && !record.pinned)) {
      this.queue.drop(chunk)
      this.lost.delete(chunk)
      return
    }
    if (this.#stillCopying(chunk, record)) return
    this.#judge(chunk, { wanted: record.copies, replicas: record.replicas }, sinceMs)
  }

  /** True while copies that a commit left behind may still answer and would make the chunk whole. */
  #stillCopying(chunk: ChunkId, record: ChunkRecord): boolean {
    const copying = record.replicas.filter((replica) => replica.state === 'copying')
    if (copying.length === 0) return false
    const { topology, sessions, evidence } = this.#parts
    const committedMs = Math.min(this.#term.nowMs(), this.#term.fromWallMs(record.committedMs))
    evidence.watchCopying(chunk, record.replicas, committedMs)
    const awaited = copying.filter((replica) => sessions.ofDisk(replica.disk) !== undefined).length
    const untilMs = committedMs + copyingMs
    if (untilMs <= this.#term.nowMs() || this.#deferred.size >= dirtyMax) return false
    if (topology.counted(record.replicas).length + awaited < record.copies) return false
    this.#deferred.set(chunk, untilMs)
    this.#deferredAlarm.setEarlier(untilMs)
    this.queue.drop(chunk)
    return true
  }

  #lookAtDeferred(): void {
    for (;;) {
      const first = this.#deferred.peek()
      if (first === undefined) return
      if (first.value > this.#term.nowMs()) {
        this.#deferredAlarm.setEarlier(first.value)
        return
      }
      this.#deferred.pop()
      this.changed(first.key)
    }
  }

  #judge(chunk: ChunkId, facts: ChunkFacts, sinceMs: number | undefined): void {
    const { topology } = this.#parts
    if (facts.wanted > 0) this.wantedLeast = Math.min(this.wantedLeast ?? facts.wanted, facts.wanted)
    const counted = topology.counted(facts.replicas)
    const need = classify(facts.wanted, counted, topology.zones)
    if (need !== 'lost') this.lost.delete(chunk)
    else if (this.lost.size < lostMax && !this.lost.has(chunk)) {
      this.lost.add(chunk)
      this.#term.log.debug('chunk without a copy', { chunk: formatChunkId(chunk) })
    }
    const quarantined = need === 'none' && facts.replicas.some((replica) => replica.state === 'corrupt')
    if (need === 'surplus' || quarantined) this.#parts.surplus(chunk)
    if (need === 'none' || need === 'lost' || need === 'surplus') {
      this.queue.drop(chunk)
      return
    }
    const since = Math.min(
      this.queue.get(chunk)?.item.sinceMs ?? Number.POSITIVE_INFINITY,
      sinceMs ?? this.#since(facts),
    )
    const readyMs = this.#readyMs(need, facts, counted, since)
    this.queue.put(chunk, { class: need, sinceMs: since, readyMs, facts })
  }

  #readyMs(need: RepairClass, facts: ChunkFacts, counted: readonly CountedCopy[], sinceMs: number): number {
    const { topology } = this.#parts
    const returnable = topology.returnable(facts.replicas)
    let readyMs = sinceMs + waitMs(need, facts.wanted, counted.length, returnable, this.#term.config.repair)
    for (const replica of facts.replicas) {
      if (replica.state === 'current') readyMs = Math.max(readyMs, this.#parts.settledMs(replica.disk))
    }
    return readyMs
  }

  /** When the first of the nodes whose copies do not count now went away; now when none did. */
  #since(facts: ChunkFacts): number {
    const nowMs = this.#term.nowMs()
    let sinceMs = nowMs
    for (const replica of facts.replicas) {
      const node = this.#parts.topology.nodeOf(replica.disk)
      if (replica.state !== 'current' || node?.record.health !== 'down') continue
      sinceMs = Math.min(sinceMs, this.#term.fromWallMs(node.record.sinceMs))
    }
    return sinceMs
  }

  #plan(item: RepairItem<ChunkFacts>, slots: SlotView): PlanAnswer<Plan> {
    const { topology, sessions } = this.#parts
    const { wanted, replicas } = item.facts
    const counted = topology.counted(replicas)
    const need = classify(wanted, counted, topology.zones)
    if (need === 'none' || need === 'lost' || need === 'surplus') return { kind: 'drop' }
    if (need !== item.class) {
      return { kind: 'again', class: need, readyMs: this.#readyMs(need, item.facts, counted, item.sinceMs) }
    }
    const sources = counted.filter((copy) => sessions.ofDisk(copy.disk) !== undefined)
    if (sources.length === 0) return { kind: 'park', reason: 'no-source' }
    const firmFirst = [...sources].sort((a, b) => Number(b.firm) - Number(a.firm) || a.disk - b.disk)
    const turn = firmFirst.filter((copy) => copy.firm === firmFirst[0]?.firm && slots.sourceFree(this.#node(copy.disk)))
    const first = turn[item.chunk % Math.max(1, turn.length)]
    if (first === undefined) return { kind: 'park', reason: 'slots-busy' }
    const target = this.#target(item, counted, slots)
    if (typeof target === 'string') return { kind: 'park', reason: target }
    const sourceDisks = [first.disk, ...firmFirst.map((copy) => copy.disk).filter((disk) => disk !== first.disk)]
    const stored = replicas.find((replica) => replica.disk === target)?.state
    const replace = stored === 'corrupt' || this.#replaceNext.has(`${target}/${item.chunk}`)
    const plan = {
      source: this.#node(first.disk),
      target: this.#node(target),
      targetDisk: target,
      sourceDisks,
      replace,
    }
    return { kind: 'start', plan }
  }

  /** The disk whose replica went bad when it can take the chunk again, else one by placement. */
  #target(
    item: RepairItem<ChunkFacts>,
    counted: readonly CountedCopy[],
    slots: SlotView,
  ): DiskNumber | 'slots-busy' | 'no-target' | 'no-better-zone' {
    const { topology, sessions, beingDeleted } = this.#parts
    const { chunk } = item
    const usable = (disk: DiskNumber): boolean =>
      sessions.ofDisk(disk) !== undefined && slots.targetFree(this.#node(disk)) && !beingDeleted(disk, chunk)
    const have = counted.map((copy) => copy.disk)
    const nodes = new Set(have.map((disk) => this.#node(disk)))
    if (item.class !== 'misplaced') {
      for (const { disk, state } of item.facts.replicas) {
        const bad = state === 'corrupt' || state === 'missing'
        if (bad && topology.eligible(disk) && !nodes.has(this.#node(disk)) && usable(disk)) return disk
      }
    }
    const exclude = item.facts.replicas
      .filter((replica) => replica.state !== 'corrupt' && replica.state !== 'missing')
      .map((replica) => replica.disk)
    for (const node of slots.busyTargets) exclude.push(...(topology.nodes.get(node)?.record.disks ?? []))
    const unit = (): number => this.#term.env.entropy.unit()
    // Two tries: the first may fall on a disk whose node is just not attached.
    for (let tries = 0; tries < 2; tries++) {
      const disk = topology.placement.choose({ copies: 1, exclude, have }, unit)[0]
      if (disk === undefined) break
      const zone = topology.placement.zoneOf(disk)
      if (item.class === 'misplaced' && counted.some((copy) => copy.zone === zone)) return 'no-better-zone'
      if (usable(disk)) return disk
      exclude.push(disk)
    }
    return slots.busyTargets.length > 0 ? 'slots-busy' : 'no-target'
  }

  #node(disk: DiskNumber): string {
    return this.#parts.topology.nodeOf(disk)?.id ?? ''
  }

  async #copy(item: RepairItem<ChunkFacts>, plan: Plan): Promise<void> {
    const { chunk } = item
    let retryMs: number | undefined
    try {
      const bytes = await this.#order(chunk, plan)
      if (bytes !== undefined) this.meter.copied(bytes)
      this.#replaceNext.delete(`${plan.targetDisk}/${chunk}`)
    } catch (error) {
      if (this.#term.over) return
      retryMs = this.#failed(item, plan, error)
    } finally {
      this.#copies.delete(`${plan.targetDisk}/${chunk}`)
    }
    this.queue.finish(chunk, retryMs)
    this.changed(chunk)
    this.schedule()
  }

  /** Bytes of the copy; undefined when the chunk is not needed any more. */
  async #order(chunk: ChunkId, plan: Plan): Promise<number | undefined> {
    const { topology, sessions, changes } = this.#parts
    const record = await this.#term.queries.chunk(chunk)
    if (record === undefined || (record.references === 0 && !record.pinned)) return undefined
    const stored = record.replicas.find((replica) => replica.disk === plan.targetDisk)?.state
    // The plan was made from what was known then: a copy that counts, or that is to go, is no target.
    if (stored === 'current' || stored === 'deleting') return undefined
    const session = sessions.ofDisk(plan.targetDisk)
    if (session === undefined) return undefined
    const sources = plan.sourceDisks.flatMap((disk) => topology.addresses([disk]))
    const { length, root } = record
    const copy = { disk: plan.targetDisk, chunk, length, root, sources, replace: plan.replace }
    const done = await session.orders.give({ copy }, copyDeadlineMs)
    await changes.add([change(chunk, plan.targetDisk, done.generation, 'copied', '')])
    if (record.replicas.some(({ state }) => state === 'corrupt')) this.#parts.repaired(chunk, plan.source)
    const fields = { chunk: formatChunkId(chunk), disk: plan.targetDisk, node: plan.target, from: plan.source }
    if (plan.replace) this.#term.log.info('corrupt replica replaced', fields)
    else this.#term.log.debug('chunk copied', fields)
    return length
  }

  /** When to try again. */
  #failed(item: RepairItem<ChunkFacts>, plan: Plan, error: unknown): number {
    const { chunk } = item
    const code = isStoreError(error) ? error.code : 'INTERNAL'
    const reason = error instanceof Error ? error.message : String(error)
    this.#term.log.warn('repair copy failed', {
      chunk: formatChunkId(chunk),
      disk: plan.targetDisk,
      from: plan.source,
      attempts: item.attempts + 1,
      code,
      reason,
    })
    if (code === 'CONFLICT' && this.#replaceNext.size < replaceMax) this.#replaceNext.add(`${plan.targetDisk}/${chunk}`)
    if (!copyNotMade.includes(code)) this.#parts.doubt(plan.targetDisk, chunk)
    if (code === 'NO_SPACE') this.#parts.topology.refused(plan.targetDisk)
    if (code === 'CORRUPT' || code === 'NOT_FOUND' || code === 'DATA_LOST') {
      for (const disk of plan.sourceDisks) this.#parts.evidence.report(chunk, disk)
    }
    const capMs = item.class === 'last-copy' ? lastCopyBackoffMaxMs : backoffMaxMs
    return this.#term.nowMs() + Math.min(capMs, backoffMs * 2 ** Math.min(item.attempts, 10))
  }
}
