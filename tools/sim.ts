/**
 * `npm run sim`: runs seeds of the simulator.
 *
 * `--seed N [--trace]` runs one seed and prints every event with --trace. `--swarm N [--from S]` runs N seeds, prints the
 * failing ones with the command that repeats them, and exits 1 if there is one. `--budget SECONDS` ends a swarm early
 * without calling that a failure; `--first` ends it at the first failing seed; `--jobs N` runs N seeds at a time. Every
 * tenth seed of a swarm runs twice and must give the same hash. `--faults A,B` has these faults instead of drawn ones.
 *
 * Seeds run in worker threads: one that is not done within `--limit SECONDS`, be it that it spins and never comes back
 * to its event loop, is stopped and is a failed seed like any other.
 */

import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { type SimResult, simulate } from '../src/sim/cluster.ts'
import { type FaultKind, faultKinds } from '../src/sim/nemesis.ts'

/** What a worker is asked for. */
interface Task {
  readonly seed: number
  readonly chaosMs: number
  readonly trace: boolean
  readonly faults: readonly FaultKind[] | undefined
  /** Run it a second time and compare. */
  readonly twice: boolean
}

/** What a worker says: lines of the trace, then how the run ended. */
type Report =
  | { readonly kind: 'trace'; readonly line: string }
  | { readonly kind: 'passed'; readonly line: string }
  | { readonly kind: 'failed'; readonly reason: string }

/** One turn of the event loop: every settled promise has been followed up when it resolves. */
function drain(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}

function describe(result: SimResult, startMs: number): string {
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1)
  const hash = result.hash.toString(16).padStart(8, '0')
  return `seed ${result.seed}: ${result.events} events, ${result.virtualMs} ms virtual in ${seconds} s, ${result.operations} operations, applied ${result.applied}, hash ${hash}; ${result.plan}`
}

