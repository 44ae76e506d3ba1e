/**
 * One simulated run: three real meta nodes (the real service, the real Raft core) and simulated storage nodes and
 * clients, in one process, on virtual time, from one seed.
 *
 * Phases: form the cluster in quiet; let clients work while the nemesis strikes; mend everything; then demand that the
 * cluster comes back to health by itself: a leader, a fresh write, every acknowledged object readable, every chunk at
 * its wanted copies, equal digests. Invariants are checked after every event, the clients' history at the end.
 * The same seed gives the same run, event for event; `hash` says so.
 */

import { toHex } from '../base/bytes.ts'
import type { MetaConfig } from '../config/types.ts'
import type { RaftLimits } from '../core/raft/types.ts'
import type { Env } from '../ports/env.ts'
import type { KvOperation } from '../ports/kv.ts'
import { decodeEntry, entryKey } from '../services/meta/log-format.ts'
import { createMetaNode, type MetaNode } from '../services/meta/meta.ts'
import { Agent, AgentDisk } from './agent.ts'
import { SimProcess, simClock, type TraceLine, World } from './clock.ts'
import { SimFilesDisk } from './files.ts'
import { checkHistory, History } from './history.ts'
import { appliedIn, Invariants } from './invariants.ts'
import { type DiskTimes, SimKvDisk } from './kv.ts'
import { type FaultKind, Nemesis, type Victim } from './nemesis.ts'
import { SimNet } from './net.ts'
import { Seeded } from './seed.ts'
import { type LoggedEvent, simEntropy, simHasher, simLog, SimMetrics } from './sinks.ts'
import { SimClient } from './workload.ts'

export interface SimOptions {
  readonly seed: number
  /** One turn of the real event loop: resolves when every settled promise has been followed up. */
  readonly drain: () => Promise<void>
  readonly trace?: TraceLine | undefined
  /** The faults to choose from; by default some of all, drawn from the seed. */
  readonly faults?: readonly FaultKind[] | undefined
  /** Virtual time during which things break. */
  readonly chaosMs: number
  /** Virtual time the cluster is given to come back to health afterwards. */
  readonly healMs: number
}

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

const metaCount = 3
const storageCount = 5
const clientCount = 5
const keyCount = 4
const copies = 3

function metaAddress(i: number): string {
  return `10.0.0.${i + 1}:7400`
}

/** A meta node and what survives its crashes. */
class MetaHost implements Victim {
  readonly host: SimProcess
  readonly kind = 'meta'
  readonly kv: SimKvDisk
  readonly files: SimFilesDisk
  node: MetaNode | undefined
  readonly #sim: Simulation
  readonly #config: MetaConfig
  /** Applied entries up to here were compared with those of the other nodes. */
  #compared = 0
  /** Name of the state's store; another one after a snapshot was installed. */
  #store = ''
  /** A snapshot that is or was written into another store. */
  #image: { readonly store: string; readonly index: number } | undefined
  readonly #limits: Partial<RaftLimits>

