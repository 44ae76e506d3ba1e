/**
 * What one run of the Raft simulator does, as a plain JSON value: the cluster, its limits, network, disks, clients and
 * every fault with its moment. A seed draws a plan (draw.ts); shrinking edits it; a file replays it.
 *
 * What is left to chance within a plan (delays, which unsynced batch survives) comes from named streams of its seed, so
 * that taking one fault out does not reshuffle the rest.
 */

import { defaultRaftLimits, type RaftLimits } from '../../core/raft/types.ts'
import type { DiskFault, DiskTimes } from './disk.ts'

/** One node: by position, or by what it is at that moment. */
export type Target = number | 'leader' | 'follower' | 'witness'

interface Timed {
  readonly atUs: number
}

interface Lasting extends Timed {
  readonly forUs: number
}

/** How links are cut; `mask` picks nodes by bits of their positions. */
export const cutShapes = ['isolate', 'split', 'deaf', 'mute', 'ring', 'bridge', 'pair', 'one-way'] as const
export type CutShape = (typeof cutShapes)[number]

export type Fault =
  /** `power`: what was not synced is lost as well. */
  | (Lasting & { readonly kind: 'crash'; readonly node: Target; readonly power: boolean })
  | (Lasting & { readonly kind: 'power-loss' })
  | (Lasting & { readonly kind: 'pause'; readonly node: Target })
  | (Lasting & { readonly kind: 'rate'; readonly node: Target; readonly rate: number })
  /** The clock jumps ahead by so many ticks. */
  | (Timed & { readonly kind: 'jump'; readonly node: Target; readonly ticks: number })
  /** `clog`: what is sent meanwhile arrives afterwards, instead of never. */
  | (Lasting & {
      readonly kind: 'cut'
      readonly shape: CutShape
      readonly node: Target
      readonly mask: number
      readonly clog: boolean
    })
  | (Timed & { readonly kind: 'reset'; readonly node: Target; readonly mask: number })
  /** Old messages of any term and session arrive once more. */
  | (Timed & { readonly kind: 'replay'; readonly count: number })
  | (Lasting & { readonly kind: 'slow-disk'; readonly node: Target; readonly factor: number })
  | (Lasting & { readonly kind: 'stall-disk'; readonly node: Target })
  /** The next write fails; the node is started again after `forUs`. */
  | (Lasting & { readonly kind: 'fail-disk'; readonly node: Target; readonly how: DiskFault })
  /** Part of what was acknowledged is damaged: the node must not start; it is replaced after `forUs`. */
  | (Lasting & { readonly kind: 'rot'; readonly node: Target; readonly how: 'bit' | 'tail' | 'stale' | 'slots' })
  /** The disk is replaced by an empty one, and the node comes back under its old name without being asked. */
  | (Lasting & { readonly kind: 'impostor'; readonly node: Target })
  | (Timed & { readonly kind: 'compact'; readonly node: Target })
  | (Timed & { readonly kind: 'transfer'; readonly to: Target })
  /** Commands that nobody waits for, proposed at once. */
  | (Timed & { readonly kind: 'flood'; readonly count: number; readonly bytes: number })
  /** What an operator does: adds a spare node (up to voter), removes a member, or replaces one by itself, emptied. */
  | (Timed & { readonly kind: 'add' })
  | (Timed & { readonly kind: 'remove'; readonly node: Target; readonly stop: boolean })
  | (Timed & { readonly kind: 'replace'; readonly node: Target })

