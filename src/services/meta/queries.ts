/**
 * Typed reads of the metadata state: every getter and range scan that handlers and controllers use, over the state's
 * key-value store, so that nobody else decodes its keys and values.
 *
 * Each call reads what is applied here at that moment. Call `replicator.barrier()` first where the answer must be
 * linearizable. Scans are paged (`from` is inclusive, `limit` bounds the page); two pages may be of different indexes
 * unless they come from one `snapshot()`.
 */

import { decode, type Schema } from '../../base/schema.ts'
import { keyAfterPrefix, keyParts, keys, prefixEnd } from '../../core/meta/keys.ts'
import {
  type AppliedRecord,
  appliedRecord,
  type BucketRecord,
  bucketRecord,
  type ChunkRecord,
  chunkRecord,
  type ClusterRecord,
  clusterRecord,
  type DiskChunkRecord,
  diskChunkRecord,
  type DiskRecord,
  diskRecord,
  type FindingRecord,
  findingRecord,
  type LeaseRecord,
  leaseRecord,
  type ManifestRecord,
  manifestRecord,
  type NodeRecord,
  nodeRecord,
  type ObjectRecord,
  objectRecord,
  type PageChunk,
  pageRecord,
  type SessionRecord,
  sessionRecord,
  shortRecord,
  trashRecord,
} from '../../core/meta/records.ts'
import type { ChunkId, DiskNumber, LeaseId, NodeId } from '../../model/ids.ts'
import type { KvEntry, KvRange } from '../../ports/kv.ts'

/** What queries need of a store; `Pending` and a `KvSnapshot` both have it. */
export interface KvReader {
  get(key: Uint8Array): Promise<Uint8Array | undefined>
  iterate(range: KvRange): AsyncIterable<KvEntry>
  /** The values of rising keys below `end` that lie close together, read at once. */
  getNear?(sorted: readonly Uint8Array[], end: Uint8Array): Promise<(Uint8Array | undefined)[]>
}

/**
 * Single records as applied, without waiting: for answers that must fit together, and because one such read costs less
 * than a wait for one. It may block for the disk, so use it for a few records.
 */
export interface MetaPoints {
  cluster(): ClusterRecord | undefined
  bucket(name: string): BucketRecord | undefined
  object(bucketNumber: number, key: string): ObjectRecord | undefined
  manifest(id: string): ManifestRecord | undefined
  page(manifest: string, page: number): readonly PageChunk[] | undefined
  chunk(id: ChunkId): ChunkRecord | undefined
  node(id: NodeId): NodeRecord | undefined
  disk(number: DiskNumber): DiskRecord | undefined
  session(id: string): SessionRecord | undefined
}

/** Single records of whatever `read` reads. */
export function createPoints(read: (key: Uint8Array) => Uint8Array | undefined): MetaPoints {
  function one<T>(key: Uint8Array, schema: Schema<T>): T | undefined {
    const value = read(key)
    return value === undefined ? undefined : decode(schema, value)
  }
  return {
    cluster: () => one(keys.cluster(), clusterRecord),
    bucket: (name) => one(keys.bucket(name), bucketRecord),
    object: (bucketNumber, key) => one(keys.object(bucketNumber, key), objectRecord),
    manifest: (id) => one(keys.manifest(id), manifestRecord),
    page: (manifest, page) => one(keys.page(manifest, page), pageRecord),
    chunk: (id) => one(keys.chunk(id), chunkRecord),
    node: (id) => one(keys.node(id), nodeRecord),
    disk: (number) => one(keys.disk(number), diskRecord),
    session: (id) => one(keys.session(id), sessionRecord),
  }
}

