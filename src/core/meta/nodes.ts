/**
 * Storage nodes and their disks: registration, fencing, modes (docs/RULES.md, rule 3).
 *
 * Invariants: a disk's generation only rises, and rises with everything that puts what it holds or acknowledged in doubt:
 * a new start of its process, its node declared down, its failure. `reconciled` implies `live`. A registration of the
 * process that is registered already, on a disk that was never fenced, changes no generation: a change of leader must
 * not refuse the writes that are in flight.
 */

import type { DiskNumber, NodeId } from '../../model/ids.ts'
import { isNodeId } from '../../model/ids.ts'
import type { DiskState, Mode } from '../../model/words.ts'
import type { Command, Reply } from './commands.ts'
import { keys } from './keys.ts'
import { clusterRecord, type DiskRecord, diskRecord, nodeRecord } from './records.ts'
import { demand, refuse } from './refuse.ts'
import { uint } from '../../base/schema.ts'
import { quote } from '../../model/names.ts'
import type { Transaction } from './view.ts'

/** Disks of one node. */
const disksOfNodeMax = 256

type Registration = Extract<Command, { kind: 'registerNode' }>
type RegisteredDisk = Registration['disks'][number]

export function getDisk(tx: Transaction, number: DiskNumber): DiskRecord | undefined {
  return tx.get(keys.disk(number), diskRecord)
}

function putDisk(tx: Transaction, number: DiskNumber, record: DiskRecord): void {
  tx.put(keys.disk(number), diskRecord, record)
  tx.effect({ kind: 'disk', disk: number })
}

/** Registers one start of a node's process; answers the number and generation of every disk, in the command's order. */
export function registerNode(tx: Transaction, body: Registration): Reply {
  demand(isNodeId(body.node), `node id ${quote(body.node)} is not valid: use a-z, 0-9, ".", "_" and "-"`)
  demand(body.disks.length <= disksOfNodeMax, `node ${body.node} has too many disks: use at most ${disksOfNodeMax}`)
  const ids = new Set(body.disks.map((disk) => disk.id))
  demand(ids.size === body.disks.length, `node ${body.node} names a disk twice: give each disk once`)
  const before = tx.get(keys.node(body.node), nodeRecord)
  const sameProcess = before?.incarnation === body.incarnation
  const disks = body.disks.map((disk) => registerDisk(tx, body.node, disk, sameProcess))
  const numbers = disks.map((disk) => disk.number)
  const absent = (before?.disks ?? []).filter((number) => !numbers.includes(number))
  const kept = absent.filter((number) => getDisk(tx, number)?.node === body.node)
  for (const number of kept) fenceDisk(tx, number)
  tx.put(keys.node(body.node), nodeRecord, {
    addresses: body.addresses,
    zone: body.zone,
    health: 'up',
    mode: before?.mode ?? 'active',
    incarnation: body.incarnation,
    sinceMs: before?.health === 'up' ? before.sinceMs : tx.nowMs,
    disks: [...numbers, ...kept],
  })
  tx.effect({ kind: 'node', node: body.node })
  return { ok: true, kind: 'registered', disks }
}

function registerDisk(
  tx: Transaction,
  node: NodeId,
  disk: RegisteredDisk,
  sameProcess: boolean,
): { readonly id: string; readonly number: DiskNumber; readonly generation: number } {
  const known = tx.get(keys.diskById(disk.id), uint)
  const number = known ?? newDiskNumber(tx, disk.id)
  const before = getDisk(tx, number)
  const live = disk.state !== 'failed'
  const unbroken = sameProcess && live && before?.live === true && before.node === node
  const generation = before === undefined ? 1 : unbroken ? before.generation : before.generation + 1
  putDisk(tx, number, {
    id: disk.id,
    node,
    generation,
    live,
    // A disk that meta never saw holds nothing that meta counts: there is nothing to compare.
    reconciled: live && (before === undefined || (unbroken && before.reconciled)),
    state: disk.state,
    capacityBytes: disk.capacityBytes,
    usedBytes: disk.usedBytes,
  })
  return { id: disk.id, number, generation }
}

function newDiskNumber(tx: Transaction, id: string): DiskNumber {
  const cluster = tx.cluster()
  tx.put(keys.cluster(), clusterRecord, { ...cluster, nextDisk: cluster.nextDisk + 1 })
  tx.put(keys.diskById(id), uint, cluster.nextDisk)
  return cluster.nextDisk
}

/** Nothing the disk acknowledged in its old generation counts from here on. */
export function fenceDisk(tx: Transaction, number: DiskNumber, generations = 1, state?: DiskState): void {
  const disk = getDisk(tx, number)
  if (disk === undefined) return
  putDisk(tx, number, {
    ...disk,
    generation: disk.generation + generations,
    live: false,
    reconciled: false,
    state: state ?? disk.state,
  })
}

/** Fences a node that was declared down; ignored when it has started anew meanwhile. */
export function nodeDown(tx: Transaction, node: NodeId, incarnation: string): void {
  const before = tx.get(keys.node(node), nodeRecord)
  if (before === undefined || before.incarnation !== incarnation || before.health === 'down') return
  for (const number of before.disks) if (getDisk(tx, number)?.node === node) fenceDisk(tx, number)
  tx.put(keys.node(node), nodeRecord, { ...before, health: 'down', sinceMs: tx.nowMs })
  tx.effect({ kind: 'node', node })
}

/** What a disk's node says of it; a failed disk is fenced. Ignored under another generation. */
export function diskState(tx: Transaction, number: DiskNumber, generation: number, state: DiskState): void {
  const disk = getDisk(tx, number)
  if (disk === undefined || disk.generation !== generation || disk.state === state) return
  if (state === 'failed') fenceDisk(tx, number, 1, state)
  // Out of `failed` leads only a new registration.
  else if (disk.state !== 'failed') putDisk(tx, number, { ...disk, state })
}

/** The disk's full report of this generation was compared: its replicas count again. */
export function reconciled(tx: Transaction, number: DiskNumber, generation: number): void {
  const disk = getDisk(tx, number)
  if (disk === undefined || disk.generation !== generation || !disk.live || disk.reconciled) return
  putDisk(tx, number, { ...disk, reconciled: true })
}

export function setMode(tx: Transaction, node: NodeId, mode: Mode): void {
  const before = tx.get(keys.node(node), nodeRecord)
  if (before === undefined) refuse('NOT_FOUND', `node ${quote(node)} is not registered: check the id`)
  tx.put(keys.node(node), nodeRecord, { ...before, mode })
  tx.effect({ kind: 'node', node })
}
