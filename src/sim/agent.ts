/**
 * The model of a storage node: a small and honest one that speaks the real protocol with meta and with clients.
 *
 * It keeps chunk ids and roots instead of bytes. What it acknowledged survives a crash, what was being written may or
 * may not; a deleted chunk stays deleted. It refuses writes when it has not heard from meta for a while, refuses orders
 * of older terms and deletes of another generation, pulls copies from its peers and tells what it finds corrupt.
 */

import { equalBytes, toHex } from '../base/bytes.ts'
import { isStoreError, StoreError } from '../model/errors.ts'
import type { ChunkId } from '../model/ids.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Duplex, NetClient, NetServer } from '../ports/net.ts'
import type { holdfast } from '../wire/messages.ts'
import { nodeMethods, storageMethods } from '../wire/methods.ts'
import type { ReplicaDisk } from './context.ts'
import type { Seeded } from './seed.ts'

type Order = holdfast.v1.MetaOrder
type UpStream = Duplex<holdfast.v1.NodeMessage.$Properties, Order>

interface HeldChunk {
  readonly length: number
  readonly root: Uint8Array
  /** Its bytes rotted on the disk; nobody knows yet. */
  rotten: boolean
  /** Found rotten and no longer served. */
  quarantined: boolean
}

/** One simulated disk: what survives its node's crashes. */
export class AgentDisk implements ReplicaDisk {
  id: string
  readonly chunks = new Map<ChunkId, HeldChunk>()
  /** Being written: on disk or not after a crash. */
  readonly writing = new Map<ChunkId, HeldChunk>()
  readonly #ever = new Set<ChunkId>()
  number = 0
  generation = 0

  constructor(id: string) {
    this.id = id
  }

  crash(random: Seeded): void {
    for (const [id, chunk] of this.writing) if (random.chance(0.5)) this.keep(id, chunk)
    this.writing.clear()
    this.generation = 0
    this.number = 0
  }

  /** The chunk is on disk, and is acknowledged with that. */
  keep(id: ChunkId, chunk: HeldChunk): void {
    this.chunks.set(id, chunk)
    this.#ever.add(id)
  }

  everHad(id: ChunkId): boolean {
    return this.#ever.has(id)
  }

  /** Another, empty disk is in its place. */
  replace(id: string): void {
    this.id = id
    this.chunks.clear()
    this.writing.clear()
  }

  intact(id: ChunkId): boolean {
    const chunk = this.chunks.get(id)
    return chunk !== undefined && !chunk.rotten && !chunk.quarantined
  }

  intactIds(): ChunkId[] {
    return [...this.chunks.keys()].filter((id) => this.intact(id)).sort((a, b) => a - b)
  }

  rot(id: ChunkId): boolean {
    const chunk = this.chunks.get(id)
    if (chunk === undefined) return false
    chunk.rotten = true
    return true
  }
}

export interface AgentOptions {
  readonly id: string
  readonly zone: string
  readonly address: string
  readonly meta: readonly string[]
  readonly disks: readonly AgentDisk[]
  readonly heartbeatMs: number
  readonly metaSilenceMs: number
  /** How long an fsync takes. */
  readonly syncMs: number
  readonly clock: Clock
  readonly net: NetClient
  readonly random: Seeded
  /** Cluster id on its disks and the highest term seen; outlives the process. */
  readonly memory: { clusterId: string; termSeen: number }
  /** A replica is gone from a disk by order. */
  readonly onDeleted: (disk: AgentDisk, id: ChunkId) => void
}

function refusal(code: 'UNAVAILABLE' | 'NOT_FOUND' | 'CONFLICT' | 'CORRUPT', message: string): StoreError {
  return new StoreError(code, message, { outcome: 'definite' })
}

/** One run of a simulated storage node, from start to crash. */
export class Agent {
  readonly #options: AgentOptions
  readonly #incarnation: string
  #stream: UpStream | undefined
  #registered = false
  #heartbeat: Timer | undefined
  #lastBeatMs = Number.NEGATIVE_INFINITY
  #sequence = 0
  #nextMeta: string
  /** Findings not yet acknowledged, with the first heartbeat that carried them. */
  #corrupt: { chunk: ChunkId; disk: number; finding: string; sequence: number }[] = []

  constructor(options: AgentOptions) {
    this.#options = options
    this.#incarnation = toHex(options.random.bytes(16))
    this.#nextMeta = options.random.pick(options.meta)
  }