/** Reads of the state. Byte fields of the answers belong to the caller. */
export interface MetaQueries {
  /** Undefined until the first command was applied. */
  cluster(): Promise<ClusterRecord | undefined>
  /** Undefined until the first entry was applied. */
  applied(): Promise<AppliedRecord | undefined>
  bucket(name: string): Promise<BucketRecord | undefined>
  /** All buckets in byte order of their names, from `from` on. */
  buckets(from: string, limit: number): Promise<{ name: string; record: BucketRecord }[]>
  object(bucketNumber: number, key: string): Promise<ObjectRecord | undefined>
  /** Objects of a bucket with keys in [fromKey, end of `prefix`), at most `limit`. `fromKey` are key bytes, inclusive. */
  objects(
    bucketNumber: number,
    prefix: Uint8Array,
    fromKey: Uint8Array,
    limit: number,
  ): Promise<{ key: string; record: ObjectRecord }[]>
  manifest(id: string): Promise<ManifestRecord | undefined>
  page(manifest: string, page: number): Promise<readonly PageChunk[] | undefined>
  chunk(id: ChunkId): Promise<ChunkRecord | undefined>
  /** The chunks of `ids`, in their order. Ids that lie close together are read in one scan. */
  chunks(ids: readonly ChunkId[]): Promise<(ChunkRecord | undefined)[]>
  node(id: NodeId): Promise<NodeRecord | undefined>
  /** All nodes, sorted by id. */
  nodes(): Promise<{ id: NodeId; record: NodeRecord }[]>
  disk(number: DiskNumber): Promise<DiskRecord | undefined>
  /** All disks, sorted by number. */
  disks(): Promise<{ number: DiskNumber; record: DiskRecord }[]>
  lease(id: LeaseId): Promise<LeaseRecord | undefined>
  /** Open and expired leases that are not forgotten, by id. */
  leases(from: LeaseId, limit: number): Promise<{ id: LeaseId; record: LeaseRecord }[]>
  /** Manifests staged under the lease and not committed: what `abortUpload` is for once it expired. */
  uploads(lease: LeaseId, limit: number): Promise<string[]>
  /** Chunks with a replica (of any stored state, `deleting` included) on the disk, by id, below `toChunk` when given. */
  diskChunks(
    disk: DiskNumber,
    fromChunk: ChunkId,
    limit: number,
    toChunk?: ChunkId,
  ): Promise<{ chunk: ChunkId; record: DiskChunkRecord }[]>
  /** Chunks whose stored copies put them in the class (position in `repairClasses`), by id. */
  short(classIndex: number, fromChunk: ChunkId, limit: number): Promise<{ chunk: ChunkId; sinceMs: number }[]>
  /** Chunks that lost their last reference at or before `beforeMs`, oldest first. */
  garbage(beforeMs: number, limit: number): Promise<{ chunk: ChunkId; sinceMs: number }[]>
  /** Manifests trashed at or before `beforeMs` whose references are to be dropped, oldest first, with the next page. */
  trash(beforeMs: number, limit: number): Promise<{ manifest: string; sinceMs: number; nextPage: number }[]>
  /** Corruption findings that are kept, in no particular order of time; at most `findingSlots`. */
  findings(): Promise<FindingRecord[]>
  session(id: string): Promise<SessionRecord | undefined>
  /** Client sessions by id. */
  sessions(from: string, limit: number): Promise<{ id: string; record: SessionRecord }[]>
}

/** Queries on one consistent image of the state; must be closed. */
export interface MetaSnapshot extends MetaQueries {
  close(): Promise<void>
}

/** Queries on whatever `current` gives at each call: the store may be replaced by an installed snapshot. */
export function createQueries(current: () => KvReader): MetaQueries {
  return { ...singleQueries(current), ...scanQueries(current) }
}

type Single =
  | 'cluster'
  | 'applied'
  | 'bucket'
  | 'object'
  | 'manifest'
  | 'page'
  | 'chunk'
  | 'chunks'
  | 'node'
  | 'disk'
  | 'lease'
  | 'session'

function singleQueries(current: () => KvReader): Pick<MetaQueries, Single> {
  async function one<T>(key: Uint8Array, schema: Schema<T>): Promise<T | undefined> {
    const value = await current().get(key)
    return value === undefined ? undefined : decode(schema, value)
  }

  return {
    cluster: () => one(keys.cluster(), clusterRecord),
    applied: () => one(keys.applied(), appliedRecord),
    bucket: (name) => one(keys.bucket(name), bucketRecord),
    object: (bucketNumber, key) => one(keys.object(bucketNumber, key), objectRecord),
    manifest: (id) => one(keys.manifest(id), manifestRecord),
    page: (manifest, page) => one(keys.page(manifest, page), pageRecord),
    chunk: (id) => one(keys.chunk(id), chunkRecord),
    chunks: async (ids) => {
      if (ids.length === 0) return []
      const sorted = [...new Set(ids)].sort((a, b) => a - b)
      const last = sorted.at(-1) ?? 0
      const reader = current()
      const dense = last - (sorted[0] ?? 0) <= sorted.length * densityMin
      if (!dense || reader.getNear === undefined) return Promise.all(ids.map((id) => one(keys.chunk(id), chunkRecord)))
      const values = await reader.getNear(sorted.map(keys.chunk), keys.chunk(last + 1))
      const byId = new Map(sorted.map((id, i) => [id, values[i]]))
      return ids.map((id) => {
        const value = byId.get(id)
        return value === undefined ? undefined : decode(chunkRecord, value)
      })
    },
    node: (id) => one(keys.node(id), nodeRecord),
    disk: (number) => one(keys.disk(number), diskRecord),
    lease: (id) => one(keys.lease(id), leaseRecord),
    session: (id) => one(keys.session(id), sessionRecord),
  }
}

