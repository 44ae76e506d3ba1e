/**
 * Three etcd members on this machine, with etcd's defaults: heartbeat 100 ms, election 1,000 ms, fsync of the log before
 * every acknowledgement. Nothing is installed here: without an `etcd` on the path there is no comparison.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import type { Contender, MemberProcess } from './contender.ts'
import { connectEtcd } from './etcd-client.ts'
import { pause } from './figures.ts'
import { endProcess } from './processes.ts'

/** What `etcd --version` says first, or undefined where it is not installed. */
export function etcdVersion(): string | undefined {
  try {
    return execFileSync('etcd', ['--version'], { encoding: 'utf8' }).split('\n')[0]
  } catch {
    return undefined
  }
}

interface Member {
  readonly id: string
  readonly port: number
  process: ChildProcess
}

class EtcdCluster implements Contender {
  readonly kind = 'etcd'
  readonly name = 'etcd'
  readonly #directory: string
  readonly #log: number
  readonly #basePort: number
  readonly #members: Member[]

  constructor(directory: string, basePort: number) {
    mkdirSync(directory, { recursive: true })
    this.#directory = directory
    this.#basePort = basePort
    this.#log = openSync(join(directory, 'etcd.log'), 'a')
    this.#members = [0, 1, 2].map((i) => {
      const port = basePort + 10 * i
      const id = `e${i + 1}`
      return { id, port, process: this.#spawn(id, port, 'new') }
    })
  }

  #spawn(id: string, port: number, state: 'new' | 'existing'): ChildProcess {
    const peers = [0, 1, 2].map((i) => `e${i + 1}=http://127.0.0.1:${this.#basePort + 10 * i + 1}`).join(',')
    const client = `http://127.0.0.1:${port}`
    const peer = `http://127.0.0.1:${port + 1}`
    const args = ['--name', id, '--data-dir', join(this.#directory, id), '--initial-cluster-state', state]
    args.push('--listen-client-urls', client, '--advertise-client-urls', client)
    args.push('--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', peers)
    args.push('--logger', 'zap', '--log-level', 'warn')
    return spawn('etcd', args, { stdio: ['ignore', this.#log, this.#log] })
  }

  get members(): readonly MemberProcess[] {
    return this.#members.map(({ id, port, process }) => ({
      id,
      address: `127.0.0.1:${port}`,
      pid: process.pid as number,
    }))
  }

  async leader(): Promise<MemberProcess> {
    for (let tries = 0; tries < 300; tries++) {
      for (const member of this.members) {
        if (await leads(member.address)) return member
      }
      await pause(100)
    }
    throw new Error('no etcd member leads: look at etcd.log')
  }

  async signal(id: string, signal: NodeJS.Signals): Promise<void> {
    this.#member(id).process.kill(signal)
  }

  async restart(id: string): Promise<void> {
    const member = this.#member(id)
    member.process = this.#spawn(id, member.port, 'existing')
  }

  #member(id: string): Member {
    return this.#members.find((member) => member.id === id) as Member
  }

  async stop(): Promise<void> {
    await Promise.all(this.#members.map(({ process: child }) => endProcess(child, 'SIGKILL')))
  }
}

/** A paused member accepts connections and says nothing. */
async function leads(address: string): Promise<boolean> {
  try {
    const connection = await connectEtcd(address)
    const answer = await Promise.race([connection.leads(), pause(500).then(() => false)])
    await connection.close()
    return answer
  } catch {
    return false
  }
}

/** Starts three members below `directory` on ports from `basePort`; resolves when one leads. */
export async function startEtcd(directory: string, basePort: number): Promise<Contender> {
  const cluster = new EtcdCluster(directory, basePort)
  await cluster.leader()
  return cluster
}
