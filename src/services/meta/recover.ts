/**
 * `holdfast meta recover`: makes a new cluster of one member from the directory of one survivor, when the majority of the
 * old one is gone for good (docs/RULES.md, rule 2). Offline: the stores' locks refuse a node that runs.
 *
 * Everything intact in the survivor's log is kept, whether or not it is known to have been committed; what only the lost
 * members had is lost. The cluster's incarnation rises, so that nothing of the old members is heard or believed again,
 * and the term rises, so that no entry of the new cluster can be mistaken for one of theirs.
 * Order, each step durable before the next, and the whole repeatable after a crash anywhere: the intent with term and
 * index in the identity; the hard-state slot of the new term and incarnation; a configuration entry with this member
 * alone, in the log; the identity of the new incarnation. A node refuses to start between the first and the last.
 */

import { StoreError } from '../../model/errors.ts'
import { incarnationMax } from '../../model/fence.ts'
import type { NodeId } from '../../model/ids.ts'
import { encodeConfig } from '../../core/raft/messages.ts'
import type { ClusterConfig, Entry, MemberRole } from '../../core/raft/types.ts'
import { HardStateSlots } from './hard-state.ts'
import { type Identity, type LogFormat, readIdentity, writeIdentity } from './identity.ts'
import { type NodeStores, openPlace } from './log-place.ts'
import type { RaftLog, RecoveredLog } from './log-types.ts'
import { createMachine } from './machine.ts'
import { openVerified } from './raft-boot.ts'

export interface RecoverOptions {
  /** The node whose directory it must be. */
  readonly expect?: NodeId
  /** Where the node will be reached; what the cluster knew when absent. */
  readonly addresses?: readonly string[]
}

/** What a directory holds, for an operator who has to choose among survivors: the higher (lastTerm, lastIndex) has more. */
export interface SurvivorReport {
  readonly node: NodeId
  readonly clusterId: string
  /** Incarnation of the cluster, before a recovery or as it made it. */
  readonly clusterIncarnation: number
  readonly term: number
  /** Last entry of the old cluster that is there, and its term. */
  readonly lastIndex: number
  readonly lastTerm: number
  /** Entries up to here are known to have been committed; later ones are kept too, and may be news to clients. */
  readonly committedIndex: number
  /** Last entry that the state on disk holds; later ones are applied at the next start. */
  readonly appliedIndex: number
  /** Part this member had in the old cluster: of a learner or a removed member less is known to be complete. */
  readonly role: MemberRole | 'removed'
  /** The other members of the old cluster, to be left behind. Whatever they acknowledged after `lastIndex` is lost. */
  readonly membersLost: readonly NodeId[]
}

/** Everything verified that is in a directory; the log is open. */
interface Survivor {
  readonly identity: Identity
  readonly slots: HardStateSlots
  readonly store: RaftLog
  readonly recovered: RecoveredLog
  readonly appliedIndex: number
  readonly hardTerm: number
}

/** What recovery would start from. Changes nothing but a torn tail; rejects as `recoverMeta` does. */
export function inspectMeta(stores: NodeStores, options: RecoverOptions = {}): Promise<SurvivorReport> {
  return withSurvivor(stores, options, async (survivor) => {
    const { identity, hardTerm, recovered } = survivor
    const index = identity.recoveryTerm > 0 ? identity.recoveryIndex : recovered.lastIndex + 1
    return reportOf(survivor, identity.clusterIncarnation, hardTerm, index)
  })
}

/**
 * Recovers the directory behind `stores`. Rejects with LOCKED when its node runs, CONDITION_FAILED when there is nothing
 * to recover, DATA_LOST or CORRUPT when log or state are damaged. May be repeated until it resolves; once it has, doing it
 * again starts yet another incarnation.
 */
export function recoverMeta(stores: NodeStores, options: RecoverOptions = {}): Promise<SurvivorReport> {
  return withSurvivor(stores, options, async (survivor) => {
    const { identity, slots, recovered, store } = survivor
    const begun = identity.recoveryTerm > 0
    const term = begun ? identity.recoveryTerm : survivor.hardTerm + 1
    const index = begun ? identity.recoveryIndex : recovered.lastIndex + 1
    if (!begun) await writeIdentity(stores.files, { ...identity, recoveryTerm: term, recoveryIndex: index })
    await slots.save({ term, vote: '' })
    const config = alone(survivor, index, options)
    await appendConfig(store, { index, term, type: 'config', payload: encodeConfig(config) })
    const clusterIncarnation = nextIncarnation(identity)
    const nothing = { joined: false, joinIndex: 0, recoveryTerm: 0, recoveryIndex: 0 }
    await writeIdentity(stores.files, { ...identity, clusterIncarnation, config, ...nothing })
    return reportOf(survivor, clusterIncarnation, term, index)
  })
}

