/**
 * Random faults against random changes of the membership: whatever is lost, crashed, added and removed, one leader per
 * term, a committed entry stays what it is, and a read is served at an index that covers everything committed before.
 */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import { receiptOf } from '../../../src/core/raft/receipts.ts'
import type { Entry, MemberChange } from '../../../src/core/raft/types.ts'
import { memberOf, TestNetwork, type TestNode } from './network.ts'

const limits = { windowMessages: 2, messageBytes: 400 }

class Churn {
  readonly net: TestNetwork
  readonly random: Prng
  readonly #seed: number
  readonly #leaders = new Map<number, string>()
  /** Committed entries by index, as receipts of what they are. */
  readonly #history = new Map<number, string>()
  readonly #checked = new Map<TestNode['raft'], number>()
  readonly #leaseReads: boolean
  /** The highest index that was committed anywhere when each read was asked for. */
  readonly #floors: number[] = []
  #highest = 0
  #lives = 0
  #steps = 0
  changes = 0
  served = 0

  constructor(seed: number, ids: readonly string[], leaseReads = false) {
    this.#seed = seed
    this.random = new Prng(seed)
    this.#leaseReads = leaseReads
    this.net = TestNetwork.of(ids, limits, { leaseReads })
  }

  get committed(): number {
    return this.#history.size
  }

  pick<T>(items: readonly T[]): T {
    return items[this.random.below(items.length)] as T
  }

