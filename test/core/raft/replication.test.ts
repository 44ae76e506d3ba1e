/** Replication and commit: what counts, what is truncated, how logs meet, how much is under way. */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import type { Message } from '../../../src/core/raft/messages.ts'
import { optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']
const five = ['a', 'b', 'c', 'd', 'e']

function network(logs: Record<string, number[]>, term: number, paranoid = true): TestNetwork {
  const ids = Object.keys(logs)
  const options = ids.map((id) => optionsOf(id, ids, logs[id] ?? [], { term, vote: '' }))
  return new TestNetwork(options.map((item) => new TestNode({ ...item, paranoid })))
}

const termsOf = (node: TestNode): number[] => node.disk.entries.map((entry) => entry.term)

describe('raft replication', () => {
  it('a proposal is applied everywhere, in the same order', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    for (let i = 0; i < 50; i++) net.propose('a', `x${i}`)
    net.settle()
    net.tick(2)
    for (const id of three) expect(net.node(id).applied).to.have.length(52)
    net.checkAgreement()
  })

  it('entries of an older term are not committed by counting, only below an entry of the own term (scenario 17)', () => {
    // a led in term 2 and replicated index 2 to b; e wrote another index 2 in term 3; a leads again in term 4.
    const net = network({ a: [1, 2], b: [1, 2], c: [1], d: [1], e: [1, 3] }, 3)
    net.drops = (message) => message.kind === 'append' && message.entries.some((entry) => entry.term === 4)
    net.isolate('e')
    const cut = net.drops
    // The old entry reaches a majority, the no-op of term 4 reaches nobody.
    net.drops = (message) =>
      cut(message) || (message.kind === 'append' && message.entries.some((entry) => entry.term >= 4))
    const leader = net.elect('a')
    expect(leader.raft.view.term).to.equal(4)
    leader.raft.step(ackOf('c', 'a', 4, 2))
    leader.raft.step(ackOf('b', 'a', 4, 2))
    net.settle()
    expect(leader.raft.matchOf('c')).to.equal(2)
    expect(leader.raft.view.commit).to.equal(0)
    leader.raft.step(ackOf('c', 'a', 4, 3))
    leader.raft.step(ackOf('b', 'a', 4, 3))
    expect(leader.raft.view.commit).to.equal(3)
  })

  it('the leader counts itself only up to what is on its own disk, and commits without itself', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    const leader = net.node('a')
    leader.stalled = true
    net.isolate('c')
    net.propose('a', 'x')
    net.settle()
    expect(net.node('b').disk.entries).to.have.length(3)
    expect(leader.raft.view.commit).to.equal(2)
    net.heal()
    net.tick(3, ['a'])
    expect(leader.raft.view.commit, 'b and c are a majority').to.equal(3)
    expect(leader.raft.view.applied, 'not applied before it is on the own disk').to.equal(2)
    net.queue.push(...leader.finishAppend())
    leader.stalled = false
    net.settle()
    expect(leader.raft.view.applied).to.equal(3)
  })

  it('a follower acknowledges nothing that is not on its disk, whatever arrives meanwhile (scenario 24)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    const follower = net.node('b')
    follower.stalled = true
    net.propose('a', 'x')
    const acks: Message[] = []
    net.drops = (message) => {
      if (message.from === 'b' && message.kind === 'appendReply') acks.push(message)
      return false
    }
    net.settle()
    net.tick(6, ['a'])
    expect(acks).to.deep.equal([])
    const released = follower.finishAppend()
    expect(released.every((message) => message.kind !== 'appendReply' || message.index <= 3)).to.equal(true)
    expect(released.some((message) => message.kind === 'appendReply' && message.index === 3)).to.equal(true)
  })

  it('a divergent tail is replaced by the leader and everything after a conflict goes (scenario 20)', () => {
    const net = network({ a: [1, 1, 4, 4], b: [1, 1, 2, 2, 2, 2], c: [1, 1, 3] }, 4)
    net.elect('a')
    net.tick(4, ['a'])
    for (const id of three) expect(termsOf(net.node(id))).to.deep.equal([1, 1, 4, 4, 5])
    net.checkAgreement()
  })

  it('a tail that diverges over five terms needs at most one probe per term (scenario 30)', () => {
    const own: number[] = [1]
    for (let i = 0; i < 10_000; i++) own.push(2 + Math.floor(i / 2000))
    const theirs: number[] = [1]
    for (let i = 0; i < 12_500; i++) theirs.push(i < 12_400 ? 1 : 7)
    const net = network({ a: theirs, b: own, c: theirs }, 7, false)
    let refusals = 0
    net.drops = (message) => {
      if (message.kind === 'appendReply' && message.from === 'b' && !message.accepted) refusals++
      return false
    }
    net.elect('a')
    net.tick(6, ['a'])
    expect(net.node('b').disk.entries).to.have.length(theirs.length + 1)
    expect(refusals).to.be.below(8)
  })

  it('a late, shorter append removes nothing that matches (scenario 19)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    const seen: Message[] = []
    net.drops = (message) => {
      if (message.kind === 'append' && message.to === 'b') seen.push(message)
      return false
    }
    net.propose('a', 'x')
    net.settle()
    net.propose('a', 'y')
    net.settle()
    for (const message of seen) net.node('b').raft.step(message)
    net.settle()
    expect(net.node('b').disk.entries).to.have.length(4)
  })

  it('an empty append with a high commit does not commit a tail that was not checked (scenario 18)', () => {
    const node = new TestNode(optionsOf('b', three, [1, 2, 2], { term: 3, vote: '' }))
    node.raft.step({
      kind: 'append',
      from: 'a',
      to: 'b',
      term: 3,
      session: 0,
      prevIndex: 1,
      prevTerm: 1,
      commit: 3,
      entries: [],
    })
    expect(node.raft.view.commit).to.equal(1)
  })

  it('when everything in flight is lost, replication starts again without a new proposal (scenario 29)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.drops = (message) => message.kind === 'append'
    for (let i = 0; i < 20; i++) {
      net.propose('a', `x${i}`)
      net.settle()
    }
    net.heal()
    net.tick(8, ['a'])
    expect(net.node('a').raft.view.commit).to.equal(22)
    for (const id of three) expect(net.node(id).disk.entries).to.have.length(22)
  })

  it('the window bounds what is under way in messages and bytes, and empties again (scenario 28)', () => {
    const net = TestNetwork.of(three, { windowMessages: 3, messageBytes: 2000, windowBytes: 10_000 })
    net.elect('a')
    const { raft } = net.node('a')
    for (let i = 0; i < 40; i++) raft.propose(new Uint8Array(1000))
    const burst = net
      .node('a')
      .work()
      .filter((message) => message.kind === 'append' && message.to === 'b')
    expect(burst).to.have.length(3)
    net.queue.push(...burst)
    net.tick(6, ['a'])
    expect(net.node('b').disk.entries).to.have.length(42)
    expect(raft.matchOf('b')).to.equal(42)
  })

  it('without a quorum, what is uncommitted stays under its bound, and drains later (scenario 38)', () => {
    const net = TestNetwork.of(three, { uncommittedBytes: 10_000 })
    net.elect('a')
    net.drops = (message) => message.kind === 'append'
    let accepted = 0
    for (let i = 0; i < 100; i++) if (net.node('a').raft.propose(new Uint8Array(1000)).ok) accepted++
    expect(accepted).to.be.within(5, 10)
    expect(net.node('a').raft.propose(new Uint8Array(1000))).to.deep.equal({ ok: false, reason: 'overloaded' })
    net.heal()
    net.tick(5, ['a'])
    expect(net.node('a').raft.propose(new Uint8Array(1000)).ok).to.equal(true)
  })

  it('a late completion of an older append does not vouch for newer content (terms 2, 3, 4 at one index; scenario 21)', () => {
    const node = new TestNode(optionsOf('b', three, [1], { term: 1, vote: '' }))
    node.stalled = true
    const append = (from: string, term: number, entryTerm: number): void =>
      node.raft.step({
        kind: 'append',
        from,
        to: 'b',
        term,
        session: 0,
        prevIndex: 1,
        prevTerm: 1,
        commit: 1,
        entries: [{ index: 2, term: entryTerm, type: 'command', payload: new Uint8Array(1) }],
      })
    append('a', 2, 2)
    node.work()
    append('c', 3, 3)
    node.work()
    append('a', 4, 4)
    node.work()
    // Only the write of term 2 is done: neither the content of term 3 nor that of term 4 is durable.
    const first = node.finishAppend()
    expect(node.raft.log.durable).to.equal(1)
    expect(first.every((message) => message.term === 2)).to.equal(true)
    node.stalled = false
    const rest = node.work()
    expect(node.raft.log.durable).to.equal(2)
    expect(node.disk.entries[1]?.term).to.equal(4)
    expect(
      rest.some((message) => message.kind === 'appendReply' && message.term === 4 && message.index === 2),
    ).to.equal(true)
  })

  it('a follower that needs compacted entries is sent a snapshot, and only when it answers (scenario 32)', () => {
    const net = TestNetwork.of(three)
    net.elect('a')
    net.isolate('c')
    for (let i = 0; i < 20; i++) net.propose('a', `x${i}`)
    net.settle()
    const leader = net.node('a')
    net.tick(21, ['a'])
    leader.raft.compacted(15)
    leader.raft.unreachable('c')
    net.tick(4, ['a'])
    expect(leader.snapshots).to.deep.equal([])
    net.heal()
    net.tick(4, ['a'])
    expect(leader.snapshots).to.deep.equal(['c'])
    leader.raft.snapshotSent('c', false, 0)
    net.tick(4, ['a'])
    expect(leader.snapshots, 'a failed one is tried again').to.deep.equal(['c', 'c'])
  })

  it('answers of another replication session change nothing (scenario 34)', () => {
    const net = TestNetwork.of(three)
    const leader = net.elect('a')
    net.drops = (message) => message.kind === 'append'
    const index = net.propose('a', 'x')
    net.settle()
    leader.raft.step({ ...ackOf('b', 'a', 2, index), session: 7 })
    expect(leader.raft.matchOf('b')).to.equal(2)
    expect(leader.raft.view.commit).to.equal(2)
    leader.raft.step(ackOf('b', 'a', 2, index))
    expect(leader.raft.view.commit).to.equal(3)
  })

  it('under random loss, crashes and elections, no applied entry ever differs', () => {
    for (let seed = 1; seed <= 12; seed++) {
      const random = new Prng(seed)
      const net = TestNetwork.of(random.chance(0.5) ? three : five, { windowMessages: 2, messageBytes: 300 })
      const ids = [...net.nodes.keys()]
      const history: string[] = []
      const checked = new Map(ids.map((id) => [id, 0]))
      for (let step = 0; step < 300; step++) {
        const loss = random.chance(0.7) ? 0.05 : 0.6
        net.drops = () => random.chance(loss)
        const node = net.node(ids[random.below(ids.length)] as string)
        if (random.chance(0.02)) {
          node.crash()
          checked.set(node.id, 0)
        }
        node.stalled = random.chance(0.1)
        if (!node.stalled) net.queue.push(...node.finishAppend())
        node.raft.propose(new Uint8Array(random.below(200)))
        for (const id of ids) if (random.chance(0.8)) net.node(id).raft.tick()
        net.settle()
        for (const { id, applied } of net.nodes.values()) {
          for (let i = checked.get(id) ?? 0; i < applied.length; i++) {
            const text = `${applied[i]?.index} ${applied[i]?.term} ${applied[i]?.payload.length}`
            history[i] ??= text
            expect(text, `seed ${seed} step ${step} at ${id}`).to.equal(history[i])
          }
          checked.set(id, applied.length)
        }
      }
      expect(history.length, `seed ${seed} makes progress`).to.be.above(5)
    }
  })
})

function ackOf(from: string, to: string, term: number, index: number): Message & { kind: 'appendReply' } {
  return { kind: 'appendReply', from, to, term, session: 0, accepted: true, index, hintIndex: 0, hintTerm: 0 }
}