/** Most that one recovery adds to the incarnation. */
const stepMax = 0x1_0000

/**
 * The incarnation that a recovery of this directory makes. The step comes from the member's own random number: two
 * survivors that are both recovered, by mistake, make different incarnations, of which storage nodes obey the higher one
 * alone; and a recovery that is repeated after a crash makes the same one again.
 */
function nextIncarnation(identity: Pick<Identity, 'incarnation' | 'clusterIncarnation'>): number {
  const next = identity.clusterIncarnation + 1 + (Number.parseInt(identity.incarnation.slice(0, 8), 16) % stepMax)
  if (next <= incarnationMax) return next
  throw new StoreError('CONDITION_FAILED', 'recover the metadata: it was recovered too often: make a new cluster')
}

async function withSurvivor<T>(
  stores: NodeStores,
  options: RecoverOptions,
  work: (survivor: Survivor) => Promise<T>,
): Promise<T> {
  const doing = 'recover the metadata'
  const refuse = (why: string): StoreError => new StoreError('CONDITION_FAILED', `${doing}: ${why}`)
  const identity = await readIdentity(stores.files, doing)
  if (identity === undefined || !identity.ready)
    throw refuse('the directory holds no member of a cluster: give another')
  if (identity.witness) throw refuse('a witness holds no data: use the directory of a full member')
  if (options.expect !== undefined && options.expect !== identity.node) {
    throw refuse(`the directory belongs to node ${identity.node}, not ${options.expect}: give its own`)
  }
  const place = await openPlace(stores, identity.log as LogFormat)
  try {
    const owner = { ...identity, clusterIncarnation: nextIncarnation(identity) }
    const slots = await HardStateSlots.open(stores.files, owner, true)
    const appliedIndex = await stateIndex(stores)
    const { store, recovered, hardState } = await openVerified(place, slots, appliedIndex, 0)
    const hardTerm = Math.max(hardState.term, recovered.hardState.term)
    return await work({ identity, slots, store, recovered, appliedIndex, hardTerm })
  } finally {
    await place.close()
  }
}

function reportOf(survivor: Survivor, clusterIncarnation: number, term: number, index: number): SurvivorReport {
  const { identity, recovered, appliedIndex } = survivor
  const { node, clusterId } = identity
  const { members } = configBefore(recovered, index)
  const lastIndex = index - 1
  return {
    node,
    clusterId,
    clusterIncarnation,
    term,
    lastIndex,
    lastTerm: recovered.termRuns.findLast((run) => run.first <= lastIndex)?.term ?? recovered.base.term,
    committedIndex: Math.min(lastIndex, Math.max(recovered.commit, appliedIndex)),
    appliedIndex,
    role: members.find((member) => member.id === node)?.role ?? 'removed',
    membersLost: members.map((member) => member.id).filter((id) => id !== node),
  }
}

/** Opens the state as a start does, which verifies it, and closes it again. */
async function stateIndex(stores: NodeStores): Promise<number> {
  const machine = createMachine(stores)
  await machine.open()
  try {
    return machine.durableIndex()
  } finally {
    await machine.close()
  }
}

/** The configuration in force before the recovery's own entry. */
function configBefore(recovered: RecoveredLog, index: number): ClusterConfig {
  return recovered.configs.findLast((item) => item.index < index)?.config ?? recovered.base.config.config
}

/** The configuration with the survivor and nobody else. */
function alone(survivor: Survivor, index: number, options: RecoverOptions): ClusterConfig {
  const { node: id, incarnation } = survivor.identity
  const known = configBefore(survivor.recovered, index).members.find((member) => member.id === id)?.addresses
  const addresses = options.addresses ?? known ?? []
  return { members: [{ id, incarnation, addresses, role: 'voter' }], outgoing: [] }
}

/** Writes the entry unless an earlier attempt has, and has the watermark vouch for it. */
async function appendConfig(store: RaftLog, entry: Entry): Promise<void> {
  if (store.lastIndex < entry.index) {
    await store.append(undefined, [entry], { term: entry.term, vote: '' }, entry.index)
  }
  await store.closeWatermark(entry.index)
}
