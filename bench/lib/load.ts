/**
 * The load of the metadata bench, in a process of its own, so that its CPU can be told from the rest and neither contender's
 * client runs with the other's garbage. The bench starts itself again with a task as JSON; what comes back is one line of
 * JSON when the measured time begins and one with the figures.
 *
 * Closed loop: as many clients as the task says, each with one call under way; connections are shared by several clients,
 * the same number of them for either contender. Open loop: one call every so many milliseconds, whether or not the earlier
 * ones were answered; what counts is the longest time without an answer.
 */

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import type { Connection, Contender } from './contender.ts'
import { connectEtcd, type EtcdConnection } from './etcd-client.ts'
import { cpuOf, nowMs, pause, quantile } from './figures.ts'
import { connectMeta } from './meta-cluster.ts'

const valueBytes = 1024
const gapValueBytes = 64
/** Keys that each client overwrites in turn. */
const keysEach = 1024
const connectionsMax = 8

export interface ClosedTask {
  readonly kind: 'put' | 'read'
  readonly contender: Contender['kind']
  /** Where the calls go: the leader. */
  readonly addresses: readonly string[]
  readonly clients: number
  readonly warmSeconds: number
  readonly seconds: number
}

export interface GapTask {
  readonly kind: 'gap'
  readonly contender: Contender['kind']
  /** Members that stay up; calls go to them in turn. */
  readonly addresses: readonly string[]
  readonly everyMs: number
  readonly seconds: number
}

export type LoadTask = ClosedTask | GapTask

interface ClosedFigures {
  readonly calls: number
  readonly failures: number
  readonly seconds: number
  readonly clientCpu: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface GapFigures {
  readonly answers: number
  /** Longest time between two answers. */
  readonly gapMs: number
}

export interface LoadFigures extends ClosedFigures {
  /** CPU seconds of the members' processes, and of the leader's among them. */
  readonly daemonCpu: number
  readonly leaderCpu: number
}

const say = (line: object): boolean => process.stdout.write(`${JSON.stringify(line)}\n`)

function textOf(bytes: number): string {
  return randomBytes(Math.ceil((bytes * 3) / 4))
    .toString('base64')
    .slice(0, bytes)
}

async function open(task: ClosedTask): Promise<Connection[]> {
  const value = textOf(valueBytes)
  const count = Math.min(task.clients, connectionsMax)
  const address = task.addresses[0] as string
  const one = (): Promise<Connection> =>
    task.contender === 'etcd' ? connectEtcd(address, Buffer.from(value)) : connectMeta([address], value)
  return Promise.all(Array.from({ length: count }, one))
}

/** Runs the clients until `untilMs`; answers the latencies and how many calls failed. */
async function closedLoop(
  connections: readonly Connection[],
  task: ClosedTask,
  untilMs: number,
): Promise<{ latencies: number[]; failures: number }> {
  const latencies: number[] = []
  let failures = 0
  const client = async (number: number): Promise<void> => {
    const connection = connections[number % connections.length] as Connection
    for (let n = 0; ; n++) {
      const start = nowMs()
      if (start >= untilMs) return
      const key = `k${number}-${n % keysEach}`
      try {
        await (task.kind === 'put' ? connection.put(key) : connection.read(key))
        latencies.push(nowMs() - start)
      } catch {
        failures++
        await pause(1)
      }
    }
  }
  await Promise.all(Array.from({ length: task.clients }, (_, number) => client(number)))
  return { latencies, failures }
}

async function runClosed(task: ClosedTask): Promise<void> {
  const connections = await open(task)
  // Every key that is read exists, and both ends have met the code that runs.
  if (task.kind === 'read') {
    for (let n = 0; n < keysEach; n += 8) {
      const some = Array.from({ length: task.clients }, (_, i) => i)
      for (let key = n; key < n + 8; key++) {
        await Promise.all(some.map((i) => (connections[i % connections.length] as Connection).put(`k${i}-${key}`)))
      }
    }
  }
  await closedLoop(connections, task, nowMs() + task.warmSeconds * 1000)
  say({ begin: true })
  const cpu = process.cpuUsage()
  const start = nowMs()
  const { latencies, failures } = await closedLoop(connections, task, start + task.seconds * 1000)
  const seconds = (nowMs() - start) / 1000
  const { user, system } = process.cpuUsage(cpu)
  latencies.sort((a, b) => a - b)
  const figures: ClosedFigures = {
    calls: latencies.length,
    failures,
    seconds,
    clientCpu: (user + system) / 1e6,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    max: latencies.at(-1) ?? Number.NaN,
  }
  say({ figures })
  for (const connection of connections) await connection.close()
}

/** Puts to the survivors in turn. A connection of etcd's that broke is made again; ours looks for the leader by itself. */
class GapTarget {
  readonly #task: GapTask
  readonly #value: string
  #at = 0
  readonly #etcd = new Map<string, EtcdConnection | undefined>()
  #meta: Connection | undefined

