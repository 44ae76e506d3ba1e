/**
 * A meta node of a simulated run: the real service, and what of it outlives its processes.
 *
 * After every event the oracles look at who leads and at what was applied: index, digest, and each entry between. A node
 * that cannot go on ends by itself, as the real process does; that is a failure of the run unless its disk was made to
 * fail. A node that refuses to start is `gone` when its disk was damaged, and a failure of the run otherwise.
 */

import type { MetaConfig } from '../config/types.ts'
import type { RaftLimits } from '../core/raft/types.ts'
import { asStoreError, type ErrorCode } from '../model/errors.ts'
import { createMetaNode, type MetaNode } from '../services/meta/meta.ts'
import { SimProcess } from './clock.ts'
import { exitProcess, killProcess, type SimContext, type Victim } from './context.ts'
import { type DiskTimes, SimDevice } from './disk.ts'
import { SimExtentDisk } from './extents.ts'
import { SimFilesDisk } from './files.ts'
import { SimKvDisk } from './kv.ts'
import { LogWatch, syncedEntries } from './log-watch.ts'
import type { Seeded } from './seed.ts'

/** Written when a snapshot becomes the state. */
const pointerFile = 'state-current'
const capacityBytes = 1024 * 1024 * 1024
/** Small, so that a run of seconds fills, rolls and recycles some. */
const segmentSizes = { first: 64 * 1024, max: 256 * 1024 }

/** With what a node with a damaged disk may refuse to start. */
const refusals: readonly ErrorCode[] = ['CORRUPT', 'DATA_LOST', 'WRONG_CLUSTER']

export class MetaHost implements Victim {
  readonly host: SimProcess
  readonly kind = 'meta'
  readonly device: SimDevice
  readonly devices: readonly SimDevice[]
  readonly kv: SimKvDisk
  node: MetaNode | undefined
  /** It refused to start, or is out of the cluster: only another node can take its place. */
  gone = false
  /** It was, or is being, removed from the cluster: it may end as soon as it hears of that. */
  removed = false
  /** It is being added: until it counts it may end because somebody it asks lags behind. */
  joining = false
  readonly #context: SimContext
  readonly #config: MetaConfig
  readonly #limits: Partial<RaftLimits>
  readonly #files: SimFilesDisk
  /** Segment files of the log, and what was written into them. */
  readonly #extents: SimExtentDisk
  readonly #log = new LogWatch()
  readonly #random: Seeded
  /** Its disk rotted or was wiped since it last started. */
  #damaged = false
  /** Applied entries up to here were compared with those of the other nodes. */
  #compared = 0
  /** Nothing of this incarnation was compared yet: its state may be behind what the last one had applied. */
  #fresh = true
  /** A snapshot has taken the place of the state since it was last looked at. */
  #installed = false

  constructor(context: SimContext, config: MetaConfig, times: DiskTimes, limits: Partial<RaftLimits>) {
    this.#context = context
    this.#config = config
    this.#limits = limits
    this.host = new SimProcess(config.id)
    this.#random = context.random.fork(config.id)
    this.device = new SimDevice(context.world, this.#random.fork('device'), times, capacityBytes)
    this.devices = [this.device]
    this.kv = new SimKvDisk(this.#random.fork('kv'), this.device)
    this.#files = new SimFilesDisk(this.#random.fork('files'), this.device)
    this.#extents = new SimExtentDisk(this.#random.fork('extents'), this.device)
    this.#files.onWrite((name) => {
      if (name === pointerFile) this.#installed = true
    })
  }

