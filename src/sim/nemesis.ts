/**
 * The one who breaks things, from the seed: crashes, power loss, pauses, cuts, resets, wrong and slow clocks, rot.
 *
 * Every fault it makes is one that the store promises to survive: it never takes the last intact copy of a chunk, and
 * disks keep what they acknowledged. Which faults a run has, and how often, is drawn from the seed as well, because runs
 * with all faults at once hide what one of them alone would show.
 */

import type { AgentDisk } from './agent.ts'
import type { SimProcess, World } from './clock.ts'
import type { SimNet } from './net.ts'
import type { Seeded } from './seed.ts'

/** What the nemesis can do to one process. */
export interface Victim {
  readonly host: SimProcess
  readonly kind: 'meta' | 'storage' | 'client'
  crash(): void
  start(): void
}

export interface NemesisOptions {
  readonly world: World
  readonly net: SimNet
  readonly random: Seeded
  readonly victims: readonly Victim[]
  readonly disks: readonly AgentDisk[]
  readonly intactCopies: (chunk: number) => number
  /** The faults to choose from; undefined: some of all, drawn from the seed. */
  readonly kinds: readonly FaultKind[] | undefined
  /** The meta node that leads now, as far as anybody knows. */
  readonly leader: () => string | undefined
}

export const faultKinds = [
  'crash-meta',
  'crash-leader',
  'crash-storage',
  'power-loss',
  'pause',
  'isolate',
  'split',
  'lonely-leader',
  'one-way',
  'reset',
  'clock',
  'rot',
] as const
export type FaultKind = (typeof faultKinds)[number]

/** The faults of one run. */
export class Nemesis {
  readonly #options: NemesisOptions
  readonly #kinds: readonly FaultKind[]
  readonly #meanMs: number
  #active = false

  constructor(options: NemesisOptions) {
    this.#options = options
    const { random } = options
    const drawn = random.shuffle(faultKinds).slice(0, 1 + random.below(faultKinds.length))
    this.#kinds = options.kinds ?? drawn
    this.#meanMs = random.between(200, 1500)
  }

  get plan(): string {
    return `${this.#kinds.join(',')} every ${Math.round(this.#meanMs)} ms`
  }

  start(): void {
    this.#active = true
    this.#next()
  }

  /** Stops and mends everything: all processes up and running, links joined, clocks right. */
  stop(): void {
    this.#active = false
    const { net, victims, world } = this.#options
    net.heal()
    for (const victim of victims) {
      victim.host.wallOffsetMs = 0
      victim.host.setRate(world.nowMs, 1)
      if (!victim.host.alive) victim.start()
      if (victim.host.paused) world.resume(victim.host)
    }
  }

  #next(): void {
    const delayMs = -Math.log(1 - this.#options.random.unit()) * this.#meanMs
    this.#options.world.after(delayMs, 'nemesis', undefined, () => {
      if (!this.#active) return
      this.#strike(this.#options.random.pick(this.#kinds))
      this.#next()
    })
  }

  #later(lowMs: number, highMs: number, mend: () => void): void {
    this.#options.world.after(this.#options.random.between(lowMs, highMs), 'mend', undefined, () => {
      if (this.#active) mend()
    })
  }

  #of(kind: Victim['kind']): Victim[] {
    return this.#options.victims.filter((victim) => victim.kind === kind)
  }

  #crash(victim: Victim | undefined): void {
    if (victim === undefined || !victim.host.alive) return
    victim.crash()
    this.#later(50, 3000, () => {
      if (!victim.host.alive) victim.start()
    })
  }

  #strike(kind: FaultKind): void {
    const { random, world, net, victims } = this.#options
    const servers = victims.filter((victim) => victim.kind !== 'client')
    const one = random.pick(servers)
    world.note('nemesis', kind)
    switch (kind) {
      case 'crash-meta':
        return this.#crash(random.pick(this.#of('meta')))
      case 'crash-leader':
        return this.#crash(this.#of('meta').find((victim) => victim.host.id === this.#options.leader()))
      case 'crash-storage':
        return this.#crash(random.pick(this.#of('storage')))
      case 'power-loss':
        for (const victim of random.chance(0.5) ? this.#of('meta') : servers) this.#crash(victim)
        return
      case 'pause':
        return this.#pause(one)
      case 'isolate':
        for (const other of victims) this.#cutBoth(one, other)
        return this.#later(100, 4000, () => net.heal())
      case 'split':
        return this.#split()
      case 'lonely-leader':
        return this.#lonely(this.#of('meta').find((victim) => victim.host.id === this.#options.leader()))
      case 'one-way':
        for (const other of random.chance(0.5) ? victims : [random.pick(victims)]) net.cut(one.host, other.host)
        return this.#later(100, 4000, () => net.heal())
      case 'reset':
        return net.reset(one.host, random.pick(victims).host)
      case 'clock':
        return this.#skew(one)
      case 'rot':
        return this.#rot()
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
    const { random, victims, net } = this.#options
    const mixed = random.shuffle(victims)
    const left = mixed.slice(0, 1 + random.below(mixed.length - 1))
    const right = mixed.slice(left.length)
    for (const a of left) for (const b of right) this.#cutBoth(a, b)
    this.#later(100, 4000, () => net.heal())
  }

  /** Its peers elect another leader, while it still has its clients and a slow clock, by which it has just been heard. */
  #lonely(leader: Victim | undefined): void {
    if (leader === undefined) return
    const { net, random, world } = this.#options
    for (const other of this.#of('meta')) if (other !== leader) this.#cutBoth(leader, other)
    leader.host.setRate(world.nowMs, random.between(0.02, 0.2))
    this.#later(1000, 4000, () => {
      leader.host.setRate(world.nowMs, 1)
      net.heal()
    })
  }

  #skew(victim: Victim): void {
    const { random } = this.#options
    victim.host.wallOffsetMs += random.between(-20_000, 20_000)
  }

  #rot(): void {
    const { random, disks, intactCopies } = this.#options
    const disk = random.pick(disks)
    const ids = [...disk.chunks.keys()].sort((a, b) => a - b)
    if (ids.length === 0) return
    const id = random.pick(ids)
    const chunk = disk.chunks.get(id)
    if (chunk === undefined || !disk.intact(id) || intactCopies(id) < 2) return
    chunk.rotten = true
  }
}
