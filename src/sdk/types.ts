/**
 * The words users of the SDK program against: options, results and the `Store` itself (a contract with users).
 *
 * Invariants: every call takes an AbortSignal and a time limit; every failure is a StoreError; sizes are bytes, times are
 * milliseconds since 1970 UTC unless the name says otherwise.
 */

import type { ByteRange } from '../core/object/range.ts'
import type { DiskState, Health, Mode, ReplicaState, ScrubState, WriteConcern } from '../model/words.ts'

export type { ByteRange } from '../core/object/range.ts'
export type { WriteConcern } from '../model/words.ts'

/** Limits of one call. */
export interface CallLimits {
  /** Gives the call up: it rejects with CANCELLED. */
  readonly signal?: AbortSignal | undefined
  /** Most time for the whole call, retries included: it rejects with TIMEOUT. Without it only stalls end a call. */
  readonly timeoutMs?: number | undefined
}

/** A source that fills buffers it is given; the cheapest body, for it copies nothing. */
export interface FillSource {
  /** Writes the next bytes to the start of `into`; resolves to their number, 0 at the end. */
  fill(into: Uint8Array): Promise<number>
}

/** What `getReader` of a web stream gives, as far as it is used here. */
export interface WebReader {
  read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>
  cancel(reason?: unknown): Promise<void>
  releaseLock(): void
}

/** A web ReadableStream of bytes. */
export interface WebStream {
  getReader(): WebReader
}

/** A web Blob or File. */
export interface BlobLike {
  readonly size: number
  stream(): WebStream
}

/** A body that is read once. Node's Readable is an AsyncIterable. */
export type StreamBody = AsyncIterable<Uint8Array | string> | Iterable<Uint8Array | string> | WebStream | FillSource

/**
 * A body to store. Bytes, text, blobs and functions can be read again, so a put that lost its lease starts over by
 * itself; streams are read once. Bytes must not be changed before the call settles.
 */
export type Body = Uint8Array | string | BlobLike | StreamBody | (() => StreamBody)

/** Conditions on the version being replaced or deleted; CONDITION_FAILED when they do not hold. */
export interface Conditions {
  /** The key must not exist. */
  readonly ifAbsent?: boolean | undefined
  /** The key must exist with this etag or this version. */
  readonly ifMatch?: string | number | undefined
}

export interface PutOptions extends CallLimits, Conditions {
  /** Copies of each chunk, 1 to 8. Default 3. */
  readonly replicas?: number | undefined
  /** When the write is acknowledged. Default quorum. */
  readonly write?: WriteConcern | undefined
  /** MIME type. Default application/octet-stream. */
  readonly contentType?: string | undefined
  /** The user's own metadata, at most 8 KiB. */
  readonly metadata?: Readonly<Record<string, string>> | undefined
  /** Size when it is known: a body of another size is refused, and small objects need less memory. */
  readonly size?: number | undefined
  /** Called with the bytes that are safely stored so far. */
  readonly onProgress?: ((bytes: number) => void) | undefined
}

export interface GetOptions extends CallLimits {
  /** First and last byte wanted, inclusive. */
  readonly range?: ByteRange | undefined
}

/** One version of an object. */
export interface ObjectEntry {
  readonly bucket: string
  readonly key: string
  readonly size: number
  /** 16 hex digits, from the content. */
  readonly etag: string
  /** Rises with every change of the key. */
  readonly version: number
  readonly modifiedMs: number
  readonly contentType: string
  /** Number of chunks. */
  readonly chunks: number
}

/** What a put or a copy answers. */
export interface PutResult extends ObjectEntry {
  /** Least number of durable copies over the chunks; not there when no new chunk was stored. */
  readonly durable?: number
}

/** An entry of a list without a delimiter: an object. */
export interface FlatListEntry extends ObjectEntry {
  readonly isPrefix: false
}

/** An entry of a list: an object, or with a delimiter a common prefix of several. */
export type ListEntry = FlatListEntry | { readonly isPrefix: true; readonly bucket: string; readonly key: string }

export interface ListOptions extends CallLimits {
  readonly prefix?: string | undefined
  /** Only keys after this one. */
  readonly after?: string | undefined
  /** "/" folds keys below a "/" into one prefix entry. */
  readonly delimiter?: string | undefined
}

/** Options of a list without a delimiter: it has objects only. */
export interface FlatListOptions extends ListOptions {
  readonly delimiter?: undefined
}

export interface BucketEntry {
  readonly name: string
  readonly createdMs: number
  readonly objects: number
  readonly bytes: number
}

