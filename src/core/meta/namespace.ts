/**
 * Buckets and objects: the atomic commit of puts, deletes and copies.
 *
 * Invariants: every operation is checked against the state before the commit, and nothing is written unless all pass; a
 * key's version is the Raft index of its last change; bucket and cluster totals follow every change; new references
 * are taken before old ones are dropped, so that a copy and a delete of its source may share a commit.
 */

import { assert } from '../../base/assert.ts'
import { fromHex, toHex } from '../../base/bytes.ts'
import { checkBucketName, checkKey, quote } from '../../model/names.ts'
import { limits } from '../../model/limits.ts'
import type { CommitId, LeaseId } from '../../model/ids.ts'
import type { CommittedChunk, CommittedObject, Operation, Reply } from './commands.ts'
import { takeChunk } from './acks.ts'
import { keys } from './keys.ts'
import { openLease } from './leases.ts'
import {
  bareManifest,
  closeUpload,
  getManifest,
  hasManifest,
  putManifest,
  releaseManifest,
  takePage,
} from './manifests.ts'
import { fingerprintOf, fingerprintOfChunks, keepOutcome, knownOutcome } from './outcomes.ts'
import { type Before, checkQuotas } from './quotas.ts'
import { type BucketRecord, bucketRecord, clusterRecord, type ObjectRecord, objectRecord } from './records.ts'
import { demand, refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** Their list fits one message. */
export const bucketsMax = 10_000

type Put = Extract<Operation, { kind: 'put' }>
type Copy = Extract<Operation, { kind: 'copy' }>

/** The body of a `commit` command. */
interface CommitBody {
  readonly commitId: CommitId
  readonly lease: LeaseId
  readonly operations: readonly Operation[]
}

export function createBucket(tx: Transaction, name: string, commitId: CommitId): Reply {
  checkBucketName(name)
  const existing = tx.get(keys.bucket(name), bucketRecord)
  if (existing !== undefined) {
    if (existing.commitId !== commitId)
      refuse('ALREADY_EXISTS', `bucket ${name} exists: use it, or choose another name`)
    return { ok: true, kind: 'bucket', name, createdMs: existing.createdMs }
  }
  const cluster = tx.cluster()
  if (cluster.buckets >= bucketsMax) {
    refuse('OVERLOADED', `the cluster has ${bucketsMax} buckets: remove one, or use prefixes in one bucket`)
  }
  tx.put(keys.bucket(name), bucketRecord, {
    number: cluster.nextBucket,
    createdMs: tx.nowMs,
    commitId,
    objects: 0,
    bytes: 0,
    bytesMax: 0,
    objectsMax: 0,
  })
  tx.put(keys.cluster(), clusterRecord, {
    ...cluster,
    nextBucket: cluster.nextBucket + 1,
    buckets: cluster.buckets + 1,
  })
  return { ok: true, kind: 'bucket', name, createdMs: tx.nowMs }
}

export function deleteBucket(tx: Transaction, name: string): void {
  const bucket = mustBucket(tx, name)
  if (bucket.objects > 0) {
    refuse('CONDITION_FAILED', `bucket ${name} has ${bucket.objects} objects: remove them first`)
  }
  tx.del(keys.bucket(name))
  const cluster = tx.cluster()
  tx.put(keys.cluster(), clusterRecord, { ...cluster, buckets: cluster.buckets - 1 })
}

function mustBucket(tx: Transaction, name: string): BucketRecord {
  checkBucketName(name)
  const bucket = tx.get(keys.bucket(name), bucketRecord)
  if (bucket === undefined) refuse('NOT_FOUND', `bucket ${name} does not exist: make it first`)
  return bucket
}

/** One operation with what the state before the commit says of its key. */
interface Planned {
  readonly operation: Operation
  /** Key of the object's record. */
  readonly at: Uint8Array
  readonly before: ObjectRecord | undefined
  /** The object a copy copies. */
  readonly source: ObjectRecord | undefined
}

/** Makes all operations visible or none; the same commit id again answers what the first one answered. */
export function commit(tx: Transaction, body: CommitBody): Reply {
  const { commitId, operations } = body
  const fingerprint = fingerprintOf(operations)
  const known = knownOutcome(tx, commitId, fingerprint)
  if (known !== undefined) {
    const objects = known.objects.map((object, i) => {
      const operation = operations[i]
      assert(operation !== undefined, 'the same fingerprint has as many operations')
      return named(operation, object)
    })
    return { ok: true, kind: 'committed', objects, durable: known.durable }
  }
  checkShape(body)
  const totals = new Totals(tx)
  const planned = operations.map((operation) => plan(tx, totals, operation))
  let durable = Number.MAX_SAFE_INTEGER
  const results = planned.map((one, i) => {
    const taken = store(tx, totals, body, one, i)
    durable = Math.min(durable, taken.durable)
    return taken.object
  })
  checkQuotas(tx, totals.write(tx))
  for (const { before: old } of planned) if (old !== undefined && hasManifest(old)) releaseManifest(tx, old.manifest)
  if (durable === Number.MAX_SAFE_INTEGER) durable = 0
  keepOutcome(tx, commitId, fingerprint, durable, results)
  return { ok: true, kind: 'committed', objects: results, durable }
}

/** Objects and bytes as a commit changes them: written once for each bucket, after its last operation. */
class Totals {
  readonly #cluster: Before['cluster']
  readonly #buckets = new Map<string, BucketRecord>()
  readonly #added = new Map<string, { objects: number; bytes: number }>()

  constructor(tx: Transaction) {
    const { objects, bytes } = tx.counters
    this.#cluster = { objects, bytes }
  }

  /** The bucket before the commit. NOT_FOUND when there is none. */
  bucket(tx: Transaction, name: string): BucketRecord {
    const known = this.#buckets.get(name)
    if (known !== undefined) return known
    const bucket = mustBucket(tx, name)
    this.#buckets.set(name, bucket)
    this.#added.set(name, { objects: 0, bytes: 0 })
    return bucket
  }

  count(name: string, before: ObjectRecord | undefined, after: ObjectRecord | undefined): void {
    const added = this.#added.get(name)
    assert(added !== undefined, `bucket ${name} was planned with`)
    added.objects += (after === undefined ? 0 : 1) - (before === undefined ? 0 : 1)
    added.bytes += (after?.size ?? 0) - (before?.size ?? 0)
  }

  /** Writes the totals; answers what they were before. */
  write(tx: Transaction): Before {
    let { objects, bytes } = this.#cluster
    for (const [name, added] of this.#added) {
      const bucket = this.#buckets.get(name) as BucketRecord
      tx.put(keys.bucket(name), bucketRecord, {
        ...bucket,
        objects: bucket.objects + added.objects,
        bytes: bucket.bytes + added.bytes,
      })
      objects += added.objects
      bytes += added.bytes
    }
    tx.count({ objects, bytes })
    return { cluster: this.#cluster, buckets: this.#buckets }
  }
}

function checkShape(body: CommitBody): void {
  const { operations } = body
  demand(operations.length >= 1, 'the commit has no operation: send at least one')
  demand(
    operations.length <= limits.commitObjectsMax,
    `the commit has ${operations.length} operations: send at most ${limits.commitObjectsMax}`,
  )
  const seen = operations.length === 1 ? undefined : new Set<string>()
  let chunks = 0
  for (const operation of operations) {
    checkBucketName(operation.bucket)
    checkKey(operation.key)
    const name = `${operation.bucket}/${operation.key}`
    if (seen?.has(name) === true) {
      refuse('INVALID_ARGUMENT', `the commit names ${quote(name)} twice: send one operation for each key`)
    }
    seen?.add(name)
    if (operation.kind !== 'put') continue
    checkPut(operation, operations.length)
    chunks += operation.chunks.length
  }
  demand(
    chunks <= limits.pageChunksMax,
    `the commit brings ${chunks} chunks: bring at most ${limits.pageChunksMax}, or stage pages`,
  )
}

function checkPut(put: Put, operations: number): void {
  const { stagedPages, chunks, metadata } = put
  // Messages are made when they are needed: this runs on every member for every put.
  const wrong = (rule: (name: string) => string): never =>
    refuse('INVALID_ARGUMENT', rule(quote(`${put.bucket}/${put.key}`)))
  if (stagedPages > 0) {
    if (chunks.length > 0 || operations > 1) wrong((name) => `the commit of staged ${name} must hold nothing else`)
  } else {
    const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0)
    if (size !== put.size) {
      wrong((name) => `the chunks of ${name} hold ${size} bytes, its size says ${put.size}: send what was written`)
    }
  }
  const { textBytes } = metadata
  if (textBytes > limits.userMetadataBytesMax) {
    wrong((name) => `the metadata of ${name} has ${textBytes} bytes: use at most ${limits.userMetadataBytesMax}`)
  }
}

function plan(tx: Transaction, totals: Totals, operation: Operation): Planned {
  const at = keys.object(totals.bucket(tx, operation.bucket).number, operation.key)
  const before = tx.get(at, objectRecord)
  checkCondition(operation, before)
  if (operation.kind === 'delete' && before === undefined) refuseMissing(operation.bucket, operation.key)
  return { operation, at, before, source: operation.kind === 'copy' ? sourceOf(tx, operation) : undefined }
}

function sourceOf(tx: Transaction, copy: Copy): ObjectRecord {
  checkKey(copy.fromKey)
  const bucket = mustBucket(tx, copy.fromBucket)
  return tx.get(keys.object(bucket.number, copy.fromKey), objectRecord) ?? refuseMissing(copy.fromBucket, copy.fromKey)
}

function refuseMissing(bucket: string, key: string): never {
  refuse('NOT_FOUND', `object ${quote(`${bucket}/${key}`)} does not exist: check the name`)
}

function checkCondition(operation: Operation, before: ObjectRecord | undefined): void {
  const { ifAbsent, ifMatch } = operation.condition
  if (!ifAbsent && ifMatch === '') return
  const name = quote(`${operation.bucket}/${operation.key}`)
  if (ifAbsent && before !== undefined) {
    refuse('CONDITION_FAILED', `object ${name} exists at version ${before.version}: if-absent does not hold`)
  }
  if (ifMatch === '') return
  const version = /^v([0-9]{1,16})$/.exec(ifMatch)?.[1]
  const etag = version === undefined ? fromHex(ifMatch) : undefined
  demand(
    version !== undefined || etag?.length === 8,
    `condition if-match ${quote(ifMatch)} is not an etag: use 16 hex digits, or "v" and a version`,
  )
  if (before === undefined) refuse('CONDITION_FAILED', `object ${name} does not exist: if-match does not hold`)
  const holds =
    version === undefined ? toHex(before.etag) === ifMatch.toLowerCase() : before.version === Number(version)
  if (!holds) {
    const now = `version ${before.version} with etag ${toHex(before.etag)}`
    refuse('CONDITION_FAILED', `object ${name} is ${now}: if-match does not hold`)
  }
}

interface Stored {
  readonly object: CommittedObject
  /** Least counted copies of the chunks it brought; the largest integer when it brought none. */
  readonly durable: number
}

function store(tx: Transaction, totals: Totals, body: CommitBody, planned: Planned, position: number): Stored {
  const { operation, at, before, source } = planned
  if (operation.kind === 'delete') {
    assert(before !== undefined, 'a delete was planned on an object')
    tx.del(at)
    totals.count(operation.bucket, before, undefined)
    return { object: named(operation, { ...before, removed: true }), durable: Number.MAX_SAFE_INTEGER }
  }
  const made =
    operation.kind === 'put'
      ? storePut(tx, body, operation, position)
      : { record: copyOf(tx, source, body.commitId), durable: Number.MAX_SAFE_INTEGER }
  tx.put(at, objectRecord, made.record)
  totals.count(operation.bucket, before, made.record)
  return { object: named(operation, { ...made.record, removed: false }), durable: made.durable }
}

function named(operation: Operation, facts: Omit<CommittedObject, 'bucket' | 'key'>): CommittedObject {
  return {
    bucket: operation.bucket,
    key: operation.key,
    size: facts.size,
    etag: facts.etag,
    version: facts.version,
    modifiedMs: facts.modifiedMs,
    contentType: facts.contentType,
    chunks: facts.chunks,
    removed: facts.removed,
  }
}

function copyOf(tx: Transaction, source: ObjectRecord | undefined, commitId: CommitId): ObjectRecord {
  assert(source !== undefined, 'a copy was planned with its source')
  const copy = { ...source, version: tx.index, modifiedMs: tx.nowMs, commitId }
  if (!hasManifest(source)) return copy
  const manifest = getManifest(tx, source.manifest)
  assert(
    manifest !== undefined && manifest.state === 'committed',
    `manifest ${source.manifest} of an object is committed`,
  )
  putManifest(tx, source.manifest, { ...manifest, references: manifest.references + 1 })
  return copy
}

function storePut(
  tx: Transaction,
  body: CommitBody,
  put: Put,
  position: number,
): { readonly record: ObjectRecord; readonly durable: number } {
  const own = manifestIdOf(body.commitId, position)
  const id = put.stagedPages + put.chunks.length > 0 ? own : bareManifest(tx, own)
  const manifest =
    id !== own
      ? { chunks: 0, durable: 0 }
      : put.stagedPages > 0
        ? takeStaged(tx, body, put, id)
        : takeInline(tx, body, put, id)
  return {
    record: {
      manifest: id,
      size: put.size,
      etag: put.etag,
      version: tx.index,
      modifiedMs: tx.nowMs,
      contentType: put.contentType,
      metadata: put.metadata,
      chunks: manifest.chunks,
      commitId: body.commitId,
    },
    durable: manifest.chunks === 0 ? Number.MAX_SAFE_INTEGER : manifest.durable,
  }
}

/** The first put of a commit takes the commit id as its manifest's; the others take it with their position mixed in. */
function manifestIdOf(commitId: CommitId, position: number): string {
  if (position === 0) return commitId
  const head = (Number.parseInt(commitId.slice(0, 8), 16) ^ position) >>> 0
  return head.toString(16).padStart(8, '0') + commitId.slice(8)
}

function takeStaged(
  tx: Transaction,
  body: CommitBody,
  put: Put,
  id: string,
): { readonly chunks: number; readonly durable: number } {
  const manifest = getManifest(tx, id)
  if (manifest === undefined || manifest.state !== 'staging') {
    refuse('FENCED', `upload ${id} is not staged any more: write the object again`)
  }
  openLease(tx, manifest.lease)
  demand(manifest.lease === body.lease, `upload ${id} was staged under another lease: commit it under its own`)
  demand(
    manifest.pages === put.stagedPages && manifest.size === put.size,
    `upload ${id} has ${manifest.pages} pages and ${manifest.size} bytes, not ${put.stagedPages} and ${put.size}`,
  )
  closeUpload(tx, id, manifest)
  putManifest(tx, id, { ...manifest, state: 'committed', references: 1, lease: 0 })
  return manifest
}

function takeInline(
  tx: Transaction,
  body: CommitBody,
  put: Put,
  id: string,
): { readonly chunks: number; readonly durable: number } {
  if (getManifest(tx, id) !== undefined) refuse('CONFLICT', `commit id ${id} was used before: draw a new one`)
  const chunks = put.chunks.length
  let durable = 0
  if (chunks > 0) {
    const lease = openLease(tx, body.lease)
    const intake = {
      commitId: body.commitId,
      leaseId: body.lease,
      lease,
      copies: put.copies,
      concern: put.concern,
      pin: false,
      disks: new Map(),
    }
    durable = takePage(tx, id, 0, put.chunks, intake).durable
  }
  const pages = chunks > 0 ? 1 : 0
  const record = { references: 1, pages, chunks, size: put.size, lease: 0, trashedMs: 0, durable }
  putManifest(tx, id, { state: 'committed', ...record })
  return { chunks, durable }
}

/** The body of a `commitChunks` command. */
interface ChunksBody {
  readonly commitId: CommitId
  readonly lease: LeaseId
  readonly chunks: readonly CommittedChunk[]
  readonly copies: number
  readonly concern: Put['concern']
}

/** Pins chunks that belong to no object. Repeatable: pins that are there under this commit id are the answer. */
export function commitChunks(tx: Transaction, body: ChunksBody): Reply {
  const fingerprint = fingerprintOfChunks(body.chunks)
  const known = knownOutcome(tx, body.commitId, fingerprint)
  if (known !== undefined) return { ok: true, kind: 'committed', objects: [], durable: known.durable }
  demand(
    body.chunks.length >= 1 && body.chunks.length <= limits.pageChunksMax,
    `the commit has ${body.chunks.length} chunks: send 1 to ${limits.pageChunksMax}`,
  )
  const lease = openLease(tx, body.lease)
  const intake = { ...body, leaseId: body.lease, lease, pin: true, disks: new Map() }
  let durable = Number.MAX_SAFE_INTEGER
  for (const chunk of body.chunks) {
    durable = Math.min(durable, takeChunk(tx, chunk, intake))
  }
  keepOutcome(tx, body.commitId, fingerprint, durable, [])
  return { ok: true, kind: 'committed', objects: [], durable }
}
