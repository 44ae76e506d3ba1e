/** Two full members and a witness: what it holds, when it counts, and that losing either full member loses nothing. */

import { expect } from 'chai'
import { crc32c } from '../../../src/base/crc32c.ts'
import { utf8 } from '../../../src/base/bytes.ts'
import { encodeConfig, type Message } from '../../../src/core/raft/messages.ts'
import { decodeReceipt } from '../../../src/core/raft/receipts.ts'
import type { Entry, FetchTask, RaftLimits } from '../../../src/core/raft/types.ts'
import { configOf, memberOf, optionsOf, TestNetwork, TestNode } from './network.ts'

const pair = ['a', 'b', 'w:witness']

function cluster(limits: Partial<RaftLimits> = {}): TestNetwork {
  const net = TestNetwork.of(pair, limits)
  net.elect('a')
  net.tick(2)
  return net
}

const last = (node: TestNode): number => node.raft.view.lastIndex

describe('raft witness', () => {
  it('a witness holds receipts of commands and everything else whole', () => {
    const net = cluster()
    net.propose('a', 'payload')
    net.tick(2)
    const { entries } = net.node('w').disk
    const receipt = entries.find(({ index }) => index === 3)
    expect(receipt?.type).to.equal('receipt')
    const held = decodeReceipt(receipt?.payload ?? new Uint8Array(0))
    expect(held).to.deep.equal({ type: 'command', length: 7, crc: crc32c(utf8('payload')) })
    expect(entries.find(({ index }) => index === 2)).to.include({ type: 'noop', term: 2 })
    net.checkAgreement()
  })

  it('a witness is sent an entry only when the other full member has it', () => {
    const net = cluster()
    const before = last(net.node('w'))
    net.drops = (message) => message.kind === 'append' && message.to === 'b'
    net.propose('a', 'x')
    net.tick(6)
    expect(last(net.node('w'))).to.equal(before)
    expect(net.node('a').raft.view).to.include({ commit: before, solo: false })
    net.heal()
    net.tick(3)
    expect(last(net.node('w'))).to.equal(before + 1)
  })

  it('a leader that hears neither of them does not go on with the witness', () => {
    const net = cluster()
    net.drops = (message) => message.to === 'a'
    net.propose('a', 'x')
    net.tick(60)
    expect(net.node('a').disk.entries.map(({ type }) => type)).not.to.include('solo')
    expect(net.node('b').raft.view.role, 'the two that hear each other go on').to.equal('leader')
  })

  it('a new leader sends a witness nothing before the other full member answered or was waited for', () => {
    const net = TestNetwork.of(pair)
    net.drops = (message) => message.kind === 'append' && message.to === 'b'
    const leader = net.elect('a')
    net.tick(8)
    expect(leader.raft.view.solo).to.equal(false)
    expect(last(net.node('w'))).to.equal(1)
    net.tick(6)
    expect(leader.raft.view.solo).to.equal(true)
    expect(last(net.node('w'))).to.equal(last(leader))
  })

  it('a leader that is alone sends a witness only what is on its own disk, so that it can be elected again', () => {
    const net = cluster()
    net.kill('b')
    net.tick(14)
    const leader = net.node('a')
    leader.stalled = true
    net.propose('a', 'lost with the power')
    net.tick(6)
    expect(last(net.node('w'))).to.be.below(last(leader))
    leader.stalled = false
    net.restart('a')
    net.tick(40)
    expect(net.leader?.id).to.equal('a')
  })

  it('a fresh witness whose id once was a voter does not campaign while it catches up', () => {
    const config = configOf(['a', 'b', 'w:witness'])
    const node = new TestNode(optionsOf('w', config, [], { term: 0, vote: '' }))
    const configs = [configOf(['a', 'b', 'w']), configOf(['a', 'b']), config]
    const entries = configs.map((item, i): Entry => {
      return { index: i + 1, term: 1, type: 'config', payload: encodeConfig(item) }
    })
    const head = { kind: 'append', from: 'a', to: 'w', term: 1, session: 0, prevIndex: 0, prevTerm: 0 } as const
    node.raft.step({ ...head, commit: 0, entries })
    node.work()
    for (let i = 0; i < 60; i++) node.raft.tick()
    expect(node.raft.view.role).to.equal('follower')
  })

  it('when the other full member is silent for an election timeout, the leader goes on alone and says so', () => {
    const net = cluster()
    net.kill('b')
    const index = net.propose('a', 'x')
    net.tick(8)
    expect(net.node('a').raft.view).to.include({ solo: false, commit: 2 })
    net.tick(6)
    expect(net.node('a').raft.view).to.include({ role: 'leader', solo: true })
    expect(net.node('a').raft.view.commit).to.be.at.least(index + 1)
    expect(net.node('a').disk.entries.map(({ type }) => type)).to.include('solo')
    expect(net.node('w').disk.entries.at(-1)?.type).to.equal('solo')
  })

  it('a full member whose disk stands still is waited for no longer than an election timeout', () => {
    const net = cluster()
    net.node('b').stalled = true
    const index = net.propose('a', 'x')
    net.tick(13)
    expect(net.node('a').raft.view.solo).to.equal(true)
    expect(net.node('a').raft.view.commit).to.be.at.least(index)
  })

  it('being alone ends when the other one has everything that the witness has', () => {
    const net = cluster()
    net.kill('b')
    for (let i = 0; i < 20; i++) net.propose('a', 'x')
    net.tick(14)
    net.restart('b')
    net.drops = (message) => message.kind === 'append' && message.to === 'b' && message.entries.length > 0
    net.tick(8)
    expect(net.node('a').raft.view.solo, 'b is back, but lacks entries').to.equal(true)
    net.heal()
    net.tick(4)
    expect(net.node('a').raft.view.solo).to.equal(false)
    expect(last(net.node('b'))).to.equal(last(net.node('a')))
    net.drops = (message) => message.kind === 'append' && message.to === 'b'
    const before = last(net.node('w'))
    net.propose('a', 'again together')
    net.tick(4)
    expect(last(net.node('w'))).to.equal(before)
  })

  it('it does not end while something sent to the witness is still under way', () => {
    const net = cluster({ messageBytes: 1 })
    net.kill('b')
    net.tick(14)
    const leader = net.node('a')
    const late: Message[] = []
    net.drops = (message) => {
      if (message.kind === 'append' && message.to === 'w') late.push(message)
      return message.kind === 'append' && message.to === 'w'
    }
    for (let i = 0; i < 5; i++) net.propose('a', 'x')
    net.settle()
    // The connection to the witness breaks: where to go on is not known, but what was sent may arrive.
    leader.raft.unreachable('w')
    net.restart('b')
    net.drops = (message) =>
      [message.from, message.to].includes('w') ||
      (message.kind === 'append' && message.to === 'b' && message.entries.some(({ index }) => index > 5))
    net.tick(6)
    expect(leader.raft.matchOf('b')).to.be.below(last(leader)).and.at.least(leader.raft.view.commit)
    expect(leader.raft.view.solo).to.equal(true)
    expect(late).to.not.deep.equal([])
    net.heal()
    net.tick(6)
    expect(leader.raft.view.solo).to.equal(false)
  })

  it('it ends under load too: the witness does not run ahead of a member that is near', () => {
    const net = cluster()
    net.kill('b')
    for (let i = 0; i < 300; i++) net.propose('a', 'x')
    net.tick(14)
    net.restart('b')
    for (let i = 0; i < 20; i++) {
      for (let j = 0; j < 20; j++) net.node('a').raft.propose(utf8('load'))
      net.tick(1)
    }
    expect(net.node('a').raft.view.solo).to.equal(false)
    net.tick(4)
    net.checkAgreement()
  })

  it('losing the leader: the other member is elected by the witness and goes on alone', () => {
    const net = cluster()
    for (let i = 0; i < 10; i++) net.propose('a', `x${i}`)
    net.settle()
    const { commit } = net.node('a').raft.view
    net.kill('a')
    net.tick(40)
    const { raft } = net.node('b')
    expect(raft.view).to.include({ role: 'leader', solo: true })
    expect(raft.view.commit).to.be.above(commit)
    const index = net.propose('b', 'served')
    net.tick(2)
    expect(raft.view.commit).to.be.at.least(index)
    net.restart('a')
    net.tick(20)
    expect(raft.view.solo).to.equal(false)
    net.checkAgreement()
  })

  it('losing the witness: the pair goes on and is never alone', () => {
    const net = cluster()
    net.kill('w')
    const index = net.propose('a', 'x')
    net.tick(30)
    expect(net.node('a').raft.view).to.include({ role: 'leader', solo: false })
    expect(net.node('a').raft.view.commit).to.be.at.least(index)
    net.restart('w')
    net.tick(4)
    expect(last(net.node('w'))).to.equal(last(net.node('a')))
  })

  it('what was acknowledged alone is not replaced: the witness does not elect the member that lacks it', () => {
    const net = cluster()
    net.kill('b')
    net.tick(14)
    const index = net.propose('a', 'acknowledged')
    net.tick(2)
    expect(net.node('a').raft.view.commit).to.be.at.least(index)
    net.kill('a')
    net.restart('b')
    net.tick(100)
    expect(net.node('b').raft.view.role).to.not.equal('leader')
    net.restart('a')
    net.tick(60)
    expect(net.leader?.id).to.equal('a')
    net.tick(10)
    expect(net.node('b').raft.view.commit).to.be.at.least(index)
    net.checkAgreement()
  })

  it('a witness never campaigns, is never handed leadership, and forgets a silent leader', () => {
    const net = cluster()
    expect(net.node('a').raft.transfer('w')).to.equal(false)
    net.kill('a', 'b')
    net.tick(100)
    expect(net.node('w').raft.view).to.include({ role: 'follower', leader: '', term: 2 })
    net.node('w').raft.campaign()
    const { lastIndex } = net.node('w').raft.view
    net.node('w').raft.step({ kind: 'timeoutNow', from: 'a', to: 'w', term: 2, lastIndex, lastTerm: 2 })
    expect(net.node('w').raft.view).to.include({ role: 'follower', term: 2 })
  })

  it('a witness that is far behind is offered a snapshot, and does not hold compaction back', () => {
    const net = cluster()
    net.drops = (message) => message.kind === 'append' && message.to === 'w'
    for (let i = 0; i < 30; i++) net.propose('a', 'x')
    net.tick(12)
    const leader = net.node('a')
    net.heal()
    net.kill('w')
    expect(leader.raft.slowestMatch()).to.equal(last(leader))
    leader.compact(last(leader) - 2)
    net.restart('w')
    net.tick(4)
    expect(leader.snapshots).to.deep.equal(['w'])
    leader.sendSnapshot(net.node('w'))
    net.propose('a', 'y')
    net.tick(3)
    expect(last(net.node('w'))).to.equal(last(leader))
  })

  it('a witness is added beside exactly two voters, and removed before a third', () => {
    const net = TestNetwork.of(['a', 'b'])
    const { raft } = net.elect('a')
    net.join('w', configOf(['a', 'b', 'w:witness']))
    net.change({ kind: 'add', member: memberOf('w', 'witness') })
    net.tick(4)
    expect(raft.config.config).to.deep.equal(configOf(['a', 'b', 'w:witness']))
    net.join('c', configOf(['a', 'b', 'c:learner', 'w:witness']))
    net.change({ kind: 'add', member: memberOf('c', 'learner') })
    net.tick(4)
    expect(raft.change({ kind: 'promote', id: 'c' })).to.deep.include({ reason: 'invalid' })
    expect(raft.change({ kind: 'remove', id: 'b' }), 'b is alive').to.deep.include({ reason: 'invalid' })
    net.change({ kind: 'remove', id: 'w' })
    net.tick(4)
    expect(net.node('w').raft.membership(memberOf('w').incarnation)).to.equal('removed')
    net.change({ kind: 'promote', id: 'c' })
    net.tick(4)
    expect(raft.config.config).to.deep.equal(configOf(['a', 'b', 'c']))
  })

  it('a leaving witness still votes and never campaigns', () => {
    const net = cluster()
    net.drops = (message) => message.kind === 'append' && message.to === 'b'
    net.change({ kind: 'remove', id: 'w' })
    net.tick(14)
    expect(net.node('w').raft.config.config.members.at(-1)?.role).to.equal('leaving-witness')
    net.kill('a')
    net.heal()
    net.tick(60)
    expect(net.node('w').raft.view.role).to.equal('follower')
    net.restart('a')
    net.tick(60)
    expect(net.leader?.id).to.equal('a')
    net.tick(10)
    expect(net.leader?.raft.config.config).to.deep.equal(configOf(['a', 'b']))
  })

  it('the witness is not removed while it is needed', () => {
    const net = cluster()
    net.kill('b')
    net.tick(14)
    const refused = net.node('a').raft.change({ kind: 'remove', id: 'w' })
    expect(refused).to.deep.include({ reason: 'invalid' })
    expect('why' in refused && refused.why).to.equal('no majority would answer after it, because b is silent')
  })

  it('a dead full member is replaced: removed by the other one and the witness, then a new one is promoted', () => {
    const net = cluster()
    net.kill('b')
    net.tick(14)
    net.change({ kind: 'remove', id: 'b' })
    net.tick(4)
    const { raft } = net.node('a')
    expect(raft.config.config).to.deep.equal(configOf(['a', 'w:witness']))
    expect(raft.view.solo, 'there is one copy').to.equal(true)
    net.join('c', configOf(['a', 'c:learner', 'w:witness']))
    net.change({ kind: 'add', member: memberOf('c', 'learner') })
    net.tick(4)
    net.change({ kind: 'promote', id: 'c' })
    net.tick(6)
    expect(raft.config.config).to.deep.equal(configOf(['a', 'c', 'w:witness']))
    expect(raft.view.solo).to.equal(false)
    net.kill('a')
    net.tick(40)
    expect(net.leader?.id).to.equal('c')
  })

  it('entries that were read for a witness while the leader was alone are not sent when it is not any more', () => {
    const limits = { cacheBytes: 300, windowMessages: 2 }
    const terms: number[] = Array.from({ length: 10 }, () => 1)
    const { raft } = new TestNode(optionsOf('a', configOf(pair), terms, { term: 1, vote: '' }, limits))
    let fetch: FetchTask | undefined
    const work = (): Message[] => {
      const out: Message[] = []
      for (let ready = raft.ready(); ready !== undefined; ready = raft.ready()) {
        out.push(...ready.send)
        fetch = ready.fetches.at(-1) ?? fetch
        if (ready.append !== undefined) raft.appendDone(ready.append.seq)
        if (ready.apply !== undefined) raft.applyDone(ready.apply.last)
      }
      return out
    }
    const say = (message: Message): void => {
      raft.step(message)
      work()
    }
    const acknowledge = (from: string, index: number): void => {
      const body = { accepted: true, index, hintIndex: 0, hintTerm: 0, session: 0 } as const
      say({ kind: 'appendReply', from, to: 'a', term: 2, ...body })
    }
    const alive = (from: string): void => say({ kind: 'heartbeatReply', from, to: 'a', term: 2, context: 0 })
    const propose = (count: number): void => {
      for (let i = 0; i < count; i++) raft.propose(new Uint8Array(50))
      work()
    }
    raft.campaign()
    work()
    for (const pre of [true, false]) say({ kind: 'voteReply', from: 'w', to: 'a', term: 2, pre, granted: true })
    acknowledge('b', 11)
    acknowledge('w', 11)
    for (let i = 0; i < 40; i++) {
      propose(1)
      acknowledge('b', raft.view.lastIndex)
      raft.unreachable('w')
    }
    propose(10)
    for (let i = 0; i < 14; i++) {
      raft.tick()
      raft.unreachable('w')
      alive('w')
    }
    expect(raft.view.solo).to.equal(true)
    propose(40)
    raft.unreachable('w')
    alive('w')
    const asked = fetch
    if (asked === undefined) throw new Error('nothing was asked for')
    const soloAt = 62
    expect([asked.first, asked.last]).to.deep.equal([12, raft.view.lastIndex])
    // The disk has not answered when b is back, with everything that the pair had decided.
    alive('b')
    acknowledge('b', soloAt)
    raft.tick()
    work()
    expect(raft.view.solo).to.equal(false)
    const entries: Entry[] = []
    for (let index = asked.first; index <= asked.last; index++) {
      const term = raft.log.term(index) ?? 0
      entries.push({ index, term, type: 'command', payload: new Uint8Array(50) })
    }
    raft.fetched('w', entries)
    const sent = work().flatMap((message) => (message.kind === 'append' && message.to === 'w' ? message.entries : []))
    expect(sent.at(0)?.index).to.equal(asked.first)
    expect(sent.at(-1)?.index, 'no more than b has').to.equal(soloAt)
  })

  it('a member that is slow again and again costs one entry of this kind, not one for each time', () => {
    const terms: number[] = Array.from({ length: 100 }, () => 1)
    const node = new TestNode(optionsOf('a', configOf(pair), terms, { term: 1, vote: '' }))
    const { raft } = node
    raft.campaign()
    node.work()
    for (const pre of [true, false]) {
      raft.step({ kind: 'voteReply', from: 'w', to: 'a', term: 2, pre, granted: true })
      node.work()
    }
    let times = 0
    const acknowledge = (): void => {
      const body = { accepted: true, index: raft.view.lastIndex, hintIndex: 0, hintTerm: 0, session: 0 } as const
      raft.step({ kind: 'appendReply', from: 'b', to: 'a', term: 2, ...body })
      node.work()
    }
    acknowledge()
    // Nothing commits: the leader's own disk stands still, and w stores nothing. b takes longer than it is waited for.
    node.stalled = true
    const { commit } = raft.view
    for (let round = 0; round < 6; round++) {
      raft.propose(new Uint8Array(1))
      for (let i = 0; i < 14; i++) {
        const { solo } = raft.view
        raft.tick()
        for (const from of ['b', 'w']) raft.step({ kind: 'heartbeatReply', from, to: 'a', term: 2, context: 0 })
        node.work()
        if (raft.view.solo && !solo) times++
      }
      acknowledge()
    }
    expect(raft.view).to.include({ role: 'leader', commit })
    expect(times, 'it was alone again and again').to.be.above(3)
    const all = raft.log.cached(commit + 1, raft.view.lastIndex) ?? []
    expect(all.filter(({ type }) => type === 'solo')).to.have.lengthOf(1)
  })
})
