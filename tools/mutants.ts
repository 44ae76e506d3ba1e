/**
 * `npm run mutants`: measures the tests. Each mutant is the built program with one safety rule taken out; the simulator
 * must find it within its seeds, or the named test file must fail. A mutant that survives means that a rule is not tested.
 * A kill counts only when the same seed, or the same test file, passes on the program as it is.
 *
 * A mutant is a change of one piece of text in the compiled code; when that text is not there any more the mutant is
 * stale, and that is a failure too.
 */

import { spawn } from 'node:child_process'
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'

interface Mutant {
  readonly name: string
  /** Below the build's src folder. */
  readonly file: string
  readonly from: string
  readonly to: string
  /** The only faults of the simulator's runs, where others would hide what the rule is for. */
  readonly faults?: string
  /** The test file, below the build, that must find it; by default the simulator must. */
  readonly test?: string
}

const mutants: readonly Mutant[] = [
  {
    name: 'the Raft log is not synced',
    file: 'services/meta/log-store.js',
    from: 'this.#kv.batch(operations, { sync })',
    to: 'this.#kv.batch(operations, { sync: false })',
  },
  {
    name: 'a minority is a quorum',
    file: 'core/raft/quorum.js',
    from: 'Math.floor(count / 2) + 1',
    to: 'Math.max(1, Math.floor(count / 2))',
  },
  {
    name: 'reads do without a barrier',
    file: 'services/meta/handlers.js',
    from: 'await deps.replicator.barrier();',
    to: '',
    faults: 'lonely-leader',
  },
  {
    name: 'the state is not synced',
    file: 'services/meta/machine.js',
    from: 'this.#kv.batch(view.finish(), { sync: true })',
    to: 'this.#kv.batch(view.finish(), { sync: false })',
  },
  {
    name: 'a candidate gets a second vote of a term',
    file: 'core/raft/election.js',
    from: "state.vote === request.from || (state.vote === '' && state.leader === '')",
    to: 'true',
  },
  {
    name: 'a shorter log wins votes',
    file: 'core/raft/election.js',
    from: 'free && state.log.isUpToDate(request.lastIndex, request.lastTerm)',
    to: 'free',
  },
  {
    name: 'if-match is not looked at',
    file: 'core/meta/namespace.js',
    from: 'const { ifAbsent, ifMatch } = operation.condition;',
    to: "const { ifAbsent } = operation.condition; const ifMatch = '';",
  },
  {
    name: 'chunks of open leases are deleted as orphans',
    file: 'services/meta/control/reconcile.js',
    from: 'inOpenLease(chunk) || copying(disk, chunk)',
    to: 'copying(disk, chunk)',
    test: 'test/services/meta/control/reconcile.test.js',
  },
  {
    name: 'acknowledgements of a fenced generation count',
    file: 'core/meta/acks.js',
    from: 'liveDisk(tx, ack.disk)?.generation !== ack.generation',
    to: 'liveDisk(tx, ack.disk) === undefined',
    test: 'test/core/meta/commit.test.js',
  },
  {
    name: 'a copy is trimmed without proof',
    file: 'core/meta/replicas.js',
    from: 'proven.size < chunk.copies',
    to: 'false',
    test: 'test/core/meta/replicas.test.js',
  },
]

const build = resolve(import.meta.dirname, '..')

/** Seeds tried for a mutant, and the time they may take together. */
const seedsMax = 150
const budgetSeconds = 60

async function run(args: readonly string[]): Promise<{ passed: boolean; output: string }> {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
  const code = await new Promise((done) => child.once('close', done))
  return { passed: code === 0, output }
}

/** Whether the program as it is passes, by seed or test file. */
const sound = new Map<string, boolean>()

async function isSound(what: string, args: readonly string[]): Promise<boolean> {
  const known = sound.get(what) ?? (await run(args)).passed
  sound.set(what, known)
  return known
}

/** How it was found; undefined when it was not. Throws when the program as it is fails as well. */
async function findBySimulator(directory: string, faults: string | undefined): Promise<string | undefined> {
  const only = faults === undefined ? [] : ['--faults', faults]
  const args = [...only, '--swarm', String(seedsMax), '--first', '--limit', '30', '--budget', String(budgetSeconds)]
  const { passed, output } = await run([join(directory, 'tools/sim.js'), ...args])
  if (passed) return undefined
  const found = /^seed (\d+) FAILED: .*/m.exec(output)
  if (found === null) throw new Error(`the simulator did not run: ${output.slice(0, 200)}`)
  const seed = found[1] ?? ''
  if (!(await isSound(`seed ${seed} ${faults ?? ''}`, [join(build, 'tools/sim.js'), ...only, '--seed', seed]))) {
    throw new Error(`seed ${seed} fails on the program as it is: that says nothing of the mutant`)
  }
  return found[0]
}

async function findByTest(directory: string, test: string): Promise<string | undefined> {
  const mocha = resolve('node_modules/mocha/bin/mocha.js')
  if (!(await isSound(test, [mocha, join(build, test)]))) throw new Error(`${test} fails on the program as it is`)
  const { passed, output } = await run([mocha, join(directory, test)])
  return passed ? undefined : `${test}: ${/\d+ failing/.exec(output)?.[0] ?? output.slice(-100)}`
}

/** True when the mutant was found, and by right. */
async function isFound(mutant: Mutant, directory: string): Promise<boolean> {
  try {
    const how = await (mutant.test === undefined
      ? findBySimulator(directory, mutant.faults)
      : findByTest(directory, mutant.test))
    process.stdout.write(`${how === undefined ? 'SURVIVED' : 'found   '} ${mutant.name}: ${how?.slice(0, 160) ?? ''}\n`)
    return how !== undefined
  } catch (error) {
    process.stdout.write(`UNSOUND  ${mutant.name}: ${error instanceof Error ? error.message : String(error)}\n`)
    return false
  }
}

async function tryMutant(mutant: Mutant, i: number): Promise<boolean> {
  const directory = resolve('.build', `mutant-${i}`)
  await rm(directory, { recursive: true, force: true })
  try {
    for (const folder of ['src', 'tools', 'test'])
      await cp(join(build, folder), join(directory, folder), { recursive: true })
    const path = join(directory, 'src', mutant.file)
    const text = await readFile(path, 'utf8')
    if (!text.includes(mutant.from)) {
      process.stdout.write(`STALE    ${mutant.name}: ${mutant.file} has no "${mutant.from}"\n`)
      return false
    }
    await writeFile(path, text.replace(mutant.from, mutant.to))
    return await isFound(mutant, directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

let found = 0
for (const [i, mutant] of mutants.entries()) if (await tryMutant(mutant, i)) found++
process.stdout.write(`${found} of ${mutants.length} mutants found\n`)
process.exitCode = found === mutants.length ? 0 : 1
