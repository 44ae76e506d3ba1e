/**
 * A small world for the controllers: the real state machine on memory, a replicator that commits at once, a clock that
 * tests move, and storage nodes that do what they are ordered (and can lose, spoil and forget chunks).
 * Messages pass through the real codecs.
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
import { type MetaMachine, openMachine } from '../../../../src/services/meta/machine.ts'
import type { AppliedReply, Replicator, ReplicatorStatus } from '../../../../src/services/meta/types.ts'
import type { holdfast } from '../../../../src/wire/messages.ts'
import { nodeMethods } from '../../../../src/wire/methods.ts'
import { ManualClock } from '../../../support/manual-clock.ts'
import { MemoryKvFactory } from '../../../support/memory-kv.ts'

type WithoutNow<C> = C extends unknown ? Omit<C, 'nowMs'> : never
type Message = holdfast.v1.NodeMessage.$Properties
type Order = holdfast.v1.MetaOrder

export const gib = 2 ** 30

export function hex(number: number): string {
  return number.toString(16).padStart(32, '0')
}

/** One end of a stream whose other end is a fake node. */
class ServerEnd {
  closed = false
  deliver: (message: holdfast.v1.NodeMessage) => void = () => undefined
  over: (error: StoreError | undefined) => void = () => undefined
  readonly #toNode: (order: Order) => void
  readonly #endNode: (error: StoreError | undefined) => void

  constructor(toNode: (order: Order) => void, endNode: (error: StoreError | undefined) => void) {
    this.#toNode = toNode
    this.#endNode = endNode
  }

  stream(): NodeStream {
    return {
      send: (message) => {
        const bytes = nodeMethods.attach.encodeReply(message)
        queueMicrotask(() => {
          if (!this.closed) this.#toNode(nodeMethods.attach.decodeReply(bytes))
        })
        return true
      },
      end: () => this.close(undefined),
      destroy: (error) => this.close(error),
      pause: () => undefined,
      resume: () => undefined,
      onMessage: (handler) => {
        this.deliver = handler
      },
      onDrain: () => undefined,
      onEnd: () => undefined,
      onClose: (handler) => {
        this.over = handler
      },
    }
  }

  receive(message: Message): void {
    const bytes = nodeMethods.attach.encodeRequest(message)
    queueMicrotask(() => {
      if (!this.closed) this.deliver(nodeMethods.attach.decodeRequest(bytes))
    })
  }

  close(error: StoreError | undefined): void {
    if (this.closed) return
    this.closed = true
    queueMicrotask(() => {
      this.over(error)
      this.#endNode(error)
    })
  }
}

/** A storage node with one disk. */
export class FakeNode {
  readonly id: string
  readonly zone: string
  readonly diskId: string
  /** Chunks on its disk, and whether their bytes are good. */
  readonly chunks = new Map<number, 'good' | 'bad'>()
  /** Orders it got, oldest first, in a short notation. */
  readonly orders: string[] = []
  readonly terms: number[] = []
  incarnation: string
  clusterId = ''
  termSeen = 0
  alive = false
  /** Orders are taken and never answered. */
  mute = false
  /** Stays attached and sends no heartbeats. */
  silent = false
  /** How long it takes to send a report. */
  reportDelayMs = 0
  disk = 0
  generation = 0
  ended: StoreError | undefined
  corrupt: { chunk: number; disk: number; finding: string }[] = []
  readonly #world: ControlWorld
  #end: ServerEnd | undefined
  #sequence = 0

  constructor(world: ControlWorld, number: number, zone: string) {
    this.#world = world
    this.id = `s${number}`
    this.zone = zone
    this.diskId = hex(0xd000 + number)
    this.incarnation = hex(number)
  }

  get attached(): boolean {
    return this.#end !== undefined
  }

  /** Starts the process (a new incarnation) and attaches. */
  restart(): void {
    this.incarnation = hex(Number.parseInt(this.incarnation, 16) + 0x100)
    this.attach()
  }

