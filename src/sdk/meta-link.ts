/**
 * One Session stream to one meta node: calls go out as they come and answers are matched by number.
 *
 * Invariants: every call settles, by its answer, its signal or the end of the stream; at most `callsMax` wait.
 */

import { StoreError } from '../model/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Env } from '../ports/env.ts'
import type { Duplex } from '../ports/net.ts'
import type { holdfast } from '../wire/messages.ts'
import { metaMethods, type SessionCall } from '../wire/methods.ts'
import type { MetaReplyOf, MetaRequestOf, Ticket } from './meta-calls.ts'
import { errorOfDetail } from './remote-errors.ts'
import { Pulse } from './pulse.ts'
import { abortReason, onAbort } from './scope.ts'

const callsMax = 4096

interface Waiting {
  readonly resolve: (reply: holdfast.v1.MetaReply) => void
  readonly reject: (error: StoreError) => void
  readonly stopListening: () => void
  /** When the answer comes too late, on the monotonic clock; infinite when it never does. */
  readonly dueMs: number
  readonly timeoutMs: number
}

/** One stream to one address. */
export class Link {
  readonly address: string
  readonly #stream: Duplex<holdfast.v1.MetaRequest.$Properties, holdfast.v1.MetaReply>
  readonly #waiting = new Map<number, Waiting>()
  readonly #onCluster: (clusterId: string) => void
  readonly #clock: Clock
  readonly #pulse: Pulse
  /** One timer for all calls that wait, for the first that is due. */
  #timer: Timer | undefined
  #timerDueMs = Number.POSITIVE_INFINITY
  #nextCall = 1
  #closed: StoreError | undefined
  #retired = false
  /** True once anything came back: the peer is there. */
  answered = false

  /** `onCluster`: called with the cluster id of each reply, before the reply is given to its call. */
  constructor(env: Env, address: string, onCluster: (clusterId: string) => void = () => undefined) {
    this.address = address
    this.#onCluster = onCluster
    this.#clock = env.clock
    // Any node refuses a request without a body at once; its number is nobody's.
    this.#pulse = new Pulse(
      env.clock,
      () => this.#waiting.size > 0,
      () => this.#stream.send({ call: this.#nextCall++ }),
      (silentMs) => this.destroy(silent(address, silentMs)),
      () => this.#stream.traffic(),
    )
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

  /** Calls that wait for an answer. */
  get waiting(): number {
    return this.#waiting.size
  }

  #onReply(reply: holdfast.v1.MetaReply): void {
    this.answered = true
    this.#pulse.heard()
    this.#onCluster(reply.clusterId)
    const waiting = this.#take(reply.call)
    if (waiting === undefined) return // given up before its answer came
    if (reply.error !== null && reply.error !== undefined) waiting.reject(errorOfDetail(reply.error))
    else waiting.resolve(reply)
    this.#endWhenIdle()
  }

  #take(call: number): Waiting | undefined {
    const waiting = this.#waiting.get(call)
    if (waiting === undefined) return undefined
    this.#waiting.delete(call)
    waiting.stopListening()
    return waiting
  }

  #giveUp(call: number, error: StoreError): void {
    this.#take(call)?.reject(error)
    this.#endWhenIdle()
  }

  #fail(error: StoreError): void {
    if (this.#closed !== undefined) return
    this.#closed = error
    this.#pulse.stop()
    this.#timer?.cancel()
    for (const call of this.#waiting.keys()) this.#take(call)?.reject(error)
  }

  /** Sees to it that a look is taken when `dueMs` comes. */
  #watch(dueMs: number): void {
    if (dueMs >= this.#timerDueMs) return
    this.#timer?.cancel()
    this.#timerDueMs = dueMs
    this.#timer = this.#clock.after(Math.max(0, dueMs - this.#clock.monotonicMs()), () => this.#onDue())
  }

  #onDue(): void {
    this.#timer = undefined
    this.#timerDueMs = Number.POSITIVE_INFINITY
    const nowMs = this.#clock.monotonicMs()
    let nextMs = Number.POSITIVE_INFINITY
    for (const [call, { dueMs, timeoutMs }] of this.#waiting) {
      if (dueMs <= nowMs) this.#giveUp(call, late(this.address, timeoutMs))
      else nextMs = Math.min(nextMs, dueMs)
    }
    if (this.#closed === undefined) this.#watch(nextMs)
  }

  /** Makes one call of `request`, which it numbers; rejects with TIMEOUT after `timeoutMs` without an answer. */
  call(
    request: holdfast.v1.MetaRequest.$Properties,
    signal: AbortSignal,
    timeoutMs: number = Number.POSITIVE_INFINITY,
  ): Promise<holdfast.v1.MetaReply> {
    if (signal.aborted) return Promise.reject(abortReason(signal))
    if (this.#closed !== undefined) return Promise.reject(this.#closed)
    if (this.#waiting.size >= callsMax) {
      return Promise.reject(
        new StoreError('OVERLOADED', `${callsMax} metadata calls wait for an answer: make fewer at once`),
      )
    }
    const call = this.#nextCall++
    const dueMs = this.#clock.monotonicMs() + timeoutMs
    return new Promise((resolve, reject) => {
      const stopListening = onAbort(signal, () => this.#giveUp(call, abortReason(signal)))
      this.#waiting.set(call, { resolve, reject, stopListening, dueMs, timeoutMs })
      if (this.#waiting.size === 1) this.#pulse.waits()
      this.#watch(dueMs)
      request.call = call
      this.#stream.send(request)
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

function silent(address: string, silentMs: number): StoreError {
  const rounded = Math.round(silentMs)
  return new StoreError('UNAVAILABLE', `meta node ${address} answered nothing for ${rounded} ms: another one is asked`)
}

function late(address: string, timeoutMs: number): StoreError {
  return new StoreError(
    'TIMEOUT',
    `ask meta node ${address}: not done within ${timeoutMs} ms: allow more time or look at the status`,
  )
}

/** Makes one attempt of a call on `link`. Rejects with what the node answered, TIMEOUT, or why the stream ended. */
export async function askLink<K extends SessionCall>(
  link: Link,
  kind: K,
  request: MetaRequestOf<K>,
  options: { readonly signal: AbortSignal; readonly timeoutMs: number; readonly ticket?: Ticket | undefined },
): Promise<MetaReplyOf<K>> {
  const message: Record<string, unknown> = { ...options.ticket }
  message[kind] = request
  const reply = await link.call(message, options.signal, options.timeoutMs)
  const body = reply[kind] as MetaReplyOf<K> | null | undefined
  if (body !== null && body !== undefined) return body
  throw new StoreError('INTERNAL', `${kind}: meta node ${link.address} answered something else`)
}
