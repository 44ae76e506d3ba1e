/**
 * A stopped cluster given a large state, as if its objects had been put: consistent records of every kind written straight
 * into the state's store, with the encodings that apply uses, and each node's log cut to begin where that state ends.
 *
 * Through the front door ten million chunks would take hours. What is written is what commits of the same objects leave
 * behind: chunks with their mirrors on three disks, objects, manifests and pages, in the order in which commits of rising
 * ids write them, so that LevelDB's tables overlap and are compacted as they would be.
 */

import { randomFillSync } from 'node:crypto'
import { cpSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { putU64, toHex } from '../../src/base/bytes.ts'
import { decode, encode, type Schema, uint } from '../../src/base/schema.ts'
import { keys } from '../../src/core/meta/keys.ts'
import {
  appliedRecord,
  bucketRecord,
  chunkRecord,
  clusterRecord,
  diskChunkRecord,
  diskRecord,
  manifestRecord,
  nodeRecord,
  objectRecord,
  pageRecord,
  type ReplicaRecord,
  userMetadataOf,
} from '../../src/core/meta/records.ts'
import { readApplied } from '../../src/core/meta/view.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { metaStores } from '../../src/main/meta-stores.ts'
import { leaseSpan } from '../../src/model/ids.ts'
import type { Kv, KvOperation } from '../../src/ports/kv.ts'
import { logFormats } from '../../src/services/meta/identity.ts'
import { openPlace } from '../../src/services/meta/log-place.ts'
import { pause } from './figures.ts'

const stateName = 'state'
/** Writes of one batch: about what a group of commits writes. */
const batchOperations = 4096
const copies = 3
/** Chunks of one object: files of 64 MiB. */
const chunksEach = 16
const settledMs = 500
const settledLooks = 6
const chunkBytes = 4 * 1024 * 1024
const filledBucket = 'filled'

/** A storage node that the state knows, with one disk. */
export interface FilledNode {
  readonly id: string
  readonly zone: string
  readonly address: string
  readonly incarnation: string
  readonly diskId: string
  readonly disk: number
}

export interface Filled {
  readonly clusterId: string
  readonly firstChunk: number
  chunks: number
  readonly nodes: readonly FilledNode[]
}

const replicas: readonly ReplicaRecord[] = [1, 2, 3].map((disk) => ({ disk, generation: 1, state: 'current' }))
/** The same for every chunk: all have their copies on the same three disks. */
const diskChunkValue = encode(diskChunkRecord, { copies, replicas })

const numberedId = (kind: number, number: number): string => toHex(numbered(kind, number))

function numbered(kind: number, number: number): Uint8Array {
  const bytes = new Uint8Array(16)
  bytes[0] = kind
  // Spread over the key space like random ids.
  putU64(bytes, 8, number)
  bytes[1] = (number * 167) & 0xff
  bytes[2] = (number * 59) & 0xff
  return bytes
}

class Writer {
  readonly #kv: Kv
  #operations: KvOperation[] = []
  written = 0

  constructor(kv: Kv) {
    this.#kv = kv
  }

  put<T>(key: Uint8Array, schema: Schema<T>, value: T): void {
    this.putValue(key, encode(schema, value))
  }

  putValue(key: Uint8Array, value: Uint8Array): void {
    this.#operations.push({ type: 'put', key, value })
  }

  async flushIfFull(): Promise<void> {
    if (this.#operations.length >= batchOperations) await this.flush()
  }

  async flush(): Promise<void> {
    const operations = this.#operations
    this.#operations = []
    this.written += operations.length
    await this.#kv.batch(operations, { sync: false })
  }
}

/** Three storage nodes in three zones. */
export function fillingNodes(): FilledNode[] {
  return [1, 2, 3].map((disk) => {
    const node = { id: `s${disk}`, zone: `z${disk}`, address: `127.0.0.1:${1000 + disk}`, disk }
    return { ...node, incarnation: numberedId(2, disk), diskId: numberedId(1, disk) }
  })
}

function writeNodes(writer: Writer, bytesEach: number): FilledNode[] {
  const nodes = fillingNodes()
  for (const node of nodes) {
    const { disk, incarnation, diskId } = node
    writer.put(keys.node(node.id), nodeRecord, {
      addresses: [node.address],
      zone: node.zone,
      health: 'up',
      mode: 'active',
      incarnation,
      sinceMs: Date.now(),
      disks: [disk],
    })
    const facts = { generation: 1, live: true, reconciled: true, state: 'ok' as const }
    const room = { capacityBytes: 2 * bytesEach + 2 ** 40, usedBytes: bytesEach }
    writer.put(keys.disk(disk), diskRecord, { id: diskId, node: node.id, ...facts, ...room })
    writer.put(keys.diskById(diskId), uint, disk)
  }
  return nodes
}

/** One object of `count` chunks from `first` on, with everything that its commit leaves. */
function writeObject(writer: Writer, bucket: number, number: number, first: number, count: number): void {
  const nowMs = Date.now()
  const commitId = numberedId(3, number)
  const sums = randomFillSync(new Uint8Array(8 * count))
  const page = Array.from({ length: count }, (_, i) => ({
    id: first + i,
    length: chunkBytes,
    root: sums.subarray(8 * i, 8 * i + 8),
  }))
  for (const { id, length, root } of page) {
    const held = { copies, references: 1, pinned: false, commitId, committedMs: nowMs, garbageMs: 0 }
    writer.put(keys.chunk(id), chunkRecord, { length, root, ...held, replicas })
    for (const { disk } of replicas) writer.putValue(keys.diskChunk(disk, id), diskChunkValue)
  }
  const size = count * chunkBytes
  writer.put(keys.page(commitId, 0), pageRecord, page)
  const manifest = { references: 1, pages: 1, chunks: count, size, lease: 0, trashedMs: 0, durable: copies }
  writer.put(keys.manifest(commitId), manifestRecord, { state: 'committed', ...manifest })
  const facts = { size, etag: sums.subarray(0, 8), version: 100, modifiedMs: nowMs, chunks: count, commitId }
  const named = { manifest: commitId, contentType: 'application/octet-stream', metadata: userMetadataOf([]) }
  writer.put(keys.object(bucket, `path/to/some/object-${number}`), objectRecord, { ...named, ...facts })
}

async function fill(kv: Kv, chunks: number): Promise<{ filled: Filled; index: number; writes: number }> {
  const writer = new Writer(kv)
  const before = readApplied(kv)
  const clusterValue = kv.getSync(keys.cluster())
  if (clusterValue === undefined) throw new Error('the cluster to be filled was never founded')
  const cluster = decode(clusterRecord, clusterValue)
  const firstChunk = Math.ceil(cluster.nextChunk / leaseSpan) * leaseSpan
  const nodes = writeNodes(writer, chunks * chunkBytes)
  const objects = Math.ceil(chunks / chunksEach)
  for (let number = 0; number < objects; number++) {
    const from = number * chunksEach
    writeObject(writer, cluster.nextBucket, number, firstChunk + from, Math.min(chunksEach, chunks - from))
    await writer.flushIfFull()
  }
  const bytes = chunks * chunkBytes
  const bucket = { number: cluster.nextBucket, createdMs: Date.now(), commitId: numberedId(4, 1), objects, bytes }
  writer.put(keys.bucket(filledBucket), bucketRecord, { ...bucket, bytesMax: 0, objectsMax: 0 })
  writer.put(keys.cluster(), clusterRecord, {
    ...cluster,
    nextChunk: Math.ceil((firstChunk + chunks) / leaseSpan) * leaseSpan,
    nextDisk: copies + 1,
    nextBucket: cluster.nextBucket + 1,
    buckets: cluster.buckets + 1,
  })
  const index = before.index + objects
  writer.put(keys.applied(), appliedRecord, {
    ...before,
    index,
    objects: before.objects + objects,
    bytes: before.bytes + bytes,
    chunks: before.chunks + chunks,
  })
  await writer.flush()
  await kv.flush()
  return { filled: { clusterId: cluster.clusterId, firstChunk, chunks, nodes }, index, writes: writer.written }
}

/** Makes the log of the node in `directory` begin after `index`. */
async function cutLog(directory: string, index: number): Promise<void> {
  const place = await openPlace(metaStores(directory), logFormats.segments)
  const { store, recovered } = await place.open(0)
  const config = recovered.configs.at(-1) ?? recovered.base.config
  const term = recovered.termRuns.at(-1)?.term ?? recovered.base.term
  await store.finishInstall({ index, term, config }, false)
  await store.close()
}

/** Resolves when the store in `directory` compacts no more: what was written in a minute is not to be paid for in the runs. */
async function settled(directory: string): Promise<void> {
  let last = ''
  for (let unchanged = 0; unchanged < settledLooks; ) {
    await pause(settledMs)
    const now = readdirSync(directory).join()
    unchanged = now === last ? unchanged + 1 : 0
    last = now
  }
}

/** Fills the stopped nodes in `directories`, the members of one founded cluster, with `chunks` chunks of three copies. */
export async function fillState(directories: readonly string[], chunks: number): Promise<Filled & { writes: number }> {
  const first = directories[0] as string
  const kv = await createLevelFactory(first).open(stateName)
  const { filled, index, writes } = await fill(kv, chunks)
  await settled(join(first, stateName))
  await kv.close()
  for (const directory of directories.slice(1)) {
    rmSync(join(directory, stateName), { recursive: true })
    cpSync(join(first, stateName), join(directory, stateName), { recursive: true })
  }
  for (const directory of directories) await cutLog(directory, index)
  return { ...filled, writes }
}
