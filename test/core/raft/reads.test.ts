/** Linearizable reads by ReadIndex: batched, confirmed by a quorum that answered after they came. */

import { expect } from 'chai'
import { TestNetwork } from './network.ts'

const three = ['a', 'b', 'c']

describe('raft read index', () => {
  it('a batch of reads is confirmed by one round of heartbeats at the commit index', () => {
    const net = TestNetwork.of(three)
    const leader = net.elect('a')
    let heartbeats = 0
    net.drops = (message) => {
      if (message.kind === 'heartbeat') heartbeats++
      return false
    }
    for (let token = 1; token <= 10; token++) expect(leader.raft.readIndex(token)).to.equal('waiting')
    net.settle()
    expect(leader.reads.map((read) => read.token)).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    expect(leader.reads.every((read) => read.index === 2)).to.equal(true)
    expect(heartbeats).to.equal(2)
  })

  it('a leader that was replaced confirms no read', () => {
    const net = TestNetwork.of(three)
    const old = net.elect('a')
    net.isolate('a')
    net.elect('b')
    net.propose('b', 'new')
    net.settle()
    old.raft.readIndex(1)
    net.tick(5, ['a'])
    expect(old.reads).to.deep.equal([])
    net.heal()
    net.tick(5)
    expect(old.reads).to.deep.equal([])
    expect(old.droppedReads).to.deep.equal([1])
  })

  it('an answer to an older heartbeat does not confirm a newer read', () => {
    const net = TestNetwork.of(three)
    const leader = net.elect('a')
    net.drops = (message) => message.kind === 'heartbeat'
    leader.raft.readIndex(1)
    net.settle()
    leader.raft.step({ kind: 'heartbeatReply', from: 'b', to: 'a', term: 2, context: 0 })
    net.settle()
    expect(leader.reads).to.deep.equal([])
    leader.raft.step({ kind: 'heartbeatReply', from: 'b', to: 'a', term: 2, context: 1 })
    net.settle()
    expect(leader.reads).to.deep.equal([{ token: 1, index: 2 }])
  })

  it('a new leader answers no read before it has committed in its own term', () => {
    const net = TestNetwork.of(three)
    net.drops = (message) => message.kind === 'append'
    const leader = net.elect('a')
    leader.raft.readIndex(1)
    net.tick(3, ['a'])
    expect(leader.reads).to.deep.equal([])
    net.heal()
    net.tick(4, ['a'])
    expect(leader.reads).to.deep.equal([{ token: 1, index: 2 }])
  })

  it('a single node confirms reads by itself, a follower refuses them, a transferring leader too', () => {
    const one = TestNetwork.of(['a'])
    one.node('a').raft.campaign()
    one.settle()
    one.node('a').raft.readIndex(1)
    one.settle()
    expect(one.node('a').reads).to.deep.equal([{ token: 1, index: 2 }])
    const net = TestNetwork.of(three)
    net.elect('a')
    expect(net.node('b').raft.readIndex(1)).to.equal('not-leader')
    net.isolate('b')
    net.node('a').raft.transfer('b')
    expect(net.node('a').raft.readIndex(1)).to.equal('not-leader')
  })
})
