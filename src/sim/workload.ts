/**
 * Simulated clients: a small writer and reader that speaks to the metadata service and to the simulated storage nodes
 * as any client of the protocol may, and records what it saw.
 *
 * Few keys, so that clients meet on them; every put has a value of its own. A commit is repeated under the same commit id
 * until its outcome is known or the patience is over.
 */

import { toHex } from '../base/bytes.ts'
import { isStoreError, StoreError } from '../model/errors.ts'
import type { Clock } from '../ports/clock.ts'
import type { Method, NetClient } from '../ports/net.ts'
import type { holdfast } from '../wire/messages.ts'
import { metaMethods, storageMethods } from '../wire/methods.ts'
import type { History, WriteRecord } from './history.ts'
import type { Seeded } from './seed.ts'

export const simBucket = 'bucket'
const chunkBytes = 1000

/** A chunk of an acknowledged object, for the check that it never loses its last copy. */
export interface ChunkFact {
  readonly id: number
  readonly root: string
}

export interface WorkloadOptions {
  readonly clock: Clock
  readonly net: NetClient
  readonly random: Seeded
  readonly meta: readonly string[]
  readonly history: History
  readonly keys: readonly string[]
  readonly copies: number
  /** Virtual time without any process's skew. */
  readonly trueMs: () => number
  readonly onAcked: (key: string, version: number, chunks: readonly ChunkFact[]) => void
}

interface Answer<T> {
  readonly reply: T | undefined
  readonly error: StoreError | undefined
  /** Some attempt may have been carried out although no answer came. */
  readonly unsure: boolean
}

/** One simulated client. */
export class SimClient {
  readonly #options: WorkloadOptions
  #leader: string
  #lease: { id: number; next: number; end: number } | undefined
  stopped = false
  /** The last thing that did not work, for the trace. */
  trouble = ''
  /** Operations that ended well. */
  done = 0

