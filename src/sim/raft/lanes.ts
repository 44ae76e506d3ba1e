/**
 * The lanes of a simulated node: what `src/services/meta/raft-lanes.ts` does with a Ready, in the same order and without
 * promises. The slot before the batch, the batch before `appendDone`, `sendAfter` after that; one append and one user of
 * the state machine at a time; only what is committed and durable is applied; the log is compacted below what the state
 * has on disk. One courtesy is left out on purpose: the log is not kept for members that are being sent a snapshot, so that
 * they meet a log that is compacted again.
 */

import type { Raft } from '../../core/raft/raft.ts'
import type { Message } from '../../core/raft/messages.ts'
import type { AppendTask, ApplyTask, Entry, FetchTask, RaftLimits, Ready } from '../../core/raft/types.ts'
import type { Answer, Machine } from './machine.ts'
import type { Loop, Process } from './loop.ts'
import type { RaftPlan } from './plan.ts'
import type { SimStore } from './store.ts'

/** Ticks without an append after which the closing watermark is written. */
const idleTicks = 10

/** What the lanes need of their node. */
export interface LaneHost {
  readonly loop: Loop
  readonly owner: Process
  readonly plan: RaftPlan
  readonly core: Raft
  readonly store: SimStore
  readonly machine: Machine
  readonly limits: RaftLimits
  /** It has no state, so its log is all there is to keep. */
  readonly witness: boolean
  installing(): boolean
  /** Messages that may leave now. */
  queue(messages: readonly Message[]): void
  /** The task is about to be written. */
  appending(task: AppendTask): void
  applied(entry: Entry, answer: Answer | undefined): void
  pump(): void
  fatal(reason: string): void
}

export class Lanes {
  readonly #host: LaneHost
  readonly #users: ((release: () => void) => void)[] = []
  #used = false
  #compacting = false
  #idleTicks = 0
  #flushing = false

  constructor(host: LaneHost) {
    this.#host = host
  }

  carryOut({ append, apply, fetches }: Ready): void {
    if (append !== undefined) this.#append(append)
    if (apply !== undefined) this.onMachine((release) => this.#apply(apply, apply.first, release))
    for (const fetch of fetches) this.#fetch(fetch)
  }

  /** Runs `use` when nobody else uses the state machine; it calls `release` when it is done. */
  onMachine(use: (release: () => void) => void): void {
    this.#users.push(use)
    this.#nextUser()
  }

  #nextUser(): void {
    if (this.#used) return
    const use = this.#users.shift()
    if (use === undefined) return
    this.#used = true
    use(() => {
      this.#used = false
      this.#nextUser()
    })
  }

  #append(task: AppendTask): void {
    this.#idleTicks = 0
    if (!task.mustSync) {
      this.#appended(task)
      return
    }
    const { store, appending } = this.#host
    const { hardState, entries, truncateFrom } = task
    appending(task)
    if (hardState === undefined) {
      this.#write(task)
      return
    }
    const voteAlone = entries.length === 0 && truncateFrom === undefined
    store.saveSlot(hardState, (worked) => {
      if (!worked) {
        this.#host.fatal('the hard state could not be written')
        return
      }
      if (!voteAlone) {
        this.#write(task)
        return
      }
      // The slot alone makes a vote durable; its second copy follows.
      store.note(hardState, task.commit, (noted) => {
        if (!noted) this.#host.fatal('the log could not be written')
      })
      this.#appended(task)
      this.#host.pump()
    })
  }

  #write(task: AppendTask): void {
    this.#host.store.append(task.truncateFrom, task.entries, task.hardState, task.commit, (worked) => {
      if (!worked) {
        this.#host.fatal('the log could not be written')
        return
      }
      this.#appended(task)
      this.#host.pump()
    })
  }

  #appended(task: AppendTask): void {
    this.#host.core.appendDone(task.seq)
    this.#host.queue(task.sendAfter)
  }

  /** Applies from `next` on, one group after the other. */
  #apply(task: ApplyTask, next: number, release: () => void): void {
    const { core, store, machine, limits, loop, owner, plan } = this.#host
    if (core.view.applied >= task.last) {
      release()
      return
    }
    const group = task.entries ?? store.read(next, task.last, limits.applyBytes)
    const last = group?.at(-1)?.index
    if (group === undefined || last === undefined) {
      this.#host.fatal(`entry ${next} cannot be read`)
      return
    }
    loop.after(plan.machine.applyUs, 'apply', owner, () => {
      for (const entry of group) {
        const answer = machine.apply(entry)
        this.#host.applied(entry, answer)
      }
      this.#flushLater()
      if (last < task.last) {
        this.#apply(task, last + 1, release)
        return
      }
      core.applyDone(task.last)
      this.compact(false)
      release()
      this.#host.pump()
    })
  }

  /** The state follows the log onto the disk. */
  #flushLater(): void {
    if (this.#flushing) return
    this.#flushing = true
    const { loop, owner, plan, machine } = this.#host
    loop.after(plan.machine.flushUs, 'flush', owner, () => {
      const image = machine.image()
      loop.after(plan.disk.syncUs, 'flush', owner, () => {
        this.#flushing = false
        machine.synced(image)
        if (machine.index > machine.durableIndex) this.#flushLater()
      })
    })
  }

  #fetch(task: FetchTask): void {
    const { loop, owner, store, core } = this.#host
    loop.after(this.#host.plan.disk.writeUs, 'fetch', owner, () => {
      const entries = task.first <= store.baseIndex ? [] : store.read(task.first, task.last, task.bytes)
      if (entries === undefined) {
        this.#host.fatal(`entry ${task.first} is damaged`)
        return
      }
      core.fetched(task.to, entries)
      this.#host.pump()
    })
  }

  /** Drops the prefix that the state has on disk; `forced`: however short it is, and whoever still needs it. */
  compact(forced: boolean): void {
    const { core, store, limits, machine, witness } = this.#host
    const { compactEntries, compactBytes, trailingEntries } = limits
    const { applied } = core.view
    const settled = witness ? applied : Math.min(applied, machine.durableIndex)
    const kept = settled - core.log.baseIndex
    const over = Math.max(kept / compactEntries, store.bytes / compactBytes)
    if (this.#compacting || this.#host.installing() || kept <= 0 || (over <= 1 && !forced)) return
    let target = forced ? settled : settled - Math.min(trailingEntries, Math.floor(kept / 4))
    if (over <= 4 && !forced) target = Math.min(target, core.slowestMatch())
    const term = core.log.term(target)
    if (target <= core.log.baseIndex || term === undefined) return
    this.#compacting = true
    const config = core.log.configAt(target)
    core.compacted(target)
    store.compact(target, term, config, (worked) => {
      this.#compacting = false
      if (!worked) this.#host.fatal('the log could not be compacted')
    })
  }

  tick(): void {
    const { core, store } = this.#host
    this.compact(false)
    if (!store.watermarkBehind || ++this.#idleTicks < idleTicks) return
    this.#idleTicks = 0
    store.closeWatermark(Math.min(core.view.commit, store.lastIndex), (worked) => {
      if (!worked) this.#host.fatal('the watermark could not be written')
    })
  }
}
