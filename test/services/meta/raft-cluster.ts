/**
 * Meta replicators with a toy state machine in the simulated world: real host, real log store, virtual time and disks.
 */

import { fromUtf8, utf8 } from '../../../src/base/bytes.ts'
import type { Reply } from '../../../src/core/meta/commands.ts'
import type { RaftLimits } from '../../../src/core/raft/types.ts'
import type { Entropy } from '../../../src/ports/entropy.ts'
import type { Kv } from '../../../src/ports/kv.ts'
import type { Entry } from '../../../src/core/raft/types.ts'
import type { NodeStores } from '../../../src/services/meta/log-place.ts'
import { createReplicator, type RaftReplicator } from '../../../src/services/meta/raft-host.ts'
import type { AppliedEntry, AppliedReply, StateImage, StateMachine } from '../../../src/services/meta/types.ts'
import { SimProcess, simClock, World } from '../../../src/sim/clock.ts'
import { SimDevice } from '../../../src/sim/disk.ts'
import { SimExtentDisk } from '../../../src/sim/extents.ts'
import { SimFilesDisk } from '../../../src/sim/files.ts'
import { SimKvDisk } from '../../../src/sim/kv.ts'
import { LogWatch, syncedEntries } from '../../../src/sim/log-watch.ts'
import { SimNet } from '../../../src/sim/net.ts'
import { Seeded } from '../../../src/sim/seed.ts'
import { type LoggedEvent, simEntropy, simHasher, simLog, SimMetrics } from '../../../src/sim/sinks.ts'

const times = { writeMs: 0.1, syncMs: 1, stallRate: 0, stallMs: 0 }

/** 32 hex digits from a small number. */
export function hexId(number: number): string {
  return number.toString(16).padStart(32, '0')
}

/** Runs the simulated world's steps, each after all promises of the one before were followed up. */
export function turns(step: () => boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    const next = (): void => {
      try {
        if (!step()) {
          resolve()
          return
        }
      } catch (error) {
        reject(error)
        return
      }
      setImmediate(next)
    }
    setImmediate(next)
  })
}

