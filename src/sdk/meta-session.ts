/**
 * Calls to the metadata leader over one long-lived Session stream, pipelined and matched by id.
 *
 * Finds the leader by itself: NOT_LEADER names it, a broken or silent stream moves on to the next known address. A call
 * is retried by the error table: elsewhere, later, or not at all. A write whose outcome is unknown is repeated only
 * because it carries a commit id or a ticket of the client's session (or is harmless twice); `afterUnknown` settles the
 * one question left without a session, what a refusal means when an earlier attempt may have done the work. All nodes
 * must be of one cluster (cluster-pin.ts).
 *
 * Invariant: every call settles: by its answer, its signal, or the retry time.
 */

import { asStoreError, type ErrorCode, errorTable, type Outcome, StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import type { SessionCall } from '../wire/methods.ts'
import { hostOf, preferHosts } from './addresses.ts'
import { ClusterPin } from './cluster-pin.ts'
import type { MetaCaller, MetaCallOptions, MetaReplyOf, MetaRequestOf } from './meta-calls.ts'
import { askLink, Link } from './meta-link.ts'
import { RetryPace } from './retry.ts'
import { abortReason, sleep, withSignal } from './scope.ts'

/** Free redirects in a row before redirects wait like any retry. */
const redirectsFree = 3
const learnedMax = 16

export interface MetaTimes {
  /** How long one call is retried. */
  readonly retryMs: number
  /** The same while no meta node has ever answered this client. */
  readonly connectMs: number
  /** Silence after which one attempt is given up and another node is asked. */
  readonly attemptMs: number
}

export const metaTimesDefault: MetaTimes = { retryMs: 20_000, connectMs: 5_000, attemptMs: 4_000 }

/** Refusals that the log answers: in a session the first one's answer, so that nothing was changed by any attempt. */
const answeredOnce: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'CONDITION_FAILED',
  'CONFLICT',
  'FENCED',
  'INVALID_ARGUMENT',
  'QUOTA_EXCEEDED',
])

/** True for failures that another attempt may overcome, without the caller's help. */
export function worthRetry(code: ErrorCode): boolean {
  if (code === 'NO_SPACE' || code === 'NO_PLACEMENT' || code === 'CORRUPT' || code === 'DISK_FAILED') return false
  const { retry } = errorTable[code]
  return retry === 'now-elsewhere' || retry === 'after-delay'
}

function withOutcome(error: StoreError, outcome: Outcome): StoreError {
  if (error.outcome === outcome) return error
  return new StoreError(error.code, error.message, { cause: error, details: error.details, outcome })
}

/** The same failure of a call whose earlier attempt may have been carried out. */
function asUnknown(error: StoreError): StoreError {
  return withOutcome(error, 'unknown')
}

/** What went wrong in a few words, without the method and address that a transport's error begins with. */
function shortReason(error: StoreError): string {
  if (error.code === 'TIMEOUT') return 'no answer in time'
  return error.message.replace(/^\/\S+ at \S+: /, '')
}

/** What a call ends with that is not tried again. `unknown`: an earlier attempt may have been carried out. */
function settle<K extends SessionCall>(
  error: StoreError,
  unknown: boolean,
  options: MetaCallOptions<K>,
): MetaReplyOf<K> {
  if (options.ticket !== undefined) {
    // A session that is gone carries nothing out, and one that is there answers every attempt like the first.
    const definite = error.code === 'SESSION_EXPIRED' ? !unknown : answeredOnce.has(error.code)
    if (definite) throw withOutcome(error, 'definite')
  }
  if (!unknown) throw error
  const settled = options.afterUnknown?.(error)
  if (settled !== undefined) return settled
  throw asUnknown(error)
}

export class MetaClient implements MetaCaller {
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

  async call<K extends SessionCall>(
    kind: K,
    request: MetaRequestOf<K>,
    options: MetaCallOptions<K>,
  ): Promise<MetaReplyOf<K>> {
    const { clock } = this.#env
    const startMs = clock.monotonicMs()
    let unknown = false
    let redirects = 0
    /** What went wrong last, by itself and not by the caller giving up. */
    let last: StoreError | undefined
    const gaveUp = (): StoreError => this.#gaveUp(kind, options.signal, last, unknown, clock.monotonicMs() - startMs)
    await this.checked(options.signal)
    for (let attempt = 1; ; attempt++) {
      if (options.signal.aborted) throw gaveUp()
      const refusal = this.#pin.refusal()
      if (refusal !== undefined) throw unknown ? asUnknown(refusal) : refusal
      if (this.#closed) throw new StoreError('CANCELLED', `${kind}: the connection was closed by the caller`)
      const link = this.#current()
      const answer = await this.#attempt(link, kind, request, options)
      const foreign = this.#pin.refusal()
      if (foreign !== undefined) throw asUnknown(foreign)
      if (answer.ok) return answer.reply
      const { error } = answer
      if (options.signal.aborted) throw gaveUp()
      last = error
      if (!worthRetry(error.code) || options.final?.(error) === true) return settle(error, unknown, options)
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
    request: MetaRequestOf<K>,
    options: MetaCallOptions<K>,
  ): Promise<{ ok: true; reply: MetaReplyOf<K> } | { ok: false; error: StoreError }> {
    const { attemptMs } = this.#times
    // A node that never answered is given less time: most likely it is not there.
    const timeoutMs = link.answered ? (options.attemptMs ?? attemptMs) : Math.max(options.attemptMs ?? 0, attemptMs / 2)
    try {
      const ticket = options.ticket?.()
      const reply = await askLink(link, kind, request, { signal: options.signal, timeoutMs, ticket })
      this.#everAnswered = true
      this.#pace.succeeded()
      return { ok: true, reply }
    } catch (error) {
      const failure = asStoreError(error, kind)
      if (link.answered) this.#everAnswered = true
      return { ok: false, error: failure }
    }
  }

  /** Resolves when the client knows which cluster it talks to, as far as the seeds tell. Rejects when the signal aborts. */
  async checked(signal: AbortSignal): Promise<void> {
    const checked = this.#pin.checked()
    if (checked !== undefined) await withSignal(checked, signal)
  }

  /** Why nothing may be sent any more; undefined while all nodes are of one cluster. */
  refusal(): StoreError | undefined {
    return this.#pin.refusal()
  }

  /** Opens a stream of its own to one node, watched for its cluster like the client's. */
  openLink(address: string): Link {
    return new Link(this.#env, address, (clusterId) => this.#pin.see(address, clusterId))
  }

  #current(): Link {
    if (this.#link?.closed === true) this.#link = undefined
    const address = this.#order[this.#at] as string
    this.#link ??= this.openLink(address)
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
