/** What the parts of one simulated run get to use of it, and what the nemesis may do to them. */

import type { Env } from '../ports/env.ts'
import type { SimProcess, World } from './clock.ts'
import type { SimDevice } from './disk.ts'
import type { Invariants } from './invariants.ts'
import type { SimNet } from './net.ts'
import type { Seeded } from './seed.ts'
import type { LoggedEvent } from './sinks.ts'

export interface SimContext {
  readonly world: World
  readonly net: SimNet
  readonly random: Seeded
  readonly invariants: Invariants
  /** The world of one process. An error in its log ends the run unless `excused` says that it was to be expected. */
  env(host: SimProcess, excused?: (event: LoggedEvent) => boolean): Env
  /** Runs a check inside of a service's call: what it throws ends the run, and the service does not get to catch it. */
  watch(check: () => void): void
  /** Ends the run as failed. */
  fail(error: unknown): void
}

/** One process as the nemesis sees it. */
export interface Victim {
  readonly host: SimProcess
  readonly kind: 'meta' | 'storage' | 'client'
  /** The devices under it; none for what has no disks that can fail. */
  readonly devices: readonly SimDevice[]
  /** What it had was lost for good: it refuses to start, and is not started again. */
  readonly gone: boolean
  crash(): void
  start(): void
}

/** What the oracles and the nemesis know of one disk with replicas, beside what its node says. */
export interface ReplicaDisk {
  /** True when the disk has acknowledged the chunk and nothing has happened to its bytes. */
  intact(id: number): boolean
  /** Ids of intact replicas, ascending. */
  intactIds(): number[]
  /** True when the disk, or one before it in its place, has ever acknowledged the chunk. */
  everHad(id: number): boolean
  /** Damages the stored bytes of a chunk; false when they cannot be reached now. */
  rot(id: number): boolean
}

/** The process is gone, with everything that was in its memory. */
export function killProcess(host: SimProcess, net: SimNet): void {
  host.alive = false
  host.paused = false
  host.held = []
  host.incarnation++
  net.crash(host)
}

/** The process ends by itself, as soon as what it does at this moment is done. */
export function exitProcess(victim: Victim, world: World): void {
  const { incarnation } = victim.host
  world.after(0, `${victim.host.id} exits`, undefined, () => {
    if (victim.host.alive && victim.host.incarnation === incarnation) victim.crash()
  })
}
