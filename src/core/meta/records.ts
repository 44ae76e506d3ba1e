/**
 * The values of the metadata state (keys in keys.ts). Encoded with base/schema; every replica encodes the same bytes.
 *
 * What is not stored on purpose: whether a replica counts *now*. That follows from its stored state and from its disk's
 * `live`, `reconciled` and `generation`, so that a node's death or return is one small entry and not one write per chunk.
 */

import {
  bool,
  decode,
  encode,
  extended,
  fixed,
  hex,
  list,
  oneOf,
  type Schema,
  struct,
  text,
  type TypeOf,
  uint,
} from '../../base/schema.ts'
import { diskStates, healthStates, modeStates } from '../../model/words.ts'

/** 16 bytes on disk, 32 hex digits in code. */
export const hexId: Schema<string> = hex(16)

/** 8-byte root of a chunk. Decoded as a view: copy to keep. */
export const root: Schema<Uint8Array> = fixed(8)

/** Written once per apply group, in the same batch as the group's effects. */
const firstApplied = struct({
  index: uint,
  term: uint,
  /** Leader-stamped time, clamped to never go back. Milliseconds since 1970 UTC. */
  timeMs: uint,
  /** CRC-32C chain over every key and value written since the first entry: equal on replicas at equal index. */
  digest: uint,
  objects: uint,
  bytes: uint,
  chunks: uint,
  /** Corruption findings so far; the next one goes to slot `findings % findingSlots`. */
  findings: uint,
  /** Sequences of the first and the next kept commit outcome: `q` holds [outcomesFrom, outcomesTo). */
  outcomesFrom: uint,
  outcomesTo: uint,
})
/** Since cluster version 2: open client sessions. */
const laterApplied = struct({ sessions: uint })
export const appliedRecord = extended(firstApplied, laterApplied, { sessions: 0 })
export type AppliedRecord = TypeOf<typeof appliedRecord>

const firstCluster = struct({
  clusterId: hexId,
  /** Rises with `meta recover` and `restore`. */
  incarnation: uint,
  /** Version of commands and formats in force. */
  version: uint,
  /** Next chunk id to lease; starts at 1 << 16, so that small numbers are never ids. */
  nextChunk: uint,
  nextDisk: uint,
  nextBucket: uint,
  /** Buckets there are; bounded, so that their list fits one message. */
  buckets: uint,
})
/** Since cluster version 2. A quota of 0 is none. */
const laterCluster = struct({
  bytesMax: uint,
  objectsMax: uint,
  /** No replica is deleted physically: the metadata may be older than the disks (docs/RULES.md, rule 2). */
  deletesHeld: bool,
})
export const clusterRecord = extended(firstCluster, laterCluster, { bytesMax: 0, objectsMax: 0, deletesHeld: false })
export type ClusterRecord = TypeOf<typeof clusterRecord>

const firstBucket = struct({
  number: uint,
  createdMs: uint,
  commitId: hexId,
  objects: uint,
  bytes: uint,
})
/** Since cluster version 2. A quota of 0 is none. */
const laterBucket = struct({ bytesMax: uint, objectsMax: uint })
export const bucketRecord = extended(firstBucket, laterBucket, { bytesMax: 0, objectsMax: 0 })
export type BucketRecord = TypeOf<typeof bucketRecord>

const pairs = list(struct({ name: text, value: text }))

/**
 * The user's own metadata, as it is encoded. It passes through the state unread, so it is decoded for readers alone: the
 * text of a whole kilobyte would be made, and made bytes again, on every member for every put.
 */
export class UserMetadata {
  readonly encoded: Uint8Array
  /** UTF-8 bytes of its names and values together. */
  readonly textBytes: number

  constructor(encoded: Uint8Array, textBytes: number) {
    this.encoded = encoded
    this.textBytes = textBytes
  }

  pairs(): readonly { readonly name: string; readonly value: string }[] {
    return decode(pairs, this.encoded)
  }
}

export function userMetadataOf(named: readonly { readonly name: string; readonly value: string }[]): UserMetadata {
  return decode(userMetadata, encode(pairs, named))
}

/** The bytes of a list of pairs. Decoded as a view: their lengths are checked, their text when it is asked for. */
export const userMetadata: Schema<UserMetadata> = {
  write: (writer, { encoded }) => writer.raw(encoded),
  read: (reader) => {
    const from = reader.position
    let textBytes = 0
    for (let texts = 2 * reader.varint(); texts > 0; texts--) {
      const length = reader.varint()
      reader.skip(length)
      textBytes += length
    }
    return new UserMetadata(reader.since(from), textBytes)
  },
}

export const objectRecord = struct({
  /** Manifest id. An object without chunks has a manifest with no page, or (since cluster version 2) none: all zero. */
  manifest: hexId,
  size: uint,
  etag: fixed(8),
  /** Raft index of the change. */
  version: uint,
  modifiedMs: uint,
  contentType: text,
  metadata: userMetadata,
  chunks: uint,
  /** The commit that made this version, for idempotence. */
  commitId: hexId,
})
export type ObjectRecord = TypeOf<typeof objectRecord>