/** Remembers every command in order, in one key each; a snapshot is the whole list. */
export class ListMachine implements StateMachine {
  readonly #kv: Kv
  commands: string[] = []
  #index = 0
  #durable = 0
  installed = 0
  /** What is applied is not written any more. */
  lazy = false
  /** Awaited before an image taken from now on is read. */
  reading: Promise<void> = Promise.resolve()

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
    this.#durable = parsed.index
    this.commands = parsed.commands
  }

  #store(): Promise<void> {
    const value = utf8(JSON.stringify({ index: this.#index, commands: this.commands }))
    return this.#kv.batch([{ type: 'put', key: utf8('state'), value }], { sync: true })
  }

  appliedIndex(): number {
    return this.#index
  }

  durableIndex(): number {
    return this.#durable
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
    if (this.lazy) return replies
    await this.#store()
    this.#durable = this.#index
    return replies
  }

  /** Awaited in an install before it is ready, and between that and the swap. */
  beforeReady: (() => Promise<void>) | undefined
  duringSwap: (() => Promise<void>) | undefined

  /** Added to the digest: a state that is not what it should be. */
  skew = 0

  digest(): number {
    return this.#index + this.skew
  }

  onFailure(): void {}

  async snapshot(): Promise<StateImage> {
    const image = utf8(JSON.stringify({ index: this.#index, commands: this.commands }))
    const { reading } = this
    async function* pieces(): AsyncGenerator<Uint8Array> {
      await reading
      for (let at = 0; at < image.length; at += 100) yield image.slice(at, at + 100)
    }
    return { index: this.#index, term: 0, pieces: pieces() }
  }

  async install(
    index: number,
    _term: number,
    pieces: AsyncIterable<Uint8Array>,
    ready?: () => Promise<void>,
  ): Promise<void> {
    let text = ''
    for await (const piece of pieces) text += fromUtf8(piece) ?? ''
    await this.beforeReady?.()
    await ready?.()
    await this.duringSwap?.()
    await this.#kv.batch([{ type: 'put', key: utf8('state'), value: utf8(text) }], { sync: true })
    this.#load(utf8(text))
    if (this.#index !== index) throw new Error('the image is of another index')
    this.installed++
  }
}

/** How a host is started, where it differs from the rest. */
export interface HostOptions {
  readonly peers?: readonly { readonly id: string; readonly address: string }[]
  readonly witness?: boolean
  /** Highest version its program supports. */
  readonly versionMax?: number
  /** Cluster version that its state knows at the start. */
  readonly version?: number
  readonly advertise?: readonly string[]
  readonly reserveBytes?: number
}

export class Host {
  options: HostOptions = {}
  readonly process: SimProcess
  readonly device: SimDevice
  readonly kv: SimKvDisk
  readonly files: SimFilesDisk
  readonly address: string
  replicator: RaftReplicator | undefined
  machine: ListMachine | undefined
  startError: unknown
  fatal: Error | undefined
  leaderships: (number | undefined)[] = []
  /** What is written to its log. */
  readonly log = new LogWatch()
  readonly extents: SimExtentDisk
  readonly #entropy: Entropy

  constructor(world: World, random: Seeded, id: string) {
    this.process = new SimProcess(id)
    this.device = new SimDevice(world, random.fork(`${id} disk`), times, 1024 ** 4)
    this.kv = new SimKvDisk(random.fork(`${id} kv`), this.device)
    this.files = new SimFilesDisk(random.fork(`${id} files`), this.device)
    this.extents = new SimExtentDisk(random.fork(`${id} extents`), this.device)
    this.#entropy = simEntropy(random.fork(`${id} nonces`))
    this.address = `${id}:1`
  }

  get running(): RaftReplicator {
    if (this.replicator === undefined) throw new Error(`${this.process.id} does not run`)
    return this.replicator
  }

  /** Its files and stores, for a program that is not the node. */
  stores(): NodeStores {
    return {
      files: this.files.port(this.process),
      kv: this.kv.factory(this.process),
      segments: () => Promise.resolve(this.log.over(this.extents.port(this.process))),
      entropy: this.#entropy,
      segmentSizes: { first: 64 * 1024, max: 256 * 1024 },
    }
  }

  /** Flips a bit of a log entry that is synced; the host must not run. */
  rot(index: number): void {
    const place = syncedEntries(this.extents).get(index)
    if (place === undefined) throw new Error(`no entry ${index}`)
    this.extents.flip(place.segment, place.offset + 12)
  }

  /** A log entry, as it was written. */
  logEntry(index: number): Entry | undefined {
    return this.log.entry(index)
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
  times = { tickMs: 50, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 10, leaseReads: false }

  constructor(ids: readonly string[], limits: Partial<RaftLimits> = {}, seed = 1) {
    this.#random = new Seeded(seed)
    this.#limits = limits
    this.world = new World({ turns })
    const faults = { delayMinMs: 0.2, delayMeanMs: 0.2, lossRate: 0, duplicateRate: 0 }
    this.net = new SimNet(this.world, this.#random.fork('net'), faults)
    this.hosts = ids.map((id) => new Host(this.world, this.#random, id))
  }

  host(id: string): Host {
    const host = this.hosts.find((item) => item.process.id === id)
    if (host === undefined) throw new Error(`no host ${id}`)
    return host
  }

  /** One more host, which does not run yet; its peers are those that were there before, and itself. */
  join(id: string, options: HostOptions = {}): Host {
    const host = new Host(this.world, this.#random, id)
    this.hosts.push(host)
    const peers = this.hosts.map((peer) => ({ id: peer.process.id, address: peer.address }))
    host.options = { peers, ...options }
    return host
  }

  /** Starts a host; `peers` defaults to those of its options, or all. */
  async start(host: Host, peers?: readonly Host[]): Promise<void> {
    const { process, options } = host
    const listed = peers?.map((peer) => ({ id: peer.process.id, address: peer.address })) ?? options.peers
    const all = this.hosts.map((peer) => ({ id: peer.process.id, address: peer.address }))
    const advertise = options.advertise ?? [host.address]
    const witness = options.witness === true
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
    const machine = witness ? undefined : await new ListMachine(await factory.open('state')).open()
    host.machine = machine
    const replicator = createReplicator(
      env,
      host.stores(),
      machine,
      {
        id: process.id,
        listen: host.address,
        advertise,
        dataDir: '',
        peers: listed ?? all,
        raft: this.times,
        witness,
        reserveBytes: options.reserveBytes ?? 0,
        repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 1, copiesPerNode: 1 },
        health: { heartbeatMs: 500, suspectMs: 3000, downMs: 10_000 },
        gcGraceMs: 0,
      },
      this.#limits,
      options.versionMax ?? 2,
    )
    host.replicator = replicator
    host.fatal = undefined
    replicator.setVersion(options.version ?? 2)
    host.leaderships = []
    replicator.onLeadership((term) => host.leaderships.push(term))
    replicator.onFatal((reason) => {
      host.fatal = reason
    })
    replicator.bind(this.net.listen(process, [host.address, ...advertise]))
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
    host.extents.crash()
  }

  /** The process stands still; its peers find its connections open and silent. */
  pause(host: Host): void {
    host.process.paused = true
  }

  resume(host: Host): void {
    this.world.resume(host.process)
  }

  /** A new disk in the place of the old one. */
  wipe(host: Host): void {
    host.kv.wipe()
    host.files.wipe()
    host.extents.wipe()
  }

  /** Cuts or joins everything between `host` and all others. */
  isolate(host: Host): void {
    for (const other of this.hosts) {
      this.net.cut(host.process, other.process)
      this.net.cut(other.process, host.process)
    }
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
    // A paused host does not know better.
    const leading = this.hosts.filter(
      (host) => host.process.alive && !host.process.paused && host.leaderships.at(-1) !== undefined,
    )
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
