/**
 * Calls to the metadata leader over one long-lived Session stream, pipelined and matched by id.
 *
 * Finds the leader by itself: NOT_LEADER names it, a broken or silent stream moves on to the next known address. A call
 * is retried by the error table: elsewhere, later, or not at all. A write whose outcome is unknown is repeated only
 * because it carries a commit id (or is harmless twice); `afterUnknown` settles the one question left, what a refusal
 * means when an earlier attempt may have done the work. All nodes must be of one cluster (cluster-pin.ts).
 *
 * Invariants: every call settles: by its answer, its signal, or the retry time. At most `callsMax` wait for an answer.
 */

import { asStoreError, type ErrorCode, errorTable, StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import { type SessionCall, metaMethods } from '../wire/methods.ts'
import type { holdfast } from '../wire/messages.ts'
import type { Duplex } from '../ports/net.ts'
import { hostOf, preferHosts } from './addresses.ts'
import { ClusterPin } from './cluster-pin.ts'
import { errorOfDetail } from './remote-errors.ts'
import { RetryPace } from './retry.ts'
import { abortReason, onAbort, Scope, sleep, withSignal } from './scope.ts'

const callsMax = 4096
/** Free redirects in a row before redirects wait like any retry. */
const redirectsFree = 3
const learnedMax = 16

type Request<K extends SessionCall> = NonNullable<holdfast.v1.MetaRequest.$Properties[K]>
type Reply<K extends SessionCall> = NonNullable<holdfast.v1.MetaReply[K]>

export interface MetaTimes {
  /** How long one call is retried. */
  readonly retryMs: number
  /** The same while no meta node has ever answered this client. */
  readonly connectMs: number
  /** Silence after which one attempt is given up and another node is asked. */
  readonly attemptMs: number
}

export const metaTimesDefault: MetaTimes = { retryMs: 20_000, connectMs: 5_000, attemptMs: 4_000 }

export interface MetaCallOptions<K extends SessionCall> {
  readonly signal: AbortSignal
  /**
   * Called when the call is refused and an earlier attempt may have been carried out: the reply that the refusal stands
   * for (a bucket that is gone was deleted), or undefined to throw it with an unknown outcome.
   */
  readonly afterUnknown?: (error: StoreError) => Reply<K> | undefined
}

interface Waiting {
  readonly resolve: (reply: holdfast.v1.MetaReply) => void
  readonly reject: (error: StoreError) => void
}

/** One stream to one address. */
export class Link {
  readonly address: string
  readonly #stream: Duplex<holdfast.v1.MetaRequest.$Properties, holdfast.v1.MetaReply>
  readonly #waiting = new Map<number, Waiting>()
  readonly #onCluster: (clusterId: string) => void
  #nextCall = 1
  #closed: StoreError | undefined
  #retired = false
  /** True once anything came back: the peer is there. */
  answered = false

  /** `onCluster`: called with the cluster id of each reply, before the reply is given to its call. */
  constructor(env: Env, address: string, onCluster: (clusterId: string) => void = () => undefined) {
    this.address = address
    this.#onCluster = onCluster
    this.#stream = env.net.open(address, metaMethods.session)
    this.#stream.onMessage((reply) => this.#onReply(reply))
    this.#stream.onEnd(() => this.#stream.end())
    this.#stream.onClose((error) => {
      this.#fail(error ?? new StoreError('UNAVAILABLE', `meta node ${address} closed the session: try another one`))
    })
  }

  get closed(): boolean {
    return this.#closed !== undefined
  }

  #onReply(reply: holdfast.v1.MetaReply): void {
    this.answered = true
    this.#onCluster(reply.clusterId)
    const waiting = this.#waiting.get(reply.call)
    if (waiting === undefined) return // given up before its answer came
    this.#waiting.delete(reply.call)
    if (reply.error !== null && reply.error !== undefined) waiting.reject(errorOfDetail(reply.error))
    else waiting.resolve(reply)
    this.#endWhenIdle()
  }

  #fail(error: StoreError): void {
    if (this.#closed !== undefined) return
    this.#closed = error
    const waiting = [...this.#waiting.values()]
    this.#waiting.clear()
    for (const one of waiting) one.reject(error)
  }

  call(body: holdfast.v1.MetaRequest.$Properties, signal: AbortSignal): Promise<holdfast.v1.MetaReply> {
    if (signal.aborted) return Promise.reject(abortReason(signal))
    if (this.#closed !== undefined) return Promise.reject(this.#closed)
    if (this.#waiting.size >= callsMax) {
      return Promise.reject(
        new StoreError('OVERLOADED', `${callsMax} metadata calls wait for an answer: make fewer at once`),
      )
    }
    const call = this.#nextCall++
    return new Promise((resolve, reject) => {
      const settle = onAbort(signal, () => {
        this.#waiting.delete(call)
        reject(abortReason(signal))
        this.#endWhenIdle()
      })
      this.#waiting.set(call, {
        resolve: (reply) => {
          settle()
          resolve(reply)
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      })
      this.#stream.send({ ...body, call })
    })
  }

  /** No new calls; ends the stream once those that wait are answered or given up. */
  retire(): void {
    this.#retired = true
    this.#endWhenIdle()
  }

  #endWhenIdle(): void {
    if (this.#retired && this.#waiting.size === 0 && this.#closed === undefined) this.destroy()
  }

  /** Breaks the stream; calls that wait fail with `reason`, by default CANCELLED. */
  destroy(reason?: StoreError): void {
    const error = reason ?? new StoreError('CANCELLED', `the session with meta node ${this.address} was closed`)
    this.#fail(error)
    this.#stream.destroy(error)
  }
}

