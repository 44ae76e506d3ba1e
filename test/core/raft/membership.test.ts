/** Changes of the membership: joint configurations, learners, removal, and what a member that lags must still do. */

import { expect } from 'chai'
import type { MemberChange } from '../../../src/core/raft/types.ts'
import { configOf, memberOf, optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']

/** Roles of all members as the leader sees them, `id:role`, then the outgoing voters. */
function shape(node: TestNode): string {
  const { members, outgoing } = node.raft.config.config
  return [...members.map(({ id, role }) => `${id}:${role}`), ...outgoing.map((id) => `-${id}`)].join(' ')
}

const learner = (id: string): MemberChange => ({ kind: 'add', member: memberOf(id, 'learner') })

/** A cluster of three with a leader, and d as a learner that has everything. */
function withLearner(): TestNetwork {
  const net = TestNetwork.of(three)
  net.elect('a')
  net.join('d', configOf(['a', 'b', 'c', 'd:learner']))
  net.change(learner('d'))
  net.tick(4)
  return net
}

describe('raft membership', () => {
  it('a learner gets the whole log, counts for nothing and never campaigns', () => {
    const net = withLearner()
    const leader = net.node('a')
    expect(shape(leader)).to.equal('a:voter b:voter c:voter d:learner')
    expect(net.node('d').applied).to.deep.equal(leader.applied)
    net.kill('b', 'c')
    net.propose('a', 'x')
    net.settle()
    expect(leader.raft.view.commit, 'a and the learner are no majority').to.equal(3)
    net.kill('a')
    net.tick(60, ['d'])
    expect(net.node('d').raft.view).to.include({ role: 'follower', term: 2, leader: '' })
  })

  it('a promoted learner votes and counts: the joint configuration is left as soon as it is committed', () => {
    const net = withLearner()
    net.change({ kind: 'promote', id: 'd' })
    expect(shape(net.node('a'))).to.equal('a:voter b:voter c:voter d:voter -a -b -c')
    net.settle()
    net.tick(2)
    for (const id of ['a', 'b', 'c', 'd']) {
      expect(shape(net.node(id)), id).to.equal('a:voter b:voter c:voter d:voter')
      expect(net.node(id).raft.config.index).to.equal(net.node(id).raft.view.commit)
    }
    net.kill('b', 'c')
    net.propose('a', 'x')
    net.tick(4)
    expect(net.node('a').raft.view.commit, 'two of four are no majority').to.equal(5)
  })

  it('during a joint change both majorities must agree (scenario 52)', () => {
    const net = withLearner()
    net.change({ kind: 'promote', id: 'd' })
    // a and d are half of the new voters and a third of the old ones; with b both majorities are there.
    net.isolate('b', 'c')
    net.tick(3, ['a', 'd'])
    expect(net.node('a').raft.view.commit).to.equal(3)
    net.drops = (message) => [message.from, message.to].includes('c')
    net.tick(4, ['a', 'b', 'd'])
    expect(net.node('a').raft.view.commit).to.be.above(3)
    expect(shape(net.node('a'))).to.equal('a:voter b:voter c:voter d:voter')
  })

  it('learners and joint halves are counted from the start, after a crash too (scenario 52)', () => {
    const config = configOf(['a', 'b', 'c:learner', 'd', 'e:leaving'], ['a', 'b', 'e'])
    const node = new TestNode(optionsOf('a', config, [1], { term: 1, vote: '' }))
    for (let i = 0; i < 25 && node.raft.view.role === 'follower'; i++) node.raft.tick()
    const asked = node.work().map((message) => message.to)
    expect(asked, 'learners are not asked').to.deep.equal(['b', 'd', 'e'])
    const grant = (from: string): void =>
      node.raft.step({ kind: 'voteReply', from, to: 'a', term: 2, pre: true, granted: true })
    grant('c')
    grant('d')
    expect(node.raft.view.role, 'the old majority is missing').to.equal('pre-candidate')
    grant('e')
    expect(node.raft.view.role).to.equal('candidate')
  })

  it('no change is accepted before an entry of the term is committed (scenario 47)', () => {
    const net = TestNetwork.of(three)
    net.drops = (message) => message.kind === 'append'
    net.elect('a')
    expect(net.node('a').raft.change(learner('d'))).to.deep.equal({ ok: false, reason: 'not-ready' })
    net.heal()
    net.tick(4, ['a'])
    expect(net.node('a').raft.change(learner('d'))).to.include({ ok: true })
  })

  it('one change at a time, and none by a follower, during a transfer or below version 2', () => {
    const net = withLearner()
    const { raft } = net.node('a')
    net.drops = () => true
    net.change({ kind: 'promote', id: 'd' })
    expect(raft.change(learner('e'))).to.deep.equal({ ok: false, reason: 'pending' })
    expect(net.node('b').raft.change(learner('e'))).to.deep.equal({ ok: false, reason: 'not-leader' })
    net.heal()
    net.tick(8, ['a'])
    net.drops = () => true
    raft.transfer('b')
    expect(raft.change(learner('e'))).to.deep.equal({ ok: false, reason: 'transferring' })
    const old = TestNetwork.of(three, {}, { clusterVersion: 1 })
    old.elect('a')
    expect(old.node('a').raft.change(learner('d'))).to.deep.equal({ ok: false, reason: 'version' })
    old.node('a').raft.setVersion(2)
    expect(old.node('a').raft.change(learner('d'))).to.include({ ok: true })
  })

  it('a learner that does not answer or is far behind is not promoted', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.change(learner('d'))
    net.tick(12)
    const { raft } = net.node('a')
    expect(raft.change({ kind: 'promote', id: 'd' })).to.include({ ok: false, reason: 'invalid' })
    for (let i = 0; i < 3000; i++) net.propose('a', 'x')
    net.settle()
    net.join('d', configOf(['a', 'b', 'c', 'd:learner']))
    net.drops = (message) => message.to === 'd' && message.kind === 'append' && message.entries.length > 0
    net.tick(3)
    const refused = raft.change({ kind: 'promote', id: 'd' })
    expect(refused).to.deep.include({ reason: 'invalid' })
    expect('why' in refused && refused.why).to.match(/^d is not ready to be a voter: it has entry 0 of \d+$/)
    net.heal()
    net.tick(4)
    net.change({ kind: 'promote', id: 'd' })
  })

  it('a promoted learner that does not know it yet still votes (scenario 49)', () => {
    const net = withLearner()
    // The joint entry reaches b only; then the leader and c are gone.
    net.drops = (message) => message.kind === 'append' && message.to !== 'b'
    net.change({ kind: 'promote', id: 'd' })
    net.settle()
    expect(shape(net.node('d'))).to.contain('d:learner')
    net.kill('c')
    net.heal()
    net.drops = (message) => message.from === 'a' || message.to === 'a' || message.to === 'd'
    net.tick(3)
    net.kill('a')
    net.heal()
    net.restart('c')
    net.kill('c')
    // Old majority: b alone cannot; with c back and d voting, b needs two of three and three of four.
    net.restart('c')
    const leader = net.elect('b')
    net.tick(4)
    expect(shape(leader)).to.equal('a:voter b:voter c:voter d:voter')
    expect(leader.raft.matchOf('d')).to.be.above(0)
  })

  it('a new leader keeps an uncommitted configuration of its log, after a restart too, and ends it (scenario 48)', () => {
    const net = withLearner()
    net.drops = (message) => message.kind === 'append' && message.to !== 'b'
    net.change({ kind: 'promote', id: 'd' })
    net.settle()
    net.kill('a')
    net.restart('b')
    expect(shape(net.node('b'))).to.equal('a:voter b:voter c:voter d:voter -a -b -c')
    net.heal()
    const leader = net.elect('b')
    net.tick(4)
    expect(shape(leader)).to.equal('a:voter b:voter c:voter d:voter')
    expect(leader.raft.config.index).to.be.at.most(leader.raft.view.commit)
  })

  it('a configuration that is truncated gives back the one before it, also one only in the snapshot (scenario 55)', () => {
    const net = withLearner()
    const old = net.node('a')
    old.compact(old.raft.view.applied)
    net.isolate('a')
    net.change({ kind: 'promote', id: 'd' }, 'a')
    net.settle()
    expect(shape(old)).to.contain('d:voter')
    net.elect('b')
    net.propose('b', 'x')
    net.settle()
    net.heal()
    net.tick(6)
    expect(shape(old)).to.equal('a:voter b:voter c:voter d:learner')
    expect(old.raft.config.index).to.equal(old.disk.base.config.index)
    old.crash()
    expect(shape(old)).to.equal('a:voter b:voter c:voter d:learner')
  })

  it('the index of a configuration in a snapshot is that of its entry (scenario 56)', () => {
    const net = withLearner()
    for (let i = 0; i < 5; i++) net.propose('a', 'x')
    net.settle()
    net.join('e', configOf(['a', 'b', 'c', 'e:learner']))
    const leader = net.node('a')
    leader.compact(leader.raft.view.applied)
    net.change(learner('e'))
    net.tick(3)
    expect(leader.snapshots).to.deep.equal(['e'])
    leader.sendSnapshot(net.node('e'))
    net.tick(3)
    const { raft, disk } = net.node('e')
    expect(disk.base.config.index).to.equal(raft.config.index).and.to.be.at.most(disk.base.index)
    expect(raft.config).to.deep.equal(leader.raft.config)
    expect(raft.view.applied).to.equal(leader.raft.view.applied)
  })

  it('a change asked of an isolated old leader is lost with its term, and nothing else is (scenario 57)', () => {
    const net = TestNetwork.of(three)
    const old = net.elect('a')
    net.isolate('a')
    net.change({ kind: 'remove', id: 'b' }, 'a')
    net.settle()
    net.elect('c')
    const index = net.propose('c', 'kept')
    net.settle()
    net.heal()
    net.tick(30)
    expect(shape(old)).to.equal('a:voter b:voter c:voter')
    for (const id of three) expect(new TextDecoder().decode(net.node(id).applied[index - 1]?.payload)).to.equal('kept')
    net.checkAgreement()
  })

  it('a move changes only addresses, and at once', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.change({ kind: 'move', id: 'b', addresses: ['elsewhere:9'] })
    net.tick(2)
    for (const id of three) {
      expect(net.node(id).raft.config.config.members[1]).to.deep.equal({
        ...memberOf('b'),
        addresses: ['elsewhere:9'],
      })
    }
  })

  it('a learner that has more than the only candidate leads until its promotion can go on', () => {
    const net = withLearner()
    // a alone has the joint configuration, and dies; c leads without it, tells the learner alone, and is gone for good.
    net.drops = ({ kind }) => kind === 'append'
    net.change({ kind: 'promote', id: 'd' })
    net.settle()
    net.kill('a')
    net.drops = ({ kind, to }) => kind === 'append' && to === 'b'
    const c = net.elect('c')
    expect(net.node('d').raft.log.lastTerm).to.equal(c.raft.view.term)
    net.kill('c')
    net.restart('a')
    expect(shape(net.node('a')), 'it needs d').to.equal('a:voter b:voter c:voter d:voter -a -b -c')
    net.heal()
    net.tick(200)
    expect(net.leader?.id).to.be.oneOf(['a', 'b'])
    net.propose(net.leader?.id ?? '', 'x')
    net.tick(4)
    expect(net.leader?.raft.view.commit).to.equal(net.leader?.raft.view.lastIndex)
    expect(shape(net.node('d'))).to.equal('a:voter b:voter c:voter d:learner')
    net.checkAgreement()
  })

  it('an address that is none is not taken into the configuration', () => {
    const net = withLearner()
    for (const addresses of [['not an address'], ['h:99999'], ['h:1', '']]) {
      const refused = net.node('a').raft.change({ kind: 'move', id: 'b', addresses })
      expect('why' in refused && refused.why).to.equal('an address of b is not host:port')
      const added = net.node('a').raft.change({ kind: 'add', member: { ...memberOf('e', 'learner'), addresses } })
      expect('why' in added && added.why).to.equal('an address of e is not host:port')
    }
  })
})
