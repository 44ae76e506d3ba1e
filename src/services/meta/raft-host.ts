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
import { newestVersion } from '../../model/version.ts'
import type { Env } from '../../ports/env.ts'
import type { Files } from '../../ports/files.ts'
import type { KvFactory } from '../../ports/kv.ts'
import type { NetServer } from '../../ports/net.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { Raft, RaftView } from '../../core/raft/raft.ts'
import { defaultRaftLimits, type RaftLimits, type Ready } from '../../core/raft/types.ts'
import type { Reply } from '../../core/meta/commands.ts'
import { Formation } from './formation.ts'
import type { NodeStores } from './log-place.ts'
import { notLeader, overloaded, readExpired, tooLarge } from './raft-errors.ts'
import { Leadership } from './raft-leadership.ts'
import { launch, type Running } from './raft-running.ts'
import { bindRaft } from './raft-service.ts'
import { SpaceWatch } from './raft-space.ts'
import { statusOf } from './raft-status.ts'
import { Ticker } from './raft-ticker.ts'
import { unknownOutcome, Waiters } from './raft-waiters.ts'
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

/**
 * Makes the replicator of one meta node; nothing happens before `start`. `machine` is undefined for a witness. `limits`
 * and `versionMax` override what this program does, for tests.
 */
export function createReplicator(
  env: Env,
  stores: NodeStores,
  machine: StateMachine | undefined,
  config: MetaConfig,
  limits: Partial<RaftLimits> = {},
  versionMax: number = newestVersion,
): RaftReplicator {
  return new RaftHost(env, stores, machine, config, { ...defaultRaftLimits, ...limits }, versionMax)
}

/** Proposals that wait to be applied; beyond it, callers are told to come back. */
const waitersMax = 32768
/** Ticks between two looks at free space, and between two signs of life to peers. */
const housekeepingTicks = 20

