/**
 * Reads of names and manifests for clients: buckets, lists, objects, manifest pages, chunks.
 *
 * Each answer comes from one consistent image of the state. The caller makes it linearizable by a barrier before. Replicas
 * carry their effective state, which combines what is stored with what the controllers know of the disk; usable ones
 * come first, and a copy on a disk that is not reconciled is never called current.
 */

import { compareBytes, toHex, utf8 } from '../../base/bytes.ts'
import { hasManifest } from '../../core/meta/manifests.ts'
import { bucketsMax } from '../../core/meta/namespace.ts'
import { keyAfterPrefix } from '../../core/meta/keys.ts'
import type { ChunkRecord, ObjectRecord, PageChunk, StoredReplicaState } from '../../core/meta/records.ts'
import { StoreError } from '../../model/errors.ts'
import { type ChunkId, type DiskNumber, formatChunkId } from '../../model/ids.ts'
import { limits } from '../../model/limits.ts'
import { checkBucketName, checkKey, keyBytesMax, quote } from '../../model/names.ts'
import { type ReplicaState, replicaStates } from '../../model/words.ts'
import { hexId, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { bucketNotFound } from './suggest.ts'
import type { MetaPoints, MetaQueries, MetaSnapshot } from './queries.ts'
import { chunkId } from './requests.ts'

/** What reads need to know of disks now; the controllers know it. */
export interface DiskView {
  diskAddresses(numbers: readonly DiskNumber[]): holdfast.v1.DiskAddress.$Properties[]
  replicaState(disk: DiskNumber, stored: StoredReplicaState): ReplicaState
}

/** The state as applied. */
export interface ReadView {
  /** For what must fit together: the object, its manifest, the page. */
  readonly points: MetaPoints
  readonly queries: MetaQueries
}

/** Chunk records that are read at once; more are waited for, so that nobody else waits. */
const chunksAtOnce = 16
/** Objects read at once while a list folds prefixes. */
const foldingBatch = 128

export async function listBuckets(view: MetaQueries): Promise<holdfast.v1.ListBucketsReply.$Properties> {
  const buckets = await view.buckets('', bucketsMax)
  return {
    buckets: buckets.map(({ name, record }) => ({
      name,
      createdMs: record.createdMs,
      objects: record.objects,
      bytes: record.bytes,
    })),
  }
}

function toEntry(key: string, record: ObjectRecord): holdfast.v1.ObjectEntry.$Properties {
  return {
    key,
    size: record.size,
    etag: toHex(record.etag),
    version: record.version,
    modifiedMs: record.modifiedMs,
    contentType: record.contentType,
    chunks: record.chunks,
  }
}

/** An object's record, and its first manifest page when wanted. */
export async function openObject(
  view: ReadView,
  disks: DiskView,
  request: holdfast.v1.OpenObjectRequest,
): Promise<holdfast.v1.OpenObjectReply.$Properties> {
  const { bucket: name, key } = request
  const { points } = view
  checkBucketName(name)
  const bucket = points.bucket(name)
  if (bucket === undefined) throw await bucketNotFound(view.queries, name)
  checkKey(key)
  const record = points.object(bucket.number, key)
  if (record === undefined) {
    throw new StoreError('NOT_FOUND', `object ${quote(`${name}/${key}`)} does not exist: check the name`)
  }
  const metadata = Object.fromEntries(record.metadata.pairs().map((pair) => [pair.name, pair.value]))
  const object = { ...toEntry(key, record), bucket: name, metadata }
  const pages = hasManifest(record) ? points.manifest(record.manifest)?.pages : 0
  if (pages === undefined) throw new StoreError('INTERNAL', `manifest ${record.manifest} of an object is unknown`)
  const page = request.withChunks && pages > 0 ? points.page(record.manifest, 0) : []
  const first = await toPage(view, disks, page ?? [])
  return { object, manifest: record.manifest, pages, first }
}

/** True when the manifest is known here with all its pages. */
export function isCommitted({ points }: ReadView, request: holdfast.v1.ManifestPageRequest): boolean {
  return points.manifest(hexId(request.manifest, 'manifest'))?.state === 'committed'
}

/** A further page of an object that was opened. */
export async function manifestPage(
  view: ReadView,
  disks: DiskView,
  request: holdfast.v1.ManifestPageRequest,
): Promise<holdfast.v1.ManifestPageReply.$Properties> {
  const id = hexId(request.manifest, 'manifest')
  const number = safeCounter(request.page, 'page', 0xffff_ffff)
  const manifest = view.points.manifest(id)
  const gone = (): StoreError =>
    new StoreError('CHANGED', `manifest ${id} is gone: the object was replaced or removed; open it again`)
  if (manifest === undefined) throw gone()
  if (number >= manifest.pages) {
    throw new StoreError('INVALID_ARGUMENT', `manifest ${id} has ${manifest.pages} pages: page ${number} is too high`)
  }
  const page = view.points.page(id, number)
  if (page === undefined) throw gone()
  return toPage(view, disks, page)
}

async function toPage(
  view: ReadView,
  disks: DiskView,
  page: readonly PageChunk[],
): Promise<holdfast.v1.ManifestPageReply.$Properties> {
  const ids = page.map((chunk) => chunk.id)
  const records = ids.length <= chunksAtOnce ? ids.map((id) => view.points.chunk(id)) : await view.queries.chunks(ids)
  const chunks: holdfast.v1.ChunkRef.$Properties[] = []
  const named = new Set<DiskNumber>()
  for (const [i, { id, length, root }] of page.entries()) {
    const record = records[i]
    // A chunk that is no longer known was overwritten and collected: its page is about to go too.
    const replicas = record === undefined ? [] : toReplicas(disks, record)
    for (const replica of replicas) named.add(replica.disk)
    chunks.push({ id, length, root, replicas })
  }
  return { chunks, disks: disks.diskAddresses([...named].sort((a, b) => a - b)) }
}

interface ShownReplica {
  readonly disk: DiskNumber
  readonly generation: number
  readonly state: ReplicaState
}

function toReplicas(disks: DiskView, record: ChunkRecord): ShownReplica[] {
  const shown = record.replicas.map(({ disk, generation, state }) => ({
    disk,
    generation,
    state: disks.replicaState(disk, state),
  }))
  return shown.sort((a, b) => replicaStates.indexOf(a.state) - replicaStates.indexOf(b.state) || a.disk - b.disk)
}

/** One chunk with all its replicas. */
export async function statChunk(
  view: ReadView,
  disks: DiskView,
  request: holdfast.v1.ChunkIdRequest,
): Promise<holdfast.v1.StatChunkReply.$Properties> {
  const id: ChunkId = chunkId(request.id, 'id')
  const record = view.points.chunk(id)
  if (record === undefined || (record.references === 0 && !record.pinned)) {
    throw new StoreError('NOT_FOUND', `chunk ${formatChunkId(id)} does not exist: check the id`)
  }
  const replicas = toReplicas(disks, record)
  return {
    chunk: { id, length: record.length, root: record.root, replicas },
    disks: disks.diskAddresses(replicas.map((replica) => replica.disk).sort((a, b) => a - b)),
    copies: record.copies,
    references: record.references,
    pinned: record.pinned,
  }
}

/** One page of a bucket's objects in byte order, folded at the delimiter, consistent with one index. */
export async function listObjects(
  view: MetaSnapshot,
  request: holdfast.v1.ListObjectsRequest,
): Promise<holdfast.v1.ListObjectsReply.$Properties> {
  checkBucketName(request.bucket)
  const bucket = await view.bucket(request.bucket)
  if (bucket === undefined) throw await bucketNotFound(view, request.bucket)
  for (const [field, value] of Object.entries({ prefix: request.prefix, after: request.after })) {
    if (utf8(value).length > keyBytesMax) {
      throw new StoreError('INVALID_ARGUMENT', `field ${field} is too long: use at most ${keyBytesMax} bytes`)
    }
  }
  if (utf8(request.delimiter).length > 8) {
    throw new StoreError('INVALID_ARGUMENT', 'field delimiter is too long: use "/" or none')
  }
  const wanted = safeCounter(request.limit, 'limit', limits.listPageMax)
  const limit = wanted === 0 ? limits.listPageMax : wanted
  const walk = new ListWalk(view, bucket.number, request.prefix, request.delimiter)
  const entries = await walk.take(startKey(request), limit + 1)
  const applied = await view.applied()
  const more = entries.length > limit
  const page = more ? entries.slice(0, limit) : entries
  return { entries: page, next: more ? (page.at(-1)?.key ?? '') : '', index: applied?.index ?? 0 }
}

/** The first key bytes to look at: after `after`, past all of it when it is a folded prefix. */
function startKey(request: holdfast.v1.ListObjectsRequest): Uint8Array | undefined {
  const { prefix, after, delimiter } = request
  const start = utf8(prefix)
  if (after === '') return start
  const folded =
    delimiter !== '' && after.length > prefix.length && after.startsWith(prefix) && after.endsWith(delimiter)
  const next = folded ? keyAfterPrefix(utf8(after)) : utf8(`${after}\0`)
  if (next === undefined) return undefined
  return compareBytes(next, start) < 0 ? start : next
}

/** A walk over a bucket's keys that steps past everything below a folded prefix with one seek. */
class ListWalk {
  readonly #view: MetaQueries
  readonly #bucket: number
  readonly #prefix: string
  readonly #prefixBytes: Uint8Array
  readonly #delimiter: string

  constructor(view: MetaQueries, bucket: number, prefix: string, delimiter: string) {
    this.#view = view
    this.#bucket = bucket
    this.#prefix = prefix
    this.#prefixBytes = utf8(prefix)
    this.#delimiter = delimiter
  }

  async take(from: Uint8Array | undefined, count: number): Promise<holdfast.v1.ObjectEntry.$Properties[]> {
    const out: holdfast.v1.ObjectEntry.$Properties[] = []
    let next = from
    while (next !== undefined && out.length < count) next = await this.#step(next, count - out.length, out)
    return out
  }

  /** Reads one batch from `from` on; answers where to go on, undefined at the end. */
  async #step(
    from: Uint8Array,
    count: number,
    out: holdfast.v1.ObjectEntry.$Properties[],
  ): Promise<Uint8Array | undefined> {
    const batch = this.#delimiter === '' ? count : Math.min(count, foldingBatch)
    const objects = await this.#view.objects(this.#bucket, this.#prefixBytes, from, batch)
    for (const { key, record } of objects) {
      const folded = this.#folded(key)
      if (folded !== undefined) {
        out.push({ key: folded, isPrefix: true })
        return keyAfterPrefix(utf8(folded))
      }
      out.push(toEntry(key, record))
    }
    const last = objects.at(-1)
    return last === undefined || objects.length < batch ? undefined : utf8(`${last.key}\0`)
  }

  #folded(key: string): string | undefined {
    if (this.#delimiter === '') return undefined
    const at = key.indexOf(this.#delimiter, this.#prefix.length)
    return at < 0 ? undefined : key.slice(0, at + this.#delimiter.length)
  }
}
