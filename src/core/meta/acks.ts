/**
 * Taking a writer's chunks into the state: which acknowledgements count, and whether they are enough (docs/RULES.md,
 * rules 3 and 10).
 *
 * Invariants: an acknowledgement counts only under the current generation of a live disk; too few for the write concern
 * refuse the whole command with FENCED; a chunk id is taken only from the range of the command's open lease. A chunk
 * that is known already gains no `current` copy from an acknowledgement except where it was `copying`: its other
 * replicas may have been ordered away since.
 */

import { equalBytes } from '../../base/bytes.ts'
import { limits, majority } from '../../model/limits.ts'
import { type CommitId, formatChunkId, type LeaseId } from '../../model/ids.ts'
import type { WriteConcern } from '../../model/words.ts'
import { getChunk, isReclaimed, putChunk } from './chunks.ts'
import type { CommittedChunk } from './commands.ts'
import { keys } from './keys.ts'
import { type ChunkRecord, type DiskRecord, diskRecord, type LeaseRecord, type ReplicaRecord } from './records.ts'
import { demand, refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** What a writer asks for with its chunks. */
export interface Intake {
  readonly commitId: CommitId
  readonly leaseId: LeaseId
  readonly lease: LeaseRecord
  readonly copies: number
  readonly concern: WriteConcern
  /** True: pin the chunk. False: add a reference. */
  readonly pin: boolean
  /** Live disks that were looked up already: a page names the same few again and again. */
  readonly disks: Map<number, DiskRecord | undefined>
}

/** Copies that must be current for the write concern. */
function copiesNeeded(concern: WriteConcern, copies: number): number {
  if (concern === 'all') return copies
  return concern === 'quorum' ? majority(copies) : 1
}

/** Stores one committed chunk and answers how many of its copies count now. */
export function takeChunk(tx: Transaction, chunk: CommittedChunk, intake: Intake): number {
  checkChunk(chunk, intake)
  const known = getChunk(tx, chunk.id)
  const record = known === undefined ? newChunk(tx, chunk, intake) : knownChunk(tx, chunk, intake, known)
  const counted = record.replicas.filter((replica) => counts(tx, intake, replica)).length
  const needed = copiesNeeded(intake.concern, intake.copies)
  if (counted < needed) {
    refuse(
      'FENCED',
      `chunk ${formatChunkId(chunk.id)} has ${counted} acknowledgements in force, ${intake.concern} needs ${needed}: ` +
        'write it to other disks and commit again',
    )
  }
  putChunk(tx, chunk.id, record, tx.nowMs, known)
  return counted
}

function checkChunk(chunk: CommittedChunk, intake: Intake): void {
  const name = `chunk ${formatChunkId(chunk.id)}`
  demand(
    chunk.id >= intake.leaseId && chunk.id < intake.lease.end,
    `${name} is outside the lease: use ids of the lease`,
  )
  demand(
    chunk.length >= 1 && chunk.length <= limits.chunkBytesMax,
    `${name} has a bad length: use 1 to 8,388,608 bytes`,
  )
  demand(intake.copies >= 1 && intake.copies <= limits.replicasMax, `${name} wants ${intake.copies} copies: use 1 to 8`)
  demand(
    chunk.acks.length + chunk.copying.length <= limits.replicasMax,
    `${name} names too many disks: use at most ${limits.replicasMax}`,
  )
}

/** The disk when what it acknowledges counts. */
function liveDisk(tx: Transaction, intake: Intake, disk: number): DiskRecord | undefined {
  if (intake.disks.has(disk)) return intake.disks.get(disk)
  const record = tx.get(keys.disk(disk), diskRecord)
  const live = record?.live === true ? record : undefined
  intake.disks.set(disk, live)
  return live
}

/** A stored copy counts towards durability at commit when its disk is live in the generation it was acknowledged in. */
function counts(tx: Transaction, intake: Intake, replica: ReplicaRecord): boolean {
  if (replica.state !== 'current') return false
  const disk = liveDisk(tx, intake, replica.disk)
  return disk !== undefined && (disk.generation === replica.generation || disk.reconciled)
}

function newChunk(tx: Transaction, chunk: CommittedChunk, intake: Intake): ChunkRecord {
  const replicas: ReplicaRecord[] = []
  const seen = new Set<number>()
  for (const ack of chunk.acks) {
    if (seen.has(ack.disk) || liveDisk(tx, intake, ack.disk)?.generation !== ack.generation) continue
    seen.add(ack.disk)
    replicas.push({ disk: ack.disk, generation: ack.generation, state: 'current' })
  }
  for (const number of chunk.copying) {
    const disk = liveDisk(tx, intake, number)
    if (seen.has(number) || disk === undefined) continue
    seen.add(number)
    replicas.push({ disk: number, generation: disk.generation, state: 'copying' })
  }
  return {
    length: chunk.length,
    root: chunk.root,
    copies: intake.copies,
    references: intake.pin ? 0 : 1,
    pinned: intake.pin,
    commitId: intake.commitId,
    committedMs: tx.nowMs,
    garbageMs: 0,
    replicas,
  }
}

function knownChunk(tx: Transaction, chunk: CommittedChunk, intake: Intake, known: ChunkRecord): ChunkRecord {
  if (known.length !== chunk.length || !equalBytes(known.root, chunk.root)) {
    refuse('CONFLICT', `chunk ${formatChunkId(chunk.id)} is known with other content: use a fresh id`)
  }
  if (isReclaimed(known)) {
    refuse('FENCED', `chunk ${formatChunkId(chunk.id)} was collected: write it again under a fresh id`)
  }
  const acked = new Map(chunk.acks.map((ack) => [ack.disk, ack.generation]))
  const replicas = known.replicas.map((replica): ReplicaRecord => {
    const generation = acked.get(replica.disk)
    if (replica.state !== 'copying' || generation === undefined) return replica
    if (liveDisk(tx, intake, replica.disk)?.generation !== generation) return replica
    return { disk: replica.disk, generation, state: 'current' }
  })
  return {
    ...known,
    copies: Math.max(known.copies, intake.copies),
    references: known.references + (intake.pin ? 0 : 1),
    pinned: known.pinned || intake.pin,
    replicas,
  }
}
