/**
 * A metadata service with ten million chunks in its state: what that costs against an empty one on the same machine in the
 * same run.
 *
 * Usage: npm run bench scale [-- --chunks 10000000] [--runs 3] [--seconds 5] [--part state,object] [--pages 2560]
 * [--keep DIR]. Part `state` fills a stopped cluster of three (bench/lib/state-image.ts), starts it, and measures restart to
 * the first committed write, resident memory, put rate beside an empty cluster in turn, and the latency of puts while a member
 * that was wiped is added again and sent all of the state. Part `object` commits one object of `pages` full pages through
 * real nodes and deletes it again. Results go to bench/results/. `--keep DIR` keeps the filled directories for another run.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { connect } from '../src/main/index.ts'
import { compare } from './lib/compare.ts'
import type { Contender } from './lib/contender.ts'
import { circumstances, nowMs, pause, rounded, say, writeResults } from './lib/figures.ts'
import { attachIdleNodes } from './lib/idle-nodes.ts'
import { measureLargeObject } from './lib/large-object.ts'
import { runLoad } from './lib/load.ts'
import { memoryOf } from './lib/memory.ts'
import { connectMeta, startMeta } from './lib/meta-cluster.ts'
import { cliPath, endProcess } from './lib/processes.ts'
import { type Filled, fillState } from './lib/state-image.ts'
import { runSteadyLoad, type SpanFigures, SteadyLoad } from './lib/steady-load.ts'

const clients = 64
/** A member that is sent the state gets so long to have it and what came meanwhile. */
const memberMs = 400_000
const members = ['m1', 'm2', 'm3']

interface Plan {
  readonly parts: ReadonlySet<string>
  readonly chunks: number
  readonly runs: number
  readonly seconds: number
  readonly pages: number
  readonly keep: string | undefined
}

function planOf(args: readonly string[]): Plan {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string', default: 'state,object' },
      chunks: { type: 'string', default: '10000000' },
      runs: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '5' },
      pages: { type: 'string', default: '2560' },
      keep: { type: 'string' },
    },
  })
  return {
    parts: new Set(values.part.split(',')),
    chunks: Number(values.chunks),
    runs: Number(values.runs),
    seconds: Number(values.seconds),
    pages: Number(values.pages),
    keep: values.keep,
  }
}

const secondsSince = (startMs: number): number => rounded((nowMs() - startMs) / 1000, 2)

/** Makes a founded cluster of `chunks` chunks in `directory`, or takes the one that `keep` holds. */
async function filled(directory: string, plan: Plan, basePort: number): Promise<Filled> {
  const kept = plan.keep === undefined ? undefined : join(plan.keep, `${plan.chunks}`)
  const factsOf = (from: string): string => join(from, 'filled.json')
  if (kept !== undefined && existsSync(factsOf(kept))) {
    cpSync(kept, directory, { recursive: true })
    return JSON.parse(readFileSync(factsOf(directory), 'utf8')) as Filled
  }
  await (await startMeta({ directory, basePort })).stop()
  const startMs = nowMs()
  const made = await fillState(
    members.map((id) => join(directory, id)),
    plan.chunks,
  )
  say(`${plan.chunks} chunks made in ${secondsSince(startMs)} s: ${made.writes} records`)
  writeFileSync(factsOf(directory), JSON.stringify(made))
  if (kept !== undefined) cpSync(directory, kept, { recursive: true })
  return made
}

/** Starts the cluster and answers how long it took to the first committed write. */
async function startTimed(directory: string, basePort: number, name: string) {
  const startMs = nowMs()
  const cluster = await startMeta({ directory, basePort, name })
  const connection = await connectMeta(
    cluster.members.map((member) => member.address),
    'first',
  )
  await connection.put('first')
  const seconds = secondsSince(startMs)
  await connection.close()
  say(`${name}: first write committed ${seconds} s after the start`)
  return { cluster, seconds }
}

const memoryOfAll = (cluster: Contender) => cluster.members.map(({ id, pid }) => ({ id, ...memoryOf(pid) }))

