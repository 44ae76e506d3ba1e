/**
 * A small world for the controllers: the real state machine on memory, a replicator that commits at once, a clock that
 * tests move, and fake storage nodes.
 */

import type { MetaConfig } from '../../../../src/config/types.ts'
import { type Command, encodeCommand, type Reply } from '../../../../src/core/meta/commands.ts'
import { StoreError } from '../../../../src/model/errors.ts'
import type { Timer } from '../../../../src/ports/clock.ts'
import type { Env } from '../../../../src/ports/env.ts'
import type { Files } from '../../../../src/ports/files.ts'
import type { Log, LogFields } from '../../../../src/ports/log.ts'
import type { NetServer } from '../../../../src/ports/net.ts'
import { type Control, createControl } from '../../../../src/services/meta/control/control.ts'
import type { NodeStream } from '../../../../src/services/meta/control/orders.ts'
import type { MetaMachine } from '../../../../src/services/meta/machine.ts'
import type { AppliedReply, Replicator, ReplicatorStatus } from '../../../../src/services/meta/types.ts'
import { ManualClock } from '../../../support/manual-clock.ts'
import { MemoryKvFactory } from '../../../support/memory-kv.ts'
import { openMachine } from '../kit.ts'
import { FakeNode, hex } from './fake-node.ts'

type WithoutNow<C> = C extends unknown ? Omit<C, 'nowMs'> : never

export interface LogEvent {
  readonly level: string
  readonly event: string
  readonly fields: LogFields
}

export class ControlWorld {
  readonly clock = new ManualClock()
  readonly log: LogEvent[] = []
  /** Timers of the controllers that are set now. */
  timers = 0
  /** Chunks in the order in which copies of them were made. */
  readonly copied: number[] = []
  nodes: FakeNode[] = []
  readonly machine: MetaMachine
  readonly control: Control
  term = 1
  leads = false
  #index = 0
  #applying: Promise<unknown> = Promise.resolve()
  #applied: ((index: number, results: readonly AppliedReply[]) => void) | undefined
  #acceptStream: (stream: NodeStream) => void = () => undefined
  #commits = 0

