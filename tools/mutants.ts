/**
 * `npm run mutants`: measures the simulators and the tests. Each mutant (mutant-list.ts) is the built program with one safety
 * rule taken out; seeds of the simulator must find it, or the named test file must fail. A mutant that survives means that
 * a rule is not tested, and is a failure.
 *
 * Seeds that are known to find a mutant (test/sim/mutants.json) are tried first; when they do not any more, others are
 * searched for within a budget. A find counts only when the same seed, or the same test file, passes on the program as it
 * is. A mutant whose text is not in the program any more is stale, and that is a failure too.
 *
 * `--find` searches all seeds anew and writes the file; `--only TEXT` takes the mutants with TEXT in their name.
 */

import { spawn } from 'node:child_process'
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { type Mutant, mutants } from './mutant-list.ts'

const build = resolve(import.meta.dirname, '..')
const tablePath = resolve('test/sim/mutants.json')
/** Mutants looked at at a time. */
const workers = 2
/** Seeds searched when no known one finds a mutant, and the time that may take. */
const raftSeedsMax = 20_000
const clusterSeedsMax = 400
const searchSeconds = 90
/** Failures of a mutant that may turn out to be failures of the program as it is. */
const soundTries = 3

/** What an original run of the simulator or a test file says of the program as it is. */
type Verdict = { readonly ok: true } | { readonly ok: false; readonly why: string }

interface Found {
  readonly seed: number | undefined
  readonly why: string
}

interface Result {
  readonly mutant: Mutant
  readonly found: Found | undefined
  /** Why it does not count although something failed, or why it could not be tried. */
  readonly fault: string | undefined
  readonly seconds: number
}

/** Folders of a build that the Raft simulator consists of. */
const raftParts = ['src/base', 'src/model', 'src/core/raft', 'src/sim/check', 'src/sim/raft']
const raftFiles = ['src/sim/seed.js', 'tools/raft-seeds.js']

function run(args: readonly string[]): Promise<{ code: number | null; output: string }> {
  return new Promise((done) => {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    child.stdout.on('data', (piece: Buffer) => (output += piece.toString()))
    child.once('close', (code) => done({ code, output }))
  })
}

/** A copy of the build that is fit for the mutant's finder, with the rule taken out. Throws when the text is stale. */
async function copyOf(mutant: Mutant, directory: string): Promise<void> {
  const code = (source: string): boolean => !source.endsWith('.map') && !source.endsWith('.d.ts')
  if (mutant.finder.by === 'raft') {
    for (const part of raftParts) await cp(join(build, part), join(directory, part), { recursive: true, filter: code })
    await mkdir(join(directory, 'tools'), { recursive: true })
    for (const file of raftFiles) await cp(join(build, file), join(directory, file))
  } else {
    for (const part of await readdir(build)) {
      if (part !== 'bench') await cp(join(build, part), join(directory, part), { recursive: true, filter: code })
    }
  }
  const path = join(directory, 'src', mutant.file)
  let text = await readFile(path, 'utf8')
  for (const [from, to] of mutant.edits) {
    const parts = text.split(from)
    if (parts.length !== 2)
      throw new Error(`stale: ${mutant.file} has ${parts.length - 1} times ${JSON.stringify(from)}`)
    text = parts.join(to)
  }
  await writeFile(path, text)
}

/** First failing seed of a run of the Raft simulator. */
async function raftFailure(directory: string, args: readonly string[]): Promise<Found | undefined> {
  const { output, code } = await run([join(directory, 'tools/raft-seeds.js'), '--first', ...args])
  for (const line of output.split('\n')) {
    if (line === '') continue
    const said = JSON.parse(line) as { seed?: number; reason?: string }
    if (said.seed !== undefined) return { seed: said.seed, why: said.reason ?? '' }
  }
  // A mutant that spins until it runs out of memory is found as well, but not by a seed that can be named.
  return code === 0 ? undefined : { seed: undefined, why: `the simulator ended with ${code}` }
}

async function clusterFailure(directory: string, faults: string | undefined, args: readonly string[]) {
  const only = faults === undefined ? [] : ['--faults', faults]
  const sim = [join(directory, 'tools/sim.js'), '--level', 'cluster', '--limit', '30', ...only, ...args]
  const { output, code } = await run(sim)
  const failed = /seed (\d+) FAILED: (.*)/.exec(output)
  if (failed !== null) return { seed: Number(failed[1]), why: failed[2] ?? '' }
  if (code !== 0) throw new Error(`the simulator did not run: ${output.slice(0, 200)}`)
  return undefined
}

async function testFailure(directory: string, file: string): Promise<Found | undefined> {
  const mocha = resolve('node_modules/mocha/bin/mocha.js')
  const { output, code } = await run([mocha, '--bail', join(directory, file)])
  if (code === 0) return undefined
  const why = /^ {2}1\) (.*\n.*\n.*)/m.exec(output)?.[1]?.replace(/\s+/g, ' ') ?? output.slice(-100)
  return { seed: undefined, why: `${file}: ${why}` }
}