  bind(server: NetServer): void {
    server.unary(storageMethods.putChunk, async (request) => await this.#put(request))
    server.unary(storageMethods.getChunk, async (request) => this.#get(request))
  }

  start(): void {
    this.#attach()
  }

  #wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(delayMs, resolve)
    })
  }

  #diskOf(number: number): AgentDisk {
    const disk = this.#options.disks.find((candidate) => candidate.number === number)
    if (disk === undefined || number === 0) throw refusal('NOT_FOUND', `disk ${number} is not on ${this.#options.id}`)
    return disk
  }

  async #put(request: holdfast.v1.PutChunkRequest): Promise<holdfast.v1.PutDone.$Properties> {
    const { begin } = request
    if (begin === undefined || begin === null) throw new StoreError('INVALID_ARGUMENT', 'put without begin')
    const disk = this.#diskOf(begin.disk)
    if (!this.#registered || this.#options.clock.monotonicMs() - this.#lastBeatMs > this.#options.metaSilenceMs) {
      throw refusal('UNAVAILABLE', `${this.#options.id} has not heard from meta: try another node`)
    }
    await this.#store(
      disk,
      begin.id,
      { length: begin.length, root: begin.root.slice(), rotten: false, quarantined: false },
      false,
    )
    // The generation may have gone with a new registration meanwhile: an acknowledgement is of the one in force now.
    return { id: begin.id, disk: disk.number, generation: disk.generation, root: begin.root }
  }

  async #store(disk: AgentDisk, id: ChunkId, chunk: HeldChunk, replace: boolean): Promise<void> {
    const held = disk.chunks.get(id) ?? disk.writing.get(id)
    if (held !== undefined && !replace) {
      if (!equalBytes(held.root, chunk.root)) throw refusal('CONFLICT', `chunk ${id} is held with another root`)
      if (disk.chunks.has(id) && !held.quarantined) return
    }
    disk.writing.set(id, chunk)
    await this.#wait(this.#options.random.between(0.3, 2) * this.#options.syncMs)
    disk.writing.delete(id)
    disk.keep(id, chunk)
  }

  #get(request: holdfast.v1.Get): holdfast.v1.GetChunkReply.$Properties {
    const disk = this.#diskOf(request.disk)
    const chunk = disk.chunks.get(request.id)
    if (chunk?.rotten === true && !chunk.quarantined) this.#quarantine(disk, request.id, chunk)
    if (chunk === undefined || chunk.quarantined) {
      throw refusal('NOT_FOUND', `chunk ${request.id} is not on disk ${request.disk} of ${this.#options.id}`)
    }
    return { begin: { length: chunk.length, root: chunk.root, offset: 0, bytes: 0 } }
  }

  #quarantine(disk: AgentDisk, id: ChunkId, chunk: HeldChunk): void {
    if (chunk.quarantined) return
    chunk.quarantined = true
    this.#corrupt.push({ chunk: id, disk: disk.number, finding: 'block 0 does not match its sum', sequence: 0 })
  }

  #attach(): void {
    const address = this.#nextMeta
    const stream: UpStream = this.#options.net.open(address, nodeMethods.attach)
    this.#stream = stream
    stream.onMessage((order) => {
      if (this.#stream === stream) this.#order(stream, order)
    })
    stream.onEnd(() => stream.end())
    stream.onClose((error) => {
      if (this.#stream === stream) this.#detached(error)
    })
    stream.send({
      register: {
        node: this.#options.id,
        clusterId: this.#options.memory.clusterId,
        addresses: [this.#options.address],
        zone: this.#options.zone,
        incarnation: this.#incarnation,
        disks: this.#reports(),
        termSeen: this.#options.memory.termSeen,
        versionMax: 2,
      },
    })
    // An attach that nobody answers is given up.
    this.#options.clock.after(2000, () => {
      if (this.#stream === stream && !this.#registered) stream.destroy()
    })
  }

  #detached(error: StoreError | undefined): void {
    this.#stream = undefined
    this.#registered = false
    this.#heartbeat?.cancel()
    const hint = error?.details.leader?.[0]
    this.#nextMeta = hint ?? this.#options.random.pick(this.#options.meta)
    this.#options.clock.after(this.#options.random.between(20, 300), () => this.#attach())
  }

  #reports(): holdfast.v1.DiskReport.$Properties[] {
    return this.#options.disks.map((disk) => ({
      id: disk.id,
      state: 'ok',
      capacityBytes: 1e12,
      usedBytes: disk.chunks.size * 1e6,
      freeForNewBytes: 9e11,
      chunks: disk.chunks.size,
      chunkIdMax: Math.max(0, ...disk.chunks.keys()),
      clean: false,
      rebuilt: false,
    }))
  }

  #beat(stream: UpStream): void {
    if (this.#stream !== stream) return
    const sequence = ++this.#sequence
    for (const finding of this.#corrupt) if (finding.sequence === 0) finding.sequence = sequence
    stream.send({
      heartbeat: {
        sequence,
        disks: this.#reports(),
        inflightBytes: 0,
        corrupt: this.#corrupt.map(({ chunk, disk, finding }) => ({ chunk, disk, finding })),
      },
    })
    this.#heartbeat = this.#options.clock.after(this.#options.heartbeatMs, () => this.#beat(stream))
  }

  #order(stream: UpStream, order: Order): void {
    const { memory } = this.#options
    if (order.term < memory.termSeen) {
      if (order.order > 0)
        stream.send({ result: { order: order.order, code: 'FENCED', message: 'order of an older term' } })
      return
    }
    memory.termSeen = order.term
    if (order.registered !== undefined && order.registered !== null) {
      this.#registeredWith(order.registered)
      this.#beat(stream)
      return
    }
    if (order.beat !== undefined && order.beat !== null) {
      const { sequence } = order.beat
      this.#lastBeatMs = this.#options.clock.monotonicMs()
      this.#corrupt = this.#corrupt.filter((finding) => finding.sequence === 0 || finding.sequence > sequence)
      return
    }
    this.#carryOut(stream, order).then(
      (result) => {
        if (result !== undefined) stream.send({ result: { order: order.order, ...result } })
      },
      (thrown: unknown) => {
        const error = isStoreError(thrown) ? thrown : new StoreError('INTERNAL', String(thrown))
        stream.send({ result: { order: order.order, code: error.code, message: error.message } })
      },
    )
  }

  #registeredWith(registered: holdfast.v1.Registered): void {
    this.#registered = true
    this.#lastBeatMs = this.#options.clock.monotonicMs()
    this.#options.memory.clusterId = registered.clusterId
    for (const grant of registered.disks) {
      const disk = this.#options.disks.find((candidate) => candidate.id === grant.id)
      if (disk === undefined) continue
      disk.number = grant.number
      disk.generation = grant.generation
    }
  }

  /** The result to send; undefined when the answer went out another way. */
  async #carryOut(stream: UpStream, order: Order): Promise<holdfast.v1.OrderResult.$Properties | undefined> {
    const { reportRange, check, copy, verify } = order
    if (reportRange) {
      this.#report(stream, order.order, reportRange)
      return undefined
    }
    if (check) {
      const disk = this.#diskOf(check.disk)
      const ids = check.ids.filter(
        (id) => disk.chunks.get(id) === undefined || disk.chunks.get(id)?.quarantined === true,
      )
      return { generation: disk.generation, ids }
    }
    if (copy) return await this.#copy(copy)
    if (verify) {
      const disk = this.#diskOf(verify.disk)
      await this.#wait(this.#options.syncMs)
      for (const id of verify.ids) {
        const chunk = disk.chunks.get(id)
        if (chunk?.rotten === true) this.#quarantine(disk, id, chunk)
      }
      return { generation: disk.generation, ids: verify.ids.filter((id) => !disk.intact(id)) }
    }
    if (order.delete) return await this.#delete(order.delete)
    throw new StoreError('INVALID_ARGUMENT', 'an order without a body')
  }

  #report(stream: UpStream, order: number, range: holdfast.v1.ReportRange): void {
    const disk = this.#diskOf(range.disk)
    const ids = [...disk.chunks.keys()].filter((id) => id >= range.from && id < range.to).sort((a, b) => a - b)
    const page = 1 + this.#options.random.below(64)
    for (let at = 0; at <= ids.length; at += page) {
      const last = at + page >= ids.length
      const shown = ids.slice(at, at + page)
      const until = last ? range.to : (shown.at(-1) as number) + 1
      stream.send({ report: { order, disk: range.disk, ids: shown, until } })
      if (last) break
    }
  }

  async #copy(copy: holdfast.v1.Copy): Promise<holdfast.v1.OrderResult.$Properties> {
    const disk = this.#diskOf(copy.disk)
    let failure: unknown = refusal('NOT_FOUND', 'no source was named')
    for (const source of copy.sources) {
      const address = source.addresses[0]
      if (address === undefined) continue
      try {
        const reply = await this.#options.net.call(
          address,
          storageMethods.getChunk,
          { id: copy.chunk, offset: 0, length: 0, disk: source.disk },
          { timeoutMs: 1000 },
        )
        const root = reply.begin?.root ?? new Uint8Array(0)
        if (!equalBytes(root, copy.root)) throw refusal('CORRUPT', 'the source has another root')
        const chunk = { length: copy.length, root: root.slice(), rotten: false, quarantined: false }
        await this.#store(disk, copy.chunk, chunk, copy.replace)
        return { generation: disk.generation, bytes: copy.length }
      } catch (thrown) {
        failure = thrown
      }
    }
    throw failure
  }

  async #delete(order: holdfast.v1.Delete): Promise<holdfast.v1.OrderResult.$Properties> {
    const disk = this.#diskOf(order.disk)
    if (order.generation !== disk.generation)
      throw new StoreError('FENCED', 'delete for another generation of the disk')
    await this.#wait(this.#options.syncMs)
    for (const id of order.ids) {
      if (!disk.chunks.delete(id)) continue
      this.#options.onDeleted(disk, id)
    }
    return { generation: disk.generation }
  }
}
