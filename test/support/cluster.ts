/**
 * A cluster of real processes for tests: every node is its own `holdfast meta` or `holdfast storage` child on free ports,
 * with its data in a temporary directory that `stop` removes.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ClusterStatus } from '../../src/sdk/types.ts'
import { type Ended, freePort, type Running, runCli, spawnCli, until } from './processes.ts'

/** One node of the cluster, running or not. */
export interface TestNode {
  readonly id: string
  readonly kind: 'meta' | 'storage'
  readonly address: string
  /** Where its data is. */
  readonly directory: string
  readonly args: readonly string[]
  running: Running | undefined
}

export interface ClusterOptions {
  readonly meta?: number
  readonly storage?: number
  readonly zones?: number
  /** Further flags of every meta node. */
  readonly metaFlags?: readonly string[]
  /** Further flags of every storage node. */
  readonly storageFlags?: readonly string[]
}

/** Short waits, so that tests see repair soon: the production defaults wait for minutes. */
const quickMeta = ['--repair-wait-degraded', '2s', '--repair-wait-at-risk', '1s']

/** A running cluster. */
export class TestCluster {
  readonly directory: string
  readonly nodes: TestNode[]
  /** Meta addresses, for `--meta` and `connect`. */
  readonly meta: readonly string[]

  private constructor(directory: string, nodes: TestNode[]) {
    this.directory = directory
    this.nodes = nodes
    this.meta = nodes.filter((node) => node.kind === 'meta').map((node) => node.address)
  }

  /** Starts all nodes and resolves when every storage node is up. */
  static async start(options: ClusterOptions = {}): Promise<TestCluster> {
    const directory = await mkdtemp(join(tmpdir(), 'holdfast-test-'))
    const metaPorts = await ports(options.meta ?? 3)
    const storagePorts = await ports(options.storage ?? 4)
    const peers = metaPorts.map((port, i) => `m${i + 1}=127.0.0.1:${port}`).join(',')
    const metaList = metaPorts.map((port) => `127.0.0.1:${port}`).join(',')
    const metaNodes = metaPorts.map((port, i): TestNode => {
      const id = `m${i + 1}`
      const data = join(directory, id)
      const address = `127.0.0.1:${port}`
      const args = ['meta', '--id', id, '--listen', address, '--data', data, '--peers', peers]
      return {
        id,
        kind: 'meta',
        address,
        directory: data,
        args: [...args, ...(options.metaFlags ?? quickMeta)],
        running: undefined,
      }
    })
    const storageNodes = storagePorts.map((port, i): TestNode => {
      const id = `s${i + 1}`
      const disk = join(directory, id)
      const address = `127.0.0.1:${port}`
      const zone = `z${(i % (options.zones ?? 2)) + 1}`
      const args = ['storage', '--id', id, '--listen', address, '--disk', disk, '--meta', metaList, '--zone', zone]
      return {
        id,
        kind: 'storage',
        address,
        directory: disk,
        args: [...args, ...(options.storageFlags ?? [])],
        running: undefined,
      }
    })
    const cluster = new TestCluster(directory, [...metaNodes, ...storageNodes])
    try {
      for (const node of cluster.nodes) cluster.startNode(node.id)
      await cluster.untilUp()
    } catch (error) {
      await cluster.stop()
      throw error
    }
    return cluster
  }

  node(id: string): TestNode {
    const node = this.nodes.find((candidate) => candidate.id === id)
    if (node === undefined) throw new Error(`no node ${id}`)
    return node
  }

  startNode(id: string): void {
    const node = this.node(id)
    if (node.running !== undefined) throw new Error(`${id} runs already`)
    node.running = spawnCli(node.args)
  }

  /** Ends one node and resolves when it is gone. */
  async kill(id: string, signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<Ended> {
    const node = this.node(id)
    const { running } = node
    if (running === undefined) throw new Error(`${id} does not run`)
    running.child.kill(signal)
    const ended = await running.ended
    node.running = undefined
    return ended
  }

  pid(id: string): number {
    return this.node(id).running?.pid ?? 0
  }

  /** Runs `holdfast ARGS --meta ...` to its end. */
  async run(args: readonly string[], input?: Uint8Array | string, cwd?: string): Promise<Ended> {
    return await runCli([...args, '--meta', this.meta.join(',')], input, cwd)
  }

  /** Runs a command that must succeed; resolves to what it printed. */
  async ok(args: readonly string[], input?: Uint8Array | string): Promise<string> {
    const ended = await this.run(args, input)
    if (ended.code !== 0) throw new Error(`holdfast ${args.join(' ')} ended with ${ended.code}: ${ended.stderr}`)
    return ended.stdout
  }

  async json<T>(args: readonly string[]): Promise<T> {
    return JSON.parse(await this.ok([...args, '--json'])) as T
  }

  async status(): Promise<ClusterStatus> {
    return await this.json<ClusterStatus>(['status'])
  }

  /** Id of the meta node that leads. */
  async leader(): Promise<string> {
    return await until(
      'a meta leader',
      async () => (await this.status()).meta.find((meta) => meta.role === 'leader')?.id,
    )
  }

  /** Resolves when every storage node that runs is up. */
  async untilUp(): Promise<void> {
    const wanted = this.nodes
      .filter((node) => node.kind === 'storage' && node.running !== undefined)
      .map((node) => node.id)
    await until(
      'all storage nodes up',
      async () => {
        const dead = this.nodes.find((node) => node.running !== undefined && node.running.child.exitCode !== null)
        if (dead !== undefined) throw new Error(`${dead.id} ended by itself: ${dead.running?.output()}`)
        const { nodes } = await this.status()
        return wanted.every((id) => nodes.some((node) => node.id === id && node.health === 'up'))
      },
      60_000,
    )
  }

  /** Resolves when every chunk has all its copies. */
  async untilFull(timeoutMs = 60_000): Promise<ClusterStatus> {
    return await until(
      'every chunk at its wanted copies',
      async () => {
        const status = await this.status()
        return status.chunks.full === status.chunks.total && status.chunks.lost === 0 ? status : undefined
      },
      timeoutMs,
    )
  }

  /** Kills what runs and removes the directory. */
  async stop(): Promise<void> {
    const running = this.nodes.filter((node) => node.running !== undefined)
    await Promise.all(running.map(async (node) => await this.kill(node.id)))
    await rm(this.directory, { recursive: true, force: true })
  }
}

async function ports(count: number): Promise<number[]> {
  const out: number[] = []
  for (let i = 0; i < count; i++) out.push(await freePort())
  return out
}