  constructor(sim: Simulation, config: MetaConfig, times: DiskTimes, limits: Partial<RaftLimits>) {
    this.#sim = sim
    this.#config = config
    this.#limits = limits
    this.host = new SimProcess(config.id)
    this.kv = new SimKvDisk(sim.world, sim.random.fork(`${config.id} kv`), times)
    this.files = new SimFilesDisk(sim.world, sim.random.fork(`${config.id} files`), times)
    this.kv.onBatch((store, operations, sync) => {
      if (!store.startsWith('state') || this.#isImage(store, operations, sync)) return
      sim.watch(() => {
        const index = sim.invariants.stateWritten(config.id, operations)
        if (index !== undefined) this.#appliedUpTo(store, index)
      })
    })
  }

  /**
   * True for writes of a snapshot into a store that is not the state yet, and may never be: it counts, as a whole, with
   * the first entry that is applied on it.
   */
  #isImage(store: string, operations: readonly KvOperation[], sync: boolean): boolean {
    if (store === this.#store || this.#store === '') return false
    const index = appliedIn(operations)?.index
    if (index === undefined) return true
    if (this.#image?.store === store && sync && index > this.#image.index) return false
    if (!sync || this.#image?.store !== store) this.#image = { store, index }
    return true
  }

  /** Compares what was applied with what the other nodes applied there, entry by entry. */
  #appliedUpTo(store: string, index: number): void {
    this.#sim.world.note(this.host.id, `applied ${index}`)
    if (store !== this.#store && this.#store !== '') {
      // The state came as a snapshot, into a new store. The log beside it may still be the one it replaces.
      this.#compared = this.#image?.index ?? index
    }
    this.#store = store
    for (let at = this.#compared + 1; at <= index; at++) {
      const stored = this.kv.peek('raft-log', entryKey(at))
      const entry = stored === undefined ? undefined : decodeEntry(stored)?.entry
      if (entry === undefined) continue
      const text = `term ${entry.term} ${entry.type} ${toHex(entry.payload)}`
      this.#sim.invariants.applied(this.host.id, at, text)
    }
    this.#compared = index
  }

  start(): void {
    this.host.alive = true
    const { host } = this
    const env = this.#sim.env(host)
    const node = createMetaNode(
      env,
      { files: this.files.port(host), kv: this.kv.factory(host) },
      this.#config,
      this.#limits,
    )
    this.node = node
    node.onFatal((reason) => this.#sim.fail(reason))
    node.bind(this.#sim.net.listen(host, this.#config.advertise))
    const { incarnation } = host
    node.start().catch((error: unknown) => {
      if (host.incarnation === incarnation) this.#sim.fail(error)
    })
  }

  crash(): void {
    this.host.alive = false
    this.host.paused = false
    this.host.held = []
    this.host.incarnation++
    this.node = undefined
    this.#sim.net.crash(this.host)
    this.kv.crash()
    this.files.crash()
  }

  /** Looks at who leads; called after every event. */
  check(): void {
    const status = this.node?.status()
    if (status?.role === 'leader') {
      this.#sim.invariants.leads(this.host.id, status.term)
    }
  }
}

/** A simulated storage node and its disks. */
class StorageHost implements Victim {
  readonly host: SimProcess
  readonly kind = 'storage'
  readonly disks: readonly AgentDisk[]
  readonly #sim: Simulation
  readonly #address: string
  readonly #zone: string
  readonly #memory = { clusterId: '', termSeen: 0 }
  readonly #random: Seeded
  agent: Agent | undefined

  constructor(sim: Simulation, i: number, disks: readonly AgentDisk[]) {
    this.#sim = sim
    this.host = new SimProcess(`s${i + 1}`)
    this.#address = `10.0.1.${i + 1}:7500`
    this.#zone = `z${(i % 2) + 1}`
    this.disks = disks
    this.#random = sim.random.fork(`storage ${i}`)
  }

  start(): void {
    this.host.alive = true
    const { host } = this
    this.agent = new Agent({
      id: host.id,
      zone: this.#zone,
      address: this.#address,
      meta: Array.from({ length: metaCount }, (_, i) => metaAddress(i)),
      disks: this.disks,
      heartbeatMs: 200,
      metaSilenceMs: 1500,
      syncMs: 5,
      clock: simClock(this.#sim.world, host),
      net: this.#sim.net.client(host),
      random: this.#random.fork('run'),
      memory: this.#memory,
      onDeleted: (disk, id) => {
        this.#sim.world.note(host.id, `deleted ${id} of disk ${disk.number}`)
        this.#sim.watch(() => this.#sim.invariants.replicaGone(id))
      },
    })
    this.agent.bind(this.#sim.net.listen(host, [this.#address]))
    this.agent.start()
  }

  crash(): void {
    this.host.alive = false
    this.host.paused = false
    this.host.held = []
    this.host.incarnation++
    this.#sim.net.crash(this.host)
    for (const disk of this.disks) disk.crash(this.#random)
  }
}

/** A run and everything in it. */
class Simulation {
  readonly world: World
  readonly random: Seeded
  readonly net: SimNet
  readonly invariants: Invariants
  readonly history = new History()
  readonly #options: SimOptions
  readonly #metas: readonly MetaHost[]
  readonly #storages: readonly StorageHost[]
  readonly #clients: readonly SimClient[]
  readonly #nemesis: Nemesis
  #failure: Error | undefined

  constructor(options: SimOptions) {
    this.#options = options
    this.world = new World({ drain: options.drain, trace: options.trace })
    this.random = new Seeded(options.seed)
    const swarm = this.random.fork('swarm')
    this.net = new SimNet(this.world, this.random.fork('net'), {
      delayMinMs: swarm.between(0.1, 5),
      delayMeanMs: swarm.between(0.1, 10),
      lossRate: swarm.chance(0.5) ? swarm.between(0, 0.01) : 0,
      duplicateRate: swarm.chance(0.5) ? swarm.between(0, 0.1) : 0,
    })
    const times: DiskTimes = {
      writeMs: swarm.between(0.05, 0.5),
      syncMs: swarm.between(0.2, 8),
      stallRate: swarm.chance(0.3) ? 0.01 : 0,
      stallMs: swarm.between(10, 800),
    }
    // A short log makes laggards need a snapshot; a long one never does.
    const compactEntries = swarm.chance(0.5) ? 20 + swarm.below(60) : 20_000
    const limits = { compactEntries, trailingEntries: Math.floor(compactEntries / 4) }
    const disks = Array.from({ length: storageCount }, () => new AgentDisk(toHex(this.random.bytes(16))))
    this.invariants = new Invariants(disks, this.history.writes)
    this.#metas = Array.from({ length: metaCount }, (_, i) => new MetaHost(this, metaConfig(i), times, limits))
    this.#storages = disks.map((disk, i) => new StorageHost(this, i, [disk]))
    const clientHosts = Array.from({ length: clientCount + 1 }, (_, i) => this.#client(i))
    this.#clients = clientHosts.map((host) => host.client)
    this.#nemesis = new Nemesis({
      world: this.world,
      net: this.net,
      random: this.random.fork('nemesis'),
      victims: [...this.#metas, ...this.#storages, ...clientHosts.slice(1).map((host) => host.victim)],
      disks,
      intactCopies: (id) => this.invariants.intactCopies(id),
      kinds: options.faults,
      leader: () => this.leader(),
    })
  }

  env(host: SimProcess): Env {
    return {
      clock: simClock(this.world, host),
      entropy: simEntropy(this.random.fork(`${host.id} entropy ${host.incarnation}`)),
      hasher: simHasher,
      net: this.net.client(host),
      log: simLog(this.world, host.id, (event) => this.#logged(event)),
      metrics: new SimMetrics(),
    }
  }

  leader(): string | undefined {
    return this.#metas.find((meta) => meta.node?.status().role === 'leader')?.host.id
  }

  /** Runs a check inside of a service's call: what it throws ends the run, and the service does not get to catch it. */
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

  #logged(event: LoggedEvent): void {
    if (event.level === 'error')
      this.fail(new Error(`${event.host} logged an error: ${event.event} ${JSON.stringify(event.fields)}`))
  }

  #client(i: number): { client: SimClient; victim: Victim } {
    const host = new SimProcess(i === 0 ? 'probe' : `c${i}`)
    host.alive = true
    const client = new SimClient({
      clock: simClock(this.world, host),
      net: this.net.client(host),
      random: this.random.fork(host.id),
      meta: Array.from({ length: metaCount }, (_, at) => metaAddress(at)),
      history: this.history,
      keys: Array.from({ length: keyCount }, (_, at) => `key-${at}`),
      copies,
      trueMs: () => this.world.nowMs,
      onAcked: (key, version, chunks) => this.invariants.acknowledged(key, version, chunks),
    })
    return { client, victim: { host, kind: 'client', crash: () => {}, start: () => {} } }
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure
    for (const meta of this.#metas) meta.check()
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
    for (const host of [...this.#metas, ...this.#storages]) host.start()
    const probe = this.#clients[0] as SimClient
    const made = await this.#during('form the cluster and make a bucket', 60_000, () => probe.makeBucket())
    if (!made) throw new Error('the bucket was not made in a quiet cluster')
    const workers = this.#clients.slice(1)
    const working = Promise.all(workers.map((client) => client.run())).catch((error: unknown) => this.fail(error))
    this.world.note('run', `nemesis: ${this.#nemesis.plan}`)
    this.#nemesis.start()
    await this.world.run(this.world.nowMs + this.#options.chaosMs, () => this.#check())
    this.#nemesis.stop()
    this.net.faults = { ...this.net.faults, lossRate: 0, duplicateRate: 0 }
    this.world.note('run', 'mended')
    for (const client of workers) client.stopped = true
    await this.#during('clients come to their end', this.#options.healMs, () => working)
    await this.#during('the cluster comes back to health', this.#options.healMs, () => this.#healthy(probe))
    await this.#during('all nodes apply the same', this.#options.healMs, () => this.#level())
    checkHistory(this.history)
    return {
      seed: this.#options.seed,
      hash: this.world.hash,
      events: this.world.events,
      virtualMs: Math.round(this.world.nowMs),
      operations: this.#clients.reduce((sum, client) => sum + client.done, 0),
      applied: Math.max(...this.#metas.map((meta) => this.invariants.appliedOf(meta.host.id))),
      plan: this.#nemesis.plan,
    }
  }

  /** Resolves when a fresh write is acknowledged, everything is readable and every chunk has its copies. */
  async #healthy(probe: SimClient): Promise<void> {
    for (;;) {
      await new Promise<void>((resolve) => {
        this.world.after(250, 'probe', undefined, resolve)
      })
      const wrote = await probe.put('fresh')
      let readable = wrote
      for (let i = 0; i < keyCount && readable; i++) readable = await probe.read(`key-${i}`)
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
    for (const object of this.invariants.mustBeThere()) {
      for (const chunk of object.chunks) {
        const intact = this.invariants.intactCopies(chunk.id)
        if (intact < 1) throw new Error(`chunk ${chunk.id} of ${object.key} has no intact copy after healing`)
      }
    }
  }

  async #level(): Promise<void> {
    for (;;) {
      const ends = this.#metas.flatMap((meta) => [meta.node?.status().applied, meta.node?.status().commit])
      if (new Set(ends).size === 1) return
      await new Promise<void>((resolve) => {
        this.world.after(10, 'level', undefined, resolve)
      })
    }
  }
}

function metaConfig(i: number): MetaConfig {
  const id = `m${i + 1}`
  return {
    id,
    listen: metaAddress(i),
    advertise: [metaAddress(i)],
    dataDir: `/sim/${id}`,
    peers: Array.from({ length: metaCount }, (_, peer) => ({ id: `m${peer + 1}`, address: metaAddress(peer) })),
    raft: { tickMs: 20, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 10, leaseReads: false },
    witness: false,
    reserveBytes: 0,
    repair: { waitDegradedMs: 1500, waitAtRiskMs: 500, copiesMax: 16, copiesPerNode: 4 },
    health: { heartbeatMs: 200, suspectMs: 700, downMs: 2000 },
    gcGraceMs: 3000,
  }
}

/** Runs one seed; rejects with the first broken invariant, contradiction or missed goal. */
export async function simulate(options: SimOptions): Promise<SimResult> {
  return await new Simulation(options).run()
}
