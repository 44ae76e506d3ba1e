/**
 * One leadership: what every controller gets to work with, and what ends when the node stops leading.
 *
 * Controllers hold derived state only. They are made when leadership starts and forgotten when it ends, so none of them
 * can carry something over from another term. Timers made here do not fire afterwards, and a proposal or a read of a
 * past term rejects with NOT_LEADER, which ends the activity that made it.
 */

import { type Command, encodeCommand, type Reply } from '../../../core/meta/commands.ts'
import type { MetaConfig } from '../../../config/types.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { Timer } from '../../../ports/clock.ts'
import type { Env } from '../../../ports/env.ts'
import type { Log } from '../../../ports/log.ts'
import { fenceOf } from '../../../model/fence.ts'
import type { MetaMachine } from '../machine.ts'
import { checkProposal } from '../proposals.ts'
import type { MetaQueries } from '../queries.ts'
import type { Replicator } from '../types.ts'

type WithoutNow<C> = C extends unknown ? Omit<C, 'nowMs'> : never
/** A command as controllers write it: the term stamps the time. */
export type Proposal = WithoutNow<Command>

export interface ControlDeps {
  readonly replicator: Replicator
  readonly machine: Pick<MetaMachine, 'queries' | 'cluster'>
}

const retryMs = 100

export class Term {
  readonly number: number
  readonly env: Env
  readonly log: Log
  readonly config: MetaConfig
  readonly queries: MetaQueries
  readonly replicator: Replicator
  readonly #machine: ControlDeps['machine']
  readonly #abort = new AbortController()
  readonly #timers = new Set<Timer>()

  constructor(number: number, env: Env, deps: ControlDeps, config: MetaConfig) {
    this.number = number
    this.env = env
    this.log = env.log.with({ term: number })
    this.config = config
    this.queries = deps.machine.queries
    this.replicator = deps.replicator
    this.#machine = deps.machine
  }

  /** Cluster version in force. */
  get version(): number {
    return this.#machine.cluster()?.version ?? 0
  }

  /** Of the cluster, as the state has been told. */
  get toldIncarnation(): number {
    return this.#machine.cluster()?.incarnation ?? 1
  }

  /** Rises with every recovery of the metadata, whether or not the state has been told already. */
  get incarnation(): number {
    return Math.max(this.toldIncarnation, this.replicator.clusterIncarnation())
  }

  /** What every order carries; nodes refuse what is lower than they have seen. */
  get fence(): number {
    return fenceOf(this.number, this.incarnation)
  }

  /** No replica is deleted physically, nor given up for deletion (docs/RULES.md, rule 2). */
  get deletesHeld(): boolean {
    const cluster = this.#machine.cluster()
    return cluster === undefined || cluster.deletesHeld || this.incarnation > cluster.incarnation
  }

  get over(): boolean {
    return this.#abort.signal.aborted
  }

