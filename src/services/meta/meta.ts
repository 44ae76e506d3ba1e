/**
 * A meta node: the state machine, the replicator that feeds it, the controllers that work while it leads, and the Meta
 * service in front. This file only joins them and orders their start and stop.
 *
 * A new leader of a fresh cluster first proposes `found`; then the controllers take office. A node whose replicator
 * cannot go on serves nothing any more and says why once.
 */

import type { MetaConfig } from '../../config/types.ts'
import { type Command, encodeCommand } from '../../core/meta/commands.ts'
import type { RaftLimits } from '../../core/raft/types.ts'
import { asStoreError } from '../../model/errors.ts'
import { newestVersion } from '../../model/version.ts'
import type { Env } from '../../ports/env.ts'
import type { Sample } from '../../ports/metrics.ts'
import type { NetServer } from '../../ports/net.ts'
import { type Control, createControl } from './control/control.ts'
import { createCalls } from './handlers.ts'
import { type ClusterFacts, createMachine, type MetaMachine } from './machine.ts'
import type { NodeStores } from './log-place.ts'
import { createReplicator, type RaftReplicator } from './raft-host.ts'
import { type MetaService, serveMeta } from './serve.ts'
import type { ReplicatorStatus } from './types.ts'

/** Calls in flight may end for so long before a stop goes on without them. */
const drainMs = 2_000
const foundRetryMs = 200
/** A new cluster waits so long to hear what every member supports, before it begins with the oldest version. */
const hearMs = 3_000

/** One meta node. `bind`, then `start`, then `stop`. */
export interface MetaNode {
  /** Registers all services of the node. */
  bind(server: NetServer): void
  /** Opens the state and joins the cluster (forms it, the first time); resolves when the node takes part. */
  start(): Promise<void>
  /** Refuses new calls, hands leadership over, closes the state. */
  stop(): Promise<void>
  /** True while the node can answer or say who can. */
  ready(): boolean
  /** Why it cannot, in a few words; undefined while it can. */
  notReady(): string | undefined
  /** Raft's state, and on the leader the cluster's, as gauges, from memory. */
  samples(): readonly Sample[]
  status(): ReplicatorStatus
  /** Index and digest of what is applied here: equal on all nodes at equal index. */
  applied(): { readonly index: number; readonly digest: number }
  /** The stored value of a key of the state as applied. */
  peek(key: Uint8Array): Uint8Array | undefined
  /** Called once when the node cannot go on. */
  onFatal(handler: (reason: Error) => void): void
}

/** Puts a meta node together; touches nothing before `start`. `limits` overrides Raft's defaults, for tests. */
export function createMetaNode(
  env: Env,
  stores: NodeStores,
  config: MetaConfig,
  limits: Partial<RaftLimits> = {},
): MetaNode {
  return new Node(env, stores, config, limits)
}

class Node implements MetaNode {
  readonly #env: Env
  readonly #machine: MetaMachine
  readonly #replicator: RaftReplicator
  readonly #control: Control
  readonly #witness: boolean
  #service: MetaService | undefined
  #started = false
  #stopping = false
  #fatal = false
  readonly #fatalHandlers: ((reason: Error) => void)[] = []
  /** Term in which this node leads. */
  #leads: number | undefined

