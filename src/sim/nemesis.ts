/**
 * The one who breaks things, from the seed: crashes, power loss, pauses, cuts, resets, wrong and slow clocks, bad disks.
 *
 * Every fault it makes is one that the store promises to survive: it never takes the last intact copy of a chunk, and the
 * logs of a majority of the meta nodes stay whole (disk-faults.ts). Which faults a run has, and how often, is drawn from
 * the seed as well, because runs with all faults at once hide what one of them alone would show.
 */

import type { World } from './clock.ts'
import type { Victim } from './context.ts'
import { type DiskFaultKind, diskFaultKinds, DiskFaults } from './disk-faults.ts'
import type { MetaHost } from './meta-host.ts'
import { type OperatorKind, operatorKinds } from './operator.ts'
import type { SimNet } from './net.ts'
import type { Seeded } from './seed.ts'
import type { StorageHost } from './storage-host.ts'

export interface NemesisOptions {
  readonly world: World
  readonly net: SimNet
  readonly random: Seeded
  readonly metas: readonly MetaHost[]
  readonly storages: readonly StorageHost[]
  readonly clients: readonly Victim[]
  /** Intact copies of a chunk on all disks. */
  readonly intactCopies: (chunk: number) => number
  /** On how many disks a chunk has ever been acknowledged. */
  readonly everOn: (chunk: number) => number
  /** The faults to choose from; undefined: some of all, drawn from the seed. */
  readonly kinds: readonly FaultKind[] | undefined
  /** The meta node that leads now, as far as anybody knows. */
  readonly leader: () => string | undefined
  /** Lets the operator do something; not a fault, but it meets them. */
  readonly operate: (kind: OperatorKind) => void
}

const processFaultKinds = [
  'crash-meta',
  'crash-leader',
  'crash-storage',
  'crash-client',
  'power-loss',
  'restart-all',
  'pause',
  'isolate',
  'split',
  'lonely-leader',
  'one-way',
  'reset',
  'clock',
] as const
type ProcessFaultKind = (typeof processFaultKinds)[number]
export type FaultKind = ProcessFaultKind | DiskFaultKind | OperatorKind
export const faultKinds: readonly FaultKind[] = [...processFaultKinds, ...diskFaultKinds, ...operatorKinds]

function isDiskFault(kind: FaultKind): kind is DiskFaultKind {
  return (diskFaultKinds as readonly FaultKind[]).includes(kind)
}

function isOperatorWork(kind: FaultKind): kind is OperatorKind {
  return (operatorKinds as readonly FaultKind[]).includes(kind)
}

/** The faults of one run. */
export class Nemesis {
  readonly #options: NemesisOptions
  readonly #kinds: readonly FaultKind[]
  readonly #meanMs: number
  readonly #disks: DiskFaults
  #active = false

  constructor(options: NemesisOptions) {
    this.#options = options
    const { random } = options
    const drawn = random.shuffle(faultKinds).slice(0, 1 + random.below(10))
    this.#kinds = options.kinds ?? drawn
    this.#meanMs = random.between(200, 1500)
    this.#disks = new DiskFaults(options, (lowMs, highMs, mend) => this.#later(lowMs, highMs, mend))
  }

