/**
 * One simulated meta node: the Raft core with its lanes, disk, state machine and waiting clients, its lives and deaths.
 *
 * It does with the core what `src/services/meta/raft-host.ts` does, without promises: whatever is stepped in, what the core
 * asks for is carried out before the next event.
 * Invariants: a frame is looked at only if its head fits (`standingOf` of the real transport); a node that met a write
 * error is dead until it is started again; one that lost acknowledged entries does not start at all.
 */

import { encodeConfig, type Message } from '../../core/raft/messages.ts'
import { Raft } from '../../core/raft/raft.ts'
import type { ClusterConfig, Entry, RaftOptions } from '../../core/raft/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Seeded } from '../seed.ts'
import { type Answers, Asked, type Request } from './asked.ts'
import { RaftDisk } from './disk.ts'
import { Installs, type Transfer } from './installs.ts'
import { Lanes } from './lanes.ts'
import type { Loop, Process, SimEvent } from './loop.ts'
import { type Answer, Machine, markImage } from './machine.ts'
import type { Frame, FrameHead } from './net.ts'
import type { Oracles } from './oracles.ts'
import type { RaftPlan } from './plan.ts'
import { bootStore, chainAfter, SimStore } from './store.ts'

/** What a node needs of its world. */
export interface NodeGround {
  readonly loop: Loop
  readonly plan: RaftPlan
  readonly oracles: Oracles
  readonly answers: Answers
  send(head: FrameHead, messages: readonly Message[]): void
  carry(transfer: Transfer): void
  answered(transfer: Transfer, installed: boolean): void
  /** The node has done what there was to do. */
  looked(node: SimNode, core: Raft): void
  /** The node cannot go on; it is down now. */
  died(node: SimNode, reason: string): void
}

/** One run in so many also checks the invariants of the core that cost time. */
const thoroughEvery = 16

interface Running {
  readonly core: Raft
  readonly store: SimStore
  readonly lanes: Lanes
  readonly installs: Installs
  readonly asked: Asked
}

/** `spare`: no member yet, or removed. `lost`: its disk must not be started from. */
export type NodeState = 'spare' | 'up' | 'down' | 'lost'

export class SimNode implements Process {
  readonly slot: number
  readonly id: NodeId
  readonly witness: boolean
  readonly #ground: NodeGround
  readonly #random: Seeded
  life = 0
  paused = false
  held: SimEvent[] = []
  state: NodeState = 'spare'
  incarnation = ''
  /** It came back under a name that is not its own: nobody talks to it. */
  deaf = false
  /** How fast its clock runs. */
  rate = 1
  disk: RaftDisk
  readonly machine: Machine
  #running: Running | undefined
  #outbox = new Map<NodeId, Message[]>()
  /** Its clock in ticks: what it showed at `#clockUs`. */
  #clockTicks = 0
  #clockUs = 0

  constructor(slot: number, id: NodeId, witness: boolean, random: Seeded, ground: NodeGround) {
    this.slot = slot
    this.id = id
    this.witness = witness
    this.#random = random
    this.#ground = ground
    this.machine = new Machine((command, index) => ground.oracles.effect(command, index))
    this.disk = this.#emptyDisk({ members: [], outgoing: [] }, 0)
  }

  get core(): Raft | undefined {
    return this.#running?.core
  }

  get store(): SimStore | undefined {
    return this.#running?.store
  }

  /** Runs, and is not standing still. */
  get active(): boolean {
    return this.state === 'up' && !this.paused
  }

  /** A directory as formation makes it: `config` is the first entry (`term` 1), or what a joining node was told (0). */
  #emptyDisk(config: ClusterConfig, term: number): RaftDisk {
    const base = { index: 0, term: 0, chain: 0, config: { index: 0, config } }
    const hard = { term, vote: '', commit: term, watermark: 0 }
    const image = { entries: new Map(), base, hard, install: undefined }
    const { loop, plan } = this.#ground
    const disk = new RaftDisk(loop, this, this.#random.fork('disk'), plan.disk, image, { term, vote: '' })
    if (term === 0) return disk
    const entry: Entry = { index: 1, term, type: 'config', payload: encodeConfig(config) }
    disk.image.entries.set(1, { entry, previous: 0, chain: chainAfter(0, entry), intact: true })
    return disk
  }

