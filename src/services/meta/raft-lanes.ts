/**
 * The lanes that carry out what the Raft core asks for: one append task at a time (what comes meanwhile gathers for the
 * next: group commit), one user of the state machine at a time, reads of old entries, compaction, the idle watermark.
 *
 * Invariants: the hard-state slot is synced before the log's batch and before `appendDone`, a batch with entries before
 * `appendDone`; entries are applied in order, each once; a failed write is fatal and nothing is written after it.
 */

import { emptyBytes } from '../../base/bytes.ts'
import { StoreError } from '../../model/errors.ts'
import type { Env } from '../../ports/env.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { AppendTask, ApplyTask, Entry, FetchTask, RaftLimits, Ready } from '../../core/raft/types.ts'
import type { HardStateSlots } from './hard-state.ts'
import type { RaftLog } from './log-types.ts'
import { checkpointEnd, checkpointEntries } from './raft-digests.ts'
import type { Transport } from './transport.ts'
import type { AppliedEntry, AppliedReply, StateMachine } from './types.ts'

/** Ticks without an append after which the closing watermark is written. */
const idleTicks = 10

/** How many times its usual entries and bytes the log may hold for a member that is being sent a snapshot. */
const snapshotEntries = 64
const snapshotBytes = 16

/** What the lanes need of the replicator. */
export interface LaneHost {
  readonly env: Env
  readonly machine: StateMachine
  readonly core: Raft
  readonly store: RaftLog
  readonly slots: HardStateSlots
  readonly transport: Transport
  readonly limits: RaftLimits
  readonly tickMs: number
  /** True while a snapshot is being installed: nothing is compacted then. */
  installing(): boolean
  /** Last entry that members who were sent a snapshot have; what follows it they still need. */
  snapshotsReached(): number
  /** The state is that of checkpoint `index`, with this digest. */
  checkpoint(index: number, digest: number): void
  /** Called after every applied group, in order. */
  applied(entries: readonly AppliedEntry[], results: readonly AppliedReply[]): void
  /** Uses the core, then carries out what it asks for. */
  use(step: (core: Raft) => void): void
  /** Carries out now what the core asks for. */
  pump(): void
  /** True when the node cannot go on. */
  failed(): boolean
  fatal(error: unknown): void
}

export class Lanes {
  readonly #host: LaneHost
  /** What is under way, to be waited for at stop. */
  readonly #tasks = new Set<Promise<void>>()
  #machineQueue: Promise<void> = Promise.resolve()
  #compacting = false
  #idleTicks = 0

  constructor(host: LaneHost) {
    this.#host = host
  }

