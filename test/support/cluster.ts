/**
 * A cluster of real processes for tests: every node is its own `holdfast meta` or `holdfast storage` child on free ports,
 * with its data in a temporary directory that `stop` removes. With `links` the meta nodes reach each other through
 * proxies that a test can break.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ClusterStatus } from '../../src/sdk/types.ts'
import { Links } from './links.ts'
import { cliPath, type Ended, freePort, type Running, runCli, spawnCli, until } from './processes.ts'

/** One node of the cluster, running or not. */
export interface TestNode {
  readonly id: string
  readonly kind: 'meta' | 'storage'
  /** Where others find it: its proxy when it has one. */
  readonly address: string
  /** Where it listens; its HTTP port is 1000 above. */
  readonly listen: string
  /** Where its data is. */
  readonly directory: string
  readonly args: readonly string[]
  /** The command line of the build that it starts next. */
  build: string
  /** What it gets in its environment when it starts next. */
  env: Readonly<Record<string, string>>
  running: Running | undefined
}

export interface ClusterOptions {
  readonly meta?: number
  readonly storage?: number
  readonly zones?: number
  /** Puts a proxy in front of every meta node: `cluster.links`. */
  readonly links?: boolean
  /** The command line of the build to start with; this one by default. */
  readonly build?: string
  /** Environment of a meta node. */
  readonly metaEnv?: (id: string) => Readonly<Record<string, string>>
  /** Directories of meta nodes that are not in the cluster's own, by id. */
  readonly directories?: Readonly<Record<string, string>>
  /** Further flags of every meta node. */
  readonly metaFlags?: readonly string[]
  /** Further flags of every storage node. */
  readonly storageFlags?: readonly string[]
  /** Meta nodes that are witnesses, by id. */
  readonly witnesses?: readonly string[]
}

/** Short waits, so that tests see repair soon: the production defaults wait for minutes. */
const quickMeta = ['--repair-wait-degraded', '2s', '--repair-wait-at-risk', '1s']

/** A running cluster. */
export class TestCluster {
  readonly directory: string
  readonly nodes: TestNode[] = []
  /** Set when the cluster was started with `links`. */
  readonly #links: Links | undefined
  readonly #options: ClusterOptions

  private constructor(directory: string, options: ClusterOptions) {
    this.directory = directory
    this.#options = options
    if (options.links === true) this.#links = new Links(() => this.#pids())
  }

  /** Addresses of the meta nodes, for `--meta` and `connect`. */
  get meta(): readonly string[] {
    return this.nodes.filter((node) => node.kind === 'meta').map((node) => node.address)
  }

  get links(): Links {
    if (this.#links === undefined) throw new Error('start the cluster with links: true')
    return this.#links
  }

  #pids(): ReadonlyMap<string, number> {
    return new Map(this.nodes.flatMap((node) => (node.running === undefined ? [] : [[node.id, node.running.pid]])))
  }

  /** Starts all nodes and resolves when every storage node is up. */
  static async start(options: ClusterOptions = {}): Promise<TestCluster> {
    const cluster = new TestCluster(await mkdtemp(join(tmpdir(), 'holdfast-test-')), options)
    try {
      const ids = Array.from({ length: options.meta ?? 3 }, (_, i) => `m${i + 1}`)
      const places = []
      for (const id of ids) places.push(await cluster.#place(id))
      const peers = places.map(({ id, address }) => `${id}=${address}`)
      for (const place of places) cluster.#makeMeta(place, peers)
      for (let i = 0; i < (options.storage ?? 4); i++) await cluster.#makeStorage(i)
      for (const node of cluster.nodes) cluster.startNode(node.id)
      await cluster.untilUp()
    } catch (error) {
      await cluster.stop()
      throw error
    }
    return cluster
  }

  /** A free place for a meta node, behind a proxy when the cluster has links. */
  async #place(id: string): Promise<{ id: string; listen: string; address: string }> {
    const port = await freePort()
    const seen = this.#links === undefined ? port : await this.#links.add(id, port)
    return { id, listen: `127.0.0.1:${port}`, address: `127.0.0.1:${seen}` }
  }

