/**
 * A storage node over real disks and real gRPC, beside a fake meta leader that a test drives by hand.
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createNodeClock } from '../../../src/drivers/clock-node.ts'
import { createNodeEntropy } from '../../../src/drivers/entropy-node.ts'
import { openExtentFiles } from '../../../src/drivers/extents-node.ts'
import { createFiles } from '../../../src/drivers/files-node.ts'
import { createGrpcClient } from '../../../src/drivers/grpc-client.ts'
import { createGrpcServer, type GrpcServer } from '../../../src/drivers/grpc-server.ts'
import { createXxHasher } from '../../../src/drivers/hasher-xxhash.ts'
import { createLevelFactory } from '../../../src/drivers/kv-level.ts'
import { createTextMetrics } from '../../../src/drivers/metrics-text.ts'
import { StoreError } from '../../../src/model/errors.ts'
import { blockCount, limits } from '../../../src/model/limits.ts'
import type { Env } from '../../../src/ports/env.ts'
import type { ExtentFiles } from '../../../src/ports/extents.ts'
import type { Files } from '../../../src/ports/files.ts'
import type { Hasher } from '../../../src/ports/hasher.ts'
import type { Duplex } from '../../../src/ports/net.ts'
import { openDisk } from '../../../src/services/storage/engine/disk.ts'
import { createStorageNode, type StorageNode } from '../../../src/services/storage/storage.ts'
import type { DiskOptions } from '../../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../../src/services/storage/types.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { nodeMethods, storageMethods } from '../../../src/wire/methods.ts'
import { quietLog, until } from '../../drivers/grpc-kit.ts'

export const clusterId = 'c'.repeat(32)

export type OrderOut = holdfast.v1.MetaOrder.$Properties
export type NodeMessage = holdfast.v1.NodeMessage

/** A meta leader that registers whoever comes and answers heartbeats while `beats` is true. */
export class FakeMeta {
  readonly received: NodeMessage[] = []
  readonly server: GrpcServer
  address = ''
  beats = true
  term = 1
  generation = 1
  clusterId = clusterId
  stream: Duplex<OrderOut, NodeMessage> | undefined
  /** Refuses streams with this. */
  refusal: StoreError | undefined
  attaches = 0

  constructor() {
    this.server = createGrpcServer({ log: quietLog, metrics: createTextMetrics() })
    this.server.stream(nodeMethods.attach, (stream) => {
      this.attaches += 1
      if (this.refusal !== undefined) {
        stream.destroy(this.refusal)
        return
      }
      this.stream = stream
      stream.onMessage((message) => this.#receive(stream, message))
      stream.onEnd(() => stream.end())
    })
  }

  #receive(stream: Duplex<OrderOut, NodeMessage>, message: NodeMessage): void {
    this.received.push(message)
    if (message.register) {
      const disks = message.register.disks.map(({ id }, i) => ({ id, number: i + 1, generation: this.generation }))
      stream.send({ term: this.term, registered: { clusterId: this.clusterId, disks, clusterVersion: 1 } })
    }
    if (message.heartbeat && this.beats) {
      stream.send({ term: this.term, beat: { sequence: message.heartbeat.sequence, meta: [] } })
    }
  }

  async start(): Promise<void> {
    this.address = `127.0.0.1:${await this.server.listen('127.0.0.1:0')}`
  }

  /** Sends one order and gives its result. */
  async order(body: OrderOut): Promise<holdfast.v1.OrderResult> {
    const order = 1000 + this.received.length + Math.floor(Math.random() * 1e9)
    this.stream?.send({ order, term: this.term, deadlineMs: 10_000, ...body })
    let result: holdfast.v1.OrderResult | undefined
    await until(() => {
      result = this.received.find((message) => message.result?.order === order)?.result ?? undefined
      return result !== undefined
    }, `order ${order} is answered`)
    return result as holdfast.v1.OrderResult
  }

  heartbeats(): holdfast.v1.Heartbeat[] {
    return this.received.flatMap((message) => message.heartbeat ?? [])
  }
}

export interface NodeOptions {
  readonly disks?: number
  readonly metaSilenceMs?: number
  readonly arenaBytes?: number
  readonly meta?: readonly string[]
}

/** Everything a test started; `stop` ends and removes it all. */
export class World {
  readonly meta = new FakeMeta()
  readonly fatals: StoreError[] = []
  readonly #undo: (() => Promise<unknown>)[] = []
  env: Env | undefined
  hasher: Hasher | undefined
  /** What a disk opened from now on sees of its extent files. */
  wrapExtents: (files: ExtentFiles) => ExtentFiles = (files) => files
  /** Options of a disk opened from now on. */
  diskOptions: Partial<DiskOptions> = {}
  /** The same for its small files. */
  wrapFiles: (files: Files) => Files = (files) => files