  /** A new directory; the node starts from it. */
  form(incarnation: string, config: ClusterConfig, joins: boolean): void {
    this.incarnation = incarnation
    this.disk = this.#emptyDisk(config, joins ? 0 : 1)
    this.machine.wipe()
    this.state = 'down'
    this.deaf = false
    if (!joins) this.#ground.oracles.founded(config)
  }

  /** Starts from what is on the disk, unless that must not be. */
  start(): void {
    const { plan, oracles, loop } = this.#ground
    if (this.state !== 'down') return
    const durable = this.witness ? undefined : this.machine.durableIndex
    const boot = bootStore(this.disk, durable, plan.limits.cacheBytes)
    if ('refused' in boot) {
      this.state = 'lost'
      return
    }
    this.state = 'up'
    const { id, incarnation } = this
    if (this.witness) this.machine.install(markImage({ ...this.machine.image(), index: boot.start.applied }))
    const core = new Raft({ ...this.#options(), ...boot.start, id, incarnation, seed: this.#random.u32() })
    this.#running = this.#run(core, new SimStore(this.disk))
    oracles.started(this, core.view)
    this.#syncClock()
    if (core.config.config.members.length === 1) core.campaign()
    loop.after(plan.tickUs * this.#random.unit(), 'tick', this, () => this.#tick())
    this.pump()
  }

  #options(): Omit<
    RaftOptions,
    'id' | 'seed' | 'hardState' | 'base' | 'termRuns' | 'lastIndex' | 'configs' | 'tail' | 'commit' | 'applied'
  > {
    const { electionTicks, electionSpreadTicks, heartbeatTicks, leaseReads, clusterVersion, limits, seed } =
      this.#ground.plan
    const times = { electionTicks, electionSpreadTicks, heartbeatTicks }
    return { ...times, leaseReads, clusterVersion, limits, paranoid: seed % thoroughEvery === 0 }
  }

  #run(core: Raft, store: SimStore): Running {
    const { loop, plan, answers, oracles } = this.#ground
    const asked = new Asked(this, core, this.machine, answers, oracles)
    const shared = { loop, owner: this, plan, core, store, machine: this.machine, limits: plan.limits }
    const pump = (): void => this.pump()
    const fatal = (reason: string): void => this.#ground.died(this, reason)
    const lanes: Lanes = new Lanes({
      ...shared,
      witness: this.witness,
      installing: () => installs.installing,
      queue: (messages) => this.#queue(messages),
      appending: (task) => this.#appending(store, task.truncateFrom, task.entries),
      applied: (entry, answer) => this.#applied(asked, entry, answer),
      pump,
      fatal,
    })
    const installs = new Installs({
      ...shared,
      node: this,
      onMachine: (use) => lanes.onMachine(use),
      carry: (transfer) => this.#ground.carry(transfer),
      answered: (transfer, installed) => this.#ground.answered(transfer, installed),
      installed: (mark) => {
        if (!this.witness) oracles.stateIs(this, mark.index, this.machine.hash)
      },
      pump,
      fatal,
    })
    return { core, store, lanes, installs, asked }
  }

  #appending(store: SimStore, truncateFrom: number | undefined, entries: readonly Entry[]): void {
    const first = entries[0]
    if (first === undefined) return
    const previous = first.index - 1
    const { image } = this.disk
    const prevTerm = previous === image.base.index ? image.base.term : image.entries.get(previous)?.entry.term
    const { oracles } = this.#ground
    if (prevTerm === undefined || (truncateFrom === undefined && previous !== store.lastIndex)) {
      return oracles.fail(`${this.id} appends entry ${first.index} behind ${store.lastIndex}`)
    }
    oracles.appended(this, entries, prevTerm)
  }

  #applied(asked: Asked, entry: Entry, answer: Answer | undefined): void {
    this.#ground.oracles.applied(this, entry, this.witness ? undefined : this.machine.hash)
    asked.applied(entry, answer)
  }

  #tick(): void {
    const { loop, plan } = this.#ground
    loop.after(plan.tickUs / this.rate, 'tick', this, () => this.#tick())
    this.jump(1)
  }