export const manifestStates = ['staging', 'committed', 'dropping'] as const

export const manifestRecord = struct({
  state: oneOf(manifestStates),
  /** Objects that name it. */
  references: uint,
  pages: uint,
  chunks: uint,
  size: uint,
  /** Lease of the upload, while staging. */
  lease: uint,
  /** When it went to the trash; 0 before. Part of its trash key. */
  trashedMs: uint,
  /** Least number of counted copies at commit over the chunks. */
  durable: uint,
})
export type ManifestRecord = TypeOf<typeof manifestRecord>

export const pageChunk = struct({ id: uint, length: uint, root })
export const pageRecord: Schema<readonly TypeOf<typeof pageChunk>[]> = list(pageChunk)
export type PageChunk = TypeOf<typeof pageChunk>

/** Stored states of a replica: what does not follow from its disk. */
export const storedReplicaStates = ['current', 'copying', 'corrupt', 'missing', 'deleting'] as const
export type StoredReplicaState = (typeof storedReplicaStates)[number]

export const replicaRecord = struct({ disk: uint, generation: uint, state: oneOf(storedReplicaStates) })
export type ReplicaRecord = TypeOf<typeof replicaRecord>

export const chunkRecord = struct({
  length: uint,
  root,
  /** Copies wanted. */
  copies: uint,
  /** Places in manifests that name it, staging ones included. */
  references: uint,
  pinned: bool,
  /** The commit that brought it. */
  commitId: hexId,
  /** When it was committed; `copying` replicas are given 10 s from here. */
  committedMs: uint,
  /** When the last reference went; 0 while referenced. Key of its garbage entry. */
  garbageMs: uint,
  replicas: list(replicaRecord),
})
export type ChunkRecord = TypeOf<typeof chunkRecord>

/** Value of a disk -> chunk entry: enough to know the copies left without reading the chunk. */
export const diskChunkRecord = struct({ copies: uint, replicas: list(replicaRecord) })
export type DiskChunkRecord = TypeOf<typeof diskChunkRecord>

export const shortRecord = struct({ sinceMs: uint })
export const trashRecord = struct({ nextPage: uint })

export const nodeRecord = struct({
  addresses: list(text),
  zone: text,
  /** `suspected` is the leader's own view and never stored. */
  health: oneOf(healthStates),
  mode: oneOf(modeStates),
  /** Random number of the process start that registered last. */
  incarnation: hexId,
  /** When health last changed. */
  sinceMs: uint,
  disks: list(uint),
})
export type NodeRecord = TypeOf<typeof nodeRecord>

export const diskRecord = struct({
  id: hexId,
  node: text,
  generation: uint,
  /** Registered and not declared down or failed: acknowledgements of this generation count. */
  live: bool,
  /** The report of this generation is reconciled: replicas on it count and are named to readers. */
  reconciled: bool,
  state: oneOf(diskStates),
  capacityBytes: uint,
  usedBytes: uint,
})
export type DiskRecord = TypeOf<typeof diskRecord>

export const leaseRecord = struct({
  /** Chunk ids from the lease's id to `end`, exclusive. */
  end: uint,
  /** The leader proposes the expiry after this time; `apply` looks only at `open`. */
  expiresMs: uint,
  open: bool,
  /** Uploads staged under it and not yet committed or aborted; an expired lease is forgotten only at 0. */
  uploads: uint,
})
export type LeaseRecord = TypeOf<typeof leaseRecord>

/** What one operation of a commit did; with the repeated command's names it makes the same answer again. */
export const outcomeObject = struct({
  size: uint,
  etag: fixed(8),
  version: uint,
  modifiedMs: uint,
  contentType: text,
  chunks: uint,
  removed: bool,
})

export const outcomeRecord = struct({
  durable: uint,
  /** CRC-32C of what makes it the same commit: kinds, names, sizes and tags. */
  fingerprint: uint,
  objects: list(outcomeObject),
})
export type OutcomeRecord = TypeOf<typeof outcomeRecord>

export const outcomeOrderRecord = struct({ commitId: hexId, timeMs: uint })

export const findingSlots = 256

export const findingRecord = struct({
  chunk: uint,
  disk: uint,
  foundMs: uint,
  finding: text,
  repaired: bool,
})
export type FindingRecord = TypeOf<typeof findingRecord>

export const sessionRecord = struct({
  ttlMs: uint,
  /** Each call puts it off. The leader proposes the expiry after it; a session lives until it is forgotten. */
  expiresMs: uint,
  /** Calls below were answered, and their replies are forgotten. The largest number there is: the session was closed. */
  lowest: uint,
  /** Calls whose replies are kept, rising; at most `sessionCallsMax`. */
  kept: list(uint),
})
export type SessionRecord = TypeOf<typeof sessionRecord>