  constructor(options: WorkloadOptions) {
    this.#options = options
    this.#leader = options.random.pick(options.meta)
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
      await this.#wait(random.between(0, 60))
    }
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(delayMs, resolve)
    })
  }

  /** Asks meta, going where it points, for at most `patienceMs`. */
  async #ask<QIn, RIn, QOut, ROut>(
    method: Method<QIn, RIn, QOut, ROut>,
    request: QOut,
    patienceMs = 6000,
  ): Promise<Answer<RIn>> {
    const { clock, random, meta } = this.#options
    const endMs = clock.monotonicMs() + patienceMs
    let unsure = false
    for (;;) {
      try {
        const reply = await this.#options.net.call(this.#leader, method, request, { timeoutMs: 1500 })
        return { reply, error: undefined, unsure }
      } catch (thrown) {
        const error = isStoreError(thrown) ? thrown : new StoreError('INTERNAL', String(thrown))
        if (error.outcome === 'unknown') unsure = true
        this.trouble = `${method.path} at ${this.#leader}: ${error.code} ${error.message}`
        const hint = error.details.leader?.[0]
        this.#leader = hint ?? random.pick(meta)
        if (!error.retryable || clock.monotonicMs() > endMs) return { reply: undefined, error, unsure }
        await this.#wait(hint === undefined ? random.between(20, 200) : 1)
      }
    }
  }

  /** Makes the bucket of the run; true when it is there. */
  async makeBucket(): Promise<boolean> {
    const request = { name: simBucket, commitId: toHex(this.#options.random.bytes(16)) }
    const { reply, error } = await this.#ask(metaMethods.createBucket, request, 30_000)
    return reply !== undefined || error?.code === 'ALREADY_EXISTS'
  }

  async #chunkIds(count: number): Promise<{ lease: number; ids: number[] } | undefined> {
    let lease = this.#lease
    if (lease === undefined || lease.next + count > lease.end || this.#options.random.chance(0.03)) {
      if (lease !== undefined && this.#options.random.chance(0.5))
        await this.#ask(metaMethods.releaseLease, { id: lease.id })
      const { reply } = await this.#ask(metaMethods.grantLease, { ttlMs: 20_000 })
      if (reply === undefined) return undefined
      lease = { id: reply.id, next: reply.id, end: reply.id + reply.count }
      this.#lease = lease
    }
    const first = lease.next
    lease.next += count
    return { lease: lease.id, ids: Array.from({ length: count }, (_, i) => first + i) }
  }

  /** Writes chunks to the placed disks; undefined when a chunk did not reach a majority of them. */
  async #writeChunks(ids: readonly number[]): Promise<holdfast.v1.ChunkRef.$Properties[] | undefined> {
    const { copies } = this.#options
    if (ids.length === 0) return []
    const { reply } = await this.#ask(metaMethods.place, { chunks: ids.length, copies, chunkBytes })
    if (reply === undefined) return undefined
    const refs: holdfast.v1.ChunkRef.$Properties[] = []
    for (const [i, id] of ids.entries()) {
      const root = this.#options.random.bytes(8)
      const disks = reply.placements[i]?.disks ?? []
      const replicas: holdfast.v1.Replica.$Properties[] = []
      const copying: number[] = []
      await Promise.all(
        disks.map(async (disk) => {
          const address = reply.disks.find((candidate) => candidate.disk === disk)?.addresses[0]
          const ack = address === undefined ? undefined : await this.#putChunk(address, disk, id, root)
          if (ack === undefined) copying.push(disk)
          else replicas.push({ disk: ack.disk, generation: ack.generation })
        }),
      )
      if (replicas.length <= Math.floor(copies / 2)) return undefined
      copying.sort((a, b) => a - b)
      replicas.sort((a, b) => (a.disk ?? 0) - (b.disk ?? 0))
      refs.push({ id, length: chunkBytes, root, replicas, copying })
    }
    return refs
  }

  async #putChunk(
    address: string,
    disk: number,
    id: number,
    root: Uint8Array,
  ): Promise<holdfast.v1.PutDone | undefined> {
    const request = {
      begin: { id, length: chunkBytes, disk, lease: this.#lease?.id ?? 0, root },
      data: new Uint8Array(0),
    }
    try {
      return await this.#options.net.call(address, storageMethods.putChunk, request, { timeoutMs: 800 })
    } catch (thrown) {
      this.trouble = `put chunk ${id} at ${address}: ${String(thrown)}`
      return undefined
    }
  }

  /** Stores a new value under `key`; true when it was acknowledged. */
  async put(key: string): Promise<boolean> {
    const { random, copies } = this.#options
    const ids = await this.#chunkIds(random.below(3))
    const chunks = ids === undefined ? undefined : await this.#writeChunks(ids.ids)
    if (ids === undefined || chunks === undefined) return false
    const etag = toHex(random.bytes(8))
    const { condition, onVersion } = this.#condition(key)
    const startMs = this.#options.trueMs()
    const write: WriteRecord = {
      kind: 'put',
      key,
      etag,
      startMs,
      endMs: Number.POSITIVE_INFINITY,
      outcome: 'unknown',
      version: 0,
      onVersion,
    }
    this.#options.history.writes.push(write)
    const put = {
      bucket: simBucket,
      key,
      size: chunks.length * chunkBytes,
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
    const answer = await this.#ask(metaMethods.commit, request)
    this.#settle(write, answer)
    const version = answer.reply?.objects[0]?.version
    if (answer.error?.code === 'FENCED') this.#lease = undefined
    if (version === undefined) return false
    write.version = version
    this.#options.onAcked(
      key,
      version,
      chunks.map((chunk) => ({ id: chunk.id ?? 0, root: toHex(chunk.root ?? new Uint8Array(0)) })),
    )
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
    const { history, random } = this.#options
    const write: WriteRecord = {
      kind: 'delete',
      key,
      etag: '',
      startMs: this.#options.trueMs(),
      endMs: Number.POSITIVE_INFINITY,
      outcome: 'unknown',
      version: 0,
    }
    history.writes.push(write)
    const request = {
      commitId: toHex(random.bytes(16)),
      lease: 0,
      operations: [{ delete: { bucket: simBucket, key } }],
    }
    const answer = await this.#ask(metaMethods.commit, request)
    this.#settle(write, answer)
    write.version = answer.reply?.objects[0]?.version ?? 0
    if (answer.reply !== undefined) this.done++
  }

  /** Reads the record and the first copy that answers of each chunk; true when all of it was there. */
  async read(key: string): Promise<boolean> {
    // Now and then whoever is there is asked, so that one who no longer leads gets the chance to be wrong.
    if (this.#options.random.chance(0.4)) this.#leader = this.#options.random.pick(this.#options.meta)
    const startMs = this.#options.trueMs()
    const request = { bucket: simBucket, key, withChunks: true }
    const { reply, error } = await this.#ask(metaMethods.openObject, request)
    const endMs = this.#options.trueMs()
    if (error?.code === 'NOT_FOUND') {
      this.#options.history.reads.push({ key, startMs, endMs, seen: undefined })
      return true
    }
    const object = reply?.object
    if (!object) return false
    const seen = { etag: object.etag, version: object.version }
    this.#options.history.reads.push({ key, startMs, endMs, seen })
    this.done++
    for (const chunk of reply?.first?.chunks ?? []) {
      if (!(await this.#readChunk(chunk, reply?.first?.disks ?? []))) return false
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
        if (toHex(reply.begin?.root ?? new Uint8Array(0)) === toHex(chunk.root)) return true
      } catch (thrown) {
        const code = isStoreError(thrown) ? thrown.code : 'UNAVAILABLE'
        this.trouble = `get chunk ${chunk.id} of disk ${replica.disk} at ${address}: ${String(thrown)}`
        if (code === 'NOT_FOUND' || code === 'CORRUPT') {
          await this.#ask(metaMethods.reportReplica, { chunk: chunk.id, disk: replica.disk, code }, 1000)
        }
      }
    }
    return false
  }

  /** One page of the bucket: a read of every key at once. */
  async list(): Promise<void> {
    const startMs = this.#options.trueMs()
    const { reply } = await this.#ask(metaMethods.listObjects, { bucket: simBucket, limit: 1000 })
    if (reply === undefined) return
    const endMs = this.#options.trueMs()
    for (const key of this.#options.keys) {
      const entry = reply.entries.find((candidate) => candidate.key === key)
      const seen = entry === undefined ? undefined : { etag: entry.etag, version: entry.version }
      if (seen !== undefined && seen.version > reply.index)
        throw new Error(`list at ${reply.index} shows version ${seen.version}`)
      this.#options.history.reads.push({ key, startMs, endMs, seen })
    }
    this.done++
  }

  async status(): Promise<holdfast.v1.StatusReply | undefined> {
    return (await this.#ask(metaMethods.status, {}, 2000)).reply
  }
}
