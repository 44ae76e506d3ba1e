/**
 * One Chunks stream: many puts and gets of one client, multiplexed by request number.
 *
 * What is bounded, and how: operations per stream (`operationsMax`, OVERLOADED above it); bytes of puts by the engine's
 * arena; bytes that came for puts still waiting for room by `Waiting`, shared by all streams of the node; bytes of gets
 * by reading the next piece only when the send buffer has room and one of few read slots of the disk is free. Gets of one
 * disk never wait for those of another: it may hang.
 *
 * Why waiting puts do not simply pause the stream: the bytes that would complete admitted puts, and so free the arena,
 * may be behind the pause. The stream is paused only while no admitted put of it is incomplete.
 *
 * Invariants: each operation is answered at most once, and nothing is sent for it after that; when the stream is over,
 * every writer is aborted and every reader closed; a put that gets no bytes ends, and so does a stream without progress.
 */

import { asStoreError, StoreError } from '../../model/errors.ts'
import { limits } from '../../model/limits.ts'
import type { Clock, Timer } from '../../ports/clock.ts'
import type { Duplex } from '../../ports/net.ts'
import { safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { Disks } from './disks.ts'
import { finishPut, type PutPlan, planPut } from './put.ts'
import type { Waiting } from './bounds.ts'
import type { ChunkReader, ChunkWriter } from './types.ts'

type ChunkRequest = holdfast.v1.ChunkRequest
type ChunkReplyOut = holdfast.v1.ChunkReply.$Properties

/** Puts and gets open at once on one stream. */
const operationsMax = 256
/** Gets of one stream and disk that deliver at once; the rest wait in order. */
const activeGetsMax = 4
/** A stream with open operations and no progress for this long is broken: it would hold extents. */
const stallMs = 60_000
/** A put that holds memory of the arena and gets no byte for this long is given up: others wait for that memory. */
const putStallMs = 10_000
const watchMs = 5000

export interface ChunkStreamDeps {
  readonly disks: Disks
  readonly clock: Clock
  /** Bytes held for puts that wait for admission, of all streams. */
  readonly waiting: Waiting
  /** Counts bytes of puts in flight for heartbeats. */
  readonly inflight: (deltaBytes: number) => void
  /** Called once, when the stream is over and everything it held is freed. */
  readonly onOver: () => void
}

interface Put {
  readonly kind: 'put'
  readonly plan: PutPlan
  readonly abort: AbortController
  /** When the put last got a byte, or its memory. */
  progressMs: number
  received: number
  writer: ChunkWriter | undefined
  /** Frames that came before admission, in order. */
  early: Uint8Array[]
  earlyBytes: number
  committing: boolean
}

interface Get {
  readonly kind: 'get'
  readonly message: holdfast.v1.Get
  reader: ChunkReader | undefined
  over: boolean
}

type Operation = Put | Get

class ChunkStream {
  readonly #stream: Duplex<ChunkReplyOut, ChunkRequest>
  readonly #deps: ChunkStreamDeps
  readonly #operations = new Map<number, Operation>()
  readonly #queuedGets: number[] = []
  /** Gets that deliver, by the disk that was asked for. */
  readonly #activeGets = new Map<number, number>()
  #waitingPuts = 0
  #incompletePuts = 0
  #paused = false
  #over = false
  #peerDone = false
  #drained: (() => void)[] = []
  #writable = true
  #progressMs: number
  #watch: Timer | undefined

  constructor(stream: Duplex<ChunkReplyOut, ChunkRequest>, deps: ChunkStreamDeps) {
    this.#stream = stream
    this.#deps = deps
    this.#progressMs = deps.clock.monotonicMs()
    stream.onMessage((message) => this.#receive(message))
    stream.onDrain(() => this.#onDrain())
    stream.onEnd(() => {
      this.#peerDone = true
      this.#maybeEnd()
    })
    stream.onClose(() => this.#release())
    this.#watch = this.#armWatch()
  }

  #armWatch(): Timer {
    return this.#deps.clock.after(watchMs, () => {
      this.#endStalledPuts()
      const quietMs = this.#deps.clock.monotonicMs() - this.#progressMs
      if (this.#operations.size > 0 && quietMs >= stallMs) {
        this.#stream.destroy(new StoreError('TIMEOUT', 'chunk stream: no progress on open operations; open a new one'))
        this.#release()
        return
      }
      this.#watch = this.#armWatch()
    })
  }

  #endStalledPuts(): void {
    const nowMs = this.#deps.clock.monotonicMs()
    for (const [request, operation] of this.#operations) {
      if (operation.kind !== 'put' || operation.writer === undefined || operation.committing) continue
      if (nowMs - operation.progressMs < putStallMs) continue
      this.#finish(
        request,
        new StoreError('TIMEOUT', `store chunk ${operation.plan.request.id}: no byte came for ${putStallMs} ms`),
      )
    }
  }

  #progress(): void {
    this.#progressMs = this.#deps.clock.monotonicMs()
  }

  #receive(message: ChunkRequest): void {
    if (this.#over) return
    this.#progress()
    const request = safeCounter(message.request, 'request')
    if (message.putData) this.#putData(request, message.putData.data)
    else if (message.putBegin) this.#begin(request, () => this.#putBegin(request, message.putBegin))
    else if (message.get) this.#begin(request, () => this.#get(request, message.get))
    else if (message.cancel) this.#cancel(request)
    else throw new StoreError('INVALID_ARGUMENT', 'chunk stream: a message without a body')
  }

  #begin(request: number, start: () => void): void {
    if (this.#operations.has(request)) {
      throw new StoreError('INVALID_ARGUMENT', `chunk stream: request ${request} is already open; use a new number`)
    }
    try {
      if (this.#operations.size >= operationsMax) {
        throw new StoreError('OVERLOADED', `chunk stream: ${operationsMax} operations are open; wait for some`, {
          details: { retryAfterMs: 100 },
        })
      }
      start()
    } catch (error) {
      this.#refuse(request, error)
    }
  }

  #refuse(request: number, error: unknown): void {
    const failure = asStoreError(error, 'chunk stream')
    this.#send({
      request,
      failure: {
        code: failure.code,
        message: failure.message,
        retryAfterMs: failure.details.retryAfterMs ?? 0,
      },
    })
  }

  #send(reply: ChunkReplyOut): void {
    if (this.#over) return
    if (!this.#stream.send(reply)) this.#writable = false
  }

  #onDrain(): void {
    this.#progress()
    this.#writable = true
    const wake = this.#drained
    this.#drained = []
    for (const resume of wake) resume()
  }

  /** Ends an operation; `error` is told to the client. */
  #finish(request: number, error?: unknown): void {
    const operation = this.#operations.get(request)
    if (operation === undefined) return
    this.#operations.delete(request)
    this.#drop(operation)
    if (error !== undefined) this.#refuse(request, error)
    this.#flow()
    this.#maybeEnd()
  }

  /** Frees what an operation holds. */
  #drop(operation: Operation): void {
    if (operation.kind === 'get') {
      operation.over = true
      operation.reader?.close()
      operation.reader = undefined
      return
    }
    this.#deps.inflight(-operation.plan.request.length)
    this.#deps.waiting.giveBack(operation.earlyBytes)
    operation.early = []
    operation.earlyBytes = 0
    if (operation.writer === undefined) this.#waitingPuts -= 1
    else if (!operation.committing) this.#incompletePuts -= 1
    operation.abort.abort()
    if (!operation.committing) operation.writer?.abort()
  }

  #maybeEnd(): void {
    if (!this.#peerDone || this.#over) return
    // Puts whose bytes can no longer come are given up.
    for (const [request, operation] of this.#operations) {
      if (operation.kind === 'put' && operation.received < operation.plan.request.length) {
        this.#operations.delete(request)
        this.#drop(operation)
      }
    }
    if (this.#operations.size === 0) this.#stream.end()
  }

  #cancel(request: number): void {
    const operation = this.#operations.get(request)
    if (operation === undefined || (operation.kind === 'put' && operation.committing)) return
    this.#finish(request)
  }

  #release(): void {
    if (this.#over) return
    this.#over = true
    this.#watch?.cancel()
    const operations = [...this.#operations.values()]
    this.#operations.clear()
    for (const operation of operations) this.#drop(operation)
    this.#queuedGets.length = 0
    this.#onDrain()
    this.#deps.onOver()
  }

  // Puts.

  #putBegin(request: number, message: holdfast.v1.PutBegin | null | undefined): void {
    if (!message) return
    const plan = planPut(this.#deps.disks, message)
    const put: Put = {
      kind: 'put',
      plan,
      abort: new AbortController(),
      progressMs: this.#progressMs,
      received: 0,
      writer: undefined,
      early: [],
      earlyBytes: 0,
      committing: false,
    }
    this.#operations.set(request, put)
    this.#deps.inflight(plan.request.length)
    this.#waitingPuts += 1
    this.#flow()
    plan.slot.engine.beginPut(plan.request, put.abort.signal).then(
      (writer) => this.#admitted(request, put, writer),
      (error: unknown) => {
        if (this.#operations.get(request) === put) this.#finish(request, error)
      },
    )
  }

  #admitted(request: number, put: Put, writer: ChunkWriter): void {
    if (this.#operations.get(request) !== put) {
      writer.abort()
      return
    }
    this.#progress()
    put.progressMs = this.#progressMs
    this.#waitingPuts -= 1
    this.#incompletePuts += 1
    put.writer = writer
    const frames = put.early
    put.early = []
    this.#deps.waiting.giveBack(put.earlyBytes)
    put.earlyBytes = 0
    try {
      for (const frame of frames) writer.write(frame)
    } catch (error) {
      this.#finish(request, error)
      return
    }
    this.#flow()
    this.#maybeCommit(request, put)
  }

  #putData(request: number, bytes: Uint8Array): void {
    const put = this.#operations.get(request)
    // Frames of a put that has failed may still be on their way; they are dropped.
    if (put === undefined || put.kind !== 'put') return
    put.received += bytes.length
    put.progressMs = this.#progressMs
    try {
      if (put.received > put.plan.request.length) {
        throw new StoreError('INVALID_ARGUMENT', `store chunk ${put.plan.request.id}: more bytes came than its length`)
      }
      if (put.writer !== undefined) put.writer.write(bytes)
      else this.#early(put, bytes)
    } catch (error) {
      this.#finish(request, error)
      return
    }
    this.#maybeCommit(request, put)
  }

  #early(put: Put, bytes: Uint8Array): void {
    if (!this.#deps.waiting.take(bytes.length)) {
      throw new StoreError('OVERLOADED', `store chunk ${put.plan.request.id}: no room for its bytes now; try later`, {
        details: { retryAfterMs: 100 },
      })
    }
    put.early.push(bytes)
    put.earlyBytes += bytes.length
  }

  #maybeCommit(request: number, put: Put): void {
    const { writer, plan } = put
    if (writer === undefined || put.committing || put.received < plan.request.length) return
    put.committing = true
    this.#incompletePuts -= 1
    this.#flow()
    finishPut(this.#deps.disks, plan, writer).then(
      (putDone) => {
        if (this.#operations.get(request) !== put) return
        this.#progress()
        this.#send({ request, putDone })
        this.#finish(request)
      },
      (error: unknown) => {
        if (this.#operations.get(request) === put) this.#finish(request, error)
      },
    )
  }

  /** Pauses while puts wait for room and none that is admitted still needs bytes. */
  #flow(): void {
    if (this.#over) return
    const stop = this.#waitingPuts > 0 && this.#incompletePuts === 0
    if (stop === this.#paused) return
    this.#paused = stop
    if (stop) this.#stream.pause()
    else this.#stream.resume()
  }

  // Gets.

  #get(request: number, message: holdfast.v1.Get | null | undefined): void {
    if (!message) return
    this.#operations.set(request, { kind: 'get', message, reader: undefined, over: false })
    this.#queuedGets.push(request)
    this.#startGets()
  }

  #startGets(): void {
    for (let at = 0; at < this.#queuedGets.length; ) {
      const request = this.#queuedGets[at] as number
      const get = this.#operations.get(request)
      const disk = get?.kind === 'get' ? get.message.disk : 0
      const active = this.#activeGets.get(disk) ?? 0
      if (get?.kind === 'get' && active >= activeGetsMax) {
        at++
        continue
      }
      this.#queuedGets.splice(at, 1)
      if (get?.kind !== 'get') continue
      this.#activeGets.set(disk, active + 1)
      this.#startGet(request, get, disk)
    }
  }

  #startGet(request: number, get: Get, disk: number): void {
    this.#deliver(request, get)
      .then(
        () => {
          // The number may be another operation's by now, after a cancel.
          if (this.#operations.get(request) === get) this.#finish(request)
        },
        (error: unknown) => {
          if (this.#operations.get(request) === get) this.#finish(request, error)
        },
      )
      .then(() => {
        const active = (this.#activeGets.get(disk) ?? 1) - 1
        if (active > 0) this.#activeGets.set(disk, active)
        else this.#activeGets.delete(disk)
        this.#startGets()
      })
      .catch((error: unknown) => this.#stream.destroy(asStoreError(error, 'chunk stream')))
  }

  async #deliver(request: number, get: Get): Promise<void> {
    const { message } = get
    const { reader, slot } = await this.#deps.disks.openRead(
      safeCounter(message.disk, 'disk'),
      safeCounter(message.id, 'id'),
      safeCounter(message.offset, 'offset', limits.chunkBytesMax),
      safeCounter(message.length, 'length', limits.chunkBytesMax),
    )
    if (get.over || this.#over) {
      reader.close()
      return
    }
    get.reader = reader
    const { length, root, blockSums, offset, bytes } = reader
    this.#send({ request, getBegin: { length, root, blockSums, offset, bytes } })
    while (!get.over) {
      if (!this.#writable) {
        await new Promise<void>((resolve) => this.#drained.push(resolve))
        continue
      }
      const release = await slot.reads.acquire()
      const piece = await (get.over ? Promise.resolve(undefined) : reader.next()).finally(release)
      if (get.over || piece === undefined) return
      this.#progress()
      this.#send({ request, getData: { data: piece } })
    }
  }
}

/** Serves one Chunks stream until it closes. */
export function serveChunkStream(stream: Duplex<ChunkReplyOut, ChunkRequest>, deps: ChunkStreamDeps): void {
  new ChunkStream(stream, deps)
}