export interface ReplicaEntry {
  readonly node: string
  readonly disk: number
  readonly state: ReplicaState
}

export interface ChunkEntry {
  /** 16 hex digits. */
  readonly id: string
  readonly size: number
  /** 16 hex digits. */
  readonly root: string
  readonly replicas: readonly ReplicaEntry[]
}

/** An object with its metadata and the places of its chunks. */
export interface ObjectDetails extends Omit<ObjectEntry, 'chunks'> {
  readonly metadata: Readonly<Record<string, string>>
  readonly chunks: readonly ChunkEntry[]
}

export interface ChunkDetails extends ChunkEntry {
  /** Copies wanted. */
  readonly copies: number
  /** Objects that refer to it. */
  readonly references: number
  readonly pinned: boolean
}

/** An opened object: its record, and its bytes, each verified before it is given out. */
export interface StoredObject extends ObjectEntry {
  readonly metadata: Readonly<Record<string, string>>
  /** Bytes that `stream` will give: the size, or the length of the range. */
  readonly length: number
  /** The bytes in order, read ahead in bounded memory. Leaving the loop stops the read. Can be called again. */
  stream(): AsyncGenerator<Uint8Array, void, void>
  /** All bytes at once. */
  bytes(): Promise<Uint8Array>
  /** All bytes as UTF-8 text. */
  text(): Promise<string>
}

/** One operation of an atomic commit. */
export type CommitOperation =
  | {
      readonly put: { readonly bucket: string; readonly key: string; readonly body: Body } & Omit<
        PutOptions,
        keyof CallLimits
      >
    }
  | { readonly delete: { readonly bucket: string; readonly key: string } & Pick<Conditions, 'ifMatch'> }
  | {
      readonly copy: {
        readonly fromBucket: string
        readonly fromKey: string
        readonly bucket: string
        readonly key: string
      } & Conditions
    }

export interface ChunkPutOptions extends CallLimits {
  readonly replicas?: number | undefined
  readonly write?: WriteConcern | undefined
}

export interface StatusDisk {
  readonly id: string
  readonly number: number
  readonly state: DiskState
  /** Why it is in this state, one line; empty when it is ok. */
  readonly reason: string
  readonly capacityBytes: number
  readonly usedBytes: number
  /** Bytes that new chunks may still take. */
  readonly freeForNewBytes: number
  /** Nine in ten fdatasyncs of the last minute took at most so long; 0 when that is not known. */
  readonly syncMs: number
  /** The same for reads. */
  readonly readMs: number
  readonly chunks: number
  readonly reconciled: boolean
}

export interface StatusNode {
  readonly id: string
  readonly address: string
  readonly zone: string
  readonly health: Health
  readonly mode: Mode
  readonly silentMs: number
  readonly disks: readonly StatusDisk[]
  /** Directories that it could not open as disks. */
  readonly faults: readonly { readonly path: string; readonly reason: string }[]
}

export interface StatusMeta {
  readonly id: string
  readonly address: string
  readonly role: 'leader' | 'follower' | 'learner' | 'witness'
  readonly reachable: boolean
  readonly term: number
  readonly applied: number
  /** Highest version of commands and formats that it supports; 0 when it was not heard of. */
  readonly versionMax: number
  /** Its filesystem has less free than its reserve. */
  readonly lowSpace: boolean
}

/** What each meta node said for itself. */
export interface MetaSurvey {
  /** Every address the client was given, in order. A node that does not lead shows its address as id and no term. */
  readonly meta: readonly StatusMeta[]
  /** The state of the cluster, when one of them leads. */
  readonly status?: ClusterStatus
}

/** The state of the cluster, verdict first. */
export interface ClusterStatus {
  readonly verdict: string
  /** One line for people. */
  readonly summary: string
  readonly codes: readonly { readonly code: string; readonly severity: string; readonly summary: string }[]
  /** Nodes that may fail now, any of them, without loss of data. */
  readonly canLose: number
  readonly clusterId: string
  readonly clusterVersion: number
  readonly objects: number
  readonly bytes: number
  readonly meta: readonly StatusMeta[]
  readonly nodes: readonly StatusNode[]
  readonly chunks: {
    readonly total: number
    readonly full: number
    readonly degraded: number
    readonly lastCopy: number
    readonly lost: number
  }
  readonly repair: {
    readonly queue: Readonly<Record<string, number>>
    readonly running: number
    readonly parked: Readonly<Record<string, number>>
    readonly bytesPerSecond: number
    readonly etaSeconds: number
    readonly repaired: number
    readonly repairedBytes: number
  }
  readonly corruptions: readonly {
    readonly chunk: string
    readonly node: string
    readonly disk: number
    readonly foundMs: number
    readonly finding: string
    readonly repaired: boolean
  }[]
  /** Null when the leader runs an older program, or none leads. */
  readonly scrub: ScrubSummary | null
}

