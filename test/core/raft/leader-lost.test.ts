/** A reset or refused connection from the leader: an election at once, no split votes, and no harm when it was nothing. */

import { expect } from 'chai'
import { TestNetwork } from './network.ts'

const three = ['a', 'b', 'c']

function led(ids: readonly string[], leader: string): TestNetwork {
  const net = TestNetwork.of(ids)
  net.elect(leader)
  net.propose(leader, 'x')
  net.tick(3)
  return net
}

describe('raft lost leader', () => {
  for (const dead of three) {
    it(`when ${dead} dies and both others are told, one is elected at once, in one term`, () => {
      const net = led(three, dead)
      const { term } = net.node(dead).raft.view
      net.kill(dead)
      for (const id of three) if (id !== dead) net.node(id).raft.leaderLost(dead)
      net.settle()
      expect(net.leader?.raft.view, 'without a tick').to.include({ term: term + 1 })
      net.tick(30)
      expect(net.leader?.raft.view, 'and nobody tries again').to.include({ role: 'leader', term: term + 1 })
    })
  }

  it('told one tick apart, in any order and with slow disks, the votes are not split', () => {
    for (const [first, second] of [
      ['b', 'c'],
      ['c', 'b'],
    ] as const) {
      for (let apart = 0; apart <= 4; apart++) {
        for (const slow of [0, 1]) {
          const net = led(three, 'a')
          net.kill('a')
          net.node(first).raft.leaderLost('a')
          for (const id of [first, second]) net.node(id).stalled = slow > 0
          for (let tick = 0; tick < 16 && net.leader === undefined; tick++) {
            if (tick === apart) net.node(second).raft.leaderLost('a')
            net.tick(1)
            // Every write takes a tick.
            for (const id of [first, second]) net.queue.push(...net.node(id).finishAppend())
            net.settle()
          }
          const where = `${first} first, ${second} ${apart} ticks later, slow ${slow}`
          expect(net.leader?.raft.view.term, where).to.equal(3)
        }
      }
    }
  })

  it('the first in the order whose log is behind does not keep the next one from winning', () => {
    const net = led(three, 'a')
    net.drops = (message) => message.to === 'b' && message.kind === 'append'
    net.propose('a', 'not at b')
    net.settle()
    net.kill('a')
    net.heal()
    for (const id of ['b', 'c']) net.node(id).raft.leaderLost('a')
    net.tick(4)
    expect(net.leader?.id).to.equal('c')
  })

  it('five members agree on one, even if one of them is not told', () => {
    const ids = ['a', 'b', 'c', 'd', 'e']
    const net = led(ids, 'c')
    net.kill('c')
    for (const id of ['b', 'd', 'e']) net.node(id).raft.leaderLost('c')
    net.tick(6)
    expect(net.leader?.raft.view.term).to.equal(3)
  })

  it('a spurious reset changes nothing: whoever hears the leader refuses', () => {
    const net = led(three, 'a')
    net.node('b').raft.leaderLost('a')
    net.settle()
    net.tick(4)
    expect(net.node('a').raft.view).to.include({ role: 'leader', term: 2 })
    expect(net.node('b').raft.view).to.include({ role: 'follower', leader: 'a', term: 2 })
    // All at once, and the leader is alive and heard: it stays.
    for (const id of ['b', 'c']) net.node(id).raft.leaderLost('a')
    net.node('a').raft.tick()
    net.node('a').raft.tick()
    net.queue.unshift(...net.node('a').work())
    net.settle()
    net.tick(40)
    const leaders = [...net.nodes.values()].filter((node) => node.raft.view.role === 'leader')
    expect(leaders).to.have.length(1)
    net.checkAgreement()
  })

  it('one that hears the leader again waits in full', () => {
    const net = led(three, 'a')
    const { raft } = net.node('c')
    raft.leaderLost('a')
    net.node('c').work()
    raft.step({ kind: 'heartbeat', from: 'a', to: 'c', term: 2, commit: 2, context: 0 })
    for (let i = 0; i < 9; i++) raft.tick()
    expect(raft.view).to.include({ role: 'follower', leader: 'a' })
  })

  it('a witness and a learner forget the leader and leave the campaign to others', () => {
    const net = led(['a', 'b', 'l:learner', 'w:witness'], 'a')
    net.kill('a')
    for (const id of ['w', 'l', 'b']) net.node(id).raft.leaderLost('a')
    net.settle()
    expect(net.node('l').raft.view.role).to.equal('follower')
    expect(net.leader?.id).to.equal('b')
    expect(net.leader?.raft.view.solo, 'nobody waits for the one that is gone').to.equal(true)
  })

  it('the loss of anybody but the leader starts no election', () => {
    const net = led(three, 'a')
    net.node('b').raft.leaderLost('c')
    net.node('a').raft.leaderLost('b')
    net.tick(3)
    expect(net.node('b').raft.view).to.include({ role: 'follower', leader: 'a' })
    expect(net.node('a').raft.view).to.include({ role: 'leader', term: 2 })
  })
})