  /** One leader per term; what one node takes for committed, all do. */
  check(): void {
    for (const node of this.net.nodes.values()) {
      const { role, term, commit } = node.raft.view
      if (role === 'leader') {
        if (!this.#leaders.has(term)) this.#leaders.set(term, node.id)
        expect(this.#leaders.get(term), `seed ${this.#seed}: leader of term ${term}`).to.equal(node.id)
        expect(node.id, 'a witness never leads').to.not.equal('w')
      }
      const { log } = node.raft
      const from = Math.max(this.#checked.get(node.raft) ?? 0, log.baseIndex) + 1
      for (let index = from; index <= commit; index++) {
        const text = textOf(log.cached(index, index)?.[0])
        if (!this.#history.has(index)) this.#history.set(index, text)
        expect(text, `seed ${this.#seed}: entry ${index} at ${node.id}`).to.equal(this.#history.get(index))
      }
      this.#checked.set(node.raft, Math.max(commit, from - 1))
      this.#highest = Math.max(this.#highest, commit)
      for (const { token, index } of node.reads.splice(0)) {
        this.served++
        expect(index, `seed ${this.#seed}: read ${token} at ${node.id}`).to.be.at.least(this.#floors[token] ?? 0)
      }
    }
  }

  /** Somebody, leader or not, wants to read. */
  #read(): void {
    const node = this.net.node(this.pick([...this.net.nodes.keys()]))
    if (this.net.down.has(node.id)) return
    const token = this.#floors.push(this.#highest) - 1
    node.raft.readIndex(token)
  }

  /** Something breaks, or mends. */
  fault(): void {
    const { net, random } = this
    const ids = [...net.nodes.keys()]
    const node = net.node(this.pick(ids))
    if (random.chance(0.03)) net.restart(node.id)
    if (random.chance(0.02) && net.down.size === 0) net.kill(node.id)
    if (random.chance(0.03) && !net.down.has(node.id)) node.raft.leaderLost(node.raft.view.leader)
    if (random.chance(0.05)) net.restart(...net.down)
    node.stalled = random.chance(0.1)
    if (!node.stalled) net.queue.push(...node.finishAppend())
    const loss = random.chance(0.8) ? 0.03 : 0.5
    const cut = random.chance(0.1) ? this.pick(ids) : ''
    net.drops = ({ from, to }) => from === cut || to === cut || random.chance(loss)
  }

  /** Asks some leader for something, which it may refuse. */
  operate(): void {
    const { net, random } = this
    for (let i = random.below(3); i > 0; i--) this.#read()
    const leaders = [...net.nodes.values()].filter((node) => node.raft.view.role === 'leader')
    if (leaders.length === 0) return
    const leader = this.pick(leaders)
    for (let i = random.below(4); i > 0; i--) leader.raft.propose(new Uint8Array(random.below(200)))
    if (random.chance(0.1)) this.#changeAt(leader)
    if (random.chance(0.02)) leader.raft.transfer(this.pick([...net.nodes.keys()]))
    if (random.chance(0.1)) this.#compact(leader)
    this.#serveSnapshots(0.3)
  }

  #serveSnapshots(failing: number): void {
    const { net, random } = this
    for (const leader of net.nodes.values()) {
      for (const id of leader.snapshots.splice(0)) {
        const to = net.nodes.get(id)
        const fails = to === undefined || net.down.has(id) || leader.raft.view.role !== 'leader'
        if (fails || random.chance(failing)) leader.raft.snapshotSent(id, false, 0)
        else leader.sendSnapshot(to)
      }
    }
  }

  #compact(node: TestNode): void {
    const target = node.raft.view.applied - this.random.below(10)
    if (target > node.raft.log.baseIndex) node.compact(target)
  }

  #changeAt(leader: TestNode): void {
    const { members } = leader.raft.config.config
    const kind = this.pick(['add', 'promote', 'promote', 'remove'] as const)
    const id = this.pick(['a', 'b', 'c', 'd', 'e'])
    const member = memberOf(id, 'learner', ++this.#lives)
    const change: MemberChange = kind === 'add' ? { kind, member } : { kind, id: this.pick(members).id }
    if (change.kind === 'remove' && members.length < 3) return
    // A directory is used once: whoever is added begins empty, and its old self takes part nowhere.
    const used = ({ raft }: TestNode): boolean => raft.config.config.members.some((other) => other.id === id)
    if (change.kind === 'add' && [...this.net.nodes.values()].some((node) => node.id !== id && used(node))) return
    if (!leader.raft.change(change).ok) return
    this.changes++
    if (change.kind !== 'add') return
    this.net.down.delete(id)
    this.net.join(id, { members: [...members, member], outgoing: [] }, { limits, leaseReads: this.#leaseReads })
  }

  run(steps: number): void {
    const { net, random } = this
    for (let step = 0; step < steps; step++) {
      this.fault()
      this.operate()
      this.#steps++
      for (const [id, node] of net.nodes) {
        // Ticks of some come faster than the clock that leases go by, of others slower.
        node.raft.clock(this.#steps * 0.8)
        if (random.chance(node.id === 'c' ? 1 : 0.7) && !net.down.has(id)) node.raft.tick()
      }
      net.settle()
      this.check()
    }
  }

  /** Everything works again: a leader is elected, and all members come to the same end. */
  heal(): TestNode {
    const { net } = this
    for (const node of net.nodes.values()) {
      node.stalled = false
      net.queue.push(...node.finishAppend())
    }
    net.restart(...net.down)
    net.heal()
    for (let i = 0; i < 40; i++) {
      net.tick(10)
      this.operate()
      this.check()
    }
    for (let i = 0; i < 10; i++) {
      this.#serveSnapshots(0)
      net.tick(10)
    }
    const { leader } = net
    expect(leader, `seed ${this.#seed}: a leader after all is well`).to.not.equal(undefined)
    return leader as TestNode
  }
}

function textOf(entry: Entry | undefined): string {
  if (entry === undefined) return 'none'
  const { index, term, type, payload } = entry.type === 'command' ? receiptOf(entry) : entry
  return `${index} ${term} ${type} ${payload.join()}`
}

describe('raft churn', () => {
  it('random changes of the membership under random faults lose no committed entry', () => {
    let changes = 0
    for (let seed = 1; seed <= 8; seed++) {
      const churn = new Churn(seed, ['a', 'b', 'c'])
      churn.run(400)
      const leader = churn.heal()
      changes += churn.changes
      expect(churn.committed, `seed ${seed} makes progress`).to.be.above(20)
      const { members, outgoing } = leader.raft.config.config
      expect(outgoing, `seed ${seed} ends its change`).to.deep.equal([])
      for (const { id } of members) {
        expect(churn.net.node(id).raft.view.commit, `seed ${seed}: ${id}`).to.equal(leader.raft.view.commit)
      }
    }
    expect(changes).to.be.above(25)
  })

  it('two members and a witness under random faults lose no committed entry', () => {
    for (let seed = 101; seed <= 106; seed++) {
      const churn = new Churn(seed, ['a', 'b', 'w:witness'])
      churn.run(500)
      churn.heal()
      expect(churn.committed, `seed ${seed} makes progress`).to.be.above(20)
    }
  })

  it('reads from a lease, at followers and learners too, miss nothing that was committed (scenario 45)', () => {
    let served = 0
    for (let seed = 201; seed <= 206; seed++) {
      const churn = new Churn(seed, ['a', 'b', 'c'], true)
      churn.run(400)
      served += churn.served
    }
    expect(served).to.be.above(300)
  })
})
