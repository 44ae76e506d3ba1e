/** The repair queue against a slow oracle: priority is never inverted, slots are never exceeded, nothing is forgotten. */

import { expect } from 'chai'
import fc from 'fast-check'
import { type CopyPlan, type RepairItem, RepairQueue, type SlotView } from '../../../src/core/repair/queue.ts'
import { type RepairClass, repairClasses } from '../../../src/model/words.ts'

interface Facts {
  readonly source: string
  readonly target: string | undefined
}

const slots = { copiesMax: 4, copiesPerNode: 2 }
const classes = repairClasses.slice(0, 4)
const nodeName = fc.constantFrom('a', 'b', 'c', 'd')
const step = fc.oneof(
  fc.record({
    kind: fc.constant('put' as const),
    chunk: fc.integer({ min: 1, max: 30 }),
    class: fc.constantFrom(...classes),
    waitMs: fc.constantFrom(0, 0, 50, 500),
    source: nodeName,
    target: fc.option(nodeName, { nil: undefined }),
  }),
  fc.record({ kind: fc.constant('finish' as const), pick: fc.nat(), failed: fc.boolean() }),
  fc.record({ kind: fc.constant('drop' as const), chunk: fc.integer({ min: 1, max: 30 }) }),
  fc.record({ kind: fc.constant('time' as const), byMs: fc.nat(200) }),
  fc.record({ kind: fc.constant('wake' as const) }),
)

function plan(item: RepairItem<Facts>, view: SlotView) {
  const { source, target } = item.facts
  if (target === undefined) return { kind: 'park' as const, reason: 'no-target' as const }
  if (!view.sourceFree(source) || !view.targetFree(target)) {
    return { kind: 'park' as const, reason: 'slots-busy' as const }
  }
  return { kind: 'start' as const, plan: { source, target } }
}

function before(a: RepairItem<Facts>, b: RepairItem<Facts>): boolean {
  const rank = (item: RepairItem<Facts>) => [repairClasses.indexOf(item.class), item.attempts, item.sinceMs, item.chunk]
  const left = rank(a)
  const right = rank(b)
  const at = left.findIndex((value, i) => value !== right[i])
  return at >= 0 && (left[at] ?? 0) < (right[at] ?? 0)
}

/** What is known of the queue without looking into it. */
class Oracle {
  readonly items = new Map<number, RepairItem<Facts>>()
  readonly running = new Map<number, CopyPlan>()

  used(side: 'source' | 'target', node: string): number {
    return [...this.running.values()].filter((one) => one[side] === node).length
  }

  /** Items that could be running now and are not. */
  startable(nowMs: number): RepairItem<Facts>[] {
    return [...this.items.values()].filter(
      (item) =>
        !this.running.has(item.chunk) &&
        item.readyMs <= nowMs &&
        item.facts.target !== undefined &&
        this.used('source', item.facts.source) < slots.copiesPerNode &&
        this.used('target', item.facts.target) < slots.copiesPerNode,
    )
  }
}

