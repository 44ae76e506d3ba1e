/**
 * The closed lists of states (docs/ARCHITECTURE.md, "Words"). Each list is append-only: positions are stored.
 */

/** What evidence says of a node. */
export const healthStates = ['up', 'suspected', 'down'] as const
export type Health = (typeof healthStates)[number]

/** What people say of a node. */
export const modeStates = ['active', 'maintenance', 'draining', 'decommissioned'] as const
export type Mode = (typeof modeStates)[number]

/** What a disk's own node says of it. */
export const diskStates = ['ok', 'suspect', 'read-only', 'failed'] as const
export type DiskState = (typeof diskStates)[number]

/** What the scrub of a disk does. `off`: nothing unless asked for; `resting`: the pass is done, the next one not due. */
export const scrubStates = ['off', 'running', 'resting', 'paused'] as const
export type ScrubState = (typeof scrubStates)[number]

/**
 * What one replica is, as users see it. `current` counts as a copy. `copying` was named by a commit and has not answered
 * yet. `stale` is on a disk that came back and is not reconciled. `corrupt` failed its checksum and is quarantined.
 * `lost` is on a down or failed disk, or was not found by its node. `deleting` was ordered away and never comes back.
 */
export const replicaStates = ['current', 'copying', 'stale', 'corrupt', 'lost', 'deleting'] as const
export type ReplicaState = (typeof replicaStates)[number]

export const writeConcerns = ['all', 'quorum', 'one'] as const
export type WriteConcern = (typeof writeConcerns)[number]

/** Repair classes in the order they are served (docs/ARCHITECTURE.md, "Failure and repair"). */
export const repairClasses = ['last-copy', 'at-risk', 'degraded', 'misplaced', 'surplus'] as const
export type RepairClass = (typeof repairClasses)[number]