export interface RaftPlan {
  readonly seed: number
  /** When faults and clients end. */
  readonly untilUs: number
  /** Founding members that hold everything, and whether a witness stands beside them. */
  readonly voters: number
  readonly witness: boolean
  /** Founding members that only learn. */
  readonly learners: number
  readonly clusterVersion: number
  readonly leaseReads: boolean
  readonly tickUs: number
  readonly electionTicks: number
  readonly electionSpreadTicks: number
  readonly heartbeatTicks: number
  readonly limits: RaftLimits
  readonly net: {
    /** `stream`: in order, nothing lost but by resets, which the ends hear of. */
    readonly mode: 'datagram' | 'stream'
    readonly minUs: number
    readonly meanUs: number
    readonly loss: number
    readonly duplicate: number
    /** Probability that a frame waits ten times as long. */
    readonly late: number
    /** Messages pass through their encoding. */
    readonly codec: boolean
    /** Frames that never arrive, as `from>to#number`. */
    readonly drops: readonly string[]
  }
  readonly disk: DiskTimes
  readonly machine: {
    readonly applyUs: number
    /** How long after an apply the state is synced. */
    readonly flushUs: number
    readonly pieces: number
    readonly pieceUs: number
  }
  readonly clients: readonly number[]
  readonly workload: {
    readonly keys: number
    readonly thinkUs: number
    readonly timeoutUs: number
    /** Operations of each client. */
    readonly operations: number
    readonly reads: number
    /** So many of the clients only read: no write that waits keeps them from a leader that is none any more. */
    readonly readers: number
    readonly paddingMax: number
    /** Reads go to any node instead of the leader. */
    readonly anywhere: boolean
  }
  /** Nodes that were removed go on running and campaigning. */
  readonly ghosts: boolean
  /**
   * Acknowledgements of an earlier incarnation of a member reach the core, as if the transport did not look: what they are
   * worth is for the replication session to say.
   */
  readonly oldAnswers: boolean
  readonly faults: readonly Fault[]
}

/** A quiet small cluster: what a hand-written scenario starts from. */
export const calmPlan: RaftPlan = {
  seed: 1,
  untilUs: 3_000_000,
  voters: 3,
  witness: false,
  learners: 0,
  clusterVersion: 2,
  leaseReads: false,
  tickUs: 25_000,
  electionTicks: 10,
  electionSpreadTicks: 6,
  heartbeatTicks: 2,
  limits: defaultRaftLimits,
  net: { mode: 'datagram', minUs: 200, meanUs: 300, loss: 0, duplicate: 0, late: 0, codec: false, drops: [] },
  disk: { writeUs: 50, syncUs: 400, stallRate: 0, stallUs: 0 },
  machine: { applyUs: 100, flushUs: 10_000, pieces: 3, pieceUs: 1000 },
  clients: [1, 2, 3],
  workload: {
    keys: 2,
    thinkUs: 10_000,
    timeoutUs: 300_000,
    operations: 1000,
    reads: 0.4,
    readers: 0,
    paddingMax: 0,
    anywhere: false,
  },
  ghosts: false,
  oldAnswers: false,
  faults: [],
}

/** A plan of which only some parts are given, such as a scenario written by hand. */
export type PartialPlan = {
  readonly [K in keyof RaftPlan]?: RaftPlan[K] extends readonly unknown[]
    ? RaftPlan[K]
    : RaftPlan[K] extends object
      ? Partial<RaftPlan[K]>
      : RaftPlan[K]
}

/** `partial` over the calm plan. */
export function planFrom(partial: PartialPlan): RaftPlan {
  return {
    ...calmPlan,
    ...partial,
    limits: { ...calmPlan.limits, ...partial.limits },
    net: { ...calmPlan.net, ...partial.net },
    disk: { ...calmPlan.disk, ...partial.disk },
    machine: { ...calmPlan.machine, ...partial.machine },
    workload: { ...calmPlan.workload, ...partial.workload },
  }
}

/** What of `plan` differs from the calm one: short enough to be kept as a file. */
export function shortPlan(plan: RaftPlan): PartialPlan {
  return differences(plan, calmPlan) as PartialPlan
}

function differences(value: object, base: object): object {
  const out: Record<string, unknown> = {}
  const known = new Map<string, unknown>(Object.entries(base))
  for (const [name, item] of Object.entries(value) as [string, unknown][]) {
    const other = known.get(name)
    if (JSON.stringify(item) === JSON.stringify(other)) continue
    const nested = isPlain(item) && isPlain(other)
    out[name] = nested ? differences(item, other) : item
  }
  return out
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Reads a scenario file's content; "about" is for people. Throws when it cannot be one. */
export function planOf(json: unknown): RaftPlan {
  if (!isPlain(json)) throw new Error('a scenario is a JSON object')
  const { about: _, ...plan } = json as { about?: unknown }
  const names = Object.keys(calmPlan)
  const strange = Object.keys(plan).find((name) => !names.includes(name))
  if (strange !== undefined) throw new Error(`a scenario has no "${strange}"; it has ${names.join(', ')}`)
  return planFrom(plan)
}