function scanQueries(current: () => KvReader): Omit<MetaQueries, Single> {
  async function scan<T>(range: KvRange, take: (entry: KvEntry) => T): Promise<T[]> {
    const out: T[] = []
    for await (const entry of current().iterate(range)) out.push(take(entry))
    return out
  }

  return {
    buckets: (from, limit) =>
      scan({ gte: keys.bucket(from), lt: prefixEnd('b'), limit }, (entry) => ({
        name: keyParts.bucketName(entry.key),
        record: decode(bucketRecord, entry.value),
      })),
    objects: (bucketNumber, prefix, fromKey, limit) =>
      scan(objectRange(bucketNumber, prefix, fromKey, limit), (entry) => ({
        key: keyParts.objectKey(entry.key),
        record: decode(objectRecord, entry.value),
      })),
    nodes: () =>
      scan({ gte: keys.node(''), lt: prefixEnd('n') }, (entry) => ({
        id: keyParts.nodeId(entry.key),
        record: decode(nodeRecord, entry.value),
      })),
    disks: () =>
      scan({ gte: keys.disk(0), lt: prefixEnd('k') }, (entry) => ({
        number: keyParts.disk(entry.key),
        record: decode(diskRecord, entry.value),
      })),
    leases: (from, limit) =>
      scan({ gte: keys.lease(from), lt: prefixEnd('l'), limit }, (entry) => ({
        id: keyParts.lease(entry.key),
        record: decode(leaseRecord, entry.value),
      })),
    uploads: (lease, limit) =>
      scan(
        { gte: keys.upload(lease, firstId), lt: keys.upload(lease + 1, firstId), limit },
        (entry) => keyParts.upload(entry.key).manifest,
      ),
    diskChunks: (disk, fromChunk, limit, toChunk) =>
      scan(
        {
          gte: keys.diskChunk(disk, fromChunk),
          lt: toChunk === undefined ? keys.diskChunk(disk + 1, 0) : keys.diskChunk(disk, toChunk),
          limit,
        },
        (entry) => ({ chunk: keyParts.diskChunk(entry.key).chunk, record: decode(diskChunkRecord, entry.value) }),
      ),
    short: (classIndex, fromChunk, limit) =>
      scan({ gte: keys.short(classIndex, fromChunk), lt: keys.short(classIndex + 1, 0), limit }, (entry) => ({
        chunk: keyParts.short(entry.key).chunk,
        sinceMs: decode(shortRecord, entry.value).sinceMs,
      })),
    garbage: (beforeMs, limit) =>
      scan({ gte: keys.garbage(0, 0), lt: keys.garbage(beforeMs + 1, 0), limit }, (entry) =>
        keyParts.garbage(entry.key),
      ),
    trash: (beforeMs, limit) =>
      scan({ gte: keys.trash(0, firstId), lt: keys.trash(beforeMs + 1, firstId), limit }, (entry) => ({
        ...keyParts.trash(entry.key),
        nextPage: decode(trashRecord, entry.value).nextPage,
      })),
    findings: () => scan({ gte: keys.finding(0), lt: prefixEnd('x') }, (entry) => decode(findingRecord, entry.value)),
    sessions: (from, limit) =>
      scan({ gte: keys.session(from), lt: prefixEnd('e'), limit }, (entry) => ({
        id: keyParts.session(entry.key),
        record: decode(sessionRecord, entry.value),
      })),
  }
}

/** One scan beats single reads when at least one id in this many is wanted. */
const densityMin = 4
const firstId = '0'.repeat(32)

function objectRange(bucketNumber: number, prefix: Uint8Array, fromKey: Uint8Array, limit: number): KvRange {
  const head = keys.object(bucketNumber, '')
  const join = (tail: Uint8Array): Uint8Array => {
    const out = new Uint8Array(head.length + tail.length)
    out.set(head)
    out.set(tail, head.length)
    return out
  }
  const end = keyAfterPrefix(join(prefix))
  return { gte: join(fromKey), ...(end === undefined ? {} : { lt: end }), limit }
}
