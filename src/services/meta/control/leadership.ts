/**
 * One term of office: makes the controllers, rebuilds what they derive from the state, and carries events between them.
 *
 * Start: the view of nodes and the leases first (then placements are answered and nodes may register), then what is
 * short, then a walk over every disk, those that are away first. Safe mode: deletes and trims need a node that attached
 * in this term, and only last copies are repaired until every node that should be up has attached, for 10 s at most.
 */

import type { Effect } from '../../../core/meta/commands.ts'
import type { DiskRecord } from '../../../core/meta/records.ts'
import { formatChunkId, type NodeId } from '../../../model/ids.ts'
import type { Sample } from '../../../ports/metrics.ts'
import type { AppliedReply } from '../types.ts'
import { Changes } from './changes.ts'
import { ClientSessions } from './client-sessions.ts'
import { controlSamples, controlStatus, type ControlStatus } from './control-status.ts'
import { Deletes } from './deletes.ts'
import { SlowDisks } from './disk-health.ts'
import { DiskScan } from './disk-scan.ts'
import { change, Evidence } from './evidence.ts'
import { Garbage } from './garbage.ts'
import { HealthControl } from './health-control.ts'
import { Leases } from './leases.ts'
import { Reconcile } from './reconcile.ts'
import { Repair } from './repair.ts'
import { ScrubControl } from './scrub-control.ts'
import { type HeartbeatFacts, type Session, Sessions } from './sessions.ts'
import { Alarm, type Term } from './term.ts'
import { type DiskView, Topology } from './topology.ts'
import { Trim } from './trim.ts'

const holdMs = 10_000
/** Parked repairs are tried again for room on disks at most once in this time: room comes and goes with every heartbeat. */
const roomMs = 1000
const queueRoom = 32_768

export class Leadership {
  readonly topology: Topology
  readonly sessions: Sessions
  readonly evidence: Evidence
  readonly scrub: ScrubControl
  /** Resolves when the view of the nodes is loaded; rejects with NOT_LEADER when the term ended first. */
  readonly loaded: Promise<void>
  readonly #term: Term
  readonly #health: HealthControl
  readonly #changes: Changes
  readonly #repair: Repair
  readonly #trim: Trim
  readonly #deletes: Deletes
  readonly #reconcile: Reconcile
  readonly #leases: Leases
  readonly #garbage: Garbage
  readonly #scan: DiskScan
  readonly #clientSessions: ClientSessions
  readonly #roomAlarm: Alarm
  /** Disks whose new state is on its way into the log. */
  readonly #diskStates = new Set<number>()
  #holding = true
  /** What the cluster record said last. */
  #held: boolean
  #incarnation: number

