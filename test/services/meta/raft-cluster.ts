/**
 * Meta replicators with a toy state machine in the simulated world: real host, real log store, virtual time and disks.
 */

import { setImmediate as nextTurn } from 'node:timers/promises'
import { fromUtf8, utf8 } from '../../../src/base/bytes.ts'
import type { Reply } from '../../../src/core/meta/commands.ts'
import type { RaftLimits } from '../../../src/core/raft/types.ts'
import type { Kv, KvFactory } from '../../../src/ports/kv.ts'
import { createReplicator, type RaftReplicator } from '../../../src/services/meta/raft-host.ts'
import type { AppliedEntry, AppliedReply, StateMachine } from '../../../src/services/meta/types.ts'
import { SimProcess, simClock, World } from '../../../src/sim/clock.ts'
import { SimFilesDisk } from '../../../src/sim/files.ts'
import { SimKvDisk } from '../../../src/sim/kv.ts'
import { SimNet } from '../../../src/sim/net.ts'
import { Seeded } from '../../../src/sim/seed.ts'
import { type LoggedEvent, simEntropy, simHasher, simLog, SimMetrics } from '../../../src/sim/sinks.ts'

const times = { writeMs: 0.1, syncMs: 1, stallRate: 0, stallMs: 0 }

/** Remembers every command in order, in one key each; a snapshot is the whole list. */
export class ListMachine implements StateMachine {
  readonly #kv: Kv
  commands: string[] = []
  #index = 0
  installed = 0

  constructor(kv: Kv) {
    this.#kv = kv
  }

  async open(): Promise<this> {
    const state = await this.#kv.get(utf8('state'))
    if (state !== undefined) this.#load(state)
    return this
  }

