/** Members that leave: followers, the leader itself, those that come back, and those that never hear of it. */

import { expect } from 'chai'
import { configOf, memberOf, TestNetwork } from './network.ts'

const three = ['a', 'b', 'c']

function voters(net: TestNetwork, id: string): string {
  return net
    .node(id)
    .raft.config.config.members.map((member) => member.id)
    .join('')
}

describe('raft removal', () => {
  it('a removed follower learns of it, and stops campaigning', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.change({ kind: 'remove', id: 'c' })
    net.settle()
    net.tick(4)
    const { raft } = net.node('c')
    expect(voters(net, 'c')).to.equal('ab')
    expect(raft.config.index).to.equal(raft.view.commit)
    expect(raft.membership(memberOf('c').incarnation)).to.equal('removed')
    expect(net.node('b').raft.membership(memberOf('b').incarnation)).to.equal('member')
    expect(net.node('a').raft.sessionOf('c'), 'the leader has let it go').to.equal(0)
    net.tick(80)
    expect(raft.view).to.include({ role: 'follower', term: 2, leader: '' })
  })

  it('a member that leaves unheard is told for a bounded time', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    let sent = 0
    net.kill('c')
    net.drops = (message) => {
      if (message.to === 'c') sent++
      return false
    }
    net.change({ kind: 'remove', id: 'c' })
    net.tick(50)
    expect(sent).to.be.within(10, 60)
    sent = 0
    net.tick(50)
    expect(sent).to.equal(0)
  })

  it('a leader that removes itself works until that is committed, then hands over and steps down (scenario 51)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.drops = (message) => message.kind === 'append' && message.to === 'c'
    net.change({ kind: 'remove', id: 'a' })
    net.propose('a', 'still here')
    net.settle()
    // Both b and c are needed by the new majority.
    expect(net.node('a').raft.view).to.include({ role: 'leader', commit: 2 })
    net.heal()
    net.tick(2, ['a'])
    const leader = net.leader
    // The successor does not know a as a member; a hears of it at its next heartbeat.
    net.tick(2, ['a'])
    expect(net.node('a').raft.view.role).to.equal('follower')
    expect(leader?.id).to.be.oneOf(['b', 'c'])
    expect(leader?.raft.view, 'without waiting for a timeout').to.include({ term: 3 })
    expect(voters(net, 'b')).to.equal('bc')
    net.propose(leader?.id ?? '', 'after')
    net.tick(3)
    net.checkAgreement()
  })

  it('a removed leader that finds nobody to hand over to steps down after the attempt (scenario 51)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.drops = (message) => message.kind === 'timeoutNow'
    net.change({ kind: 'remove', id: 'a' })
    net.settle()
    expect(net.node('a').raft.view).to.include({ role: 'leader', transferring: true })
    net.tick(11, ['a'])
    expect(net.node('a').raft.view.role).to.equal('follower')
    net.tick(40)
    expect(net.leader?.id).to.be.oneOf(['b', 'c'])
    expect(net.node('a').raft.view.role).to.equal('follower')
  })

  it('a leaving leader that crashed before its removal was known is elected again to finish it (scenarios 50, 58)', () => {
    const net = TestNetwork.of(['a', 'b'])
    net.elect('a')
    // b takes the joint configuration; a commits it and appends the final one alone.
    net.drops = (message) => message.kind === 'append' && message.entries.some((entry) => entry.index > 3)
    net.change({ kind: 'remove', id: 'a' })
    net.settle()
    expect(voters(net, 'a')).to.equal('b')
    expect(voters(net, 'b')).to.equal('ab')
    net.restart('a', 'b')
    net.heal()
    net.tick(60)
    expect(voters(net, 'a') + voters(net, 'b')).to.equal('bb')
    expect(net.node('b').raft.view.role, 'the only voter left leads').to.equal('leader')
    expect(net.node('a').raft.view.role).to.equal('follower')
  })

  it('of two members one dies while it is removed: nothing is lost, and it goes on when it returns (scenario 58)', () => {
    const net = TestNetwork.of(['a', 'b'])
    net.elect('a')
    net.kill('b')
    net.change({ kind: 'remove', id: 'b' })
    net.tick(40)
    expect(net.node('a').raft.view.role, 'two of the old two are needed').to.not.equal('leader')
    expect(net.node('a').raft.view.commit).to.equal(2)
    net.restart('b')
    net.tick(60)
    expect(net.node('a').raft.view.role).to.equal('leader')
    expect(voters(net, 'a')).to.equal('a')
  })

  it('a joint change with one crash on each side still elects a leader (scenario 50)', () => {
    const net = TestNetwork.of(['a', 'b', 'c', 'd', 'e'])
    net.elect('a')
    net.drops = (message) => message.kind === 'append' && !['b', 'c'].includes(message.to)
    net.change({ kind: 'remove', id: 'a' })
    net.settle()
    // Of the old five and of the new four, one each is gone; a is on its way out, c knows of it.
    net.kill('a', 'b')
    net.heal()
    net.tick(60)
    expect(net.leader?.id).to.be.oneOf(['c', 'd', 'e'])
    net.tick(10)
    expect(net.leader?.raft.config.config.outgoing).to.deep.equal([])
    expect(voters(net, net.leader?.id ?? '')).to.equal('bcde')
  })

  it('a removed or never added node that campaigns for ever disturbs nobody (scenario 53)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    net.change({ kind: 'remove', id: 'c' })
    net.settle()
    net.tick(60)
    const { term } = net.node('a').raft.view
    // c never heard of it; e was never in. Both ask for votes of a high term, again and again.
    net.heal()
    for (let round = 0; round < 50; round++) {
      for (const from of ['c', 'e']) {
        for (const to of ['a', 'b']) {
          const log = { lastIndex: 99, lastTerm: 99 }
          const { raft } = net.node(to)
          raft.step({ kind: 'vote', from, to, term: 50 + round, pre: round % 2 === 0, forced: false, ...log })
          raft.step({ kind: 'heartbeatReply', from, to, term: 50 + round, context: 0 })
          raft.step({ kind: 'voteReply', from, to, term: 50 + round, pre: false, granted: true })
        }
      }
      net.tick(1)
    }
    expect(net.node('a').raft.view).to.include({ role: 'leader', term })
    expect(net.node('b').raft.view).to.include({ leader: 'a', term })
  })

  it('a member removed and added again in one term is not vouched for by late answers (scenario 33)', () => {
    const net = TestNetwork.of(three)
    const leader = net.elect('a')
    for (let i = 0; i < 5; i++) net.propose('a', 'x')
    net.settle()
    const session = leader.raft.sessionOf('c')
    net.kill('c')
    net.change({ kind: 'remove', id: 'c' })
    net.tick(2)
    const index = net.change({ kind: 'add', member: memberOf('c', 'learner', 1) })
    expect(leader.raft.sessionOf('c')).to.equal(index).and.not.to.equal(session)
    const late = { accepted: true, index: 7, hintIndex: 0, hintTerm: 0 }
    leader.raft.step({ kind: 'appendReply', from: 'c', to: 'a', term: 2, session, ...late })
    expect(leader.raft.matchOf('c')).to.equal(0)
    net.down.delete('c')
    const fresh = net.join('c', configOf(['a', 'b', 'c:learner']))
    net.tick(4)
    expect(fresh.applied).to.deep.equal(leader.applied)
    expect(fresh.raft.membership(memberOf('c', 'learner', 1).incarnation)).to.equal('member')
  })

  it('a new member that has not reached the entry that added it takes itself neither for removed nor for a member', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    for (let i = 0; i < 20; i++) net.propose('a', 'x')
    net.change({ kind: 'move', id: 'b', addresses: ['moved:1'] })
    net.settle()
    const fresh = net.join('d', configOf(['a', 'b', 'c', 'd:learner']))
    const { incarnation } = memberOf('d')
    net.drops = (message) => message.to === 'd' && message.kind === 'append' && message.entries.length > 0
    net.change({ kind: 'add', member: memberOf('d', 'learner') })
    net.tick(4)
    expect(fresh.raft.membership(incarnation)).to.equal('unknown')
    const seen = new Set<string>()
    net.drops = () => {
      seen.add(fresh.raft.membership(incarnation))
      return false
    }
    net.tick(6)
    expect(fresh.raft.membership(incarnation)).to.equal('member')
    expect([...seen].toSorted()).to.not.include('removed')
  })

  it('a follower that lags follows a leader that its own configuration does not name', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    net.join('d', configOf(['a', 'b', 'c', 'd:learner']))
    net.change({ kind: 'add', member: memberOf('d', 'learner') })
    net.tick(4, ['a', 'b', 'd'])
    net.change({ kind: 'promote', id: 'd' })
    net.tick(4, ['a', 'b', 'd'])
    net.node('a').raft.transfer('d')
    net.settle()
    expect(net.leader?.id).to.equal('d')
    net.kill('a', 'b')
    net.restart('b')
    expect(voters(net, 'c')).to.equal('abc')
    net.heal()
    net.tick(6, ['b', 'c', 'd'])
    expect(net.node('c').raft.view.leader).to.equal('d')
    expect(voters(net, 'c')).to.equal('abcd')
  })
})
