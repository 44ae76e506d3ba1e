/**
 * Clients by the protocol alone: a small writer and reader that speaks to the metadata service and to storage nodes as any
 * program in another language may (unary calls, its own retries), and records what it saw.
 *
 * Few keys, so that clients meet on them; every put has a value of its own. A commit is repeated under the same commit id
 * until its outcome is known or the patience is over.
 */

import { equalBytes, toHex } from '../base/bytes.ts'
import { chunkRoot, sumBlocks } from '../core/object/sums.ts'
import { isStoreError } from '../model/errors.ts'
import type { holdfast } from '../wire/messages.ts'
import { metaMethods, storageMethods } from '../wire/methods.ts'
import type { SimWorker, WorkloadOptions } from './workload.ts'
import type { WriteRecord } from './history.ts'
import { type Answer, MetaCaller, type MetaCallerOptions } from './meta-caller.ts'
import { simHasher } from './sinks.ts'
import type { Value, ValueChunk } from './values.ts'

const chunkBytes = 1000

export interface ModelClientOptions extends WorkloadOptions, MetaCallerOptions {}

function matches(bytes: Uint8Array, chunk: holdfast.v1.ChunkRef): boolean {
  const root = chunkRoot(bytes.length, sumBlocks(bytes, simHasher.sumInto), simHasher.sumInto)
  return equalBytes(root, chunk.root)
}

/** One such client. */
export class ModelClient implements SimWorker {
  readonly #options: ModelClientOptions
  readonly #meta: MetaCaller
  #lease: { id: number; next: number; end: number } | undefined
  /** Where bytes came from that are not those of the manifest. */
  #wrong: string | undefined
  stopped = false
  /** What did not work beside calls to meta. */
  #trouble: string | undefined
  done = 0

  constructor(options: ModelClientOptions) {
    this.#options = options
    this.#meta = new MetaCaller(options)
  }

  get trouble(): string {
    return this.#trouble ?? this.#meta.trouble
  }

