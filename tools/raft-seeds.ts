/**
 * Runs seeds of the Raft simulator in this process and says which of them fail: what `npm run mutants` runs on each mutant.
 *
 * `node raft-seeds.js --seeds 3,17` runs these, `--replay FILE` a scenario (told as seed 0); `--from 1 --count 500 --budget 20` runs so many after them, for so many
 * seconds; `--first` ends at the first that fails. One JSON line for each failing seed, and one at the end.
 */

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { drawPlan } from '../src/sim/raft/draw.ts'
import { planOf, type RaftPlan } from '../src/sim/raft/plan.ts'
import { simulatePlan } from '../src/sim/raft/simulate.ts'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '' },
    replay: { type: 'string' },
    from: { type: 'string', default: '1' },
    count: { type: 'string', default: '0' },
    budget: { type: 'string', default: '60' },
    first: { type: 'boolean', default: false },
  },
})

function planFor(seed: number): RaftPlan {
  if (seed > 0 || values.replay === undefined) return drawPlan(seed)
  return planOf(JSON.parse(readFileSync(values.replay, 'utf8')))
}

function* seedsToRun(): Generator<number> {
  if (values.replay !== undefined) yield 0
  for (const text of values.seeds.split(',')) if (text !== '') yield Number(text)
  const from = Number(values.from)
  for (let seed = from; seed < from + Number(values.count); seed++) yield seed
}

const startMs = performance.now()
const endMs = startMs + Number(values.budget) * 1000
let seeds = 0
let events = 0
for (const seed of seedsToRun()) {
  if (performance.now() > endMs) break
  seeds++
  try {
    events += simulatePlan(planFor(seed)).events
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    process.stdout.write(`${JSON.stringify({ seed, reason })}\n`)
    if (values.first) break
  }
}
const seconds = (performance.now() - startMs) / 1000
process.stdout.write(`${JSON.stringify({ seeds, events, seconds })}\n`)
