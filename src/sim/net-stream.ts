/**
 * One simulated bidirectional stream: two directions with order, windows, half close and breaks.
 *
 * While its link is cut, what is sent is held back, as TCP retransmits; after a drawn time the connection breaks and
 * both ends hear of it, each on its own. A break loses what is still on the way, never a message in the middle.
 * `send` answers false above the window; a paused receiver keeps its messages and with them the sender's window.
 */

import { StoreError } from '../model/errors.ts'
import type { Duplex, Method, Traffic } from '../ports/net.ts'
import type { SimProcess } from './clock.ts'
import { decodeError, encodeError } from './net-errors.ts'
import type { SimNet } from './net.ts'

const windowBytes = 1 << 20

type AnyMethod = Method<unknown, unknown, unknown, unknown>
/** What a service binds for a streaming method. */
export type StreamHandler = (stream: Duplex<unknown, unknown>, context: { signal: AbortSignal; peer: string }) => void

type Item =
  | { readonly kind: 'message'; readonly bytes: Uint8Array }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly bytes: Uint8Array }

function ignore(): void {}

/** One end of a stream. */
class StreamEnd implements Duplex<unknown, unknown> {
  readonly host: SimProcess
  readonly incarnation: number
  readonly #stream: SimStream
  readonly #encode: (value: unknown) => Uint8Array
  readonly #decode: (bytes: Uint8Array) => unknown
  readonly #received: Item[] = []
  #paused = false
  #ended = false
  closed = false
  #message: (message: unknown) => void = ignore
  #drain: () => void = ignore
  #end: () => void = ignore
  #close: (error: StoreError | undefined) => void = ignore
  /** Bytes sent that the other end has not taken yet. */
  outstanding = 0
  #full = false

  constructor(
    stream: SimStream,
    host: SimProcess,
    encode: (value: unknown) => Uint8Array,
    decode: (bytes: Uint8Array) => unknown,
  ) {
    this.#stream = stream
    this.host = host
    this.incarnation = host.incarnation
    this.#encode = encode
    this.#decode = decode
  }

  get ended(): boolean {
    return this.#ended
  }

  send(message: unknown): boolean {
    if (this.closed || this.#ended) return true
    const bytes = this.#encode(message)
    this.outstanding += bytes.length
    this.#stream.transmit(this, { kind: 'message', bytes })
    if (this.outstanding > windowBytes) this.#full = true
    return !this.#full
  }

  end(): void {
    if (this.closed || this.#ended) return
    this.#ended = true
    this.#stream.transmit(this, { kind: 'end' })
  }

  destroy(error?: StoreError): void {
    if (this.closed) return
    const reason = error ?? new StoreError('CANCELLED', 'the other side gave the stream up')
    this.#stream.transmit(this, { kind: 'error', bytes: encodeError(reason, 'stream') })
    this.#stream.world.after(0, `${this.host.id} destroyed`, this.host, () => this.finish(reason))
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    this.#stream.world.after(0, `${this.host.id} resumed`, this.host, () => this.#deliver())
  }

  /** Whole messages come and go at once here. */
  traffic(): Traffic {
    return { receivedBytes: 0, queuedBytes: 0 }
  }

  onMessage(handler: (message: unknown) => void): void {
    this.#message = handler
  }

  onDrain(handler: () => void): void {
    this.#drain = handler
  }

  onEnd(handler: () => void): void {
    this.#end = handler
  }

  onClose(handler: (error: StoreError | undefined) => void): void {
    this.#close = handler
  }

  receive(item: Item): void {
    if (this.closed) return
    if (item.kind === 'error') {
      this.finish(decodeError(item.bytes))
      return
    }
    this.#received.push(item)
    this.#deliver()
  }

  #deliver(): void {
    while (!this.#paused && !this.closed) {
      const item = this.#received.shift()
      if (item === undefined || item.kind === 'error') return
      if (item.kind === 'end') {
        this.#end()
        this.#stream.halfClosed(this)
        continue
      }
      this.#stream.taken(this, item.bytes.length)
      let message: unknown
      try {
        message = this.#decode(item.bytes)
      } catch (thrown) {
        this.destroy(decodeError(encodeError(thrown, 'stream')))
        return
      }
      this.#message(message)
    }
  }

  /** The window is used up: what gives it back is an event, for somebody waits for it. */
  get full(): boolean {
    return this.#full
  }

  /** The other end took `length` bytes of what this one sent. */
  credit(length: number): void {
    this.outstanding -= length
    if (!this.#full || this.outstanding > windowBytes / 2 || this.closed) return
    this.#full = false
    this.#stream.world.after(0, `${this.host.id} drain`, this.host, () => {
      if (!this.closed) this.#drain()
    })
  }

  finish(error: StoreError | undefined): void {
    if (this.closed || this.host.incarnation !== this.incarnation) return
    this.closed = true
    this.#received.length = 0
    this.#stream.closed()
    this.#close(error)
  }
}

/** What is on its way in one direction. */
interface Direction {
  held: Item[]
  /** No item arrives before the one sent before it. */
  lastArrivalMs: number
}

/** Both ends and what is between them. */
export class SimStream {
  readonly #net: SimNet
  readonly #address: string
  readonly #method: AnyMethod
  readonly clientEnd: StreamEnd
  #serverEnd: StreamEnd | undefined
  readonly #abort = new AbortController()
  readonly #toServer: Direction = { held: [], lastArrivalMs: 0 }
  readonly #toClient: Direction = { held: [], lastArrivalMs: 0 }
  #broken = false

