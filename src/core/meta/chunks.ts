/**
 * Chunk records and everything derived from them: the one place that writes a chunk, so that its mirrors never drift.
 *
 * Invariants, after every entry:
 * - each replica of a chunk has a disk -> chunk entry that repeats the chunk's wanted copies and replicas;
 * - a chunk that is referenced or pinned is listed under exactly the shortfall class of its stored copies, or none;
 * - an unreferenced chunk that still has a replica outside `deleting` has exactly one garbage entry and no shortfall;
 * - a chunk without references and replicas is forgotten.
 * Stored copies are replicas in state `current`, whatever their disks are doing: nothing here changes when a node dies.
 */

import { assert } from '../../base/assert.ts'
import { decode, encode } from '../../base/schema.ts'
import { limits, majority } from '../../model/limits.ts'
import { type ChunkId, formatChunkId } from '../../model/ids.ts'
import { repairClasses } from '../../model/words.ts'
import { keys } from './keys.ts'
import {
  type ChunkRecord,
  chunkRecord,
  diskChunkRecord,
  diskRecord,
  type ReplicaRecord,
  shortRecord,
} from './records.ts'
import { refuse } from './refuse.ts'
import { noValue, type Transaction } from './view.ts'

const lastCopy = repairClasses.indexOf('last-copy')
const atRisk = repairClasses.indexOf('at-risk')
const degraded = repairClasses.indexOf('degraded')
const surplus = repairClasses.indexOf('surplus')

/** Replicas in state `current`. */
function storedCopies(replicas: readonly ReplicaRecord[]): number {
  return replicas.reduce((count, replica) => count + (replica.state === 'current' ? 1 : 0), 0)
}

/**
 * Position in `repairClasses` of a chunk by its stored copies; undefined when nothing is to do. Enough copies beside a
 * corrupt one is a surplus too: the quarantined bytes are to be trimmed.
 */
export function shortClass(chunk: Pick<ChunkRecord, 'copies' | 'replicas'>): number | undefined {
  const copies = storedCopies(chunk.replicas)
  if (copies < chunk.copies) {
    if (copies <= 1) return lastCopy
    return copies < majority(chunk.copies) ? atRisk : degraded
  }
  const extra = copies > chunk.copies || chunk.replicas.some((replica) => replica.state === 'corrupt')
  return extra ? surplus : undefined
}

/** True while an object, an upload or a pin holds the chunk. */
export function isHeld(chunk: Pick<ChunkRecord, 'references' | 'pinned'>): boolean {
  return chunk.references > 0 || chunk.pinned
}

/** True once the replicas of an unreferenced chunk were ordered away: it never comes back. */
export function isReclaimed(chunk: ChunkRecord): boolean {
  return !isHeld(chunk) && chunk.replicas.every((replica) => replica.state === 'deleting')
}

export function getChunk(tx: Transaction, id: ChunkId): ChunkRecord | undefined {
  return tx.get(keys.chunk(id), chunkRecord)
}

/**
 * Stores a chunk's new record with all its mirrors; forgets it when nothing is left of it. `sinceMs` is the time an
 * unreferenced chunk's grace runs from (now unless told); `before` the record that is stored.
 */
export function putChunk(
  tx: Transaction,
  id: ChunkId,
  next: ChunkRecord,
  sinceMs: number = tx.nowMs,
  before: ChunkRecord | undefined = getChunk(tx, id),
): void {
  const replicas = tidyReplicas(next)
  assert(
    replicas.length <= limits.replicasMax,
    `chunk ${formatChunkId(id)} lists at most ${limits.replicasMax} replicas`,
  )
  const held = isHeld(next)
  if (!held && replicas.length === 0) {
    forgetChunk(tx, id, before)
    return
  }
  const waiting = !held && replicas.some((replica) => replica.state !== 'deleting')
  const after: ChunkRecord = {
    ...next,
    replicas,
    garbageMs: held ? 0 : next.garbageMs === 0 ? sinceMs : next.garbageMs,
  }
  tx.put(keys.chunk(id), chunkRecord, after)
  if (before === undefined) tx.count({ chunks: tx.counters.chunks + 1 })
  moveMirrors(tx, id, before, after)
  moveShort(tx, id, before, after)
  moveGarbage(tx, id, before, waiting ? after.garbageMs : undefined)
  tx.effect({ kind: 'chunk', chunk: id })
  if (waiting && after.garbageMs !== before?.garbageMs)
    tx.effect({ kind: 'garbage', chunk: id, sinceMs: after.garbageMs })
}

/** `missing` entries tell users and controllers what is lost; once enough copies are there they say nothing more. */
function tidyReplicas(chunk: ChunkRecord): readonly ReplicaRecord[] {
  const enough = storedCopies(chunk.replicas) >= chunk.copies || !isHeld(chunk)
  return enough ? chunk.replicas.filter((replica) => replica.state !== 'missing') : chunk.replicas
}

