/**
 * What concerns the cluster as a whole: its founding, its version, and the time after the metadata was recovered
 * (docs/RULES.md, rules 2 and 15).
 *
 * Invariants: version and incarnation never go back; chunk ids are never handed out below one that a disk has reported;
 * once deletes are held, only `resumeDeletes` allows them again.
 */

import { type ChunkId, leaseSpan } from '../../model/ids.ts'
import type { Command } from './commands.ts'
import { keys } from './keys.ts'
import { fenceDisk } from './nodes.ts'
import { type ClusterRecord, clusterRecord } from './records.ts'
import { demand } from './refuse.ts'
import type { Transaction } from './view.ts'

/** Small numbers are never chunk ids, so that a mistaken counter is not taken for one. */
const firstChunkId: ChunkId = 1 << 16
/** Ids left out after a recovery: leases that only the lost members knew of were granted from these. */
const recoveryGap: number = 1024 * leaseSpan
/** A disk that reports an id further beyond the known ones than this is not believed: ids are finite. */
const reservationMax: number = 2 ** 44
/** Added to a disk's generation at a recovery: more than the lost members can have added. */
const recoveryGenerations: number = 1 << 20

export function putCluster(tx: Transaction, record: ClusterRecord): void {
  tx.put(keys.cluster(), clusterRecord, record)
  tx.effect({ kind: 'cluster' })
}

export function found(tx: Transaction, command: Extract<Command, { kind: 'found' }>): void {
  if (tx.get(keys.cluster(), clusterRecord) !== undefined) return
  putCluster(tx, {
    clusterId: command.clusterId,
    incarnation: 1,
    version: command.version,
    nextChunk: firstChunkId,
    nextDisk: 1,
    nextBucket: 1,
    buckets: 0,
    bytesMax: 0,
    objectsMax: 0,
    deletesHeld: false,
  })
}

export function raiseVersion(tx: Transaction, version: number): void {
  const cluster = tx.cluster()
  if (version > cluster.version) putCluster(tx, { ...cluster, version })
}

/**
 * The metadata was recovered from one survivor, which may lack entries that the others had. Every disk must register
 * again and report in full; nothing is deleted until someone has looked.
 */
export function recovered(tx: Transaction, incarnation: number): void {
  const cluster = tx.cluster()
  if (incarnation <= cluster.incarnation) return
  const nextChunk = Math.min(cluster.nextChunk + recoveryGap, lastLease)
  putCluster(tx, { ...cluster, incarnation, nextChunk, deletesHeld: true })
  for (let disk = 1; disk < cluster.nextDisk; disk++) fenceDisk(tx, disk, recoveryGenerations)
}

const lastLease: ChunkId = Math.floor(Number.MAX_SAFE_INTEGER / leaseSpan) * leaseSpan

/**
 * A disk holds an id that was never handed out here: the metadata is older than the disk, so deletes are held as after
 * a recovery, and the id is not handed out again.
 */
export function reserveChunkIds(tx: Transaction, above: ChunkId): void {
  const cluster = tx.cluster()
  if (above <= cluster.nextChunk) return
  demand(
    above <= cluster.nextChunk + reservationMax && above <= lastLease,
    `chunk id ${above} is far beyond every one that was handed out: check the disk that reports it`,
  )
  const nextChunk = Math.ceil(above / leaseSpan) * leaseSpan
  putCluster(tx, { ...cluster, nextChunk, deletesHeld: true })
}

export function resumeDeletes(tx: Transaction): void {
  const cluster = tx.cluster()
  if (cluster.deletesHeld) putCluster(tx, { ...cluster, deletesHeld: false })
}
