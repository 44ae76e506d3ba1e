/**
 * The client's session: calls that change something and carry no commit id happen exactly once (docs/RULES.md, rule 14).
 *
 * Opened before the first such call and kept alive while the client is idle. Every call gets a number; however often it is
 * repeated, at whichever leader, the cluster carries it out once and answers what it answered first. A session that has
 * expired carries nothing out: a call that cannot have happened under it goes on in a new one, any other fails with
 * SESSION_EXPIRED and an unknown outcome. A cluster that has no sessions (its version is 1) or no room for one more is
 * used without: then a call may happen twice, which each of them bears.
 *
 * Invariants: a number is used once. At most as many calls as the cluster allows lie between the lowest one that waits
 * for its answer and the newest; more wait here.
 */

import { toHex } from '../base/bytes.ts'
import { asStoreError, type ErrorCode, StoreError } from '../model/errors.ts'
import type { Timer } from '../ports/clock.ts'
import type { Env } from '../ports/env.ts'
import type { SessionCall } from '../wire/methods.ts'
import type { MetaCaller, MetaCallOptions, MetaReplyOf, MetaRequestOf } from './meta-calls.ts'
import { abortReason, onAbort, Scope, withSignal } from './scope.ts'

/** A cluster that has no sessions is asked again after so long: its version may have been raised. */
const withoutMs = 5 * 60_000
/** Wait before the session table is asked for room again. */
const fullMs = 30_000
/** Calls in a row that find their session expired before they were sent: more is no accident. */
const triesMax = 3

/** Answers of a cluster that has no sessions: refused by its version, or not known to the program. */
const withoutSessions: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['INCOMPATIBLE_VERSION', 'INVALID_ARGUMENT'])

/** The numbers of one session. */
export class CallWindow {
  readonly #max: number
  /** In the order they were given, so that the first one is the lowest. */
  readonly #open = new Set<number>()
  readonly #queue = new Set<() => void>()
  #next = 1

  constructor(max: number) {
    this.#max = Math.max(1, max)
  }

  /** The lowest number that waits for its answer, or the next one. */
  get lowest(): number {
    for (const sequence of this.#open) return sequence
    return this.#next
  }

  /** The next number, when the window has room for it. */
  async take(signal: AbortSignal): Promise<number> {
    while (this.#next - this.lowest >= this.#max) await this.#room(signal)
    const sequence = this.#next++
    this.#open.add(sequence)
    return sequence
  }

  #room(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(abortReason(signal))
        return
      }
      const wake = (): void => {
        this.#queue.delete(wake)
        stopListening()
        resolve()
      }
      const stopListening = onAbort(signal, () => {
        this.#queue.delete(wake)
        reject(abortReason(signal))
      })
      this.#queue.add(wake)
    })
  }

  /** The call was answered, or given up for good. */
  settle(sequence: number): void {
    this.#open.delete(sequence)
    let room = this.#max - (this.#next - this.lowest)
    for (const wake of this.#queue) {
      if (room-- <= 0) return
      wake()
    }
  }
}

interface Held {
  readonly id: string
  readonly ttlMs: number
  readonly calls: CallWindow
  /** When the cluster last heard of it, at the latest. */
  heardMs: number
}

export class ClientSession implements MetaCaller {
  readonly #env: Env
  readonly #leader: MetaCaller
  readonly #lifetime: Scope
  #held: Held | undefined
  #opening: Promise<Held | undefined> | undefined
  /** Of the next session: an opening that is repeated opens one. */
  #nextId: string | undefined
  #withoutUntilMs = Number.NEGATIVE_INFINITY
  #timer: Timer | undefined

  constructor(env: Env, leader: MetaCaller) {
    this.#env = env
    this.#leader = leader
    this.#lifetime = new Scope(env.clock, {}, 'keep the client session')
  }

  async call<K extends SessionCall>(
    kind: K,
    request: MetaRequestOf<K>,
    options: MetaCallOptions<K>,
  ): Promise<MetaReplyOf<K>> {
    for (let tries = 1; ; tries++) {
      const held = await this.#session(options.signal)
      if (held === undefined) return this.#leader.call(kind, request, options)
      const sequence = await held.calls.take(options.signal)
      const askedMs = this.#env.clock.monotonicMs()
      try {
        const ticket = (): { session: string; sequence: number; lowest: number } => ({
          session: held.id,
          sequence,
          lowest: held.calls.lowest,
        })
        const reply = await this.#leader.call(kind, request, { ...options, ticket })
        held.heardMs = Math.max(held.heardMs, askedMs)
        return reply
      } catch (error) {
        const failure = asStoreError(error, kind)
        if (failure.code !== 'SESSION_EXPIRED') throw failure
        this.#drop(held, failure)
        if (failure.outcome === 'unknown' || tries >= triesMax) throw failure
      } finally {
        held.calls.settle(sequence)
      }
    }
  }

