/**
 * A message network of Raft cores for tests: every node keeps its own durable log, messages are delivered in order
 * unless a rule drops them, and disks can be stalled. Deterministic: no clock, no randomness but the seeds.
 */

import { expect } from 'chai'
import type { Message } from '../../../src/core/raft/messages.ts'
import { decodeConfig, decodeMessage, encodeMessage, type SnapshotOffer } from '../../../src/core/raft/messages.ts'
import { receiptOf } from '../../../src/core/raft/receipts.ts'
import { Raft } from '../../../src/core/raft/raft.ts'
import {
  type AppendTask,
  type ClusterConfig,
  defaultRaftLimits,
  type Entry,
  type HardState,
  type RaftLimits,
  type Member,
  type MemberChange,
  type MemberRole,
  type RaftOptions,
  type SnapshotMark,
} from '../../../src/core/raft/types.ts'

/** A member of the tests; `life` tells the directories of one id apart. */
export function memberOf(id: string, role: MemberRole = 'voter', life = 0): Member {
  const incarnation = `${id.charCodeAt(0).toString(16)}${life}`.padStart(32, '0')
  return { id, incarnation, addresses: [`${id}:1`], role }
}

/** Members named `id` (a voter) or `id:role`. */
export const configOf = (ids: readonly string[], outgoing: readonly string[] = []): ClusterConfig => ({
  members: ids.map((text) => {
    const [id = '', role = 'voter'] = text.split(':')
    return memberOf(id, role as MemberRole)
  }),
  outgoing,
})

/** What a node of a test is started with beyond its log. */
export interface NodeExtras {
  readonly limits?: Partial<RaftLimits>
  readonly leaseReads?: boolean
  readonly clusterVersion?: number
}

/** What survives a crash. */
export interface Disk {
  base: SnapshotMark
  entries: Entry[]
  hard: HardState
}

export function baseOf(config: ClusterConfig): SnapshotMark {
  return { index: 0, term: 0, config: { index: 0, config } }
}

/** Options of a node whose durable log is `terms` (commands of one byte), after a base of index 0. */
export function optionsOf(
  id: string,
  members: readonly string[] | ClusterConfig,
  terms: readonly number[],
  hard: HardState,
  limits: Partial<RaftLimits> = {},
): RaftOptions {
  const entries = terms.map((term, i): Entry => ({ index: i + 1, term, type: 'command', payload: new Uint8Array(1) }))
  const config = 'outgoing' in members ? members : configOf(members)
  return startOptions(id, { base: baseOf(config), entries, hard }, { limits }, 0)
}

/** `life` counts the starts of a node: each has another seed. */
function startOptions(id: string, disk: Disk, extras: NodeExtras, life: number): RaftOptions {
  const { base, entries, hard } = disk
  const termRuns: { first: number; term: number }[] = []
  for (const entry of entries) {
    if (termRuns.at(-1)?.term !== entry.term) termRuns.push({ first: entry.index, term: entry.term })
  }
  const configs = entries.filter((entry) => entry.type === 'config')
  return {
    id,
    electionTicks: 10,
    electionSpreadTicks: 10,
    heartbeatTicks: 2,
    leaseReads: extras.leaseReads ?? false,
    clusterVersion: extras.clusterVersion ?? 2,
    limits: { ...defaultRaftLimits, ...extras.limits },
    seed: id.split('').reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), 7) + life * 1000,
    paranoid: true,
    hardState: hard,
    base,
    termRuns,
    lastIndex: base.index + entries.length,
    configs: configs.map(({ index, payload }) => ({ index, config: decodeConfig(payload) })),
    tail: entries,
    commit: base.index,
    applied: base.index,
  }
}

export class TestNode {
  raft: Raft
  readonly id: string
  readonly extras: NodeExtras
  disk: Disk
  /** The state machine: every entry up to the applied one. */
  applied: Entry[] = []
  reads: { token: number; index: number }[] = []
  droppedReads: number[] = []
  /** Members that a snapshot was asked for. */
  snapshots: string[] = []
  /** While stalled, append tasks wait here. */
  stalled = false
  pending: AppendTask | undefined
  #lives = 0

  constructor(options: RaftOptions) {
    this.id = options.id
    const { limits, leaseReads, clusterVersion } = options
    this.extras = { limits, leaseReads, clusterVersion }
    this.raft = new Raft(options)
    this.disk = { base: options.base, entries: [...options.tail], hard: options.hardState }
  }

