/**
 * The Meta service: one table of calls, served as unary methods and over the Session stream alike.
 *
 * Writes are answered by the leader; the others say NOT_LEADER with its addresses. They are proposed one by one and
 * gathered by the replicator into groups. Reads pass a barrier first and are linearizable on every node (since cluster
 * version 2; before, the leader alone answers them); placement and status the leader answers from memory. Calls in flight
 * are bounded: beyond the bound OVERLOADED is the answer.
 */

import { grantedTtlMs } from '../../core/meta/leases.ts'
import type { Command } from '../../core/meta/commands.ts'
import { isStoreError, StoreError } from '../../model/errors.ts'
import { leaseSpan } from '../../model/ids.ts'
import { limits } from '../../model/limits.ts'
import { toHex } from '../../base/bytes.ts'
import type { Env } from '../../ports/env.ts'
import { safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import { type AdminCalls, createAdminCalls } from './admin.ts'
import type { ScrubAction } from './control/scrub-control.ts'
import type { MetaMachine } from './machine.ts'
import { type Accepted, finish, mustLead, proposeTo, type Ticket, unexpected, withLeader } from './propose.ts'
import type { MetaSnapshot } from './queries.ts'
import {
  type DiskView,
  isCommitted,
  listBuckets,
  listObjects,
  manifestPage,
  openObject,
  type ReadView,
  statChunk,
} from './reads.ts'
import { recordDisks } from './record-disks.ts'
import {
  chunkId,
  diskNumber,
  toCloseSession,
  toCommit,
  toCommitChunks,
  toCreateBucket,
  toDeleteBucket,
  toExpireLease,
  toGrantLease,
  toKeepSession,
  toOpenSession,
  toRenewLease,
  toStagePage,
  toUnpinChunk,
} from './requests.ts'
import { type ControlPart, composeStatus } from './status.ts'
import type { Replicator } from './types.ts'

type V1 = typeof holdfast.v1
/** Request and reply types of a call, by message names. `ticket`: the call is one of a client session. */
export type Call<Request extends keyof V1, ReplyName extends keyof V1> = (
  request: InstanceType<V1[Request]>,
  ticket?: Ticket,
) => Promise<Parameters<V1[ReplyName]['encode']>[0]>

/** Every call of the Meta service, under the names of the Session stream. */
export interface MetaCalls extends AdminCalls {
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
}

/** What the calls need of the controllers. */
export interface ControlView extends DiskView {
  /** True while this node leads, as far as it knows, and its controllers are in office. */
  leads(): boolean
  /** Resolves when the leader's view of nodes and disks is loaded. */
  ready(): Promise<void>
  place(request: holdfast.v1.PlaceRequest): holdfast.v1.PlaceReply.$Properties
  reportReplica(request: holdfast.v1.ReportReplicaRequest): Promise<void>
  status(): Promise<ControlPart>
  scrubStatus(): Promise<holdfast.v1.ScrubStatusReply.$Properties>
  directScrub(action: ScrubAction, node: string): Promise<holdfast.v1.DirectScrubReply.$Properties>
  /** Registered storage nodes with the highest version each supports; 0 when it was not heard in this term. */
  storageVersions(): readonly { readonly id: string; readonly versionMax: number }[]
  /** Replicas that would be deleted if deletes were not held. */
  heldBack(): number
}

/** What the calls work with. */
export interface HandlerDeps {
  readonly env: Pick<Env, 'clock' | 'metrics'>
  readonly machine: Pick<MetaMachine, 'queries' | 'snapshotQueries' | 'points' | 'applied' | 'cluster'>
  readonly replicator: Pick<
    Replicator,
    'propose' | 'barrier' | 'status' | 'lowSpace' | 'addMember' | 'removeMember' | 'transfer' | 'clusterIncarnation'
  >
  readonly control: ControlView
}

/** Reads are answered by every node from this cluster version on. */
const followerReadsVersion = 2

/** Placements in one answer. */
const placeChunksMax = 256
/** Disks that a writer may rule out. */
const placeListMax = 1_024

/** The table of calls. Every call rejects with a StoreError. */
export function createCalls(deps: HandlerDeps): MetaCalls {
  const { env, control } = deps
  const now = (): number => env.clock.wallMs()
  const write = (command: Command, ticket?: Ticket): Promise<Accepted> => proposeTo(deps, command, ticket)
  return {
    ...createAdminCalls(deps),
    ...readCalls(deps),
    createBucket: async (request, ticket) => {
      const reply = await write(toCreateBucket(request, now()), ticket)
      if (reply.kind !== 'bucket') throw unexpected(reply)
      return { bucket: { name: reply.name, createdMs: reply.createdMs, objects: 0, bytes: 0 } }
    },
    deleteBucket: (request, ticket) => finish(write(toDeleteBucket(request, now()), ticket)),
    grantLease: async (request, ticket) => toLease(await write(toGrantLease(request, now()), ticket), request.ttlMs),
    renewLease: async (request, ticket) => toLease(await write(toRenewLease(request, now()), ticket), request.ttlMs),
    releaseLease: (request, ticket) => finish(write(toExpireLease(request, now()), ticket)),
    place: async (request) => {
      checkPlace(request)
      mustLead(deps)
      await control.ready()
      return control.place(request)
    },
    stagePage: (request, ticket) => finish(write(toStagePage(request, now()), ticket)),
    commit: async (request, ticket) => toCommitReply(await write(toCommit(request, now()), ticket)),
    commitChunks: async (request, ticket) => {
      const reply = await write(toCommitChunks(request, now()), ticket)
      if (reply.kind !== 'committed') throw unexpected(reply)
      return { durable: reply.durable }
    },
    unpinChunk: (request, ticket) => finish(write(toUnpinChunk(request, now()), ticket)),
    reportReplica: async (request) => {
      chunkId(request.chunk, 'chunk')
      diskNumber(request.disk, 'disk')
      mustLead(deps)
      await control.reportReplica(request)
      return {}
    },
    status: async () => {
      mustLead(deps)
      return composeStatus(deps, await control.status())
    },
    openSession: async (request) => {
      const reply = await write(toOpenSession(request, now()))
      if (reply.kind !== 'session') throw unexpected(reply)
      return { ttlMs: reply.ttlMs, callsMax: reply.callsMax }
    },
    keepSession: (request) => finish(write(toKeepSession(request, now()))),
    closeSession: (request) => finish(write(toCloseSession(request, now()))),
  }
}

type ReadCalls = Pick<MetaCalls, 'listBuckets' | 'openObject' | 'manifestPage' | 'listObjects' | 'statChunk'>

function readCalls(deps: HandlerDeps): ReadCalls {
  const { queries, points } = deps.machine
  const view: ReadView = { points, queries }
  return {
    listBuckets: () => listed(deps, listBuckets),
    openObject: async (request) => {
      await linearizable(deps)
      return openObject(view, await disksOf(deps), request)
    },
    /**
     * Pages of a committed manifest never change, so what this node has applied is as good as what is committed. That the
     * manifest is in another state, or that there is no such page, is believed only after a barrier: this node may be late.
     */
    manifestPage: async (request) => {
      if (!followersRead(deps)) mustLead(deps)
      const disks = await disksOf(deps)
      if (isCommitted(view, request)) {
        const page = await manifestPage(view, disks, request).catch(() => undefined)
        if (page !== undefined) return page
      }
      await linearizable(deps)
      return manifestPage(view, disks, request)
    },
    listObjects: (request) => listed(deps, (image) => listObjects(image, request)),
    statChunk: async (request) => {
      await linearizable(deps)
      return statChunk(view, await disksOf(deps), request)
    },
  }
}

function followersRead(deps: HandlerDeps): boolean {
  return (deps.machine.cluster()?.version ?? 0) >= followerReadsVersion
}

/** Resolves when everything that was acknowledged before the call is applied here. */
async function linearizable(deps: HandlerDeps): Promise<void> {
  if (!followersRead(deps)) mustLead(deps)
  try {
    await deps.replicator.barrier()
  } catch (error) {
    throw withLeader(deps.replicator, error)
  }
}

/** The leader knows its disks by their heartbeats, the others by the state's records. */
async function disksOf(deps: HandlerDeps): Promise<DiskView> {
  if (deps.control.leads()) {
    try {
      await deps.control.ready()
      return deps.control
    } catch (error) {
      if (!isStoreError(error) || error.code !== 'NOT_LEADER' || !followersRead(deps)) throw error
    }
  }
  return recordDisks(deps.machine.points)
}

/** A linearizable read on one image of the state. */
async function listed<T>(deps: HandlerDeps, work: (image: MetaSnapshot) => Promise<T>): Promise<T> {
  await linearizable(deps)
  const image = await deps.machine.snapshotQueries()
  try {
    return await work(image)
  } finally {
    await image.close()
  }
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
