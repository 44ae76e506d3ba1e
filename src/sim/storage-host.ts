/**
 * Storage nodes of a simulated run and what of them outlives their processes: the real service over the real disk engine
 * on simulated disks, or the model of agent.ts.
 *
 * Both exist for a reason. The real one is what is to be tested. The model runs in a tenth of the time and does things the
 * real one does seldom (report pages of any size, a put that survives a crash without having been acknowledged), so that
 * metadata and repair see more of them in the same hours.
 */

import { toHex } from '../base/bytes.ts'
import { asStoreError, type StoreError } from '../model/errors.ts'
import { createStorageNode } from '../services/storage/storage.ts'
import type { DiskEngine } from '../services/storage/types.ts'
import { Agent, AgentDisk } from './agent.ts'
import { SimProcess, simClock } from './clock.ts'
import { exitProcess, killProcess, type ReplicaDisk, type SimContext, type Victim } from './context.ts'
import { type DiskTimes, SimDevice } from './disk.ts'
import { RealDisk } from './real-disk.ts'
import type { Seeded } from './seed.ts'

const heartbeatMs = 200
const metaSilenceMs = 1500
/** Far more than a run stores: placement keeps room for whole chunks free. */
const capacityBytes = 8 * 1024 * 1024 * 1024

/** Where a node is and whom it attaches to. */
export interface StoragePlace {
  readonly id: string
  readonly zone: string
  readonly address: string
  readonly meta: readonly string[]
}

export interface StorageHost extends Victim {
  readonly kind: 'storage'
  readonly disks: readonly ReplicaDisk[]
  /** Puts an empty disk in the place of one; the node must not run. False when it has no such disk. */
  replaceDisk(disk: ReplicaDisk): boolean
}

/** The model of a storage node. */
export class ModelStorageHost implements StorageHost {
  readonly host: SimProcess
  readonly kind = 'storage'
  readonly devices: readonly SimDevice[] = []
  readonly gone = false
  readonly disks: readonly AgentDisk[]
  readonly #context: SimContext
  readonly #place: StoragePlace
  readonly #memory = { clusterId: '', termSeen: 0 }
  readonly #random: Seeded

  constructor(context: SimContext, place: StoragePlace) {
    this.#context = context
    this.#place = place
    this.host = new SimProcess(place.id)
    this.#random = context.random.fork(`storage ${place.id}`)
    this.disks = [new AgentDisk(toHex(this.#random.bytes(16)))]
  }

  start(): void {
    this.host.alive = true
    const { host } = this
    const { world, net, invariants } = this.#context
    const agent = new Agent({
      ...this.#place,
      disks: this.disks,
      heartbeatMs,
      metaSilenceMs,
      syncMs: 5,
      clock: simClock(world, host),
      net: net.client(host),
      random: this.#random.fork('run'),
      memory: this.#memory,
      onDeleted: (disk, id) => {
        world.note(host.id, `deleted ${id} of disk ${disk.number}`)
        this.#context.watch(() => invariants.replicaDeleted(id, disk.id))
      },
    })
    agent.bind(net.listen(host, [this.#place.address]))
    agent.start()
  }

  crash(): void {
    killProcess(this.host, this.#context.net)
    for (const disk of this.disks) disk.crash(this.#random)
  }

  replaceDisk(disk: ReplicaDisk): boolean {
    const own = this.disks.find((candidate) => candidate === disk)
    own?.replace(toHex(this.#random.bytes(16)))
    return own !== undefined
  }
}

/** The real storage node. */
export class RealStorageHost implements StorageHost {
  readonly host: SimProcess
  readonly kind = 'storage'
  readonly devices: readonly SimDevice[]
  readonly gone = false
  readonly disks: readonly RealDisk[]
  readonly #context: SimContext
  readonly #place: StoragePlace

  constructor(context: SimContext, place: StoragePlace, times: DiskTimes, diskCount: number) {
    this.#context = context
    this.#place = place
    this.host = new SimProcess(place.id)
    const random = context.random.fork(`storage ${place.id}`)
    this.devices = Array.from(
      { length: diskCount },
      () => new SimDevice(context.world, random.fork('device'), times, capacityBytes),
    )
    this.disks = this.devices.map(
      (device, i) => new RealDisk(context, `/sim/${place.id}/${i}`, place.id, random.fork(`disk ${i}`), device),
    )
  }

  start(): void {
    const { host } = this
    host.alive = true
    const { incarnation } = host
    this.#run().catch((error: unknown) => {
      if (host.incarnation !== incarnation) return
      const failure = asStoreError(error, `start ${host.id}`)
      if (this.#faulted()) this.#exit(failure)
      else this.#context.fail(failure)
    })
  }

  async #run(): Promise<void> {
    const { host } = this
    const { net } = this.#context
    const engines = await this.#openDisks()
    const env = this.#context.env(host, (event) => event.event === 'disk failed' && this.#faulted())
    const config = { ...this.#place, advertise: [this.#place.address], heartbeatMs, metaSilenceMs }
    const node = createStorageNode(env, engines, config, (error) => this.#context.fail(error))
    node.bind(net.listen(host, [this.#place.address]))
    node.start()
  }

  /** A disk that cannot be read does not keep the others from serving. */
  async #openDisks(): Promise<DiskEngine[]> {
    const opened = await Promise.allSettled(this.disks.map((disk) => disk.open(this.host)))
    const engines: DiskEngine[] = []
    let last: unknown
    for (const [i, result] of opened.entries()) {
      if (result.status === 'fulfilled') engines.push(result.value)
      else if (this.disks[i]?.device.faulted === true) last = result.reason
      else throw result.reason
    }
    if (engines.length === 0) throw last
    return engines
  }

  #faulted(): boolean {
    return this.disks.some((disk) => disk.device.faulted)
  }

  /** The process ends by itself, as it does when none of its disks can be used; somebody starts it again later. */
  #exit(reason: StoreError): void {
    this.#context.world.note(this.host.id, `ends: ${reason.message}`)
    exitProcess(this, this.#context.world)
  }

  crash(): void {
    killProcess(this.host, this.#context.net)
    for (const disk of this.disks) disk.crash()
  }

  replaceDisk(disk: ReplicaDisk): boolean {
    const own = this.disks.find((candidate) => candidate === disk)
    own?.replace()
    return own !== undefined
  }
}
