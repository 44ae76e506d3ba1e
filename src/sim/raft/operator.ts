/**
 * The operator of the simulated cluster: adds nodes and makes them voters, removes members, replaces members whose disk is
 * gone by themselves with an empty one. Asked again and again of whoever leads.
 *
 * Like a careful operator it removes nobody when that would leave the cluster without a usable majority (`canLose`,
 * `canRemove`), which is also what keeps the nemesis from making damage that nobody could survive.
 */

import { voterGroups } from '../../core/raft/quorum.ts'
import type { ClusterConfig, MemberRole } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Loop } from './loop.ts'
import type { SimNode } from './node.ts'
import type { RaftPlan } from './plan.ts'

interface Started {
  /** When it was first worked on. */
  sinceUs?: number
}

type Task = Started &
  (
    | { readonly kind: 'add'; readonly node: SimNode; formed: boolean }
    | { readonly kind: 'remove'; readonly node: SimNode; readonly stop: boolean; asked: boolean }
  )

/** Voters that a cluster has at most. */
const votersMax = 5
/** Election timeouts after which a task is given up. */
const patience = 40

export class Operator {
  readonly #loop: Loop
  readonly #plan: RaftPlan
  readonly #nodes: readonly SimNode[]
  readonly #tasks: Task[] = []
  #incarnations = 0
  stopped = false

  constructor(loop: Loop, plan: RaftPlan, nodes: readonly SimNode[]) {
    this.#loop = loop
    this.#plan = plan
    this.#nodes = nodes
    this.#again()
  }

