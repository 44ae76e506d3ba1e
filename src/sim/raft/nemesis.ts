/**
 * Carries out the faults of a plan at their moments, and mends each when its time is over.
 *
 * Every fault is one that the cluster promises to survive: crashes and cuts of everybody, but a disk is lost for good only
 * while the others are a majority of whatever configuration may be in force.
 */

import { Prng } from '../../base/prng.ts'
import type { NodeId } from '../../model/ids.ts'
import { Seeded } from '../seed.ts'
import { encodeCommand } from './command.ts'
import type { Loop } from './loop.ts'
import type { RaftNet } from './net.ts'
import type { SimNode } from './node.ts'
import type { Operator } from './operator.ts'
import type { Fault, RaftPlan, Target } from './plan.ts'

export interface NemesisGround {
  readonly loop: Loop
  readonly plan: RaftPlan
  readonly net: RaftNet
  readonly nodes: readonly SimNode[]
  readonly operator: Operator
  crash(node: SimNode, power: boolean): void
  /** Ends the node, whose disk is about to be damaged or taken away. */
  lose(node: SimNode): void
  /** The stream between the two broke at both ends. */
  reset(a: NodeId, b: NodeId): void
}

type Of<K extends Fault['kind']> = Extract<Fault, { readonly kind: K }>

export class Nemesis {
  readonly #ground: NemesisGround
  readonly #random: Seeded
  #over = false

  constructor(ground: NemesisGround) {
    this.#ground = ground
    this.#random = new Seeded(new Prng(ground.plan.seed).fork('nemesis'))
    for (const fault of ground.plan.faults) {
      ground.loop.after(
        fault.atUs,
        'fault',
        undefined,
        () => {
          if (!this.#over) this.#strike(fault)
        },
        fault,
      )
    }
  }

  /** Nothing is broken and nothing mended from now on. */
  stop(): void {
    this.#over = true
  }

  #mend(forUs: number, run: () => void): void {
    this.#ground.loop.after(forUs, 'mend', undefined, () => {
      if (!this.#over) run()
    })
  }

  #pick(target: Target): SimNode {
    const { nodes, operator } = this.#ground
    const members = nodes.filter((node) => node.state !== 'spare')
    const { leader } = operator
    const fallback = members[0] ?? (nodes[0] as SimNode)
    if (typeof target === 'number') return members[target % members.length] ?? fallback
    if (target === 'leader') return leader ?? fallback
    if (target === 'witness') return members.find((node) => node.witness) ?? fallback
    return members.find((node) => node !== leader && node.state === 'up') ?? fallback
  }

  #strike(fault: Fault): void {
    const { operator, net } = this.#ground
    switch (fault.kind) {
      case 'crash':
        return this.#crash(this.#pick(fault.node), fault.power, fault.forUs)
      case 'power-loss':
        for (const node of this.#ground.nodes) this.#crash(node, true, fault.forUs * this.#random.unit())
        return
      case 'pause':
        return this.#pause(this.#pick(fault.node), fault.forUs)
      case 'rate':
        return this.#clock(this.#pick(fault.node), fault)
      case 'jump':
        return this.#jump(this.#pick(fault.node), fault.ticks)
      case 'cut':
        return this.#cut(fault)
      case 'reset':
        return this.#reset(fault)
      case 'replay':
        return net.replay(fault.count)
      case 'slow-disk':
      case 'stall-disk':
      case 'fail-disk':
        return this.#disk(this.#pick(fault.node), fault)
      case 'rot':
        return this.#rot(this.#pick(fault.node), fault)
      case 'impostor':
        return this.#impostor(this.#pick(fault.node), fault.forUs)
      case 'compact':
        return this.#pick(fault.node).compactNow()
      case 'transfer': {
        const to = this.#pick(fault.to).id
        operator.leader?.use((core) => core.transfer(to))
        return
      }
      case 'flood':
        return this.#flood(fault)
      case 'add':
        return operator.add()
      case 'remove':
        return operator.remove(this.#pick(fault.node), fault.stop)
      case 'replace':
        return this.#replace(this.#pick(fault.node))
    }
  }

  #crash(node: SimNode, power: boolean, forUs: number): void {
    if (node.state !== 'up') return
    this.#ground.crash(node, power)
    const { life } = node
    this.#mend(forUs, () => {
      if (node.life === life) node.start()
    })
  }

  #pause(node: SimNode, forUs: number): void {
    if (!node.active) return
    node.paused = true
    const { life } = node
    this.#mend(forUs, () => {
      if (node.life === life && node.paused) this.#ground.loop.resume(node)
    })
  }

  #clock(node: SimNode, { rate, forUs }: Of<'rate'>): void {
    node.setRate(rate)
    this.#mend(forUs, () => node.setRate(1))
  }

  #jump(node: SimNode, ticks: number): void {
    if (node.active) node.jump(ticks)
  }

  #cut(fault: Of<'cut'>): void {
    const { nodes, net } = this.#ground
    const pairs = cutPairs(fault, this.#pick(fault.node), nodes)
    for (const [from, to] of pairs) net.cut(from, to, fault.clog)
    this.#mend(fault.forUs, () => {
      for (const [from, to] of pairs) net.mend(from, to, fault.clog)
    })
  }

  #reset({ node, mask }: Of<'reset'>): void {
    const one = this.#pick(node)
    for (const other of this.#ground.nodes) {
      if (other !== one && (mask >>> other.slot) % 2 === 1) this.#ground.reset(one.id, other.id)
    }
  }

  #disk(node: SimNode, fault: Of<'slow-disk' | 'stall-disk' | 'fail-disk'>): void {
    const { disk } = node
    const { nowUs } = this.#ground.loop
    if (fault.kind === 'stall-disk') disk.stalledUntilUs = nowUs + fault.forUs
    else if (fault.kind === 'slow-disk') {
      disk.slowness = fault.factor
      this.#mend(fault.forUs, () => {
        disk.slowness = 1
      })
    } else if (node.state === 'up') {
      disk.fault = fault.how
      this.#mend(fault.forUs, () => {
        disk.fault = undefined
        node.start()
      })
    }
  }

  /** Damages what was acknowledged, and looks whether the node notices at its next start. */
  #rot(node: SimNode, { how, forUs }: Of<'rot'>): void {
    const { operator } = this.#ground
    if (node.state !== 'up' || !operator.canLose(node)) return
    this.#ground.crash(node, true)
    const damage = damageOf(node, how, this.#random)
    if (damage !== undefined) {
      this.#ground.lose(node)
      damage()
    }
    node.start()
    if (damage === undefined) return
    if (node.core !== undefined) throw new Error(`${node.id} started from a damaged disk: ${how}`)
    this.#mend(forUs, () => operator.replace(node))
  }

  #impostor(node: SimNode, forUs: number): void {
    const { operator } = this.#ground
    if (node.state !== 'up' || !operator.canLose(node)) return
    const config = node.core?.config.config
    this.#ground.lose(node)
    if (config === undefined) return
    node.form(operator.newIncarnation(), config, true)
    node.deaf = true
    node.start()
    this.#mend(forUs, () => {
      node.retire()
      node.state = 'lost'
      operator.replace(node)
    })
  }

  #replace(node: SimNode): void {
    const { operator } = this.#ground
    if (node.state !== 'up' || !operator.canLose(node)) return
    this.#ground.lose(node)
    node.state = 'lost'
    operator.replace(node)
  }

  #flood({ count, bytes }: Of<'flood'>): void {
    const filler = { kind: 'filler', session: 0, sequence: 0, key: 0, onVersion: 0 } as const
    this.#ground.operator.leader?.use((core) => {
      for (let i = 0; i < count; i++) core.propose(encodeCommand({ ...filler, value: i }, bytes))
    })
  }
}