  constructor(task: GapTask) {
    this.#task = task
    this.#value = textOf(gapValueBytes)
  }

  async open(): Promise<void> {
    const { contender, addresses } = this.#task
    if (contender === 'holdfast') this.#meta = await connectMeta(addresses, this.#value)
    else for (const address of addresses) this.#etcd.set(address, await this.#connect(address))
  }

  #connect(address: string): Promise<EtcdConnection | undefined> {
    return connectEtcd(address, Buffer.from(this.#value)).catch(() => undefined)
  }

  async put(key: string): Promise<void> {
    if (this.#meta !== undefined) return this.#meta.put(key)
    const { addresses } = this.#task
    const address = addresses[this.#at++ % addresses.length] as string
    const connection = this.#etcd.get(address)
    if (connection === undefined || connection.closed) {
      this.#etcd.set(address, await this.#connect(address))
      throw new Error('not connected')
    }
    await connection.put(key)
  }
}

async function runGap(task: GapTask): Promise<void> {
  const target = new GapTarget(task)
  await target.open()
  await target.put('gap')
  say({ begin: true })
  const answers: number[] = []
  const end = nowMs() + task.seconds * 1000
  let n = 0
  const timer = setInterval(() => {
    target.put(`gap-${n++ % 256}`).then(
      () => answers.push(nowMs()),
      () => undefined,
    )
  }, task.everyMs)
  await pause(end - nowMs())
  clearInterval(timer)
  answers.sort((a, b) => a - b)
  let gapMs = 0
  for (const [i, at] of answers.entries()) gapMs = Math.max(gapMs, (answers[i + 1] ?? end) - at)
  const figures: GapFigures = { answers: answers.length, gapMs }
  say({ figures })
}

/** The load process: does `task`, which is JSON, and ends. */
export async function runLoad(task: string): Promise<never> {
  const parsed = JSON.parse(task) as LoadTask
  await (parsed.kind === 'gap' ? runGap(parsed) : runClosed(parsed))
  process.exit(0)
}

interface Spawned {
  /** Resolves when the measured time begins. */
  readonly begun: Promise<void>
  readonly figures: Promise<unknown>
}

function startLoad(task: LoadTask, nodeArgs: readonly string[]): Spawned {
  const script = process.argv[1] as string
  const child = spawn(process.execPath, [...nodeArgs, script, '--load', JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let begin: () => void
  const begun = new Promise<void>((resolve) => {
    begin = resolve
  })
  const figures = new Promise<unknown>((resolve, reject) => {
    let text = ''
    child.stdout.on('data', (piece: Buffer) => {
      text += piece.toString()
      if (text.includes('{"begin":true}\n')) begin()
    })
    child.once('close', (code) => {
      const last = text.trimEnd().split('\n').at(-1) ?? ''
      if (code === 0 && last.startsWith('{"figures"')) resolve((JSON.parse(last) as { figures: unknown }).figures)
      else reject(new Error(`the load of ${task.contender} ended with ${code}: ${last}`))
    })
  })
  return { begun, figures }
}

/** Runs a closed loop against `contender` in a process of its own. */
export async function load(
  contender: Contender,
  task: Omit<ClosedTask, 'contender' | 'addresses'>,
  nodeArgs: readonly string[] = [],
): Promise<LoadFigures> {
  const { address, pid } = await contender.leader()
  const pids = contender.members.map((member) => member.pid)
  const run = startLoad({ ...task, contender: contender.kind, addresses: [address] }, nodeArgs)
  await Promise.race([run.begun, run.figures])
  const before = cpuOf(pids)
  const leaderBefore = cpuOf([pid])
  const figures = (await run.figures) as ClosedFigures
  return { ...figures, daemonCpu: cpuOf(pids) - before, leaderCpu: cpuOf([pid]) - leaderBefore }
}

/** Puts every `everyMs`; `fault` is called once it flows. */
export async function gapUnder(
  contender: Contender,
  addresses: readonly string[],
  times: { readonly seconds: number; readonly everyMs: number },
  fault: () => Promise<void>,
): Promise<GapFigures> {
  const run = startLoad({ kind: 'gap', contender: contender.kind, addresses, ...times }, [])
  await Promise.race([run.begun, run.figures])
  await pause(1000)
  await fault()
  return (await run.figures) as GapFigures
}
