/**
 * The simulated network: who listens where, which links are cut, and unary calls between processes.
 *
 * Only encoded bytes cross it. A link is directed, from one process to another. What a real TCP and HTTP/2 stack does
 * with loss is what happens here: a message is late, or the connection breaks; a stream never loses or reorders one
 * message alone. A unary request may arrive twice, because callers repeat what they do not know the end of;
 * a refusal of one that did has an unknown outcome, for the other arrival may have been carried out.
 *
 * Faults are drawn from the network's own random numbers; cuts are set from outside (nemesis.ts).
 */

import { asStoreError, StoreError } from '../model/errors.ts'
import type { CallOptions, Duplex, Method, NetClient, NetServer } from '../ports/net.ts'
import type { SimProcess, World } from './clock.ts'
import { decodeError, encodeError } from './net-errors.ts'
import { SimStream, type StreamHandler } from './net-stream.ts'
import type { Seeded } from './seed.ts'

/** How bad the network is. */
export interface NetFaults {
  readonly delayMinMs: number
  /** Mean of the exponential part above the minimum. */
  readonly delayMeanMs: number
  /** Probability that a message breaks its connection instead of arriving. */
  readonly lossRate: number
  /** Probability that a unary request arrives twice. */
  readonly duplicateRate: number
}

type AnyMethod = Method<unknown, unknown, unknown, unknown>
type UnaryHandler = (request: unknown, context: { signal: AbortSignal; peer: string }) => Promise<unknown>

/** What one process listens with. */
class Listener implements NetServer {
  readonly host: SimProcess
  readonly unaries = new Map<string, { method: AnyMethod; handler: UnaryHandler }>()
  readonly streams = new Map<string, { method: AnyMethod; handler: StreamHandler }>()

  constructor(host: SimProcess) {
    this.host = host
  }

  unary: NetServer['unary'] = (method, handler) => {
    this.unaries.set(method.path, {
      method: method as unknown as AnyMethod,
      handler: handler as unknown as UnaryHandler,
    })
  }

  stream: NetServer['stream'] = (method, handler) => {
    this.streams.set(method.path, {
      method: method as unknown as AnyMethod,
      handler: handler as unknown as StreamHandler,
    })
  }
}

function unsure(error: StoreError): StoreError {
  return new StoreError(error.code, error.message, { cause: error, details: error.details, outcome: 'unknown' })
}

/** A unary call that waits for its answer. */
interface PendingCall {
  readonly client: SimProcess
  server: SimProcess | undefined
  /** It arrives twice. */
  twice: boolean
  readonly abort: AbortController
  settled: boolean
  settle(outcome: { reply: Uint8Array } | { error: StoreError }): void
}

/** The whole network of one simulated world. */
export class SimNet {
  readonly world: World
  readonly random: Seeded
  faults: NetFaults
  readonly #listeners = new Map<string, Listener>()
  /** Directed links that carry nothing now, as `from>to`. */
  readonly #cuts = new Set<string>()
  readonly #streams = new Set<SimStream>()
  readonly #calls = new Set<PendingCall>()

  constructor(world: World, random: Seeded, faults: NetFaults) {
    this.world = world
    this.random = random
    this.faults = faults
  }

  /** The server port of a process; its addresses answer from now on until the process crashes. */
  listen(host: SimProcess, addresses: readonly string[]): NetServer {
    const listener = new Listener(host)
    for (const address of addresses) this.#listeners.set(address, listener)
    return listener
  }

  isCut(from: SimProcess, to: SimProcess): boolean {
    return this.#cuts.has(`${from.id}>${to.id}`)
  }

  cut(from: SimProcess, to: SimProcess): void {
    if (from !== to) this.#cuts.add(`${from.id}>${to.id}`)
  }