  #makeMeta(place: { id: string; listen: string; address: string }, peers: readonly string[]): TestNode {
    const { id, listen, address } = place
    const directory = this.#options.directories?.[id] ?? join(this.directory, id)
    const command = this.#options.witnesses?.includes(id) === true ? 'witness' : 'meta'
    const flags = this.#options.metaFlags ?? quickMeta
    const advertise = address === listen ? [] : ['--advertise', address]
    const node: TestNode = {
      id,
      kind: 'meta',
      address,
      listen,
      directory,
      args: [
        command,
        '--id',
        id,
        '--listen',
        listen,
        ...advertise,
        '--data',
        directory,
        '--peers',
        peers.join(','),
        ...flags,
      ],
      build: this.#options.build ?? cliPath,
      env: this.#options.metaEnv?.(id) ?? {},
      running: undefined,
    }
    this.nodes.push(node)
    return node
  }

  /** A further meta node with an empty directory, not started; `meta add` makes it a member. */
  async newMeta(id: string): Promise<TestNode> {
    const place = await this.#place(id)
    const metas = this.nodes.filter((node) => node.kind === 'meta')
    return this.#makeMeta(
      place,
      [...metas, place].map((node) => `${node.id}=${node.address}`),
    )
  }

  async #makeStorage(i: number): Promise<void> {
    const id = `s${i + 1}`
    const address = `127.0.0.1:${await freePort()}`
    const directory = join(this.directory, id)
    const zone = `z${(i % (this.#options.zones ?? 2)) + 1}`
    const place = ['--id', id, '--listen', address, '--disk', directory, '--zone', zone]
    this.nodes.push({
      id,
      kind: 'storage',
      address,
      listen: address,
      directory,
      args: ['storage', ...place, '--meta', this.meta.join(','), ...(this.#options.storageFlags ?? [])],
      build: this.#options.build ?? cliPath,
      env: {},
      running: undefined,
    })
  }

  node(id: string): TestNode {
    const node = this.nodes.find((candidate) => candidate.id === id)
    if (node === undefined) throw new Error(`no node ${id}`)
    return node
  }

  startNode(id: string): void {
    const node = this.node(id)
    if (node.running !== undefined) throw new Error(`${id} runs already`)
    node.running = spawnCli(node.args, { cli: node.build, env: node.env })
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

  /** Resolves when a node has ended by itself. */
  async ended(id: string): Promise<Ended> {
    const node = this.node(id)
    if (node.running === undefined) throw new Error(`${id} does not run`)
    const ended = await node.running.ended
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

  /** Id of the meta node that leads, by what the nodes say themselves: that of the highest term. */
  async leader(): Promise<string> {
    return await until('a meta leader', async () => {
      const metas = this.nodes.filter((node) => node.kind === 'meta' && node.running !== undefined)
      const seen = await Promise.all(metas.map(async (node) => ({ id: node.id, gauges: await this.gauges(node.id) })))
      const leading = seen.filter(({ gauges }) => gauges.get('holdfast_raft_is_leader') === 1)
      const termOf = (gauges: ReadonlyMap<string, number>): number => gauges.get('holdfast_raft_term') ?? 0
      return leading.toSorted((a, b) => termOf(b.gauges) - termOf(a.gauges))[0]?.id
    })
  }

  /** Resolves when the node says of itself that it can serve. */
  async untilReady(id: string): Promise<void> {
    const node = this.node(id)
    const [host, port] = node.listen.split(':')
    await until(`${id} is ready`, async () => {
      if (node.running?.child.exitCode !== null) return true
      return (await fetch(`http://${host}:${Number(port) + 1000}/readyz`)).status === 200
    })
    if (node.running?.child.exitCode !== null) throw new Error(`${id} ended by itself: ${node.running?.output()}`)
  }

  /** What a node tells on /metrics, names without labels only; empty when it does not answer. */
  async gauges(id: string): Promise<ReadonlyMap<string, number>> {
    const [host, port] = this.node(id).listen.split(':')
    const url = `http://${host}:${Number(port) + 1000}/metrics`
    const text = await fetch(url, { signal: AbortSignal.timeout(1000) }).then(
      async (answer) => await answer.text(),
      () => '',
    )
    const found = text.matchAll(/^([a-z_]+) (-?[0-9.e+]+)$/gm)
    return new Map([...found].map((match) => [match[1] as string, Number(match[2])]))
  }

  /** Resolves when the running meta nodes (or those named) hold the same state at one index; rejects when they differ at the same index. */
  async untilAgreed(ids?: readonly string[]): Promise<void> {
    const running = this.nodes.filter((node) => node.kind === 'meta' && node.running !== undefined)
    const metas = running.filter((node) => ids?.includes(node.id) ?? true)
    await until('the same state on all meta nodes', async () => {
      const seen = await Promise.all(metas.map(async (node) => await this.gauges(node.id)))
      const states = seen.map((gauges) => [
        gauges.get('holdfast_meta_state_index'),
        gauges.get('holdfast_meta_state_digest'),
      ])
      const [first] = states
      if (first?.[0] === undefined || states.some((state) => state[0] !== first[0])) return false
      if (states.some((state) => state[1] !== first[1])) throw new Error(`states differ: ${JSON.stringify(states)}`)
      return true
    })
  }

  /** What the first node said that ended by itself; undefined while all run that should. */
  #fallen(): string | undefined {
    const dead = this.nodes.find((node) => node.running !== undefined && node.running.child.exitCode !== null)
    return dead === undefined ? undefined : `${dead.id} ended by itself: ${dead.running?.output()}`
  }

  /** Resolves when every storage node that runs is up; rejects at once when a node ends by itself. */
  async untilUp(): Promise<void> {
    const wanted = this.nodes
      .filter((node) => node.kind === 'storage' && node.running !== undefined)
      .map((node) => node.id)
    await until(
      'all storage nodes up',
      async () => {
        if (this.#fallen() !== undefined) return true
        const { nodes } = await this.status()
        return wanted.every((id) => nodes.some((node) => node.id === id && node.health === 'up'))
      },
      60_000,
    )
    const fallen = this.#fallen()
    if (fallen !== undefined) throw new Error(fallen)
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
    await this.#links?.close()
    await rm(this.directory, { recursive: true, force: true })
  }
}
