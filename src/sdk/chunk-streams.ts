/**
 * One long-lived Chunks stream per storage node, with many puts and gets in flight on it.
 *
 * Puts wait in a line and are sent frame by frame while the stream takes them; the line is bounded by the callers' byte
 * budget. Gets are never paused: a caller asks only for bytes that it has room for, so one slow reader does not hold up
 * the others on the stream.
 *
 * Invariants: every operation settles once: by its answer, its signal, or the end of the stream. A stream that has work
 * and shows no sign of life for `stallMs` is broken with TIMEOUT; so ends a put that is not answered `answerMs` after its
 * last byte went out, on a node that answers others (one of its disks hangs).
 */

import { asStoreError, StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { Env } from '../ports/env.ts'
import type { Duplex } from '../ports/net.ts'
import type { holdfast } from '../wire/messages.ts'
import { storageMethods } from '../wire/methods.ts'
import { preferHosts } from './addresses.ts'
import { errorOfFailure } from './remote-errors.ts'
import { abortReason, onAbort } from './scope.ts'
import { SilenceWatch } from './silence.ts'

/** Where one disk is. */
export interface Target {
  readonly disk: number
  readonly node: string
  readonly addresses: readonly string[]
  readonly zone: string
  readonly health: string
}

export interface PutFields {
  readonly id: number
  readonly lease: number
  readonly blockSums: Uint8Array
  readonly root: Uint8Array
}

export interface GetFields {
  readonly id: number
  readonly offset: number
  /** Bytes from offset, at least 1. */
  readonly length: number
}

/** Receives a get. Throwing from a handler ends the get with that error. */
export interface GetHandlers {
  begin(begin: holdfast.v1.GetBegin): void
  /** True when this was the last expected frame. The bytes are a view on the receive buffer. */
  piece(bytes: Uint8Array): boolean
}

const stallMs = 3_000
const answerMs = 6_000
/** A node that failed a read is asked after the others for this long. */
const avoidMs = 10_000

interface Operation {
  onReply(reply: holdfast.v1.ChunkReply): void
  fail(error: StoreError): void
}

interface Sending {
  readonly request: number
  readonly begin: holdfast.v1.PutBegin.$Properties
  readonly bytes: Uint8Array
  /** Next byte to send; -1 before the PutBegin. */
  at: number
  /** Called when the last byte was handed to the stream. */
  readonly sent: () => void
}

type ChunkStream = Duplex<holdfast.v1.ChunkRequest.$Properties, holdfast.v1.ChunkReply>

/** The stream to one address. */
class NodeLink {
  readonly #env: Env
  readonly #address: string
  readonly #stream: ChunkStream
  readonly #operations = new Map<number, Operation>()
  readonly #line: Sending[] = []
  #nextRequest = 1
  #writable = true
  #closed: StoreError | undefined
  readonly #silence: SilenceWatch
  answered = false

  constructor(env: Env, address: string) {
    this.#env = env
    this.#address = address
    this.#silence = new SilenceWatch(env.clock, stallMs, () => this.#silent())
    this.#stream = env.net.open(address, storageMethods.chunks)
    this.#stream.onMessage((reply) => this.#onReply(reply))
    this.#stream.onDrain(() => {
      this.#silence.heard()
      this.#writable = true
      this.#pump()
    })
    this.#stream.onEnd(() => this.#stream.end())
    this.#stream.onClose((error) => {
      this.#fail(
        error ?? new StoreError('UNAVAILABLE', `storage node at ${address} closed the stream: another replica is used`),
      )
    })
  }

  get closed(): boolean {
    return this.#closed !== undefined
  }

  get inFlight(): number {
    return this.#operations.size
  }

  #onReply(reply: holdfast.v1.ChunkReply): void {
    this.answered = true
    this.#silence.heard()
    const operation = this.#operations.get(reply.request)
    if (operation === undefined) return // given up before its answer came
    try {
      if (reply.failure !== null && reply.failure !== undefined) operation.fail(errorOfFailure(reply.failure))
      else operation.onReply(reply)
    } catch (error) {
      this.#stream.send({ request: reply.request, cancel: {} })
      operation.fail(asStoreError(error, `read from ${this.#address}`))
    }
  }

  #fail(error: StoreError): void {
    if (this.#closed !== undefined) return
    this.#closed = error
    this.#silence.stop()
    this.#line.length = 0
    for (const operation of this.#operations.values()) operation.fail(error)
  }

  #pump(): void {
    while (this.#writable && this.#closed === undefined) {
      const head = this.#line[0]
      if (head === undefined) return
      if (head.at < 0) {
        head.at = 0
        this.#writable = this.#stream.send({ request: head.request, putBegin: head.begin })
      } else {
        const end = Math.min(head.at + limits.frameBytes, head.bytes.length)
        const frame = head.bytes.subarray(head.at, end)
        head.at = end
        this.#writable = this.#stream.send({ request: head.request, putData: { data: frame } })
      }
      if (head.at < head.bytes.length) continue
      this.#line.shift()
      head.sent()
    }
  }

  #silent(): void {
    const error = new StoreError(
      'TIMEOUT',
      `storage node at ${this.#address} is silent for ${stallMs} ms: another one is used`,
    )
    this.#fail(error)
    this.#stream.destroy(error)
  }

  #begin(operation: Operation): number {
    if (this.#operations.size === 0) this.#silence.start()
    const request = this.#nextRequest++
    this.#operations.set(request, operation)
    return request
  }

  /** Runs one operation: `start` sends it, `onReply` gives its result when it has one. */
  #run<T>(
    signal: AbortSignal,
    start: (request: number) => void,
    onReply: (reply: holdfast.v1.ChunkReply) => T | undefined,
  ): Promise<T> {
    if (signal.aborted) return Promise.reject(abortReason(signal))
    if (this.#closed !== undefined) return Promise.reject(this.#closed)
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        stopListening()
        this.#operations.delete(request)
        if (this.#operations.size === 0) this.#silence.stop()
      }
      const fail = (error: StoreError): void => {
        settle()
        this.#dropFromLine(request)
        reject(error)
      }
      const stopListening = onAbort(signal, () => {
        fail(abortReason(signal))
        if (this.#closed === undefined) this.#stream.send({ request, cancel: {} })
      })
      const request = this.#begin({
        fail,
        onReply: (reply) => {
          const result = onReply(reply)
          if (result === undefined) return
          settle()
          this.#dropFromLine(request)
          resolve(result)
        },
      })
      start(request)
    })
  }

  /** An operation that is over sends no further frames (an early failure, or an answer for a chunk already held). */
  #dropFromLine(request: number): void {
    const at = this.#line.findIndex((sending) => sending.request === request)
    if (at >= 0) this.#line.splice(at, 1)
  }

  put(begin: holdfast.v1.PutBegin.$Properties, bytes: Uint8Array, signal: AbortSignal): Promise<holdfast.v1.PutDone> {
    let request = 0
    const answer = new SilenceWatch(this.#env.clock, answerMs, () => {
      const late = `storage node at ${this.#address} did not answer a put for ${answerMs} ms: another one is used`
      this.#operations.get(request)?.fail(new StoreError('TIMEOUT', late))
      this.#stream.send({ request, cancel: {} })
    })
    return this.#run(
      signal,
      (number) => {
        request = number
        this.#line.push({ request, begin, bytes, at: -1, sent: () => answer.start() })
        this.#pump()
      },
      (reply) => reply.putDone ?? undefined,
    ).finally(() => answer.stop())
  }

  get(fields: holdfast.v1.Get.$Properties, handlers: GetHandlers, signal: AbortSignal): Promise<true> {
    return this.#run<true>(
      signal,
      (request) => {
        this.#stream.send({ request, get: fields })
      },
      (reply) => {
        if (reply.getBegin !== null && reply.getBegin !== undefined) handlers.begin(reply.getBegin)
        else if (reply.getData !== null && reply.getData !== undefined && handlers.piece(reply.getData.data))
          return true
        return undefined
      },
    )
  }

  close(): void {
    const error = new StoreError('CANCELLED', `the stream to ${this.#address} was closed by the caller`)
    this.#fail(error)
    this.#stream.destroy(error)
  }
}

