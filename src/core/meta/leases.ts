/**
 * Writer leases: ranges of chunk ids with a committed life (docs/RULES.md, rule 1).
 *
 * Invariants: a range is handed out once and never again; expiry is irreversible; whether a lease is open is a stored
 * fact, never a comparison with a clock, so a commit and an expiry can meet in one order only.
 */

import { assert } from '../../base/assert.ts'
import { type ChunkId, formatChunkId, type LeaseId, leaseSpan } from '../../model/ids.ts'
import type { Reply } from './commands.ts'
import { keys } from './keys.ts'
import { clusterRecord, type LeaseRecord, leaseRecord } from './records.ts'
import { refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** Bounds of a lease's life. */
const leaseTtlMinMs = 1_000
const leaseTtlMaxMs = 10 * 60_000

/** The life that is granted for a wanted one. */
export function grantedTtlMs(wantedMs: number): number {
  return Math.min(Math.max(wantedMs, leaseTtlMinMs), leaseTtlMaxMs)
}

export function grantLease(tx: Transaction, ttlMs: number): Reply {
  const cluster = tx.cluster()
  const id = cluster.nextChunk
  const end = id + leaseSpan
  if (!Number.isSafeInteger(end))
    refuse('NO_SPACE', 'every chunk id was handed out: this cluster can take no more chunks')
  const expiresMs = tx.nowMs + grantedTtlMs(ttlMs)
  tx.put(keys.cluster(), clusterRecord, { ...cluster, nextChunk: end })
  tx.put(keys.lease(id), leaseRecord, { end, expiresMs, open: true, uploads: 0 })
  tx.effect({ kind: 'lease', lease: id, open: true, expiresMs })
  return { ok: true, kind: 'lease', id, count: leaseSpan, expiresMs }
}

export function renewLease(tx: Transaction, id: LeaseId, ttlMs: number): Reply {
  const lease = openLease(tx, id)
  const expiresMs = Math.max(lease.expiresMs, tx.nowMs + grantedTtlMs(ttlMs))
  tx.put(keys.lease(id), leaseRecord, { ...lease, expiresMs })
  tx.effect({ kind: 'lease', lease: id, open: true, expiresMs })
  return { ok: true, kind: 'lease', id, count: lease.end - id, expiresMs }
}

export function expireLease(tx: Transaction, id: LeaseId): void {
  const lease = tx.get(keys.lease(id), leaseRecord)
  if (lease === undefined || !lease.open) return
  tx.put(keys.lease(id), leaseRecord, { ...lease, open: false })
  tx.effect({ kind: 'lease', lease: id, open: false, expiresMs: lease.expiresMs })
}

export function forgetLease(tx: Transaction, id: LeaseId): void {
  const lease = tx.get(keys.lease(id), leaseRecord)
  if (lease === undefined) return
  if (lease.open) refuse('CONDITION_FAILED', `lease ${formatChunkId(id)} is open: expire it first`)
  if (lease.uploads > 0) {
    refuse('CONDITION_FAILED', `lease ${formatChunkId(id)} has ${lease.uploads} unfinished uploads: abort them first`)
  }
  tx.del(keys.lease(id))
}

/** The lease when it is open; FENCED when it has expired or is unknown, which is the same thing later. */
export function openLease(tx: Transaction, id: LeaseId): LeaseRecord {
  const lease = tx.get(keys.lease(id), leaseRecord)
  if (lease === undefined || !lease.open) {
    refuse('FENCED', `writer lease ${formatChunkId(id)} has expired: get a new lease and write the chunks again`)
  }
  return lease
}

export function leaseIsOpen(tx: Transaction, id: LeaseId): boolean {
  return tx.get(keys.lease(id), leaseRecord)?.open === true
}

/** Counts the unfinished uploads of a lease up or down. */
export function countUploads(tx: Transaction, id: LeaseId, by: 1 | -1): void {
  const lease = tx.get(keys.lease(id), leaseRecord)
  assert(lease !== undefined && lease.uploads + by >= 0, `lease ${formatChunkId(id)} of an upload is known`)
  tx.put(keys.lease(id), leaseRecord, { ...lease, uploads: lease.uploads + by })
}

/** True while the lease that a chunk id was handed out under is open: its writer may still name the chunk. */
export function writerIsOpen(tx: Transaction, chunk: ChunkId): boolean {
  return leaseIsOpen(tx, chunk - (chunk % leaseSpan))
}
