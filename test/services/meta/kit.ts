/**
 * The Meta service alone: the real state machine over a store in memory, a replicator that applies at once, controllers
 * that know every disk as up, and a network that is two function calls but encodes every message.
 */

import type { Command } from '../../../src/core/meta/commands.ts'
import { encodeCommand } from '../../../src/core/meta/commands.ts'
import { StoreError } from '../../../src/model/errors.ts'
import type { ReplicaState } from '../../../src/model/words.ts'
import type { Log } from '../../../src/ports/log.ts'
import type { CallContext, Duplex, Method, NetServer } from '../../../src/ports/net.ts'
import { type ControlView, createCalls } from '../../../src/services/meta/handlers.ts'
import { createMachine, type MetaMachine } from '../../../src/services/meta/machine.ts'
import type { MetaStores } from '../../../src/services/meta/raft-host.ts'
import { type MetaService, serveMeta } from '../../../src/services/meta/serve.ts'
import type { AppliedReply, ReplicatorStatus } from '../../../src/services/meta/types.ts'
import { metaMethods } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { FaultPlan } from '../../support/fault-plan.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { MemoryFiles } from '../../support/memory-extents.ts'
import { MemoryKvFactory } from '../../support/memory-kv.ts'

type Without<T> = T extends unknown ? Omit<T, 'nowMs'> : never

/** 32 hex digits from a small number. */
export function id(number: number): string {
  return number.toString(16).padStart(32, '0')
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  with: () => silentLog,
}

/** The two stores of a meta node in memory. */
export function memoryStores() {
  const faults = new FaultPlan()
  return { files: new MemoryFiles(faults), kv: new MemoryKvFactory(faults), faults }
}

/** A machine that is open. */
export async function openMachine(stores: MetaStores): Promise<MetaMachine> {
  const machine = createMachine(stores)
  await machine.open()
  return machine
}

/** Applies commands to a machine one by one, as its replicator would. */
export class LocalLog {
  index = 0
  readonly #machine: MetaMachine

  constructor(machine: MetaMachine) {
    this.#machine = machine
  }

  #last: Promise<unknown> = Promise.resolve()

  payload(payload: Uint8Array): Promise<AppliedReply> {
    const done = this.#last.then(() => this.#apply(payload))
    this.#last = done.catch(() => undefined)
    return done
  }

  async #apply(payload: Uint8Array): Promise<AppliedReply> {
    const [reply] = await this.#machine.apply([{ index: ++this.index, term: 1, payload }])
    if (reply === undefined) throw new Error('no reply')
    return reply
  }

  command(body: Without<Command>, nowMs = 1_000_000): Promise<AppliedReply> {
    return this.payload(encodeCommand({ ...body, nowMs } as Command))
  }
}

class FakeControl implements ControlView {
  readonly states = new Map<number, ReplicaState>()
  reported: unknown[] = []
  verdict = 'healthy'
  leading = true
  versions = [{ id: 'n1', versionMax: 2 }]
  held = 0

  leads(): boolean {
    return this.leading
  }

  storageVersions(): { id: string; versionMax: number }[] {
    return this.versions
  }

  heldBack(): number {
    return this.held
  }

  ready(): Promise<void> {
    return Promise.resolve()
  }

  place(request: holdfast.v1.PlaceRequest): holdfast.v1.PlaceReply.$Properties {
    const disks = Array.from({ length: request.copies }, (_, i) => i + 1)
    return { placements: Array.from({ length: request.chunks }, () => ({ disks })), disks: this.diskAddresses(disks) }
  }

  diskAddresses(disks: Iterable<number>): holdfast.v1.DiskAddress.$Properties[] {
    return [...disks].map((disk) => ({
      disk,
      node: `n${disk}`,
      addresses: [`n${disk}:1`],
      health: 'up',
      generation: 1,
    }))
  }

  replicaState(disk: number, stored: string): ReplicaState {
    return this.states.get(disk) ?? (stored === 'missing' ? 'lost' : (stored as ReplicaState))
  }