describe('repair queue', () => {
  it('starts what is most urgent among what can start, within all slots', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const queue = new RepairQueue<CopyPlan, Facts>(slots, 1000)
        const oracle = new Oracle()
        let nowMs = 0
        for (const one of steps) {
          if (one.kind === 'time') nowMs += one.byMs
          else if (one.kind === 'wake') queue.wakeParked()
          else if (one.kind === 'drop') {
            queue.drop(one.chunk)
            if (!oracle.running.has(one.chunk)) oracle.items.delete(one.chunk)
          } else if (one.kind === 'put') {
            const facts = { source: one.source, target: one.target }
            queue.put(one.chunk, { class: one.class, sinceMs: nowMs, readyMs: nowMs + one.waitMs, facts })
            const known = queue.get(one.chunk)?.item
            if (known !== undefined && !oracle.running.has(one.chunk)) {
              expect(known.facts).to.equal(facts)
              oracle.items.set(one.chunk, known)
            }
          } else finishOne(queue, oracle, one, nowMs)
          startAll(queue, oracle, nowMs)
        }
      }),
      { numRuns: 300 },
    )
  })

  function finishOne(
    queue: RepairQueue<CopyPlan, Facts>,
    oracle: Oracle,
    one: { pick: number; failed: boolean },
    nowMs: number,
  ): void {
    const chunks = [...oracle.running.keys()]
    const chunk = chunks[one.pick % Math.max(1, chunks.length)]
    if (chunk === undefined) return
    queue.finish(chunk, one.failed ? nowMs + 100 : undefined)
    oracle.running.delete(chunk)
    oracle.items.delete(chunk)
    const again = queue.get(chunk)?.item
    expect(again !== undefined).to.equal(one.failed)
    if (again !== undefined) oracle.items.set(chunk, again)
  }

  function startAll(queue: RepairQueue<CopyPlan, Facts>, oracle: Oracle, nowMs: number): void {
    for (const { item, plan: started } of queue.start(nowMs, plan)) {
      const candidates = oracle.startable(nowMs)
      expect(candidates.map((candidate) => candidate.chunk)).to.include(item.chunk)
      for (const candidate of candidates) expect(before(candidate, item)).to.equal(false)
      oracle.running.set(item.chunk, started)
      expect(oracle.used('source', started.source)).to.be.at.most(slots.copiesPerNode)
      expect(oracle.used('target', started.target)).to.be.at.most(slots.copiesPerNode)
      expect(oracle.running.size).to.be.at.most(slots.copiesMax)
    }
    // Nothing that can start is left while there is a slot; and what cannot is still known.
    if (oracle.running.size < slots.copiesMax) expect(oracle.startable(nowMs)).to.deep.equal([])
    expect(queue.size).to.equal(oracle.items.size)
    expect(queue.running).to.equal(oracle.running.size)
  }

  it('holds everything but last copies back while it is told to', () => {
    const queue = new RepairQueue<CopyPlan, Facts>(slots, 10)
    const put = (chunk: number, of: RepairClass): void =>
      queue.put(chunk, { class: of, sinceMs: 0, readyMs: 0, facts: { source: 'a', target: 'b' } })
    queue.hold(1000)
    put(1, 'degraded')
    put(2, 'last-copy')
    expect(queue.start(0, plan).map((one) => one.item.chunk)).to.deep.equal([2])
    expect(queue.nextMs(0)).to.equal(1000)
    expect(queue.start(1000, plan).map((one) => one.item.chunk)).to.deep.equal([1])
  })

  it('has no time to wait for while slots are busy, and the next wait otherwise', () => {
    const queue = new RepairQueue<CopyPlan, Facts>({ copiesMax: 1, copiesPerNode: 1 }, 10)
    const put = (chunk: number, readyMs: number): void =>
      queue.put(chunk, { class: 'degraded', sinceMs: 0, readyMs, facts: { source: 'a', target: 'b' } })
    put(1, 0)
    put(2, 0)
    expect(queue.start(0, plan)).to.have.length(1)
    expect(queue.nextMs(0)).to.equal(undefined)
    put(3, 700)
    expect(queue.nextMs(0)).to.equal(700)
  })

  it('looks behind any number of items that cannot start', () => {
    const queue = new RepairQueue<CopyPlan, Facts>(slots, 2000)
    for (let chunk = 1; chunk <= 1500; chunk++) {
      const target = chunk <= 1400 ? undefined : 'b'
      queue.put(chunk, { class: 'degraded', sinceMs: 0, readyMs: 0, facts: { source: 'a', target } })
    }
    const started: number[] = []
    for (let calls = 0; calls < 10 && started.length === 0; calls++) {
      started.push(...queue.start(0, plan).map((one) => one.item.chunk))
      if (started.length === 0) expect(queue.nextMs(0)).to.equal(0)
    }
    expect(started).to.deep.equal([1401, 1402])
  })

  it('keeps the backoff of a failed copy when news of the same shortfall come', () => {
    const queue = new RepairQueue<CopyPlan, Facts>(slots, 10)
    const entry = { class: 'degraded' as const, sinceMs: 0, readyMs: 0, facts: { source: 'a', target: 'b' } }
    queue.put(1, entry)
    expect(queue.start(0, plan)).to.have.length(1)
    queue.finish(1, 500)
    queue.put(1, entry)
    expect(queue.start(499, plan)).to.deep.equal([])
    expect(queue.start(500, plan)).to.have.length(1)
  })

  it('gives up items of lower class when full, and says so', () => {
    const queue = new RepairQueue<CopyPlan, Facts>(slots, 2)
    const put = (chunk: number, of: RepairClass): void =>
      queue.put(chunk, { class: of, sinceMs: 0, readyMs: 0, facts: { source: 'a', target: 'b' } })
    put(1, 'degraded')
    put(2, 'at-risk')
    expect(queue.overflowed).to.equal(false)
    put(3, 'degraded')
    expect(queue.get(3)).to.equal(undefined)
    put(4, 'last-copy')
    expect(queue.overflowed).to.equal(true)
    expect(queue.get(1)).to.equal(undefined)
    expect(queue.size).to.equal(2)
  })
})
