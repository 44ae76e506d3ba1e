/**
 * `npm run sim`: runs seeds of the simulator.
 *
 * `--seed N [--trace]` runs one seed and prints every event with --trace. `--swarm N [--from S]` runs N seeds one after
 * the other, prints the failing ones with the command that repeats them, and exits 1 if there is one. `--budget SECONDS`
 * ends a swarm early without calling that a failure; `--first` ends it at the first failing seed. Every tenth seed of a swarm runs twice and must give the same hash.
 */

import { parseArgs } from 'node:util'
import { type SimResult, simulate } from '../src/sim/cluster.ts'

/** One turn of the event loop: every settled promise has been followed up when it resolves. */
function drain(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}

function printLine(timeMs: number, who: string, text: string): void {
  process.stdout.write(`${timeMs.toFixed(3).padStart(12)}  ${who.padEnd(8)} ${text}\n`)
}

async function runSeed(seed: number, chaosMs: number, trace: boolean): Promise<SimResult> {
  return await simulate({ seed, drain, chaosMs, healMs: 120_000, trace: trace ? printLine : undefined })
}

function describe(result: SimResult, startMs: number): string {
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1)
  const hash = result.hash.toString(16).padStart(8, '0')
  return `seed ${result.seed}: ${result.events} events, ${result.virtualMs} ms virtual in ${seconds} s, ${result.operations} operations, applied ${result.applied}, hash ${hash}; ${result.plan}`
}

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    swarm: { type: 'string' },
    from: { type: 'string', default: '1' },
    budget: { type: 'string', default: '3600' },
    chaos: { type: 'string', default: '8000' },
    trace: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    first: { type: 'boolean', default: false },
  },
})
const chaosMs = Number(values.chaos)
process.on('unhandledRejection', (reason) => {
  process.stdout.write(`an unhandled rejection: ${String(reason instanceof Error ? reason.stack : reason)}\n`)
  process.exit(1)
})

/** Runs one seed (twice when asked) and prints what went wrong; true when nothing did. */
async function attempt(seed: number, twice: boolean): Promise<boolean> {
  const startMs = performance.now()
  try {
    const result = await runSeed(seed, chaosMs, values.trace)
    if (twice && (await runSeed(seed, chaosMs, false)).hash !== result.hash) {
      throw new Error('two runs of the same seed differ: something reads the real world')
    }
    if (values.verbose || values.seed !== undefined) process.stdout.write(`${describe(result, startMs)}\n`)
    return true
  } catch (error) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
    process.stdout.write(`seed ${seed} FAILED: ${text}\n`)
    process.stdout.write(`  repeat with: npm run sim -- --seed ${seed} --chaos ${chaosMs} --trace\n`)
    return false
  }
}

if (values.seed !== undefined) {
  process.exitCode = (await attempt(Number(values.seed), false)) ? 0 : 1
} else {
  const count = Number(values.swarm ?? '20')
  const from = Number(values.from)
  const endMs = performance.now() + Number(values.budget) * 1000
  let passed = 0
  let failed = 0
  for (let seed = from; seed < from + count && performance.now() < endMs; seed++) {
    if (await attempt(seed, seed % 10 === 0)) passed++
    else failed++
    if (failed > 0 && values.first) break
  }
  process.stdout.write(`${passed} seeds passed\n${failed} seeds failed\n`)
  process.exitCode = failed === 0 ? 0 : 1
}
