/** Bounds of what a node takes and keeps, and the times between elections. */

import { expect } from 'chai'
import fc from 'fast-check'
import { Progress } from '../../../src/core/raft/progress.ts'
import { type Entry, entryBytes } from '../../../src/core/raft/types.ts'
import { EntryWindow } from '../../../src/core/raft/window.ts'
import { optionsOf, TestNetwork, TestNode } from './network.ts'

const three = ['a', 'b', 'c']

const entryAt = (index: number, size = 1): Entry => ({
  index,
  term: 1,
  type: 'command',
  payload: new Uint8Array(size),
})

describe('raft limits', () => {
  it('a proposal above the bound of one entry is refused, one at the bound is taken', () => {
    const net = TestNetwork.of(three, { entryBytes: 100, uncommittedBytes: 50 })
    const { raft } = net.elect('a')
    expect(raft.propose(new Uint8Array(101))).to.deep.equal({ ok: false, reason: 'too-large' })
    expect(raft.propose(new Uint8Array(100))).to.include({ ok: true })
    expect(raft.propose(new Uint8Array(1))).to.deep.equal({ ok: false, reason: 'overloaded' })
  })

  it('what a new leader finds uncommitted in its log counts for its bound', () => {
    const ids = ['a', 'b', 'c']
    const logs: Record<string, number[]> = { a: [1, ...Array.from({ length: 20 }, () => 2)], b: [1], c: [1] }
    const limits = { uncommittedBytes: 1000 }
    const nodes = ids.map((id) => new TestNode(optionsOf(id, ids, logs[id] ?? [], { term: 2, vote: '' }, limits)))
    const net = new TestNetwork(nodes)
    net.drops = (message) => message.kind === 'append'
    const { raft } = net.elect('a')
    expect(raft.propose(new Uint8Array(1))).to.deep.equal({ ok: false, reason: 'overloaded' })
    net.heal()
    net.tick(4, ['a'])
    expect(raft.propose(new Uint8Array(1))).to.include({ ok: true })
  })

  it('an election starts after electionTicks to electionTicks + electionSpreadTicks of silence, over the whole range', () => {
    const seen = new Set<number>()
    for (let seed = 1; seed <= 200; seed++) {
      const options = { ...optionsOf('a', three, [1], { term: 1, vote: '' }), electionSpreadTicks: 6, seed }
      const node = new TestNode(options)
      let ticks = 0
      while (node.raft.view.role === 'follower') {
        node.raft.tick()
        ticks++
      }
      seen.add(ticks)
    }
    expect([...seen].toSorted((a, b) => a - b)).to.deep.equal([10, 11, 12, 13, 14, 15, 16])
  })

  it('the bytes under way to a member are zero again after every change of state (scenario 28)', () => {
    const progress = new Progress(5, 1, 8, 10_000)
    progress.acknowledged(4)
    for (const leave of [() => progress.becomeProbe(5), () => progress.becomeSnapshot(), () => progress.restart()]) {
      progress.becomeReplicate()
      progress.sent(7, 3000)
      progress.sent(9, 3000)
      expect(progress.inFlightBytes).to.equal(6000)
      leave()
      expect(progress.inFlightBytes).to.equal(0)
      progress.check(100)
    }
    progress.becomeReplicate()
    progress.sent(7, 3000)
    progress.sent(9, 3000)
    progress.acknowledged(8)
    expect(progress.inFlightBytes).to.equal(3000)
    progress.acknowledged(9)
    expect(progress.inFlightBytes).to.equal(0)
  })

  it('a refusal never takes a member back below what it is known to have', () => {
    const progress = new Progress(10, 1, 8, 10_000)
    progress.acknowledged(4)
    expect(progress.refused(9, 2)).to.equal(true)
    expect(progress.next).to.equal(5)
    progress.check(100)
    expect(progress.refused(9, 2), 'a late one').to.equal(false)
  })

  it('the window of entries in memory equals a plain list, whatever is pushed, cut and dropped (scenario 37)', () => {
    const step = fc.record({ kind: fc.constantFrom('push', 'truncate', 'drop', 'evict'), by: fc.nat(40) })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const window = new EntryWindow([], 0, 3000)
        let first = 1
        let model: Entry[] = []
        for (const { kind, by } of steps) {
          const last = first + model.length - 1
          if (kind === 'push') {
            for (let i = 1; i <= by; i++) {
              window.push(entryAt(last + i, i))
              model.push(entryAt(last + i, i))
            }
          } else if (kind === 'truncate') {
            const index = Math.max(1, last - by + 1)
            window.truncate(index)
            model = model.slice(0, Math.max(0, index - first))
            first = Math.min(first, index)
          } else if (kind === 'drop') {
            const index = Math.min(last, first + by - 1)
            window.dropTo(index)
            model = model.slice(Math.max(0, index - first + 1))
            first = Math.max(first, index + 1)
          } else {
            window.evict(first + by)
            const end = first + by
            while (model.length > 0 && first <= end && model.reduce((sum, item) => sum + entryBytes(item), 0) > 3000) {
              model.shift()
              first++
            }
          }
          expect([window.first, window.last]).to.deep.equal([first, first + model.length - 1])
          expect(window.slice(first, window.last)).to.deep.equal(model)
          expect(window.slice(first - 1, window.last)).to.equal(undefined)
          expect(window.bytesOf(first, window.last)).to.equal(model.reduce((sum, item) => sum + entryBytes(item), 0))
        }
      }),
      { seed: 37, numRuns: 300 },
    )
  })
})
