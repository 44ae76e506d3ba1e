/**
 * A meta node and storage nodes in memory behind the NetClient port, for tests of the SDK: every message is encoded and
 * decoded as on the wire, time runs as fast as a test wants, and each node can be told to misbehave.
 */

import { createNodeEntropy } from '../../src/drivers/entropy-node.ts'
import { createXxHasher } from '../../src/drivers/hasher-xxhash.ts'
import { chunkRoot, sumBlocks } from '../../src/core/object/sums.ts'
import { StoreError } from '../../src/model/errors.ts'
import { limits } from '../../src/model/limits.ts'
import type { Env } from '../../src/ports/env.ts'
import type { Hasher } from '../../src/ports/hasher.ts'
import type { Log } from '../../src/ports/log.ts'
import type { Method } from '../../src/ports/net.ts'
import type { holdfast } from '../../src/wire/messages.ts'
import { checkAcks, fakeStatus } from './fake-acks.ts'
import { FakeAdmin } from './fake-admin.ts'
import { FakeNet, fastClock, type Listener, type PeerControl } from './fake-net.ts'
import { FakeSessions } from './fake-sessions.ts'

type Request = holdfast.v1.MetaRequest
type Reply = holdfast.v1.MetaReply.$Properties

const quietLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  with: () => quietLog,
}

export interface StoredChunk {
  bytes: Uint8Array
  root: Uint8Array
  blockSums: Uint8Array
}

/** One storage node with one disk. */
export class FakeStorage {
  readonly disk: number
  readonly node: string
  readonly address: string
  readonly chunks = new Map<number, StoredChunk>()
  /** What a put of this node does: store it, fail with a code, or never answer. */
  onPut: (id: number) => 'store' | 'hang' | StoreError = () => 'store'
  /** Changes the bytes of a get, or ends it after some frames. */
  onGetFrame: (id: number, frame: number, bytes: Uint8Array) => Uint8Array | StoreError | 'hang' | 'break' = (
    _,
    __,
    bytes,
  ) => bytes
  gets = 0
  inFlightBytes = 0
  inFlightPeak = 0
  cancels = 0
  listening = true
  /** Generation of its disk; what was acknowledged in another one does not count at a commit. */
  generation = 1
  readonly #sums: (bytes: Uint8Array, out: Uint8Array, at: number) => void
  readonly #codec: Method<
    holdfast.v1.ChunkRequest,
    holdfast.v1.ChunkReply,
    holdfast.v1.ChunkRequest.$Properties,
    holdfast.v1.ChunkReply.$Properties
  >
  #open = new Set<PeerControl>()

  constructor(disk: number, hasher: Hasher, codec: FakeStorage['codecType']) {
    this.disk = disk
    this.node = `s${disk}`
    this.address = `storage-${disk}:7000`
    this.#sums = hasher.sumInto.bind(hasher)
    this.#codec = codec
  }

  declare readonly codecType: Method<
    holdfast.v1.ChunkRequest,
    holdfast.v1.ChunkReply,
    holdfast.v1.ChunkRequest.$Properties,
    holdfast.v1.ChunkReply.$Properties
  >