  private constructor(machine: MetaMachine, config: Partial<MetaConfig>) {
    this.machine = machine
    this.control = createControl(
      this.#env(),
      { replicator: this.#replicator(), machine },
      {
        ...baseConfig,
        ...config,
      },
    )
    this.#applied = (index, results) => this.control.onApplied(index, results)
    this.control.bind({
      unary: () => undefined,
      stream: (_method, handler) => {
        this.#acceptStream = (stream) => (handler as (stream: unknown, context: unknown) => void)(stream, {})
      },
    } satisfies NetServer)
  }

  /** A cluster that leads in term 1, with storage nodes s1, s2, ... in the given zones, all attached. */
  static async make(zones: readonly string[], config: Partial<MetaConfig> = {}, version = 1): Promise<ControlWorld> {
    const files = new Map<string, Uint8Array>()
    const memoryFiles: Files = {
      read: async (name) => files.get(name),
      write: async (name, bytes) => void files.set(name, bytes),
      overwrite: async (name, bytes) => void files.set(name, bytes),
      remove: async (name) => void files.delete(name),
      list: async () => [...files.keys()],
      freeBytes: async () => 1024 ** 4,
    }
    const machine = await openMachine({ files: memoryFiles, kv: new MemoryKvFactory() })
    const world = new ControlWorld(machine, config)
    world.leads = true
    await world.propose({ kind: 'found', clusterId: hex(1), version })
    world.control.become(1)
    world.nodes = zones.map((zone, i) => new FakeNode(world, i + 1, zone))
    for (const node of world.nodes) node.attach()
    await world.settle()
    return world
  }

  node(number: number): FakeNode {
    const node = this.nodes[number - 1]
    if (node === undefined) throw new Error(`no node ${number}`)
    return node
  }

  /** Of the last entry. */
  get index(): number {
    return this.#index
  }

  accept(stream: NodeStream): void {
    this.#acceptStream(stream)
  }

  /** Of the cluster, as the replicator knows it. */
  incarnation = 1

  /** Another node leads from here on; `back` makes this one the leader again, in a later term. */
  resign(): void {
    this.leads = false
    this.control.resign()
  }

  back(): void {
    this.leads = true
    this.control.become(++this.term)
  }

  async stop(): Promise<void> {
    await this.control.stop()
    await this.settle()
    await this.machine.close()
  }

  /** Lets everything happen that happens without time passing. */
  async settle(): Promise<void> {
    for (let i = 0; i < 60; i++) await new Promise<void>((resolve) => setImmediate(resolve))
  }

  async advance(byMs: number): Promise<void> {
    for (let passed = 0; passed < byMs; passed += 100) {
      this.clock.advance(100)
      for (let i = 0; i < 12; i++) await new Promise<void>((resolve) => setImmediate(resolve))
    }
    await this.settle()
  }

  /** Moves time on until `holds`, at most `limitMs`. */
  async until(what: string, holds: () => boolean | Promise<boolean>, limitMs = 60_000): Promise<void> {
    for (let passed = 0; passed <= limitMs; passed += 100) {
      if (await holds()) return
      await this.advance(100)
    }
    throw new Error(`${what}: did not happen within ${limitMs} ms`)
  }

  propose(command: WithoutNow<Command>): Promise<Reply> {
    return this.#commit(encodeCommand({ ...command, nowMs: this.clock.wallMs() } as Command))
  }

  async lease(ttlMs = 600_000): Promise<number> {
    const reply = await this.propose({ kind: 'grantLease', ttlMs })
    if (!reply.ok || reply.kind !== 'lease') throw new Error('no lease')
    return reply.id
  }

  /** Commits a pinned chunk with copies on these nodes, which hold it; `copying`: nodes that were asked and may not. */
  async chunk(
    lease: number,
    offset: number,
    copies: number,
    on: readonly number[],
    copying: readonly number[] = [],
  ): Promise<number> {
    const id = lease + offset
    const holders = on.map((number) => this.node(number))
    for (const node of holders) node.chunks.set(id, 'good')
    const reply = await this.propose({
      kind: 'commitChunks',
      commitId: hex(0xc0_0000 + ++this.#commits),
      lease,
      chunks: [
        {
          id,
          length: 1000,
          root: new Uint8Array(8).fill(offset),
          acks: holders.map((node) => ({ disk: node.disk, generation: node.generation })),
          copying: copying.map((number) => this.node(number).disk),
        },
      ],
      copies,
      concern: 'one',
    })
    if (!reply.ok) throw new Error(`${reply.code}: ${reply.message}`)
    return id
  }

  /** Copies of the chunk that count now, as node ids. */
  async copiesOf(chunk: number): Promise<string[]> {
    const record = await this.machine.queries.chunk(chunk)
    const counted = (record?.replicas ?? []).filter(
      (replica) => this.control.replicaState(replica.disk, replica.state) === 'current',
    )
    return counted.map((replica) => this.nodes.find((node) => node.disk === replica.disk)?.id ?? '?').sort()
  }

  events(event: string): LogEvent[] {
    return this.log.filter((entry) => entry.event === event)
  }

  #commit(payload: Uint8Array): Promise<Reply> {
    const done = this.#applying.then(async () => {
      const index = ++this.#index
      const results = await this.machine.apply([{ index, term: this.term, payload }])
      this.#applied?.(index, results)
      const reply = results[0]?.reply
      if (reply === undefined) throw new Error('apply answered nothing')
      return reply
    })
    this.#applying = done.catch(() => undefined)
    return done
  }

  #timer(delayMs: number, handler: () => void): Timer {
    let set = true
    this.timers++
    const unset = (): void => {
      if (set) this.timers--
      set = false
    }
    const timer = this.clock.after(delayMs, () => {
      unset()
      handler()
    })
    return {
      cancel: () => {
        unset()
        timer.cancel()
      },
    }
  }

  #replicator(): Replicator {
    const check = (): void => {
      if (!this.leads) throw new StoreError('NOT_LEADER', 'this meta node does not lead')
    }
    return {
      start: async () => undefined,
      stop: async () => undefined,
      propose: async (payload) => {
        check()
        return this.#commit(payload)
      },
      barrier: async () => {
        check()
        await this.#applying
      },
      addMember: async () => true,
      removeMember: async () => undefined,
      transfer: async () => 'm1',
      clusterIncarnation: () => this.incarnation,
      setVersion: () => undefined,
      lowSpace: () => false,
      status: () => ({ leaderAddresses: ['elsewhere:1'], peers: [] }) as unknown as ReplicatorStatus,
      onLeadership: () => undefined,
      onApplied: () => undefined,
      onFatal: () => undefined,
    }
  }

  #env(): Env {
    let state = 12345
    const write = (level: string, fields: LogFields) => (event: string, more?: LogFields) =>
      void this.log.push({ level, event, fields: { ...fields, ...more } })
    const log = (fields: LogFields): Log => ({
      debug: write('debug', fields),
      info: write('info', fields),
      warn: write('warn', fields),
      error: write('error', fields),
      with: (more) => log({ ...fields, ...more }),
    })
    const unit = (): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return state / 2 ** 32
    }
    return {
      clock: {
        monotonicMs: () => this.clock.monotonicMs(),
        wallMs: () => this.clock.wallMs(),
        after: (delayMs, handler) => this.#timer(delayMs, handler),
      },
      entropy: { bytes: (length) => new Uint8Array(length), unit },
      hasher: { sumInto: () => undefined },
      metrics: { count: () => undefined, gauge: () => undefined, observe: () => undefined },
      log: log({}),
      net: {
        call: async (address: string) => {
          const alive = this.nodes.some((node) => address.startsWith(`${node.id}:`) && node.alive)
          throw alive ? new StoreError('NOT_FOUND', 'no such chunk') : new StoreError('UNAVAILABLE', 'refused')
        },
        open: () => {
          throw new StoreError('UNAVAILABLE', 'not in this world')
        },
        close: async () => undefined,
      },
    }
  }
}

const baseConfig: MetaConfig = {
  id: 'm1',
  listen: 'm1:1',
  advertise: ['m1:1'],
  dataDir: '',
  peers: [{ id: 'm1', address: 'm1:1' }],
  raft: { tickMs: 50, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 10, leaseReads: false },
  witness: false,
  reserveBytes: 0,
  repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 8, copiesPerNode: 4 },
  health: { heartbeatMs: 500, suspectMs: 3000, downMs: 10_000 },
  gcGraceMs: 60_000,
}
