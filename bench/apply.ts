/**
 * What it costs a member to apply metadata puts: the real state machine over LevelDB, without log and network.
 *
 * Usage: npm run bench apply [-- --entries 100000] [--clients 256] [--group 64] [--rate 0] [--chunks 0] [--runs 1]. Each
 * entry is the commit of an object without chunks that carries 1 KiB of user metadata, as in the bench `meta`; they are applied
 * in groups, `rate` entries a second (0: as fast as it goes), to a state that holds the records of so many `chunks`. What is told is the CPU of the whole process, LevelDB's threads
 * included, in microseconds an entry, with what of it is the main thread's, and the bytes that reached the disk.
 */

import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Command, encodeCommand } from '../src/core/meta/commands.ts'
import { keys } from '../src/core/meta/keys.ts'
import { userMetadataOf } from '../src/core/meta/records.ts'
import { createNodeClock } from '../src/drivers/clock-node.ts'
import { metaStores } from '../src/main/meta-stores.ts'
import { newestVersion } from '../src/model/version.ts'
import { createMachine } from '../src/services/meta/machine.ts'
import { median, nowMs, pause, rounded, say } from './lib/figures.ts'

const keysEach = 1024
const fillChunks = 1024
/** After filling, for what the store merges behind. */
const settleMs = 5_000
const nowAt = 1_700_000_000_000

interface Plan {
  readonly entries: number
  readonly clients: number
  readonly group: number
  readonly rate: number
  readonly chunks: number
  readonly runs: number
}

function planOf(args: readonly string[]): Plan {
  const { values } = parseArgs({
    args: [...args],
    options: {
      entries: { type: 'string', default: '100000' },
      clients: { type: 'string', default: '256' },
      group: { type: 'string', default: '64' },
      rate: { type: 'string', default: '0' },
      chunks: { type: 'string', default: '0' },
      runs: { type: 'string', default: '1' },
    },
  })
  return {
    entries: Number(values.entries),
    clients: Number(values.clients),
    group: Number(values.group),
    rate: Number(values.rate),
    chunks: Number(values.chunks),
    runs: Number(values.runs),
  }
}

const id = (): string => randomBytes(16).toString('hex')

function* commands(plan: Plan): Generator<Command> {
  yield { kind: 'found', nowMs: nowAt, clusterId: id(), version: newestVersion }
  yield { kind: 'createBucket', nowMs: nowAt, name: 'bench', commitId: id() }
  const value = randomBytes(768).toString('base64')
  const metadata = userMetadataOf([{ name: 'value', value }])
  const condition = { ifAbsent: false, ifMatch: '' }
  const etag = new Uint8Array(8)
  for (let n = 0; n < plan.entries; n++) {
    const key = `k${n % plan.clients}-${Math.floor(n / plan.clients) % keysEach}`
    const facts = { size: 0, etag, chunks: [], stagedPages: 0, copies: 3, contentType: '', condition }
    const put = { kind: 'put', bucket: 'bench', key, ...facts, concern: 'quorum', metadata } as const
    yield { kind: 'commit', nowMs: nowAt + Math.floor(n / 4), commitId: id(), lease: 0, operations: [put] }
  }
}

/** CPU microseconds of the threads of this process by their names, and those of the main thread. */
function threads(): Map<string, number> {
  const out = new Map<string, number>()
  for (const tid of readdirSync('/proc/self/task')) {
    const stat = readFileSync(`/proc/self/task/${tid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const name = Number(tid) === process.pid ? 'main' : 'others'
    out.set(name, (out.get(name) ?? 0) + (Number(fields[11]) + Number(fields[12])) * 10_000)
  }
  return out
}

function bytesWritten(): number {
  return Number(/^write_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1] ?? 0)
}

/** Writes the records of `chunks` chunks of three copies into the store of a state that is empty. */
async function fill(directory: string, chunks: number): Promise<void> {
  const kv = await metaStores(directory).kv.open('state')
  const [value, mirror] = [randomBytes(60), randomBytes(12)]
  for (let from = 1; from <= chunks; from += fillChunks) {
    const ids = Array.from({ length: Math.min(fillChunks, chunks + 1 - from) }, (_, i) => from + i)
    const puts = ids.flatMap((id) => [
      { type: 'put', key: keys.chunk(id), value } as const,
      ...[1, 2, 3].map((disk) => ({ type: 'put', key: keys.diskChunk(disk, id), value: mirror }) as const),
    ])
    await kv.batch(puts, { sync: false })
  }
  await kv.flush()
  await pause(settleMs)
  await kv.close()
}

async function run(plan: Plan, directory: string) {
  if (plan.chunks > 0) await fill(directory, plan.chunks)
  const machine = createMachine(metaStores(directory), createNodeClock())
  await machine.open()
  const entries = [...commands(plan)].map((one, i) => ({ index: i + 1, term: 1, payload: encodeCommand(one) }))
  const [cpu, main, bytes] = [process.cpuUsage(), threads().get('main') ?? 0, bytesWritten()]
  const startMs = nowMs()
  for (let at = 0; at < entries.length; at += plan.group) {
    const replies = await machine.apply(entries.slice(at, at + plan.group))
    const refused = replies.find(({ reply }) => !reply.ok)
    if (refused !== undefined) throw new Error(`an entry was refused: ${JSON.stringify(refused.reply)}`)
    const dueMs = plan.rate === 0 ? 0 : startMs + (at / plan.rate) * 1000
    if (nowMs() < dueMs) await pause(dueMs - nowMs())
    else await new Promise(setImmediate)
  }
  const digest = machine.digest()
  const seconds = (nowMs() - startMs) / 1000
  await machine.close()
  const { user, system } = process.cpuUsage(cpu)
  const each = (micros: number): number => rounded(micros / plan.entries, 1)
  return {
    cpu: each(user + system),
    user: each(user),
    system: each(system),
    main: each((threads().get('main') ?? 0) - main),
    bytes: each(bytesWritten() - bytes),
    perSecond: rounded(plan.entries / seconds),
    digest,
  }
}

const plan = planOf(process.argv.slice(2))
const runs = []
for (let i = 0; i < plan.runs; i++) {
  const directory = mkdtempSync(join(tmpdir(), 'holdfast-apply-'))
  try {
    const result = await run(plan, directory)
    say(JSON.stringify(result))
    runs.push(result)
  } finally {
    rmSync(directory, { recursive: true })
  }
}
say(`median: ${median(runs.map(({ cpu }) => cpu))} us of CPU an entry`)
