/**
 * The replicator: runs the pure Raft core against disk, network and state machine.
 *
 * Messages, ticks and proposals are stepped into the core synchronously; `#pump` then carries out what it asks for, in
 * three lanes: messages at once; one append task at a time (what comes meanwhile gathers for the next: group commit);
 * one apply task at a time. Nothing awaits between reading the core's term and stamping entries, because all of that is
 * inside the core.
 * Invariants: the state machine is used by one task at a time (apply, snapshot, install); any failed write or broken
 * invariant is fatal: the node stops voting and serving and never writes again; every waiter is settled.
 */

import { StoreError } from '../../model/errors.ts'
import type { ClusterId, NodeId } from '../../model/ids.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Files } from '../../ports/files.ts'
import type { KvFactory } from '../../ports/kv.ts'
import type { NetServer } from '../../ports/net.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { Message, SnapshotOffer } from '../../core/raft/messages.ts'
import { Raft } from '../../core/raft/raft.ts'
import { defaultRaftLimits, type Member, type RaftLimits, type Ready } from '../../core/raft/types.ts'
import type { Reply } from '../../core/meta/commands.ts'
import { raftMethods } from '../../wire/methods.ts'
import { Formation } from './formation.ts'
import type { LogStore } from './log-store.ts'
import { bootRaft } from './raft-boot.ts'
import { unknownOutcome, Waiters } from './raft-waiters.ts'
import { Lanes } from './raft-lanes.ts'
import { Leadership } from './raft-leadership.ts'
import { Snapshots } from './raft-snapshots.ts'
import { statusOf } from './raft-status.ts'
import { receiveSnapshot } from './snapshot-transfer.ts'
import { type LinkIdentity, Transport } from './transport.ts'
import type { AppliedEntry, AppliedReply, Replicator, ReplicatorStatus, StateMachine } from './types.ts'

/** Where a meta node keeps what must survive: small files and its two key-value stores. */
export interface MetaStores {
  readonly files: Files
  readonly kv: KvFactory
}

/** The replicator and what only its composition root needs of it. */
export interface RaftReplicator extends Replicator {
  /** Registers the Raft service. Call before `start`, which needs its peers to reach it. */
  bind(server: NetServer): void
  /** The cluster this node belongs to; undefined until it was formed. Set once `start` has resolved. */
  clusterId(): ClusterId | undefined
}

/** Makes the replicator of one meta node; nothing happens before `start`. `limits` overrides defaults, for tests. */
export function createReplicator(
  env: Env,
  stores: MetaStores,
  machine: StateMachine,
  config: MetaConfig,
  limits: Partial<RaftLimits> = {},
): RaftReplicator {
  return new RaftHost(env, stores, machine, config, { ...defaultRaftLimits, ...limits })
}

/** Proposals that wait to be applied; beyond it, callers are told to come back. */
const waitersMax = 32768

/** What exists only while the node runs. */
interface Running {
  readonly core: Raft
  readonly store: LogStore
  readonly transport: Transport
  readonly self: LinkIdentity
  readonly lanes: Lanes
  readonly snapshots: Snapshots
}

class RaftHost implements RaftReplicator {
  readonly #env: Env
  readonly #stores: MetaStores
  readonly #machine: StateMachine
  readonly #config: MetaConfig
  readonly #limits: RaftLimits
  readonly #formation: Formation
  readonly #waiters = new Waiters()
  readonly #abort = new AbortController()
  #running: Running | undefined
  #phase: 'new' | 'running' | 'stopping' | 'stopped' = 'new'
  #timer: Timer | undefined
  #pumpQueued = false
  #fatalReason: Error | undefined
  readonly #leadership: Leadership
  readonly #appliedHandlers: ((index: number, results: readonly AppliedReply[]) => void)[] = []
  readonly #fatalHandlers: ((reason: Error) => void)[] = []

  constructor(env: Env, stores: MetaStores, machine: StateMachine, config: MetaConfig, limits: RaftLimits) {
    this.#env = env
    this.#stores = stores
    this.#machine = machine
    this.#config = config
    this.#limits = limits
    this.#formation = new Formation(env, stores.files, config)
    this.#leadership = new Leadership(env.log)
  }

  clusterId(): ClusterId | undefined {
    const id = this.#formation.identity?.clusterId
    return id === '' ? undefined : id
  }