  constructor(term: Term) {
    this.#term = term
    this.topology = new Topology(term, {
      disk: (before, after) => this.#diskChanged(before, after),
      node: (node) => this.#health.recordChanged(node),
      room: () => this.#roomAlarm.setEarlier(this.#term.nowMs() + roomMs),
    })
    this.#roomAlarm = new Alarm(term, () => this.#unpark())
    this.#leases = new Leases(term, this)
    this.loaded = this.#load()
    this.sessions = new Sessions(term, this, this.loaded)
    this.scrub = new ScrubControl(term, this.sessions, this.topology)
    this.#health = new HealthControl(term, this.topology, this.sessions)
    this.#changes = new Changes(term)
    this.evidence = new Evidence(term, this.sessions, this.#changes)
    this.#deletes = new Deletes(term, {
      sessions: this.sessions,
      orphans: (disk, chunks) => this.#reconcile.orphans(disk, chunks),
    })
    this.#trim = new Trim(term, this.topology, this.sessions, this.evidence)
    this.#repair = new Repair(term, {
      topology: this.topology,
      sessions: this.sessions,
      changes: this.#changes,
      evidence: this.evidence,
      surplus: (chunk) => this.#trim.add(chunk),
      repaired: (chunk, source) => this.scrub.repaired(chunk, source),
      doubt: (disk, chunk) => this.#reconcile.doubt(disk, chunk),
      beingDeleted: (disk, chunk) => this.#deletes.pending(disk, chunk),
      settledMs: (disk) => this.#reconcile.settledMs(disk),
    })
    this.#reconcile = new Reconcile(term, {
      topology: this.topology,
      changes: this.#changes,
      evidence: this.evidence,
      deletes: this.#deletes,
      inOpenLease: (chunk) => this.#leases.inOpenLease(chunk),
      copying: (disk, chunk) => this.#repair.copying(disk, chunk),
      changed: (chunk) => this.#repair.changed(chunk),
    })
    this.#garbage = new Garbage(term)
    this.#scan = this.#makeScan()
    this.#clientSessions = new ClientSessions(term)
    this.#held = term.deletesHeld
    this.#incarnation = term.toldIncarnation
    this.#term.run('take office', () => this.#start())
  }

  /** Ends the term: streams end with NOT_LEADER, timers and activities stop. */
  end(): void {
    this.#term.end()
    this.sessions.end()
  }

  onApplied(results: readonly AppliedReply[]): void {
    for (const { effects } of results) for (const effect of effects) this.#effect(effect)
  }

  samples(total: number): readonly Sample[] {
    return controlSamples(this.topology, this.#repair, total)
  }

  status(): Promise<ControlStatus> {
    return controlStatus(this.#term, {
      topology: this.topology,
      health: this.#health,
      repair: this.#repair,
      scrub: this.scrub,
      surplus: () => this.#trim.size,
      scanned: () => this.#scan.complete,
    })
  }

  storageVersions(): { id: NodeId; versionMax: number }[] {
    const nodes = [...this.topology.nodes.values()].filter((node) => node.record.mode !== 'decommissioned')
    return nodes.map(({ id }) => ({ id, versionMax: this.sessions.versionOf(id) }))
  }

  heldBack(): number {
    return this.#reconcile.heldBack
  }

  /** SessionEvents. */
  attached(session: Session): void {
    if (this.#isOld(session)) {
      // It was fenced between its registration and its first heartbeat.
      this.sessions.fence(session.node, 'it was fenced while it attached')
      return
    }
    const disks = session.disks.map((disk) => disk.number)
    this.#term.log.info('node attached', { node: session.node, disks: disks.join(',') })
    this.#health.feed({ kind: 'attached', node: session.node })
    this.#reconcile.attached(session)
    for (const disk of disks) {
      this.#deletes.attached(disk)
      this.#scan.add(disk, false)
    }
    this.#leases.wake()
    this.#releaseHold()
    this.#unpark()
  }

  heard(session: Session): void {
    this.#health.feed({ kind: 'heard', node: session.node })
  }

  heartbeat(session: Session, facts: HeartbeatFacts): Promise<void> | undefined {
    this.topology.heartbeat(session.node, facts.inflightBytes, facts.disks, facts.faults)
    for (const disk of facts.disks) {
      this.#diskState(disk)
      this.scrub.reported(disk.number, disk.scrub)
    }
    if (facts.corrupt.length === 0) return undefined
    const changes = facts.corrupt.flatMap((found) => {
      const generation = session.disks.find((disk) => disk.number === found.disk)?.generation
      return generation === undefined ? [] : [change(found.chunk, found.disk, generation, 'corrupt', found.finding)]
    })
    return this.#changes.add(changes)
  }

  lost(session: Session, orderly: boolean): void {
    this.scrub.lost(session)
    this.#health.feed({ kind: 'lost', node: session.node, orderly })
  }

  /** LeaseParts. */
  unknown(disk: number, chunks: readonly number[]): Promise<number> {
    return this.#reconcile.unknown(disk, chunks)
  }

  async #load(): Promise<void> {
    await this.topology.load()
    await this.#leases.load()
    this.#term.check()
  }

  async #start(): Promise<void> {
    await this.loaded
    this.#repair.queue.hold(this.#term.nowMs() + holdMs)
    this.#health.start()
    new SlowDisks(this.#term, this.topology).start()
    this.#garbage.start()
    for (const disk of [...this.topology.disks.values()].sort((a, b) => a.number - b.number)) {
      this.#scan.add(disk.number, !disk.record.live)
    }
    await this.#clientSessions.load()
    await this.#repair.scanShort()
  }

  #clusterChanged(): void {
    if (this.#term.toldIncarnation > this.#incarnation) {
      // It fenced every disk: all nodes register again and report.
      this.#incarnation = this.#term.toldIncarnation
      this.sessions.fenceAll('the metadata was recovered')
    }
    const resumed = this.#held && !this.#term.deletesHeld
    this.#held = this.#term.deletesHeld
    if (!resumed) return
    this.#term.log.info('deletes go on')
    this.#deletes.resume()
    this.#garbage.start()
    this.#trim.resume()
    this.#reconcile.resume(this.sessions.all())
  }

  #makeScan(): DiskScan {
    const { queue } = this.#repair
    return new DiskScan(this.#term, {
      reading: () => this.#repair.reading(),
      look: (disk, chunk, record, overtaken) => {
        const own = record.replicas.find((replica) => replica.disk === disk)
        // Looked at once more before the order; and nothing leads out of `deleting`, so nobody else may find it.
        if (own?.state === 'deleting') this.#deletes.add(disk, chunk)
        // Left to those who look at changes: judging by this entry would undo theirs.
        if (!overtaken) this.#repair.consider(chunk, { wanted: record.copies, replicas: record.replicas })
      },
      page: () => this.#repair.schedule(),
      overflowed: () => {
        const overflowed = queue.overflowed || this.#deletes.overflowed.size > 0
        queue.overflowed = false
        this.#deletes.overflowed.clear()
        return overflowed
      },
      room: () => queue.size < queueRoom,
    })
  }

  #effect(effect: Effect): void {
    if (effect.kind === 'chunk') this.#repair.changed(effect.chunk)
    else if (effect.kind === 'garbage') this.#garbage.garbage(effect.sinceMs)
    else if (effect.kind === 'trash') this.#garbage.trash(effect.sinceMs)
    else if (effect.kind === 'lease') this.#leases.changed(effect.lease, effect.open, effect.expiresMs)
    else if (effect.kind === 'deleting') this.#deletes.add(effect.disk, effect.chunk)
    else if (effect.kind === 'node') this.topology.nodeChanged(effect.node)
    else if (effect.kind === 'disk') this.topology.diskChanged(effect.disk)
    else if (effect.kind === 'session') {
      this.#clientSessions.changed(effect.session, effect.open, effect.expiresMs)
    } else if (effect.kind === 'cluster') this.#clusterChanged()
    else if (effect.kind === 'corrupt') {
      const node = this.topology.nodeOf(effect.disk)?.id
      const { disk, finding } = effect
      this.#term.log.warn('corrupt replica found', { chunk: formatChunkId(effect.chunk), disk, node, finding })
    }
  }

  #diskChanged(before: DiskRecord | undefined, after: DiskView): void {
    const counted = before?.live === true && before.reconciled
    const counts = after.record.live && after.record.reconciled
    if (counted && !counts) this.#term.log.warn('disk does not count', { disk: after.number, node: after.record.node })
    if (counted !== counts) this.#scan.add(after.number, true)
    const session = this.sessions.ofDisk(after.number)
    if (after.record.live && session !== undefined && this.#isOld(session)) {
      this.sessions.fence(session.node, 'its disks were registered anew')
    }
    this.#leases.wake()
    this.#unpark()
  }

  /** True when a disk of the session has a later generation: what it says under its own would count for nothing. */
  #isOld(session: Session): boolean {
    return session.disks.some(
      ({ number, generation }) => (this.topology.disks.get(number)?.record.generation ?? 0) > generation,
    )
  }

  /** Something changed that may allow what could not start. */
  #unpark(): void {
    this.#repair.queue.wakeParked()
    this.#repair.schedule()
  }

  #diskState(disk: HeartbeatFacts['disks'][number]): void {
    const { number, generation, state } = disk
    const record = this.topology.disks.get(number)?.record
    if (record === undefined || record.generation !== generation || record.state === state) return
    if (this.#diskStates.has(number)) return
    this.#diskStates.add(number)
    this.#term.log.warn('disk state changed', {
      disk: number,
      node: record.node,
      from: record.state,
      to: state,
      reason: disk.reason,
    })
    this.#term.run('note the state of a disk', async () => {
      try {
        await this.#term.propose({ kind: 'diskState', disk: number, generation, state })
      } finally {
        this.#diskStates.delete(number)
      }
    })
  }

  /** Every node that should be up is here: no reason to hold repair back any longer. */
  #releaseHold(): void {
    if (!this.#holding) return
    for (const node of this.topology.nodes.values()) {
      if (node.record.health !== 'down' && this.sessions.of(node.id) === undefined) return
    }
    this.#holding = false
    this.#repair.queue.hold(0)
  }
}