  reportReplica(request: holdfast.v1.ReportReplicaRequest): Promise<void> {
    this.reported.push(request)
    return Promise.resolve()
  }

  readonly directed: string[] = []

  scrubStatus() {
    return Promise.resolve({ found: 3 })
  }

  directScrub(action: string, node: string) {
    this.directed.push(`${action} ${node}`)
    return Promise.resolve({ disks: 1, refused: [] })
  }

  status() {
    return Promise.resolve({ verdict: this.verdict, summary: 'all is well', codes: [], canLose: 1, nodes: [] })
  }
}

type Handler = (request: unknown, context: CallContext) => Promise<unknown>
type StreamHandler = (stream: Duplex<unknown, unknown>, context: CallContext) => void

export class MetaKit implements NetServer {
  readonly clock = new ManualClock()
  readonly machine: MetaMachine
  readonly log: LocalLog
  readonly control = new FakeControl()
  readonly service: MetaService
  /** Newest versions that the meta nodes support. */
  readonly peerVersions = { m1: 2, m2: 2, m3: 2 }
  lowSpace = false
  incarnation = 1
  /** Changes of members that were asked for. */
  readonly changes: string[] = []
  leaderAddresses: string[] = ['m1:7400']
  barriers = 0
  /** While set, proposals wait for it. */
  hold: Promise<void> | undefined
  readonly #unary = new Map<string, Handler>()
  readonly #streams = new Map<string, StreamHandler>()
  readonly #context: CallContext = { signal: new AbortController().signal, peer: 'test' }

  private constructor(machine: MetaMachine) {
    this.machine = machine
    this.log = new LocalLog(machine)
    const metrics = { count: () => undefined, gauge: () => undefined, observe: () => undefined }
    const env = { clock: this.clock, metrics, log: silentLog }
    const replicator = {
      propose: async (payload: Uint8Array) => {
        await this.hold
        return (await this.log.payload(payload)).reply
      },
      barrier: async () => {
        this.barriers++
        await this.catchUp?.()
        return this.follows || this.role === 'leader'
          ? Promise.resolve()
          : Promise.reject(new StoreError('NOT_LEADER', 'no'))
      },
      status: () => this.status(),
      lowSpace: () => this.lowSpace,
      clusterIncarnation: () => this.incarnation,
      addMember: async (node: string, address: string) => {
        this.changes.push(`add ${node} ${address}`)
        await this.hold
        return true
      },
      removeMember: async (node: string) => {
        this.changes.push(`remove ${node}`)
      },
      transfer: async (to: string | undefined) => {
        this.changes.push(`transfer ${to ?? ''}`)
        return to ?? 'm2'
      },
    }
    const calls = createCalls({ env, machine, replicator, control: this.control })
    this.service = serveMeta(this, calls, env, () => id(0xc1))
  }

  get role(): ReplicatorStatus['role'] {
    return this.control.leading ? 'leader' : 'follower'
  }

  set role(role: ReplicatorStatus['role']) {
    this.control.leading = role === 'leader'
  }

  /** What a barrier brings. */
  catchUp: (() => Promise<void>) | undefined
  /** True: a barrier works although this node does not lead. */
  follows = false

  /** A founded cluster with four disks and bucket `photos`. */
  static async open(version = 1, stores: MetaStores = memoryStores()): Promise<MetaKit> {
    const machine = createMachine(stores)
    await machine.open()
    const kit = new MetaKit(machine)
    await kit.log.command({ kind: 'found', clusterId: id(0xc1), version })
    for (let i = 1; i <= 4; i++) {
      const disks = [{ id: id(0xd0 + i), state: 'ok' as const, capacityBytes: 100, usedBytes: 1 }]
      await kit.log.command({
        kind: 'registerNode',
        node: `n${i}`,
        addresses: [],
        zone: 'z1',
        incarnation: id(1),
        disks,
      })
    }
    await kit.log.command({ kind: 'createBucket', name: 'photos', commitId: id(0xb1) })
    return kit
  }