async function runTask(task: Task, report: (report: Report) => void): Promise<void> {
  const { seed, chaosMs, faults } = task
  const startMs = performance.now()
  const trace = (timeMs: number, who: string, text: string): void =>
    report({ kind: 'trace', line: `${timeMs.toFixed(3).padStart(12)}  ${who.padEnd(8)} ${text}` })
  try {
    const options = { seed, drain, chaosMs, healMs: 120_000, faults }
    const result = await simulate({ ...options, trace: task.trace ? trace : undefined })
    if (task.twice && (await simulate(options)).hash !== result.hash) {
      throw new Error('two runs of the same seed differ: something reads the real world')
    }
    report({ kind: 'passed', line: describe(result, startMs) })
  } catch (error) {
    report({ kind: 'failed', reason: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}

/** The worker's side: tasks one after the other. An unhandled rejection or exception ends the thread and so fails the seed. */
function serveTasks(port: NonNullable<typeof parentPort>): void {
  port.on('message', (task: Task) => {
    runTask(task, (report) => port.postMessage(report)).catch((error: unknown) => {
      // A report that cannot be sent: thrown outside the promise, it ends the thread.
      process.nextTick(() => {
        throw error
      })
    })
  })
}

/** A worker thread that survives good seeds and is replaced after bad ones. */
class Runner {
  readonly #limitMs: number
  #worker: Worker | undefined

  constructor(limitMs: number) {
    this.#limitMs = limitMs
  }

  /** Runs the task; never rejects. */
  async run(task: Task, onTrace: (line: string) => void): Promise<Exclude<Report, { kind: 'trace' }>> {
    const worker = this.#worker ?? new Worker(fileURLToPath(import.meta.url))
    this.#worker = worker
    const done = new AbortController()
    const ended = await new Promise<Exclude<Report, { kind: 'trace' }>>((resolve) => {
      const limit = setTimeout(() => {
        const seconds = this.#limitMs / 1000
        resolve({ kind: 'failed', reason: `not done within ${seconds} s of real time: it hangs or spins` })
      }, this.#limitMs)
      const onMessage = (report: Report): void => {
        if (report.kind === 'trace') onTrace(report.line)
        else resolve(report)
      }
      const onError = (error: unknown): void => {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
        resolve({ kind: 'failed', reason: `its thread ended (an unhandled rejection or exception): ${text}` })
      }
      worker.on('message', onMessage)
      worker.on('error', onError)
      done.signal.addEventListener('abort', () => {
        clearTimeout(limit)
        worker.off('message', onMessage)
        worker.off('error', onError)
      })
      worker.postMessage(task)
    })
    done.abort()
    if (ended.kind === 'failed') await this.close()
    return ended
  }

  async close(): Promise<void> {
    const worker = this.#worker
    this.#worker = undefined
    await worker?.terminate()
  }
}

function printLine(line: string): void {
  process.stdout.write(`${line}\n`)
}

const usage = `usage: npm run sim -- [--seed N [--trace] | --swarm N [--from S]] [options]
  --seed N          run one seed
  --trace           print every event
  --swarm N         run N seeds (default: 20)
  --from S          first seed of a swarm (default: 1)
  --budget SECONDS  end a swarm after so long (default: 3600)
  --limit SECONDS   a seed that takes longer has failed (default: 60)
  --jobs N          seeds at a time (default: the number of cores)
  --faults A,B      these faults instead of drawn ones: ${faultKinds.join(', ')}
  --chaos MS        how long there are faults, in virtual milliseconds (default: 8000)
  --first           end a swarm at the first failing seed
  --verbose         print a line for good seeds too`

/** A command line that cannot be run. */
class UsageError extends Error {}

function wholeNumber(text: string, name: string, min: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min)) throw new UsageError(`--${name} ${JSON.stringify(text)} is not a whole number from ${min} on`)
  return value
}

function parseFlags() {
  try {
    return parseArgs({
      options: {
        seed: { type: 'string' },
        swarm: { type: 'string', default: '20' },
        from: { type: 'string', default: '1' },
        budget: { type: 'string', default: '3600' },
        limit: { type: 'string', default: '60' },
        jobs: { type: 'string', default: String(availableParallelism()) },
        faults: { type: 'string' },
        chaos: { type: 'string', default: '8000' },
        trace: { type: 'boolean', default: false },
        verbose: { type: 'boolean', default: false },
        first: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }).values
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

function parseFaults(text: string | undefined): readonly FaultKind[] | undefined {
  return text?.split(',').map((name) => {
    const kind = faultKinds.find((candidate) => candidate === name)
    if (kind === undefined) throw new UsageError(`unknown fault ${name}: use ${faultKinds.join(', ')}`)
    return kind
  })
}

/** Runs what the command line asks for; its exit code. Throws UsageError. */
async function run(): Promise<number> {
  const values = parseFlags()
  if (values.help) {
    printLine(usage)
    return 0
  }
  const chaosMs = wholeNumber(values.chaos, 'chaos', 0)
  const faults = parseFaults(values.faults)
  const budgetMs = wholeNumber(values.budget, 'budget', 1) * 1000
  const limitMs = wholeNumber(values.limit, 'limit', 1) * 1000
  const jobs = wholeNumber(values.jobs, 'jobs', 1)
  const single = values.seed !== undefined
  let next = values.seed === undefined ? wholeNumber(values.from, 'from', 0) : wholeNumber(values.seed, 'seed', 0)
  const last = single ? next : next + wholeNumber(values.swarm, 'swarm', 1) - 1
  const endMs = performance.now() + budgetMs
  const only = values.faults === undefined ? '' : ` --faults ${values.faults}`
  let passed = 0
  let failed = 0

  async function runSeeds(): Promise<void> {
    const runner = new Runner(limitMs)
    while (next <= last && performance.now() < endMs && !(values.first && failed > 0)) {
      const seed = next++
      const task = { seed, chaosMs, trace: values.trace, faults, twice: !single && seed % 10 === 0 }
      const ended = await runner.run(task, printLine)
      if (ended.kind === 'passed') {
        passed++
        if (single || values.verbose) printLine(ended.line)
        continue
      }
      failed++
      printLine(`seed ${seed} FAILED: ${ended.reason}`)
      printLine(`  repeat with: npm run sim -- --seed ${seed} --chaos ${chaosMs}${only} --trace`)
    }
    await runner.close()
  }

  await Promise.all(Array.from({ length: single ? 1 : jobs }, () => runSeeds()))
  if (!single) printLine(`${passed} seeds passed\n${failed} seeds failed`)
  return failed === 0 ? 0 : 1
}

async function main(): Promise<number> {
  try {
    return await run()
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    process.stderr.write(`sim: ${error.message}: see --help\n`)
    return 2
  }
}

if (isMainThread) process.exitCode = await main()
else if (parentPort !== null) serveTasks(parentPort)