  async start(): Promise<void> {
    const hasher = await createXxHasher()
    this.hasher = hasher
    const net = createGrpcClient({ log: quietLog, openMs: 2000 })
    this.env = {
      clock: createNodeClock(),
      entropy: createNodeEntropy(),
      hasher,
      net,
      log: quietLog,
      metrics: createTextMetrics(),
    }
    await this.meta.start()
    this.#undo.push(
      () => net.close(),
      () => this.meta.server.close(50),
    )
  }

  theEnv(): Env {
    if (this.env === undefined) throw new Error('the world has not started')
    return this.env
  }

  async disk(arenaBytes?: number): Promise<DiskEngine> {
    const path = await mkdtemp(join(tmpdir(), 'holdfast-storage-'))
    this.#undo.unshift(() => rm(path, { recursive: true, force: true }))
    const env = this.theEnv()
    const extents = this.wrapExtents(await openExtentFiles(path))
    return openDisk(
      { ...env, files: this.wrapFiles(createFiles(path)), extents, kv: createLevelFactory(path) },
      {
        path,
        extentBytes: 64 * 1024 * 1024,
        reserveBytes: 0,
        ...(arenaBytes === undefined ? {} : { arenaBytes }),
        ...this.diskOptions,
      },
    )
  }

  async node(
    id: string,
    options: NodeOptions = {},
  ): Promise<{ node: StorageNode; address: string; engines: DiskEngine[] }> {
    const engines: DiskEngine[] = []
    for (let i = 0; i < (options.disks ?? 1); i++) engines.push(await this.disk(options.arenaBytes))
    const config = {
      id,
      zone: 'z1',
      advertise: [],
      meta: options.meta ?? [this.meta.address],
      heartbeatMs: 20,
      metaSilenceMs: options.metaSilenceMs ?? 5000,
    }
    const node = createStorageNode(this.theEnv(), engines, config, (error) => this.fatals.push(error))
    const server = createGrpcServer({ log: quietLog, metrics: createTextMetrics() })
    node.bind(server)
    const address = `127.0.0.1:${await server.listen('127.0.0.1:0')}`
    this.#undo.unshift(
      () => node.stop(),
      () => server.close(50),
    )
    node.start([address])
    return { node, address, engines }
  }

  async stop(): Promise<void> {
    for (const undo of this.#undo) await undo()
  }

  /** Block sums and root of `bytes`, as a client makes them. */
  sums(bytes: Uint8Array): { blockSums: Uint8Array; root: Uint8Array } {
    const hasher = this.hasher
    if (hasher === undefined) throw new Error('the world has not started')
    const blocks = blockCount(bytes.length)
    const input = new Uint8Array(8 + blocks * 8)
    new DataView(input.buffer).setBigUint64(0, BigInt(bytes.length), true)
    for (let i = 0; i < blocks; i++) {
      const block = bytes.subarray(i * limits.blockBytes, (i + 1) * limits.blockBytes)
      hasher.sumInto(block, input, 8 + i * 8)
    }
    const root = new Uint8Array(8)
    hasher.sumInto(input, root, 0)
    return { blockSums: input.subarray(8), root }
  }
}

/** Random bytes for a chunk. */
export function chunkBytes(length: number): Uint8Array {
  return new Uint8Array(randomBytes(length))
}

type Reply = holdfast.v1.ChunkReply
type RequestOut = holdfast.v1.ChunkRequest.$Properties

/** A client's end of a Chunks stream that collects what comes for each request. */
export class ChunkClient {
  readonly stream: Duplex<RequestOut, Reply>
  readonly done = new Map<number, holdfast.v1.PutDone>()
  readonly failures = new Map<number, holdfast.v1.Failure>()
  readonly begins = new Map<number, holdfast.v1.GetBegin>()
  readonly pieces = new Map<number, Uint8Array[]>()
  readonly #receivedBytes = new Map<number, number>()
  closed: StoreError | undefined | 'open' = 'open'

  constructor(env: Env, address: string) {
    this.stream = env.net.open(address, storageMethods.chunks)
    this.stream.onMessage((reply) => {
      const { request } = reply
      if (reply.putDone) this.done.set(request, reply.putDone)
      if (reply.failure) this.failures.set(request, reply.failure)
      if (reply.getBegin) this.begins.set(request, reply.getBegin)
      if (reply.getData) this.#take(request, reply.getData.data)
    })
    this.stream.onClose((error) => {
      this.closed = error
    })
  }

  #take(request: number, bytes: Uint8Array): void {
    const pieces = this.pieces.get(request) ?? []
    pieces.push(bytes)
    this.pieces.set(request, pieces)
    this.#receivedBytes.set(request, (this.#receivedBytes.get(request) ?? 0) + bytes.length)
  }

  /** Sends a whole put. */
  put(request: number, begin: holdfast.v1.PutBegin.$Properties, bytes: Uint8Array): void {
    this.stream.send({ request, putBegin: { length: bytes.length, ...begin } })
    this.bytes(request, bytes)
  }

  bytes(request: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += limits.frameBytes) {
      this.stream.send({ request, putData: { data: bytes.subarray(at, at + limits.frameBytes) } })
    }
  }

  answered(request: number): boolean {
    return this.done.has(request) || this.failures.has(request)
  }

  received(request: number): Buffer {
    return Buffer.concat(this.pieces.get(request) ?? [])
  }

  complete(request: number): boolean {
    return (
      this.failures.has(request) || (this.#receivedBytes.get(request) ?? 0) === (this.begins.get(request)?.bytes ?? -1)
    )
  }
}
