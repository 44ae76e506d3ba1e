/**
 * gRPC streams straight on HTTP/2, for the streams that carry many small messages (Meta sessions, Raft, node control).
 *
 * Why not grpc-js: it passes each message through a dozen objects, promises and events, which costs several times what the
 * message itself does. Here the messages that are sent in one turn of the event loop leave in one write, and those that
 * arrive in one frame are parsed where they lie. On the wire nothing differs: either end may be any gRPC library.
 *
 * This file is what both ends share: framing, and the stream that GrpcDuplex works on. Invariants: messages keep their
 * order; a message longer than the bound, a compressed one (never agreed to) or a truncated one breaks the stream with a
 * clear error; while paused nothing is delivered and the peer runs out of window.
 */

import type { Http2Stream } from 'node:http2'
import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { ByteStream } from './grpc-duplex.ts'

const headBytes = 5
/** What is sent in one turn is copied together up to here; beyond, copying costs more than another write. */
const joinBytesMax = 64 * 1024

function tooLong(length: number, doing: string): StoreError {
  return new StoreError(
    'INVALID_ARGUMENT',
    `${doing} a message of ${length} bytes: larger than ${limits.messageBytesMax}, the most there is`,
  )
}

interface Queued {
  readonly bytes: Buffer
  readonly callback: (error: Error | null | undefined) => void
}

function putHead(out: Buffer, at: number, length: number): void {
  out[at] = 0
  out.writeUInt32BE(length, at + 1)
}

/** Messages over one HTTP/2 stream. */
export class MessageStream implements ByteStream {
  readonly #stream: Http2Stream
  readonly #onBroken: (error: StoreError) => void
  #queue: Queued[] = []
  #queuedBytes = 0
  #ending = false
  #dropped = false
  /** Bytes that arrived and hold no whole message yet, or were not delivered because of a pause. */
  #received: Buffer | undefined
  /** Pieces of a message that is larger than a frame, until it is whole. */
  #pieces: Buffer[] = []
  #piecesBytes = 0
  #wantBytes = 0
  /** Of all that arrived. */
  #arrivedBytes = 0
  #paused = false
  #delivering = false
  #ended = false
  #onData: (bytes: Buffer) => void = () => undefined
  #onEnd: (() => void)[] = []

  /** `onBroken` is called when the peer does not keep to the framing; it ends the stream. */
  constructor(stream: Http2Stream, onBroken: (error: StoreError) => void) {
    this.#stream = stream
    this.#onBroken = onBroken
    stream.on('data', (chunk: Buffer) => this.#arrived(chunk))
    stream.on('end', () => {
      this.#ended = true
      this.#deliver()
    })
  }

  on(event: 'data' | 'end', listener: ((bytes: Buffer) => void) & (() => void)): void {
    if (event === 'data') this.#onData = listener
    else this.#onEnd.push(listener)
  }

  write(bytes: Buffer, callback: (error: Error | null | undefined) => void): boolean {
    if (this.#dropped || this.#ending) return false
    if (bytes.length > limits.messageBytesMax) {
      this.#onBroken(tooLong(bytes.length, 'send'))
      return false
    }
    if (this.#queue.length === 0) process.nextTick(() => this.#flush())
    this.#queue.push({ bytes, callback })
    this.#queuedBytes += headBytes + bytes.length
    return true
  }

  #flush(): void {
    if (this.#dropped || this.#queue.length === 0) return
    const queue = this.#queue
    const total = this.#queuedBytes
    this.#queue = []
    this.#queuedBytes = 0
    if (total > joinBytesMax) this.#writeEach(queue)
    else {
      const joined = Buffer.allocUnsafe(total)
      let at = 0
      for (const { bytes } of queue) {
        putHead(joined, at, bytes.length)
        joined.set(bytes, at + headBytes)
        at += headBytes + bytes.length
      }
      this.#stream.write(joined, (error) => {
        for (const { callback } of queue) callback(error)
      })
    }
    if (this.#ending) this.#stream.end()
  }

  #writeEach(queue: readonly Queued[]): void {
    this.#stream.cork()
    for (const { bytes, callback } of queue) {
      const head = Buffer.allocUnsafe(headBytes)
      putHead(head, 0, bytes.length)
      this.#stream.write(head)
      this.#stream.write(bytes, callback)
    }
    this.#stream.uncork()
  }

  end(): void {
    this.#ending = true
    if (this.#queue.length === 0 && !this.#dropped) this.#stream.end()
  }

  /** Forgets what was not handed to HTTP/2 yet, and delivers nothing any more. */
  drop(): void {
    this.#dropped = true
    this.#queue = []
    this.#received = undefined
    this.#pieces = []
    this.#stream.resume() // what still arrives is thrown away
  }

  pause(): void {
    this.#paused = true
    if (!this.#dropped) this.#stream.pause()
  }

  resume(): void {
    this.#paused = false
    if (!this.#delivering) this.#deliver()
    if (!this.#paused) this.#stream.resume()
  }

  get arrivedBytes(): number {
    return this.#arrivedBytes
  }

  #arrived(chunk: Buffer): void {
    this.#arrivedBytes += chunk.length
    if (this.#dropped) return
    if (this.#wantBytes > 0) {
      // In the middle of a large message: gathered, and joined once.
      this.#pieces.push(chunk)
      this.#piecesBytes += chunk.length
      if (this.#piecesBytes < this.#wantBytes) return
      this.#received = Buffer.concat(this.#pieces)
      this.#pieces = []
      this.#piecesBytes = 0
      this.#wantBytes = 0
    } else {
      this.#received = this.#received === undefined ? chunk : Buffer.concat([this.#received, chunk])
    }
    if (!this.#delivering) this.#deliver()
  }

  /** Gives out the whole messages there are, unless paused; at the end of the stream says so. */
  #deliver(): void {
    this.#delivering = true
    try {
      for (let bytes = this.#received; bytes !== undefined && !this.#paused && !this.#dropped; bytes = this.#received) {
        const message = this.#next(bytes)
        if (message === undefined) break
        this.#onData(message)
      }
    } finally {
      this.#delivering = false
    }
    if (!this.#ended || this.#paused || this.#dropped) return
    if (this.#received !== undefined || this.#wantBytes > 0) {
      this.#onBroken(new StoreError('UNAVAILABLE', 'receive a message: the stream ended in the middle of it'))
      return
    }
    for (const tell of this.#onEnd.splice(0)) tell()
  }

  /** Takes the first whole message off `bytes`, which is what was received; undefined when there is none. */
  #next(bytes: Buffer): Buffer | undefined {
    if (bytes.length < headBytes) return undefined
    const length = bytes.readUInt32BE(1)
    if (bytes[0] !== 0) {
      this.#onBroken(new StoreError('INVALID_ARGUMENT', 'receive a message: it is compressed, which was never agreed'))
      return undefined
    }
    if (length > limits.messageBytesMax) {
      this.#onBroken(tooLong(length, 'receive'))
      return undefined
    }
    const end = headBytes + length
    if (bytes.length < end) {
      this.#wantBytes = end
      this.#pieces = [bytes]
      this.#piecesBytes = bytes.length
      this.#received = undefined
      return undefined
    }
    this.#received = bytes.length === end ? undefined : bytes.subarray(end)
    return bytes.subarray(headBytes, end)
  }
}
