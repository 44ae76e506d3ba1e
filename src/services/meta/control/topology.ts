/**
 * The leader's view of nodes and disks: the committed records, what heartbeats add to them, and the placement table.
 *
 * Kept in memory because a put's placement and a reader's list of copies are answered from it. It follows the committed
 * records by effects, a moment behind; nothing is decided by it alone that `apply` does not check again.
 * Invariants: a disk weighs something in the placement only while its node is up and active and the disk is live, ok and
 * not slow (a put that would get too few copies may fall back on suspect ones, a repair never);
 * a replica counts only while its disk is live and reconciled.
 */

import type { SpeedFigures } from '../../../core/health/slow.ts'
import type { DiskRecord, NodeRecord, ReplicaRecord, StoredReplicaState } from '../../../core/meta/records.ts'
import { PlacementTable } from '../../../core/placement/placement.ts'
import type { CountedCopy } from '../../../core/repair/class.ts'
import { StoreError } from '../../../model/errors.ts'
import type { DiskNumber, NodeId, ZoneId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { Health, ReplicaState } from '../../../model/words.ts'
import { safeCounter } from '../../../wire/checks.ts'
import type { holdfast } from '../../../wire/messages.ts'
import { Pump, type Term } from './term.ts'

export interface DiskView {
  readonly number: DiskNumber
  record: DiskRecord
  capacityBytes: number
  usedBytes: number
  /** Bytes that its node will take, as of the last heartbeat; before the first, what the record lets us expect. */
  freeForNewBytes: number
  /** A node refused a copy for want of room: nothing is placed here until then. */
  refusedUntilMs: number
  chunks: number
  /** Why the disk is in its state, as its node said last. */
  reason: string
  speed: SpeedFigures
  /** Set while the leader finds it slow against its peers: the reason in words. */
  slow: string | undefined
  /** Its node is attached and does not have it. */
  absent: boolean
  /** Bytes placed here since its last heartbeat. */
  placedBytes: number
  /** In the placement table; 0: takes no new copies. */
  weight: number
}

export interface NodeView {
  readonly id: NodeId
  record: NodeRecord
  health: Health
  inflightBytes: number
  /** Directories that it could not open. */
  faults: readonly { readonly path: string; readonly reason: string }[]
}

/** Told after the view has changed. */
export interface TopologyEvents {
  disk(before: DiskRecord | undefined, after: DiskView): void
  node(node: NodeView): void
  /** A disk takes new copies that took none before. */
  room(): void
}

/** How long a disk whose node had no room for a copy is left alone: heartbeats may be a moment behind its puts. */
const refusalMs = 30_000
const inflightHalvingBytes = 64 * 1024 * 1024

export class Topology {
  readonly nodes = new Map<NodeId, NodeView>()
  readonly disks = new Map<DiskNumber, DiskView>()
  readonly placement = new PlacementTable()
  readonly #term: Term
  readonly #events: TopologyEvents
  readonly #staleNodes = new Set<NodeId>()
  readonly #staleDisks = new Set<DiskNumber>()
  readonly #refresh: Pump
  #zones: number | undefined
  #loaded = false

  constructor(term: Term, events: TopologyEvents) {
    this.#term = term
    this.#events = events
    this.#refresh = new Pump(term, 'refresh the view of nodes', () => this.#reload())
  }

  async load(): Promise<void> {
    for (const { id, record } of await this.#term.queries.nodes()) this.#setNode(id, record)
    for (const { number, record } of await this.#term.queries.disks()) this.#setDisk(number, record)
    this.#loaded = true
    this.#refresh.kick()
  }

  /** Its committed record changed. */
  nodeChanged(node: NodeId): void {
    this.#staleNodes.add(node)
    if (this.#loaded) this.#refresh.kick()
  }

  diskChanged(disk: DiskNumber): void {
    this.#staleDisks.add(disk)
    if (this.#loaded) this.#refresh.kick()
  }

  setHealth(node: NodeId, health: Health): void {
    const view = this.nodes.get(node)
    if (view === undefined || view.health === health) return
    view.health = health
    this.#reweighNode(view)
  }

  /** The leader finds the disk slow, for this reason, or no longer. */
  setSlow(disk: DiskNumber, reason: string | undefined): void {
    const view = this.disks.get(disk)
    if (view === undefined) return
    view.slow = reason
    this.#reweigh(view)
  }

  /** What a heartbeat says of the disks, by number. */
  heartbeat(
    node: NodeId,
    inflightBytes: number,
    disks: readonly (DiskUsage & { number: DiskNumber })[],
    faults: NodeView['faults'] = [],
  ): void {
    const view = this.nodes.get(node)
    if (view === undefined) return
    view.inflightBytes = inflightBytes
    view.faults = faults
    for (const number of view.record.disks) {
      const disk = this.disks.get(number)
      if (disk !== undefined) disk.absent = !disks.some((usage) => usage.number === number)
    }
    for (const usage of disks) {
      const disk = this.disks.get(usage.number)
      if (disk === undefined) continue
      disk.capacityBytes = usage.capacityBytes
      disk.usedBytes = usage.usedBytes
      disk.freeForNewBytes = usage.freeForNewBytes
      disk.chunks = usage.chunks
      disk.reason = usage.reason
      disk.speed = usage.speed
      disk.placedBytes = 0
    }
    this.#reweighNode(view)
  }

  /** The node had no room for a copy on this disk. Heartbeats after the pause bring the disk back. */
  refused(disk: DiskNumber): void {
    const view = this.disks.get(disk)
    if (view === undefined) return
    view.refusedUntilMs = this.#term.nowMs() + refusalMs
    this.#reweigh(view)
  }

  nodeOf(disk: DiskNumber): NodeView | undefined {
    const view = this.disks.get(disk)
    return view === undefined ? undefined : this.nodes.get(view.record.node)
  }

  /** The replicas that count now. */
  counted(replicas: readonly ReplicaRecord[]): CountedCopy[] {
    const out: CountedCopy[] = []
    for (const replica of replicas) {
      if (replica.state !== 'current') continue
      const disk = this.disks.get(replica.disk)
      const node = disk === undefined ? undefined : this.nodes.get(disk.record.node)
      if (disk === undefined || node === undefined || !disk.record.live || !disk.record.reconciled) continue
      const sound = node.health === 'up' && disk.record.state === 'ok' && disk.slow === undefined
      const firm = sound && (node.record.mode === 'active' || node.record.mode === 'maintenance')
      out.push({ disk: replica.disk, zone: node.record.zone, firm })
    }
    return out
  }

  /** Copies that would count again if their disks came back. */
  returnable(replicas: readonly ReplicaRecord[]): number {
    let count = 0
    for (const replica of replicas) {
      const record = this.disks.get(replica.disk)?.record
      if (replica.state !== 'current' || record === undefined || record.state === 'failed') continue
      if (!record.live || !record.reconciled) count++
    }
    return count
  }

  /** Zones with a live disk. */
  get zones(): number {
    if (this.#zones === undefined) {
      const zones = new Set<ZoneId>()
      for (const disk of this.disks.values()) {
        const node = this.nodes.get(disk.record.node)
        if (disk.record.live && node !== undefined) zones.add(node.record.zone)
      }
      this.#zones = zones.size
    }
    return this.#zones
  }

  fullness(disk: DiskNumber): number {
    const view = this.disks.get(disk)
    return view === undefined || view.capacityBytes === 0 ? 1 : view.usedBytes / view.capacityBytes
  }

  /** True when the disk may take new copies now. */
  eligible(disk: DiskNumber): boolean {
    const view = this.disks.get(disk)
    return view !== undefined && this.#weight(view) > 0
  }

  replicaState(disk: DiskNumber, stored: StoredReplicaState): ReplicaState {
    return shownReplicaState(this.disks.get(disk)?.record, stored)
  }

  addresses(numbers: Iterable<DiskNumber>): holdfast.v1.DiskAddress.$Properties[] {
    const out: holdfast.v1.DiskAddress.$Properties[] = []
    for (const disk of [...new Set(numbers)].sort((a, b) => a - b)) {
      const view = this.disks.get(disk)
      const node = view === undefined ? undefined : this.nodes.get(view.record.node)
      if (view === undefined || node === undefined) continue
      out.push({
        disk,
        node: node.id,
        addresses: [...node.record.addresses],
        zone: node.record.zone,
        health: node.health === 'up' && isSuspect(view) ? 'suspected' : node.health,
        generation: view.record.generation,
      })
    }
    return out
  }

  /** Throws INVALID_ARGUMENT, NO_SPACE or NO_PLACEMENT. */
  place(request: holdfast.v1.PlaceRequest.$Properties): holdfast.v1.PlaceReply.$Properties {
    const chunks = Math.max(1, safeCounter(request.chunks ?? 0, 'chunks', 256))
    const copies = Math.max(1, safeCounter(request.copies ?? 0, 'copies', limits.replicasMax))
    const chunkBytes = safeCounter(request.chunkBytes ?? 0, 'chunk_bytes', limits.chunkBytesMax)
    const exclude = request.exclude ?? []
    const have = request.have ?? []
    const used = new Set<DiskNumber>()
    const placements: { disks: DiskNumber[] }[] = []
    for (let i = 0; i < chunks; i++) {
      const disks = this.#choose(copies, exclude, have)
      if (disks.length === 0 && exclude.length === 0) throw this.#noPlace()
      for (const disk of disks) {
        used.add(disk)
        this.#placed(disk, chunkBytes)
      }
      placements.push({ disks })
    }
    return { placements, disks: this.addresses(used) }
  }

  /** Disks for a put. Suspect ones only for copies that would not be made otherwise: slow is better than too few. */
  #choose(copies: number, exclude: readonly DiskNumber[], have: readonly DiskNumber[]): DiskNumber[] {
    const unit = (): number => this.#term.env.entropy.unit()
    const disks = this.placement.choose({ copies, exclude, have }, unit)
    if (disks.length === copies) return disks
    const suspects = [...this.disks.values()].filter((disk) => isSuspect(disk))
    if (suspects.length === 0) return disks
    const table = new PlacementTable()
    for (const disk of this.disks.values()) {
      const node = this.nodes.get(disk.record.node)
      if (node === undefined) continue
      const weight = isSuspect(disk) ? this.#roomWeight(disk, node) : 0
      table.set({ disk: disk.number, node: node.id, zone: node.record.zone, weight })
    }
    return [...disks, ...table.choose({ copies: copies - disks.length, exclude, have: [...have, ...disks] }, unit)]
  }

  #noPlace(): StoreError {
    let broken = 0
    for (const disk of this.disks.values()) {
      if (this.nodes.get(disk.record.node)?.health !== 'up' || disk.absent) continue
      if (disk.record.live && disk.record.state !== 'read-only') {
        return new StoreError('NO_SPACE', 'place a chunk: every disk that is up is full; add disks or remove objects')
      }
      broken++
    }
    if (broken > 0) {
      const message = 'place a chunk: every disk of the nodes that are up is failed or read-only; see status'
      return new StoreError('NO_PLACEMENT', message)
    }
    return new StoreError('NO_PLACEMENT', 'place a chunk: no storage node is up; start storage nodes and try again')
  }

  #placed(disk: DiskNumber, bytes: number): void {
    const view = this.disks.get(disk)
    if (view === undefined) return
    view.placedBytes += bytes
    this.#reweigh(view)
  }

  #setNode(id: NodeId, record: NodeRecord): void {
    const known = this.nodes.get(id)
    if (known === undefined) this.nodes.set(id, { id, record, health: record.health, inflightBytes: 0, faults: [] })
    else known.record = record
    this.#zones = undefined
  }

  #setDisk(number: DiskNumber, record: DiskRecord): DiskView {
    let view = this.disks.get(number)
    if (view === undefined) {
      const { capacityBytes, usedBytes } = record
      const freeForNewBytes = Math.max(0, capacityBytes - usedBytes)
      view = {
        number,
        record,
        capacityBytes,
        usedBytes,
        freeForNewBytes,
        refusedUntilMs: 0,
        chunks: 0,
        reason: '',
        speed: { syncMs: 0, readMs: 0 },
        slow: undefined,
        absent: false,
        placedBytes: 0,
        weight: 0,
      }
      this.disks.set(number, view)
    } else view.record = record
    this.#zones = undefined
    this.#reweigh(view)
    return view
  }

  async #reload(): Promise<void> {
    const nodes = [...this.#staleNodes].sort()
    const disks = [...this.#staleDisks].sort((a, b) => a - b)
    this.#staleNodes.clear()
    this.#staleDisks.clear()
    for (const id of nodes) {
      const record = await this.#term.queries.node(id)
      if (record === undefined) continue
      this.#setNode(id, record)
      const view = this.nodes.get(id)
      if (view === undefined) continue
      this.#reweighNode(view)
      this.#events.node(view)
    }
    for (const number of disks) {
      const record = await this.#term.queries.disk(number)
      if (record === undefined) continue
      const before = this.disks.get(number)?.record
      const view = this.#setDisk(number, record)
      this.#events.disk(before, view)
    }
  }

  #reweighNode(node: NodeView): void {
    for (const number of node.record.disks) {
      const disk = this.disks.get(number)
      if (disk !== undefined) this.#reweigh(disk)
    }
  }

  #reweigh(disk: DiskView): void {
    const node = this.nodes.get(disk.record.node)
    if (node === undefined) return
    const before = disk.weight
    disk.weight = this.#weight(disk)
    this.placement.set({ disk: disk.number, node: node.id, zone: node.record.zone, weight: disk.weight })
    if (before === 0 && disk.weight > 0) this.#events.room()
  }

  #weight(disk: DiskView): number {
    const node = this.nodes.get(disk.record.node)
    if (node === undefined || disk.record.state !== 'ok' || disk.slow !== undefined) return 0
    return this.#roomWeight(disk, node)
  }

  /** What its room is worth, whatever its state. */
  #roomWeight(disk: DiskView, node: NodeView): number {
    if (node.health !== 'up' || node.record.mode !== 'active' || !disk.record.live) return 0
    if (disk.refusedUntilMs > this.#term.nowMs()) return 0
    const freeBytes = disk.freeForNewBytes - disk.placedBytes
    // Less than one chunk of the largest size: the next one might be refused.
    if (freeBytes < limits.chunkBytesMax) return 0
    return freeBytes / (1 + node.inflightBytes / inflightHalvingBytes)
  }
}

interface DiskUsage {
  readonly capacityBytes: number
  readonly usedBytes: number
  readonly freeForNewBytes: number
  readonly chunks: number
  readonly reason: string
  readonly speed: SpeedFigures
}

/** It takes nothing new and is read last, and what it holds counts. */
function isSuspect(disk: DiskView): boolean {
  return disk.record.state === 'suspect' || (disk.record.state === 'ok' && disk.slow !== undefined)
}

/** What a stored replica is worth now, by its disk. */
export function shownReplicaState(disk: DiskRecord | undefined, stored: StoredReplicaState): ReplicaState {
  if (stored === 'corrupt' || stored === 'deleting') return stored
  if (stored === 'missing' || disk === undefined || !disk.live) return 'lost'
  if (stored === 'copying') return 'copying'
  return disk.reconciled ? 'current' : 'stale'
}
