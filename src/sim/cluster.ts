/**
 * One simulated run: real meta nodes (the real service, the real Raft core), storage nodes and clients, in one process, on
 * virtual time, from one seed.
 *
 * Phases: form the cluster in quiet; let clients work while the nemesis strikes; mend everything; then demand that the
 * cluster comes back to health by itself: a leader, a fresh write, every acknowledged object readable, every chunk at
 * its wanted copies, equal digests. Invariants are checked after every event, the clients' history at the end.
 * The same seed gives the same run, event for event; `hash` says so.
 */

import type { MetaConfig } from '../config/types.ts'
import type { Env } from '../ports/env.ts'
import { ClientHost } from './client-host.ts'
import { SimProcess, simClock, type TraceLine, type Turns, World } from './clock.ts'
import type { SimContext } from './context.ts'
import { checkHistory, History } from './history.ts'
import { Invariants } from './invariants.ts'
import { MetaCaller } from './meta-caller.ts'
import { MetaHost } from './meta-host.ts'
import { ModelClient } from './model-client.ts'
import { type FaultKind, Nemesis } from './nemesis.ts'
import { SimNet } from './net.ts'
import { Operator } from './operator.ts'
import { SdkClient } from './sdk-client.ts'
import { Seeded } from './seed.ts'
import { type LoggedEvent, simEntropy, simHasher, simLog, SimMetrics } from './sinks.ts'
import { ModelStorageHost, RealStorageHost, type StorageHost } from './storage-host.ts'
import { describeSwarm, drawSwarm, type Swarm, type SwarmOverrides } from './swarm.ts'
import { Values } from './values.ts'
import type { SimWorker, WorkloadOptions } from './workload.ts'

export interface SimOptions extends SwarmOverrides {
  readonly seed: number
  readonly turns: Turns
  readonly trace?: TraceLine | undefined
  /** The faults to choose from; by default some of all, drawn from the seed. */
  readonly faults?: readonly FaultKind[] | undefined
  /** Virtual time during which things break. */
  readonly chaosMs: number
  /** Virtual time the cluster is given to come back to health afterwards. */
  readonly healMs: number
  /** Ends the run at this virtual time, before its end, without the checks of the end. */
  readonly untilMs?: number | undefined
}

/** The run was asked to end early. */
class EndedEarly extends Error {}

export interface SimResult {
  readonly seed: number
  /** Equal for equal runs. */
  readonly hash: number
  readonly events: number
  readonly virtualMs: number
  /** Client operations that ended well. */
  readonly operations: number
  /** Highest Raft index applied. */
  readonly applied: number
  readonly plan: string
}

/** A run that failed, with what it was a run of. */
export class SimFailure extends Error {
  readonly faults: readonly FaultKind[]
  readonly clients: number
  readonly storage: Swarm['storage']

  constructor(cause: Error, faults: readonly FaultKind[], swarm: Swarm) {
    super(cause.message, { cause })
    this.faults = faults
    this.clients = swarm.sdkClients.length
    this.storage = swarm.storage
  }
}

const bucket = 'bucket'
const copies = 3

function metaAddress(i: number): string {
  return `10.0.0.${i + 1}:7400`
}

/** A run and everything in it. */
class Simulation implements SimContext {
  readonly world: World
  readonly random: Seeded
  readonly net: SimNet
  readonly invariants: Invariants
  readonly #history = new History()
  readonly #values = new Values()
  readonly #options: SimOptions
  readonly #swarm: Swarm
  /** Founding members, then those that an operator added. */
  readonly #metas: MetaHost[]
  readonly #storages: readonly StorageHost[]
  readonly #clients: readonly ClientHost[]
  readonly #nemesis: Nemesis
  readonly #operator: Operator
  readonly #keys: readonly string[]
  #failure: Error | undefined

