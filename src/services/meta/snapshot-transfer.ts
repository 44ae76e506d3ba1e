/**
 * Streams one snapshot of the state machine from the leader to a follower that is too far behind, on a stream of its
 * own so that no heartbeat waits for it.
 *
 * Pieces are numbered without gaps, each with its XXH64; the last one carries the XXH64 over all sums, so an early end
 * is never taken for completion. The receiver checks cluster, sender and incarnation on the first piece, feeds the
 * pieces to the state machine under back-pressure, and answers only when everything is durable.
 */

import { concatBytes, copyBytes, equalBytes } from '../../base/bytes.ts'
import { SchemaError } from '../../base/schema.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Hasher } from '../../ports/hasher.ts'
import type { Duplex } from '../../ports/net.ts'
import { decodeMessage, encodeMessage, type SnapshotOffer } from '../../core/raft/messages.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import { incarnationOnWire, type LinkIdentity, standingOf } from './link-identity.ts'

/** A transfer without any progress for this long is given up. */
const idleMs = 30_000
const pieceBytesMax = 1024 * 1024
const sumBytes = 8
/** Pieces the receiver keeps while the state machine writes. */
const queuedPiecesMax = 4

type Piece = holdfast.v1.SnapshotPiece
type InStream = Duplex<holdfast.v1.SnapshotDone.$Properties, Piece>
type OutStream = Duplex<holdfast.v1.SnapshotPiece.$Properties, holdfast.v1.SnapshotDone>

function sumOf(hasher: Hasher, bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(sumBytes)
  hasher.sumInto(bytes, out, 0)
  return out
}

/** Restarts on every sign of progress; breaks the stream when there is none. */
class IdleGuard {
  readonly #env: Env
  readonly #expired: () => void
  #timer: Timer

  constructor(env: Env, expired: () => void) {
    this.#env = env
    this.#expired = expired
    this.#timer = env.clock.after(idleMs, expired)
  }

  progress(): void {
    this.#timer.cancel()
    this.#timer = this.#env.clock.after(idleMs, this.#expired)
  }

  cancel(): void {
    this.#timer.cancel()
  }
}

/**
 * Sends `pieces` to `address`; resolves when the receiver has installed them durably. Rejects with what went wrong; the
 * pieces' iterator is closed in every case.
 */
export async function sendSnapshot(
  env: Env,
  self: LinkIdentity & { readonly configIndex: number },
  address: string,
  offer: SnapshotOffer,
  pieces: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  const stream: OutStream = env.net.open(address, raftMethods.snapshot)
  const state = outcomeOf(env, stream, signal)
  const { node: from, incarnation, clusterId, configIndex } = self
  const head = {
    ...incarnationOnWire(self),
    configIndex,
    clusterId,
    from,
    incarnation,
    to: offer.to,
    term: offer.term,
    index: offer.index,
    indexTerm: offer.indexTerm,
  }
  let number = 0
  const sums: Uint8Array[] = []
  const send = async (bytes: Uint8Array, last: boolean): Promise<void> => {
    const message = number === 0 ? encodeMessage(offer) : new Uint8Array(0)
    const sum = sumOf(env.hasher, bytes)
    if (!last) sums.push(sum)
    const ready = stream.send({ ...head, piece: number, data: bytes, sum, last, message })
    number++
    if (ready) state.progress()
    else await state.drained()
  }
  try {
    for await (const bytes of pieces) {
      if (state.over()) break
      for (let at = 0; at < bytes.length; at += pieceBytesMax) {
        if (!state.over()) await send(bytes.subarray(at, at + pieceBytesMax), false)
      }
    }
    if (!state.over()) await send(sumOf(env.hasher, concatBytes(sums)), true)
    stream.end()
    await state.done
  } catch (error) {
    stream.destroy()
    throw error
  } finally {
    state.close()
  }
}

interface Outcome {
  /** Resolves when installed, rejects when refused or broken. */
  readonly done: Promise<void>
  over(): boolean
  /** Another message was taken by a stream that is not full. */
  progress(): void
  drained(): Promise<void>
  close(): void
}

function outcomeOf(env: Env, stream: OutStream, signal: AbortSignal): Outcome {
  let over = false
  let drain: () => void = () => {}
  let settle: (error: StoreError | undefined) => void = () => {}
  const done = new Promise<void>((resolve, reject) => {
    settle = (error) => {
      if (over) return
      over = true
      drain()
      if (error === undefined) resolve()
      else reject(error)
    }
  })
  // The sender may fail first; the outcome then has nobody waiting.
  done.catch(() => undefined)
  const abort = (): void => {
    settle(new StoreError('CANCELLED', 'send a snapshot: cancelled'))
    stream.destroy()
  }
  const guard = new IdleGuard(env, () => {
    settle(new StoreError('TIMEOUT', `send a snapshot: no progress for ${idleMs} ms`))
    stream.destroy()
  })
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  stream.onMessage((answer) => {
    settle(answer.installed ? undefined : new StoreError('UNAVAILABLE', `send a snapshot: refused: ${answer.reason}`))
  })
  stream.onDrain(() => {
    guard.progress()
    drain()
  })
  stream.onEnd(() => settle(new StoreError('UNAVAILABLE', 'send a snapshot: the receiver ended without an answer')))
  stream.onClose((error) => settle(error ?? new StoreError('UNAVAILABLE', 'send a snapshot: the stream was closed')))
  return {
    done,
    over: () => over,
    progress: () => guard.progress(),
    drained: () =>
      over
        ? Promise.resolve()
        : new Promise((resolve) => {
            drain = resolve
          }),
    close: () => {
      guard.cancel()
      signal.removeEventListener('abort', abort)
    },
  }
}

