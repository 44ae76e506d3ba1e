/** The Raft simulator: the same run from the same seed, pinned scenarios, faults that it must notice, and shrinking. */

import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { expect } from 'chai'
import { drawPlan } from '../../../src/sim/raft/draw.ts'
import { planFrom, planOf, type RaftPlan, shortPlan } from '../../../src/sim/raft/plan.ts'
import { shrinkPlan } from '../../../src/sim/raft/shrink.ts'
import { simulatePlan, simulateRaft } from '../../../src/sim/raft/simulate.ts'

const scenarios = resolve('test/sim/raft/seeds')

function traceOf(plan: RaftPlan): string[] {
  const lines: string[] = []
  simulatePlan(plan, { trace: (timeMs, who, text) => lines.push(`${timeMs} ${who} ${text}`) })
  return lines
}

describe('sim: raft runs', () => {
  it('are the same for the same seed, to the last event', () => {
    for (let seed = 1; seed <= 5; seed++) {
      expect(simulateRaft({ seed }), `seed ${seed}`).to.deep.equal(simulateRaft({ seed }))
    }
    expect(traceOf(drawPlan(3))).to.deep.equal(traceOf(drawPlan(3)))
  })

  it('are the same with messages in bytes as with messages as objects', () => {
    const plan = drawPlan(5)
    const encoded = { ...plan, net: { ...plan.net, codec: true } }
    const plain = { ...plan, net: { ...plan.net, codec: false } }
    expect(simulatePlan(encoded).hash).to.equal(simulatePlan(plain).hash)
  })

  it('do what clients want: operations are answered, entries committed', () => {
    const { operations, committed, events } = simulatePlan(planFrom({ seed: 4 }))
    expect(operations).to.be.greaterThan(200)
    expect(committed).to.be.greaterThan(100)
    expect(events).to.be.greaterThan(1000)
  })

  it('take a plan from a file, and refuse what is none', () => {
    const plan = drawPlan(11)
    expect(planOf(JSON.parse(JSON.stringify({ about: 'words', ...shortPlan(plan) })))).to.deep.equal(plan)
    expect(() => planOf([])).to.throw('a scenario is a JSON object')
    expect(() => planOf({ votes: 3 })).to.throw('a scenario has no "votes"')
  })
})

describe('sim: raft scenarios', () => {
  for (const name of readdirSync(scenarios).sort()) {
    it(name.replace(/\.json$/, '').replaceAll('-', ' '), () => {
      const plan = planOf(JSON.parse(readFileSync(resolve(scenarios, name), 'utf8')))
      expect(simulatePlan(plan).committed).to.be.greaterThan(5)
    })
  }
})

/** No command fits an entry, so no write is ever acknowledged: a failure that is always there, whatever else happens. */
const nothingFits = planFrom({
  seed: 5,
  untilUs: 1_500_000,
  limits: { entryBytes: 1, compactEntries: 10 },
  net: { loss: 0.1, late: 0.1 },
  faults: [600_000, 1_200_000].flatMap((atUs) => [
    { kind: 'crash', node: 'leader', power: true, atUs, forUs: 200_000 } as const,
    { kind: 'jump', node: 1, ticks: 4, atUs: atUs + 1000 } as const,
    { kind: 'pause', node: 'follower', atUs: atUs + 2000, forUs: 10_000 } as const,
  ]),
})

describe('sim: raft shrinking', () => {
  it('leaves what matters of a failing plan', () => {
    const { plan, reason } = shrinkPlan(nothingFits, 60)
    expect(reason).to.contain('no new write was acknowledged after healing')
    expect(plan).to.deep.include({ faults: [], clients: [], voters: 3 })
    expect(plan.limits).to.deep.include({ entryBytes: 1, compactEntries: 20_000 })
    expect(plan.untilUs).to.be.lessThan(200_000)
    expect(() => simulatePlan(planOf(JSON.parse(JSON.stringify(shortPlan(plan)))))).to.throw(reason)
  })

  it('refuses a plan that does not fail', () => {
    expect(() => shrinkPlan(planFrom({ seed: 9, untilUs: 500_000 }), 10)).to.throw('the plan does not fail')
  })
})
