/**
 * The Meta service on the network: binds the table of calls to unary methods and to the Session stream, with one bound on
 * calls in flight over all of them, a drain for an orderly stop, and counters.
 *
 * A session whose client does not take its replies is paused, so replies wait in the client's window and not here.
 */

import { asStoreError, StoreError } from '../../model/errors.ts'
import type { Duplex, Method, NetServer } from '../../ports/net.ts'
import type { Env } from '../../ports/env.ts'
import type { holdfast } from '../../wire/messages.ts'
import { metaMethods, type SessionCall } from '../../wire/methods.ts'
import type { MetaCalls } from './handlers.ts'
import { type Ticket, ticketOf } from './propose.ts'

/** Calls in flight over all clients: about 100 MB if all were the largest commit. */
const callsMax = 4_096
/** Calls in flight on one session. */
const sessionCallsMax = 1_024
const overloadedRetryMs = 50

type SessionStream = Duplex<holdfast.v1.MetaReply.$Properties, holdfast.v1.MetaRequest>

/** The bound service. */
export interface MetaService {
  /** From now on every call is refused with SHUTTING_DOWN; resolves when none is in flight. */
  drain(): Promise<void>
}

/** Registers the Meta service. `clusterId` is undefined until the node belongs to a cluster. */
export function serveMeta(
  server: NetServer,
  calls: MetaCalls,
  env: Pick<Env, 'clock' | 'metrics' | 'log'>,
  clusterId: () => string | undefined,
): MetaService {
  const gate = new Gate(env)
  bindUnary(server, calls, gate)
  server.stream(metaMethods.session, (stream) => serveSession(stream, calls, gate, clusterId))
  return { drain: () => gate.drain() }
}

/** Admission of calls, and their counting. */
class Gate {
  readonly #env: Pick<Env, 'clock' | 'metrics' | 'log'>
  #running = 0
  #idle: (() => void)[] = []
  #draining = false

  constructor(env: Pick<Env, 'clock' | 'metrics' | 'log'>) {
    this.#env = env
  }

  /** Carries out one call, which may also throw at once; what it fails with is a StoreError. */
  run<T>(name: string, work: () => Promise<T>): Promise<T> {
    const refusal = this.#refusal()
    if (refusal !== undefined) return Promise.reject(refusal)
    const startedMs = this.#env.clock.monotonicMs()
    this.#running++
    let under: Promise<T>
    try {
      under = work()
    } catch (cause) {
      return Promise.reject(this.#failed(name, startedMs, cause))
    }
    return under.then(
      (value) => {
        this.#left(name, startedMs, 'OK')
        return value
      },
      (cause: unknown) => {
        throw this.#failed(name, startedMs, cause)
      },
    )
  }

  #refusal(): StoreError | undefined {
    if (this.#draining) return new StoreError('SHUTTING_DOWN', 'this meta node is stopping: ask another one')
    return this.#running >= callsMax ? overloaded('this meta node') : undefined
  }

  #failed(name: string, startedMs: number, cause: unknown): StoreError {
    const error = asStoreError(cause, `answer ${name}`)
    if (error.code === 'INTERNAL') this.#env.log.error('call failed by a bug', { call: name, reason: error.message })
    this.#left(name, startedMs, error.code)
    return error
  }

  #left(name: string, startedMs: number, code: string): void {
    const { clock, metrics } = this.#env
    this.#running--
    const seconds = (clock.monotonicMs() - startedMs) / 1000
    metrics.observe('holdfast_meta_call_seconds', 'Time from the request to the answer.', seconds, { call: name })
    metrics.count('holdfast_meta_calls_total', 'Calls answered, by call and code.', 1, { call: name, code })
    if (this.#running === 0) for (const wake of this.#idle.splice(0)) wake()
  }

