/**
 * What a seed draws before its run begins: the size of the cluster, how bad the network and the disks are, which storage
 * nodes and clients there are. Each part is drawn from a fork of its own, so that setting one by hand leaves the others.
 */

import type { RaftLimits } from '../core/raft/types.ts'
import type { DiskTimes } from './disk.ts'
import type { NetFaults } from './net.ts'
import type { Seeded } from './seed.ts'

/** `real`: the service over the real disk engine, and clients of the SDK. `model`: models of both. */
export type StorageKind = 'real' | 'model'

/** What may be set by hand instead of being drawn. */
export interface SwarmOverrides {
  readonly storage?: StorageKind | undefined
  readonly clients?: number | undefined
}

export interface Swarm {
  readonly metaCount: number
  readonly storageCount: number
  readonly disksPerNode: number
  readonly storage: StorageKind
  /** For each client: true for one of the SDK. */
  readonly sdkClients: readonly boolean[]
  readonly keyCount: number
  readonly net: NetFaults
  readonly metaTimes: DiskTimes
  readonly storageTimes: DiskTimes
  readonly limits: Partial<RaftLimits>
}

function drawTimes(random: Seeded): DiskTimes {
  return {
    writeMs: random.between(0.05, 0.5),
    syncMs: random.between(0.2, 8),
    stallRate: random.chance(0.3) ? 0.01 : 0,
    stallMs: random.between(10, 800),
  }
}

function drawLimits(random: Seeded): Partial<RaftLimits> {
  // A short log makes laggards need a snapshot; a long one never does.
  const compactEntries = random.chance(0.5) ? 20 + random.below(60) : 20_000
  return { compactEntries, trailingEntries: Math.floor(compactEntries / 4) }
}

export function drawSwarm(random: Seeded, overrides: SwarmOverrides): Swarm {
  const shape = random.fork('shape')
  const net = random.fork('net')
  const disks = random.fork('disks')
  // Everything is drawn, also what is then set by hand.
  const kind: StorageKind = shape.chance(0.4) ? 'real' : 'model'
  const clients = 3 + shape.below(4)
  const twoDisks = shape.chance(0.3)
  const sdkShare = shape.pick([0.5, 0.8, 1])
  const storage = overrides.storage ?? kind
  return {
    metaCount: shape.chance(0.15) ? 5 : 3,
    storageCount: 5,
    disksPerNode: storage === 'real' && twoDisks ? 2 : 1,
    storage,
    keyCount: 3 + shape.below(6),
    sdkClients: Array.from(
      { length: overrides.clients ?? clients },
      () => shape.chance(sdkShare) && storage === 'real',
    ),
    net: {
      delayMinMs: net.between(0.1, 5),
      delayMeanMs: net.between(0.1, 10),
      lossRate: net.chance(0.5) ? net.between(0, 0.01) : 0,
      duplicateRate: net.chance(0.5) ? net.between(0, 0.1) : 0,
    },
    metaTimes: drawTimes(disks),
    storageTimes: drawTimes(disks),
    limits: drawLimits(disks),
  }
}

export function describeSwarm(swarm: Swarm): string {
  const sdk = swarm.sdkClients.filter(Boolean).length
  const clients = `${swarm.sdkClients.length - sdk}+${sdk} clients`
  return `${swarm.metaCount} meta, ${swarm.storageCount} ${swarm.storage} storage of ${swarm.disksPerNode}, ${clients}, ${swarm.keyCount} keys`
}
