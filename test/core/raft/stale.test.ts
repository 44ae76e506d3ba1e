/** Messages and completions that come late, twice or for another log: none of them may count. */

import { expect } from 'chai'
import type { AppendRequest, Message } from '../../../src/core/raft/messages.ts'
import type { Entry } from '../../../src/core/raft/types.ts'
import { termMax } from '../../../src/model/fence.ts'
import { optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']

const entry = (index: number, term: number): Entry => ({ index, term, type: 'command', payload: new Uint8Array(1) })

function append(from: string, to: string, term: number, prev: [number, number], entries: Entry[]): AppendRequest {
  const [prevIndex, prevTerm] = prev
  return { kind: 'append', from, to, term, session: 0, prevIndex, prevTerm, commit: 0, entries }
}

const termsOf = (node: TestNode): number[] => node.disk.entries.map(({ term }) => term)

describe('raft late messages', () => {
  it('an append that completes after stepping down acknowledges nothing to itself (scenario 22)', () => {
    const net = TestNetwork.of(three)
    const node = net.elect('a')
    node.stalled = true
    const index = net.propose('a', 'x')
    node.work()
    node.raft.step(append('b', 'a', 3, [2, 2], [entry(3, 3)]))
    node.finishAppend()
    expect(node.raft.view).to.include({ role: 'follower', commit: 2 })
    expect(node.raft.log.durable, 'what was written there is not what is there now').to.equal(index - 1)
    node.stalled = false
    node.work()
    expect(termsOf(node)).to.deep.equal([1, 2, 3])
  })

  it('the completion of another task than the one under way is a broken invariant (scenario 23)', () => {
    const node = new TestNode(optionsOf('b', three, [1], { term: 1, vote: '' }))
    node.stalled = true
    node.raft.step(append('a', 'b', 2, [1, 1], [entry(2, 2)]))
    node.work()
    expect(() => node.raft.appendDone(99)).to.throw('append tasks complete one at a time and in order')
  })

  it('what an old leader still serves does not count after a vote of a newer term (scenario 25)', () => {
    const net = TestNetwork.of(three)
    const old = net.elect('a')
    const late: Message[] = []
    net.drops = (message) => {
      if (message.kind === 'append' && message.to === 'b') late.push(message)
      return message.kind === 'append'
    }
    const index = net.propose('a', 'x')
    net.settle()
    const log = { lastIndex: 2, lastTerm: 2 }
    net.node('b').raft.step({ kind: 'vote', from: 'c', to: 'b', term: 3, pre: false, forced: true, ...log })
    net.queue.push(
      ...net
        .node('b')
        .work()
        .filter((message) => message.to === 'c'),
    )
    for (const message of late) net.node('b').raft.step(message)
    net.heal()
    net.settle()
    expect(old.raft.view.commit).to.be.below(index)
    expect(old.raft.view.role, 'it hears of the newer term instead').to.equal('follower')
    expect(termsOf(net.node('b'))).to.deep.equal([1, 2])
  })

  it('a very late append of a deposed leader changes no log (scenario 26)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    const late: Message[] = []
    net.drops = (message) => {
      if (message.kind === 'append' && message.to === 'c') late.push(message)
      return message.to === 'c'
    }
    net.propose('a', 'old')
    net.tick(4)
    net.heal()
    net.node('a').raft.transfer('b')
    net.tick(4)
    for (let i = 0; i < 3; i++) net.propose('b', 'new')
    net.tick(2)
    const before = termsOf(net.node('c'))
    for (const message of late) net.node('c').raft.step(message)
    net.settle()
    expect(termsOf(net.node('c'))).to.deep.equal(before)
  })

  it('a previous entry that was compacted away never matches as term 0 (scenario 27)', () => {
    const net = TestNetwork.of(three, { windowMessages: 1, messageBytes: 150 })
    net.elect('a')
    for (let i = 0; i < 20; i++) net.propose('a', `x${i}`)
    net.tick(2)
    const leader = net.node('a')
    const seen: AppendRequest[] = []
    net.drops = (message) => {
      if (message.kind === 'append' && message.to === 'c') seen.push(message)
      return message.to === 'c'
    }
    for (let i = 0; i < 20; i++) net.propose('a', `y${i}`)
    net.tick(3)
    leader.compact(leader.raft.view.applied)
    net.heal()
    net.tick(12)
    for (const { prevIndex, prevTerm } of seen) expect(prevTerm === 0).to.equal(prevIndex === 0)
    expect(leader.snapshots).to.deep.equal(['c'])
    // A node that has nothing at an index takes nothing after it, whatever term is claimed.
    const empty = new TestNode(optionsOf('c', three, [], { term: 1, vote: '' }))
    empty.raft.step(append('a', 'c', 2, [5, 0], [entry(6, 2)]))
    empty.work()
    expect(termsOf(empty)).to.deep.equal([])
  })

  it('one-entry batches reach a conflicting leftover behind the part that agrees (scenario 31)', () => {
    const logs: Record<string, number[]> = { a: [1, 1, 1, 3], b: [1, 1, 1, 2], c: [1, 1, 1, 3] }
    const limits = { messageBytes: 1, windowMessages: 1 }
    const nodes = three.map((id) => new TestNode(optionsOf(id, three, logs[id] ?? [], { term: 3, vote: '' }, limits)))
    const net = new TestNetwork(nodes)
    net.elect('a')
    net.tick(10)
    expect(termsOf(net.node('b'))).to.deep.equal([1, 1, 1, 3, 4])
  })

  it('a leader whose log is compacted to its end offers a snapshot to one it knows nothing of (scenario 32)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    for (let i = 0; i < 10; i++) net.propose('a', 'x')
    net.tick(2)
    net.kill('c')
    for (let i = 0; i < 10; i++) net.propose('a', 'y')
    net.tick(2)
    for (const id of ['a', 'b']) net.node(id).compact(net.node(id).raft.view.applied)
    net.node('a').raft.transfer('b')
    net.settle()
    net.node('b').compact(net.node('b').raft.view.applied)
    net.restart('c')
    net.tick(6)
    expect(net.node('b').snapshots).to.deep.equal(['c'])
    net.node('b').sendSnapshot(net.node('c'))
    net.tick(3)
    expect(net.node('c').raft.view.commit).to.equal(net.node('b').raft.view.commit)
  })

  it('an acknowledgement of an earlier term counts for nothing (scenario 34)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.node('a').raft.transfer('b')
    net.settle()
    net.drops = (message) => message.kind === 'append'
    const index = net.propose('b', 'x')
    net.settle()
    const late = { accepted: true, hintIndex: 0, hintTerm: 0, session: 0 }
    const { raft } = net.node('b')
    raft.step({ kind: 'appendReply', from: 'c', to: 'b', term: 2, index, ...late })
    expect(raft.view.commit).to.be.below(index)
    // Nor does one beyond the end of the leader's log.
    raft.step({ kind: 'appendReply', from: 'c', to: 'b', term: 3, index: index + 50, ...late })
    expect(raft.matchOf('c')).to.be.below(index)
  })

  it('bounded appends and applies skip no index (scenario 36)', () => {
    const limits = { messageBytes: 700, windowMessages: 2, applyBytes: 500, applyEntries: 3, cacheBytes: 2000 }
    const net = TestNetwork.of(three, limits)
    net.elect('a')
    const next = new Map<string, number>()
    net.drops = (message) => {
      if (message.kind !== 'append' || message.entries.length === 0) return false
      const { to, prevIndex, entries } = message
      expect(entries.map(({ index }) => index)).to.deep.equal(entries.map((_, i) => prevIndex + 1 + i))
      expect(prevIndex).to.be.at.most(next.get(to) ?? prevIndex)
      next.set(to, Math.max(next.get(to) ?? 0, prevIndex + entries.length))
      return false
    }
    for (let i = 0; i < 60; i++) {
      net.node('a').raft.propose(new Uint8Array((i * 37) % 400))
      if (i % 7 === 0) net.tick(1)
    }
    net.tick(10)
    for (const id of three) {
      expect(net.node(id).applied.map(({ index }) => index)).to.deep.equal(Array.from({ length: 62 }, (_, i) => i + 1))
    }
    net.checkAgreement()
  })

  it('what is in memory equals the disk after a truncation by more than fits in memory (scenario 37)', () => {
    const limits = { cacheBytes: 1000 }
    const node = new TestNode(optionsOf('b', three, [1, 2, 2, 2], { term: 2, vote: '' }, limits))
    const entries = Array.from({ length: 60 }, (_, i): Entry => ({ ...entry(2 + i, 3), payload: new Uint8Array(100) }))
    node.raft.step({ ...append('a', 'b', 3, [1, 1], entries), commit: 61 })
    node.work()
    expect(termsOf(node)).to.deep.equal([1, ...entries.map(({ term }) => term)])
    const { log } = node.raft
    expect(log.cached(2, 61), 'the oldest have left').to.equal(undefined)
    const held = Array.from({ length: 61 }, (_, i) => i + 1).find((index) => log.cached(index, 61) !== undefined) ?? 0
    expect(log.cached(held, 61)).to.deep.equal(node.read(held, 61))
    // A truncation below what is in memory, then entries again.
    const other = new TestNode(optionsOf('c', three, [1, 2, 2, 2, 2, 2], { term: 2, vote: '' }, { cacheBytes: 1 }))
    other.raft.step(append('a', 'c', 3, [1, 1], [entry(2, 3)]))
    other.work()
    expect(termsOf(other)).to.deep.equal([1, 3])
    expect(other.raft.log.cached(2, 2)).to.deep.equal([entry(2, 3)])
  })

  it('a write that a step-down cut short is never applied (scenario 39)', () => {
    const net = TestNetwork.of(three)
    const node = net.elect('a')
    node.stalled = true
    net.drops = (message) => message.from === 'a'
    net.propose('a', 'cancelled')
    node.work()
    net.elect('b')
    net.propose('b', 'instead')
    net.settle()
    net.heal()
    net.tick(6, ['b', 'c'])
    expect(node.raft.view.applied).to.be.at.most(node.raft.log.durable)
    net.queue.push(...node.finishAppend())
    node.stalled = false
    net.tick(6)
    const texts = node.applied.map(({ payload }) => new TextDecoder().decode(payload))
    expect(texts).to.include('instead').and.to.not.include('cancelled')
    net.checkAgreement()
  })

  it('somebody unknown carries in a term that is a little ahead, and none that is far', () => {
    const heartbeat = (from: string, term: number): Message => {
      return { kind: 'heartbeat', from, to: 'b', term, commit: 0, context: 0 }
    }
    const node = new TestNode(optionsOf('b', three, [1], { term: 1, vote: '' }))
    node.raft.step(heartbeat('stranger', 1_000_000))
    node.raft.step({
      ...heartbeat('stranger', termMax),
      kind: 'vote',
      pre: false,
      forced: true,
      lastIndex: 9,
      lastTerm: 9,
    })
    node.work()
    expect(node.raft.view).to.include({ term: 1, leader: '' })
    node.raft.step(heartbeat('d', 500))
    node.work()
    expect(node.raft.view, 'a leader that was added later').to.include({ term: 500, leader: 'd' })
    node.raft.step(heartbeat('a', 1_000_000))
    node.work()
    expect(node.raft.view, 'a member').to.include({ term: 1_000_000, leader: 'a' })
  })

  it('a node in the last term there is does not campaign, and breaks nothing', () => {
    const node = new TestNode(optionsOf('b', ['b'], [1], { term: termMax, vote: '' }))
    for (let i = 0; i < 60; i++) node.raft.tick()
    node.work()
    expect(node.raft.view).to.include({ term: termMax, role: 'follower' })
  })
})