  newIncarnation(): string {
    return String(++this.#incarnations).padStart(32, '0')
  }

  /** Who leads in the highest term, if anybody does. */
  get leader(): SimNode | undefined {
    let best: SimNode | undefined
    for (const node of this.#nodes) {
      const view = node.core?.view
      if (view?.role === 'leader' && view.term > (best?.core?.view.term ?? 0)) best = node
    }
    return best
  }

  /** Adds a node that is not a member. */
  add(): void {
    const spare = this.#nodes.find((node) => node.state === 'spare' && !node.witness)
    if (spare !== undefined) this.#tasks.push({ kind: 'add', node: spare, formed: false })
  }

  remove(node: SimNode, stop: boolean): void {
    this.#tasks.push({ kind: 'remove', node, stop, asked: false })
  }

  replace(node: SimNode): void {
    this.#tasks.push({ kind: 'remove', node, stop: true, asked: false })
    this.#tasks.push({ kind: 'add', node, formed: false })
  }

  #again(): void {
    this.#loop.after(this.#plan.tickUs * 3, 'operator', undefined, () => {
      this.#again()
      if (!this.stopped) this.#work()
    })
  }

  /** Two tasks at a time: that only one change is under way is for the core to say. */
  #work(): void {
    const { tickUs, electionTicks } = this.#plan
    for (const task of this.#tasks.slice(0, 2)) {
      if (this.#tasks.find((other) => other.node === task.node) !== task) continue
      task.sinceUs ??= this.#loop.nowUs
      const late = this.#loop.nowUs - task.sinceUs > patience * tickUs * electionTicks
      const done = late || (task.kind === 'add' ? this.#adds(task) : this.#removes(task))
      if (done) this.#tasks.splice(this.#tasks.indexOf(task), 1)
    }
  }

  /** The member that is on its way out by what any node knows: to remove another one too may be one too many. */
  get leaving(): SimNode | undefined {
    for (const config of this.#configs()) {
      const member = config.members.find(({ role }) => role.startsWith('leaving'))
      if (member !== undefined) return this.#nodes.find((node) => node.id === member.id)
    }
    return undefined
  }

  /** One step towards a new voter (or witness); true when there is nothing more to do. */
  #adds(task: Extract<Task, { kind: 'add' }>): boolean {
    const { leader } = this
    const core = leader?.core
    if (leader === undefined || core === undefined) return false
    const { node } = task
    const { config, index } = core.config
    if (!task.formed) {
      const full = config.members.filter(({ role }) => role === 'voter').length >= votersMax
      const taken = config.members.some(({ id }) => id === node.id)
      if (taken || full || node.state === 'up' || node.state === 'down') return true
      node.retire()
      node.form(this.newIncarnation(), config, true)
      node.start()
      task.formed = true
    }
    const member = config.members.find(({ id, incarnation }) => id === node.id && incarnation === node.incarnation)
    if (member === undefined) {
      const role: MemberRole = node.witness ? 'witness' : 'learner'
      const { id, incarnation } = node
      return !this.#change(leader, { kind: 'add', member: { id, incarnation, addresses: [`${id}:1`], role } })
    }
    if (member.role !== 'learner') return index <= core.view.commit && config.outgoing.length === 0
    this.#change(leader, { kind: 'promote', id: node.id })
    return false
  }

  #removes(task: Extract<Task, { kind: 'remove' }>): boolean {
    const { leader } = this
    const core = leader?.core
    if (leader === undefined || core === undefined) return false
    const { node } = task
    const { config, index } = core.config
    const { leaving } = this
    if (leaving !== undefined && leaving !== node) return false
    if (config.members.some(({ id }) => id === node.id)) {
      if (!this.canRemove(node)) return true
      task.asked = true
      return !this.#change(leader, { kind: 'remove', id: node.id })
    }
    if (index > core.view.commit) return false
    if (task.asked && (task.stop || node.state === 'lost')) node.retire()
    return true
  }

  /** False when that will never be possible. */
  #change(leader: SimNode, change: Parameters<NonNullable<SimNode['core']>['change']>[0]): boolean {
    let possible = true
    leader.use((core) => {
      const result = core.change(change)
      if (!result.ok && result.reason === 'invalid') possible = change.kind === 'promote'
      if (!result.ok && result.reason === 'version') possible = false
    })
    return possible
  }

  /** Configurations that may be in force somewhere. */
  #configs(): ClusterConfig[] {
    const configs: ClusterConfig[] = []
    for (const { core } of this.#nodes) {
      if (core === undefined) continue
      for (const { config } of core.log.configsFrom(core.view.commit)) configs.push(config)
    }
    return configs
  }

  /** True when the node of that name has the disk that the configuration counts on. */
  #usable(config: ClusterConfig, id: NodeId): boolean {
    const node = this.#nodes.find((other) => other.id === id)
    const member = config.members.find((other) => other.id === id)
    const there = node !== undefined && node.state !== 'lost' && node.state !== 'spare'
    return there && member?.incarnation === node.incarnation && !node.deaf
  }

  /** True when the cluster goes on without this node's disk for good. */
  canLose(node: SimNode): boolean {
    // A crashed node may hold a configuration that nobody else knows of.
    if (this.#nodes.some((other) => other.state === 'down')) return false
    // Somebody who is about to be promoted is counted on before that shows.
    if (this.#tasks.some((task) => task.node === node)) return false
    return this.expendable(node, new Set())
  }

  /** True when a majority is left of whatever may be in force without `node` and those that are `gone`. */
  expendable(node: SimNode, gone: ReadonlySet<SimNode>): boolean {
    if (node.state === 'lost' || node.state === 'spare' || node.deaf) return false
    const stays = (config: ClusterConfig, id: NodeId): boolean =>
      id !== node.id && this.#usable(config, id) && ![...gone].some((other) => other.id === id)
    const configs = this.#configs()
    const survives = configs.every((config) =>
      voterGroups(config).every((group) => group.filter((id) => stays(config, id)).length * 2 > group.length),
    )
    return survives && configs.length > 0 && this.#othersHoldAll(node, gone)
  }

  /**
   * Majorities say nothing of who can be elected: among the others a voter must be at least as far as everybody who votes. A
   * witness that has more than all voters would stand in their way for ever.
   */
  #othersHoldAll(node: SimNode, gone: ReadonlySet<SimNode>): boolean {
    const rest = this.#nodes.filter((other) => other !== node && other.core !== undefined && !gone.has(other))
    const others = rest.filter(({ id, core }) => {
      const role = core?.config.config.members.find((member) => member.id === id)?.role
      return role !== undefined && role !== 'learner'
    })
    // What those that go have sent to a witness may still arrive there.
    const witnessed = others.some(({ id, core }) =>
      core?.config.config.members.some((member) => member.id === id && member.role === 'witness'),
    )
    const ahead = witnessed ? [...others, node, ...gone] : others
    return others.some((candidate) => {
      const log = candidate.core?.log
      const listed = candidate.core?.config.config.members.find(({ id }) => id === candidate.id)
      if (log === undefined || listed?.role !== 'voter' || listed.incarnation !== candidate.incarnation) return false
      return ahead.every(({ core }) => {
        const { lastTerm = 0, lastIndex = 0 } = core?.log ?? {}
        return log.lastTerm > lastTerm || (log.lastTerm === lastTerm && log.durable >= lastIndex)
      })
    })
  }

  /** True when the members that stay are enough of a majority. */
  canRemove(node: SimNode): boolean {
    const config = this.leader?.core?.config.config
    if (config === undefined) return false
    const voters = config.members.filter(({ role }) => role === 'voter' || role === 'witness').map(({ id }) => id)
    if (!voters.includes(node.id)) return true
    const rest = voters.filter((id) => id !== node.id)
    const full = config.members.filter(({ id, role }) => role === 'voter' && rest.includes(id))
    const usable = (ids: readonly NodeId[]): number => ids.filter((id) => this.#usable(config, id)).length
    const enough = usable(voters) * 2 > voters.length && usable(rest) * 2 > rest.length
    return enough && full.some(({ id }) => this.#usable(config, id))
  }
}