/** Tries the known seed, then others from `from` on. */
async function find(
  mutant: Mutant,
  directory: string,
  known: number | undefined,
  from: number,
): Promise<Found | undefined> {
  const { finder } = mutant
  if (finder.by === 'test') return testFailure(directory, finder.file)
  const budget = ['--budget', String(searchSeconds)]
  if (finder.by === 'raft') {
    if (finder.scenario !== undefined) return raftFailure(directory, ['--replay', resolve(finder.scenario)])
    const seeds = known === undefined ? [] : ['--seeds', String(known)]
    return raftFailure(directory, [...seeds, '--from', String(from), '--count', String(raftSeedsMax), ...budget])
  }
  const { faults } = finder
  const again = known === undefined ? undefined : await clusterFailure(directory, faults, ['--seed', String(known)])
  const swarm = ['--swarm', String(clusterSeedsMax), '--from', String(from), '--first', '--workers', '1', ...budget]
  return again ?? (await clusterFailure(directory, faults, swarm))
}

/** Verdicts on the program as it is, by what was run. */
const originals = new Map<string, Promise<Verdict>>()

function original(mutant: Mutant, seed: number | undefined): Promise<Verdict> {
  const { finder } = mutant
  const what = finder.by === 'test' ? finder.file : `${JSON.stringify(finder)} ${seed}`
  const known = originals.get(what)
  if (known !== undefined) return known
  const failing = async (): Promise<Found | undefined> => {
    if (finder.by === 'test') return testFailure(build, finder.file)
    if (finder.by === 'raft')
      return raftFailure(build, seed === undefined ? ['--count', '1'] : ['--seeds', String(seed)])
    return clusterFailure(build, finder.faults, ['--seed', String(seed)])
  }
  const verdict = failing().then(
    (found): Verdict => (found === undefined ? { ok: true } : { ok: false, why: found.why }),
  )
  originals.set(what, verdict)
  return verdict
}

async function examine(mutant: Mutant, known: number | undefined): Promise<Result> {
  const startMs = performance.now()
  const directory = `${build}-mutant-${process.pid}-${mutants.indexOf(mutant)}`
  const seconds = (): number => (performance.now() - startMs) / 1000
  try {
    await copyOf(mutant, directory)
    let from = 1
    let fault = 'survived'
    for (let tries = 0; tries < soundTries; tries++) {
      const found = await find(mutant, directory, tries === 0 ? known : undefined, from)
      if (found === undefined) break
      const sound = await original(mutant, found.seed)
      if (sound.ok) return { mutant, found, fault: undefined, seconds: seconds() }
      fault = `the program as it is fails too: ${sound.why}`
      if (found.seed === undefined) break
      from = found.seed + 1
    }
    return { mutant, found: undefined, fault, seconds: seconds() }
  } catch (error) {
    const fault = error instanceof Error ? error.message : String(error)
    return { mutant, found: undefined, fault, seconds: seconds() }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

function printLine(line: string): void {
  process.stdout.write(`${line}\n`)
}

function describe({ mutant, found, fault, seconds }: Result): string {
  const by = mutant.finder.by === 'test' ? 'test' : `${mutant.finder.by} ${found?.seed ?? '-'}`
  const why = fault === undefined ? (found?.why ?? '') : `NOT FOUND: ${fault}`
  const short = why
    .split('\n')[0]
    ?.replace(/^at [\d.]+ ms: /, '')
    .slice(0, 110)
  return `${mutant.name.padEnd(62)} ${by.padEnd(14)} ${seconds.toFixed(1).padStart(5)} s  ${short}`
}

async function readTable(): Promise<Record<string, number>> {
  return JSON.parse(await readFile(tablePath, 'utf8')) as Record<string, number>
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { find: { type: 'boolean', default: false }, only: { type: 'string', default: '' } },
  })
  const startMs = performance.now()
  const table = await readTable().catch(() => ({}) as Record<string, number>)
  const chosen = mutants.filter(({ name }) => name.includes(values.only))
  const queue = [...chosen]
  const results: Result[] = []
  const work = async (): Promise<void> => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const result = await examine(mutant, values.find ? undefined : table[mutant.name])
      results.push(result)
      printLine(describe(result))
    }
  }
  await Promise.all(Array.from({ length: workers }, () => work()))
  if (values.find) {
    for (const { mutant, found, fault } of results) {
      if (fault === undefined && found?.seed !== undefined && found.seed > 0) table[mutant.name] = found.seed
    }
    const known = mutants.filter(({ name }) => table[name] !== undefined).map(({ name }) => [name, table[name]])
    await writeFile(tablePath, `${JSON.stringify(Object.fromEntries(known), undefined, 2)}\n`)
  }
  const missed = results.filter(({ fault }) => fault !== undefined)
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0)
  printLine(`${results.length - missed.length} of ${results.length} mutants found in ${seconds} s`)
  for (const { mutant, fault } of missed) printLine(`missed: ${mutant.name}: ${fault}`)
  return missed.length === 0 ? 0 : 1
}

process.exitCode = await main()