/** True for failures that another attempt may overcome, without the caller's help. */
function worthRetry(code: ErrorCode): boolean {
  if (code === 'NO_SPACE' || code === 'NO_PLACEMENT' || code === 'CORRUPT' || code === 'DISK_FAILED') return false
  const { retry } = errorTable[code]
  return retry === 'now-elsewhere' || retry === 'after-delay'
}

/** The same failure of a call whose earlier attempt may have been carried out. */
function asUnknown(error: StoreError): StoreError {
  return new StoreError(error.code, error.message, { cause: error, details: error.details, outcome: 'unknown' })
}

/** What went wrong in a few words, without the method and address that a transport's error begins with. */
function shortReason(error: StoreError): string {
  if (error.code === 'TIMEOUT') return 'no answer in time'
  return error.message.replace(/^\/\S+ at \S+: /, '')
}

export class MetaClient {
  readonly #env: Env
  readonly #seeds: readonly string[]
  /** Hosts of the seeds: of several addresses of a leader, those on them are tried first. */
  readonly #hosts: ReadonlySet<string>
  readonly #times: MetaTimes
  readonly #pace: RetryPace
  readonly #pin: ClusterPin
  #order: readonly string[]
  #at = 0
  #link: Link | undefined
  #everAnswered = false
  #closed = false

  /** `seeds`: addresses of meta nodes, at least one. */
  constructor(env: Env, seeds: readonly string[], times: MetaTimes = metaTimesDefault) {
    this.#env = env
    this.#seeds = seeds
    this.#hosts = new Set(seeds.map(hostOf))
    this.#times = times
    this.#pace = new RetryPace(env.entropy)
    this.#order = seeds
    this.#pin = new ClusterPin(env, seeds, (error) => this.#link?.destroy(error))
  }