  /** Entries `first..last` of the disk. */
  read(first: number, last: number): Entry[] {
    const { base, entries } = this.disk
    return entries.slice(first - base.index - 1, last - base.index)
  }

  /** Carries out everything that is ready; returns the messages that leave. */
  work(): Message[] {
    const out: Message[] = []
    for (let ready = this.raft.ready(); ready !== undefined; ready = this.raft.ready()) {
      out.push(...ready.send)
      this.reads.push(...ready.reads)
      this.droppedReads.push(...ready.droppedReads)
      for (const { to } of ready.snapshots) this.snapshots.push(to)
      for (const fetch of ready.fetches) this.raft.fetched(fetch.to, this.read(fetch.first, fetch.last))
      if (ready.append !== undefined) {
        this.pending = ready.append
        if (!this.stalled || !ready.append.mustSync) out.push(...this.finishAppend())
      }
      if (ready.apply !== undefined) {
        this.applied.push(...this.read(ready.apply.first, ready.apply.last))
        this.raft.applyDone(ready.apply.last)
      }
    }
    return out
  }

  finishAppend(): Message[] {
    const task = this.pending
    if (task === undefined) return []
    this.pending = undefined
    const { base, entries } = this.disk
    if (task.truncateFrom !== undefined) entries.length = task.truncateFrom - base.index - 1
    for (const entry of task.entries) {
      expect(entry.index, 'the disk log has no holes').to.equal(base.index + entries.length + 1)
      entries.push(entry)
    }
    if (task.hardState !== undefined) this.disk.hard = task.hardState
    this.raft.appendDone(task.seq)
    return [...task.sendAfter]
  }

  /** Loses what is not on disk. */
  crash(): void {
    this.pending = undefined
    this.raft = new Raft(startOptions(this.id, this.disk, this.extras, ++this.#lives))
    this.applied = this.applied.slice(0, this.disk.base.index)
  }

  /** Drops the log up to `index`, which is applied. */
  compact(index: number): void {
    const mark = this.#markAt(index)
    this.disk = { ...this.disk, base: mark, entries: this.read(index + 1, Number.POSITIVE_INFINITY) }
    this.raft.compacted(index)
  }

  #markAt(index: number): SnapshotMark {
    return { index, term: this.raft.log.term(index) as number, config: this.raft.log.configAt(index) }
  }

  /** Gives `to` a snapshot of the own state, as the host would. */
  sendSnapshot(to: TestNode): void {
    const { index, term, config } = this.#markAt(this.raft.view.applied)
    const offer: SnapshotOffer = {
      kind: 'snapshot',
      from: this.id,
      to: to.id,
      term: this.raft.view.term,
      session: this.raft.sessionOf(to.id),
      index,
      indexTerm: term,
      configIndex: config.index,
      config: config.config,
    }
    this.raft.snapshotSent(to.id, to.install(offer, this.applied), index)
  }

  /** Puts a snapshot in place; false when it is not wanted. */
  install(offer: SnapshotOffer, state: readonly Entry[]): boolean {
    const { index, indexTerm: term, configIndex, config } = offer
    const mark = { index, term, config: { index: configIndex, config } }
    if (!this.raft.offerSnapshot(offer) || this.raft.hasUnsaved || !this.raft.hold(true)) {
      this.raft.hold(false)
      return false
    }
    const entries = this.raft.keepsSuffix(mark) ? this.read(index + 1, Number.POSITIVE_INFINITY) : []
    this.disk = { ...this.disk, base: mark, entries }
    this.applied = state.slice(0, index)
    this.raft.snapshotInstalled(mark, offer)
    this.raft.hold(false)
    return true
  }
}

export class TestNetwork {
  readonly nodes = new Map<string, TestNode>()
  queue: Message[] = []
  /** Messages that this returns true for are lost. */
  drops: (message: Message) => boolean = () => false
  /** Nodes that do not run. */
  readonly down = new Set<string>()

  constructor(nodes: readonly TestNode[]) {
    for (const node of nodes) this.nodes.set(node.id, node)
  }

  /** Nodes with one committed-looking entry of term 1; members named `id` or `id:role`. */
  static of(ids: readonly string[], limits: Partial<RaftLimits> = {}, extras: NodeExtras = {}): TestNetwork {
    const config = configOf(ids)
    const entry: Entry = { index: 1, term: 1, type: 'command', payload: new Uint8Array(1) }
    const all = { ...extras, limits }
    const disk = (): Disk => ({ base: baseOf(config), entries: [entry], hard: { term: 1, vote: '' } })
    return new TestNetwork(config.members.map(({ id }) => new TestNode(startOptions(id, disk(), all, 0))))
  }

