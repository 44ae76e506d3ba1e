/**
 * What goes wrong with disks: full, failing, slow, rotten, gone; and the fault atlas that keeps it survivable.
 *
 * The atlas: of every chunk that metadata may rest on, one intact copy stays on some disk; and only a minority of the meta
 * nodes ever loses its log, by rot or with its directory. Everything short of that may happen at any time.
 */

import type { ReplicaDisk, Victim } from './context.ts'
import type { SimDevice } from './disk.ts'
import type { NemesisOptions } from './nemesis.ts'
import type { StorageHost } from './storage-host.ts'

export const diskFaultKinds = [
  'rot',
  'stall',
  'write-error',
  'sync-error',
  'full',
  'wipe-disk',
  'rot-log',
  'wipe-meta',
] as const
export type DiskFaultKind = (typeof diskFaultKinds)[number]

/** What is left of a full disk: less than any reserve. */
const leftBytes = 512 * 1024

type Later = (lowMs: number, highMs: number, mend: () => void) => void

export class DiskFaults {
  readonly #options: NemesisOptions
  readonly #later: Later
  /** Meta nodes whose log was damaged or wiped. */
  readonly #lost = new Set<Victim>()
  /** A minority of the founding members; whatever an operator adds may be a member or not. */
  readonly #lostMax: number

  constructor(options: NemesisOptions, later: Later) {
    this.#options = options
    this.#lostMax = Math.floor((options.metas.length - 1) / 2)
    this.#later = later
  }

  /** All devices are sound again; processes whose disks failed are started anew, as their operators would. */
  stop(): void {
    for (const victim of this.#servers()) this.#mend(victim)
  }

  strike(kind: DiskFaultKind): void {
    const { random } = this.#options
    switch (kind) {
      case 'rot':
        return this.#rot()
      case 'stall':
        return this.#withDevice((device) => device.stall(random.between(20, 4000)))
      case 'write-error':
        return this.#withDevice((device) => {
          device.failWrites = true
        })
      case 'sync-error':
        return this.#withDevice((device) => {
          device.failSyncs = 1
        })
      case 'full':
        return this.#withDevice((device) => {
          device.fill(random.chance(0.8) ? leftBytes : 0)
        })
      case 'wipe-disk':
        return this.#wipeDisk()
      case 'rot-log':
      case 'wipe-meta':
        return this.#loseMeta(kind)
    }
  }

  #servers(): Victim[] {
    return [...this.#options.metas, ...this.#options.storages]
  }

  #withDevice(fault: (device: SimDevice) => void): void {
    const { random } = this.#options
    const victims = this.#servers().filter((victim) => victim.devices.length > 0 && !victim.gone)
    if (victims.length === 0) return
    const victim = random.pick(victims)
    fault(random.pick(victim.devices))
    this.#later(100, 4000, () => this.#mend(victim))
  }

  /** The device is sound again, and what failed with it is started anew. */
  #mend(victim: Victim): void {
    const faulted = victim.devices.some((device) => device.faulted)
    for (const device of victim.devices) device.mend()
    if (faulted && victim.host.alive) victim.crash()
    if (!victim.host.alive && !victim.gone) victim.start()
  }

  #rot(): void {
    const { random, storages, intactCopies } = this.#options
    const disk = random.pick(storages.flatMap((storage) => storage.disks))
    const ids = disk.intactIds().filter((id) => intactCopies(id) > 1)
    if (ids.length > 0) disk.rot(random.pick(ids))
  }

  /** An empty disk in the place of one. Chunks that only one disk ever acknowledged are nothing that metadata rests on. */
  #wipeDisk(): void {
    const { random, storages } = this.#options
    const storage: StorageHost = random.pick(storages)
    const disk: ReplicaDisk = random.pick(storage.disks)
    if (!disk.intactIds().every((id) => this.#maySpare(id))) return
    if (storage.host.alive) storage.crash()
    storage.replaceDisk(disk)
    this.#later(50, 3000, () => {
      if (!storage.host.alive) storage.start()
    })
  }

  #maySpare(id: number): boolean {
    const { intactCopies, everOn } = this.#options
    return intactCopies(id) > 1 || everOn(id) < 2
  }

  /** The log of one meta node is lost. It must refuse to start; what it was is replaced, or missing from then on. */
  #loseMeta(kind: 'rot-log' | 'wipe-meta'): void {
    const { random, metas } = this.#options
    const whole = metas.filter((meta) => !this.#lost.has(meta) && !meta.gone)
    if (this.#lost.size >= this.#lostMax || whole.length === 0) return
    const meta = random.pick(whole)
    if (meta.host.alive) meta.crash()
    if (kind === 'wipe-meta') meta.wipe()
    if (kind === 'wipe-meta' || meta.rotLog()) this.#lost.add(meta)
    this.#later(50, 3000, () => {
      if (!meta.host.alive && !meta.gone) meta.start()
    })
  }
}