  /** So many ticks pass at once. */
  jump(ticks: number): void {
    const running = this.#running
    if (running === undefined) return
    for (let i = 0; i < ticks; i++) running.core.tick()
    running.lanes.tick()
    this.pump()
  }

  /** From now on its clock runs at `rate`. */
  setRate(rate: number): void {
    this.#syncClock()
    this.rate = rate
  }

  #syncClock(): void {
    const { loop, plan } = this.#ground
    this.#clockTicks += ((loop.nowUs - this.#clockUs) / plan.tickUs) * this.rate
    this.#clockUs = loop.nowUs
  }

  /** Uses the core, then carries out what it asks for; nothing when the node is down. */
  use(step: (core: Raft) => void): void {
    const core = this.#running?.core
    if (core === undefined) return
    if (this.#ground.plan.leaseReads) {
      this.#syncClock()
      core.clock(this.#clockTicks)
    }
    step(core)
    this.pump()
  }

  /** A frame has arrived; its head is looked at first, as the transport does. */
  receive(frame: Frame): void {
    const { core } = this
    if (core === undefined || this.deaf) return
    const heard = this.#listensTo(core, frame)
    if (!heard && !this.#ground.plan.oldAnswers) return
    this.use((raft) => {
      for (const message of frame.messages) if (heard || message.kind === 'appendReply') raft.step(message)
    })
  }

  /** The rule of `standingOf`: a member's name under another incarnation is refused, unless the sender knows more. */
  #listensTo(core: Raft, head: FrameHead): boolean {
    const { config, index } = core.config
    const expected = config.members.find((member) => member.id === head.from)?.incarnation
    return expected === undefined || expected === head.incarnation || head.configIndex > index
  }

  /** The first piece of a snapshot has arrived; gives what takes the last one, undefined when it is refused. */
  offered(transfer: Transfer): ((whole: boolean) => void) | undefined {
    const running = this.#running
    if (running === undefined || this.deaf || !this.#listensTo(running.core, transfer.head)) return undefined
    return running.installs.begin(transfer)
  }

  ask(request: Request): void {
    const { core } = this
    if (core !== undefined && this.witness) {
      this.#ground.answers.told(this.id, request.id, { kind: 'refused', leader: core.view.leader })
      return
    }
    this.#running?.asked.ask(request, (step) => this.use(step))
  }

  compactNow(): void {
    this.#running?.lanes.compact(true)
  }

  pump(): void {
    const running = this.#running
    if (running === undefined) return
    const { core, lanes, installs, asked } = running
    for (let ready = core.ready(); ready !== undefined; ready = core.ready()) {
      this.#queue(ready.send)
      asked.carryOut(ready)
      lanes.carryOut(ready)
      for (const { to, term } of ready.snapshots) installs.send(to, term)
      if (this.#running !== running) return
    }
    asked.noticeRole()
    this.#flush(core)
    this.#ground.looked(this, core)
  }

  #queue(messages: readonly Message[]): void {
    for (const message of messages) {
      this.#ground.oracles.sends(this, message)
      const queued = this.#outbox.get(message.to)
      if (queued === undefined) this.#outbox.set(message.to, [message])
      else queued.push(message)
    }
  }

  #flush(core: Raft): void {
    if (this.#outbox.size === 0) return
    const outbox = this.#outbox
    this.#outbox = new Map()
    const { index } = core.config
    for (const [to, messages] of outbox) {
      this.#ground.send({ from: this.id, incarnation: this.incarnation, configIndex: index, to }, messages)
    }
  }

  /** Ends the process; `power`: with what was not synced. */
  crash(power: boolean): void {
    if (this.state !== 'up') return
    this.#end()
    this.disk.crash(power)
    this.machine.crash(power)
    this.state = 'down'
  }

  #end(): void {
    this.life++
    this.held = []
    this.paused = false
    this.#running?.asked.end()
    this.#running = undefined
    this.#outbox.clear()
  }

  /** Taken out of service for good, until it is formed again. */
  retire(): void {
    if (this.state === 'up') this.#end()
    this.state = 'spare'
  }
}
