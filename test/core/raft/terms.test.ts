/** Terms and roles over restarts, late messages and odd networks: what must not bring a wrong leader, or none. */

import { expect } from 'chai'
import type { Message } from '../../../src/core/raft/messages.ts'
import { optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']
const five = ['a', 'b', 'c', 'd', 'e']

describe('raft terms', () => {
  it('when all nodes restart together, terms do not fall and committed entries stay (scenario 2)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    for (let i = 0; i < 10; i++) net.propose('a', `x${i}`)
    net.tick(3)
    const before = net.node('a').applied
    for (let round = 0; round < 3; round++) {
      const terms = three.map((id) => net.node(id).raft.view.term)
      net.restart(...three)
      for (const [i, id] of three.entries()) expect(net.node(id).raft.view.term).to.equal(terms[i])
      net.tick(40)
      const { leader } = net
      expect(leader?.raft.view.term).to.be.above(Math.max(...terms))
      for (const id of three) expect(net.node(id).applied.slice(0, before.length)).to.deep.equal(before)
    }
  })

  it('a leader that hears of a newer term stamps no entry with it (scenario 5)', () => {
    const net = TestNetwork.of(three)
    const { raft } = net.elect('a')
    const { lastIndex } = raft.view
    raft.step({ kind: 'heartbeat', from: 'b', to: 'a', term: 7, commit: 0, context: 0 })
    expect(raft.propose(new Uint8Array(1))).to.deep.equal({ ok: false, reason: 'not-leader' })
    expect(raft.view).to.include({ role: 'follower', term: 7, lastIndex })
    expect(raft.log.lastTerm).to.equal(2)
  })

  it('after stepping down, time brings no heartbeat of the new term (scenario 6)', () => {
    const net = TestNetwork.of(three)
    const node = net.elect('a')
    node.raft.step({ kind: 'heartbeat', from: 'b', to: 'a', term: 7, commit: 0, context: 0 })
    const sent: Message[] = node.work()
    for (let i = 0; i < 9; i++) {
      node.raft.tick()
      sent.push(...node.work())
    }
    expect(sent.map(({ kind }) => kind)).to.deep.equal(['heartbeatReply'])
  })

  it('d reaches only b and e only c: a stable leader serves the five (scenario 7)', () => {
    const net = TestNetwork.of(five)
    net.elect('e')
    const pairs: [string, string][] = []
    for (const [island, bridge] of [
      ['d', 'b'],
      ['e', 'c'],
    ] as const) {
      for (const other of five) if (other !== island && other !== bridge) pairs.push([island, other], [other, island])
    }
    net.cut(pairs)
    net.tick(150)
    const { leader } = net
    expect(leader?.id).to.be.oneOf(three)
    const term = leader?.raft.view.term
    net.tick(200)
    expect(net.leader?.raft.view).to.include({ term, leader: leader?.id })
    const index = net.propose(leader?.id ?? '', 'served')
    net.tick(4)
    expect(leader?.raft.view.commit).to.be.at.least(index)
  })

  it('the link between the leader and one follower is cut, both reach the third: one leader (scenario 7)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.cut([
      ['a', 'c'],
      ['c', 'a'],
    ])
    net.tick(200)
    expect(net.node('a').raft.view).to.include({ role: 'leader', term: 2 })
  })

  it('a pre-vote that is refused for its old term teaches the term, once (scenario 10)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    for (const [leader, term] of [
      ['b', 3],
      ['a', 4],
    ] as const) {
      net.node(leader === 'a' ? 'b' : 'a').raft.transfer(leader)
      net.settle()
      expect(net.node(leader).raft.view).to.include({ role: 'leader', term })
    }
    net.kill('a')
    net.tick(12, ['b'])
    for (let i = 0; i < 25 && net.node('c').raft.view.role === 'follower'; i++) net.tick(1, ['c'])
    net.heal()
    let asked = 0
    net.drops = (message) => {
      if (message.kind === 'vote' && message.from === 'c' && message.term < 5) asked++
      return false
    }
    net.tick(60, ['b', 'c'])
    expect(asked, 'no request of an old term after the first refusal').to.be.at.most(2)
    expect(net.node('c').raft.view.term).to.equal(net.node('b').raft.view.term).and.to.be.at.least(5)
  })

  it('the own vote that reaches the disk after the election was lost counts for nothing (scenario 12)', () => {
    const node = new TestNode(optionsOf('a', three, [1], { term: 1, vote: '' }))
    node.stalled = true
    for (let i = 0; i < 25 && node.raft.view.role === 'follower'; i++) node.raft.tick()
    node.raft.step({ kind: 'voteReply', from: 'b', to: 'a', term: 2, pre: true, granted: true })
    expect(node.raft.view).to.include({ role: 'candidate', term: 2 })
    node.work()
    node.raft.step({ kind: 'heartbeat', from: 'c', to: 'a', term: 2, commit: 0, context: 0 })
    node.finishAppend()
    expect(node.raft.view).to.include({ role: 'follower', leader: 'c', term: 2 })
  })

  it('after a long pause the messages that waited are heard before any timeout: no new term (scenario 14)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    const waiting: Message[] = []
    net.drops = (message) => {
      if (message.to === 'c') waiting.push(message)
      return message.to === 'c'
    }
    net.tick(200, ['a', 'b'])
    const { raft } = net.node('c')
    // The host gives one tick for a pause of any length, after what arrived.
    for (const message of waiting) raft.step(message)
    raft.tick()
    expect(raft.view).to.include({ role: 'follower', leader: 'a', term: 2 })
  })

  it('the only voter that is left leads in a new term only (scenario 15)', () => {
    const net = TestNetwork.of(['a', 'b'])
    net.elect('a')
    net.change({ kind: 'remove', id: 'a' })
    net.drops = (message) => message.kind === 'timeoutNow'
    net.tick(60)
    expect(net.node('b').raft.view).to.include({ role: 'leader', term: 3 })
  })

  it('a candidate that crashed before its vote was on disk has asked nobody (scenario 16)', () => {
    const node = new TestNode(optionsOf('a', three, [1], { term: 1, vote: '' }))
    node.stalled = true
    for (let i = 0; i < 25 && node.raft.view.role === 'follower'; i++) node.raft.tick()
    node.raft.step({ kind: 'voteReply', from: 'b', to: 'a', term: 2, pre: true, granted: true })
    expect(node.work().filter((message) => message.kind === 'vote' && !message.pre)).to.deep.equal([])
    node.crash()
    expect(node.raft.view).to.include({ term: 1, role: 'follower' })
    // A grant of the term it never was in elects nobody.
    node.raft.step({ kind: 'voteReply', from: 'b', to: 'a', term: 2, pre: false, granted: true })
    node.raft.step({ kind: 'voteReply', from: 'c', to: 'a', term: 2, pre: false, granted: true })
    expect(node.raft.view.role).to.equal('follower')
  })

  it('a transfer to a learner, a stranger or itself is refused (scenario 89)', () => {
    const net = TestNetwork.of([...three, 'l:learner'])
    const { raft } = net.elect('a')
    for (const to of ['l', 'z', 'a']) expect(raft.transfer(to), to).to.equal(false)
    expect(raft.view.transferring).to.equal(false)
  })

  it('a lost request to take over is repeated, well before the attempt ends', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    let lost = 0
    net.drops = (message) => message.kind === 'timeoutNow' && lost++ < 1
    net.node('a').raft.transfer('b')
    net.tick(4)
    expect(net.node('b').raft.view).to.include({ role: 'leader', term: 3 })
  })

  it('a transfer that ends in stepping down leaves nothing behind: the next term takes writes (scenario 90)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('b')
    const { raft } = net.node('a')
    raft.transfer('b')
    raft.step({ kind: 'heartbeat', from: 'c', to: 'a', term: 5, commit: 0, context: 0 })
    expect(raft.view).to.include({ role: 'follower', transferring: false })
    net.heal()
    net.elect('a')
    expect(net.node('a').raft.propose(new Uint8Array(1))).to.include({ ok: true })
  })

  it('a write of before the election that completes does not count as the own vote', () => {
    const node = new TestNode(optionsOf('a', ['a'], [1], { term: 1, vote: '' }))
    node.stalled = true
    const vote = { lastIndex: 9, lastTerm: 9, pre: false, forced: false }
    node.raft.step({ kind: 'vote', from: 'z', to: 'a', term: 5, ...vote })
    node.work()
    node.raft.campaign()
    expect(node.raft.view).to.include({ role: 'candidate', term: 6 })
    node.finishAppend()
    expect(node.raft.view.role, 'only the vote of term 5 is on disk').to.equal('candidate')
    node.work()
    node.finishAppend()
    expect(node.raft.view.role).to.equal('leader')
  })

  it('a pre-vote granted for an earlier round counts for nothing (scenario 11)', () => {
    const node = new TestNode(optionsOf('a', three, [1], { term: 1, vote: '' }))
    const wait = (): void => {
      for (let i = 0; i < 25 && node.raft.view.role !== 'pre-candidate'; i++) node.raft.tick()
    }
    wait()
    node.raft.step({ kind: 'voteReply', from: 'b', to: 'a', term: 2, pre: true, granted: false })
    wait()
    expect(node.raft.view).to.include({ role: 'pre-candidate', term: 2 })
    node.raft.step({ kind: 'voteReply', from: 'c', to: 'a', term: 2, pre: true, granted: true })
    expect(node.raft.view.role).to.equal('pre-candidate')
    node.raft.step({ kind: 'voteReply', from: 'c', to: 'a', term: 3, pre: true, granted: true })
    expect(node.raft.view).to.include({ role: 'candidate', term: 3 })
  })

  it('nobody is asked to take over before it has everything, and nobody does who has not (scenario 89)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    let asked = 0
    net.drops = (message) => {
      if (message.kind === 'timeoutNow') asked++
      return message.kind === 'append' && message.to === 'b'
    }
    net.propose('a', 'x')
    net.node('a').raft.transfer('b')
    net.tick(6)
    expect(asked).to.equal(0)
    net.node('b').raft.step({ kind: 'timeoutNow', from: 'a', to: 'b', term: 2, lastIndex: 3, lastTerm: 2 })
    expect(net.node('b').raft.view).to.include({ role: 'follower', term: 2 })
  })

  it('a member votes for a candidate that its own configuration does not name (scenario 49)', () => {
    const node = new TestNode(optionsOf('a', three, [1], { term: 1, vote: '' }))
    const log = { lastIndex: 5, lastTerm: 3 }
    node.raft.step({ kind: 'vote', from: 'new', to: 'a', term: 4, pre: false, forced: false, ...log })
    expect(node.work().at(-1)).to.include({ kind: 'voteReply', to: 'new', granted: true, term: 4 })
  })

  it('a disk slower than the election timeout delays an election and does not repeat it for ever', () => {
    const node = new TestNode(optionsOf('a', ['a'], [1], { term: 1, vote: '' }))
    node.stalled = true
    let ticks = 0
    // Every write takes 30 ticks.
    for (; ticks < 200 && node.raft.view.role !== 'leader'; ticks++) {
      node.raft.tick()
      node.work()
      if (ticks % 30 === 29) node.finishAppend()
    }
    expect(node.raft.view).to.include({ role: 'leader', term: 2 })
  })
})