  constructor(options: SimOptions) {
    this.#options = options
    this.world = new World({ turns: options.turns, trace: options.trace })
    this.random = new Seeded(options.seed)
    const swarm = drawSwarm(this.random.fork('swarm'), options)
    this.#swarm = swarm
    this.#keys = Array.from({ length: swarm.keyCount }, (_, at) => `key-${at}`)
    this.net = new SimNet(this.world, this.random.fork('net'), swarm.net)
    this.#metas = Array.from({ length: swarm.metaCount }, (_, i) => this.#meta(i))
    this.#storages = Array.from({ length: swarm.storageCount }, (_, i) => this.#storage(i))
    const disks = this.#storages.flatMap((storage) => storage.disks)
    this.invariants = new Invariants(disks, this.#history, () => this.#newest()?.peek())
    this.#clients = swarm.sdkClients.map(
      (sdk, i) => new ClientHost(this, `c${i + 1}`, (env, host) => this.#worker(sdk, env, host)),
    )
    this.#nemesis = new Nemesis({
      world: this.world,
      net: this.net,
      random: this.random.fork('nemesis'),
      metas: this.#metas,
      storages: this.#storages,
      clients: this.#clients,
      intactCopies: (id) => this.invariants.intactCopies(id),
      everOn: (id) => disks.filter((disk) => disk.everHad(id)).length,
      kinds: options.faults,
      leader: () => this.#metas.find((meta) => meta.node?.status().role === 'leader')?.host.id,
      operate: (kind) => this.#operator.strike(kind, (error) => this.fail(error)),
    })
    this.#operator = this.#createOperator()
  }

  #createOperator(): Operator {
    const { clock, net } = this.env(this.#bystander('operator'))
    const random = this.random.fork('operator')
    return new Operator({
      caller: new MetaCaller({ clock, net, random, meta: this.#metaAddresses }),
      random,
      metas: this.#metas,
      bucket,
      founding: this.#swarm.metaCount,
      spare: () => {
        const meta = this.#meta(this.#metas.length)
        this.#metas.push(meta)
        return meta
      },
      note: (text) => this.world.note('operator', text),
    })
  }

  #meta(i: number): MetaHost {
    const { metaCount, metaTimes, limits } = this.#swarm
    return new MetaHost(this, metaConfig(i, metaCount), metaTimes, limits)
  }

  /** A process that nothing happens to. */
  #bystander(id: string): SimProcess {
    const host = new SimProcess(id)
    host.alive = true
    return host
  }

  get #metaAddresses(): readonly string[] {
    return Array.from({ length: this.#swarm.metaCount }, (_, at) => metaAddress(at))
  }

  #storage(i: number): StorageHost {
    const meta = this.#metaAddresses
    const place = { id: `s${i + 1}`, zone: `z${(i % 2) + 1}`, address: `10.0.1.${i + 1}:7500`, meta }
    if (this.#swarm.storage === 'model') return new ModelStorageHost(this, place)
    return new RealStorageHost(this, place, this.#swarm.storageTimes, this.#swarm.disksPerNode)
  }

  env(host: SimProcess, excused: (event: LoggedEvent) => boolean = () => false): Env {
    return {
      clock: simClock(this.world, host),
      entropy: simEntropy(this.random.fork(`${host.id} entropy ${host.incarnation}`)),
      hasher: simHasher,
      net: this.net.client(host),
      log: simLog(this.world, host.id, (event) => this.#logged(event, excused)),
      metrics: new SimMetrics(),
    }
  }

  watch(check: () => void): void {
    try {
      check()
    } catch (error) {
      this.fail(error)
    }
  }

  fail(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error))
  }

  #logged(event: LoggedEvent, excused: (event: LoggedEvent) => boolean): void {
    if (event.level !== 'error' || excused(event)) return
    this.fail(new Error(`${event.host} logged an error: ${event.event} ${JSON.stringify(event.fields)}`))
  }

  /** A meta node that has applied everything that any of them ever has. */
  #newest(): MetaHost | undefined {
    return this.#metas.find((meta) => meta.node !== undefined && meta.appliedIndex >= this.invariants.highestApplied)
  }

  #workload(host: SimProcess): WorkloadOptions {
    return {
      random: this.random.fork(`${host.id} ${host.incarnation}`),
      bucket,
      keys: this.#keys,
      copies,
      history: this.#history,
      values: this.#values,
      trueMs: () => this.world.nowMs,
      onAcked: (key, version, etag) => this.invariants.acknowledged(key, version, etag),
    }
  }

  #worker(sdk: boolean, env: Env, host: SimProcess): SimWorker {
    const meta = this.#metaAddresses
    const workload = this.#workload(host)
    if (sdk) return new SdkClient({ ...workload, env, meta })
    return new ModelClient({ ...workload, clock: env.clock, net: env.net, meta })
  }

  /** A client that nothing happens to, for what the run itself has to ask. */
  #probe(): ModelClient {
    const host = this.#bystander('probe')
    const { clock, net } = this.env(host)
    return new ModelClient({ ...this.#workload(host), clock, net, meta: this.#metaAddresses })
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.world.nowMs >= (this.#options.untilMs ?? Number.POSITIVE_INFINITY)) throw new EndedEarly()
    // A process changes in its own events and in those that are nobody's.
    const { last } = this.world
    for (const meta of this.#metas) if (last === undefined || last === meta.host) meta.check()
  }

  /** Runs until `step` has settled; fails after `forMs` of virtual time. */
  async #during<T>(what: string, forMs: number, step: () => Promise<T>): Promise<T> {
    let result: { value: T } | undefined
    step().then(
      (value) => {
        result = { value }
      },
      (error: unknown) => this.fail(error),
    )
    await this.world.run(
      this.world.nowMs + forMs,
      () => this.#check(),
      () => result !== undefined,
    )
    if (result === undefined) throw new Error(`not done within ${forMs} ms of virtual time: ${what}`)
    return result.value
  }

  async run(): Promise<SimResult> {
    try {
      await this.#run()
      return this.#result()
    } catch (error) {
      if (error instanceof EndedEarly) return this.#result()
      const cause = error instanceof Error ? error : new Error(String(error))
      throw new SimFailure(cause, this.#nemesis.kinds, this.#swarm)
    }
  }

  async #run(): Promise<void> {
    const { healMs, chaosMs } = this.#options
    for (const host of [...this.#metas, ...this.#storages]) host.start()
    const probe = this.#probe()
    const made = await this.#during('form the cluster and make a bucket', 60_000, () => probe.makeBucket())
    if (!made) throw new Error('the bucket was not made in a quiet cluster')
    for (const client of this.#clients) client.start()
    this.world.note('run', this.#plan)
    this.#nemesis.start()
    await this.world.run(this.world.nowMs + chaosMs, () => this.#check())
    this.#nemesis.stop()
    this.net.faults = { ...this.net.faults, lossRate: 0, duplicateRate: 0 }
    this.world.note('run', 'mended')
    for (const client of this.#clients) client.stop()
    await this.#during('the operator brings the members in order', healMs, () => this.#operator.settle())
    await this.#during('clients come to their end', healMs, () => this.#until(() => this.#clients.every((c) => c.over)))
    await this.#during('the cluster comes back to health', healMs, () => this.#healthy(probe))
    await this.#during('all nodes apply the same', healMs, () => this.#until(() => this.#isLevel()))
    checkHistory(this.#history)
  }

  get #plan(): string {
    return `${describeSwarm(this.#swarm)}; ${this.#nemesis.plan}`
  }

  #result(): SimResult {
    return {
      seed: this.#options.seed,
      hash: this.world.hash,
      events: this.world.events,
      virtualMs: Math.round(this.world.nowMs),
      operations: this.#clients.reduce((sum, client) => sum + client.done, 0),
      applied: this.invariants.highestApplied,
      plan: this.#plan,
    }
  }

  /** Resolves when `done` says so, asked every 10 ms. */
  async #until(done: () => boolean): Promise<void> {
    while (!done()) {
      await new Promise<void>((resolve) => {
        this.world.after(10, 'look', undefined, resolve)
      })
    }
  }

  /** Resolves when a fresh write is acknowledged, everything is readable and every chunk has its copies. */
  async #healthy(probe: ModelClient): Promise<void> {
    for (;;) {
      await new Promise<void>((resolve) => {
        this.world.after(250, 'probe', undefined, resolve)
      })
      const wrote = await probe.put('fresh')
      let readable = wrote
      for (const key of this.#keys) readable &&= await probe.read(key)
      if (!readable) {
        this.world.note('probe', `${wrote ? 'cannot read' : 'cannot write'}: ${probe.trouble}`)
        continue
      }
      const status = await probe.status()
      if (status === undefined) continue
      const chunks = status.chunks
      const waiting = Object.values(status.repair?.queue ?? {}).reduce((sum, count) => sum + count, 0)
      this.world.note('probe', `full ${chunks?.full} of ${chunks?.total}, waiting ${waiting}, ${status.summary}`)
      if (chunks?.full === chunks?.total && waiting === 0) break
    }
    this.invariants.checkWhole()
  }

  #isLevel(): boolean {
    const running = this.#metas.filter((meta) => !meta.gone)
    const ends = running.flatMap((meta) => [meta.node?.status().applied, meta.node?.status().commit])
    return new Set(ends).size === 1
  }
}

function metaConfig(i: number, count: number): MetaConfig {
  const id = `m${i + 1}`
  return {
    id,
    listen: metaAddress(i),
    advertise: [metaAddress(i)],
    dataDir: `/sim/${id}`,
    // Those of the founding, and itself when it came later.
    peers: [...Array(count).keys(), ...(i < count ? [] : [i])].map((peer) => ({
      id: `m${peer + 1}`,
      address: metaAddress(peer),
    })),
    raft: { tickMs: 20, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 10, leaseReads: false },
    witness: false,
    reserveBytes: 64 * 1024 * 1024,
    repair: { waitDegradedMs: 1500, waitAtRiskMs: 500, copiesMax: 16, copiesPerNode: 4 },
    health: { heartbeatMs: 200, suspectMs: 700, downMs: 2000 },
    gcGraceMs: 3000,
  }
}

/** Runs one seed; rejects with the first broken invariant, contradiction or missed goal, as a SimFailure. */
export async function simulate(options: SimOptions): Promise<SimResult> {
  return await new Simulation(options).run()
}
