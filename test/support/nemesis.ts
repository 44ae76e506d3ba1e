/**
 * What goes wrong in a cluster of real processes while clients run: kills, pauses, partitions through the proxies, jumps
 * of the clock. Each trouble ends healed; a minority is harmed at most, except where the name says otherwise.
 */

import { writeFile } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import type { Prng } from '../../src/base/prng.ts'
import type { TestCluster } from './cluster.ts'

/** One kind of trouble; resolves when it is over and healed. */
export interface Trouble {
  readonly name: string
  /** Always ends with another leader, so with a higher term. */
  readonly elects?: true
  readonly run: (world: World) => Promise<void>
}

const libraries = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1',
  '/usr/lib/faketime/libfaketime.so.1',
  '/usr/lib64/faketime/libfaketime.so.1',
]
/** libfaketime of this machine; undefined where it is not installed (Debian: package faketime). */
export const faketimeLibrary: string | undefined = libraries.find((path) => existsSync(path))

/** Environment that lets a node's wall clock be set through `path`; its monotonic clock stays true. */
export function faketimeEnv(library: string, path: string): Record<string, string> {
  return {
    LD_PRELOAD: library,
    FAKETIME_TIMESTAMP_FILE: path,
    FAKETIME_NO_CACHE: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    DONT_FAKE_MONOTONIC: '1',
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms))
}

/** What troubles act upon. */
export class World {
  readonly cluster: TestCluster
  readonly random: Prng
  /** How long one trouble lasts, least and most. */
  readonly lastMs: readonly [number, number]
  /** File that sets the wall clock of each meta node, where the cluster was started under libfaketime. */
  readonly clocks: ReadonlyMap<string, string>

  constructor(
    cluster: TestCluster,
    random: Prng,
    lastMs: readonly [number, number],
    clocks: ReadonlyMap<string, string> = new Map(),
  ) {
    this.cluster = cluster
    this.random = random
    this.lastMs = lastMs
    this.clocks = clocks
  }

  get ids(): string[] {
    return this.cluster.nodes.filter((node) => node.kind === 'meta').map((node) => node.id)
  }

  async leader(): Promise<string> {
    return await this.cluster.leader()
  }

  async follower(): Promise<string> {
    const leader = await this.leader()
    const others = this.ids.filter((id) => id !== leader)
    return others[this.random.below(others.length)] as string
  }

  /** As many followers as a minority has. */
  async minority(): Promise<string[]> {
    const leader = await this.leader()
    const others = this.ids.filter((id) => id !== leader)
    const count = Math.floor((this.ids.length - 1) / 2)
    const from = this.random.below(others.length)
    return Array.from({ length: count }, (_, i) => others[(from + i) % others.length] as string)
  }

  wait(): Promise<void> {
    const [least, most] = this.lastMs
    return sleep(least + this.random.unit() * (most - least))
  }

  async kill(ids: readonly string[]): Promise<void> {
    await Promise.all(ids.map(async (id) => await this.cluster.kill(id)))
    await this.wait()
    for (const id of ids) this.cluster.startNode(id)
  }

  async pause(ids: readonly string[]): Promise<void> {
    for (const id of ids) process.kill(this.cluster.pid(id), 'SIGSTOP')
    try {
      await this.wait()
    } finally {
      for (const id of ids) process.kill(this.cluster.pid(id), 'SIGCONT')
    }
  }

  /** Holds what `make` blocks; afterwards what was held arrives late, or half the time is lost. */
  async partition(make: () => void): Promise<void> {
    make()
    await this.wait()
    this.cluster.links.heal(this.random.chance(0.5))
  }

  /** Moves a node's wall clock by so many seconds, then back. */
  async jump(id: string, seconds: number): Promise<void> {
    const file = this.clocks.get(id)
    if (file === undefined) throw new Error(`${id} does not run under libfaketime`)
    await writeFile(file, `${seconds < 0 ? '' : '+'}${seconds}s\n`)
    await this.wait()
    await writeFile(file, '+0s\n')
  }
}

const killLeader: Trouble = {
  name: 'kill -9 of the leader',
  elects: true,
  run: async (w) => await w.kill([await w.leader()]),
}
const killFollower: Trouble = { name: 'kill -9 of a follower', run: async (w) => await w.kill([await w.follower()]) }
const pauseLeader: Trouble = {
  name: 'SIGSTOP of the leader',
  elects: true,
  run: async (w) => await w.pause([await w.leader()]),
}
const isolateLeader: Trouble = {
  name: 'the leader cut off from the others',
  elects: true,
  run: async (w) => {
    const leader = await w.leader()
    await w.partition(() => w.cluster.links.isolate(leader))
  },
}
const deafLeader: Trouble = {
  name: 'the leader sends and hears nothing',
  elects: true,
  run: async (w) => {
    const leader = await w.leader()
    await w.partition(() => w.cluster.links.deafen(leader))
  },
}
const muteFollower: Trouble = {
  name: 'a follower hears and nobody hears it',
  run: async (w) => {
    const follower = await w.follower()
    await w.partition(() => w.cluster.links.mute(follower))
  },
}

/** One of each kind that matters most: what a short run goes through. */
export const shortTroubles: readonly Trouble[] = [
  isolateLeader,
  killLeader,
  pauseLeader,
  deafLeader,
  killFollower,
  muteFollower,
]

/** All kinds but those that need libfaketime. */
export const troubles: readonly Trouble[] = [
  ...shortTroubles,
  { name: 'kill -9 of a minority', run: async (w) => await w.kill(await w.minority()) },
  { name: 'kill -9 of all', elects: true, run: async (w) => await w.kill(w.ids) },
  { name: 'SIGSTOP of a follower', run: async (w) => await w.pause([await w.follower()]) },
  { name: 'SIGSTOP of all', run: async (w) => await w.pause(w.ids) },
  {
    name: 'SIGSTOP of the leader while a follower is killed',
    run: async (w) => {
      const [leader, follower] = [await w.leader(), await w.follower()]
      await Promise.all([w.pause([leader]), w.kill([follower])])
    },
  },
  {
    name: 'the leader cut off with a minority',
    elects: true,
    run: async (w) => {
      const leader = await w.leader()
      const with_ = (await w.minority()).slice(1)
      await w.partition(() => w.cluster.links.isolate(leader, ...with_))
    },
  },
  {
    name: 'only one node reaches the others',
    run: async (w) => {
      const bridge = await w.follower()
      const others = w.ids.filter((id) => id !== bridge)
      await w.partition(() => {
        for (const a of others) for (const b of others) if (a !== b) w.cluster.links.block(a, b)
      })
    },
  },
  {
    name: 'slow links and resets',
    run: async (w) => {
      w.cluster.links.delayAll(20)
      await w.wait()
      w.cluster.links.cut()
      await w.wait()
      w.cluster.links.heal()
    },
  },
]

/** For clusters under libfaketime. */
export const clockTroubles: readonly Trouble[] = [
  { name: "the leader's clock an hour ahead", run: async (w) => await w.jump(await w.leader(), 3600) },
  { name: "the leader's clock an hour behind", run: async (w) => await w.jump(await w.leader(), -3600) },
  {
    name: 'a follower two minutes ahead takes over',
    run: async (w) => {
      const [leader, follower] = [await w.leader(), await w.follower()]
      await Promise.all([w.jump(follower, 120), w.kill([leader])])
    },
  },
]