  /** Ends every stream, as a killed process does. */
  kill(): void {
    this.listening = false
    for (const control of this.#open) control.break(new StoreError('UNAVAILABLE', `${this.node} is gone`))
  }

  listen: Listener = (_path, control) => {
    if (!this.listening) return undefined
    this.#open.add(control)
    const puts = new Map<number, { begin: holdfast.v1.PutBegin; parts: Uint8Array[]; length: number }>()
    const reply = (message: holdfast.v1.ChunkReply.$Properties): void => control.reply(this.#codec.encodeReply(message))
    const fail = (request: number, error: StoreError): void =>
      reply({ request, failure: { code: error.code, message: error.message } })
    return {
      onGone: () => this.#open.delete(control),
      onBytes: (bytes) => {
        const message = this.#codec.decodeRequest(bytes)
        const { request } = message
        if (message.putBegin) {
          puts.set(request, { begin: message.putBegin, parts: [], length: 0 })
          this.inFlightBytes += message.putBegin.length
          this.inFlightPeak = Math.max(this.inFlightPeak, this.inFlightBytes)
        } else if (message.putData) {
          const put = puts.get(request)
          if (put === undefined) return
          put.parts.push(message.putData.data.slice())
          put.length += message.putData.data.length
          if (put.length < put.begin.length) return
          puts.delete(request)
          this.inFlightBytes -= put.begin.length
          this.#finishPut(request, put.begin, Buffer.concat(put.parts), reply, fail)
        } else if (message.cancel) {
          this.cancels++
          const put = puts.get(request)
          if (put !== undefined) this.inFlightBytes -= put.begin.length
          puts.delete(request)
        } else if (message.get) this.#get(request, message.get, reply, fail, control)
      },
    }
  }

  #finishPut(
    request: number,
    begin: holdfast.v1.PutBegin,
    bytes: Uint8Array,
    reply: (message: holdfast.v1.ChunkReply.$Properties) => void,
    fail: (request: number, error: StoreError) => void,
  ): void {
    const what = this.onPut(begin.id)
    if (what === 'hang') return
    if (what !== 'store') return fail(request, what)
    const blockSums = sumBlocks(bytes, this.#sums)
    const root = chunkRoot(bytes.length, blockSums, this.#sums)
    if (Buffer.compare(root, begin.root) !== 0) return fail(request, new StoreError('CORRUPT', 'sums differ'))
    this.chunks.set(begin.id, { bytes, root, blockSums })
    reply({ request, putDone: { id: begin.id, disk: this.disk, generation: this.generation, root } })
  }

  #get(
    request: number,
    get: holdfast.v1.Get,
    reply: (message: holdfast.v1.ChunkReply.$Properties) => void,
    fail: (request: number, error: StoreError) => void,
    control: PeerControl,
  ): void {
    this.gets++
    const chunk = this.chunks.get(get.id)
    if (chunk === undefined) return fail(request, new StoreError('NOT_FOUND', 'no such chunk'))
    const start = Math.floor(get.offset / limits.blockBytes) * limits.blockBytes
    const end =
      get.length === 0
        ? chunk.bytes.length
        : Math.min(chunk.bytes.length, Math.ceil((get.offset + get.length) / limits.blockBytes) * limits.blockBytes)
    reply({
      request,
      getBegin: {
        length: chunk.bytes.length,
        root: chunk.root,
        blockSums: chunk.blockSums,
        offset: start,
        bytes: end - start,
      },
    })
    let frame = 0
    for (let at = start; at < end; at += limits.frameBytes) {
      const bytes = this.onGetFrame(get.id, frame++, chunk.bytes.slice(at, Math.min(at + limits.frameBytes, end)))
      if (bytes === 'hang') return
      if (bytes === 'break') return control.break(new StoreError('UNAVAILABLE', `${this.node} broke`))
      if (bytes instanceof StoreError) return fail(request, bytes)
      reply({ request, getData: { data: bytes } })
    }
  }
}

interface FakeObject {
  entry: holdfast.v1.ObjectEntry.$Properties
  chunks: holdfast.v1.ChunkRef[]
}

/** The metadata leader, as far as clients see it. */
export class FakeMeta {
  readonly address: string
  readonly storage: readonly FakeStorage[]
  readonly objects = new Map<string, FakeObject>()
  readonly buckets = new Set(['photos'])
  readonly sessions = new FakeSessions()
  readonly admin = new FakeAdmin()
  readonly pages = new Map<string, holdfast.v1.ChunkRef[][]>()
  readonly commits = new Map<string, holdfast.v1.CommitReply.$Properties>()
  readonly releasedLeases: number[] = []
  readonly reports: { chunk: number; disk: number; code: string }[] = []
  readonly calls: string[] = []
  readonly placeRequests: holdfast.v1.PlaceRequest[] = []
  commitRequests: holdfast.v1.CommitRequest[] = []
  /** Disks that placements start with, in order. */
  preferred: number[] | undefined
  /** Called before a request is answered: an error to answer with, or 'hang' or 'break'. */
  before: (request: Request) => StoreError | 'hang' | 'break' | 'break-after' | undefined = () => undefined
  leases = 0
  /** Sent with every reply. */
  clusterId = 'c1'
  #version = 0
  readonly #codec: FakeMeta['codecType']

  declare readonly codecType: Method<Request, holdfast.v1.MetaReply, holdfast.v1.MetaRequest.$Properties, Reply>

  constructor(address: string, storage: readonly FakeStorage[], codec: FakeMeta['codecType']) {
    this.address = address
    this.storage = storage
    this.#codec = codec
  }

  listen: Listener = (_path, control) => ({
    onGone: () => undefined,
    onBytes: (bytes) => {
      const request = this.#codec.decodeRequest(bytes)
      this.calls.push(request.body ?? '')
      const first = this.before(request)
      if (first === 'hang') return
      if (first === 'break') return control.break(new StoreError('UNAVAILABLE', 'session broke'))
      let reply: Reply
      try {
        if (first instanceof StoreError) throw first
        reply =
          request.session === '' ? this.#answer(request) : this.sessions.once(request, () => this.#answer(request))
      } catch (error) {
        const { code, message, details, outcome } = error as StoreError
        reply = {
          error: {
            code,
            message,
            definite: outcome === 'definite',
            leader: [...(details.leader ?? [])],
            suggestion: details.suggestion ?? '',
          },
        }
      }
      if (first === 'break-after') return control.break(new StoreError('UNAVAILABLE', 'session broke'))
      control.reply(this.#codec.encodeReply({ ...reply, call: request.call, clusterId: this.clusterId }))
    },
  })

  #disks(): holdfast.v1.DiskAddress.$Properties[] {
    return this.storage.map(({ disk, node, address, generation }) => ({
      disk,
      node,
      addresses: [address],
      zone: `z${disk % 2}`,
      health: 'up',
      generation,
    }))
  }

  #place(request: holdfast.v1.PlaceRequest): Reply {
    this.placeRequests.push(request)
    const order = this.preferred ?? this.storage.map(({ disk }) => disk)
    const disks = order
      .filter((disk) => !request.exclude.includes(disk) && !request.have.includes(disk))
      .slice(0, request.copies)
    if (disks.length === 0) throw new StoreError('NO_PLACEMENT', 'no disks')
    return { place: { placements: Array.from({ length: request.chunks }, () => ({ disks })), disks: this.#disks() } }
  }

  #located(chunks: readonly holdfast.v1.ChunkRef[]): holdfast.v1.ChunkRef.$Properties[] {
    return chunks.map((chunk) => ({
      id: chunk.id,
      length: chunk.length,
      root: chunk.root,
      replicas: chunk.replicas.map(({ disk, generation }) => ({ disk, generation, state: 'current' })),
    }))
  }

  #commit(request: holdfast.v1.CommitRequest): Reply {
    this.commitRequests.push(request)
    const before = this.commits.get(request.commitId)
    if (before !== undefined) return { commit: before }
    const objects: holdfast.v1.ObjectEntry.$Properties[] = []
    for (const { put, delete: gone, copy } of request.operations) {
      if (gone) {
        if (!this.objects.delete(`${gone.bucket}/${gone.key}`)) throw new StoreError('NOT_FOUND', 'no such object')
        objects.push({})
      }
      if (copy) {
        const { entry, chunks } = this.#object(copy.fromBucket, copy.fromKey)
        const copied = { ...entry, bucket: copy.bucket, key: copy.key, version: ++this.#version }
        this.objects.set(`${copy.bucket}/${copy.key}`, { entry: copied, chunks })
        objects.push(copied)
      }
      if (!put) continue
      if (put.condition?.ifAbsent === true && this.objects.has(`${put.bucket}/${put.key}`))
        throw new StoreError('CONDITION_FAILED', 'exists')
      if (put.stagedPages === 0) checkAcks(this.storage, put.chunks, put)
      const chunks = put.stagedPages > 0 ? (this.pages.get(request.commitId) ?? []).flat() : put.chunks
      const entry = {
        bucket: put.bucket,
        key: put.key,
        size: put.size,
        etag: put.etag,
        version: ++this.#version,
        chunks: chunks.length,
      }
      this.objects.set(`${put.bucket}/${put.key}`, { entry, chunks })
      objects.push(entry)
    }
    const durable = Math.min(
      3,
      ...request.operations.flatMap(({ put }) => (put?.chunks ?? []).map((chunk) => chunk.replicas.length)),
    )
    const reply = { objects, durable }
    this.commits.set(request.commitId, reply)
    return { commit: reply }
  }

  #object(bucket: string, key: string): FakeObject {
    const object = this.objects.get(`${bucket}/${key}`)
    if (object === undefined) throw new StoreError('NOT_FOUND', `no object ${bucket}/${key}`)
    return object
  }

  #answer(request: Request): Reply {
    if (request.body === undefined) throw new StoreError('INVALID_ARGUMENT', 'a session request without a known call')
    const known = this.sessions.answer(request) ?? this.admin.answer(request)
    if (known !== undefined) return known
    if (request.createBucket) {
      this.buckets.add(request.createBucket.name)
      return { createBucket: { bucket: { name: request.createBucket.name } } }
    }
    if (request.deleteBucket) {
      if (!this.buckets.delete(request.deleteBucket.name)) throw new StoreError('NOT_FOUND', 'no such bucket')
      return { deleteBucket: {} }
    }
    if (request.unpinChunk) return { unpinChunk: {} }
    if (request.grantLease) return { grantLease: { id: 65_536 * ++this.leases, count: 65_536, ttlMs: 60_000 } }
    if (request.renewLease) return { renewLease: { id: request.renewLease.id, count: 65_536, ttlMs: 60_000 } }
    if (request.releaseLease) {
      this.releasedLeases.push(request.releaseLease.id)
      return { releaseLease: {} }
    }
    if (request.place) return this.#place(request.place)
    if (request.stagePage) {
      checkAcks(this.storage, request.stagePage.chunks, request.stagePage)
      const pages = this.pages.get(request.stagePage.commitId) ?? []
      pages[request.stagePage.page] = request.stagePage.chunks
      this.pages.set(request.stagePage.commitId, pages)
      return { stagePage: {} }
    }
    if (request.commit) return this.#commit(request.commit)
    if (request.openObject) {
      const { entry, chunks } = this.#object(request.openObject.bucket, request.openObject.key)
      const first = { chunks: this.#located(chunks.slice(0, limits.pageChunksMax)), disks: this.#disks() }
      const manifest = `${entry.bucket}/${entry.key}`
      return { openObject: { object: entry, manifest, pages: Math.ceil(chunks.length / limits.pageChunksMax), first } }
    }
    if (request.listObjects) {
      const { bucket, prefix, after } = request.listObjects
      const keys = [...this.objects.keys()].filter(
        (name) => name.startsWith(`${bucket}/${prefix}`) && name > `${bucket}/${after}`,
      )
      return {
        listObjects: { entries: keys.sort().map((name) => this.objects.get(name)?.entry ?? {}), next: '', index: 1 },
      }
    }
    if (request.status)
      return { status: { ...fakeStatus(this.storage), meta: this.admin.members, chunks: {}, repair: {} } }
    if (request.listBuckets) return { listBuckets: { buckets: [...this.buckets].map((name) => ({ name })) } }
    if (request.manifestPage) {
      const { manifest, page } = request.manifestPage
      const object = this.objects.get(manifest)
      if (object === undefined) throw new StoreError('CHANGED', 'gone')
      const from = page * limits.pageChunksMax
      return {
        manifestPage: {
          chunks: this.#located(object.chunks.slice(from, from + limits.pageChunksMax)),
          disks: this.#disks(),
        },
      }
    }
    if (request.statChunk) {
      const { id } = request.statChunk
      const chunk = [...this.objects.values()].flatMap((object) => object.chunks).find((one) => one.id === id)
      if (chunk === undefined) throw new StoreError('NOT_FOUND', 'no such chunk')
      const [located = {}] = this.#located([chunk])
      return { statChunk: { chunk: located, disks: this.#disks(), copies: 3, references: 1 } }
    }
    if (request.reportReplica) {
      const { chunk, disk, code } = request.reportReplica
      this.reports.push({ chunk, disk, code })
      return { reportReplica: {} }
    }
    throw new StoreError('INTERNAL', `the fake does not know ${request.body}`)
  }
}

export interface FakeCluster {
  readonly env: Env
  readonly net: FakeNet
  readonly meta: FakeMeta
  readonly storage: readonly FakeStorage[]
}

/** A cluster of `nodes` storage nodes with one meta node at `meta:7400`. */
export async function createFakeCluster(nodes: number, speed = 20): Promise<FakeCluster> {
  const { metaMethods, storageMethods } = await import('../../src/wire/methods.ts')
  const hasher = await createXxHasher()
  const net = new FakeNet()
  const storage = Array.from({ length: nodes }, (_, at) => new FakeStorage(at + 1, hasher, storageMethods.chunks))
  for (const node of storage) net.listeners.set(node.address, node.listen)
  const meta = new FakeMeta('meta:7400', storage, metaMethods.session)
  net.listeners.set(meta.address, meta.listen)
  const metrics = { count: () => undefined, gauge: () => undefined, observe: () => undefined }
  return {
    env: { clock: fastClock(speed), entropy: createNodeEntropy(), hasher, net, log: quietLog, metrics },
    net,
    meta,
    storage,
  }
}