  /** All processes; meta nodes come and go. */
  get #victims(): readonly Victim[] {
    const { metas, storages, clients } = this.#options
    return [...metas, ...storages, ...clients]
  }

  get kinds(): readonly FaultKind[] {
    return this.#kinds
  }

  get plan(): string {
    return `${this.#kinds.join(',')} every ${Math.round(this.#meanMs)} ms`
  }

  start(): void {
    this.#active = true
    this.#next()
  }

  /** Stops and mends everything: all processes up and running, links joined, clocks right, disks sound. */
  stop(): void {
    this.#active = false
    const { net, world } = this.#options
    net.heal()
    this.#disks.stop()
    for (const victim of this.#victims) {
      victim.host.wallOffsetMs = 0
      victim.host.setRate(world.nowMs, 1)
      this.#startAgain(victim)
      if (victim.host.paused) world.resume(victim.host)
    }
  }

  #next(): void {
    const delayMs = -Math.log(1 - this.#options.random.unit()) * this.#meanMs
    this.#options.world.after(delayMs, 'nemesis', undefined, () => {
      if (!this.#active) return
      const kind = this.#options.random.pick(this.#kinds)
      this.#options.world.note('nemesis', kind)
      if (isDiskFault(kind)) this.#disks.strike(kind)
      else if (isOperatorWork(kind)) this.#options.operate(kind)
      else this.#strike(kind)
      this.#next()
    })
  }

  #later(lowMs: number, highMs: number, mend: () => void): void {
    this.#options.world.after(this.#options.random.between(lowMs, highMs), 'mend', undefined, () => {
      if (this.#active) mend()
    })
  }

  #startAgain(victim: Victim): void {
    if (!victim.host.alive && !victim.gone) victim.start()
  }

  #crash(victim: Victim | undefined): void {
    if (victim === undefined || !victim.host.alive) return
    victim.crash()
    this.#later(50, 3000, () => this.#startAgain(victim))
  }

  #leader(): MetaHost | undefined {
    const leader = this.#options.leader()
    return this.#options.metas.find((victim) => victim.host.id === leader)
  }

  #strike(kind: ProcessFaultKind): void {
    const { random, net, metas, storages, clients } = this.#options
    const victims = this.#victims
    const servers: readonly Victim[] = [...metas, ...storages]
    const one = random.pick(servers)
    switch (kind) {
      case 'crash-meta':
        return this.#crash(random.pick(metas))
      case 'crash-leader':
        return this.#crash(this.#leader())
      case 'crash-storage':
        return this.#crash(random.pick(storages))
      case 'crash-client':
        return this.#crash(random.pick(clients))
      case 'power-loss':
        for (const victim of random.chance(0.5) ? metas : servers) this.#crash(victim)
        return
      case 'restart-all':
        return this.#restartAll(servers)
      case 'pause':
        return this.#pause(one)
      case 'isolate':
        for (const other of victims) this.#cutBoth(one, other)
        return this.#later(100, 4000, () => net.heal())
      case 'split':
        return this.#split()
      case 'lonely-leader':
        return this.#lonely(this.#leader())
      case 'one-way':
        for (const other of random.chance(0.5) ? victims : [random.pick(victims)]) net.cut(one.host, other.host)
        return this.#later(100, 4000, () => net.heal())
      case 'reset':
        return net.reset(one.host, random.pick(victims).host)
      case 'clock':
        one.host.wallOffsetMs += random.between(-20_000, 20_000)
    }
  }

  /** One after the other, each for a moment, as an upgrade does it in a hurry. */
  #restartAll(servers: readonly Victim[]): void {
    const { random, world } = this.#options
    let atMs = 0
    for (const victim of random.shuffle(servers)) {
      world.after(atMs, 'restart', undefined, () => {
        if (!this.#active || !victim.host.alive) return
        victim.crash()
        this.#later(10, 300, () => this.#startAgain(victim))
      })
      atMs += random.between(10, 400)
    }
  }

  #pause(victim: Victim): void {
    if (!victim.host.alive || victim.host.paused) return
    victim.host.paused = true
    this.#later(50, 3000, () => {
      if (victim.host.paused) this.#options.world.resume(victim.host)
    })
  }

  #cutBoth(a: Victim, b: Victim): void {
    this.#options.net.cut(a.host, b.host)
    this.#options.net.cut(b.host, a.host)
  }

  #split(): void {
    const { random, net } = this.#options
    const mixed = random.shuffle(this.#victims)
    const left = mixed.slice(0, 1 + random.below(mixed.length - 1))
    const right = mixed.slice(left.length)
    for (const a of left) for (const b of right) this.#cutBoth(a, b)
    this.#later(100, 4000, () => net.heal())
  }

  /** Its peers elect another leader, while it still has its clients and a slow clock, by which it has just been heard. */
  #lonely(leader: Victim | undefined): void {
    if (leader === undefined) return
    const { net, random, world, metas } = this.#options
    for (const other of metas) if (other !== leader) this.#cutBoth(leader, other)
    leader.host.setRate(world.nowMs, random.between(0.02, 0.2))
    this.#later(1000, 4000, () => {
      leader.host.setRate(world.nowMs, 1)
      net.heal()
    })
  }
}
