/**
 * `npm run mutants`: measures the simulator. Each mutant is the built program with one safety rule taken out; the
 * simulator must find every one within its seeds. A mutant that survives means that a rule is not tested.
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
  /** First seed and number of seeds to try; the first is known to kill it. */
  readonly seeds: readonly [number, number]
}

const mutants: readonly Mutant[] = [
  {
    name: 'the Raft log is not synced',
    file: 'services/meta/log-store.js',
    from: 'this.#kv.batch(operations, { sync })',
    to: 'this.#kv.batch(operations, { sync: false })',
    seeds: [1, 100],
  },
  {
    name: 'a minority is a quorum',
    file: 'core/raft/quorum.js',
    from: 'Math.floor(count / 2) + 1',
    to: 'Math.max(1, Math.floor(count / 2))',
    seeds: [1, 100],
  },
  {
    name: 'reads do without a barrier',
    file: 'services/meta/handlers.js',
    from: 'await deps.replicator.barrier();',
    to: '',
    seeds: [1, 100],
  },
  {
    name: 'the state is not synced',
    file: 'services/meta/machine.js',
    from: 'this.#kv.batch(view.finish(), { sync: true })',
    to: 'this.#kv.batch(view.finish(), { sync: false })',
    seeds: [1, 100],
  },
  {
    name: 'a candidate gets a second vote of a term',
    file: 'core/raft/election.js',
    from: "state.vote === request.from || (state.vote === '' && state.leader === '')",
    to: 'true',
    seeds: [1, 100],
  },
  {
    name: 'a shorter log wins votes',
    file: 'core/raft/election.js',
    from: 'free && state.log.isUpToDate(request.lastIndex, request.lastTerm)',
    to: 'free',
    seeds: [1, 100],
  },
  {
    name: 'if-match is not looked at',
    file: 'core/meta/namespace.js',
    from: 'const { ifAbsent, ifMatch } = operation.condition;',
    to: "const { ifAbsent } = operation.condition; const ifMatch = '';",
    seeds: [1, 100],
  },
  {
    name: 'chunks of open leases are deleted as orphans',
    file: 'services/meta/control/reconcile.js',
    from: 'inOpenLease(chunk) || copying(disk, chunk)',
    to: 'copying(disk, chunk)',
    seeds: [1, 200],
  },
]

const build = resolve(import.meta.dirname, '..')

/** True when the simulator found the mutant. */
async function isFound(mutant: Mutant, directory: string): Promise<boolean> {
  const [from, count] = mutant.seeds
  const args = [
    join(directory, 'tools/sim.js'),
    '--from',
    String(from),
    '--swarm',
    String(count),
    '--first',
    '--budget',
    '120',
  ]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
  const code = await new Promise((done) => child.once('close', done))
  const line = output.split('\n').find((text) => text.includes('FAILED'))
  process.stdout.write(`${code === 0 ? 'SURVIVED' : 'found   '} ${mutant.name}: ${line?.slice(0, 160) ?? ''}\n`)
  return code !== 0
}

async function tryMutant(mutant: Mutant, i: number): Promise<boolean> {
  const directory = resolve('.build', `mutant-${i}`)
  await rm(directory, { recursive: true, force: true })
  try {
    for (const folder of ['src', 'tools']) await cp(join(build, folder), join(directory, folder), { recursive: true })
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
