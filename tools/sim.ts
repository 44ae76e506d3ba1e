/**
 * `npm run sim`: runs seeds of the simulators.
 *
 * `--seed N [--trace]` runs one seed and prints every event with --trace. `--swarm N [--from S]` runs N seeds, prints the
 * failing ones with the command that repeats them, and exits 1 if there is one. A seed of a swarm is a run of Raft alone,
 * and every eighth is a run of the whole cluster too; one in a hundred runs twice and must give the same hash.
 */

import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { type FaultKind, faultKinds } from '../src/sim/nemesis.ts'
import type { StorageKind } from '../src/sim/swarm.ts'
import { Runner } from './sim-runner.ts'
import { shrink } from './sim-shrink.ts'
import type { Drawn, Level, Task } from './sim-tasks.ts'

/** A swarm runs the whole cluster for every so many-th seed. */
const clusterEvery = 8
/** A swarm runs every so many-th run twice. */
const twiceEvery = 100
const shrinkRunsMax = 150
const chaosDefaultMs = 8000

function printLine(line: string): void {
  process.stdout.write(`${line}\n`)
}

const usage = `usage: npm run sim -- [--seed N [--trace] | --swarm N [--from S]] [options]
  --level L         raft, cluster or all (default: all; with --seed: cluster)
  --seed N          run one seed
  --replay FILE     run a scenario of the Raft level
  --trace           print every event
  --until MS        end the run at this virtual time
  --swarm N         run N seeds (default: 20)
  --from S          first seed of a swarm (default: 1)
  --first           end a swarm at the first failing seed
  --budget SECONDS  end a swarm after so long (default: 7200)
  --limit SECONDS   a seed that takes longer has failed (default: 60)
  --workers N       seeds at a time (default: the number of cores)
  --shrink          make a failing run as small as it goes on failing
  --chaos MS        how long there are faults, in virtual milliseconds (default: ${chaosDefaultMs})
  --faults A,B      these faults instead of drawn ones: ${faultKinds.join(', ')}
  --clients N       so many clients
  --storage KIND    real or model storage nodes
  --verbose         print a line for good seeds too`

/** A command line that cannot be run. */
class UsageError extends Error {}

function wholeNumber(text: string, name: string, min: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min)) throw new UsageError(`--${name} ${JSON.stringify(text)} is not a whole number from ${min} on`)
  return value
}

function oneOf<T extends string>(text: string, name: string, all: readonly T[]): T {
  const found = all.find((candidate) => candidate === text)
  if (found === undefined) throw new UsageError(`--${name} ${JSON.stringify(text)} is none of ${all.join(', ')}`)
  return found
}

