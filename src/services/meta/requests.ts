/**
 * Requests of the Meta service as commands: every field is checked here before anything is proposed, so that garbage is
 * answered at once and never becomes a log entry. Apply checks again what the state depends on.
 *
 * Byte fields of a request are views on its frame; encoding the command copies them.
 */

import { fromHex, utf8 } from '../../base/bytes.ts'
import type { Command, CommittedChunk, Operation } from '../../core/meta/commands.ts'
import { manifestPagesMax } from '../../core/meta/manifests.ts'
import { userMetadataOf } from '../../core/meta/records.ts'
import { sessionTtlMs } from '../../core/meta/sessions.ts'
import { StoreError } from '../../model/errors.ts'
import { limits } from '../../model/limits.ts'
import { checkBucketName, checkKey } from '../../model/names.ts'
import { writeConcerns } from '../../model/words.ts'
import { exactBytes, hexId, nameOf, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'

type Of<Kind extends Command['kind']> = Extract<Command, { kind: Kind }>

/** Largest content type. */
const contentTypeBytesMax = 255
/** Disk numbers fit 32 bits: they are parts of keys. */
const diskNumberMax = 0xffff_fffe

/** A chunk or lease id. */
export function chunkId(value: number, field: string): number {
  const id = safeCounter(value, field)
  if (id === 0) throw new StoreError('INVALID_ARGUMENT', `field ${field} is 0: give an id`)
  return id
}

function bounded(value: number, field: string, min: number, max: number): number {
  if (safeCounter(value, field, max) < min) {
    throw new StoreError('INVALID_ARGUMENT', `field ${field} is ${value}: want ${min} to ${max}`)
  }
  return value
}

function boundedCount(values: readonly unknown[], field: string, min: number, max: number): void {
  if (values.length < min || values.length > max) {
    throw new StoreError('INVALID_ARGUMENT', `field ${field} has ${values.length} entries: want ${min} to ${max}`)
  }
}

/** A disk number. */
export function diskNumber(value: number, field: string): number {
  return bounded(value, field, 1, diskNumberMax)
}

export function toCreateBucket(request: holdfast.v1.CreateBucketRequest, nowMs: number): Of<'createBucket'> {
  checkBucketName(request.name)
  return { kind: 'createBucket', nowMs, name: request.name, commitId: hexId(request.commitId, 'commit_id') }
}

export function toDeleteBucket(request: holdfast.v1.DeleteBucketRequest, nowMs: number): Of<'deleteBucket'> {
  checkBucketName(request.name)
  return { kind: 'deleteBucket', nowMs, name: request.name }
}

export function toGrantLease(request: holdfast.v1.GrantLeaseRequest, nowMs: number): Of<'grantLease'> {
  return { kind: 'grantLease', nowMs, ttlMs: safeCounter(request.ttlMs, 'ttl_ms') }
}

export function toRenewLease(request: holdfast.v1.RenewLeaseRequest, nowMs: number): Of<'renewLease'> {
  return { kind: 'renewLease', nowMs, id: chunkId(request.id, 'id'), ttlMs: safeCounter(request.ttlMs, 'ttl_ms') }
}

export function toExpireLease(request: holdfast.v1.ReleaseLeaseRequest, nowMs: number): Of<'expireLease'> {
  return { kind: 'expireLease', nowMs, id: chunkId(request.id, 'id') }
}

export function toOpenSession(request: holdfast.v1.OpenSessionRequest, nowMs: number): Of<'openSession'> {
  return { kind: 'openSession', nowMs, session: hexId(request.session, 'session'), ttlMs: sessionTtlMs }
}

export function toKeepSession(request: holdfast.v1.SessionIdRequest, nowMs: number): Of<'keepSession'> {
  return { kind: 'keepSession', nowMs, session: hexId(request.session, 'session') }
}

export function toCloseSession(request: holdfast.v1.SessionIdRequest, nowMs: number): Of<'closeSession'> {
  return { kind: 'closeSession', nowMs, session: hexId(request.session, 'session') }
}

/** `bucket` empty: the cluster. */
export function toSetQuota(request: holdfast.v1.SetQuotaRequest, nowMs: number): Of<'setQuota'> {
  const { bucket } = request
  if (bucket !== '') checkBucketName(bucket)
  const bytesMax = safeCounter(request.bytesMax, 'bytes_max')
  return { kind: 'setQuota', nowMs, bucket, bytesMax, objectsMax: safeCounter(request.objectsMax, 'objects_max') }
}

export function toUnpinChunk(request: holdfast.v1.ChunkIdRequest, nowMs: number): Of<'unpinChunk'> {
  return { kind: 'unpinChunk', nowMs, chunk: chunkId(request.id, 'id') }
}

export function toStagePage(request: holdfast.v1.StagePageRequest, nowMs: number): Of<'stagePage'> {
  boundedCount(request.chunks, 'chunks', 1, limits.pageChunksMax)
  return {
    kind: 'stagePage',
    nowMs,
    commitId: hexId(request.commitId, 'commit_id'),
    lease: chunkId(request.lease, 'lease'),
    page: safeCounter(request.page, 'page', manifestPagesMax - 1),
    chunks: request.chunks.map(toChunk),
    copies: bounded(request.copies, 'copies', 1, limits.replicasMax),
    concern: nameOf(request.write, writeConcerns, 'write'),
  }
}

export function toCommitChunks(request: holdfast.v1.CommitChunksRequest, nowMs: number): Of<'commitChunks'> {
  boundedCount(request.chunks, 'chunks', 1, limits.pageChunksMax)
  return {
    kind: 'commitChunks',
    nowMs,
    commitId: hexId(request.commitId, 'commit_id'),
    lease: chunkId(request.lease, 'lease'),
    chunks: request.chunks.map(toChunk),
    copies: bounded(request.copies, 'copies', 1, limits.replicasMax),
    concern: nameOf(request.write, writeConcerns, 'write'),
  }
}

export function toCommit(request: holdfast.v1.CommitRequest, nowMs: number): Of<'commit'> {
  boundedCount(request.operations, 'operations', 1, limits.commitObjectsMax)
  return {
    kind: 'commit',
    nowMs,
    commitId: hexId(request.commitId, 'commit_id'),
    lease: safeCounter(request.lease, 'lease'),
    operations: request.operations.map(toOperation),
  }
}

function toChunk(chunk: holdfast.v1.ChunkRef): CommittedChunk {
  boundedCount(chunk.replicas, 'replicas', 0, limits.replicasMax)
  boundedCount(chunk.copying, 'copying', 0, limits.replicasMax)
  return {
    id: chunkId(chunk.id, 'chunk.id'),
    length: bounded(chunk.length, 'chunk.length', 1, limits.chunkBytesMax),
    root: exactBytes(chunk.root, 'chunk.root', 8),
    acks: chunk.replicas.map((replica) => ({
      disk: diskNumber(replica.disk, 'replica.disk'),
      generation: safeCounter(replica.generation, 'replica.generation'),
    })),
    copying: chunk.copying.map((disk) => diskNumber(disk, 'chunk.copying')),
  }
}

function toOperation(operation: holdfast.v1.ObjectOperation): Operation {
  if (operation.put) return toPut(operation.put)
  if (operation.delete) {
    const { bucket, key, condition } = operation.delete
    checkNames(bucket, key)
    return { kind: 'delete', bucket, key, condition: toCondition(condition) }
  }
  if (operation.copy) {
    const { fromBucket, fromKey, bucket, key, condition } = operation.copy
    checkNames(fromBucket, fromKey)
    checkNames(bucket, key)
    return { kind: 'copy', fromBucket, fromKey, bucket, key, condition: toCondition(condition) }
  }
  throw new StoreError('INVALID_ARGUMENT', 'an operation of the commit is empty: give a put, a delete or a copy')
}

function toPut(put: holdfast.v1.PutObject): Operation {
  checkNames(put.bucket, put.key)
  boundedCount(put.chunks, 'chunks', 0, limits.pageChunksMax)
  const etag = fromHex(put.etag)
  if (etag?.length !== 8) throw new StoreError('INVALID_ARGUMENT', 'field etag is not 16 hex digits')
  if (utf8(put.contentType).length > contentTypeBytesMax) {
    throw new StoreError('INVALID_ARGUMENT', `field content_type is too long: use at most ${contentTypeBytesMax} bytes`)
  }
  return {
    kind: 'put',
    bucket: put.bucket,
    key: put.key,
    size: safeCounter(put.size, 'size'),
    etag,
    chunks: put.chunks.map(toChunk),
    stagedPages: safeCounter(put.stagedPages, 'staged_pages', manifestPagesMax),
    copies: bounded(put.copies, 'copies', 1, limits.replicasMax),
    concern: nameOf(put.write, writeConcerns, 'write'),
    contentType: put.contentType === '' ? 'application/octet-stream' : put.contentType,
    metadata: userMetadataOf(toMetadata(put.metadata)),
    condition: toCondition(put.condition),
  }
}

/** Sorted by name, so that the same metadata is the same command. */
function toMetadata(metadata: Readonly<Record<string, string>>): { name: string; value: string }[] {
  const pairs = Object.entries(metadata).map(([name, value]) => ({ name, value }))
  pairs.sort((a, b) => (a.name < b.name ? -1 : 1))
  const length = pairs.reduce((sum, { name, value }) => sum + utf8(name).length + utf8(value).length, 0)
  if (length > limits.userMetadataBytesMax) {
    const rule = `use at most ${limits.userMetadataBytesMax} bytes of names and values`
    throw new StoreError('INVALID_ARGUMENT', `field metadata has ${length} bytes: ${rule}`)
  }
  return pairs
}

/** An unset message field is null, whatever its type says. */
function toCondition(condition: holdfast.v1.Condition | null): Operation['condition'] {
  return { ifAbsent: condition?.ifAbsent ?? false, ifMatch: condition?.ifMatch ?? '' }
}

function checkNames(bucket: string, key: string): void {
  checkBucketName(bucket)
  checkKey(key)
}
