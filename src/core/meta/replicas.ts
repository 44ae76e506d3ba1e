/**
 * What becomes of single replicas after their commit: copied, missing, corrupt, trimmed, reclaimed, deleted.
 *
 * Invariants (docs/RULES.md, rules 3 and 4): nothing is believed of a disk but under its current generation while it is
 * live; a replica enters `deleting` only by `trim`, with a proof of enough other copies, or by `reclaim`, when nothing
 * holds the chunk; out of `deleting` leads only the deletion.
 */

import type { ChunkId, DiskNumber } from '../../model/ids.ts'
import { formatChunkId } from '../../model/ids.ts'
import { getChunk, isHeld, isReclaimed, putChunk, withRoom } from './chunks.ts'
import type { Command, ReplicaChange } from './commands.ts'
import { keys } from './keys.ts'
import { writerIsOpen } from './leases.ts'
import { getDisk } from './nodes.ts'
import { type ChunkRecord, findingRecord, findingSlots, type ReplicaRecord } from './records.ts'
import { refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** A `copying` replica of a commit is given this long before anybody acts on its absence (rule 10). */
const copyingDeadlineMs = 10_000

/** Carries out what controllers learned of single replicas; what is out of date is dropped. */
export function changeReplicas(tx: Transaction, changes: readonly ReplicaChange[]): void {
  for (const change of changes) {
    const chunk = getChunk(tx, change.chunk)
    const disk = getDisk(tx, change.disk)
    if (chunk === undefined || disk === undefined || !disk.live || disk.generation !== change.generation) continue
    const replica = chunk.replicas.find((one) => one.disk === change.disk)
    if (change.change === 'copied') copied(tx, change, chunk, replica)
    else if (replica !== undefined) worsened(tx, change, chunk, replica)
  }
}

function copied(tx: Transaction, change: ReplicaChange, chunk: ChunkRecord, replica: ReplicaRecord | undefined): void {
  if (replica?.state === 'deleting' || replica?.state === 'current') return
  if (isReclaimed(chunk)) {
    // Nothing holds the chunk and its grace is over: the copy came too late and goes the way of the others.
    setReplica(tx, change.chunk, chunk, { disk: change.disk, generation: change.generation, state: 'deleting' })
    tx.effect({ kind: 'deleting', chunk: change.chunk, disk: change.disk, generation: change.generation })
    return
  }
  setReplica(tx, change.chunk, chunk, { disk: change.disk, generation: change.generation, state: 'current' })
  if (replica?.state === 'corrupt') markRepaired(tx, change.chunk, change.disk)
}

function worsened(tx: Transaction, change: ReplicaChange, chunk: ChunkRecord, replica: ReplicaRecord): void {
  const { state } = replica
  const overdue = chunk.committedMs + copyingDeadlineMs <= tx.nowMs
  if (change.change === 'corrupt') {
    if (state !== 'current' && state !== 'copying') return
    setReplica(tx, change.chunk, chunk, { ...replica, state: 'corrupt' })
    recordFinding(tx, change)
  } else if (state === 'copying') {
    if (overdue) dropReplica(tx, change.chunk, chunk, change.disk)
  } else if (change.change === 'missing') {
    if (state === 'deleting') dropReplica(tx, change.chunk, chunk, change.disk)
    else if (state !== 'missing') {
      setReplica(tx, change.chunk, chunk, { ...replica, state: 'missing' })
      if (state === 'corrupt') markRepaired(tx, change.chunk, change.disk)
    }
  }
}

function setReplica(tx: Transaction, id: ChunkId, chunk: ChunkRecord, replica: ReplicaRecord): void {
  const at = chunk.replicas.findIndex((one) => one.disk === replica.disk)
  if (at >= 0) {
    putChunk(tx, id, { ...chunk, replicas: chunk.replicas.with(at, replica) })
    return
  }
  const room = withRoom(tx, chunk.replicas)
  if (room !== undefined) putChunk(tx, id, { ...chunk, replicas: [...room, replica] })
}

function dropReplica(tx: Transaction, id: ChunkId, chunk: ChunkRecord, disk: DiskNumber): void {
  putChunk(tx, id, { ...chunk, replicas: chunk.replicas.filter((one) => one.disk !== disk) })
}

function recordFinding(tx: Transaction, change: ReplicaChange): void {
  const { findings } = tx.counters
  tx.put(keys.finding(findings % findingSlots), findingRecord, {
    chunk: change.chunk,
    disk: change.disk,
    foundMs: tx.nowMs,
    finding: change.finding,
    repaired: false,
  })
  tx.count({ findings: findings + 1 })
  tx.effect({ kind: 'corrupt', chunk: change.chunk, disk: change.disk, finding: change.finding })
}

/**
 * Marks the newest open finding on this replica; an older one may have left the ring. Called when the bad bytes stop
 * being a listed replica: replaced in place, trimmed because enough good copies were proven, or gone.
 */
function markRepaired(tx: Transaction, chunk: ChunkId, disk: DiskNumber): void {
  const { findings } = tx.counters
  for (let i = findings - 1; i >= 0 && i >= findings - findingSlots; i--) {
    const key = keys.finding(i % findingSlots)
    const finding = tx.get(key, findingRecord)
    if (finding === undefined || finding.chunk !== chunk || finding.disk !== disk || finding.repaired) continue
    tx.put(key, findingRecord, { ...finding, repaired: true })
    return
  }
}

/** Orders one replica away that is not needed; refused unless the proof names enough other verified copies. */
export function trim(tx: Transaction, body: Extract<Command, { kind: 'trim' }>): void {
  const name = `chunk ${formatChunkId(body.chunk)}`
  const chunk = getChunk(tx, body.chunk)
  if (chunk === undefined) refuse('NOT_FOUND', `${name} does not exist: nothing is to trim`)
  const replica = chunk.replicas.find((one) => one.disk === body.disk)
  if (replica === undefined) refuse('NOT_FOUND', `${name} has no replica on disk ${body.disk}: nothing is to trim`)
  if (replica.state === 'deleting') return
  const proven = new Set<DiskNumber>()
  for (const { disk: number, generation } of body.proof) {
    const disk = getDisk(tx, number)
    const holds = chunk.replicas.some((one) => one.disk === number && one.state === 'current')
    const sound = disk?.live === true && disk.reconciled && disk.generation === generation && disk.state !== 'failed'
    if (number !== body.disk && holds && sound) proven.add(number)
  }
  if (proven.size < chunk.copies) {
    refuse(
      'CONDITION_FAILED',
      `${name} has ${proven.size} proven other copies, ${chunk.copies} are wanted: verify more`,
    )
  }
  putDeleting(tx, body.chunk, chunk, [replica])
}

/** Orders away every replica of chunks that nothing holds, whose grace is over and whose writer can no longer name them. */
export function reclaim(tx: Transaction, graceMs: number, chunks: readonly ChunkId[]): void {
  for (const id of chunks) {
    const chunk = getChunk(tx, id)
    if (chunk === undefined || isHeld(chunk) || isReclaimed(chunk)) continue
    if (chunk.garbageMs + graceMs > tx.nowMs) continue
    if (writerIsOpen(tx, id)) {
      // Its writer may still commit it. Later again, behind what can go now.
      restartGrace(tx, id, chunk)
      continue
    }
    putDeleting(tx, id, chunk, chunk.replicas)
  }
}

function restartGrace(tx: Transaction, id: ChunkId, chunk: ChunkRecord): void {
  if (chunk.garbageMs !== tx.nowMs) putChunk(tx, id, { ...chunk, garbageMs: tx.nowMs })
}

function putDeleting(tx: Transaction, id: ChunkId, chunk: ChunkRecord, chosen: readonly ReplicaRecord[]): void {
  const replicas = chunk.replicas.map((replica): ReplicaRecord => {
    if (replica.state === 'deleting' || !chosen.includes(replica)) return replica
    return { ...replica, state: 'deleting' }
  })
  putChunk(tx, id, { ...chunk, replicas })
  for (const replica of chosen) {
    if (replica.state === 'deleting') continue
    if (replica.state === 'corrupt') markRepaired(tx, id, replica.disk)
    const generation = getDisk(tx, replica.disk)?.generation ?? replica.generation
    tx.effect({ kind: 'deleting', chunk: id, disk: replica.disk, generation })
  }
}

/** The disk deleted these replicas, durably. Ignored under another generation. */
export function deleted(tx: Transaction, number: DiskNumber, generation: number, chunks: readonly ChunkId[]): void {
  const disk = getDisk(tx, number)
  if (disk === undefined || disk.generation !== generation) return
  for (const id of chunks) {
    const chunk = getChunk(tx, id)
    const replica = chunk?.replicas.find((one) => one.disk === number)
    if (chunk !== undefined && replica?.state === 'deleting') dropReplica(tx, id, chunk, number)
  }
}