function parseFlags() {
  try {
    return parseArgs({
      options: {
        level: { type: 'string' },
        seed: { type: 'string' },
        swarm: { type: 'string', default: '20' },
        from: { type: 'string', default: '1' },
        replay: { type: 'string' },
        until: { type: 'string' },
        budget: { type: 'string', default: '7200' },
        limit: { type: 'string', default: '60' },
        workers: { type: 'string', default: String(availableParallelism()) },
        faults: { type: 'string' },
        clients: { type: 'string' },
        storage: { type: 'string' },
        chaos: { type: 'string', default: String(chaosDefaultMs) },
        trace: { type: 'boolean', default: false },
        shrink: { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        first: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

/** The content of a scenario file. */
function readScenario(path: string): string {
  try {
    const text = readFileSync(path, 'utf8')
    JSON.parse(text)
    return text
  } catch (error) {
    throw new UsageError(`--replay ${path}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

type Flags = ReturnType<typeof parseFlags>

interface Settings {
  readonly levels: readonly Level[]
  /** What all runs share. */
  readonly common: Omit<Task, 'seed' | 'level' | 'twice'>
  readonly from: number
  readonly last: number
  readonly single: boolean
  readonly budgetMs: number
  readonly limitMs: number
  readonly workers: number
}

function settingsOf(flags: Flags): Settings {
  const faults = flags.faults?.split(',').map((name): FaultKind => oneOf(name, 'faults', faultKinds))
  const storage =
    flags.storage === undefined ? undefined : oneOf<StorageKind>(flags.storage, 'storage', ['real', 'model'])
  const scenario = flags.replay === undefined ? undefined : readScenario(flags.replay)
  const single = flags.seed !== undefined || scenario !== undefined
  const byDefault = scenario !== undefined ? 'raft' : single ? 'cluster' : 'all'
  const level = oneOf(flags.level ?? byDefault, 'level', ['raft', 'cluster', 'all'] as const)
  const from = flags.seed === undefined ? wholeNumber(flags.from, 'from', 0) : wholeNumber(flags.seed, 'seed', 0)
  return {
    levels: level === 'all' ? ['raft', 'cluster'] : [level],
    common: {
      chaosMs: wholeNumber(flags.chaos, 'chaos', 0),
      untilMs: flags.until === undefined ? undefined : wholeNumber(flags.until, 'until', 0),
      clients: flags.clients === undefined ? undefined : wholeNumber(flags.clients, 'clients', 1),
      trace: flags.trace,
      faults,
      storage,
      scenario,
      shrinkRuns: flags.shrink ? shrinkRunsMax : 0,
    },
    from,
    last: single ? from : from + wholeNumber(flags.swarm, 'swarm', 1) - 1,
    single,
    budgetMs: wholeNumber(flags.budget, 'budget', 1) * 1000,
    limitMs: wholeNumber(flags.limit, 'limit', 1) * 1000,
    workers: single ? 1 : wholeNumber(flags.workers, 'workers', 1),
  }
}

/** The runs of a swarm, in order. */
function* tasksOf({ levels, common, from, last, single }: Settings): Generator<Task> {
  let runs = 0
  for (let seed = from; seed <= last; seed++) {
    for (const level of levels) {
      if (level === 'cluster' && levels.length > 1 && !single && seed % clusterEvery !== 0) continue
      yield { ...common, level, seed, twice: !single && ++runs % twiceEvery === 0 }
    }
  }
}

/** The command that repeats a run. */
function repeatLine(task: Task): string {
  if (task.scenario !== undefined) return 'npm run sim -- --replay FILE --trace'
  const parts = [`--level ${task.level} --seed ${task.seed}`]
  if (task.level === 'cluster') {
    parts.push(`--chaos ${task.chaosMs}`)
    if (task.faults !== undefined) parts.push(`--faults ${task.faults.join(',')}`)
    if (task.clients !== undefined) parts.push(`--clients ${task.clients}`)
    if (task.storage !== undefined) parts.push(`--storage ${task.storage}`)
  }
  return `npm run sim -- ${parts.join(' ')} --trace`
}

interface Tally {
  runs: number
  events: number
  busyMs: number
}

/** Runs everything the settings ask for. */
class Swarm {
  readonly #settings: Settings
  readonly #flags: Flags
  readonly #tasks: Generator<Task>
  readonly #endMs: number
  readonly #tallies = new Map<Level, Tally>()
  failed = 0
  passed = 0

  constructor(settings: Settings, flags: Flags) {
    this.#settings = settings
    this.#flags = flags
    this.#tasks = tasksOf(settings)
    this.#endMs = performance.now() + settings.budgetMs
  }

  async run(): Promise<void> {
    await Promise.all(Array.from({ length: this.#settings.workers }, () => this.#work()))
    if (!this.#settings.single) this.#summary()
  }

  async #work(): Promise<void> {
    const runner = new Runner(this.#settings.limitMs)
    while (performance.now() < this.#endMs && !(this.#flags.first && this.failed > 0)) {
      const next = this.#tasks.next()
      if (next.done === true) break
      await this.#runOne(runner, next.value)
    }
    await runner.close()
  }

  async #runOne(runner: Runner, task: Task): Promise<void> {
    const startMs = performance.now()
    const ended = await runner.run(task, printLine)
    if (ended.kind === 'passed') {
      this.passed++
      const tally = this.#tallies.get(task.level) ?? { runs: 0, events: 0, busyMs: 0 }
      tally.runs++
      tally.events += ended.events * (task.twice ? 2 : 1)
      tally.busyMs += performance.now() - startMs
      this.#tallies.set(task.level, tally)
      if (this.#settings.single || this.#flags.verbose) printLine(ended.line)
      return
    }
    this.failed++
    printLine(`seed ${task.seed} FAILED: ${ended.reason}`)
    printLine(`  repeat with: ${repeatLine(task)}`)
    if (ended.scenario !== undefined) printLine(`  shrunk to this scenario, for --replay: ${ended.scenario}`)
    if (this.#flags.shrink && ended.drawn !== undefined) await this.#shrink(runner, task, ended.drawn, ended.reason)
  }

  async #shrink(runner: Runner, task: Task, drawn: Drawn, reason: string): Promise<void> {
    const smaller = await shrink(
      task,
      drawn,
      reason,
      (candidate) => runner.run(candidate, () => undefined),
      shrinkRunsMax,
    )
    printLine(`  shrunk in ${smaller.runs} runs to: ${smaller.reason.split('\n')[0]}`)
    printLine(`  repeat with: ${repeatLine(smaller.task)}`)
  }

  #summary(): void {
    for (const [level, { runs, events, busyMs }] of this.#tallies) {
      const perSecond = Math.round(events / (busyMs / 1000))
      const each = (busyMs / 1000 / runs).toFixed(3)
      printLine(`${level}: ${runs} runs, ${events} events, ${perSecond} events/s on one core, ${each} s a run`)
    }
    printLine(`${this.passed} runs passed\n${this.failed} runs failed`)
  }
}

async function main(): Promise<number> {
  try {
    const flags = parseFlags()
    if (flags.help) {
      printLine(usage)
      return 0
    }
    const swarm = new Swarm(settingsOf(flags), flags)
    await swarm.run()
    return swarm.failed === 0 ? 0 : 1
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`sim: ${error.message}: see --help\n`)
    return 2
  }
}

process.exitCode = await main()
