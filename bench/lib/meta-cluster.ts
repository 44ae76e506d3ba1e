/**
 * Three meta nodes of ours on this machine, each its own process, and a client of them over the SDK's Meta Session.
 *
 * A put is the commit of an object without chunks that carries its value as user metadata: one Raft entry, like a put of a
 * key-value store. A read opens such an object, linearizably.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from '../../src/main/index.ts'
import { createNodeEnv } from '../../src/main/compose.ts'
import { MetaClient } from '../../src/sdk/meta-session.ts'
import { toHex } from '../../src/base/bytes.ts'
import type { Connection, Contender, MemberProcess } from './contender.ts'
import { pause } from './figures.ts'
import { cliPath, endProcess } from './processes.ts'

export const benchBucket = 'bench'

interface Member {
  readonly id: string
  readonly address: string
  process: ChildProcess
}

export interface MetaClusterOptions {
  readonly directory: string
  readonly basePort: number
  /** What results call it. */
  readonly name?: string | undefined
  /** Further flags of the nodes. */
  readonly flags?: readonly string[] | undefined
  /** Directory for CPU profiles of the nodes, written when they stop. */
  readonly profile?: string | undefined
}

class MetaCluster implements Contender {
  readonly kind = 'holdfast'
  readonly name: string
  readonly #options: MetaClusterOptions
  readonly #log: number
  readonly #members: Member[]

  constructor(options: MetaClusterOptions) {
    mkdirSync(options.directory, { recursive: true })
    this.#options = options
    this.name = options.name ?? this.kind
    this.#log = openSync(join(options.directory, 'meta.log'), 'a')
    this.#members = [0, 1, 2].map((i) => {
      const id = `m${i + 1}`
      const address = this.#addressOf(i)
      return { id, address, process: this.#spawn(id, address) }
    })
  }

  #addressOf(i: number): string {
    return `127.0.0.1:${this.#options.basePort + i}`
  }

  #spawn(id: string, address: string): ChildProcess {
    const { directory, profile, flags = [] } = this.#options
    const peers = [0, 1, 2].map((i) => `m${i + 1}=${this.#addressOf(i)}`).join(',')
    const node =
      profile === undefined ? [] : ['--cpu-prof', '--cpu-prof-dir', profile, '--cpu-prof-name', `${id}.cpuprofile`]
    const args = [cliPath, 'meta', '--id', id, '--listen', address, '--data', join(directory, id), '--peers', peers]
    return spawn(process.execPath, [...node, ...args, ...flags, '--end-with-stdin'], {
      // Ends with this process, however that ends.
      stdio: ['pipe', this.#log, this.#log],
      env: { UV_THREADPOOL_SIZE: '16', ...process.env },
    })
  }

  get members(): readonly MemberProcess[] {
    return this.#members.map(({ id, address, process }) => ({ id, address, pid: process.pid as number }))
  }

  async leader(): Promise<MemberProcess> {
    const store = await connect({ meta: this.members.map((member) => member.address) })
    try {
      const status = await store.admin.status()
      const id = status.meta.find((node) => node.role === 'leader')?.id
      const leader = this.members.find((member) => member.id === id)
      if (leader === undefined) throw new Error('no meta node leads')
      return leader
    } finally {
      await store.close()
    }
  }

  async signal(id: string, signal: NodeJS.Signals): Promise<void> {
    this.#member(id).process.kill(signal)
  }

  async restart(id: string): Promise<void> {
    const member = this.#member(id)
    member.process = this.#spawn(id, member.address)
  }

  #member(id: string): Member {
    return this.#members.find((member) => member.id === id) as Member
  }

  async stop(): Promise<void> {
    await Promise.all(this.#members.map(({ process: child }) => endProcess(child, 'SIGTERM')))
  }
}

/** Runs `work` again until it succeeds, for ten seconds. */
async function retried(work: () => Promise<void>): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      await work()
      return
    } catch (error) {
      if (tries === 100) throw error
      await pause(100)
    }
  }
}

/** Starts three nodes and resolves when a bucket could be made. */
export async function startMeta(options: MetaClusterOptions): Promise<Contender> {
  const cluster = new MetaCluster(options)
  const store = await connect({ meta: cluster.members.map((member) => member.address) })
  try {
    await retried(async () => {
      const buckets = await store.buckets.list()
      if (!buckets.some((bucket) => bucket.name === benchBucket)) await store.buckets.create(benchBucket)
    })
    return cluster
  } catch (error) {
    await cluster.stop()
    throw error
  } finally {
    await store.close()
  }
}

/** One session with the leader, found through `addresses`. Puts write `value`. */
export async function connectMeta(addresses: readonly string[], value: string): Promise<Connection> {
  const env = await createNodeEnv({ level: 'error' })
  const client = new MetaClient(env, addresses)
  const never = new AbortController().signal
  const etag = '0'.repeat(16)
  return {
    put: async (key) => {
      const put = { bucket: benchBucket, key, size: 0, etag, copies: 3, write: 'quorum', metadata: { value } }
      const request = { commitId: toHex(env.entropy.bytes(16)), operations: [{ put }] }
      await client.call('commit', request, { signal: never })
    },
    read: async (key) => {
      const reply = await client.call('openObject', { bucket: benchBucket, key }, { signal: never })
      if (reply.object?.metadata['value'] !== value) throw new Error(`${key} holds something else`)
    },
    close: async () => {
      client.close()
      await env.net.close()
    },
  }
}