  async drain(): Promise<void> {
    this.#draining = true
    if (this.#running > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }
}

function overloaded(what: string): StoreError {
  return new StoreError('OVERLOADED', `${what} has too many calls in flight: try again in ${overloadedRetryMs} ms`, {
    details: { retryAfterMs: overloadedRetryMs },
  })
}

function bindUnary(server: NetServer, calls: MetaCalls, gate: Gate): void {
  const bind = <RequestIn, ReplyIn, RequestOut, ReplyOut>(
    name: string,
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    call: (request: RequestIn) => Promise<ReplyOut>,
  ): void => server.unary(method, (request) => gate.run(name, () => call(request)))
  bind('createBucket', metaMethods.createBucket, calls.createBucket)
  bind('deleteBucket', metaMethods.deleteBucket, calls.deleteBucket)
  bind('listBuckets', metaMethods.listBuckets, calls.listBuckets)
  bind('grantLease', metaMethods.grantLease, calls.grantLease)
  bind('renewLease', metaMethods.renewLease, calls.renewLease)
  bind('releaseLease', metaMethods.releaseLease, calls.releaseLease)
  bind('place', metaMethods.place, calls.place)
  bind('stagePage', metaMethods.stagePage, calls.stagePage)
  bind('commit', metaMethods.commit, calls.commit)
  bind('openObject', metaMethods.openObject, calls.openObject)
  bind('manifestPage', metaMethods.manifestPage, calls.manifestPage)
  bind('listObjects', metaMethods.listObjects, calls.listObjects)
  bind('commitChunks', metaMethods.commitChunks, calls.commitChunks)
  bind('statChunk', metaMethods.statChunk, calls.statChunk)
  bind('unpinChunk', metaMethods.unpinChunk, calls.unpinChunk)
  bind('reportReplica', metaMethods.reportReplica, calls.reportReplica)
  bind('status', metaMethods.status, calls.status)
  bind('openSession', metaMethods.openSession, calls.openSession)
  bind('keepSession', metaMethods.keepSession, calls.keepSession)
  bind('closeSession', metaMethods.closeSession, calls.closeSession)
  bind('setQuota', metaMethods.setQuota, calls.setQuota)
  bind('listQuotas', metaMethods.listQuotas, calls.listQuotas)
  bind('addMetaMember', metaMethods.addMetaMember, calls.addMetaMember)
  bind('removeMetaMember', metaMethods.removeMetaMember, calls.removeMetaMember)
  bind('transferLeadership', metaMethods.transferLeadership, calls.transferLeadership)
  bind('versionStatus', metaMethods.versionStatus, calls.versionStatus)
  bind('raiseVersion', metaMethods.raiseVersion, calls.raiseVersion)
  bind('deletesStatus', metaMethods.deletesStatus, calls.deletesStatus)
  bind('resumeDeletes', metaMethods.resumeDeletes, calls.resumeDeletes)
  bind('scrubStatus', metaMethods.scrubStatus, calls.scrubStatus)
  bind('directScrub', metaMethods.directScrub, calls.directScrub)
}

function serveSession(stream: SessionStream, calls: MetaCalls, gate: Gate, clusterId: () => string | undefined): void {
  let running = 0
  let ended = false
  let closed = false
  // The object is made here field by field: spreading bodies of every kind into one costs more than encoding it.
  const reply = (call: number, body: SessionCall | 'error', value: unknown): void => {
    if (closed) return
    const message: Record<string, unknown> = { call, body, clusterId: clusterId() ?? '' }
    message[body] = value
    if (!stream.send(message)) stream.pause()
  }
  const settle = (): void => {
    running--
    if (ended && running === 0 && !closed) stream.end()
  }
  stream.onDrain(() => stream.resume())
  stream.onEnd(() => {
    ended = true
    if (running === 0 && !closed) stream.end()
  })
  stream.onClose(() => {
    closed = true
  })
  const fail = (call: number, error: StoreError): void => reply(call, 'error', errorDetail(error))
  stream.onMessage((request) => {
    const { call, body } = request
    if (running >= sessionCallsMax) return fail(call, overloaded('this session'))
    if (body === undefined) return fail(call, unknownCall())
    running++
    const carryOut = calls[body] as (request: unknown, ticket?: Ticket) => Promise<unknown>
    gate
      .run(body, () => carryOut(request[body], ticketOf(request)))
      .then(
        (value) => {
          reply(call, body, value)
          settle()
        },
        (cause: unknown) => {
          fail(call, asStoreError(cause, 'answer a call'))
          settle()
        },
      )
  })
}

function unknownCall(): StoreError {
  return new StoreError('INVALID_ARGUMENT', 'a session request without a known call: use proto/holdfast/v1/meta.proto')
}

/** An error as a session's reply carries it. */
function errorDetail(error: StoreError): holdfast.v1.ErrorDetail.$Properties {
  return {
    code: error.code,
    message: error.message,
    definite: error.outcome === 'definite',
    leader: [...(error.details.leader ?? [])],
    retryAfterMs: error.details.retryAfterMs ?? 0,
    suggestion: error.details.suggestion ?? '',
  }
}