  /** Joins all links again; what streams hold back is sent now. */
  heal(): void {
    this.#cuts.clear()
    for (const stream of this.#streams) stream.flushHeld()
  }

  /** Breaks every stream between two processes, as a reset connection does. */
  reset(a: SimProcess, b: SimProcess): void {
    for (const stream of this.#streams) {
      if (stream.joins(a, b)) stream.break(new StoreError('UNAVAILABLE', `connection of ${a.id} and ${b.id} was reset`))
    }
  }

  /** Forgets the process: it listens no more, and its peers find their connections broken. */
  crash(host: SimProcess): void {
    for (const stream of this.#streams) {
      if (stream.joins(host, host)) stream.break(new StoreError('UNAVAILABLE', `${host.id} closed the connection`))
    }
    for (const [address, listener] of this.#listeners) if (listener.host === host) this.#listeners.delete(address)
    for (const call of this.#calls) {
      if (call.client === host) {
        call.settled = true
        this.#calls.delete(call)
        call.abort.abort()
      } else if (call.server === host) {
        this.#failLater(call, host, new StoreError('UNAVAILABLE', `${host.id} closed the connection`))
      }
    }
  }

  listenerAt(address: string): Listener | undefined {
    return this.#listeners.get(address)
  }

  delayMs(): number {
    const { delayMinMs, delayMeanMs } = this.faults
    return delayMinMs - Math.log(1 - this.random.unit()) * delayMeanMs
  }

  /** The client port of a process. */
  client(host: SimProcess): NetClient {
    return {
      call: (address, method, request, options) => this.#call(host, address, method, request, options),
      open: (address, method) => this.#open(host, address, method),
      close: async () => {},
    }
  }

  forget(stream: SimStream): void {
    this.#streams.delete(stream)
  }

  #open<QIn, RIn, QOut, ROut>(
    host: SimProcess,
    address: string,
    method: Method<QIn, RIn, QOut, ROut>,
  ): Duplex<QOut, RIn> {
    const stream = new SimStream(this, host, address, method as unknown as AnyMethod)
    this.#streams.add(stream)
    return stream.clientEnd as unknown as Duplex<QOut, RIn>
  }

  async #call<QIn, RIn, QOut, ROut>(
    host: SimProcess,
    address: string,
    method: Method<QIn, RIn, QOut, ROut>,
    request: QOut,
    options: CallOptions,
  ): Promise<RIn> {
    const bytes = method.encodeRequest(request)
    const reply = await new Promise<Uint8Array>((resolve, reject) => {
      const call: PendingCall = {
        client: host,
        server: undefined,
        twice: false,
        abort: new AbortController(),
        settled: false,
        settle: (outcome) => {
          if (call.settled) return
          call.settled = true
          this.#calls.delete(call)
          timer.cancel()
          options.signal?.removeEventListener('abort', cancelled)
          if ('error' in outcome) reject(call.twice ? unsure(outcome.error) : outcome.error)
          else resolve(outcome.reply)
        },
      }
      const give = (error: StoreError): void => {
        call.settle({ error })
        // The server hears of it one way later, if it can.
        this.world.after(this.delayMs(), `abort ${method.path}`, undefined, () => call.abort.abort())
      }
      const cancelled = (): void => give(new StoreError('CANCELLED', `call ${method.path}: cancelled`))
      const timer = this.world.after(options.timeoutMs / host.rate, `timeout ${method.path}`, host, () =>
        give(new StoreError('TIMEOUT', `call ${method.path} at ${address}: no answer in ${options.timeoutMs} ms`)),
      )
      this.#calls.add(call)
      if (options.signal?.aborted === true) cancelled()
      else options.signal?.addEventListener('abort', cancelled)
      if (!call.settled) this.#send(call, address, method as unknown as AnyMethod, bytes)
    })
    return method.decodeReply(reply)
  }

  #send(call: PendingCall, address: string, method: AnyMethod, bytes: Uint8Array): void {
    const times = this.random.chance(this.faults.duplicateRate) ? 2 : 1
    call.twice = times > 1
    for (let i = 0; i < times; i++) {
      const target = this.listenerAt(address)
      if (target !== undefined && (this.isCut(call.client, target.host) || this.random.chance(this.faults.lossRate))) {
        if (i === 0) this.#lose(call, target.host)
        continue
      }
      const label = `${call.client.id}>${address} ${method.path}`
      this.world.after(this.delayMs(), label, target?.host, () => this.#arrive(call, address, method, bytes))
      if (target === undefined) return
      call.server = target.host
    }
  }

  #arrive(call: PendingCall, address: string, method: AnyMethod, bytes: Uint8Array): void {
    const target = this.listenerAt(address)
    const found = target?.unaries.get(method.path)
    if (target === undefined || found === undefined) {
      const error = new StoreError('UNAVAILABLE', `call ${method.path} at ${address}: connection refused`)
      this.world.after(this.delayMs(), 'refused', call.client, () => call.settle({ error }))
      return
    }
    call.server = target.host
    const context = { signal: call.abort.signal, peer: call.client.id }
    const { incarnation } = target.host
    const answer = (outcome: { reply: Uint8Array } | { error: StoreError }): void => {
      if (target.host.incarnation !== incarnation || call.settled) return
      this.#answer(call, target.host, method, outcome)
    }
    Promise.resolve()
      .then(async () => await found.handler(found.method.decodeRequest(bytes.slice()), context))
      .then(
        (reply) => answer({ reply: found.method.encodeReply(reply) }),
        (thrown: unknown) => answer({ error: decodeError(encodeError(thrown, method.path)) }),
      )
      .catch((thrown: unknown) => answer({ error: asStoreError(thrown, method.path) }))
  }

  #answer(
    call: PendingCall,
    server: SimProcess,
    method: AnyMethod,
    outcome: { reply: Uint8Array } | { error: StoreError },
  ): void {
    if (this.isCut(server, call.client) || this.random.chance(this.faults.lossRate)) {
      this.#lose(call, server)
      return
    }
    const label = `${server.id}>${call.client.id} answer ${method.path}`
    this.world.after(this.delayMs(), label, call.client, () => call.settle(outcome))
  }

  /** A message is lost: the connection breaks soon, or only the caller's deadline tells. */
  #lose(call: PendingCall, other: SimProcess): void {
    if (this.random.chance(0.5)) return
    this.#failLater(call, other, new StoreError('UNAVAILABLE', `connection of ${call.client.id} and ${other.id} broke`))
  }

  #failLater(call: PendingCall, other: SimProcess, error: StoreError): void {
    const label = `${other.id}>${call.client.id} broken`
    this.world.after(this.delayMs() + this.random.between(0, 200), label, call.client, () => call.settle({ error }))
  }
}
