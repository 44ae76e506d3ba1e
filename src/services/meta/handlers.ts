/**
 * The Meta service: one table of calls, served as unary methods and over the Session stream alike.
 *
 * Only the leader answers; the others say NOT_LEADER with its addresses. Writes are proposed one by one and gathered by
 * the replicator into groups; reads pass a barrier first and are linearizable, but for placement and status, which the
 * leader answers from memory. Calls in flight are bounded: beyond the bound OVERLOADED is the answer.
 */

import { type Command, encodeCommand, type Reply } from '../../core/meta/commands.ts'
import { grantedTtlMs } from '../../core/meta/leases.ts'
import { isStoreError, StoreError } from '../../model/errors.ts'
import { leaseSpan } from '../../model/ids.ts'
import { limits } from '../../model/limits.ts'
import { toHex } from '../../base/bytes.ts'
import type { Env } from '../../ports/env.ts'
import { safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { MetaMachine } from './machine.ts'
import type { MetaSnapshot } from './queries.ts'
import { type DiskView, listBuckets, listObjects, manifestPage, openObject, statChunk } from './reads.ts'
import {
  chunkId,
  diskNumber,
  toCommit,
  toCommitChunks,
  toCreateBucket,
  toDeleteBucket,
  toExpireLease,
  toGrantLease,
  toRenewLease,
  toStagePage,
  toUnpinChunk,
} from './requests.ts'
import { type ControlPart, composeStatus } from './status.ts'
import { bucketNotFound } from './suggest.ts'
import type { Replicator } from './types.ts'

type V1 = typeof holdfast.v1
/** Request and reply types of a call, by message names. */
type Call<Request extends keyof V1, ReplyName extends keyof V1> = (
  request: InstanceType<V1[Request]>,
) => Promise<Parameters<V1[ReplyName]['encode']>[0]>

/** Every call of the Meta service, under the names of the Session stream. */
export interface MetaCalls {
  createBucket: Call<'CreateBucketRequest', 'CreateBucketReply'>
  deleteBucket: Call<'DeleteBucketRequest', 'Empty'>
  listBuckets: Call<'Empty', 'ListBucketsReply'>
  grantLease: Call<'GrantLeaseRequest', 'Lease'>
  renewLease: Call<'RenewLeaseRequest', 'Lease'>
  releaseLease: Call<'ReleaseLeaseRequest', 'Empty'>
  place: Call<'PlaceRequest', 'PlaceReply'>
  stagePage: Call<'StagePageRequest', 'Empty'>
  commit: Call<'CommitRequest', 'CommitReply'>
  openObject: Call<'OpenObjectRequest', 'OpenObjectReply'>
  manifestPage: Call<'ManifestPageRequest', 'ManifestPageReply'>
  listObjects: Call<'ListObjectsRequest', 'ListObjectsReply'>
  commitChunks: Call<'CommitChunksRequest', 'CommitChunksReply'>
  statChunk: Call<'ChunkIdRequest', 'StatChunkReply'>
  unpinChunk: Call<'ChunkIdRequest', 'Empty'>
  reportReplica: Call<'ReportReplicaRequest', 'Empty'>
  status: Call<'Empty', 'StatusReply'>
  openSession: Call<'OpenSessionRequest', 'OpenSessionReply'>
  keepSession: Call<'SessionIdRequest', 'Empty'>
  closeSession: Call<'SessionIdRequest', 'Empty'>
  setQuota: Call<'SetQuotaRequest', 'Empty'>
  listQuotas: Call<'Empty', 'ListQuotasReply'>
  addMetaMember: Call<'AddMetaMemberRequest', 'MetaMembersReply'>
  removeMetaMember: Call<'RemoveMetaMemberRequest', 'MetaMembersReply'>
  transferLeadership: Call<'TransferLeadershipRequest', 'TransferLeadershipReply'>
  versionStatus: Call<'Empty', 'VersionStatusReply'>
  raiseVersion: Call<'RaiseVersionRequest', 'VersionStatusReply'>
  deletesStatus: Call<'Empty', 'DeletesStatusReply'>
  resumeDeletes: Call<'Empty', 'DeletesStatusReply'>
}

/** What the calls need of the controllers. */
export interface ControlView extends DiskView {
  /** Resolves when the leader's view of nodes and disks is loaded. */
  ready(): Promise<void>
  place(request: holdfast.v1.PlaceRequest): holdfast.v1.PlaceReply.$Properties
  reportReplica(request: holdfast.v1.ReportReplicaRequest): Promise<void>
  status(): Promise<ControlPart>
}

/** What the calls work with. */
export interface HandlerDeps {
  readonly env: Pick<Env, 'clock' | 'metrics'>
  readonly machine: Pick<MetaMachine, 'queries' | 'snapshotQueries'>
  readonly replicator: Pick<Replicator, 'propose' | 'barrier' | 'status'>
  readonly control: ControlView
}

/** Placements in one answer. */
const placeChunksMax = 256
/** Disks that a writer may rule out. */
const placeListMax = 1_024

/** The table of calls. Every call rejects with a StoreError. */
export function createCalls(deps: HandlerDeps): MetaCalls {
  const { env, control } = deps
  const now = (): number => env.clock.wallMs()
  const write = (command: Command): Promise<Accepted> => propose(deps, command)
  const read = <T>(work: (view: MetaSnapshot) => Promise<T>): Promise<T> => readState(deps, work)
  return {
    createBucket: async (request) => {
      const reply = await write(toCreateBucket(request, now()))
      if (reply.kind !== 'bucket') throw unexpected(reply)
      return { bucket: { name: reply.name, createdMs: reply.createdMs, objects: 0, bytes: 0 } }
    },
    deleteBucket: (request) => finish(write(toDeleteBucket(request, now()))),
    listBuckets: () => read(listBuckets),
    grantLease: async (request) => toLease(await write(toGrantLease(request, now())), request.ttlMs),
    renewLease: async (request) => toLease(await write(toRenewLease(request, now())), request.ttlMs),
    releaseLease: (request) => finish(write(toExpireLease(request, now()))),
    place: async (request) => {
      checkPlace(request)
      mustLead(deps.replicator)
      await control.ready()
      return control.place(request)
    },
    stagePage: (request) => finish(write(toStagePage(request, now()))),
    commit: async (request) => toCommitReply(await write(toCommit(request, now()))),
    openObject: (request) => read((view) => openObject(view, control, request)),
    manifestPage: (request) => readPage(deps, request),
    listObjects: (request) => read((view) => listObjects(view, request)),
    commitChunks: async (request) => {
      const reply = await write(toCommitChunks(request, now()))
      if (reply.kind !== 'committed') throw unexpected(reply)
      return { durable: reply.durable }
    },
    statChunk: (request) => read((view) => statChunk(view, control, request)),
    unpinChunk: (request) => finish(write(toUnpinChunk(request, now()))),
    reportReplica: async (request) => {
      chunkId(request.chunk, 'chunk')
      diskNumber(request.disk, 'disk')
      mustLead(deps.replicator)
      await control.reportReplica(request)
      return {}
    },
    status: async () => {
      mustLead(deps.replicator)
      return composeStatus(deps.machine.queries, deps.replicator.status(), await control.status())
    },
    openSession: notBuilt,
    keepSession: notBuilt,
    closeSession: notBuilt,
    setQuota: notBuilt,
    listQuotas: notBuilt,
    addMetaMember: notBuilt,
    removeMetaMember: notBuilt,
    transferLeadership: notBuilt,
    versionStatus: notBuilt,
    raiseVersion: notBuilt,
    deletesStatus: notBuilt,
    resumeDeletes: notBuilt,
  }
}

async function notBuilt(): Promise<never> {
  throw new StoreError('UNAVAILABLE', 'this call is not built yet', { outcome: 'definite' })
}

type Accepted = Extract<Reply, { ok: true }>

/** Refused here, before anything is asked of the log, when this node does not lead. */
function mustLead(replicator: HandlerDeps['replicator']): void {
  const status = replicator.status()
  if (status.role === 'leader') return
  throw notLeader(status.leaderAddresses)
}

function notLeader(leader: readonly string[]): StoreError {
  const where = leader.length > 0 ? `ask ${leader[0]}` : 'no leader is known yet; try again'
  return new StoreError('NOT_LEADER', `this meta node does not lead: ${where}`, { details: { leader } })
}

/** A NOT_LEADER that does not say where the leader is, told anew with what is known now. */
function withLeader(replicator: HandlerDeps['replicator'], error: unknown): unknown {
  if (!isStoreError(error) || error.code !== 'NOT_LEADER' || error.details.leader?.length) return error
  return notLeader(replicator.status().leaderAddresses)
}

async function propose(deps: HandlerDeps, command: Command): Promise<Accepted> {
  mustLead(deps.replicator)
  let reply: Reply
  try {
    reply = await deps.replicator.propose(encodeCommand(command))
  } catch (error) {
    throw withLeader(deps.replicator, error)
  }
  if (reply.ok) return reply
  if (reply.code === 'NOT_FOUND') await suggestBucket(deps, command)
  throw new StoreError(reply.code, reply.message, { outcome: 'definite' })
}

/** When a bucket was what was not found, says so with a close name. */
async function suggestBucket(deps: HandlerDeps, command: Command): Promise<void> {
  const named =
    command.kind === 'deleteBucket'
      ? [command.name]
      : command.kind === 'commit'
        ? command.operations.flatMap((one) => (one.kind === 'copy' ? [one.fromBucket, one.bucket] : [one.bucket]))
        : []
  for (const name of new Set(named)) {
    const { queries } = deps.machine
    if ((await queries.bucket(name)) === undefined) throw await bucketNotFound(queries, name)
  }
}

/** A linearizable read on one image of the state. */
async function readState<T>(deps: HandlerDeps, work: (view: MetaSnapshot) => Promise<T>): Promise<T> {
  mustLead(deps.replicator)
  try {
    await deps.replicator.barrier()
  } catch (error) {
    throw withLeader(deps.replicator, error)
  }
  return withDisks(deps, work)
}

/**
 * Pages of a manifest never change, so what this node has applied is as good as what is committed; that a page is gone is
 * said only after a barrier, because a leader that was replaced may not know the manifest yet.
 */
async function readPage(
  deps: HandlerDeps,
  request: holdfast.v1.ManifestPageRequest,
): Promise<holdfast.v1.ManifestPageReply.$Properties> {
  mustLead(deps.replicator)
  try {
    return await withDisks(deps, (view) => manifestPage(view, deps.control, request))
  } catch (error) {
    if (!isStoreError(error) || error.code !== 'CHANGED') throw error
    return readState(deps, (view) => manifestPage(view, deps.control, request))
  }
}

async function withDisks<T>(deps: HandlerDeps, work: (view: MetaSnapshot) => Promise<T>): Promise<T> {
  await deps.control.ready()
  const view = deps.machine.snapshotQueries()
  try {
    return await work(view)
  } finally {
    await view.close()
  }
}

async function finish(written: Promise<Accepted>): Promise<holdfast.v1.Empty.$Properties> {
  await written
  return {}
}

function unexpected(reply: Accepted): StoreError {
  return new StoreError('INTERNAL', `a command answered ${reply.kind}: this is a bug`)
}

function toLease(reply: Accepted, wantedMs: number): holdfast.v1.Lease.$Properties {
  if (reply.kind !== 'lease') throw unexpected(reply)
  return { id: reply.id, count: leaseSpan, ttlMs: grantedTtlMs(wantedMs) }
}

function toCommitReply(reply: Accepted): holdfast.v1.CommitReply.$Properties {
  if (reply.kind !== 'committed') throw unexpected(reply)
  return {
    durable: reply.durable,
    objects: reply.objects.map((object) => ({
      bucket: object.bucket,
      key: object.key,
      size: object.size,
      etag: toHex(object.etag),
      version: object.version,
      modifiedMs: object.modifiedMs,
      contentType: object.contentType,
      chunks: object.chunks,
    })),
  }
}

function checkPlace(request: holdfast.v1.PlaceRequest): void {
  for (const [field, value, max] of [
    ['chunks', request.chunks, placeChunksMax],
    ['copies', request.copies, limits.replicasMax],
    ['chunk_bytes', request.chunkBytes, limits.chunkBytesMax],
  ] as const) {
    if (safeCounter(value, field, max) === 0) {
      throw new StoreError('INVALID_ARGUMENT', `field ${field} is 0: want 1 to ${max}`)
    }
  }
  for (const [field, list] of Object.entries({ exclude: request.exclude, have: request.have })) {
    if (list.length > placeListMax) {
      throw new StoreError(
        'INVALID_ARGUMENT',
        `field ${field} has ${list.length} entries: want at most ${placeListMax}`,
      )
    }
    for (const disk of list) diskNumber(disk, field)
  }
}