export interface Chunks {
  /** Stores one chunk of 1 byte to 8 MiB, pinned until `rm`; resolves to its id. */
  put(bytes: Uint8Array, options?: ChunkPutOptions): Promise<string>
  get(id: string, options?: GetOptions): Promise<Uint8Array>
  stat(id: string, options?: CallLimits): Promise<ChunkDetails>
  /** Drops the pin. CONDITION_FAILED while objects refer to the chunk. */
  rm(id: string, options?: CallLimits): Promise<void>
}

export interface Buckets {
  create(name: string, options?: CallLimits): Promise<BucketEntry>
  /** CONDITION_FAILED while it has objects. */
  delete(name: string, options?: CallLimits): Promise<void>
  list(options?: CallLimits): Promise<BucketEntry[]>
}

/** What a change of the membership answers. */
export interface MetaAdded {
  readonly members: readonly StatusMeta[]
  /** The node is still a learner: it goes on by itself and is made a voter when it has caught up. */
  readonly catchingUp: boolean
}

/** Membership of the metadata service. One change at a time; a majority of the nodes has to be up. */
export interface MetaAdmin {
  /** The members as the leader sees them. */
  ls(options?: CallLimits): Promise<StatusMeta[]>
  /**
   * Adds the node that runs at `address`, `host:port`, with an empty directory. Resolves when it counts, or with
   * `catchingUp` when it takes long; the same call again waits on. CONDITION_FAILED when the cluster cannot take it.
   */
  add(id: string, address: string, options?: CallLimits): Promise<MetaAdded>
  /** Removes a node. CONDITION_FAILED when those that remain could not lose one more, unless `force` is given. */
  remove(id: string, options?: CallLimits & { readonly force?: boolean | undefined }): Promise<StatusMeta[]>
  /** Hands leadership to `to`, or to the node that has most. */
  transfer(
    to?: string,
    options?: CallLimits,
  ): Promise<{
    readonly leader: string
    /** Time without a leader, as the old one saw it. */
    readonly tookMs: number
  }>
}

/** A bound on what a bucket or the cluster holds, and what counts against it. One copy of each object counts. */
export interface QuotaEntry {
  /** Null for the whole cluster. */
  readonly bucket: string | null
  /** 0: no bound. */
  readonly bytesMax: number
  /** 0: no bound. */
  readonly objectsMax: number
  readonly bytes: number
  readonly objects: number
}

export interface QuotaAdmin {
  /** The cluster first, then every bucket that has one, by name. */
  list(options?: CallLimits): Promise<QuotaEntry[]>
  /** Sets both bounds of a bucket, or of the cluster when `bucket` is null; 0 or left out: no bound. */
  set(
    bucket: string | null,
    bounds: { readonly bytesMax?: number | undefined; readonly objectsMax?: number | undefined },
    options?: CallLimits,
  ): Promise<void>
}

/** Versions of commands and formats. */
export interface VersionStatus {
  /** In force. */
  readonly version: number
  /** Highest that every node supports; 0 when a node was not heard of. */
  readonly possible: number
  readonly nodes: readonly {
    readonly id: string
    readonly kind: string
    /** 0 when the leader has not heard of it. */
    readonly versionMax: number
  }[]
}

export interface VersionAdmin {
  status(options?: CallLimits): Promise<VersionStatus>
  /**
   * Raises the version in force, by default as far as every node supports. There is no way back: older programs do not
   * start any more. CONDITION_FAILED while a node does not support it.
   */
  raise(version?: number, options?: CallLimits): Promise<VersionStatus>
}

/** Whether replicas may be deleted physically; held after the metadata was recovered. */
export interface DeletesStatus {
  readonly held: boolean
  /** Rises each time the metadata is recovered; 1 before. */
  readonly incarnation: number
  /** Replicas on disks that the metadata does not know and that would be deleted, as far as reports came in. */
  readonly unknownReplicas: number
}

export interface DeletesAdmin {
  status(options?: CallLimits): Promise<DeletesStatus>
  resume(options?: CallLimits): Promise<DeletesStatus>
}