  onLeadership(handler: (term: number | undefined) => void): void {
    this.#leadership.onChange(handler)
  }

  onApplied(handler: (index: number, results: readonly AppliedReply[]) => void): void {
    this.#appliedHandlers.push(handler)
  }

  onFatal(handler: (reason: Error) => void): void {
    this.#fatalHandlers.push(handler)
  }

  bind(server: NetServer): void {
    server.unary(raftMethods.hello, async () => this.#formation.onHello(this.#running?.core.config.config.members))
    server.unary(raftMethods.form, (request) => this.#formation.onForm(request))
    server.stream(raftMethods.messages, (stream) => {
      if (this.#running === undefined) stream.destroy(this.#notRunning())
      else this.#running.transport.accept(stream)
    })
    server.stream(raftMethods.snapshot, (stream) => {
      const running = this.#running
      if (running === undefined) {
        stream.destroy(this.#notRunning())
        return
      }
      const receiver = {
        self: running.self,
        incarnationOf: (id: NodeId) => this.#member(id)?.incarnation,
        install: (offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>) => running.snapshots.install(offer, pieces),
      }
      receiveSnapshot(this.#env, receiver, stream, this.#abort.signal)
    })
  }

  #notRunning(): StoreError {
    const state = this.#phase === 'new' ? 'starting' : 'stopping'
    return new StoreError('UNAVAILABLE', `meta node ${this.#config.id} is ${state}: try again`, { outcome: 'definite' })
  }

  async start(): Promise<void> {
    const loaded = await this.#formation.load()
    const identity = loaded.clusterId === '' ? await this.#formation.form() : loaded
    if (this.#phase !== 'new') throw new StoreError('SHUTTING_DOWN', 'start raft: the node is stopping')
    const applied = this.#machine.appliedIndex()
    const { store, slots, start, cut } = await bootRaft(this.#stores, this.#formation, applied, this.#limits.cacheBytes)
    if (this.#phase !== 'new') {
      await store.close()
      throw new StoreError('SHUTTING_DOWN', 'start raft: the node is stopping')
    }
    if (cut > 0) this.#env.log.warn('cut a torn tail off the raft log', { entries: cut, last: start.lastIndex })
    const { electionTicks, electionSpreadTicks, heartbeatTicks, leaseReads } = this.#config.raft
    const seed = Math.floor(this.#env.entropy.unit() * 0x1_0000_0000)
    const times = { electionTicks, electionSpreadTicks, heartbeatTicks, leaseReads }
    const core = new Raft({ ...start, ...times, id: this.#config.id, limits: this.#limits, seed, clusterVersion: 1 })
    const self = { node: identity.node, incarnation: identity.incarnation, clusterId: identity.clusterId }
    const transport = new Transport(this.#env, self, {
      incarnationOf: (id) => this.#member(id)?.incarnation,
      addressesOf: (id) => this.#addressesOf(id),
      onMessages: (messages) => this.#receive(messages),
      onUnreachable: (id) => this.#core((raft) => raft.unreachable(id)),
    })
    const shared = {
      env: this.#env,
      machine: this.#machine,
      core,
      store,
      use: (step: (raft: Raft) => void) => this.#core(step),
      pump: () => this.#pump(),
      failed: () => this.#fatalReason !== undefined || this.#phase === 'stopped',
      fatal: (error: unknown) => this.#fatal(error),
    }
    const lanes = new Lanes({
      ...shared,
      slots,
      transport,
      limits: this.#limits,
      tickMs: this.#config.raft.tickMs,
      installing: () => snapshots.installing,
      applied: (entries, results) => this.#applied(entries, results),
      // What was started before a stop still ends in order.
      failed: () => this.#fatalReason !== undefined,
    })
    const snapshots = new Snapshots({
      ...shared,
      self,
      signal: this.#abort.signal,
      addressOf: (id) => this.#addressesOf(id)[0] ?? '',
      onMachine: (task) => lanes.onMachine(task),
      progress: () => lanes.progress(),
    })
    this.#running = { core, store, transport, self, lanes, snapshots }
    this.#phase = 'running'
    this.#env.log.info('raft started', { term: core.view.term, last: core.view.lastIndex, applied })
    if (core.config.config.members.length === 1) core.campaign()
    this.#armTimer()
    this.#pump()
  }

  #member(id: NodeId): Member | undefined {
    return this.#running?.core.config.config.members.find((member) => member.id === id)
  }

  /** The configured address of a peer first: it is the one the operator gave for traffic between meta nodes. */
  #addressesOf(id: NodeId): readonly string[] {
    const configured = this.#config.peers.filter((peer) => peer.id === id).map((peer) => peer.address)
    return [...new Set([...configured, ...(this.#member(id)?.addresses ?? [])])]
  }

  /** One tick a timer firing: after a pause of the process, what arrived meanwhile is heard before any timeout. */
  #armTimer(): void {
    this.#timer = this.#env.clock.after(this.#config.raft.tickMs, () => {
      if (this.#phase !== 'running' && this.#phase !== 'stopping') return
      this.#armTimer()
      this.#core((raft) => raft.tick())
      this.#running?.lanes.tick()
    })
  }

  /** Runs `use` on the core and then carries out what it asks for. A broken invariant is fatal. */
  #core(use: (raft: Raft) => void): void {
    const running = this.#running
    if (running === undefined || this.#fatalReason !== undefined || this.#phase === 'stopped') return
    try {
      use(running.core)
    } catch (error) {
      this.#fatal(error)
      return
    }
    this.#schedule()
  }

  #receive(messages: readonly Message[]): void {
    this.#core((raft) => {
      for (const message of messages) raft.step(message)
    })
  }

  /** Pumps once after all that happens in this turn. */
  #schedule(): void {
    if (this.#pumpQueued) return
    this.#pumpQueued = true
    Promise.resolve()
      .then(() => {
        this.#pumpQueued = false
        this.#pump()
      })
      .catch((error: unknown) => this.#fatal(error))
  }

  #pump(): void {
    const running = this.#running
    if (running === undefined || this.#fatalReason !== undefined || this.#phase === 'stopped') return
    try {
      for (let ready = running.core.ready(); ready !== undefined; ready = running.core.ready()) {
        this.#carryOut(running, ready)
      }
      this.#noticeRole(running.core)
      this.#waiters.serveReads(running.core.view.applied)
      running.transport.flush()
    } catch (error) {
      this.#fatal(error)
    }
  }

  #carryOut(running: Running, ready: Ready): void {
    running.transport.queue(ready.send)
    for (const token of ready.droppedReads) this.#waiters.dropRead(token, this.#notLeader())
    for (const { token, index } of ready.reads) this.#waiters.confirmRead(token, index, running.core.view.applied)
    running.lanes.carryOut(ready)
    for (const { to, term } of ready.snapshots) running.lanes.run(() => running.snapshots.send(to, term))
  }

  #applied(entries: readonly AppliedEntry[], results: readonly AppliedReply[]): void {
    this.#waiters.applied(entries, results)
    const last = entries.at(-1)?.index
    if (last === undefined) return
    for (const handler of this.#appliedHandlers) handler(last, results)
  }

  propose(payload: Uint8Array): Promise<Reply> {
    const running = this.#running
    if (this.#phase !== 'running' || running === undefined || this.#fatalReason !== undefined) {
      return Promise.reject(this.#notServing())
    }
    if (this.#waiters.size >= waitersMax) return Promise.reject(overloaded())
    const result = running.core.propose(payload)
    if (!result.ok) return Promise.reject(result.reason === 'overloaded' ? overloaded() : this.#notLeader())
    const answer = this.#waiters.proposal(result.term, result.index)
    this.#schedule()
    return answer
  }

  barrier(): Promise<void> {
    const running = this.#running
    if (this.#phase !== 'running' || running === undefined || this.#fatalReason !== undefined) {
      return Promise.reject(this.#notServing())
    }
    return this.#waiters.read((token) => {
      const result = running.core.readIndex(token)
      if (result === 'overloaded') throw overloaded()
      if (result === 'not-leader') throw this.#notLeader()
      this.#schedule()
    })
  }

  async addMember(id: NodeId): Promise<boolean> {
    throw new StoreError('UNAVAILABLE', `add meta node ${id}: not built yet`, { outcome: 'definite' })
  }

  async removeMember(id: NodeId): Promise<void> {
    throw new StoreError('UNAVAILABLE', `remove meta node ${id}: not built yet`, { outcome: 'definite' })
  }

  async transfer(): Promise<NodeId> {
    throw new StoreError('UNAVAILABLE', 'hand leadership over: not built yet', { outcome: 'definite' })
  }

  clusterIncarnation(): number {
    return 1
  }

  setVersion(version: number): void {
    this.#running?.core.setVersion(version)
  }

  lowSpace(): boolean {
    return false
  }

  #notServing(): StoreError {
    if (this.#phase === 'stopping' || this.#phase === 'stopped' || this.#fatalReason !== undefined) {
      return new StoreError('SHUTTING_DOWN', `meta node ${this.#config.id} is stopping: ask another one`)
    }
    return this.#notLeader()
  }

  #notLeader(): StoreError {
    const leader = this.status().leaderAddresses
    const view = this.#running?.core.view
    const handing = view?.role === 'leader'
    const where = handing || leader.length === 0 ? 'no leader is known yet: try again' : `ask ${leader[0]}`
    return new StoreError('NOT_LEADER', `meta node ${this.#config.id} does not lead: ${where}`, {
      details: { leader: handing ? [] : leader },
    })
  }

  /** Fails those who wait when leadership is lost, then tells the handlers. */
  #noticeRole(core: Raft): void {
    this.#leadership.notice(core.view, () => this.#waiters.failAll(unknownOutcome, () => this.#notLeader()))
  }

  status(): ReplicatorStatus {
    const { id } = this.#config
    const running = this.#running
    if (running === undefined) {
      const nothing = { term: 0, commit: 0, applied: 0, leader: undefined, leaderAddresses: [], peers: [] }
      return { ...nothing, id, role: 'follower', solo: false, diverged: [] }
    }
    return statusOf(running.core, this.#config, (peer) => running.transport.reachable(peer))
  }

  /** The node cannot go on. Returns the reason, so that callers can throw it. */
  #fatal(error: unknown): Error {
    const reason = error instanceof Error ? error : new Error(String(error))
    if (this.#fatalReason !== undefined || this.#phase === 'stopped') return reason
    this.#fatalReason = reason
    this.#env.log.error('raft cannot go on', { reason: reason.message })
    this.#timer?.cancel()
    this.#abort.abort()
    this.#running?.transport.stop()
    this.#waiters.failAll(unknownOutcome, () => this.#notServing())
    this.#leadership.withdraw()
    for (const handler of this.#fatalHandlers) handler(reason)
    return reason
  }

  async stop(): Promise<void> {
    if (this.#phase === 'stopping' || this.#phase === 'stopped') return
    const running = this.#running
    this.#phase = 'stopping'
    this.#formation.stop()
    if (running === undefined) {
      this.#phase = 'stopped'
      return
    }
    if (this.#fatalReason === undefined) await this.#handOver(running.core)
    this.#phase = 'stopped'
    this.#timer?.cancel()
    this.#abort.abort()
    running.transport.stop()
    this.#leadership.withdraw()
    this.#waiters.failAll(unknownOutcome, () => this.#notServing())
    await running.lanes.drain()
    await running.store.close()
  }

  /** Gives leadership to the member that has most, and waits (bounded) until another one leads. */
  async #handOver(core: Raft): Promise<void> {
    const { id, raft } = this.#config
    const others = core.config.config.members.map((member) => member.id).filter((other) => other !== id)
    const [best] = others.toSorted((a, b) => core.matchOf(b) - core.matchOf(a))
    if (best === undefined || core.view.role !== 'leader') return
    this.#core((machine) => machine.transfer(best))
    await new Promise<void>((resolve) => {
      const timer = this.#env.clock.after(raft.tickMs * raft.electionTicks, () => finish())
      const finish = (): void => {
        timer.cancel()
        this.#leadership.unwatch(wake)
        resolve()
      }
      const wake = (): void => {
        const { role, leader } = core.view
        if ((role !== 'leader' && leader !== '') || this.#fatalReason !== undefined) finish()
      }
      this.#leadership.watch(wake)
    })
  }
}

function overloaded(): StoreError {
  return new StoreError('OVERLOADED', 'replicate a command: too many are waiting: try again shortly', {
    details: { retryAfterMs: 100 },
  })
}