function forgetChunk(tx: Transaction, id: ChunkId, before: ChunkRecord | undefined): void {
  if (before === undefined) return
  tx.del(keys.chunk(id))
  tx.count({ chunks: tx.counters.chunks - 1 })
  moveMirrors(tx, id, before, undefined)
  moveShort(tx, id, before, undefined)
  moveGarbage(tx, id, before, undefined)
  tx.effect({ kind: 'chunk', chunk: id })
}

function moveMirrors(
  tx: Transaction,
  id: ChunkId,
  before: ChunkRecord | undefined,
  after: ChunkRecord | undefined,
): void {
  const kept = new Set(after?.replicas.map((replica) => replica.disk))
  for (const replica of before?.replicas ?? []) {
    if (!kept.has(replica.disk)) tx.del(keys.diskChunk(replica.disk, id))
  }
  if (after === undefined) return
  if (before !== undefined && before.copies === after.copies && sameReplicas(before.replicas, after.replicas)) return
  for (const replica of after.replicas) {
    tx.put(keys.diskChunk(replica.disk, id), diskChunkRecord, { copies: after.copies, replicas: after.replicas })
  }
}

/** The disk -> chunk entries of a stored chunk record: what `moveMirrors` keeps beside it. */
export function mirrorsOf(id: ChunkId, stored: Uint8Array): { key: Uint8Array; value: Uint8Array }[] {
  const { copies, replicas } = decode(chunkRecord, stored)
  const value = encode(diskChunkRecord, { copies, replicas })
  return replicas.map(({ disk }) => ({ key: keys.diskChunk(disk, id), value }))
}

function sameReplicas(a: readonly ReplicaRecord[], b: readonly ReplicaRecord[]): boolean {
  return (
    a.length === b.length &&
    a.every((one, i) => {
      const other = b[i]
      return one.disk === other?.disk && one.generation === other.generation && one.state === other.state
    })
  )
}

/** Moves the shortfall entry; the time since when it is short survives a change of class. */
function moveShort(
  tx: Transaction,
  id: ChunkId,
  before: ChunkRecord | undefined,
  after: ChunkRecord | undefined,
): void {
  const from = before !== undefined && isHeld(before) ? shortClass(before) : undefined
  const to = after !== undefined && isHeld(after) ? shortClass(after) : undefined
  if (from === to) return
  const since = from === undefined || from === surplus ? undefined : tx.get(keys.short(from, id), shortRecord)?.sinceMs
  if (from !== undefined) tx.del(keys.short(from, id))
  if (to === undefined) return
  tx.put(keys.short(to, id), shortRecord, { sinceMs: to === surplus ? tx.nowMs : (since ?? tx.nowMs) })
}

/** Moves the garbage entry to `sinceMs`, or removes it. */
function moveGarbage(tx: Transaction, id: ChunkId, before: ChunkRecord | undefined, sinceMs: number | undefined): void {
  const had = before !== undefined && before.garbageMs !== 0 && !isReclaimed(before)
  if (had && before.garbageMs !== sinceMs) tx.del(keys.garbage(before.garbageMs, id))
  if (sinceMs !== undefined && (!had || before.garbageMs !== sinceMs)) tx.put(keys.garbage(sinceMs, id), noValue, true)
}

/** Drops one reference; the grace of a chunk that lost its last one runs from `sinceMs`. */
export function dropReference(tx: Transaction, id: ChunkId, sinceMs: number): void {
  const chunk = getChunk(tx, id)
  assert(chunk !== undefined && chunk.references > 0, `chunk ${formatChunkId(id)} of a manifest is referenced`)
  putChunk(tx, id, { ...chunk, references: chunk.references - 1 }, sinceMs)
}

/** Drops the pin of `chunk put`. */
export function unpinChunk(tx: Transaction, id: ChunkId): void {
  const chunk = getChunk(tx, id)
  if (chunk === undefined || !isHeld(chunk)) {
    refuse('NOT_FOUND', `chunk ${formatChunkId(id)} does not exist: check the id`)
  }
  if (chunk.references > 0) {
    refuse('CONDITION_FAILED', `chunk ${formatChunkId(id)} is part of an object: remove the object instead`)
  }
  putChunk(tx, id, { ...chunk, pinned: false })
}

/**
 * `replicas` with room for one more: drops what says least, first `missing` entries, then copies on disks that are not
 * live. Undefined when every entry matters.
 */
export function withRoom(tx: Transaction, replicas: readonly ReplicaRecord[]): readonly ReplicaRecord[] | undefined {
  if (replicas.length < limits.replicasMax) return replicas
  const gone =
    replicas.find((replica) => replica.state === 'missing') ??
    replicas.find(
      (replica) => replica.state !== 'deleting' && tx.get(keys.disk(replica.disk), diskRecord)?.live !== true,
    )
  return gone === undefined ? undefined : replicas.filter((replica) => replica !== gone)
}
