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

  it('a leader that was replaced, in the minority, confirms no read (scenario 40)', () => {
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

  it('an answer to an older heartbeat does not confirm a newer read (scenario 42)', () => {
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

  it('a new leader answers no read before it has committed in its own term (scenario 41)', () => {
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

  it('a single node confirms reads by itself; a transferring leader refuses them (scenario 44)', () => {
    const one = TestNetwork.of(['a'])
    one.node('a').raft.campaign()
    one.settle()
    one.node('a').raft.readIndex(1)
    one.settle()
    expect(one.node('a').reads).to.deep.equal([{ token: 1, index: 2 }])
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('b')
    net.node('a').raft.transfer('b')
    expect(net.node('a').raft.readIndex(1)).to.equal('not-leader')
  })

  it('reads need both majorities during a joint change, and are looked at again when it ends (scenario 43)', () => {
    const net = TestNetwork.of(['a', 'b', 'c', 'd', 'e'])
    const leader = net.elect('a')
    net.tick(2)
    // Of the old five a, b and c are a majority; the new four need one more than a and b.
    net.drops = (message) => message.kind === 'append' || ['d', 'e'].includes(message.from)
    net.change({ kind: 'remove', id: 'c' })
    leader.raft.readIndex(1)
    net.settle()
    expect(leader.reads, 'a, b and c are half of the new voters').to.deep.equal([])
    net.drops = (message) => message.from === 'e'
    net.tick(4, ['a'])
    expect(leader.reads.map(({ token }) => token)).to.deep.equal([1])
  })

  it('reads that waited for a member that was removed are confirmed without it (scenario 43)', () => {
    const net = TestNetwork.of(['a', 'b'])
    const leader = net.elect('a')
    net.drops = (message) => message.kind === 'heartbeat' || message.kind === 'heartbeatReply'
    leader.raft.readIndex(1)
    net.settle()
    expect(leader.reads).to.deep.equal([])
    net.change({ kind: 'remove', id: 'b' })
    net.settle()
    expect(leader.reads.map(({ token }) => token)).to.deep.equal([1])
  })

  it('reads beyond the bound are refused, not stored', () => {
    const net = TestNetwork.of(three, { readsWaiting: 3 })
    const leader = net.elect('a')
    net.drops = (message) => message.kind === 'heartbeatReply' || message.kind === 'readIndex'
    for (let token = 1; token <= 3; token++) expect(leader.raft.readIndex(token)).to.equal('waiting')
    expect(leader.raft.readIndex(4)).to.equal('overloaded')
    for (let token = 1; token <= 3; token++) expect(net.node('b').raft.readIndex(token)).to.equal('waiting')
    expect(net.node('b').raft.readIndex(4)).to.equal('overloaded')
  })
})

describe('raft follower reads', () => {
  it('a follower asks its leader once for all that wait, and serves at an index it must apply first (scenario 46)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    const follower = net.node('b')
    follower.stalled = true
    const index = net.propose('a', 'x')
    net.settle()
    let asked = 0
    net.drops = (message) => {
      if (message.kind === 'readIndex') asked++
      return false
    }
    for (let token = 1; token <= 5; token++) expect(follower.raft.readIndex(token)).to.equal('waiting')
    net.settle()
    expect(asked).to.equal(1)
    expect(follower.reads).to.deep.equal([1, 2, 3, 4, 5].map((token) => ({ token, index })))
    expect(follower.raft.view.applied, 'it has not got there yet').to.be.below(index)
  })

  it('a learner reads too; without a leader, below version 2 and for strangers there are none', () => {
    const net = TestNetwork.of([...three, 'd:learner'])
    expect(net.node('b').raft.readIndex(1)).to.equal('not-leader')
    net.elect('a')
    net.tick(2)
    expect(net.node('d').raft.readIndex(1)).to.equal('waiting')
    net.settle()
    expect(net.node('d').reads).to.have.length(1)
    const leader = net.node('a').raft
    leader.step({ kind: 'readIndex', from: 'z', to: 'a', term: leader.view.term, context: 1 })
    expect(
      net
        .node('a')
        .work()
        .filter(({ kind }) => kind === 'heartbeat'),
    ).to.deep.equal([])
    const old = TestNetwork.of(three, {}, { clusterVersion: 1 })
    old.elect('a')
    old.tick(2)
    expect(old.node('b').raft.readIndex(1)).to.equal('not-leader')
  })

  it('a lost question is asked again under the same context, and answered once (scenario 42)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    const contexts = new Set<number>()
    let replies = 0
    net.drops = (message) => {
      if (message.kind === 'readIndex') contexts.add(message.context)
      if (message.kind === 'readIndexReply') replies++
      return message.kind === 'readIndexReply' && replies === 1
    }
    net.node('b').raft.readIndex(7)
    net.settle()
    expect(net.node('b').reads).to.deep.equal([])
    net.tick(3)
    expect(net.node('b').reads).to.deep.equal([{ token: 7, index: 2 }])
    expect(contexts.size).to.equal(1)
    net.tick(6)
    expect(net.node('b').reads).to.have.length(1)
  })

  it('an answer to a read of an earlier life answers nothing', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    let context = 0
    net.drops = (message) => {
      if (message.kind === 'readIndex') context = message.context
      return message.kind === 'readIndexReply'
    }
    net.node('b').raft.readIndex(1)
    net.settle()
    const early = context
    net.restart('b')
    net.tick(2)
    net.node('b').raft.readIndex(2)
    net.settle()
    expect(context).to.not.equal(early)
    net.node('b').raft.step({ kind: 'readIndexReply', from: 'a', to: 'b', term: 2, context: early, index: 1 })
    net.settle()
    expect(net.node('b').reads).to.deep.equal([])
  })

  it('only the leader that was asked answers', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    let context = 0
    net.drops = (message) => {
      if (message.kind === 'readIndex') context = message.context
      return message.kind === 'readIndexReply'
    }
    net.node('b').raft.readIndex(1)
    net.settle()
    net.node('b').raft.step({ kind: 'readIndexReply', from: 'c', to: 'b', term: 2, context, index: 1 })
    net.settle()
    expect(net.node('b').reads).to.deep.equal([])
  })

  it('reads are given up when the leader or the term changes', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.tick(2)
    const follower = net.node('b')
    net.drops = (message) => message.kind === 'readIndexReply'
    follower.raft.readIndex(1)
    net.settle()
    follower.raft.readIndex(2)
    net.node('a').raft.transfer('c')
    net.settle()
    expect(follower.droppedReads).to.deep.equal([1, 2])
    net.tick(2)
    follower.raft.readIndex(3)
    follower.raft.leaderLost('c')
    net.settle()
    expect(follower.droppedReads).to.deep.equal([1, 2, 3])
  })

  it('a deposed leader answers no follower (scenario 40)', () => {
    const net = TestNetwork.of([...three, 'd', 'e'])
    net.elect('a')
    net.tick(2)
    net.isolate('a', 'b')
    net.elect('c')
    net.propose('c', 'new')
    net.settle()
    net.node('b').raft.readIndex(1)
    net.tick(6, ['a', 'b'])
    expect(net.node('b').reads).to.deep.equal([])
  })
})
