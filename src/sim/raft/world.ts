/**
 * The simulated Raft cluster put together: nodes, network, clients, operator, nemesis and oracles around one event loop,
 * and what happens between them.
 */

import { Prng } from '../../base/prng.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { ClusterConfig, Member, MemberRole } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import { Seeded } from '../seed.ts'
import { Clients } from './clients.ts'
import { mix } from './command.ts'
import { eventKinds, Loop, type SimEvent } from './loop.ts'
import { Nemesis } from './nemesis.ts'
import { type Frame, RaftNet } from './net.ts'
import { SimNode } from './node.ts'
import { Operator } from './operator.ts'
import { Oracles } from './oracles.ts'
import type { RaftPlan } from './plan.ts'
import { Transfers } from './transfers.ts'

/** Nodes beside the founding members that can be added. */
const spares = 2
const roles = ['follower', 'pre-candidate', 'candidate', 'leader']
const kindNumbers = new Map(eventKinds.map((kind, i) => [kind, i]))

export class RaftWorld {
  readonly loop = new Loop()
  readonly plan: RaftPlan
  readonly oracles: Oracles
  readonly nodes: SimNode[] = []
  readonly net: RaftNet
  readonly transfers: Transfers
  readonly clients: Clients
  readonly operator: Operator
  readonly nemesis: Nemesis
  /** Hash of everything that happened so far. */
  hash = 1

  constructor(plan: RaftPlan) {
    this.plan = plan
    const { loop } = this
    this.oracles = new Oracles(plan.limits.uncommittedEntries, (id, incarnation) => {
      const node = this.nodeOf(id)
      return node?.incarnation === incarnation && node.state !== 'spare' ? node.disk : undefined
    })
    this.net = new RaftNet(loop, plan, {
      arrived: (frame) => this.#arrived(frame),
      broken: (from, to) => this.#broken(from, to),
      fail: (what) => this.oracles.fail(what),
    })
    this.transfers = new Transfers(loop, plan, this.net, (id) => this.nodeOf(id))
    this.clients = new Clients({
      loop,
      plan,
      oracles: this.oracles,
      nodes: () => this.#reachable(),
      ask: (id, request) => {
        const node = this.nodeOf(id)
        if (node?.paused === true) loop.after(0, 'request', node, () => node.ask(request))
        else node?.ask(request)
      },
    })
    this.#makeNodes()
    this.operator = new Operator(loop, plan, this.nodes)
    this.#found()
    const crash = (node: SimNode, power: boolean): void => this.crash(node, power)
    const reset = (a: NodeId, b: NodeId): void => this.#reset(a, b)
    const lose = (node: SimNode): void => {
      this.crash(node, true)
      this.oracles.loses(node)
    }
    const { net, nodes, operator } = this
    this.nemesis = new Nemesis({ loop, plan, net, nodes, operator, crash, lose, reset })
    this.clients.start()
  }

  nodeOf(id: NodeId): SimNode | undefined {
    return this.nodes.find((node) => node.id === id)
  }

  #makeNodes(): void {
    const { voters, learners, witness, seed } = this.plan
    const random = new Prng(seed)
    const ids = Array.from({ length: voters + learners + spares }, (_, i) => `n${i + 1}`)
    if (witness) ids.push('w1')
    for (const [slot, id] of ids.entries()) {
      const node = new SimNode(slot, id, id === 'w1', new Seeded(random.fork(`node ${id}`)), {
        loop: this.loop,
        plan: this.plan,
        oracles: this.oracles,
        answers: this.clients,
        send: (head, messages) => this.net.send(head, messages),
        carry: (transfer) => this.transfers.carry(transfer),
        answered: (transfer, installed) => this.transfers.answered(transfer, installed),
        looked: (looked, core) => this.#looked(looked, core),
        died: (dead) => this.crash(dead, false),
      })
      this.nodes.push(node)
    }
  }

  /** The founding members, each with the same first entry. */
  #found(): void {
    const { voters, learners } = this.plan
    const founders = this.nodes.filter((node) => node.witness || node.slot < voters + learners)
    const members = founders.map((node): Member => {
      const role: MemberRole = node.witness ? 'witness' : node.slot < voters ? 'voter' : 'learner'
      return { id: node.id, incarnation: this.operator.newIncarnation(), addresses: [`${node.id}:1`], role }
    })
    const config: ClusterConfig = { members, outgoing: [] }
    for (const [i, node] of founders.entries()) {
      node.form((members[i] as Member).incarnation, config, false)
      node.start()
    }
  }

  /** Nodes that clients know of; after the faults, those that run. */
  #reachable(): NodeId[] {
    const known = this.nodes.filter((node) => node.state !== 'spare')
    const running = known.filter((node) => node.state === 'up')
    return (this.clients.stopped && running.length > 0 ? running : known).map((node) => node.id)
  }

  #arrived(frame: Frame): void {
    const node = this.nodeOf(frame.to)
    if (node?.paused === true) this.loop.after(0, 'frame', node, () => node.receive(frame), frame)
    else node?.receive(frame)
  }

  /** `from` hears that its stream to `to` is gone. */
  #broken(from: NodeId, to: NodeId): void {
    const node = this.nodeOf(from)
    if (node === undefined) return
    this.loop.after(this.plan.net.minUs, 'lost', node, () => node.use((core) => core.leaderLost(to)), to)
  }

  #reset(a: NodeId, b: NodeId): void {
    this.net.reset(a, b)
    this.net.reset(b, a)
  }

  crash(node: SimNode, power: boolean): void {
    if (node.state !== 'up') return
    node.crash(power)
    this.transfers.died(node)
    // A machine without power does not even close its connections.
    if (power || this.plan.net.mode !== 'stream') return
    for (const other of this.nodes) if (other !== node) this.#reset(other.id, node.id)
  }

  #looked(node: SimNode, core: Raft): void {
    const { view, log } = core
    const { config, index: configIndex } = core.config
    this.oracles.looked(node, view, (index) => log.term(index), config)
    if (configIndex > view.commit) {
      this.oracles.configured(node, configIndex, view.lastIndex, log.cached(configIndex, configIndex)?.[0]?.type)
    }
    if (view.role === 'leader') this.#checkBeliefs(node, core, view.term)
    let hash = mix(this.hash, node.slot * 4 + roles.indexOf(view.role))
    hash = mix(mix(hash, view.term), view.commit)
    this.hash = mix(mix(hash, view.lastIndex), view.applied)
  }

  #checkBeliefs(node: SimNode, core: Raft, term: number): void {
    for (const { id, incarnation } of core.config.config.members) {
      const match = id === node.id ? 0 : core.matchOf(id)
      const matchTerm = match === 0 ? undefined : core.log.term(match)
      if (matchTerm !== undefined) this.oracles.believed(node, term, id, incarnation, match, matchTerm)
    }
  }

  /** To be called after each event. */
  seen(event: SimEvent): void {
    this.hash = mix(mix(this.hash, event.timeUs), kindNumbers.get(event.kind) ?? 0)
  }
}
