/**
 * Configurations as values: which roles decide, and what configuration a change leads to.
 *
 * Voters and witnesses change through a joint configuration, in which the old and the new majority must both agree;
 * learners and addresses change at once, because they decide nothing. One change alters one member.
 * Invariants: there is always a voter; a witness stands beside two voters (beside one only while a dead one is being
 * replaced); `leaveJoint(plan)` is what was asked for.
 */

import { isAddress } from '../../model/address.ts'
import type { NodeId } from '../../model/ids.ts'
import { hasQuorum, type VoterGroups, voterGroups } from './quorum.ts'
import type { ClusterConfig, Member, MemberChange, MemberRole } from './types.ts'

/** A configuration, looked up often: computed once when it comes into force. */
export class Roster {
  /** One list of voters for each majority that must agree. */
  readonly groups: VoterGroups
  /** Members that may lead: they vote, and hold everything. Sorted by id. */
  readonly full: readonly NodeId[]
  /** Members that vote and hold receipts. Sorted by id. */
  readonly witnesses: readonly NodeId[]
  /** Everybody, and everybody who takes part in some majority. Sorted by id. */
  readonly ids: readonly NodeId[]
  readonly voters: readonly NodeId[]
  readonly #roles: ReadonlyMap<NodeId, MemberRole>

  constructor(config: ClusterConfig) {
    this.groups = voterGroups(config)
    this.#roles = new Map(config.members.map(({ id, role }) => [id, role]))
    this.full = config.members.filter(({ role }) => isFull(role)).map(({ id }) => id)
    this.witnesses = config.members.filter(({ role }) => isWitness(role)).map(({ id }) => id)
    this.ids = config.members.map(({ id }) => id)
    this.voters = config.members.filter(({ role }) => role !== 'learner').map(({ id }) => id)
  }

  /** Undefined for a stranger. */
  roleOf(id: NodeId): MemberRole | undefined {
    return this.#roles.get(id)
  }
}

/** True for members that vote and hold every entry whole. */
export function isFull(role: MemberRole | undefined): boolean {
  return role === 'voter' || role === 'leaving'
}

export function isWitness(role: MemberRole | undefined): boolean {
  return role === 'witness' || role === 'leaving-witness'
}

/** What a plan depends on beyond the configuration. */
export interface ChangeFacts {
  /** Why `id` is not ready to decide with the others, undefined when it is. */
  lag(id: NodeId): string | undefined
  /** True when `id` has not been heard of for an election timeout. */
  silent(id: NodeId): boolean
}

/** The configuration to append for a change, or why there is none. */
export type Plan = { readonly config: ClusterConfig } | { readonly why: string }

/** `config` is not joint. Refuses what would leave the cluster without a majority that answers. */
export function planChange(config: ClusterConfig, change: MemberChange, facts: ChangeFacts): Plan {
  const plan = planAny(config, change, facts)
  if ('why' in plan) return plan
  const groups = voterGroups(plan.config)
  if (hasQuorum(groups, (id) => !facts.silent(id))) return plan
  const silent = groups.flat().filter((id, at, all) => facts.silent(id) && all.indexOf(id) === at)
  return { why: `no majority would answer after it, because ${silent.join(', ')} is silent` }
}

function planAny(config: ClusterConfig, change: MemberChange, facts: ChangeFacts): Plan {
  if (change.kind === 'add') return planAdd(config, change.member)
  const member = config.members.find(({ id }) => id === change.id)
  if (member === undefined) return { why: `${change.id} is not a member` }
  if (change.kind === 'promote') return planPromote(config, member, facts)
  if (change.kind === 'remove') return planRemove(config, member, facts)
  if (change.addresses.length === 0) return { why: `${change.id} needs an address` }
  if (!change.addresses.every(isAddress)) return { why: `an address of ${change.id} is not host:port` }
  return { config: replace(config, { ...member, addresses: change.addresses }) }
}

function planAdd(config: ClusterConfig, member: Member): Plan {
  const { id, incarnation, addresses, role } = member
  if (id === '' || addresses.length === 0) return { why: 'a member needs an id and an address' }
  if (!addresses.every(isAddress)) return { why: `an address of ${id} is not host:port` }
  if (!/^[0-9a-f]{32}$/.test(incarnation)) return { why: `the incarnation of ${id} is not 32 hex digits` }
  if (config.members.some((other) => other.id === id)) return { why: `${id} is a member already` }
  const twin = config.members.find((other) => other.incarnation === incarnation)
  if (twin !== undefined) return { why: `${id} has the incarnation of ${twin.id}: its directory was copied` }
  const members = [...config.members, member].toSorted((a, b) => (a.id < b.id ? -1 : 1))
  if (role === 'learner') return { config: { members, outgoing: [] } }
  if (role !== 'witness') return { why: `${id} is added as a learner and promoted when it has caught up` }
  const witness = config.members.find((other) => other.role === 'witness')
  if (witness !== undefined) return { why: `${witness.id} is the witness already` }
  const voters = votersOf(config).length
  if (voters !== 2) return { why: `a witness stands beside exactly two voters, and there are ${voters}` }
  return { config: { members, outgoing: decidersOf(config) } }
}

function planPromote(config: ClusterConfig, member: Member, facts: ChangeFacts): Plan {
  const { id, role } = member
  if (role !== 'learner') return { why: `${id} is a ${role}, only a learner is promoted` }
  const witness = config.members.find((other) => other.role === 'witness')
  if (witness !== undefined && votersOf(config).length >= 2) {
    return { why: `a witness stands beside two voters: remove the witness ${witness.id} first` }
  }
  const lag = facts.lag(id)
  if (lag !== undefined) return { why: `${id} is not ready to be a voter: ${lag}` }
  return { config: { ...replace(config, { ...member, role: 'voter' }), outgoing: decidersOf(config) } }
}

function planRemove(config: ClusterConfig, member: Member, facts: ChangeFacts): Plan {
  const { id, role } = member
  const outgoing = decidersOf(config)
  if (role === 'learner')
    return { config: { members: config.members.filter((other) => other !== member), outgoing: [] } }
  if (role === 'witness') return { config: { ...replace(config, { ...member, role: 'leaving-witness' }), outgoing } }
  if (votersOf(config).length < 2) return { why: `${id} is the only voter` }
  const witness = config.members.find((other) => other.role === 'witness')
  if (witness !== undefined && !facts.silent(id)) {
    return { why: `${id} is alive and the witness ${witness.id} needs two voters: remove the witness first` }
  }
  return { config: { ...replace(config, { ...member, role: 'leaving' }), outgoing } }
}

/** The configuration that a joint one leads to. */
export function leaveJoint(config: ClusterConfig): ClusterConfig {
  return { members: config.members.filter(({ role }) => !role.startsWith('leaving')), outgoing: [] }
}

function votersOf(config: ClusterConfig): NodeId[] {
  return config.members.filter(({ role }) => role === 'voter').map(({ id }) => id)
}

/** Voters and witnesses: the majority that decides alone outside a change. */
function decidersOf(config: ClusterConfig): NodeId[] {
  return config.members.filter(({ role }) => role === 'voter' || role === 'witness').map(({ id }) => id)
}

function replace(config: ClusterConfig, member: Member): ClusterConfig {
  return { ...config, members: config.members.map((other) => (other.id === member.id ? member : other)) }
}
