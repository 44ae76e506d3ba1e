/**
 * The time after the faults: a random majority is made whole, the rest stays broken for ever, and the cluster has to come
 * back by itself within a bounded number of election timeouts: one leader, everybody on the same state, new writes
 * acknowledged, every acknowledged one there, and quiet.
 */

import { Prng } from '../../base/prng.ts'
import { Seeded } from '../seed.ts'
import type { SimEvent } from './loop.ts'
import type { SimNode } from './node.ts'
import type { RaftWorld } from './world.ts'

/** Election timeouts within which the cluster is back. */
const backWithin = 40
/** Virtual time that each entry a member lacks may take. */
const perEntryUs = 4000
/** Election timeouts of rest at the end, and messages that a member may send in each tick of it. */
const restFor = 6
const restingMessages = 4

/** Ends the faults and checks that the cluster comes back. Throws when it does not. */
export function checkHealing(world: RaftWorld, seen: (event: SimEvent) => void): void {
  const { plan, loop, oracles, clients } = world
  const members = heal(world)
  const election = plan.tickUs * (plan.electionTicks + plan.electionSpreadTicks)
  const last = Math.max(...members.map((node) => node.core?.log.lastIndex ?? 0))
  const until = loop.nowUs + backWithin * election + last * perEntryUs
  let probed = false
  clients.probe(() => {
    probed = true
  })
  loop.run(until, seen, () => probed && converged(members))
  if (!probed) oracles.fail(`no new write was acknowledged after healing: ${describe(members)}`)
  if (!converged(members)) oracles.fail(`the members did not converge after healing: ${describe(members)}`)
  checkRest(world, members, seen)
}

/** Chooses who is whole from now on, and makes them so. */
function heal(world: RaftWorld): SimNode[] {
  const { nodes, net, transfers, clients, operator, nemesis, plan, loop } = world
  const random = new Seeded(new Prng(plan.seed).fork('healing'))
  nemesis.stop()
  operator.stopped = true
  clients.stopped = true
  net.heal()
  transfers.healed = true
  for (const node of nodes) {
    node.disk.heal()
    node.setRate(1)
    if (node.paused) loop.resume(node)
    if (node.deaf) node.retire()
    node.start()
  }
  const gone = new Set<SimNode>()
  for (const node of random.shuffle(nodes)) {
    if (operator.expendable(node, gone) && random.chance(0.8)) gone.add(node)
    else if (node.state === 'up' && !plan.ghosts && !isMember(world, node)) gone.add(node)
  }
  for (const node of gone) breakForEver(world, node, random)
  return nodes.filter((node) => node.state === 'up' && isMember(world, node) && !gone.has(node))
}

/**
 * Dead, or alone, or able to speak and not to hear, or the other way round. A leader beside a witness is never deaf: about
 * to be alone with the witness it might still send it what the other full member does not have, and then the cluster
 * waits for it by design (docs/RULES.md, rule 8).
 */
function breakForEver(world: RaftWorld, node: SimNode, random: Seeded): void {
  const witnessed = node.core?.config.config.members.some(({ role }) => role === 'witness') === true
  const leads = witnessed && node.core?.view.role === 'leader'
  const fate = random.pick(
    leads ? (['dead', 'alone', 'mute'] as const) : (['dead', 'dead', 'alone', 'deaf', 'mute'] as const),
  )
  if (fate === 'dead') {
    world.crash(node, true)
    return
  }
  for (const other of world.nodes) {
    if (fate !== 'deaf') world.net.cut(node.id, other.id, false)
    if (fate !== 'mute') world.net.cut(other.id, node.id, false)
  }
}

/** True when somebody counts on the node. */
function isMember(world: RaftWorld, node: SimNode): boolean {
  return world.nodes.some(
    ({ core }) =>
      core?.config.config.members.some(({ id, incarnation }) => id === node.id && incarnation === node.incarnation) ===
      true,
  )
}

/** One leader, which is a voter, and all members that are whole have applied all it has. */
function converged(members: readonly SimNode[]): boolean {
  const leader = leaderOf(members)
  const core = leader?.core
  if (core === undefined) return false
  const { config, index } = core.config
  const { commit, lastIndex, term, solo } = core.view
  if (commit !== lastIndex || index > commit || config.outgoing.length > 0) return false
  if (!config.members.some(({ id, role }) => id === leader?.id && role === 'voter')) return false
  // It is alone only while no other member that holds everything is there.
  const full = members.filter(({ id }) => config.members.some((member) => member.id === id && member.role === 'voter'))
  if (solo && full.length > 1) return false
  return members.every((node) => {
    const view = node.core?.view
    const listed = config.members.some(({ id, incarnation }) => id === node.id && incarnation === node.incarnation)
    if (view === undefined || !listed) return !listed
    return view.applied === lastIndex && view.term === term && (node === leader || view.role === 'follower')
  })
}

function leaderOf(members: readonly SimNode[]): SimNode | undefined {
  const leaders = members.filter(({ core }) => core?.view.role === 'leader')
  return leaders.toSorted((a, b) => (b.core?.view.term ?? 0) - (a.core?.view.term ?? 0))[0]
}

/** Nothing happens, so nothing but heartbeats is said, and nobody is elected. */
function checkRest(world: RaftWorld, members: readonly SimNode[], seen: (event: SimEvent) => void): void {
  const { plan, loop, net, oracles } = world
  const leader = leaderOf(members)
  const term = leader?.core?.view.term
  const before = net.messages
  const ticks = restFor * plan.electionTicks
  loop.run(loop.nowUs + ticks * plan.tickUs, seen)
  if (leaderOf(members) !== leader || leader?.core?.view.term !== term) {
    oracles.fail(`the leadership does not rest after healing: ${describe(members)}`)
  }
  const sent = net.messages - before
  const allowed = ticks * restingMessages * (members.length + 2)
  if (sent > allowed) oracles.fail(`${sent} messages in ${ticks} ticks of rest: a message storm`)
}

function describe(members: readonly SimNode[]): string {
  return members
    .map(({ id, core }) => {
      if (core === undefined) return `${id} down`
      const { role, term, commit, applied, lastIndex } = core.view
      return `${id} ${role} t${term} last ${lastIndex} commit ${commit} applied ${applied}`
    })
    .join('; ')
}