/** How the scrub of one disk stands. Times are milliseconds since 1970 by the node's clock, 0: never. */
export interface DiskScrub {
  readonly node: string
  readonly disk: number
  readonly state: ScrubState
  /** Number of the pass, from 1; 0 before the first one. */
  readonly pass: number
  readonly scannedBytes: number
  readonly totalBytes: number
  readonly bytesPerSecond: number
  /** By how much the pass will be older than the target period when it is done, as things go; 0 on target. */
  readonly debtSeconds: number
  readonly startedMs: number
  /** When the last full pass was done. */
  readonly finishedMs: number
  /** Replicas found not intact since the node started, by anyone, and those kept in quarantine from before. */
  readonly findings: number
  /** Small chunks renewed from the intact one of their two copies on the disk. */
  readonly healed: number
  readonly suspects: number
  /** False where the filesystem reads through the page cache only, which may hide damage on the disk. */
  readonly direct: boolean
  /** Damaged extents, a line each. */
  readonly notes: readonly string[]
}

/** The scrub of all disks that report. Sums are over the passes under way. */
export interface ScrubSummary {
  readonly scannedBytes: number
  readonly totalBytes: number
  readonly bytesPerSecond: number
  /** The largest of a disk. */
  readonly debtSeconds: number
  /** Corrupt replicas ever found, and those not repaired yet. */
  readonly found: number
  readonly open: number
  readonly disks: readonly DiskScrub[]
}

export interface ScrubFinding {
  readonly chunk: string
  readonly node: string
  readonly disk: number
  readonly foundMs: number
  readonly finding: string
  /** `deleted`: the chunk went, and the replica with it. */
  readonly state: 'quarantined' | 'repaired' | 'deleted'
  /** Node that the verified copy came from; null when that is not known (any more). */
  readonly source: string | null
}

export interface ScrubDetails extends ScrubSummary {
  /** The newest, newest first; `found` may be more. */
  readonly findings: readonly ScrubFinding[]
}

/** Answer to a direction of the scrub. */
export interface ScrubDirected {
  /** Disks that took it. */
  readonly disks: number
  /** Disks that did not, with the reason. */
  readonly refused: readonly string[]
}

export interface ScrubAdmin {
  status(options?: CallLimits): Promise<ScrubDetails>
  /** Begins a full pass now, as fast as is allowed, on one node or on all. NOT_FOUND when the node is not attached. */
  start(node?: string, options?: CallLimits): Promise<ScrubDirected>
  /** No scrub until `resume`, for 24 hours at most. */
  pause(node?: string, options?: CallLimits): Promise<ScrubDirected>
  resume(node?: string, options?: CallLimits): Promise<ScrubDirected>
}

export interface Admin {
  /** Asks the leader. NO_QUORUM or UNAVAILABLE when there is none. */
  status(options?: CallLimits): Promise<ClusterStatus>
  /** Asks every meta node by itself, within 1.5 s when no limit is given: answers without a leader, too. */
  survey(options?: CallLimits): Promise<MetaSurvey>
  readonly meta: MetaAdmin
  readonly quotas: QuotaAdmin
  readonly version: VersionAdmin
  readonly deletes: DeletesAdmin
  readonly scrub: ScrubAdmin
}

/** A connection to one cluster. */
export interface Store {
  put(bucket: string, key: string, body: Body, options?: PutOptions): Promise<PutResult>
  get(bucket: string, key: string, options?: GetOptions): Promise<StoredObject>
  stat(bucket: string, key: string, options?: CallLimits): Promise<ObjectDetails>
  delete(bucket: string, key: string, options?: CallLimits & Pick<Conditions, 'ifMatch'>): Promise<void>
  list(bucket: string, options?: FlatListOptions): AsyncGenerator<FlatListEntry, void, void>
  list(bucket: string, options: ListOptions): AsyncGenerator<ListEntry, void, void>
  /** Copies by reference: no byte moves. */
  copy(
    from: { readonly bucket: string; readonly key: string },
    to: { readonly bucket: string; readonly key: string },
    options?: CallLimits & Conditions,
  ): Promise<PutResult>
  /** All operations or none; at most 128, no key twice. A result for each, in order; undefined for a delete. */
  commit(operations: readonly CommitOperation[], options?: CallLimits): Promise<(PutResult | undefined)[]>
  readonly buckets: Buckets
  readonly chunks: Chunks
  readonly admin: Admin
  /** Lets stragglers finish (2 s at most), gives the writer lease back and closes every connection. */
  close(): Promise<void>
}