  status(): ReplicatorStatus {
    const known = (node: 'm1' | 'm2' | 'm3') => ({ versionMax: this.peerVersions[node], lowSpace: this.lowSpace })
    return {
      id: 'm1',
      role: this.role,
      term: 3,
      commit: this.log.index,
      applied: this.log.index,
      leader: 'm1',
      leaderAddresses: this.leaderAddresses,
      peers: [
        { id: 'm1', addresses: ['m1:7400'], role: 'leader', reachable: true, match: this.log.index, ...known('m1') },
        { id: 'm2', addresses: ['m2:7400'], role: 'follower', reachable: true, match: 2, ...known('m2') },
        { id: 'm3', addresses: ['m3:7400'], role: 'follower', reachable: true, match: 2, ...known('m3') },
      ],
      solo: false,
      diverged: [],
    }
  }

  unary<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    handler: (request: RequestIn, context: CallContext) => Promise<ReplyOut>,
  ): void {
    this.#unary.set(method.path, handler as Handler)
  }

  stream<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    handler: (stream: Duplex<ReplyOut, RequestIn>, context: CallContext) => void,
  ): void {
    this.#streams.set(method.path, handler as unknown as StreamHandler)
  }

  get methods(): string[] {
    return [...this.#unary.keys(), ...this.#streams.keys()].sort()
  }

  async call<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    request: RequestOut,
  ): Promise<ReplyIn> {
    const handler = this.#unary.get(method.path)
    if (handler === undefined) throw new Error(`no handler for ${method.path}`)
    const reply = await handler(method.decodeRequest(method.encodeRequest(request)), this.#context)
    return method.decodeReply(method.encodeReply(reply as ReplyOut))
  }

  /** The error a call is refused with. */
  async refused<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    request: RequestOut,
  ): Promise<StoreError> {
    const error = await this.call(method, request).then(
      () => new Error('the call was not refused'),
      (cause: unknown) => cause,
    )
    if (!(error instanceof StoreError)) throw error
    return error
  }

  session(): TestSession {
    const session = new TestSession()
    const handler = this.#streams.get(metaMethods.session.path)
    if (handler === undefined) throw new Error('no session handler')
    handler(session as unknown as Duplex<unknown, unknown>, this.#context)
    return session
  }
}

/** The client's end of a session. */
export class TestSession {
  readonly replies: holdfast.v1.MetaReply[] = []
  ended = false
  paused = false
  /** What `send` answers: false is a full send buffer. */
  room = true
  #onMessage: (message: holdfast.v1.MetaRequest) => void = () => undefined
  #onDrain: () => void = () => undefined
  #onEnd: () => void = () => undefined
  #wake: (() => void)[] = []

  request(message: holdfast.v1.MetaRequest.$Properties): void {
    const { session } = metaMethods
    this.#onMessage(session.decodeRequest(session.encodeRequest(message as never)))
  }

  /** Resolves when `count` replies have come. */
  async until(count: number): Promise<holdfast.v1.MetaReply[]> {
    while (this.replies.length < count) await new Promise<void>((resolve) => this.#wake.push(resolve))
    return this.replies
  }

  finish(): void {
    this.#onEnd()
  }

  drain(): void {
    this.room = true
    this.#onDrain()
  }

  send(message: holdfast.v1.MetaReply.$Properties): boolean {
    const { session } = metaMethods
    this.replies.push(session.decodeReply(session.encodeReply(message as never)))
    for (const wake of this.#wake.splice(0)) wake()
    return this.room
  }

  end(): void {
    this.ended = true
  }

  destroy(): void {
    this.ended = true
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
  }

  onMessage(handler: (message: holdfast.v1.MetaRequest) => void): void {
    this.#onMessage = handler
  }

  onDrain(handler: () => void): void {
    this.#onDrain = handler
  }

  onEnd(handler: () => void): void {
    this.#onEnd = handler
  }

  onClose(): void {}
}
