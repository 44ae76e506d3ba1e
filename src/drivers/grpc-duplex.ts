/**
 * The Duplex port over a grpc-js bidirectional stream, the same code for both ends.
 *
 * Bytes, not messages, bound what is queued for sending: `send` answers false above `sendBytesMark` and `onDrain` comes
 * when half of it has gone. Messages are encoded and decoded here, so that a message that does not parse breaks its
 * stream with INVALID_ARGUMENT and nothing else. `onClose` is called exactly once, and nothing is called after it.
 * A handler that throws breaks its stream; a broken invariant goes on up and ends the process.
 */

import { AssertionError } from '../base/assert.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import type { Duplex, Traffic } from '../ports/net.ts'

/** Bytes that may wait to be sent before the sender is told to stop. Twice a large frame keeps the socket busy. */
const sendBytesMark = 2 * 1024 * 1024
const drainBytesMark = sendBytesMark / 2

/** The stream methods used here, common to grpc-js's client and server streams. */
export interface ByteStream {
  write(bytes: Buffer, callback: (error: Error | null | undefined) => void): boolean
  end(): unknown
  pause(): unknown
  resume(): unknown
  on(event: 'data', listener: (bytes: Buffer) => void): unknown
  on(event: 'end', listener: () => void): unknown
}

export interface DuplexCodec<Out, In> {
  encode(message: Out): Uint8Array
  decode(bytes: Uint8Array): In
}

/** How one end differs from the other. */
export interface DuplexEnd {
  /** Breaks the stream in the way of this end. */
  abort(error: StoreError): void
  /** Bytes that came, whole messages or not; without it whole messages are counted. */
  receivedBytes?(): number
}

/** A Duplex and the way to tell it that its stream is over. */
export interface OpenDuplex<Out, In> {
  readonly duplex: Duplex<Out, In>
  /** True once `end` was called here. */
  ended(): boolean
  /** Idempotent; the first call decides. */
  closed(error: StoreError | undefined): void
}

/** A Buffer over the same memory. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

class GrpcDuplex<Out, In> implements Duplex<Out, In> {
  readonly #stream: ByteStream
  readonly #codec: DuplexCodec<Out, In>
  readonly #side: DuplexEnd
  #queuedBytes = 0
  #receivedBytes = 0
  #wantsDrain = false
  #ended = false
  #closed = false
  #closeReason: StoreError | undefined
  #messageHandler: ((message: In) => void) | undefined
  #drainHandler: (() => void) | undefined
  #endHandler: (() => void) | undefined
  #closeHandler: ((error: StoreError | undefined) => void) | undefined

  constructor(stream: ByteStream, codec: DuplexCodec<Out, In>, side: DuplexEnd) {
    this.#stream = stream
    this.#codec = codec
    this.#side = side
    // Flows from the start: the end of a stream shows only to who reads it, wanted messages or not.
    stream.on('data', (bytes) => this.#receive(bytes))
    stream.on('end', () => {
      if (!this.#closed) this.#guarded(() => this.#endHandler?.())
    })
  }

  get hasEnded(): boolean {
    return this.#ended
  }

  send(message: Out): boolean {
    if (this.#closed || this.#ended) return true
    const bytes = asBuffer(this.#codec.encode(message))
    this.#queuedBytes += bytes.length
    this.#stream.write(bytes, () => this.#sent(bytes.length))
    if (this.#queuedBytes < sendBytesMark) return true
    this.#wantsDrain = true
    return false
  }

  #sent(lengthBytes: number): void {
    this.#queuedBytes -= lengthBytes
    if (!this.#wantsDrain || this.#queuedBytes > drainBytesMark || this.#closed) return
    this.#wantsDrain = false
    this.#guarded(() => this.#drainHandler?.())
  }

  end(): void {
    if (this.#closed || this.#ended) return
    this.#ended = true
    this.#stream.end()
  }

  destroy(error?: StoreError): void {
    if (this.#closed) return
    const reason = error ?? new StoreError('CANCELLED', 'stream: broken off by this side')
    this.#side.abort(reason)
    this.close(reason)
  }

  pause(): void {
    if (!this.#closed) this.#stream.pause()
  }

  resume(): void {
    if (!this.#closed) this.#stream.resume()
  }

  traffic(): Traffic {
    return { receivedBytes: this.#side.receivedBytes?.() ?? this.#receivedBytes, queuedBytes: this.#queuedBytes }
  }

  onMessage(handler: (message: In) => void): void {
    this.#messageHandler = handler
  }

  #receive(bytes: Buffer): void {
    this.#receivedBytes += bytes.length
    if (this.#closed || this.#messageHandler === undefined) return
    this.#guarded(() => this.#messageHandler?.(this.#codec.decode(bytes)))
  }

  onDrain(handler: () => void): void {
    this.#drainHandler = handler
  }

  onEnd(handler: () => void): void {
    this.#endHandler = handler
  }

  onClose(handler: (error: StoreError | undefined) => void): void {
    this.#closeHandler = handler
  }

  #guarded(work: () => void): void {
    try {
      work()
    } catch (error) {
      if (error instanceof AssertionError) throw error
      this.destroy(asStoreError(error, 'handle a message of a stream'))
    }
  }

  /** Tells the owner, later, so that `destroy` never calls back into its caller. */
  close(error: StoreError | undefined): void {
    if (this.#closed) return
    this.#closed = true
    this.#closeReason = error
    queueMicrotask(() => this.#closeHandler?.(this.#closeReason))
  }
}

/** Makes a Duplex of a grpc-js stream. Its side calls `closed` when grpc-js says that the stream is over. */
export function createDuplex<Out, In>(
  stream: ByteStream,
  codec: DuplexCodec<Out, In>,
  side: DuplexEnd,
): OpenDuplex<Out, In> {
  const duplex = new GrpcDuplex(stream, codec, side)
  return { duplex, ended: () => duplex.hasEnded, closed: (error) => duplex.close(error) }
}

/** A stream that never came to be: closes with `error`, as soon as its owner can have asked to be told. */
export function failedDuplex<Out, In>(error: StoreError): Duplex<Out, In> {
  const nothing = { write: () => true, end: () => undefined, pause: () => undefined, resume: () => undefined }
  const codec: DuplexCodec<Out, In> = {
    encode: () => new Uint8Array(0),
    decode: () => {
      throw error
    },
  }
  const open = createDuplex<Out, In>({ ...nothing, on: () => undefined }, codec, { abort: () => undefined })
  open.closed(error)
  return open.duplex
}