  /** The session to call in; undefined when the cluster has none for us. */
  async #session(signal: AbortSignal): Promise<Held | undefined> {
    for (;;) {
      if (this.#held !== undefined) return this.#held
      if (this.#env.clock.monotonicMs() < this.#withoutUntilMs) return undefined
      if (this.#opening === undefined) {
        this.#opening = this.#open(signal).finally(() => {
          this.#opening = undefined
        })
        return this.#opening
      }
      // Whoever opens it may give up: then the next one tries.
      await withSignal(
        this.#opening.then(
          () => undefined,
          () => undefined,
        ),
        signal,
      )
    }
  }

  async #open(signal: AbortSignal): Promise<Held | undefined> {
    this.#nextId ??= toHex(this.#env.entropy.bytes(16))
    const id = this.#nextId
    const askedMs = this.#env.clock.monotonicMs()
    try {
      const final = (error: StoreError): boolean => error.code === 'OVERLOADED'
      const { ttlMs, callsMax } = await this.#leader.call('openSession', { session: id }, { signal, final })
      this.#nextId = undefined
      const held: Held = { id, ttlMs, calls: new CallWindow(callsMax), heardMs: askedMs }
      this.#held = held
      this.#keepLater(held, ttlMs / 3)
      return held
    } catch (error) {
      const failure = asStoreError(error, 'open a client session')
      const nowMs = this.#env.clock.monotonicMs()
      if (withoutSessions.has(failure.code)) {
        this.#withoutUntilMs = nowMs + withoutMs
        return undefined
      }
      if (failure.code === 'OVERLOADED') {
        this.#env.log.warn('the cluster has no room for a client session: calls are not exactly once', {
          reason: failure.message,
        })
        this.#withoutUntilMs = nowMs + fullMs
        return undefined
      }
      // Nothing of the call that wanted it was sent.
      throw new StoreError(failure.code, failure.message, {
        cause: failure,
        details: failure.details,
        outcome: 'definite',
      })
    }
  }

  #drop(held: Held, why: StoreError): void {
    if (this.#held !== held) return
    this.#held = undefined
    this.#timer?.cancel()
    this.#env.log.info('client session is gone', { session: held.id, reason: why.message })
  }

  #keepLater(held: Held, delayMs: number): void {
    this.#timer = this.#env.clock.after(delayMs, () => {
      this.#keep(held).catch(() => undefined) // `keep` deals with its failures
    })
  }

  /** Tells the cluster that the session is in use, when no call did so for a third of its life. */
  async #keep(held: Held): Promise<void> {
    if (this.#held !== held) return
    const askedMs = this.#env.clock.monotonicMs()
    const idleMs = askedMs - held.heardMs
    if (idleMs < held.ttlMs / 3) return this.#keepLater(held, held.ttlMs / 3 - idleMs)
    let delayMs = held.ttlMs / 3
    try {
      await this.#leader.call('keepSession', { session: held.id }, { signal: this.#lifetime.signal })
      held.heardMs = Math.max(held.heardMs, askedMs)
    } catch (error) {
      const failure = asStoreError(error, 'keep the client session')
      if (failure.code === 'CANCELLED') return
      if (failure.code === 'SESSION_EXPIRED') return this.#drop(held, failure)
      delayMs = held.ttlMs / 20
    }
    if (this.#held === held) this.#keepLater(held, delayMs)
  }

  /** Gives the session back, waiting at most `waitMs` for the answer; what is lost of it expires by itself. */
  async close(waitMs: number): Promise<void> {
    const held = this.#held
    this.#held = undefined
    this.#withoutUntilMs = Number.POSITIVE_INFINITY
    this.#timer?.cancel()
    const reason = new StoreError('CANCELLED', 'the connection was closed by the caller')
    this.#lifetime.abort(reason)
    this.#lifetime.close()
    if (held === undefined) return
    const scope = new Scope(this.#env.clock, { timeoutMs: waitMs }, 'close the client session')
    await this.#leader.call('closeSession', { session: held.id }, { signal: scope.signal }).catch(() => undefined)
    scope.close()
  }
}