  start(): void {
    const { host } = this
    host.alive = true
    const env = this.#context.env(host, () => this.device.faulted || this.#damaged || this.removed)
    const stores = {
      files: this.#files.port(host),
      kv: this.kv.factory(host),
      segments: () => Promise.resolve(this.#log.over(this.#extents.port(host))),
      entropy: env.entropy,
      segmentSizes,
    }
    const node = createMetaNode(env, stores, this.#config, this.#limits)
    this.node = node
    this.#fresh = true
    this.#installed = false
    node.onFatal((reason) => this.#fatal(reason))
    node.bind(this.#context.net.listen(host, this.#config.advertise))
    const { incarnation } = host
    node.start().catch((error: unknown) => {
      if (host.incarnation === incarnation) this.#refused(error)
    })
  }

  get address(): string {
    return this.#config.listen
  }

  #fatal(reason: Error): void {
    // A disk that fails ends a process that comes back; only hearing that it is out ends it for good.
    if (this.#failed(reason)) this.#exit(reason.message)
    else if (this.removed) this.#leave(reason.message)
    else this.#context.fail(reason)
  }

  #refused(error: unknown): void {
    const failure = asStoreError(error, `start ${this.host.id}`)
    if (this.#failed(failure) || this.joining) this.#exit(failure.message)
    else if (this.removed || (this.#damaged && refusals.includes(failure.code))) this.#leave(failure.message)
    else this.#context.fail(failure)
  }

  /** Its disk was made to fail, or to be full when the log needed room. */
  #failed(reason: Error): boolean {
    const full = this.device.othersBytes > 0 && asStoreError(reason, 'run').code === 'NO_SPACE'
    return this.device.faulted || full
  }

  /** It cannot be what it was any more. */
  #leave(why: string): void {
    this.gone = true
    this.#exit(why)
  }

  #exit(why: string): void {
    this.#context.world.note(this.host.id, `ends: ${why}`)
    exitProcess(this, this.#context.world)
  }

  crash(): void {
    killProcess(this.host, this.#context.net)
    this.node = undefined
    this.kv.crash()
    this.#files.crash()
    this.#extents.crash()
    this.device.faulted = false
  }

  /**
   * Flips a bit of an entry of its log that it knows to be synced; the node must not run. False when there is none: what
   * is beyond the watermark cannot be told from a torn write.
   */
  rotLog(): boolean {
    const places = [...syncedEntries(this.#extents).values()]
    if (places.length === 0) return false
    const { segment, offset, length } = this.#random.pick(places)
    if (!this.#extents.flip(segment, offset + this.#random.below(length))) return false
    this.#damaged = true
    return true
  }

  /** Its directory is empty from now on; the node must not run. */
  wipe(): void {
    this.kv.wipe()
    this.#files.wipe()
    this.#extents.wipe()
    this.#damaged = true
  }

  /** Starts it under its old name with an empty directory, to be added anew. */
  revive(): void {
    if (this.host.alive) this.crash()
    this.wipe()
    this.#damaged = false
    this.#compared = 0
    this.gone = false
    this.removed = false
    this.joining = true
    this.start()
  }

  /** Looks at who leads and what was applied; called after every event. */
  check(): void {
    const { node, host } = this
    if (node === undefined) return
    const { invariants, world } = this.#context
    const status = node.status()
    if (status.role === 'leader') invariants.leads(host.id, status.term)
    const { index, digest } = node.applied()
    if (index === 0 || (index === this.#compared && !this.#fresh)) return
    if (index < this.#compared && !this.#fresh) {
      throw new Error(`applied of ${host.id} went back from ${this.#compared} to ${index}`)
    }
    world.note(host.id, `applied ${index}`)
    invariants.digest(host.id, index, digest)
    // What came as a snapshot is not in the log, which may still be the one that the snapshot replaces.
    const from = this.#installed ? index : Math.min(this.#compared, index)
    for (let at = from + 1; at <= index; at++) {
      const entry = this.#log.entry(at)
      if (entry !== undefined) invariants.applied(host.id, entry)
    }
    this.#compared = index
    this.#fresh = false
    this.#installed = false
  }

  /** What the state has under a key, as applied; undefined while the node does not run. */
  peek(): ((key: Uint8Array) => Uint8Array | undefined) | undefined {
    const { node } = this
    return node === undefined || this.#fresh ? undefined : (key) => node.peek(key)
  }

  get appliedIndex(): number {
    return this.#compared
  }
}