  /** A new, empty node; `config` is what it was told of the cluster. */
  join(id: string, config: ClusterConfig, extras: NodeExtras = {}): TestNode {
    const disk = { base: baseOf(config), entries: [], hard: { term: 0, vote: '' } }
    const node = new TestNode(startOptions(id, disk, extras, 0))
    this.nodes.set(id, node)
    return node
  }

  node(id: string): TestNode {
    const node = this.nodes.get(id)
    if (node === undefined) throw new Error(`no node ${id}`)
    return node
  }

  get leader(): TestNode | undefined {
    const leaders = [...this.nodes.values()].filter(
      (node) => node.raft.view.role === 'leader' && !this.down.has(node.id),
    )
    return leaders.toSorted((a, b) => b.raft.view.term - a.raft.view.term)[0]
  }

  /** Delivers until nothing moves. Every message passes its codec. */
  settle(): void {
    for (let round = 0; round < 10_000; round++) {
      for (const node of this.nodes.values()) if (!this.down.has(node.id)) this.queue.push(...node.work())
      const batch = this.queue
      this.queue = []
      if (batch.length === 0) return
      for (const message of batch) {
        if (this.drops(message) || this.down.has(message.to)) continue
        this.nodes.get(message.to)?.raft.step(decodeMessage(encodeMessage(message), message.from, message.to))
      }
    }
    throw new Error('the network does not settle')
  }

  /** Ticks all nodes (or `ids`), settling after each tick. */
  tick(count: number, ids: readonly string[] = [...this.nodes.keys()]): void {
    for (let i = 0; i < count; i++) {
      for (const id of ids) if (!this.down.has(id)) this.node(id).raft.tick()
      this.settle()
    }
  }

  /** Stops a node as power loss does. */
  kill(...ids: string[]): void {
    for (const id of ids) this.down.add(id)
  }

  /** Starts a node again, with what its disk holds. */
  restart(...ids: string[]): void {
    for (const id of ids) {
      this.down.delete(id)
      this.node(id).crash()
    }
  }

  /** Starts a change at the leader, which must accept it. */
  change(wanted: MemberChange, id: string = this.leader?.id ?? ''): number {
    const result = this.node(id).raft.change(wanted)
    expect(result, `${wanted.kind} at ${id}`).to.include({ ok: true })
    return result.ok ? result.index : 0
  }

  /** Ticks `id` until it campaigns and settles; it must win. */
  elect(id: string): TestNode {
    const node = this.node(id)
    // Others forget their leader first, as they would after its silence.
    for (const other of this.nodes.values()) {
      if (other.id !== id && other.raft.view.role !== 'leader' && !this.down.has(other.id)) this.quiet(other)
    }
    for (let i = 0; i < 25 && node.raft.view.role !== 'leader'; i++) this.tick(1, [id])
    expect(node.raft.view.role, `${id} is elected`).to.equal('leader')
    return node
  }

  /** Lets a follower's lease on its leader run out without letting it campaign. */
  quiet(node: TestNode): void {
    for (let i = 0; i < 10; i++) {
      node.raft.tick()
      if (node.raft.view.role !== 'follower') break
    }
  }

  isolate(...ids: string[]): void {
    this.drops = (message) => ids.includes(message.from) !== ids.includes(message.to)
  }

  /** Only these directed pairs are cut. */
  cut(pairs: readonly (readonly [string, string])[]): void {
    this.drops = (message) => pairs.some(([from, to]) => message.from === from && message.to === to)
  }

  heal(): void {
    this.drops = () => false
  }

  propose(id: string, text: string): number {
    const result = this.node(id).raft.propose(new TextEncoder().encode(text))
    if (!result.ok) throw new Error(`propose at ${id}: ${result.reason}`)
    return result.index
  }

  /** All logs and applied prefixes agree. */
  checkAgreement(): void {
    const longest = [...this.nodes.values()].toSorted((a, b) => b.applied.length - a.applied.length)[0]
    for (const node of this.nodes.values()) {
      for (const [i, entry] of node.applied.entries()) {
        const other = longest?.applied[i] as Entry
        const want = entry.type === 'receipt' ? receiptOf(other) : other
        expect(entry, `${node.id} applied ${i + 1}`).to.deep.equal(other.type === 'receipt' ? other : want)
      }
    }
  }
}