  constructor(env: Env, stores: NodeStores, config: MetaConfig, limits: Partial<RaftLimits>) {
    this.#env = env
    this.#witness = config.witness
    this.#machine = createMachine(stores, env.clock)
    this.#replicator = createReplicator(env, stores, config.witness ? undefined : this.#machine, config, limits)
    this.#control = createControl(env, { replicator: this.#replicator, machine: this.#machine }, config)
    this.#machine.onCluster((cluster) => this.#clusterChanged(cluster))
    this.#replicator.onApplied((index, results) => {
      env.metrics.gauge('holdfast_meta_applied_index', 'Raft index of the last applied entry.', index)
      this.#control.onApplied(index, results)
    })
    this.#replicator.onLeadership((term) => this.#onLeadership(term))
    this.#replicator.onFatal((reason) => {
      this.#fatal = true
      for (const handler of this.#fatalHandlers) handler(reason)
    })
  }

  bind(server: NetServer): void {
    const deps = { env: this.#env, machine: this.#machine, replicator: this.#replicator, control: this.#control }
    this.#service = serveMeta(server, createCalls(deps), this.#env, () => this.#replicator.clusterId())
    this.#replicator.bind(server)
    this.#control.bind(server)
  }

  async start(): Promise<void> {
    // A witness has no state (docs/RULES.md, rule 8); its calls say who leads.
    if (!this.#witness) await this.#openState()
    await this.#replicator.start()
    this.#started = true
  }

  async #openState(): Promise<void> {
    await this.#machine.open()
    const version = this.#machine.cluster()?.version
    if (version !== undefined) this.#replicator.setVersion(version)
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await this.#drain()
    await this.#control.stop()
    await this.#replicator.stop()
    await this.#machine.close()
  }

  /** Waits for calls in flight, but not for ever: without a quorum they may never end. */
  #drain(): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#env.clock.after(drainMs, resolve)
      const finish = (): void => {
        timer.cancel()
        resolve()
      }
      const drained = this.#service?.drain() ?? Promise.resolve()
      drained.then(finish, finish)
    })
  }

  ready(): boolean {
    return this.notReady() === undefined
  }

  notReady(): string | undefined {
    if (this.#fatal) return 'the node has failed and stops: its log says why'
    if (this.#stopping) return 'stopping'
    if (!this.#started) return 'starting: its state is not open or the cluster is not formed yet'
    return this.status().leader === undefined ? 'no leader is known: a majority of the meta nodes must run' : undefined
  }

  samples(): readonly Sample[] {
    if (!this.#started) return []
    const { role, term, commit, applied } = this.status()
    const state = this.applied()
    return [
      { name: 'holdfast_raft_term', help: 'Raft term.', value: term },
      { name: 'holdfast_raft_is_leader', help: '1 while this node leads.', value: role === 'leader' ? 1 : 0 },
      { name: 'holdfast_raft_commit_index', help: 'Highest Raft index known to be committed.', value: commit },
      { name: 'holdfast_raft_applied_index', help: 'Raft index of the last applied entry.', value: applied },
      { name: 'holdfast_meta_state_index', help: 'Raft index of the state as applied.', value: state.index },
      { name: 'holdfast_meta_state_digest', help: 'Digest of the state at that index.', value: state.digest },
      ...this.#control.samples(this.#machine.applied().chunks),
    ]
  }

  status(): ReplicatorStatus {
    return this.#replicator.status()
  }

  applied(): { readonly index: number; readonly digest: number } {
    return { index: this.#machine.appliedIndex(), digest: this.#machine.digest() }
  }

  peek(key: Uint8Array): Uint8Array | undefined {
    return this.#witness ? undefined : this.#machine.peek(key)
  }

  onFatal(handler: (reason: Error) => void): void {
    this.#fatalHandlers.push(handler)
  }

  #onLeadership(term: number | undefined): void {
    this.#leads = term
    this.#env.metrics.gauge('holdfast_meta_leader', '1 while this node leads.', term === undefined ? 0 : 1)
    if (term === undefined) {
      this.#control.resign()
      return
    }
    this.#takeOffice(term).then(
      () => {
        if (this.#leads === term) this.#control.become(term)
      },
      (error: unknown) => {
        const reason = asStoreError(error, 'take office').message
        this.#env.log.warn('leader could not take office', { term, reason })
      },
    )
  }

  async #takeOffice(term: number): Promise<void> {
    await this.#found(term)
    await this.#tellRecovery(term)
  }

  /** Makes the cluster record of a fresh cluster; returns when it is there or this node leads no more. */
  async #found(term: number): Promise<void> {
    const startedMs = this.#env.clock.monotonicMs()
    while (this.#leads === term && this.#machine.cluster() === undefined) {
      const clusterId = this.#replicator.clusterId()
      const version = this.#versionToFound(this.#env.clock.monotonicMs() - startedMs >= hearMs)
      if (clusterId !== undefined && version !== undefined) {
        await this.#tryPropose({ kind: 'found', nowMs: this.#env.clock.wallMs(), clusterId, version })
        if (this.#machine.cluster() !== undefined) return
      }
      await this.#delay(foundRetryMs)
    }
  }

  /** The newest version that every member supports. Undefined: wait until all were heard, unless it is `late`. */
  #versionToFound(late: boolean): number | undefined {
    const versions = this.status().peers.map((peer) => peer.versionMax)
    if (versions.includes(0)) return late ? 1 : undefined
    return Math.min(newestVersion, ...versions)
  }

  /** After `meta recover` the state learns its new incarnation before anything else is done; deletes are held from then. */
  async #tellRecovery(term: number): Promise<void> {
    for (;;) {
      const cluster = this.#machine.cluster()
      const incarnation = this.#replicator.clusterIncarnation()
      if (this.#leads !== term || cluster === undefined || cluster.incarnation >= incarnation) return
      await this.#tryPropose({ kind: 'recovered', nowMs: this.#env.clock.wallMs(), incarnation })
      if ((this.#machine.cluster()?.incarnation ?? 0) >= incarnation) {
        this.#env.log.warn('the metadata was recovered: deletes are held', { incarnation })
        return
      }
      await this.#delay(foundRetryMs)
    }
  }

  /** Whether it worked is seen in the state. */
  async #tryPropose(command: Command): Promise<void> {
    try {
      await this.#replicator.propose(encodeCommand(command))
    } catch (error) {
      this.#env.log.debug('proposal failed', { kind: command.kind, reason: asStoreError(error, 'propose').message })
    }
  }

  #clusterChanged(cluster: ClusterFacts): void {
    this.#replicator.setVersion(cluster.version)
    const term = this.#leads
    if (term === undefined || cluster.incarnation >= this.#replicator.clusterIncarnation()) return
    this.#tellRecovery(term).catch((error: unknown) => {
      this.#env.log.error('recovery was not told', { reason: asStoreError(error, 'tell a recovery').message })
    })
  }

  #delay(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#env.clock.after(delayMs, resolve)
    })
  }
}