/** A follower's process ends, it is removed, and it comes back under another id with an empty directory. */
async function wipeAndAdd(cluster: Contender, directory: string, load: SteadyLoad) {
  const store = await connect({ meta: cluster.members.map((member) => member.address) })
  let child: ChildProcess | undefined
  try {
    const leader = await cluster.leader()
    const wiped = cluster.members.find((member) => member.id !== leader.id)
    if (wiped === undefined) throw new Error('no follower')
    await cluster.signal(wiped.id, 'SIGKILL')
    await store.admin.meta.remove(wiped.id, { force: true })
    const log = openSync(join(directory, 'meta.log'), 'a')
    const named = cluster.members.map(({ id, address }) => `${id === wiped.id ? 'm4' : id}=${address}`)
    const peers = named.join(',')
    const args = ['meta', '--id', 'm4', '--listen', wiped.address, '--data', join(directory, 'm4'), '--peers', peers]
    child = spawn(process.execPath, [cliPath, ...args, '--end-with-stdin'], {
      stdio: ['pipe', log, log],
      env: { UV_THREADPOOL_SIZE: '16', ...process.env },
    })
    const from = load.at
    const startMs = nowMs()
    const peak = watchMemory([leader.pid, child.pid ?? 0])
    const reply = await store.admin.meta.add('m4', wiped.address, { timeoutMs: 300_000 }).catch((error: unknown) => {
      say(`add: ${error instanceof Error ? error.message : String(error)}`)
    })
    for (;;) {
      const member = (await store.admin.status()).meta.find((one) => one.id === 'm4')
      if (member?.role === 'follower') break
      if (child.exitCode !== null) throw new Error(`m4 ended with ${child.exitCode}: see ${directory}/meta.log`)
      if (nowMs() - startMs > memberMs) throw new Error(`m4 is no member after ${memberMs / 1000} s`)
      await pause(500)
    }
    const seconds = secondsSince(startMs)
    const during = load.since(from)
    say(`m4 is a member ${seconds} s after it was added${reply?.catchingUp === true ? ', catching up' : ''}`)
    return { child, seconds, during, peak: peak() }
  } catch (error) {
    if (child !== undefined) await endProcess(child, 'SIGKILL')
    throw error
  } finally {
    await store.close()
  }
}

/** Samples memory until asked; answers the highest of each. */
function watchMemory(pids: readonly number[]): () => readonly object[] {
  const highest = pids.map(() => ({ residentMiB: 0, anonymousMiB: 0 }))
  const timer = setInterval(() => {
    for (const [i, pid] of pids.entries()) {
      const now = memoryOf(pid)
      const top = highest[i]
      if (top === undefined) continue
      top.residentMiB = Math.max(top.residentMiB, now.residentMiB)
      top.anonymousMiB = Math.max(top.anonymousMiB, now.anonymousMiB)
    }
  }, 200)
  return () => {
    clearInterval(timer)
    return highest
  }
}

const shown = (name: string, { perSecond, p50Ms, p99Ms, maxMs, worstSecondP99Ms, failures }: SpanFigures): boolean =>
  say(
    `${name}: ${perSecond}/s, p50 ${p50Ms} ms, p99 ${p99Ms} ms (worst second ${worstSecondP99Ms} ms), max ${maxMs} ms, ${failures} failed`,
  )

async function measureState(scratch: string, plan: Plan) {
  const directory = join(scratch, 'large')
  const facts = await filled(directory, plan, 17_720)
  const empty = await startTimed(join(scratch, 'empty'), 17_740, 'empty')
  const large = await startTimed(directory, 17_720, 'large')
  const addresses = large.cluster.members.map((member) => member.address)
  const nodes = await attachIdleNodes(facts, addresses)
  let added: ChildProcess | undefined
  try {
    const memoryAtStart = memoryOfAll(large.cluster)
    const both = [large.cluster, empty.cluster]
    const puts = await compare(both, { kind: 'put', clients, seconds: plan.seconds, warmSeconds: 2, runs: plan.runs })
    const memoryAfterPuts = memoryOfAll(large.cluster)
    await empty.cluster.stop()
    const load = new SteadyLoad(addresses, clients)
    await load.wait(4)
    const quietFrom = load.at
    await load.wait(10)
    const quiet = load.since(quietFrom)
    shown('quiet', quiet)
    const snapshot = await wipeAndAdd(large.cluster, directory, load)
    added = snapshot.child
    shown('while the state is sent', snapshot.during)
    await load.stop()
    const memoryAfterSnapshot = [...memoryOfAll(large.cluster), { id: 'm4', ...memoryOf(added.pid ?? 0) }]
    return {
      chunks: plan.chunks,
      secondsToFirstWrite: { empty: empty.seconds, large: large.seconds },
      puts,
      quiet,
      whileSent: snapshot.during,
      p99Ratio: rounded(snapshot.during.p99Ms / quiet.p99Ms, 2),
      secondsToMember: snapshot.seconds,
      memoryAtStart,
      memoryAfterPuts,
      memoryAfterSnapshot,
      memoryPeakLeaderAndAdded: snapshot.peak,
    }
  } finally {
    await nodes.stop()
    if (added !== undefined) await endProcess(added, 'SIGTERM')
    await empty.cluster.stop()
    await large.cluster.stop()
  }
}

async function main(): Promise<void> {
  const plan = planOf(process.argv.slice(2))
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-scale-'))
  try {
    const results: Record<string, unknown> = {}
    if (plan.parts.has('state')) results['state'] = await measureState(scratch, plan)
    if (plan.parts.has('object')) {
      results['object'] = await measureLargeObject(join(scratch, 'object'), 17_760, plan.pages)
    }
    say(JSON.stringify(results, undefined, 2))
    say(`results in ${writeResults('scale', { ...circumstances(), ...results })}`)
    await rm(scratch, { recursive: true, force: true })
  } catch (error) {
    say(`what it left is in ${scratch}`)
    throw error
  }
}

if (process.argv[2] === '--load') await runLoad(process.argv[3] ?? '')
else if (process.argv[2] === '--steady') await runSteadyLoad(process.argv[3] ?? '')
else await main()