  /** Ends the term and cancels its timers; idempotent. */
  end(): void {
    this.#abort.abort()
    for (const timer of this.#timers) timer.cancel()
    this.#timers.clear()
  }

  /** Monotonic milliseconds: deadlines and waits. */
  nowMs(): number {
    return this.env.clock.monotonicMs()
  }

  /** The monotonic time at which the wall clock showed (or will show) `wallMs`; never later than now for the past. */
  fromWallMs(wallMs: number): number {
    return this.nowMs() + (wallMs - this.env.clock.wallMs())
  }

  /**
   * Replicates a command and resolves with its reply. Tries again while the outcome is unknown or the log is full, for
   * every command of a controller may safely be applied twice; rejects with NOT_LEADER when the term is over.
   */
  async propose(proposal: Proposal): Promise<Reply> {
    for (;;) {
      this.check()
      try {
        // The union loses its members' identity in the spread; the fields are those of `proposal`.
        const command = { ...proposal, nowMs: this.env.clock.wallMs() } as Command
        const own = this.replicator.clusterIncarnation()
        checkProposal(command, { version: this.version, lowSpace: false, told: this.toldIncarnation, own })
        return await this.replicator.propose(encodeCommand(command))
      } catch (error) {
        if (!isStoreError(error) || (error.code !== 'UNAVAILABLE' && error.code !== 'OVERLOADED')) throw error
        await this.sleep(error.details.retryAfterMs ?? retryMs)
      }
    }
  }

  /** Everything committed before the call is applied here when it resolves. */
  async barrier(): Promise<void> {
    for (;;) {
      this.check()
      try {
        await this.replicator.barrier()
        this.check()
        return
      } catch (error) {
        if (!isStoreError(error) || (error.code !== 'UNAVAILABLE' && error.code !== 'OVERLOADED')) throw error
        await this.sleep(retryMs)
      }
    }
  }

  /** Throws NOT_LEADER when the term is over. */
  check(): void {
    if (this.over) throw notLeader(this.replicator)
  }

  /** Runs an activity whose end nobody awaits. It may fail: that is logged, except for the end of the term. */
  run(what: string, work: () => Promise<void>): void {
    if (this.over) return
    work().catch((error: unknown) => this.report(what, error))
  }

  report(what: string, error: unknown): void {
    if (this.over || (isStoreError(error) && error.code === 'NOT_LEADER')) return
    const reason = error instanceof Error ? error.message : String(error)
    if (isStoreError(error)) this.log.warn('control activity failed', { what, code: error.code, reason })
    else this.log.error('control activity failed', { what, reason })
  }

  /** A timer that does not fire after the end of the term. */
  after(delayMs: number, handler: () => void): Timer {
    if (this.over) return { cancel: () => undefined }
    const inner = this.env.clock.after(Math.max(0, delayMs), () => {
      this.#timers.delete(timer)
      if (!this.over) handler()
    })
    const timer: Timer = {
      cancel: () => {
        this.#timers.delete(timer)
        inner.cancel()
      },
    }
    this.#timers.add(timer)
    return timer
  }

  /** Rejects with NOT_LEADER when the term ends meanwhile. */
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const ended = (): void => {
        timer.cancel()
        reject(notLeader(this.replicator))
      }
      const timer = this.env.clock.after(delayMs, () => {
        this.#abort.signal.removeEventListener('abort', ended)
        if (this.over) reject(notLeader(this.replicator))
        else resolve()
      })
      if (this.over) ended()
      else this.#abort.signal.addEventListener('abort', ended, { once: true })
    })
  }
}

/** NOT_LEADER with the addresses of the leader, as far as they are known. */
export function notLeader(replicator: Replicator): StoreError {
  const leader = replicator.status().leaderAddresses
  return new StoreError('NOT_LEADER', 'this meta node does not lead: ask the leader', { details: { leader } })
}

/**
 * A worker that is kicked by events and runs one pass at a time; kicks during a pass cause exactly one more. A pass that
 * fails is tried again after a second.
 */
export class Pump {
  readonly #term: Term
  readonly #what: string
  readonly #pass: () => Promise<void>
  #running = false
  #again = false

  constructor(term: Term, what: string, pass: () => Promise<void>) {
    this.#term = term
    this.#what = what
    this.#pass = pass
  }

  kick(): void {
    if (this.#running) {
      this.#again = true
      return
    }
    this.#running = true
    this.#term.run(this.#what, () => this.#loop())
  }

  async #loop(): Promise<void> {
    try {
      do {
        this.#again = false
        await this.#pass()
      } while (this.#again && !this.#term.over)
    } catch (error) {
      this.#term.report(this.#what, error)
      this.#term.after(1000, () => this.kick())
    } finally {
      this.#running = false
    }
  }
}

/** One timer that is moved to whatever deadline is next. */
export class Alarm {
  readonly #term: Term
  readonly #ring: () => void
  #timer: Timer | undefined
  #atMs = Number.POSITIVE_INFINITY

  constructor(term: Term, ring: () => void) {
    this.#term = term
    this.#ring = ring
  }

  /** Rings at `atMs` (monotonic) and at no other time; undefined: not at all. */
  set(atMs: number | undefined): void {
    const wanted = atMs ?? Number.POSITIVE_INFINITY
    if (wanted === this.#atMs) return
    this.#timer?.cancel()
    this.#timer = undefined
    this.#atMs = wanted
    if (!Number.isFinite(wanted)) return
    this.#timer = this.#term.after(wanted - this.#term.nowMs(), () => {
      this.#timer = undefined
      this.#atMs = Number.POSITIVE_INFINITY
      this.#ring()
    })
  }

  /** Rings at `atMs` if that is before the time already set. */
  setEarlier(atMs: number): void {
    if (atMs < this.#atMs) this.set(atMs)
  }
}