/** All streams of one client. */
export class ChunkStreams {
  readonly #env: Env
  readonly #hosts: ReadonlySet<string>
  readonly #links = new Map<string, NodeLink>()
  /** Which of a node's addresses works, by node id. */
  readonly #choice = new Map<string, number>()
  /** When a node last failed a read, by node id. */
  readonly #failedMs = new Map<string, number>()
  #closed = false

  /** `hosts`: hosts of the addresses that the client was given; such addresses of a node are tried first. */
  constructor(env: Env, hosts: ReadonlySet<string> = new Set()) {
    this.#env = env
    this.#hosts = hosts
  }

  /** The node failed a read for a reason that is its own: others are asked first for some seconds. */
  failed(target: Target): void {
    this.#failedMs.set(target.node, this.#env.clock.monotonicMs())
  }

  /** The node gave what was asked. */
  worked(target: Target): void {
    this.#failedMs.delete(target.node)
  }

  failedLately(target: Target): boolean {
    const atMs = this.#failedMs.get(target.node)
    return atMs !== undefined && this.#env.clock.monotonicMs() - atMs < avoidMs
  }

  #address(target: Target): string {
    const at = (this.#choice.get(target.node) ?? 0) % Math.max(1, target.addresses.length)
    const address = preferHosts(target.addresses, this.#hosts)[at]
    if (address === undefined) {
      throw new StoreError('UNAVAILABLE', `storage node ${target.node} has no address: wait until it registers again`)
    }
    return address
  }

  #link(address: string): NodeLink {
    if (this.#closed) throw new StoreError('CANCELLED', 'the connection was closed by the caller')
    const known = this.#links.get(address)
    if (known !== undefined && !known.closed) return known
    const link = new NodeLink(this.#env, address)
    this.#links.set(address, link)
    return link
  }

  /** Operations in flight to a node: what the choice between replicas looks at. */
  inFlight(target: Target): number {
    return target.addresses.length === 0 ? 0 : (this.#links.get(this.#address(target))?.inFlight ?? 0)
  }

  /** Runs `work` on the node's stream; when an address was never reached, its next one is tried. */
  async #on<T>(target: Target, work: (link: NodeLink) => Promise<T>): Promise<T> {
    for (let tried = 1; ; tried++) {
      const address = this.#address(target)
      const link = this.#link(address)
      try {
        return await work(link)
      } catch (error) {
        const failure = asStoreError(error, `use storage node ${target.node}`)
        const reached = link.answered || failure.code !== 'UNAVAILABLE'
        if (reached || tried >= target.addresses.length) throw failure
        if (this.#address(target) === address) this.#choice.set(target.node, (this.#choice.get(target.node) ?? 0) + 1)
      }
    }
  }

  /** Stores one chunk on one disk; resolves when it is durable there. */
  put(target: Target, fields: PutFields, bytes: Uint8Array, signal: AbortSignal): Promise<holdfast.v1.PutDone> {
    const begin = { ...fields, length: bytes.length, disk: target.disk }
    return this.#on(target, (link) => link.put(begin, bytes, signal))
  }

  /** Reads a part of one chunk from one disk. */
  async get(target: Target, fields: GetFields, handlers: GetHandlers, signal: AbortSignal): Promise<void> {
    await this.#on(target, (link) => link.get({ ...fields, disk: target.disk }, handlers, signal))
  }

  close(): void {
    this.#closed = true
    for (const link of this.#links.values()) link.close()
    this.#links.clear()
  }
}
