/** Reads from the leader's lease: when it holds, and all that must end or shorten it. */

import { expect } from 'chai'
import type { Message } from '../../../src/core/raft/messages.ts'
import { TestNetwork } from './network.ts'

const three = ['a', 'b', 'c']

/** A cluster with lease reads on, whose clock is that of the ticks. */
class LeaseNetwork {
  readonly net = TestNetwork.of(three, {}, { leaseReads: true })
  now = 0

  constructor() {
    // Votes are withheld for an election timeout after a start.
    this.run(12, [])
    this.net.elect('a')
    this.run(3)
  }

  run(ticks: number, ids: readonly string[] = three): void {
    for (let i = 0; i < ticks; i++) {
      this.now++
      for (const node of this.net.nodes.values()) node.raft.clock(this.now)
      this.net.tick(1, ids)
    }
  }

  /** True when a read at `id` is confirmed without a message. */
  readsAlone(id = 'a'): boolean {
    const node = this.net.node(id)
    node.reads = []
    node.raft.readIndex(1)
    const sent = node.work()
    this.net.queue.push(...sent)
    return node.reads.length === 1 && sent.length === 0
  }
}

describe('raft lease', () => {
  it('while a quorum heard the leader recently, a read needs no message', () => {
    const lease = new LeaseNetwork()
    expect(lease.readsAlone()).to.equal(true)
    expect(lease.net.node('a').reads).to.deep.equal([{ token: 1, index: 2 }])
  })

  it('is off unless asked for, and without the clock of the host', () => {
    const plain = TestNetwork.of(three)
    plain.elect('a')
    plain.node('a').raft.clock(1)
    plain.tick(3)
    plain.node('a').raft.readIndex(1)
    expect(plain.node('a').work().length).to.be.above(0)
    const blind = TestNetwork.of(three, {}, { leaseReads: true })
    blind.tick(12, [])
    for (const { raft } of blind.nodes.values()) for (let i = 0; i < 9; i++) raft.tick()
    blind.tick(30)
    blind.leader?.raft.readIndex(1)
    expect(blind.leader?.work().length).to.be.above(0)
  })

  it('ends half an election timeout after the last heartbeat that a quorum answered was sent (scenario 45)', () => {
    const lease = new LeaseNetwork()
    lease.net.isolate('a')
    lease.run(3)
    expect(lease.readsAlone()).to.equal(true)
    lease.run(4)
    expect(lease.readsAlone()).to.equal(false)
  })

  it('a late answer counts from when its heartbeat was sent, not from when it came (scenario 45)', () => {
    const lease = new LeaseNetwork()
    const late: Message[] = []
    lease.net.drops = (message) => {
      if (message.kind === 'heartbeatReply') late.push(message)
      return message.kind === 'heartbeatReply' || message.kind === 'appendReply'
    }
    lease.run(2, ['a'])
    lease.net.drops = (message) => message.to === 'a'
    lease.run(6, ['a'])
    for (const message of late) lease.net.node('a').raft.step(message)
    expect(lease.readsAlone()).to.equal(false)
  })

  it('a pause of the process ends it, though no tick was counted (scenario 45)', () => {
    const lease = new LeaseNetwork()
    lease.net.node('a').raft.clock(lease.now + 1000)
    expect(lease.readsAlone()).to.equal(false)
  })

  it('once a transfer was tried, it is off for the rest of the term (scenario 44)', () => {
    const lease = new LeaseNetwork()
    lease.net.isolate('b')
    lease.net.node('a').raft.transfer('b')
    expect(lease.net.node('a').raft.readIndex(1)).to.equal('not-leader')
    lease.run(11)
    lease.net.heal()
    lease.run(4)
    expect(lease.net.node('a').raft.view).to.include({ role: 'leader', transferring: false })
    expect(lease.readsAlone()).to.equal(false)
  })

  it('a member that heard the leader withholds its vote, also after a restart or a newer term', () => {
    const lease = new LeaseNetwork()
    const { raft } = lease.net.node('b')
    const ask = (term: number, pre: boolean): Message => ({
      kind: 'vote',
      from: 'c',
      to: 'b',
      term,
      pre,
      forced: false,
      lastIndex: 9,
      lastTerm: 9,
    })
    // A newer term arrives in an answer: the leader is forgotten, but may still read.
    raft.step({ kind: 'voteReply', from: 'c', to: 'b', term: 9, pre: true, granted: false })
    expect(raft.view).to.include({ term: 9, leader: '' })
    lease.net.node('b').work()
    raft.step(ask(9, false))
    raft.step(ask(10, true))
    for (const message of lease.net.node('b').work()) expect(message).to.not.include({ granted: true })
    lease.net.restart('c')
    lease.net.node('c').raft.step({ ...ask(3, false), from: 'b', to: 'c' })
    expect(lease.net.node('c').work()).to.deep.equal([])
    for (let i = 0; i < 10; i++) lease.net.node('c').raft.tick()
    lease.net.node('c').work()
    lease.net.node('c').raft.step({ ...ask(3, false), from: 'b', to: 'c' })
    expect(lease.net.node('c').work().at(-1)).to.include({ kind: 'voteReply', granted: true })
  })

  it('a reset connection is no reason to give a vote early', () => {
    const lease = new LeaseNetwork()
    const { raft } = lease.net.node('b')
    raft.leaderLost('a')
    expect(raft.view).to.include({ role: 'follower', leader: 'a' })
  })
})
