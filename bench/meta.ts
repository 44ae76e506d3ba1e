/**
 * The metadata service beside etcd: three members each on this machine, the same load in turn, fsync on both sides.
 *
 * Usage: npm run bench meta [-- --part put,read,gap,transfer] [--clients 1,64,256] [--seconds 6] [--runs 3] [--only NAME]
 * [--profile DIR]. Without etcd on the path ours is measured alone. Results go to bench/results/.
 */

import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Contender } from './lib/contender.ts'
import { etcdVersion, startEtcd } from './lib/etcd.ts'
import { circumstances, median, pause, residentMebibytes, rounded, writeResults } from './lib/figures.ts'
import { gapUnder, load, type LoadFigures, runLoad } from './lib/load.ts'
import { startMeta } from './lib/meta-cluster.ts'

interface Plan {
  readonly parts: ReadonlySet<string>
  readonly clients: readonly number[]
  readonly seconds: number
  readonly warmSeconds: number
  readonly runs: number
  readonly only: string | undefined
  readonly profile: string | undefined
}

const partNames = ['put', 'read', 'kill', 'stop']

function planOf(args: readonly string[]): Plan {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string', default: partNames.join(',') },
      clients: { type: 'string', default: '1,64,256' },
      seconds: { type: 'string', default: '6' },
      warm: { type: 'string', default: '2' },
      runs: { type: 'string', default: '3' },
      only: { type: 'string' },
      profile: { type: 'string' },
    },
  })
  return {
    parts: new Set(values.part.split(',')),
    clients: values.clients.split(',').map(Number),
    seconds: Number(values.seconds),
    warmSeconds: Number(values.warm),
    runs: Number(values.runs),
    only: values.only,
    profile: values.profile,
  }
}

const say = (line: string): boolean => process.stderr.write(`${line}\n`)

/** One run in the shape that is kept. */
function shown(figures: LoadFigures) {
  const perCall = 1e6 / figures.calls
  return {
    perSecond: rounded(figures.calls / figures.seconds),
    p50Ms: rounded(figures.p50, 2),
    p99Ms: rounded(figures.p99, 2),
    maxMs: rounded(figures.max, 1),
    cpuMicrosecondsPerCall: {
      members: rounded(figures.daemonCpu * perCall),
      client: rounded(figures.clientCpu * perCall),
    },
    failures: figures.failures,
  }
}

type Shown = ReturnType<typeof shown>

function mediansOf(runs: readonly Shown[]) {
  const of = (pick: (run: Shown) => number): number => rounded(median(runs.map(pick)), 2)
  return {
    perSecond: of((run) => run.perSecond),
    p50Ms: of((run) => run.p50Ms),
    p99Ms: of((run) => run.p99Ms),
    cpuMicrosecondsPerCall: {
      members: of((run) => run.cpuMicrosecondsPerCall.members),
      client: of((run) => run.cpuMicrosecondsPerCall.client),
    },
  }
}

/** The same closed loop against each contender in turn, `runs` times. */
async function compare(contenders: readonly Contender[], plan: Plan, kind: 'put' | 'read', clients: number) {
  const runs = new Map<string, Shown[]>(contenders.map(({ name }) => [name, []]))
  for (let run = 0; run < plan.runs; run++) {
    for (const contender of run % 2 === 0 ? contenders : [...contenders].reverse()) {
      const nodeArgs = plan.profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', plan.profile]
      const task = { kind, clients, seconds: plan.seconds, warmSeconds: plan.warmSeconds }
      const result = shown(await load(contender, task, nodeArgs))
      runs.get(contender.name)?.push(result)
      const { members, client } = result.cpuMicrosecondsPerCall
      say(
        `${kind} at ${clients}: ${contender.name.padEnd(8)} ${result.perSecond}/s, p50 ${result.p50Ms} ms, ` +
          `p99 ${result.p99Ms} ms, CPU ${members} + ${client} us a call${result.failures > 0 ? `, ${result.failures} FAILED` : ''}`,
      )
      await pause(500)
    }
  }
  const medians = Object.fromEntries([...runs].map(([name, list]) => [name, mediansOf(list)]))
  const ours = medians['holdfast']?.perSecond
  const theirs = medians['etcd']?.perSecond
  const ratio = ours === undefined || theirs === undefined ? undefined : rounded(ours / theirs, 2)
  if (ratio !== undefined) say(`${kind} at ${clients}: ${ratio} times etcd`)
  return { kind, clients, ratio, medians, runs: Object.fromEntries(runs) }
}

