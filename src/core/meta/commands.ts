/**
 * The commands of the metadata state machine: what a Raft entry of type `command` holds, and what apply answers.
 *
 * Every command carries `nowMs`, the leader's clock when it proposed; apply clamps it and reads no other clock.
 * No command touches more than about 4,096 records. A new kind or a new field of a kind is a new tag, gated by the
 * cluster version (docs/RULES.md, rule 15); a tag never changes meaning.
 */

import {
  bool,
  bytes,
  decode,
  encode,
  fixed,
  list,
  oneOf,
  struct,
  text,
  type TypeOf,
  uint,
  union,
} from '../../base/schema.ts'
import type { ErrorCode } from '../../model/errors.ts'
import { diskStates, modeStates, writeConcerns } from '../../model/words.ts'
import type { ChunkId, DiskNumber, NodeId } from '../../model/ids.ts'
import { hexId, root, userMetadata } from './records.ts'

/** A replica as a storage node acknowledged it. */
const ack = struct({ disk: uint, generation: uint })

/** A chunk as a writer commits it: the disks that acknowledged, and those that were asked and have not answered. */
export const committedChunk = struct({ id: uint, length: uint, root, acks: list(ack), copying: list(uint) })
export type CommittedChunk = TypeOf<typeof committedChunk>

const condition = struct({
  ifAbsent: bool,
  /** 16 hex digits of an etag, or `v` and a decimal version; empty: none. */
  ifMatch: text,
})

const putOperation = struct({
  bucket: text,
  key: text,
  size: uint,
  etag: fixed(8),
  chunks: list(committedChunk),
  stagedPages: uint,
  copies: uint,
  concern: oneOf(writeConcerns),
  contentType: text,
  metadata: userMetadata,
  condition,
})
const deleteOperation = struct({ bucket: text, key: text, condition })
const copyOperation = struct({ fromBucket: text, fromKey: text, bucket: text, key: text, condition })

export const operation = union({
  put: { tag: 1, body: putOperation },
  delete: { tag: 2, body: deleteOperation },
  copy: { tag: 3, body: copyOperation },
})
export type Operation = TypeOf<typeof operation>

/** What a controller learned of one replica. Each is dropped by apply unless `generation` is the disk's current one. */
export const replicaChange = struct({
  chunk: uint,
  disk: uint,
  generation: uint,
  /**
   * `copied`: a repair copy (or late straggler) is verified and fsynced there: becomes current.
   * `missing`: the node looked and does not have it. `corrupt`: the node read it and it is not intact.
   * `copy-failed`: the deadline of a `copying` replica passed and the node does not have it: the entry is dropped.
   */
  change: oneOf(['copied', 'missing', 'corrupt', 'copy-failed'] as const),
  finding: text,
})
export type ReplicaChange = TypeOf<typeof replicaChange>

const registeredDisk = struct({
  id: hexId,
  state: oneOf(diskStates),
  capacityBytes: uint,
  usedBytes: uint,
})

const now = { nowMs: uint }

export const command = union({
  /** First command of a cluster: creates the cluster record. Ignored when it exists. */
  found: { tag: 1, body: struct({ ...now, clusterId: hexId, version: uint }) },
  createBucket: { tag: 2, body: struct({ ...now, name: text, commitId: hexId }) },
  deleteBucket: { tag: 3, body: struct({ ...now, name: text }) },
  grantLease: { tag: 4, body: struct({ ...now, ttlMs: uint }) },
  renewLease: { tag: 5, body: struct({ ...now, id: uint, ttlMs: uint }) },
  /** Irreversible. Proposed on release and after `expiresMs`. */
  expireLease: { tag: 6, body: struct({ ...now, id: uint }) },
  /** Every reachable disk was swept: forgets the expired lease. An unknown lease is refused like an expired one. */
  forgetLease: { tag: 7, body: struct({ ...now, id: uint }) },
  stagePage: {
    tag: 8,
    body: struct({
      ...now,
      commitId: hexId,
      lease: uint,
      page: uint,
      chunks: list(committedChunk),
      copies: uint,
      concern: oneOf(writeConcerns),
    }),
  },
  commit: { tag: 9, body: struct({ ...now, commitId: hexId, lease: uint, operations: list(operation) }) },
  commitChunks: {
    tag: 10,
    body: struct({
      ...now,
      commitId: hexId,
      lease: uint,
      chunks: list(committedChunk),
      copies: uint,
      concern: oneOf(writeConcerns),
    }),
  },
  unpinChunk: { tag: 11, body: struct({ ...now, chunk: uint }) },
  /** Moves the manifest of an expired upload to `dropping` and the trash. */
  abortUpload: { tag: 12, body: struct({ ...now, manifest: hexId }) },
  /** Drops the references of one page of a trashed manifest; the last page removes the manifest. */
  dropPage: { tag: 13, body: struct({ ...now, manifest: hexId, page: uint }) },
  /** Moves all replicas of unreferenced chunks, whose grace is over, to `deleting` (docs/RULES.md, rule 4 b). */
  reclaim: { tag: 14, body: struct({ ...now, graceMs: uint, chunks: list(uint) }) },
  /** The node deleted these replicas; a chunk without references and replicas is forgotten. */
  deleted: { tag: 15, body: struct({ ...now, disk: uint, generation: uint, chunks: list(uint) }) },
  /**
   * Moves one surplus replica to `deleting`. Legal only when the proof names enough other current replicas on live,
   * reconciled disks, each read and verified after the decision, with its generation (rule 4 a).
   */
  trim: { tag: 16, body: struct({ ...now, chunk: uint, disk: uint, proof: list(ack) }) },
  registerNode: {
    tag: 17,
    body: struct({
      ...now,
      node: text,
      addresses: list(text),
      zone: text,
      incarnation: hexId,
      disks: list(registeredDisk),
    }),
  },
  /** Fences the node: every disk gets a new generation and is not live. Ignored if it registered again meanwhile. */
  nodeDown: { tag: 18, body: struct({ ...now, node: text, incarnation: hexId }) },
  diskState: { tag: 19, body: struct({ ...now, disk: uint, generation: uint, state: oneOf(diskStates) }) },
  /** The full report of this generation was compared and its findings were applied. */
  reconciled: { tag: 20, body: struct({ ...now, disk: uint, generation: uint }) },
  replicas: { tag: 21, body: struct({ ...now, changes: list(replicaChange) }) },
  setMode: { tag: 22, body: struct({ ...now, node: text, mode: oneOf(modeStates) }) },

  // Cluster version 2.
  /** Raises the cluster version; never lowers it. The only command that is proposed below the version it needs. */
  raiseVersion: { tag: 23, body: struct({ ...now, version: uint }) },
  /** `bucket` empty: the cluster. 0: no bound. */
  setQuota: { tag: 24, body: struct({ ...now, bucket: text, bytesMax: uint, objectsMax: uint }) },
  openSession: { tag: 25, body: struct({ ...now, session: hexId, ttlMs: uint }) },
  keepSession: { tag: 26, body: struct({ ...now, session: hexId }) },
  closeSession: { tag: 27, body: struct({ ...now, session: hexId }) },
  /** Forgets sessions whose time is over by the committed time; names a bounded number of them. */
  expireSessions: { tag: 28, body: struct({ ...now, sessions: list(hexId) }) },
  /** Another command (encoded, never one of this kind), carried out once for its session and sequence (rule 14). */
  inSession: { tag: 29, body: struct({ ...now, session: hexId, sequence: uint, lowest: uint, body: bytes }) },
  /** First command after `meta recover`: the new incarnation, with physical deletes held (rule 2). */
  recovered: { tag: 30, body: struct({ ...now, incarnation: uint }) },
  /** Ids below `above` are never handed out again: a disk of an earlier life holds some of them. */
  reserveChunkIds: { tag: 31, body: struct({ ...now, above: uint }) },
  resumeDeletes: { tag: 32, body: struct({ ...now }) },
})
export type Command = TypeOf<typeof command>