  /** Runs operations one after the other until `stopped`. */
  async run(): Promise<void> {
    while (!this.stopped) {
      const { random } = this.#options
      const key = random.pick(this.#options.keys)
      const dice = random.unit()
      if (dice < 0.5) await this.put(key)
      else if (dice < 0.6) await this.delete(key)
      else if (dice < 0.9) await this.read(key)
      else await this.list()
      await this.#meta.wait(random.between(0, 60))
    }
  }

  /** Makes the bucket of the run; true when it is there. */
  async makeBucket(): Promise<boolean> {
    const request = { name: this.#options.bucket, commitId: toHex(this.#options.random.bytes(16)) }
    const { reply, error } = await this.#meta.ask(metaMethods.createBucket, request, 30_000)
    return reply !== undefined || error?.code === 'ALREADY_EXISTS'
  }

  async #chunkIds(count: number): Promise<{ lease: number; ids: number[] } | undefined> {
    let lease = this.#lease
    if (lease === undefined || lease.next + count > lease.end || this.#options.random.chance(0.03)) {
      if (lease !== undefined && this.#options.random.chance(0.5))
        await this.#meta.ask(metaMethods.releaseLease, { id: lease.id })
      const { reply } = await this.#meta.ask(metaMethods.grantLease, { ttlMs: 20_000 })
      if (reply === undefined) return undefined
      lease = { id: reply.id, next: reply.id, end: reply.id + reply.count }
      this.#lease = lease
    }
    const first = lease.next
    lease.next += count
    return { lease: lease.id, ids: Array.from({ length: count }, (_, i) => first + i) }
  }

  /** Writes chunks to the placed disks; undefined when a chunk did not reach a majority of them. */
  async #writeChunks(value: Value, ids: readonly number[]): Promise<holdfast.v1.ChunkRef.$Properties[] | undefined> {
    const { copies } = this.#options
    if (ids.length === 0) return []
    const { reply } = await this.#meta.ask(metaMethods.place, { chunks: ids.length, copies, chunkBytes })
    if (reply === undefined) return undefined
    const refs: holdfast.v1.ChunkRef.$Properties[] = []
    for (const [i, id] of ids.entries()) {
      const chunk = value.chunks[i] as ValueChunk
      const disks = reply.placements[i]?.disks ?? []
      const replicas: holdfast.v1.Replica.$Properties[] = []
      const copying: number[] = []
      await Promise.all(
        disks.map(async (disk) => {
          const address = reply.disks.find((candidate) => candidate.disk === disk)?.addresses[0]
          const ack = address === undefined ? undefined : await this.#putChunk(address, disk, id, chunk)
          if (ack === undefined) copying.push(disk)
          else replicas.push({ disk: ack.disk, generation: ack.generation })
        }),
      )
      if (replicas.length <= Math.floor(copies / 2)) return undefined
      copying.sort((a, b) => a - b)
      replicas.sort((a, b) => (a.disk ?? 0) - (b.disk ?? 0))
      refs.push({ id, length: chunk.bytes.length, root: chunk.root, replicas, copying })
    }
    return refs
  }

  async #putChunk(
    address: string,
    disk: number,
    id: number,
    { bytes, blockSums, root }: ValueChunk,
  ): Promise<holdfast.v1.PutDone | undefined> {
    const request = {
      begin: { id, length: bytes.length, disk, lease: this.#lease?.id ?? 0, root, blockSums },
      data: bytes,
    }
    try {
      return await this.#options.net.call(address, storageMethods.putChunk, request, { timeoutMs: 800 })
    } catch (thrown) {
      this.#trouble = `put chunk ${id} at ${address}: ${String(thrown)}`
      return undefined
    }
  }

  /** Stores a new value under `key`; true when it was acknowledged. */
  async put(key: string): Promise<boolean> {
    const { random, copies, history, values } = this.#options
    const count = random.below(3)
    const ids = await this.#chunkIds(count)
    const value = values.make(count * chunkBytes, chunkBytes)
    const chunks = ids === undefined ? undefined : await this.#writeChunks(value, ids.ids)
    if (ids === undefined || chunks === undefined) return false
    const { etag } = value
    const { condition, onVersion } = this.#condition(key)
    const write = history.begin({ kind: 'put', key, etag, startMs: this.#options.trueMs(), onVersion })
    const put = {
      bucket: this.#options.bucket,
      key,
      size: value.bytes.length,
      etag,
      chunks,
      copies,
      write: 'quorum',
      condition,
    }
    const request = {
      commitId: toHex(random.bytes(16)),
      lease: chunks.length > 0 ? ids.lease : 0,
      operations: [{ put }],
    }
    const answer = await this.#meta.ask(metaMethods.commit, request)
    this.#settle(write, answer)
    const version = answer.reply?.objects[0]?.version
    if (answer.error?.code === 'FENCED') this.#lease = undefined
    if (version === undefined) return false
    write.version = version
    this.#options.onAcked(key, version, etag)
    this.done++
    return true
  }

  /** Now and then a condition on what this client's own history last saw of the key. */
  #condition(key: string): { condition: holdfast.v1.Condition.$Properties; onVersion: number | undefined } {
    const { random, history } = this.#options
    const dice = random.unit()
    if (dice < 0.7) return { condition: {}, onVersion: undefined }
    if (dice < 0.8) return { condition: { ifAbsent: true }, onVersion: 0 }
    const seen = history.reads.findLast((read) => read.key === key)?.seen
    if (seen === undefined) return { condition: {}, onVersion: undefined }
    return { condition: { ifMatch: random.chance(0.5) ? `v${seen.version}` : seen.etag }, onVersion: seen.version }
  }

  #settle(write: WriteRecord, answer: Answer<unknown>): void {
    if (answer.reply !== undefined) {
      write.outcome = 'acked'
      write.endMs = this.#options.trueMs()
    } else if (!answer.unsure && answer.error?.outcome === 'definite') {
      write.outcome = 'failed'
      write.endMs = this.#options.trueMs()
    }
  }

  async delete(key: string): Promise<void> {
    const { history, random, bucket } = this.#options
    const write = history.begin({ kind: 'delete', key, etag: '', startMs: this.#options.trueMs() })
    const request = { commitId: toHex(random.bytes(16)), lease: 0, operations: [{ delete: { bucket, key } }] }
    const answer = await this.#meta.ask(metaMethods.commit, request)
    this.#settle(write, answer)
    write.version = answer.reply?.objects[0]?.version ?? 0
    if (answer.reply !== undefined) this.done++
  }

  /** Reads the record and the first copy that answers of each chunk; true when all of it was there. */
  async read(key: string): Promise<boolean> {
    // Now and then whoever is there is asked, so that one who no longer leads gets the chance to be wrong.
    if (this.#options.random.chance(0.4)) this.#meta.wander()
    this.#trouble = undefined
    const startMs = this.#options.trueMs()
    const request = { bucket: this.#options.bucket, key, withChunks: true }
    const { reply, error } = await this.#meta.ask(metaMethods.openObject, request)
    const endMs = this.#options.trueMs()
    if (error?.code === 'NOT_FOUND') {
      this.#options.history.reads.push({ key, startMs, endMs, seen: undefined })
      return true
    }
    const object = reply?.object
    if (!object) {
      this.#trouble = `read ${key}: ${error?.message ?? 'no object'}`
      return false
    }
    const seen = { etag: object.etag, version: object.version }
    this.#options.history.reads.push({ key, startMs, endMs, seen })
    this.done++
    for (const chunk of reply?.first?.chunks ?? []) {
      if (!(await this.#readChunk(chunk, reply?.first?.disks ?? []))) return false
      if (this.#wrong !== undefined) throw new Error(`read ${key}: other bytes than were stored, of ${this.#wrong}`)
    }
    return true
  }

  async #readChunk(chunk: holdfast.v1.ChunkRef, disks: readonly holdfast.v1.DiskAddress[]): Promise<boolean> {
    for (const replica of chunk.replicas) {
      const address = disks.find((disk) => disk.disk === replica.disk)?.addresses[0]
      if (address === undefined || replica.state === 'stale' || replica.state === 'lost') continue
      const request = { id: chunk.id, offset: 0, length: 0, disk: replica.disk }
      try {
        const reply = await this.#options.net.call(address, storageMethods.getChunk, request, { timeoutMs: 800 })
        // The model of a storage node keeps no bytes.
        if (reply.data.length > 0 && !matches(reply.data, chunk)) this.#wrong = `chunk ${chunk.id} from ${address}`
        if (equalBytes(reply.begin?.root ?? new Uint8Array(0), chunk.root)) return true
      } catch (thrown) {
        const code = isStoreError(thrown) ? thrown.code : 'UNAVAILABLE'
        this.#trouble = `get chunk ${chunk.id} of disk ${replica.disk} at ${address}: ${String(thrown)}`
        if (code === 'NOT_FOUND' || code === 'CORRUPT') {
          await this.#meta.ask(metaMethods.reportReplica, { chunk: chunk.id, disk: replica.disk, code }, 1000)
        }
      }
    }
    return false
  }

  /** One page of the bucket: a read of every key at once. */
  async list(): Promise<void> {
    const startMs = this.#options.trueMs()
    const { reply } = await this.#meta.ask(metaMethods.listObjects, { bucket: this.#options.bucket, limit: 1000 })
    if (reply === undefined) return
    const late = reply.entries.find((entry) => entry.version > reply.index)
    if (late !== undefined) throw new Error(`list at ${reply.index} shows version ${late.version}`)
    const seen = new Map(reply.entries.map(({ key, etag, version }) => [key, { etag, version }]))
    this.#options.history.list(startMs, this.#options.trueMs(), this.#options.keys, seen)
    this.done++
  }

  async status(): Promise<holdfast.v1.StatusReply | undefined> {
    return (await this.#meta.ask(metaMethods.status, {}, 2000)).reply
  }
}