/** The longest gap in writes around the loss of the leader, several times. */
async function gaps(contender: Contender, runs: number, signal: 'SIGKILL' | 'SIGSTOP') {
  const out: number[] = []
  for (let run = 0; run < runs; run++) {
    const leader = await contender.leader()
    const survivors = contender.members.filter((member) => member.id !== leader.id).map((member) => member.address)
    const figures = await gapUnder(contender, survivors, 6, () => contender.signal(leader.id, signal))
    out.push(rounded(figures.gapMs))
    say(`${signal} of the leader: ${contender.name} ${rounded(figures.gapMs)} ms without an acknowledged write`)
    if (signal === 'SIGKILL') await contender.restart(leader.id)
    else await contender.signal(leader.id, 'SIGCONT')
    await pause(3000)
  }
  return { medianMs: median(out), gapsMs: out }
}

async function start(name: Contender['name'], scratch: string, plan: Plan): Promise<Contender> {
  if (name === 'etcd') return startEtcd(join(scratch, `etcd-${Date.now()}`), 17_800)
  return startMeta({ directory: join(scratch, `meta-${Date.now()}`), basePort: 17_700, profile: plan.profile })
}

async function measureLoad(names: readonly Contender['name'][], scratch: string, plan: Plan) {
  const contenders: Contender[] = []
  try {
    for (const name of names) contenders.push(await start(name, scratch, plan))
    const results = []
    for (const clients of plan.parts.has('put') ? plan.clients : []) {
      results.push(await compare(contenders, plan, 'put', clients))
    }
    if (plan.parts.has('read')) results.push(await compare(contenders, plan, 'read', 64))
    const memory = contenders.map(({ name, members }) => [name, members.map(({ pid }) => residentMebibytes(pid))])
    return { load: results, residentMebibytes: Object.fromEntries(memory) }
  } finally {
    for (const contender of contenders) await contender.stop()
  }
}

async function measureGaps(
  names: readonly Contender['name'][],
  scratch: string,
  plan: Plan,
  signal: 'SIGKILL' | 'SIGSTOP',
) {
  const out: Record<string, unknown> = {}
  for (const name of names) {
    const contender = await start(name, scratch, plan)
    try {
      out[name] = await gaps(contender, plan.runs, signal)
    } finally {
      await contender.stop()
    }
  }
  return out
}

async function main(): Promise<void> {
  const plan = planOf(process.argv.slice(2))
  const version = etcdVersion()
  if (version === undefined) say('etcd is not installed (Debian: etcd-server): ours is measured alone')
  const names = (['holdfast', 'etcd'] as const).filter((name) =>
    plan.only === undefined ? name === 'holdfast' || version !== undefined : name === plan.only,
  )
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  try {
    const results: Record<string, unknown> = { ...circumstances(), etcd: version ?? 'not installed' }
    if (plan.parts.has('put') || plan.parts.has('read')) Object.assign(results, await measureLoad(names, scratch, plan))
    if (plan.parts.has('kill')) results['gapAfterKill'] = await measureGaps(names, scratch, plan, 'SIGKILL')
    if (plan.parts.has('stop')) results['gapAfterStop'] = await measureGaps(names, scratch, plan, 'SIGSTOP')
    say(`results in ${writeResults('meta', results)}`)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

if (process.argv[2] === '--load') await runLoad(process.argv[3] ?? '')
else await main()