/**
 * Cluster version that a command needs (rule 15). Once the cluster was `recovered` no older program can read what the
 * recovery wrote, so what belongs to it needs no version any more.
 */
export function versionOf(kind: Command['kind'], recovered: boolean): number {
  return versionTwo.has(kind) || (afterRecovery.has(kind) && !recovered) ? 2 : 1
}

const afterRecovery: ReadonlySet<Command['kind']> = new Set(['reserveChunkIds', 'resumeDeletes'])

const versionTwo: ReadonlySet<Command['kind']> = new Set([
  'setQuota',
  'openSession',
  'keepSession',
  'closeSession',
  'expireSessions',
  'inSession',
])

export function encodeCommand(value: Command): Uint8Array {
  return encode(command, value)
}

/** Throws SchemaError; on a committed entry that is a broken invariant (the leader validated it). */
export function decodeCommand(encoded: Uint8Array): Command {
  return decode(command, encoded)
}

/** A refusal is a value: it is deterministic and part of the reply. */
export interface Refusal {
  readonly ok: false
  readonly code: ErrorCode
  readonly message: string
  readonly suggestion?: string
}

export interface CommittedObject {
  readonly bucket: string
  readonly key: string
  readonly size: number
  /** 8 bytes. */
  readonly etag: Uint8Array
  readonly version: number
  readonly modifiedMs: number
  readonly contentType: string
  readonly chunks: number
  /** True for a delete: the entry describes the version that was removed. */
  readonly removed: boolean
}

/** What a command answers when it was carried out; `done` where there is nothing to tell. */
export type Accepted =
  | { readonly ok: true; readonly kind: 'done' }
  | { readonly ok: true; readonly kind: 'bucket'; readonly name: string; readonly createdMs: number }
  | {
      readonly ok: true
      readonly kind: 'lease'
      readonly id: number
      readonly count: number
      readonly expiresMs: number
    }
  | {
      readonly ok: true
      readonly kind: 'committed'
      readonly objects: readonly CommittedObject[]
      readonly durable: number
    }
  | {
      readonly ok: true
      readonly kind: 'registered'
      readonly disks: readonly { readonly id: string; readonly number: DiskNumber; readonly generation: number }[]
    }
  | { readonly ok: true; readonly kind: 'session'; readonly ttlMs: number; readonly callsMax: number }

export type Reply = Accepted | Refusal

/**
 * What a change means for the controllers of the leader. Derived state only: a new leader finds all of it by scanning,
 * so losing an effect costs time, never safety.
 */
export type Effect =
  | { readonly kind: 'chunk'; readonly chunk: ChunkId }
  | { readonly kind: 'garbage'; readonly chunk: ChunkId; readonly sinceMs: number }
  | { readonly kind: 'trash'; readonly manifest: string; readonly sinceMs: number }
  | { readonly kind: 'lease'; readonly lease: number; readonly open: boolean; readonly expiresMs: number }
  | { readonly kind: 'deleting'; readonly chunk: ChunkId; readonly disk: DiskNumber; readonly generation: number }
  | { readonly kind: 'node'; readonly node: NodeId }
  | { readonly kind: 'disk'; readonly disk: DiskNumber }
  | { readonly kind: 'cluster' }
  | { readonly kind: 'session'; readonly session: string; readonly open: boolean; readonly expiresMs: number }
  | { readonly kind: 'corrupt'; readonly chunk: ChunkId; readonly disk: DiskNumber; readonly finding: string }
