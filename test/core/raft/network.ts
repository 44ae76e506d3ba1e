/**
 * A message network of Raft cores for tests: every node keeps its own durable log, messages are delivered in order
 * unless a rule drops them, and disks can be stalled. Deterministic: no clock, no randomness but the seeds.
 */

import { expect } from 'chai'
import type { Message } from '../../../src/core/raft/messages.ts'
import { decodeMessage, encodeMessage } from '../../../src/core/raft/messages.ts'
import { Raft } from '../../../src/core/raft/raft.ts'
import {
  type AppendTask,
  type ClusterConfig,
  defaultRaftLimits,
  type Entry,
  type HardState,
  type RaftLimits,
  type RaftOptions,
} from '../../../src/core/raft/types.ts'

export const configOf = (ids: readonly string[]): ClusterConfig => ({
  members: ids.map((id, i) => ({
    id,
    incarnation: String(i).padStart(32, '0'),
    addresses: [`${id}:1`],
    role: 'voter',
  })),
  outgoing: [],
})

/** Options of a node whose durable log is `entries` (terms only), after a base of index 0. */
export function optionsOf(
  id: string,
  ids: readonly string[],
  terms: readonly number[],
  hardState: HardState,
  limits: Partial<RaftLimits> = {},
): RaftOptions {
  const entries = terms.map((term, i): Entry => ({ index: i + 1, term, type: 'command', payload: new Uint8Array(1) }))
  return { ...restartOptions(id, ids, entries, hardState, 0), limits: { ...defaultRaftLimits, ...limits } }
}

function restartOptions(
  id: string,
  ids: readonly string[],
  entries: readonly Entry[],
  hardState: HardState,
  commit: number,
): RaftOptions {
  const config = { index: 0, config: configOf(ids) }
  const termRuns: { first: number; term: number }[] = []
  for (const entry of entries) {
    if (termRuns.at(-1)?.term !== entry.term) termRuns.push({ first: entry.index, term: entry.term })
  }
  return {
    id,
    electionTicks: 10,
    electionSpreadTicks: 10,
    heartbeatTicks: 2,
    leaseReads: false,
    clusterVersion: 2,
    limits: defaultRaftLimits,
    seed: id.split('').reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), 7),
    hardState,
    base: { index: 0, term: 0, config },
    termRuns,
    lastIndex: entries.length,
    configs: [],
    tail: entries,
    commit,
    applied: commit,
  }
}

export class TestNode {
  raft: Raft
  readonly id: string
  readonly ids: readonly string[]
  readonly limits: RaftLimits
  /** What survives a crash. */
  disk: { entries: Entry[]; hard: HardState }
  applied: Entry[] = []
  reads: { token: number; index: number }[] = []
  droppedReads: number[] = []
  snapshots: string[] = []
  /** While stalled, append tasks wait here. */
  stalled = false
  pending: AppendTask | undefined

  constructor(options: RaftOptions) {
    this.id = options.id
    this.ids = options.base.config.config.members.map((member) => member.id)
    this.limits = options.limits
    this.raft = new Raft(options)
    this.disk = { entries: [...options.tail], hard: options.hardState }
  }

  /** Carries out everything that is ready; returns the messages that leave. */
  work(): Message[] {
    const out: Message[] = []
    for (let ready = this.raft.ready(); ready !== undefined; ready = this.raft.ready()) {
      out.push(...ready.send)
      this.reads.push(...ready.reads)
      this.droppedReads.push(...ready.droppedReads)
      for (const { to } of ready.snapshots) this.snapshots.push(to)
      for (const fetch of ready.fetches) {
        this.raft.fetched(fetch.to, this.disk.entries.slice(fetch.first - 1, fetch.last))
      }
      if (ready.append !== undefined) {
        this.pending = ready.append
        if (!this.stalled || !ready.append.mustSync) out.push(...this.finishAppend())
      }
      if (ready.apply !== undefined) {
        this.applied.push(...this.disk.entries.slice(ready.apply.first - 1, ready.apply.last))
        this.raft.applyDone(ready.apply.last)
      }
    }
    return out
  }

  finishAppend(): Message[] {
    const task = this.pending
    if (task === undefined) return []
    this.pending = undefined
    if (task.truncateFrom !== undefined) this.disk.entries.length = task.truncateFrom - 1
    for (const entry of task.entries) {
      expect(entry.index, 'the disk log has no holes').to.equal(this.disk.entries.length + 1)
      this.disk.entries.push(entry)
    }
    if (task.hardState !== undefined) this.disk.hard = task.hardState
    this.raft.appendDone(task.seq)
    return [...task.sendAfter]
  }

  /** Loses what is not on disk. */
  crash(): void {
    this.pending = undefined
    const { entries, hard } = this.disk
    this.raft = new Raft({ ...restartOptions(this.id, this.ids, entries, hard, 0), limits: this.limits })
    this.applied = []
  }
}

export class TestNetwork {
  readonly nodes = new Map<string, TestNode>()
  queue: Message[] = []
  /** Messages that this returns true for are lost. */
  drops: (message: Message) => boolean = () => false

  constructor(nodes: readonly TestNode[]) {
    for (const node of nodes) this.nodes.set(node.id, node)
  }

  static of(ids: readonly string[], limits: Partial<RaftLimits> = {}): TestNetwork {
    return new TestNetwork(ids.map((id) => new TestNode(optionsOf(id, ids, [1], { term: 1, vote: '' }, limits))))
  }

  node(id: string): TestNode {
    const node = this.nodes.get(id)
    if (node === undefined) throw new Error(`no node ${id}`)
    return node
  }

  get leader(): TestNode | undefined {
    const leaders = [...this.nodes.values()].filter((node) => node.raft.view.role === 'leader')
    return leaders.toSorted((a, b) => b.raft.view.term - a.raft.view.term)[0]
  }

  /** Delivers until nothing moves. Every message passes its codec. */
  settle(): void {
    for (let round = 0; round < 10_000; round++) {
      for (const node of this.nodes.values()) this.queue.push(...node.work())
      const batch = this.queue
      this.queue = []
      if (batch.length === 0) return
      for (const message of batch) {
        if (this.drops(message)) continue
        this.nodes.get(message.to)?.raft.step(decodeMessage(encodeMessage(message), message.from, message.to))
      }
    }
    throw new Error('the network does not settle')
  }

  /** Ticks all nodes (or `ids`), settling after each tick. */
  tick(count: number, ids: readonly string[] = [...this.nodes.keys()]): void {
    for (let i = 0; i < count; i++) {
      for (const id of ids) this.node(id).raft.tick()
      this.settle()
    }
  }

  /** Ticks `id` until it campaigns and settles; it must win. */
  elect(id: string): TestNode {
    const node = this.node(id)
    // Others forget their leader first, as they would after its silence.
    for (const other of this.nodes.values()) if (other.id !== id && other.raft.view.role !== 'leader') this.quiet(other)
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
        expect(entry, `${node.id} applied ${i + 1}`).to.deep.equal(longest?.applied[i])
      }
    }
  }
}
