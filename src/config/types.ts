/** What each process is configured with, parsed and checked (schema.ts has units, defaults, bounds and docs). */

import type { NodeId, ZoneId } from '../model/ids.ts'

export interface PeerAddress {
  readonly id: NodeId
  readonly address: string
}

export interface RaftTimes {
  /** One tick. Election and heartbeat are counted in ticks. */
  readonly tickMs: number
  readonly heartbeatTicks: number
  /** An election starts after electionTicks to electionTicks + electionSpreadTicks of silence. */
  readonly electionTicks: number
  readonly electionSpreadTicks: number
  /** The leader answers reads from its lease. Off unless the operator trusts the clocks' rates. */
  readonly leaseReads: boolean
}

export interface RepairConfig {
  /** Wait before a chunk with a majority of its copies left is repaired. `last-copy` never waits. */
  readonly waitDegradedMs: number
  /** Wait for a chunk with fewer than a majority left. */
  readonly waitAtRiskMs: number
  /** Copies that run at once in the cluster, and per node as source and as target. */
  readonly copiesMax: number
  readonly copiesPerNode: number
}

export interface HealthConfig {
  readonly heartbeatMs: number
  /** Silence after which a node is suspected, and after which it is down. */
  readonly suspectMs: number
  readonly downMs: number
}

export interface MetaConfig {
  readonly id: NodeId
  readonly listen: string
  readonly advertise: readonly string[]
  readonly dataDir: string
  readonly peers: readonly PeerAddress[]
  /** This node votes and keeps no data (docs/RULES.md, rule 8). */
  readonly witness: boolean
  /** Growth of the metadata is refused when less than this is free on its filesystem. */
  readonly reserveBytes: number
  readonly raft: RaftTimes
  readonly repair: RepairConfig
  readonly health: HealthConfig
  /** Unreferenced chunks are kept this long, so that running reads finish. */
  readonly gcGraceMs: number
}

/** When and how fast the space of deleted chunks is given back. */
export interface CompactionConfig {
  /** An extent is compacted when less of it than this is of use, 0 to 1. */
  readonly liveRatio: number
  readonly bytesPerSecond: number
  /** Time without clients after which all is compacted that is worth it. */
  readonly idleMs: number
}

/** How everything on a disk is read and verified over and over. */
export interface ScrubConfig {
  /** False: only when somebody asks for a pass. */
  readonly on: boolean
  /** A full pass shall take no longer than this. */
  readonly periodMs: number
  /** Bytes per second of an idle disk at least, and of any disk at most. */
  readonly rateMin: number
  readonly rateMax: number
}

export interface StorageConfig {
  readonly id: NodeId
  readonly listen: string
  readonly advertise: readonly string[]
  readonly disks: readonly string[]
  readonly zone: ZoneId
  readonly meta: readonly string[]
  /** Size of one extent file. */
  readonly extentBytes: number
  /** New chunks are refused when less than this is free on the filesystem. */
  readonly reserveBytes: number
  readonly compaction: CompactionConfig
  readonly scrub: ScrubConfig
  /** A node without meta contact for this long refuses writes. */
  readonly metaSilenceMs: number
  readonly heartbeatMs: number
  /** Time between two probes of a disk. */
  readonly diskProbeMs: number
  /** An I/O of a disk that takes longer makes it suspect. */
  readonly diskSuspectMs: number
  /** An I/O that has not returned after so long makes the disk failed. */
  readonly diskFailMs: number
}