export interface SnapshotReceiver {
  readonly self: LinkIdentity
  incarnationOf(id: NodeId): string | undefined
  /** Index of the newest configuration here. */
  configIndex(): number
  /** Installs; rejects with why not. The pieces must be consumed to the end or given up by throwing. */
  install(offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>): Promise<void>
}

/** Serves one incoming snapshot stream; gives up when `signal` aborts. */
export function receiveSnapshot(env: Env, receiver: SnapshotReceiver, stream: InStream, signal: AbortSignal): void {
  const queue = new PieceQueue(env, stream)
  const abort = (): void => {
    queue.fail(new StoreError('SHUTTING_DOWN', 'receive a snapshot: the node is stopping'))
    stream.destroy()
  }
  signal.addEventListener('abort', abort, { once: true })
  let started = false
  const answer = (installed: boolean, reason: string): void => {
    stream.send({ installed, reason })
    stream.end()
  }
  stream.onMessage((piece) => {
    if (started) {
      queue.push(piece)
      return
    }
    started = true
    const offer = readOffer(receiver, piece)
    if (!('kind' in offer)) {
      queue.close()
      stream.destroy(offer)
      return
    }
    queue.push(piece)
    receiver.install(offer, queue.pieces()).then(
      () => answer(true, ''),
      (error: unknown) => {
        queue.fail(asStoreError(error, 'install a snapshot'))
        answer(false, asStoreError(error, 'install a snapshot').message)
      },
    )
  })
  stream.onEnd(() => queue.fail(new StoreError('UNAVAILABLE', 'receive a snapshot: the sender ended early')))
  stream.onClose((error) => {
    signal.removeEventListener('abort', abort)
    queue.fail(error ?? new StoreError('UNAVAILABLE', 'receive a snapshot: the stream was closed early'))
  })
}

function readOffer(receiver: SnapshotReceiver, piece: Piece): SnapshotOffer | StoreError {
  const standing = standingOf(receiver.self, piece, receiver.incarnationOf(piece.from), receiver.configIndex())
  if (standing instanceof StoreError) return standing
  try {
    const message = decodeMessage(piece.message, piece.from, piece.to)
    const fits =
      message.kind === 'snapshot' &&
      message.term === piece.term &&
      message.index === piece.index &&
      message.indexTerm === piece.indexTerm
    if (fits) return message
    return new StoreError('INVALID_ARGUMENT', `receive a snapshot from ${piece.from}: its announcement does not fit`)
  } catch (error) {
    if (!(error instanceof SchemaError)) return asStoreError(error, 'receive a snapshot')
    return new StoreError('INVALID_ARGUMENT', `receive a snapshot from ${piece.from}: ${error.message}`)
  }
}

/** Pieces on their way from the stream to the state machine: checked, in order, bounded by pausing the stream. */
class PieceQueue {
  readonly #env: Env
  readonly #stream: InStream
  readonly #guard: IdleGuard
  #queue: Uint8Array[] = []
  #next = 0
  /** Eight bytes for each MiB received: small whatever the size. */
  readonly #sums: Uint8Array[] = []
  #complete = false
  #failure: StoreError | undefined
  #wake: () => void = () => {}

  constructor(env: Env, stream: InStream) {
    this.#env = env
    this.#stream = stream
    this.#guard = new IdleGuard(env, () => {
      const error = new StoreError('TIMEOUT', `receive a snapshot: no progress for ${idleMs} ms`)
      this.fail(error)
      stream.destroy(error)
    })
  }

  push(piece: Piece): void {
    if (this.#complete || this.#failure !== undefined) return
    this.#guard.progress()
    const { hasher } = this.#env
    if (piece.piece !== this.#next || !equalBytes(sumOf(hasher, piece.data), piece.sum)) {
      this.fail(new StoreError('CORRUPT', `receive a snapshot: piece ${this.#next} is missing or damaged`))
      return
    }
    this.#next++
    if (piece.last) {
      if (!equalBytes(piece.data, sumOf(hasher, concatBytes(this.#sums)))) {
        this.fail(new StoreError('CORRUPT', 'receive a snapshot: the sum over all pieces does not match'))
        return
      }
      this.#complete = true
      this.close()
    } else {
      // A slice of a Buffer would keep the whole message.
      this.#sums.push(copyBytes(piece.sum))
      this.#queue.push(piece.data)
      if (this.#queue.length >= queuedPiecesMax) this.#stream.pause()
    }
    this.#wake()
  }

  fail(error: StoreError): void {
    this.close()
    if (this.#complete) return
    this.#failure ??= error
    this.#wake()
  }

  close(): void {
    this.#guard.cancel()
  }

  /** The pieces in order; throws when the transfer failed or ended early. */
  async *pieces(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const bytes = this.#queue.shift()
      if (bytes !== undefined) {
        this.#stream.resume()
        yield bytes
      } else if (this.#failure !== undefined) throw this.#failure
      else if (this.#complete) return
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
      }
    }
  }
}