  attach(): void {
    this.alive = true
    const end = new ServerEnd(
      (order) => this.#order(order, end),
      (error) => {
        this.ended = error
        if (this.#end === end) this.#end = undefined
      },
    )
    this.#world.accept(end.stream())
    end.receive({
      register: {
        node: this.id,
        clusterId: this.clusterId,
        addresses: [`${this.id}:1`],
        zone: this.zone,
        incarnation: this.incarnation,
        disks: [this.#report()],
        termSeen: this.termSeen,
        versionMax: 1,
      },
    })
    this.#end = end
  }

  /** kill -9. */
  kill(): void {
    this.alive = false
    this.#end?.close(new StoreError('UNAVAILABLE', 'connection reset'))
    this.#end = undefined
  }

  /** The stream breaks, the process lives. */
  cut(): void {
    this.#end?.close(new StoreError('UNAVAILABLE', 'connection reset'))
    this.#end = undefined
  }

  #report(): holdfast.v1.DiskReport.$Properties {
    return {
      id: this.diskId,
      state: 'ok',
      capacityBytes: 100 * gib,
      usedBytes: gib,
      chunks: this.chunks.size,
      chunkIdMax: 0,
      clean: true,
      rebuilt: false,
    }
  }

  #beat(end: ServerEnd): void {
    if (this.#end !== end || end.closed || this.silent) return
    end.receive({ heartbeat: { sequence: ++this.#sequence, disks: [this.#report()], corrupt: this.corrupt } })
    this.#world.clock.after(500, () => this.#beat(end))
  }

  #order(order: Order, end: ServerEnd): void {
    if (order.beat) {
      this.corrupt = []
      return
    }
    if (order.registered) {
      this.disk = order.registered.disks[0]?.number ?? 0
      this.generation = order.registered.disks[0]?.generation ?? 0
      this.#beat(end)
      return
    }
    this.terms.push(order.term)
    this.#note(order)
    if (this.mute) return
    if (order.reportRange) {
      const { from, to } = order.reportRange
      const ids = [...this.chunks.keys()].filter((id) => id >= from && id < to).sort((a, b) => a - b)
      const send = (): void => end.receive({ report: { order: order.order, disk: this.disk, ids, until: to } })
      if (this.reportDelayMs > 0) this.#world.clock.after(this.reportDelayMs, send)
      else send()
      return
    }
    const { code, ids } = this.#carryOut(order)
    end.receive({ result: { order: order.order, code, message: code, generation: this.generation, ids, bytes: 0 } })
  }

  #note(order: Order): void {
    if (order.copy) this.orders.push(`copy ${order.copy.chunk}${order.copy.replace ? ' replace' : ''}`)
    else if (order.verify) this.orders.push(`verify ${order.verify.ids.join(' ')}`)
    else if (order.check) this.orders.push(`check ${order.check.ids.join(' ')}`)
    else if (order.delete) this.orders.push(`delete ${order.delete.ids.join(' ')}`)
    else if (order.reportRange) this.orders.push('report')
  }

  #carryOut(order: Order): { code: string; ids: number[] } {
    if (order.check) return { code: '', ids: order.check.ids.filter((id) => !this.chunks.has(id)) }
    if (order.verify) return { code: '', ids: order.verify.ids.filter((id) => this.chunks.get(id) !== 'good') }
    if (order.delete) {
      if (order.delete.generation !== this.generation) return { code: 'FENCED', ids: [] }
      for (const id of order.delete.ids) this.chunks.delete(id)
      return { code: '', ids: [] }
    }
    if (!order.copy) return { code: 'INTERNAL', ids: [] }
    const { chunk, replace, sources } = order.copy
    const from = this.#world.nodes.find((node) => node.id === sources[0]?.node)
    if (from === undefined || !from.alive || from.chunks.get(chunk) !== 'good') return { code: 'CORRUPT', ids: [] }
    if (this.chunks.get(chunk) === 'bad' && !replace) return { code: 'CONFLICT', ids: [] }
    this.chunks.set(chunk, 'good')
    this.#world.copied.push(chunk)
    return { code: '', ids: [] }
  }
}

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
      { replicator: this.#replicator(), queries: machine.queries },
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
  static async make(zones: readonly string[], config: Partial<MetaConfig> = {}): Promise<ControlWorld> {
    const files = new Map<string, Uint8Array>()
    const memoryFiles: Files = {
      read: async (name) => files.get(name),
      write: async (name, bytes) => void files.set(name, bytes),
      overwrite: async (name, bytes) => void files.set(name, bytes),
      remove: async (name) => void files.delete(name),
      list: async () => [...files.keys()],
    }
    const machine = await openMachine({ files: memoryFiles, kv: new MemoryKvFactory() })
    const world = new ControlWorld(machine, config)
    world.leads = true
    await world.propose({ kind: 'found', clusterId: hex(1), version: 1 })
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

  accept(stream: NodeStream): void {
    this.#acceptStream(stream)
  }

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
  raft: { tickMs: 50, heartbeatTicks: 2, electionTicks: 10 },
  repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 8, copiesPerNode: 4 },
  health: { heartbeatMs: 500, suspectMs: 3000, downMs: 10_000 },
  gcGraceMs: 60_000,
}