  #load(state: Uint8Array): void {
    const parsed = JSON.parse(fromUtf8(state) ?? '') as { index: number; commands: string[] }
    this.#index = parsed.index
    this.commands = parsed.commands
  }

  #store(): Promise<void> {
    const value = utf8(JSON.stringify({ index: this.#index, commands: this.commands }))
    return this.#kv.batch([{ type: 'put', key: utf8('state'), value }], { sync: true })
  }

  appliedIndex(): number {
    return this.#index
  }

  async apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]> {
    const replies: AppliedReply[] = []
    for (const entry of entries) {
      if (entry.index !== this.#index + 1) throw new Error(`applied ${entry.index} after ${this.#index}`)
      this.#index = entry.index
      const text = fromUtf8(entry.payload) ?? ''
      if (text !== '') this.commands.push(text)
      const reply: Reply = { ok: true, kind: 'bucket', name: text, createdMs: entry.index }
      replies.push({ reply, effects: [] })
    }
    await this.#store()
    return replies
  }

  digest(): number {
    return this.#index
  }

  snapshot(): { index: number; term: number; pieces: AsyncIterable<Uint8Array> } {
    const image = utf8(JSON.stringify({ index: this.#index, commands: this.commands }))
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < image.length; at += 100) yield image.slice(at, at + 100)
    }
    return { index: this.#index, term: 0, pieces: pieces() }
  }

  async install(index: number, _term: number, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    let text = ''
    for await (const piece of pieces) text += fromUtf8(piece) ?? ''
    await this.#kv.batch([{ type: 'put', key: utf8('state'), value: utf8(text) }], { sync: true })
    this.#load(utf8(text))
    if (this.#index !== index) throw new Error('the image is of another index')
    this.installed++
  }
}

export class Host {
  readonly process: SimProcess
  readonly kv: SimKvDisk
  readonly files: SimFilesDisk
  readonly address: string
  replicator: RaftReplicator | undefined
  machine: ListMachine | undefined
  startError: unknown
  fatal: Error | undefined
  leaderships: (number | undefined)[] = []
  logBatches = 0
  /** When set, batches of the log fail with it. */
  logError: Error | undefined

  constructor(world: World, random: Seeded, id: string) {
    this.process = new SimProcess(id)
    this.kv = new SimKvDisk(world, random.fork(`${id} kv`), times)
    this.files = new SimFilesDisk(world, random.fork(`${id} files`), times)
    this.address = `${id}:1`
    this.kv.onBatch((store) => {
      if (store === 'raft-log') this.logBatches++
    })
  }

  get running(): RaftReplicator {
    if (this.replicator === undefined) throw new Error(`${this.process.id} does not run`)
    return this.replicator
  }

  get commands(): string[] {
    return this.machine?.commands ?? []
  }
}

export class Cluster {
  readonly world: World
  readonly net: SimNet
  readonly hosts: Host[]
  readonly events: LoggedEvent[] = []
  readonly #random: Seeded
  readonly #limits: Partial<RaftLimits>

  constructor(ids: readonly string[], limits: Partial<RaftLimits> = {}, seed = 1) {
    this.#random = new Seeded(seed)
    this.#limits = limits
    this.world = new World({ drain: async () => await nextTurn() })
    const faults = { delayMinMs: 0.2, delayMeanMs: 0.2, lossRate: 0, duplicateRate: 0 }
    this.net = new SimNet(this.world, this.#random.fork('net'), faults)
    this.hosts = ids.map((id) => new Host(this.world, this.#random, id))
  }

  host(id: string): Host {
    const host = this.hosts.find((item) => item.process.id === id)
    if (host === undefined) throw new Error(`no host ${id}`)
    return host
  }

  /** Starts a host; `peers` defaults to all. */
  async start(host: Host, peers: readonly Host[] = this.hosts): Promise<void> {
    const { process } = host
    process.alive = true
    host.startError = undefined
    const env = {
      clock: simClock(this.world, process),
      entropy: simEntropy(this.#random.fork(`${process.id} ${process.incarnation}`)),
      hasher: simHasher,
      net: this.net.client(process),
      log: simLog(this.world, process.id, (event) => this.events.push(event)),
      metrics: new SimMetrics(),
    }
    const factory = host.kv.factory(process)
    const kv: KvFactory = {
      destroy: factory.destroy,
      open: async (name) => {
        const opened = await factory.open(name)
        if (name !== 'raft-log') return opened
        const batch: Kv['batch'] = async (operations, options) => {
          if (host.logError !== undefined) throw host.logError
          await opened.batch(operations, options)
        }
        return { ...opened, batch }
      },
    }
    const machine = await new ListMachine(await factory.open('state')).open()
    host.machine = machine
    const replicator = createReplicator(
      env,
      { files: host.files.port(process), kv },
      machine,
      {
        id: process.id,
        listen: host.address,
        advertise: [host.address],
        dataDir: '',
        peers: peers.map((peer) => ({ id: peer.process.id, address: peer.address })),
        raft: { tickMs: 50, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 10, leaseReads: false },
        witness: false,
        reserveBytes: 0,
        repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 1, copiesPerNode: 1 },
        health: { heartbeatMs: 500, suspectMs: 3000, downMs: 10_000 },
        gcGraceMs: 0,
      },
      this.#limits,
    )
    host.replicator = replicator
    host.leaderships = []
    replicator.onLeadership((term) => host.leaderships.push(term))
    replicator.onFatal((reason) => {
      host.fatal = reason
    })
    replicator.bind(this.net.listen(process, [host.address]))
    const { incarnation } = process
    replicator.start().catch((error: unknown) => {
      if (process.incarnation === incarnation) host.startError = error
    })
  }

  async startAll(): Promise<void> {
    for (const host of this.hosts) await this.start(host)
  }

  crash(host: Host): void {
    const { process } = host
    process.alive = false
    process.paused = false
    process.held = []
    process.incarnation++
    host.replicator = undefined
    this.net.crash(process)
    host.kv.crash()
    host.files.crash()
  }

  /** Runs virtual time until `done`; fails after `limitMs` of it. */
  async until(what: string, done: () => boolean, limitMs = 20_000): Promise<void> {
    await this.world.run(this.world.nowMs + limitMs, () => {}, done)
    if (!done()) throw new Error(`not within ${limitMs} ms: ${what}`)
  }

  async run(ms: number): Promise<void> {
    await this.world.run(this.world.nowMs + ms, () => {})
  }

  /** The host that leads with announced leadership, in the highest term. */
  leader(): Host | undefined {
    const leading = this.hosts.filter((host) => host.process.alive && host.leaderships.at(-1) !== undefined)
    return leading.toSorted((a, b) => (b.leaderships.at(-1) ?? 0) - (a.leaderships.at(-1) ?? 0))[0]
  }

  async untilLeader(): Promise<Host> {
    await this.until('a leader', () => this.leader() !== undefined)
    const leader = this.leader()
    if (leader === undefined) throw new Error('no leader')
    return leader
  }

  /** Waits for a promise while virtual time passes. */
  async outcome<T>(promise: Promise<T>, limitMs = 20_000): Promise<{ value: T } | { error: unknown }> {
    let settled: { value: T } | { error: unknown } | undefined
    promise.then(
      (value) => {
        settled = { value }
      },
      (error: unknown) => {
        settled = { error }
      },
    )
    await this.until('an answer', () => settled !== undefined, limitMs)
    return settled ?? { error: undefined }
  }

  async propose(host: Host, text: string): Promise<void> {
    const outcome = await this.outcome(host.running.propose(utf8(text)))
    if ('error' in outcome) throw outcome.error
  }
}
