/** Elections: who may win, pre-vote, check-quorum, transfer, and what a slow or crashed disk must not do. */

import { expect } from 'chai'
import type { Message } from '../../../src/core/raft/messages.ts'
import { Raft } from '../../../src/core/raft/raft.ts'
import type { RaftOptions } from '../../../src/core/raft/types.ts'
import { optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']
const five = ['a', 'b', 'c', 'd', 'e']

function network(logs: Record<string, number[]>, term: number): TestNetwork {
  const ids = Object.keys(logs)
  return new TestNetwork(ids.map((id) => new TestNode(optionsOf(id, ids, logs[id] ?? [], { term, vote: '' }))))
}

describe('raft elections', () => {
  it('a single node leads as soon as its own vote is on disk, not before', () => {
    const net = TestNetwork.of(['a'])
    const node = net.node('a')
    node.stalled = true
    node.raft.campaign()
    node.work()
    expect(node.raft.view.role).to.equal('candidate')
    node.stalled = false
    node.finishAppend()
    net.settle()
    expect(node.raft.view).to.include({ role: 'leader', term: 2, commit: 2 })
  })

  it('three nodes elect one leader, which commits a no-op of its term first', () => {
    const net = TestNetwork.of(three)
    const leader = net.elect('a')
    expect(leader.raft.view.commit).to.equal(2)
    expect(leader.disk.entries[1]).to.include({ type: 'noop', term: 2 })
    net.tick(2)
    for (const id of three) expect(net.node(id).raft.view).to.include({ leader: 'a', term: 2, commit: 2 })
  })

  it('nothing of a term leaves a node before its term and vote are on disk (scenario 16)', () => {
    const net = TestNetwork.of(three)
    const node = net.node('a')
    node.stalled = true
    const sent: Message[] = []
    for (let i = 0; i < 25; i++) {
      node.raft.tick()
      sent.push(...node.work())
    }
    // The pre-vote leaves (it changes nothing), the grant raises the term; the request for votes has to wait.
    node.raft.step({ kind: 'voteReply', from: 'b', to: 'a', term: 2, pre: true, granted: true })
    const early = node.work()
    expect(node.raft.view).to.include({ role: 'candidate', term: 2 })
    expect(early).to.deep.equal([])
    const released = node.finishAppend()
    expect(released.map((message) => [message.kind, message.term])).to.deep.equal([
      ['vote', 2],
      ['vote', 2],
    ])
    expect(node.disk.hard).to.deep.equal({ term: 2, vote: 'a' })
    expect(sent.every((message) => message.kind === 'vote' && message.pre)).to.equal(true)
  })

  it('a vote that was not on disk before a crash was never answered (scenario 1)', () => {
    const net = TestNetwork.of(three)
    const voter = net.node('c')
    voter.stalled = true
    const ask = (from: string): void =>
      voter.raft.step({ kind: 'vote', from, to: 'c', term: 5, pre: false, forced: false, lastIndex: 1, lastTerm: 1 })
    ask('a')
    expect(voter.work()).to.deep.equal([])
    voter.crash()
    voter.stalled = false
    ask('b')
    const replies = voter.work()
    expect(replies).to.have.length(1)
    expect(replies[0]).to.include({ kind: 'voteReply', to: 'b', granted: true })
    ask('a')
    expect(voter.work()[0]).to.include({ to: 'a', granted: false })
  })

  it('a vote is granted again to the same candidate and to nobody else in that term, across a crash (scenario 16)', () => {
    const net = TestNetwork.of(three)
    const voter = net.node('c')
    const ask = (from: string): unknown => {
      voter.raft.step({ kind: 'vote', from, to: 'c', term: 5, pre: false, forced: false, lastIndex: 1, lastTerm: 1 })
      return voter.work().map((message) => message.kind === 'voteReply' && message.granted)
    }
    expect(ask('a')).to.deep.equal([true])
    expect(ask('a')).to.deep.equal([true])
    voter.crash()
    expect(ask('b')).to.deep.equal([false])
    expect(ask('a')).to.deep.equal([true])
  })

  const comparisons: { voter: number[]; lastIndex: number; lastTerm: number; granted: boolean }[] = [
    { voter: [1, 1, 1], lastIndex: 3, lastTerm: 1, granted: true },
    { voter: [1, 1, 1], lastIndex: 2, lastTerm: 1, granted: false },
    { voter: [1, 1, 1], lastIndex: 2, lastTerm: 2, granted: true },
    { voter: [1, 2], lastIndex: 9, lastTerm: 1, granted: false },
    { voter: [1, 2], lastIndex: 2, lastTerm: 2, granted: true },
  ]
  for (const { voter: terms, lastIndex, lastTerm, granted } of comparisons) {
    it(`a voter with terms ${terms.join(',')} answers ${granted} to a log that ends at ${lastIndex} in term ${lastTerm} (scenarios 3, 4)`, () => {
      const voter = new TestNode(optionsOf('c', three, terms, { term: 2, vote: '' }))
      voter.raft.step({ kind: 'vote', from: 'a', to: 'c', term: 3, pre: false, forced: false, lastIndex, lastTerm })
      expect(voter.raft.view.term, 'learning a higher term is not granting a vote').to.equal(3)
      expect(voter.work()[0]).to.include({ kind: 'voteReply', granted })
    })
  }

  it('a node that was cut off does not raise the term of the others when it comes back (scenario 9)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    net.tick(100)
    expect(net.node('c').raft.view.term).to.equal(2)
    net.heal()
    net.tick(30)
    expect(net.node('a').raft.view).to.include({ role: 'leader', term: 2 })
    expect(net.node('c').raft.view).to.include({ role: 'follower', leader: 'a' })
  })

  it('a node stuck in a higher term brings the leader to a new election and follows it (scenario 9)', () => {
    const net = network({ a: [1], b: [1], c: [1] }, 1)
    net.elect('a')
    net.isolate('c')
    // As after an election under older rules: c's term is above everybody's.
    net.node('c').raft.step({ kind: 'voteReply', from: 'b', to: 'c', term: 9, pre: true, granted: false })
    net.settle()
    expect(net.node('c').raft.view.term).to.equal(9)
    net.heal()
    net.tick(60)
    const leader = net.leader
    expect(leader?.raft.view.term).to.be.above(9)
    for (const id of three) expect(net.node(id).raft.view.leader).to.equal(leader?.id)
  })

  it('a pre-vote grant that arrives after the election began changes nothing (scenario 11)', () => {
    const net = TestNetwork.of(five)
    const node = net.node('a')
    net.drops = () => true
    for (let i = 0; i < 25 && node.raft.view.role === 'follower'; i++) {
      node.raft.tick()
      net.settle()
    }
    const grant = (from: string): void =>
      node.raft.step({ kind: 'voteReply', from, to: 'a', term: 2, pre: true, granted: true })
    grant('b')
    grant('c')
    net.settle()
    expect(node.raft.view).to.include({ role: 'candidate', term: 2 })
    grant('d')
    grant('e')
    net.settle()
    expect(node.raft.view).to.include({ role: 'candidate', term: 2 })
  })

  it('a node that hears its leader supports no election, except one that the leader asked for', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    const ask = (pre: boolean, forced: boolean): void =>
      net.node('b').raft.step({ kind: 'vote', from: 'c', to: 'b', term: 3, pre, forced, lastIndex: 9, lastTerm: 2 })
    ask(false, false)
    ask(true, false)
    expect(net.node('b').raft.view).to.include({ term: 2, leader: 'a' })
    expect(net.node('b').work()).to.deep.equal([])
    ask(false, true)
    expect(net.node('b').raft.view.term).to.equal(3)
    expect(net.node('b').work()[0]).to.include({ kind: 'voteReply', granted: true })
  })

  it('a leader without a quorum steps down and refuses proposals', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('a')
    net.tick(21, ['a'])
    const { raft } = net.node('a')
    expect(raft.view.role).to.not.equal('leader')
    expect(raft.propose(new Uint8Array(1))).to.deep.equal({ ok: false, reason: 'not-leader' })
  })

  it('with one-way links that keep a quorum, the cluster keeps a leader (scenario 8)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    // c sends but hears nothing.
    net.cut([
      ['a', 'c'],
      ['b', 'c'],
    ])
    net.tick(100)
    expect(net.node('a').raft.view).to.include({ role: 'leader', term: 2 })
    net.propose('a', 'x')
    net.settle()
    expect(net.node('a').raft.view.commit).to.equal(3)
  })

  it('five nodes where only one sees a quorum settle on it as leader (scenario 7)', () => {
    const net = TestNetwork.of(five)
    net.elect('d')
    // a-b, a-c, a-d, a-e only: everybody hears a, nobody else hears two.
    const pairs: [string, string][] = []
    for (const from of five) for (const to of five) if (from !== 'a' && to !== 'a') pairs.push([from, to])
    net.cut(pairs)
    net.tick(200)
    const { term } = net.node('a').raft.view
    expect(net.node('a').raft.view.role).to.equal('leader')
    net.tick(200)
    expect(net.node('a').raft.view).to.include({ role: 'leader', term })
  })

  it('leadership is handed to a member that has everything, within the exchange of a few messages', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.propose('a', 'x')
    net.settle()
    expect(net.node('a').raft.transfer('b')).to.equal(true)
    expect(net.node('a').raft.propose(new Uint8Array(1))).to.deep.equal({ ok: false, reason: 'transferring' })
    net.settle()
    expect(net.node('b').raft.view).to.include({ role: 'leader', term: 3 })
    expect(net.node('a').raft.view.role).to.equal('follower')
  })

  it('a transfer to a member that does not answer is given up after an election timeout (scenario 89)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    expect(net.node('a').raft.transfer('c')).to.equal(true)
    net.tick(11, ['a'])
    expect(net.node('a').raft.view).to.include({ role: 'leader', transferring: false })
    net.propose('a', 'again')
    net.settle()
    expect(net.node('a').raft.view.commit).to.equal(3)
  })

  it('a transfer to a lagging member waits until it has everything (scenario 89)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    for (let i = 0; i < 5; i++) net.propose('a', `x${i}`)
    net.settle()
    net.node('a').raft.transfer('c')
    net.settle()
    net.heal()
    net.tick(3, ['a'])
    expect(net.node('c').raft.view).to.include({ role: 'leader' })
    expect(net.node('c').raft.view.lastIndex).to.equal(8)
  })

  it('scenario 54: a new directory under an old id does not use the vote that its log gives to the earlier one', () => {
    const earlier = optionsOf('a', ['a'], [1, 1], { term: 1, vote: '' })
    const alone = (options: RaftOptions): Raft => {
      const raft = new Raft(options)
      for (let i = 0; i < 100; i++) raft.tick()
      return raft
    }
    const own = earlier.base.config.config.members[0]?.incarnation
    expect(alone({ ...earlier, incarnation: own }).view.term).to.equal(2)
    expect(alone({ ...earlier, incarnation: '9'.repeat(32) }).view).to.include({ role: 'follower', term: 1 })
  })
})