/** The directed pairs of a cut. */
function cutPairs(fault: Of<'cut'>, one: SimNode, nodes: readonly SimNode[]): [NodeId, NodeId][] {
  const pairs: [NodeId, NodeId][] = []
  const side = (node: SimNode): boolean => (fault.mask >>> node.slot) % 2 === 1
  const near = (a: SimNode, b: SimNode): boolean => {
    const apart = Math.abs(a.slot - b.slot)
    return apart <= 1 || apart === nodes.length - 1
  }
  for (const from of nodes) {
    for (const to of nodes) {
      if (from === to) continue
      const touches = from === one || to === one
      const other = from === one ? to : from
      const cut = {
        isolate: touches,
        split: side(from) !== side(to),
        deaf: to === one,
        mute: from === one,
        ring: !near(from, to),
        // One node sees both sides, which do not see each other.
        bridge: !touches && side(from) !== side(to),
        pair: touches && side(other),
        'one-way': from === one && side(to),
      }[fault.shape]
      if (cut) pairs.push([from.id, to.id])
    }
  }
  return pairs
}

/** What damages something acknowledged, undefined when there is nothing yet. */
function damageOf(node: SimNode, how: Of<'rot'>['how'], random: Seeded): (() => void) | undefined {
  const { disk } = node
  const { base, hard } = disk.image
  if (how === 'slots') {
    return () => {
      for (const position of [0, 1] as const) {
        const slot = disk.slots[position]
        if (slot !== undefined) disk.slots[position] = { ...slot, intact: false }
      }
    }
  }
  if (hard.watermark <= base.index) return undefined
  const index = base.index + 1 + random.below(hard.watermark - base.index)
  return () => {
    const { entries } = disk.image
    const stored = entries.get(index)
    if (stored === undefined) return
    if (how === 'bit') entries.set(index, { ...stored, intact: false })
    else if (how === 'stale') entries.set(index, { ...stored, previous: stored.previous ^ 1 })
    else for (const other of entries.keys()) if (other >= index) entries.delete(other)
  }
}