class RaftHost implements RaftReplicator {
  readonly #env: Env
  readonly #stores: NodeStores
  readonly #machine: StateMachine | undefined
  readonly #config: MetaConfig
  readonly #limits: RaftLimits
  readonly #versionMax: number
  readonly #formation: Formation
  readonly #waiters = new Waiters()
  readonly #abort = new AbortController()
  readonly #ticker: Ticker
  readonly #space: SpaceWatch
  readonly #leadership: Leadership
  readonly #appliedHandlers: ((index: number, results: readonly AppliedReply[]) => void)[] = []
  readonly #fatalHandlers: ((reason: Error) => void)[] = []
  #running: Running | undefined
  #phase: 'new' | 'running' | 'stopping' | 'stopped' = 'new'
  #pumpQueued = false
  #fatalReason: Error | undefined
  #version = 1
  #ticks = 0
  readonly #onTurn = (): void => {
    this.#pumpQueued = false
    this.#pump()
  }

  constructor(
    env: Env,
    stores: NodeStores,
    machine: StateMachine | undefined,
    config: MetaConfig,
    limits: RaftLimits,
    versionMax: number,
  ) {
    this.#env = env
    this.#stores = stores
    this.#machine = machine
    this.#config = config
    this.#limits = limits
    this.#versionMax = versionMax
    this.#formation = new Formation(env, stores.files, config, versionMax)
    this.#leadership = new Leadership(env.log)
    this.#space = new SpaceWatch(stores.files, env.log, config.reserveBytes)
    this.#ticker = new Ticker(env.clock, env.metrics, config.raft.tickMs, () => this.#tick())
  }

  clusterId(): ClusterId | undefined {
    const id = this.#formation.identity?.clusterId
    return id === '' ? undefined : id
  }

  clusterIncarnation(): number {
    return this.#formation.identity?.clusterIncarnation ?? 1
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
    bindRaft(server, {
      env: this.#env,
      formation: this.#formation,
      signal: this.#abort.signal,
      running: () => this.#running,
      notRunning: () => this.#notRunning(),
    })
  }

  #notRunning(): StoreError {
    const state = this.#phase === 'new' ? 'starting' : 'stopping'
    return new StoreError('UNAVAILABLE', `meta node ${this.#config.id} is ${state}: try again`, { outcome: 'definite' })
  }

  async start(): Promise<void> {
    const loaded = await this.#formation.load()
    if (loaded.clusterId === '') await this.#formation.form()
    await this.#space.look()
    if (this.#phase !== 'new') throw new StoreError('SHUTTING_DOWN', 'start raft: the node is stopping')
    const running = await launch({
      env: this.#env,
      stores: this.#stores,
      machine: this.#machine,
      config: this.#config,
      limits: this.#limits,
      formation: this.#formation,
      version: () => this.#version,
      signal: this.#abort.signal,
      news: () => ({ versionMax: this.#versionMax, lowSpace: this.#space.low }),
      notLeader: () => this.#notLeader(),
      use: (step) => this.#core(step),
      pump: () => this.#pump(),
      receive: (messages) =>
        this.#core((raft) => {
          for (const message of messages) raft.step(message)
        }),
      applied: (entries, results) => this.#applied(entries, results),
      // What was started before a stop still ends in order.
      failed: () => this.#fatalReason !== undefined,
      stopped: () => this.#fatalReason !== undefined || this.#phase === 'stopped',
      fatal: (error) => this.#fatal(error),
    })
    if (this.#phase !== 'new') {
      await running.store.close()
      throw new StoreError('SHUTTING_DOWN', 'start raft: the node is stopping')
    }
    this.#running = running
    this.#phase = 'running'
    const { core } = running
    const { term, lastIndex: last, applied } = core.view
    this.#env.log.info('raft started', { term, last, applied })
    core.setVersion(this.#version)
    if (core.config.config.members.length === 1) core.campaign()
    this.#ticker.start()
    running.transport.keep(running.others())
    this.#pump()
  }

  #tick(): void {
    const running = this.#running
    if (running === undefined || (this.#phase !== 'running' && this.#phase !== 'stopping')) return
    this.#core((raft) => {
      raft.clock(this.#nowTicks())
      raft.tick()
    })
    running.lanes.tick()
    running.members.tick()
    running.contact.tick()
    this.#waiters.tick(readExpired)
    if (++this.#ticks % housekeepingTicks !== 0) return
    running.transport.keep(running.others())
    running.lanes.run(() => this.#space.look())
  }

  /** How long proposals are held at most while leadership is handed over. */
  get #handTicks(): number {
    const { electionTicks, electionSpreadTicks } = this.#config.raft
    return 2 * (electionTicks + electionSpreadTicks)
  }

  /** The clock as leases of reads measure it. */
  #nowTicks(): number {
    return this.#env.clock.monotonicMs() / this.#config.raft.tickMs
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

  /**
   * Pumps once after all that happens in this turn: requests that arrived on many connections are one append, one message
   * to each peer, and one answer of each.
   */
  #schedule(): void {
    if (this.#pumpQueued) return
    this.#pumpQueued = true
    const { clock } = this.#env
    if (clock.turn !== undefined) return clock.turn(this.#onTurn)
    Promise.resolve()
      .then(this.#onTurn)
      .catch((error: unknown) => this.#fatal(error))
  }

  #pump(): void {
    const running = this.#running
    if (running === undefined || this.#fatalReason !== undefined || this.#phase === 'stopped') return
    try {
      for (let ready = running.core.ready(); ready !== undefined; ready = running.core.ready()) {
        this.#carryOut(running, ready)
      }
      running.members.notice()
      // Fails those who wait when leadership is lost, then tells the handlers.
      this.#leadership.notice(running.core.view, () => {
        this.#waiters.failProposals(unknownOutcome)
        running.members.lost()
      })
      this.#waiters.serveReads(running.core.view.applied)
      if (this.#waiters.holds && isSettled(running.core.view)) this.#waiters.release()
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

  #serving(): Running | undefined {
    return this.#phase === 'running' && this.#fatalReason === undefined ? this.#running : undefined
  }

  propose(payload: Uint8Array): Promise<Reply> {
    const running = this.#serving()
    if (running === undefined) return Promise.reject(this.#notServing())
    if (this.#waiters.size >= waitersMax) return Promise.reject(overloaded())
    const result = running.core.propose(payload)
    if (result.ok) {
      const answer = this.#waiters.proposal(result.term, result.index)
      this.#schedule()
      return answer
    }
    // Whoever takes over is known in a moment: who asks now is told then, instead of looking for it.
    if (result.reason === 'transferring') return this.#waiters.hold(this.#handTicks).then(() => this.propose(payload))
    if (result.reason === 'overloaded') return Promise.reject(overloaded())
    if (result.reason === 'too-large') return Promise.reject(tooLarge(payload.length, this.#limits.entryBytes))
    return Promise.reject(this.#notLeader())
  }

  barrier(): Promise<void> {
    const running = this.#serving()
    if (running === undefined) return Promise.reject(this.#notServing())
    // A witness has nothing to read.
    if (this.#config.witness) return Promise.reject(this.#notLeader())
    const { electionTicks, electionSpreadTicks } = this.#config.raft
    return this.#waiters.read(2 * (electionTicks + electionSpreadTicks), (token) => {
      running.core.clock(this.#nowTicks())
      const result = running.core.readIndex(token)
      if (result === 'overloaded') throw overloaded()
      if (result === 'not-leader') throw this.#notLeader()
      this.#schedule()
    })
  }

  async addMember(id: NodeId, address: string): Promise<boolean> {
    return await this.#mustServe().members.add(id, address)
  }

  async removeMember(id: NodeId): Promise<void> {
    await this.#mustServe().members.remove(id)
  }

  async transfer(to: NodeId | undefined): Promise<NodeId> {
    return await this.#mustServe().members.transfer(to)
  }

  #mustServe(): Running {
    const running = this.#serving()
    if (running === undefined) throw this.#notServing()
    return running
  }

  setVersion(version: number): void {
    this.#version = Math.max(this.#version, version)
    this.#core((raft) => raft.setVersion(this.#version))
  }

  lowSpace(): boolean {
    return this.#space.low
  }

  #notServing(): StoreError {
    if (this.#phase === 'stopping' || this.#phase === 'stopped' || this.#fatalReason !== undefined) {
      return new StoreError('SHUTTING_DOWN', `meta node ${this.#config.id} is stopping: ask another one`)
    }
    return this.#notLeader()
  }

  #notLeader(): StoreError {
    const handing = this.#running?.core.view.role === 'leader'
    return notLeader(this.#config, handing ? [] : this.status().leaderAddresses)
  }

  status(): ReplicatorStatus {
    const { id } = this.#config
    const running = this.#running
    if (running === undefined) {
      const nothing = { term: 0, commit: 0, applied: 0, leader: undefined, leaderAddresses: [], peers: [] }
      return { ...nothing, id, role: 'follower', solo: false, diverged: [] }
    }
    const { core, transport, digests } = running
    return statusOf({
      core,
      config: this.#config,
      own: { versionMax: this.#versionMax, lowSpace: this.#space.low },
      reachable: (peer) => transport.reachable(peer),
      newsOf: (peer) => transport.newsOf(peer),
      diverged: digests.diverged(running.fullMembers()),
    })
  }

  /** The node cannot go on. Returns the reason, so that callers can throw it. */
  #fatal(error: unknown): Error {
    const reason = error instanceof Error ? error : new Error(String(error))
    if (this.#fatalReason !== undefined || this.#phase === 'stopped') return reason
    this.#fatalReason = reason
    this.#env.log.error('raft cannot go on', { reason: reason.message })
    this.#ticker.stop()
    this.#abort.abort()
    this.#running?.transport.stop()
    this.#waiters.failAll(unknownOutcome, () => this.#notServing())
    this.#running?.members.lost()
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
    if (this.#fatalReason === undefined) await running.members.handOver()
    this.#phase = 'stopped'
    this.#ticker.stop()
    this.#abort.abort()
    running.transport.stop()
    running.members.lost()
    this.#leadership.withdraw()
    this.#waiters.failAll(unknownOutcome, () => this.#notServing())
    await running.lanes.drain()
    await running.store.close()
  }
}

/** It is known who leads, and nobody is about to take over. */
function isSettled({ role, leader, transferring }: RaftView): boolean {
  return !transferring && (role === 'leader' || leader !== '')
}