  /** Starts the append, apply and fetch tasks of `ready`. */
  carryOut({ append, apply, fetches }: Ready): void {
    if (append !== undefined) this.#append(append)
    if (apply !== undefined) this.run(() => this.onMachine(() => this.#apply(apply)))
    for (const fetch of fetches) this.run(() => this.#fetch(fetch))
  }

  /** Starts a task whose failure is fatal, and remembers it for stop. */
  run(task: () => Promise<void>): void {
    const run: Promise<void> = task()
      .catch((error: unknown) => this.#host.fatal(error))
      .finally(() => this.#tasks.delete(run))
    this.#tasks.add(run)
  }

  /** Runs `task` when nobody else uses the state machine. */
  onMachine(task: () => Promise<void>): Promise<void> {
    const run = this.#machineQueue.then(task)
    this.#machineQueue = run.catch(() => undefined)
    return run
  }

  /** Resolves when any lane has made progress, or after a tick: for loops that look again. */
  progress(): Promise<void> {
    const tick = new Promise<void>((resolve) => {
      this.#host.env.clock.after(this.#host.tickMs, resolve)
    })
    return Promise.race([...this.#tasks, tick])
  }

  /** Resolves when everything under way has ended, and the watermark covers the whole log. */
  async drain(): Promise<void> {
    await Promise.all(this.#tasks)
    await this.#machineQueue
    if (!this.#host.failed() && this.#host.store.watermarkBehind) await this.#closeWatermark()
  }

  #append(task: AppendTask): void {
    this.#idleTicks = 0
    if (!task.mustSync) {
      this.#appended(task)
      return
    }
    this.run(async () => {
      const { slots, store } = this.#host
      const { hardState, entries, truncateFrom, commit } = task
      // The slot first: when the two copies differ after a crash, the newer vote must be the one that was acted upon.
      if (hardState !== undefined) await slots.save(hardState)
      const voteAlone = entries.length === 0 && truncateFrom === undefined && hardState !== undefined
      // The slot alone makes a vote durable: an election need not wait for the second copy.
      const written = voteAlone ? store.note(hardState, commit) : store.append(truncateFrom, entries, hardState, commit)
      if (!voteAlone) await written
      if (!this.#host.failed()) {
        this.#appended(task)
        this.#host.pump()
      }
      await written
    })
  }

  #appended(task: AppendTask): void {
    this.#host.core.appendDone(task.seq)
    this.#host.transport.queue(task.sendAfter)
  }

  async #apply(task: ApplyTask): Promise<void> {
    const { core, store, machine, limits } = this.#host
    // A snapshot that was installed meanwhile covers these entries.
    if (core.view.applied >= task.last || this.#host.failed()) return
    let next = task.first
    while (next <= task.last) {
      // Groups end at checkpoints, where the digest of the state is looked at.
      const end = checkpointEnd(next, task.last)
      const group = task.entries?.slice(next - task.first, end + 1 - task.first)
      const entries = (group ?? (await store.read(next, end, limits.applyBytes))).map(toApplied)
      const last = entries.at(-1)?.index
      if (last === undefined) throw new StoreError('DATA_LOST', `apply: entry ${next} is not in the raft log`)
      const results = await machine.apply(entries)
      next = last + 1
      if (this.#host.failed()) return
      if (last % checkpointEntries === 0) this.#host.checkpoint(last, machine.digest())
      if (next > task.last) core.applyDone(task.last)
      this.#host.applied(entries, results)
    }
    this.#compactIfLarge()
    this.#host.pump()
  }

  async #fetch(task: FetchTask): Promise<void> {
    const { store } = this.#host
    let entries: Entry[] = []
    try {
      entries = await store.read(task.first, task.last, task.bytes)
    } catch (error) {
      // Compacted away meanwhile: the core will send a snapshot instead.
      if (task.first > store.baseIndex) throw error
    }
    if (task.first <= store.baseIndex) entries = []
    this.#host.use((raft) => raft.fetched(task.to, entries))
  }

  /** Drops the prefix that is applied, when there is a lot of it; keeps a margin, and what slow followers still need. */
  #compactIfLarge(): void {
    const { core, store, limits, machine } = this.#host
    const { compactEntries, compactBytes, trailingEntries } = limits
    // What the state would have to replay after a crash stays.
    const applied = Math.min(core.view.applied, machine.durableIndex())
    const kept = applied - core.log.baseIndex
    const over = Math.max(kept / compactEntries, store.bytes / compactBytes)
    if (this.#compacting || this.#host.installing() || over <= 1) return
    let target = applied - Math.min(trailingEntries, Math.floor(kept / 4))
    // A follower that is merely slow is spared the snapshot, up to four times the size.
    if (over <= 4) target = Math.min(target, core.slowestMatch())
    // One that is sent a snapshot needs what comes meanwhile, or would never be done: kept as long as disks bear it.
    const borne = kept <= compactEntries * snapshotEntries && store.bytes <= compactBytes * snapshotBytes
    if (borne) target = Math.min(target, this.#host.snapshotsReached())
    const term = core.log.term(target)
    if (target <= core.log.baseIndex || term === undefined) return
    this.#compacting = true
    const config = core.log.configAt(target)
    core.compacted(target)
    this.run(async () => {
      await store.compact(target, term, config)
      this.#compacting = false
    })
  }

  /** When nothing was appended for a while, the watermark catches up with the log, so that its end is covered too. */
  tick(): void {
    // The state may have become durable since the last group.
    this.#compactIfLarge()
    if (!this.#host.store.watermarkBehind || ++this.#idleTicks < idleTicks) return
    this.#idleTicks = 0
    this.run(() => this.#closeWatermark())
  }

  #closeWatermark(): Promise<void> {
    const { core, store } = this.#host
    return store.closeWatermark(Math.min(core.view.commit, store.lastIndex))
  }
}

function toApplied(entry: Entry): AppliedEntry {
  const { index, term } = entry
  return { index, term, payload: entry.type === 'command' ? entry.payload : emptyBytes }
}
