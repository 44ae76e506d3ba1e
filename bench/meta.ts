/**
 * The metadata service beside etcd: three members each on this machine, the same load in turn, fsync on both sides.
 *
 * Usage: npm run bench meta [-- --part put,read,kill,stop,transfer,terms] [--clients 1,64,256] [--seconds 6]
 * [--runs 3] [--minutes 10] [--only holdfast|etcd] [--profile DIR]. By default all but `terms`,
 * which takes long. Without etcd on the path ours is measured alone. Results go to bench/results/.
 */

import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { compare } from './lib/compare.ts'
import type { Contender } from './lib/contender.ts'
import { etcdVersion, startEtcd } from './lib/etcd.ts'
import { circumstances, residentMebibytes, say, writeResults } from './lib/figures.ts'
import { gapsAfter, gapsAtTransfer, termsUnderLoad } from './lib/leader-loss.ts'
import { load, runLoad } from './lib/load.ts'
import { startMeta } from './lib/meta-cluster.ts'

type Kind = Contender['kind']

interface Plan {
  readonly parts: ReadonlySet<string>
  readonly clients: readonly number[]
  readonly seconds: number
  readonly warmSeconds: number
  readonly runs: number
  readonly minutes: number
  readonly only: string | undefined
  readonly profile: string | undefined
}

const partsDefault = ['put', 'read', 'kill', 'stop', 'transfer']
const readClients = 64
/** Both ends compile their code and etcd its pages before anything is measured. */
const settleSeconds = 8

function planOf(args: readonly string[]): Plan {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string', default: partsDefault.join(',') },
      clients: { type: 'string', default: '1,64,256' },
      seconds: { type: 'string', default: '6' },
      warm: { type: 'string', default: '1' },
      runs: { type: 'string', default: '3' },
      minutes: { type: 'string', default: '10' },
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
    minutes: Number(values.minutes),
    only: values.only,
    profile: values.profile,
  }
}

let started = 0

/** A fresh cluster of its own. */
function start(kind: Kind, scratch: string, plan: Plan): Promise<Contender> {
  const directory = join(scratch, `${kind}-${++started}`)
  if (kind === 'etcd') return startEtcd(directory, 17_800)
  return startMeta({ directory, basePort: 17_700, profile: plan.profile })
}

async function measureLoad(kinds: readonly Kind[], scratch: string, plan: Plan) {
  const contenders: Contender[] = []
  try {
    for (const kind of kinds) contenders.push(await start(kind, scratch, plan))
    for (const contender of contenders) {
      await load(contender, { kind: 'put', clients: 256, seconds: settleSeconds, warmSeconds: 0 })
    }
    const results = []
    for (const clients of plan.parts.has('put') ? plan.clients : []) {
      results.push(await compare(contenders, { ...plan, kind: 'put', clients }))
    }
    if (plan.parts.has('read')) results.push(await compare(contenders, { ...plan, kind: 'read', clients: readClients }))
    const memory = contenders.map(({ name, members }) => [name, members.map(({ pid }) => residentMebibytes(pid))])
    return { load: results, residentMebibytes: Object.fromEntries(memory) as Record<string, number[]> }
  } finally {
    for (const contender of contenders) await contender.stop()
  }
}

/** One measurement of each contender, alone on the machine. */
async function each<T>(
  kinds: readonly Kind[],
  scratch: string,
  plan: Plan,
  measure: (contender: Contender) => Promise<T>,
) {
  const out: Partial<Record<Kind, T>> = {}
  for (const kind of kinds) {
    const contender = await start(kind, scratch, plan)
    try {
      out[kind] = await measure(contender)
    } finally {
      await contender.stop()
    }
  }
  return out
}

async function measureAll(kinds: readonly Kind[], scratch: string, plan: Plan): Promise<Record<string, unknown>> {
  const { parts, runs } = plan
  const results: Record<string, unknown> = {}
  if (parts.has('put') || parts.has('read')) Object.assign(results, await measureLoad(kinds, scratch, plan))
  if (parts.has('kill')) {
    results['gapAfterKill'] = await each(kinds, scratch, plan, (one) => gapsAfter(one, runs, 'SIGKILL'))
  }
  if (parts.has('stop')) {
    results['gapAfterStop'] = await each(kinds, scratch, plan, (one) => gapsAfter(one, runs, 'SIGSTOP'))
  }
  if (parts.has('transfer')) {
    results['transfer'] = await each(['holdfast'], scratch, plan, (one) => gapsAtTransfer(one, runs))
  }
  if (parts.has('terms')) results['terms'] = await termsUnderLoad(join(scratch, 'busy'), plan.minutes)
  return results
}

async function main(): Promise<void> {
  const plan = planOf(process.argv.slice(2))
  const version = etcdVersion()
  if (version === undefined) say('etcd is not installed (Debian: etcd-server): ours is measured alone')
  const kinds = (['holdfast', 'etcd'] as const).filter((kind) =>
    plan.only === undefined ? kind === 'holdfast' || version !== undefined : kind === plan.only,
  )
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  try {
    const results = await measureAll(kinds, scratch, plan)
    const kept = { ...circumstances(), etcd: version ?? 'not installed', runs: plan.runs, ...results }
    say(`results in ${writeResults('meta', kept)}`)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

if (process.argv[2] === '--load') await runLoad(process.argv[3] ?? '')
else await main()
