/** Snapshots as the core sees them: who wants one, what stays of the log, and how the leader goes on after it. */

import { expect } from 'chai'
import type { SnapshotOffer } from '../../../src/core/raft/messages.ts'
import { configOf, optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']

function offerTo(to: string, index: number, indexTerm: number, term = 5): SnapshotOffer {
  return {
    kind: 'snapshot',
    from: 'a',
    to,
    term,
    session: 0,
    index,
    indexTerm,
    configIndex: 0,
    config: configOf(three),
  }
}

function lagging(): TestNetwork {
  const net = TestNetwork.of(three)
  net.elect('a')
  net.kill('c')
  for (let i = 0; i < 10; i++) net.propose('a', 'x')
  net.tick(2)
  net.node('a').compact(net.node('a').raft.view.applied)
  net.restart('c')
  net.tick(4)
  expect(net.node('a').snapshots).to.deep.equal(['c'])
  return net
}

describe('raft snapshots', () => {
  it('where the log conflicts with the snapshot all of it goes, and nothing more is asked for (scenario 59)', () => {
    const node = new TestNode(optionsOf('b', three, [1, 2, 2, 2], { term: 2, vote: '' }))
    const state = [1, 1, 1].map(
      (term, i) => ({ index: i + 1, term, type: 'command', payload: new Uint8Array(1) }) as const,
    )
    expect(node.install(offerTo('b', 3, 3), state)).to.equal(true)
    expect(node.raft.view).to.include({ lastIndex: 3, commit: 3, applied: 3 })
    expect(node.raft.log.lastTerm).to.equal(3)
    expect(node.work().at(-1)).to.include({ kind: 'appendReply', accepted: true, index: 3 })
    node.raft.step({
      kind: 'append',
      from: 'a',
      to: 'b',
      term: 5,
      session: 0,
      prevIndex: 3,
      prevTerm: 3,
      commit: 3,
      entries: [{ index: 4, term: 5, type: 'command', payload: new Uint8Array(1) }],
    })
    node.work()
    expect(node.raft.view.lastIndex).to.equal(4)
  })

  it('a snapshot at an entry that the log has keeps what follows (scenario 60)', () => {
    const node = new TestNode(optionsOf('b', three, [1, 2, 2, 2], { term: 2, vote: '' }))
    expect(node.install(offerTo('b', 2, 2), [])).to.equal(true)
    expect(node.raft.view).to.include({ lastIndex: 4, commit: 2 })
    expect(node.disk.entries.map(({ index }) => index)).to.deep.equal([3, 4])
  })

  it('a snapshot behind commit is not wanted, and is answered with what is there (scenario 60)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(3)
    const { raft } = net.node('b')
    expect(raft.offerSnapshot(offerTo('b', 1, 1, 2))).to.equal(false)
    expect(net.node('b').work().at(-1)).to.include({ kind: 'appendReply', accepted: true, index: 2 })
  })

  it('a candidate takes the snapshot of the leader of its term (scenario 66)', () => {
    const node = new TestNode(optionsOf('b', three, [1], { term: 4, vote: '' }))
    for (let i = 0; i < 25 && node.raft.view.role === 'follower'; i++) node.raft.tick()
    node.raft.step({ kind: 'voteReply', from: 'c', to: 'b', term: 5, pre: true, granted: true })
    expect(node.raft.view).to.include({ role: 'candidate', term: 5 })
    node.work()
    expect(node.raft.offerSnapshot(offerTo('b', 9, 4))).to.equal(true)
    expect(node.raft.view).to.include({ role: 'follower', leader: 'a' })
  })

  it('the leader goes on when the report of a snapshot is lost and the member itself acknowledges (scenario 67)', () => {
    const net = lagging()
    const leader = net.node('a')
    const { index, config } = leader.disk.base
    const offer = { ...offerTo('c', index, 2, 2), configIndex: config.index, config: config.config }
    expect(net.node('c').install(offer, leader.applied)).to.equal(true)
    net.settle()
    net.propose('a', 'y')
    net.tick(2)
    expect(net.node('c').raft.view.lastIndex).to.equal(leader.raft.view.lastIndex)
    expect(leader.snapshots).to.deep.equal(['c'])
  })

  it('a member that has caught up by other means makes a snapshot under way pointless (scenario 67)', () => {
    const net = lagging()
    const leader = net.node('a')
    leader.raft.snapshotSent('c', true, 5)
    net.tick(4)
    expect(leader.snapshots, 'one that ended before the log begins is followed by another').to.deep.equal(['c', 'c'])
    leader.sendSnapshot(net.node('c'))
    net.tick(3)
    expect(net.node('c').raft.view.commit).to.equal(leader.raft.view.commit)
  })

  it('while a snapshot is under way there is no second one, and a failed one waits for a sign of life (scenario 68)', () => {
    const net = lagging()
    const leader = net.node('a')
    net.tick(20)
    expect(leader.snapshots).to.deep.equal(['c'])
    net.kill('c')
    leader.raft.snapshotSent('c', false, 0)
    net.tick(20)
    expect(leader.snapshots).to.deep.equal(['c'])
    net.restart('c')
    net.tick(4)
    expect(leader.snapshots).to.deep.equal(['c', 'c'])
  })

  it('while a snapshot is put in place, entries are not taken and nothing is written', () => {
    const node = new TestNode(optionsOf('b', three, [1], { term: 5, vote: '' }))
    expect(node.raft.offerSnapshot(offerTo('b', 9, 4))).to.equal(true)
    node.work()
    expect(node.raft.hold(true)).to.equal(true)
    node.raft.step({
      kind: 'append',
      from: 'a',
      to: 'b',
      term: 5,
      session: 0,
      prevIndex: 1,
      prevTerm: 1,
      commit: 1,
      entries: [{ index: 2, term: 5, type: 'command', payload: new Uint8Array(1) }],
    })
    expect(node.raft.view.lastIndex).to.equal(1)
    expect(node.raft.ready()?.append).to.equal(undefined)
    node.raft.hold(false)
  })

  it('commit stands still while a snapshot is put in place, though the log already holds more', () => {
    const node = new TestNode(optionsOf('b', three, [1, 2, 2, 2], { term: 5, vote: '' }))
    expect(node.raft.offerSnapshot(offerTo('b', 2, 2))).to.equal(true)
    node.work()
    expect(node.raft.hold(true)).to.equal(true)
    node.raft.step({ kind: 'heartbeat', from: 'a', to: 'b', term: 5, commit: 4, context: 0 })
    expect(node.raft.view.commit).to.equal(0)
    expect(node.work().at(-1), 'but the leader is answered').to.include({ kind: 'heartbeatReply' })
    node.raft.hold(false)
    expect(node.install(offerTo('b', 2, 2), [])).to.equal(true)
    node.raft.step({ kind: 'heartbeat', from: 'a', to: 'b', term: 5, commit: 4, context: 0 })
    expect(node.raft.view).to.include({ commit: 4, lastIndex: 4 })
  })
})