  constructor(net: SimNet, client: SimProcess, address: string, method: AnyMethod) {
    this.#net = net
    this.#address = address
    this.#method = method
    this.clientEnd = new StreamEnd(this, client, method.encodeRequest, method.decodeReply)
    this.#pass(this.clientEnd, () => this.#arriveOpen())
  }

  get world(): SimNet['world'] {
    return this.#net.world
  }

  joins(a: SimProcess, b: SimProcess): boolean {
    const client = this.clientEnd.host
    const server = this.#serverEnd?.host ?? this.#net.listenerAt(this.#address)?.host
    if (a === b) return client === a || server === a
    return (client === a && server === b) || (client === b && server === a)
  }

  #direction(from: StreamEnd): Direction {
    return from === this.clientEnd ? this.#toServer : this.#toClient
  }

  #peerProcess(end: StreamEnd): SimProcess | undefined {
    if (end !== this.clientEnd) return this.clientEnd.host
    return this.#serverEnd?.host ?? this.#net.listenerAt(this.#address)?.host
  }

  /** Runs `arrive` at the other side after everything that was sent before. */
  #pass(from: StreamEnd, arrive: () => void): void {
    const direction = this.#direction(from)
    const at = Math.max(this.world.nowMs + this.#net.delayMs(), direction.lastArrivalMs)
    direction.lastArrivalMs = at
    const label = `${from.host.id}>${this.#address} ${this.#method.path}`
    this.world.after(at - this.world.nowMs, label, this.#peerProcess(from), () => {
      if (!this.#broken) arrive()
    })
  }

  #arriveOpen(): void {
    const listener = this.#net.listenerAt(this.#address)
    const found = listener?.streams.get(this.#method.path)
    if (listener === undefined || found === undefined) {
      this.break(new StoreError('UNAVAILABLE', `open ${this.#method.path} at ${this.#address}: connection refused`))
      return
    }
    this.#serverEnd = new StreamEnd(this, listener.host, this.#method.encodeReply, this.#method.decodeRequest)
    found.handler(this.#serverEnd, { signal: this.#abort.signal, peer: this.clientEnd.host.id })
  }

  transmit(from: StreamEnd, item: Item): void {
    if (this.#broken) return
    const to = this.#peerProcess(from)
    if (to !== undefined && this.#net.random.chance(this.#net.faults.lossRate)) {
      this.break(new StoreError('UNAVAILABLE', `connection of ${from.host.id} and ${to.id} broke`))
      return
    }
    const direction = this.#direction(from)
    if (direction.held.length > 0 || (to !== undefined && this.#net.isCut(from.host, to))) {
      direction.held.push(item)
      if (direction.held.length === 1) this.#giveUpLater(direction, from)
      return
    }
    this.#launch(from, item)
  }

  #launch(from: StreamEnd, item: Item): void {
    this.#pass(from, () => (from === this.clientEnd ? this.#serverEnd : this.clientEnd)?.receive(item))
  }

  #giveUpLater(direction: Direction, from: StreamEnd): void {
    this.world.after(this.#net.random.between(500, 6000), `${from.host.id} gives up`, undefined, () => {
      if (direction.held.length > 0) {
        this.break(new StoreError('UNAVAILABLE', `connection of ${from.host.id} to ${this.#address} timed out`))
      }
    })
  }

  /** Sends what a cut held back, if the link carries again. */
  flushHeld(): void {
    for (const end of [this.clientEnd, this.#serverEnd]) {
      const to = end === undefined ? undefined : this.#peerProcess(end)
      if (end === undefined || to === undefined || this.#net.isCut(end.host, to)) continue
      const direction = this.#direction(end)
      const held = direction.held
      direction.held = []
      for (const item of held) this.#launch(end, item)
    }
  }

  /** `end` took bytes: the sender gets its window back. */
  taken(end: StreamEnd, length: number): void {
    const sender = end === this.clientEnd ? this.#serverEnd : this.clientEnd
    if (sender === undefined) return
    if (!sender.full) {
      sender.credit(length)
      return
    }
    this.world.after(this.#net.delayMs(), `${end.host.id} credit`, sender.host, () => sender.credit(length))
  }

  /** `end` has seen the last message of the other one. The server's end is the end of the call. */
  halfClosed(end: StreamEnd): void {
    if (end === this.clientEnd) {
      this.clientEnd.finish(undefined)
      const server = this.#serverEnd
      if (server !== undefined) {
        this.world.after(this.#net.delayMs(), `${server.host.id} over`, server.host, () => server.finish(undefined))
      }
    }
  }

  closed(): void {
    this.#abort.abort()
    if (this.clientEnd.closed && (this.#serverEnd?.closed ?? true)) this.#net.forget(this)
  }

  /** Both ends lose the connection; each hears of it in its own time. */
  break(error: StoreError): void {
    if (this.#broken) return
    this.#broken = true
    this.#net.forget(this)
    for (const end of [this.clientEnd, this.#serverEnd]) {
      if (end === undefined || end.closed) continue
      this.world.after(this.#net.delayMs(), `${end.host.id} broken`, end.host, () => end.finish(error))
    }
  }
}