  /** Makes one call and gives its answer. */
  async call<K extends SessionCall>(kind: K, request: Request<K>, options: MetaCallOptions<K>): Promise<Reply<K>> {
    const { clock } = this.#env
    const startMs = clock.monotonicMs()
    let unknown = false
    let redirects = 0
    /** What went wrong last, by itself and not by the caller giving up. */
    let last: StoreError | undefined
    const gaveUp = (): StoreError => this.#gaveUp(kind, options.signal, last, unknown, clock.monotonicMs() - startMs)
    const checked = this.#pin.checked()
    if (checked !== undefined) await withSignal(checked, options.signal)
    for (let attempt = 1; ; attempt++) {
      if (options.signal.aborted) throw gaveUp()
      const refusal = this.#pin.refusal()
      if (refusal !== undefined) throw unknown ? asUnknown(refusal) : refusal
      if (this.#closed) throw new StoreError('CANCELLED', `${kind}: the connection was closed by the caller`)
      const link = this.#current()
      const answer = await this.#attempt(link, kind, request, options.signal)
      const foreign = this.#pin.refusal()
      if (foreign !== undefined) throw asUnknown(foreign)
      if (answer.ok) return answer.reply
      const { error } = answer
      if (options.signal.aborted) throw gaveUp()
      last = error
      if (!worthRetry(error.code)) {
        if (!unknown) throw error
        const settled = options.afterUnknown?.(error)
        if (settled !== undefined) return settled
        throw asUnknown(error)
      }
      if (error.outcome === 'unknown') unknown = true
      const hinted = this.#moveOn(link, error)
      const limitMs = this.#everAnswered ? this.#times.retryMs : this.#times.connectMs
      const spentMs = clock.monotonicMs() - startMs
      if (spentMs >= limitMs) throw this.#exhausted(kind, error, unknown, spentMs)
      if (hinted && redirects++ < redirectsFree) continue
      const delayMs = this.#pace.delayMs(attempt, error.details.retryAfterMs)
      await sleep(clock, delayMs, options.signal).catch(() => undefined)
    }
  }

  async #attempt<K extends SessionCall>(
    link: Link,
    kind: K,
    request: Request<K>,
    signal: AbortSignal,
  ): Promise<{ ok: true; reply: Reply<K> } | { ok: false; error: StoreError }> {
    // A node that never answered is given less time: most likely it is not there.
    const timeoutMs = link.answered ? this.#times.attemptMs : this.#times.attemptMs / 2
    const scope = new Scope(this.#env.clock, { signal, timeoutMs }, `ask meta node ${link.address}`)
    try {
      const reply = await link.call({ [kind]: request }, scope.signal)
      this.#everAnswered = true
      this.#pace.succeeded()
      const body = reply[kind] as Reply<K> | null | undefined
      if (body === null || body === undefined) {
        return {
          ok: false,
          error: new StoreError('INTERNAL', `${kind}: meta node ${link.address} answered something else`),
        }
      }
      return { ok: true, reply: body }
    } catch (error) {
      const failure = asStoreError(error, kind)
      if (link.answered) this.#everAnswered = true
      return { ok: false, error: failure }
    } finally {
      scope.close()
    }
  }

  #current(): Link {
    if (this.#link?.closed === true) this.#link = undefined
    const address = this.#order[this.#at] as string
    this.#link ??= new Link(this.#env, address, (clusterId) => this.#pin.see(address, clusterId))
    return this.#link
  }

  /** Leaves `link` for where `error` says the leader is, or for the next address. True when the error named one. */
  #moveOn(link: Link, error: StoreError): boolean {
    if (error.code === 'OVERLOADED') return false
    // Another call that shared the link may have moved on already.
    if (this.#link !== link && this.#link !== undefined) return true
    link.retire()
    this.#link = undefined
    const leader = error.code === 'NOT_LEADER' ? (error.details.leader ?? []) : []
    const hints = preferHosts(leader.slice(0, learnedMax), this.#hosts)
    if (hints.length > 0 && !hints.includes(link.address)) {
      this.#order = [...hints, ...this.#seeds.filter((seed) => !hints.includes(seed))]
      this.#at = 0
      return true
    }
    this.#at = (this.#at + 1) % this.#order.length
    return false
  }

  /** The caller's time is over, or it cancelled: the error says what stood in the way, where anything did. */
  #gaveUp(
    kind: string,
    signal: AbortSignal,
    last: StoreError | undefined,
    unknown: boolean,
    spentMs: number,
  ): StoreError {
    const reason = abortReason(signal)
    if (reason.code !== 'TIMEOUT' || last === undefined) return reason
    return this.#exhausted(kind, last, unknown, spentMs)
  }

  #exhausted(kind: string, error: StoreError, unknown: boolean, spentMs: number): StoreError {
    const outcome = unknown ? 'unknown' : 'definite'
    const asked = this.#seeds.join(', ')
    if (!this.#everAnswered) {
      return new StoreError(
        'UNAVAILABLE',
        `no meta node answers at ${asked} (${shortReason(error)}): is the cluster running? check --meta or run "holdfast up"`,
        { cause: error, outcome },
      )
    }
    if (error.code === 'NOT_LEADER' || error.code === 'NO_QUORUM' || error.code === 'UNAVAILABLE') {
      const seconds = Math.max(1, Math.round(spentMs / 1000))
      return new StoreError(
        'NO_QUORUM',
        `${kind}: no meta node leads (asked ${asked} for ${seconds} s; last: ${shortReason(error)}): a majority of the meta nodes must be up`,
        { cause: error, outcome },
      )
    }
    return new StoreError(error.code, error.message, { cause: error, details: error.details, outcome })
  }

  close(): void {
    this.#closed = true
    this.#pin.close()
    this.#link?.destroy()
    this.#link = undefined
  }
}
