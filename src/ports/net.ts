/**
 * Calls between processes: gRPC in production, encoded bytes over a faulty virtual network in the simulator.
 *
 * Promises: what arrives is what was sent (TCP and gRPC check it in transit; the data path adds its own sums end to
 * end); one stream keeps its order. Does not promise: that anything arrives, that it arrives once (callers retry), or
 * that a failure tells whether the other side acted.
 * Errors are StoreErrors: UNAVAILABLE when the peer cannot be reached or the connection broke, TIMEOUT at the deadline,
 * CANCELLED by the signal, else what the other side threw.
 */

import type { StoreError } from '../model/errors.ts'

/**
 * One remote procedure: its gRPC path and codecs. Made by `src/wire/methods.ts`.
 * `In` types are what decoding gives (every field there); `Out` types are what may be sent (unset fields are defaults).
 */
export interface Method<RequestIn, ReplyIn, RequestOut = RequestIn, ReplyOut = ReplyIn> {
  /** `/holdfast.v1.Service/Name` */
  readonly path: string
  readonly kind: 'unary' | 'stream'
  encodeRequest(value: RequestOut): Uint8Array
  /** Throws INVALID_ARGUMENT on bytes that are not such a message. Byte fields are views on `bytes`. */
  decodeRequest(bytes: Uint8Array): RequestIn
  encodeReply(value: ReplyOut): Uint8Array
  decodeReply(bytes: Uint8Array): ReplyIn
}

export interface CallOptions {
  readonly timeoutMs: number
  readonly signal?: AbortSignal | undefined
}

/** How far a stream is, in bytes. */
export interface Traffic {
  /** Came in so far, those of a message that is not whole yet too, where the driver can tell. */
  readonly receivedBytes: number
  /** Wait here to be sent. */
  readonly queuedBytes: number
}

/** One end of a bidirectional stream. Handlers are set synchronously after it is obtained. */
export interface Duplex<Out, In> {
  /** Queues a message. False when the send buffer is over its mark: stop until `onDrain`. Ignored once closed. */
  send(message: Out): boolean
  /** No more messages from this side. */
  end(): void
  /** Breaks the stream at once, both ways; the other end sees CANCELLED or the error. */
  destroy(error?: StoreError): void
  /** Stops and continues delivery of messages; while stopped, the peer runs out of window and waits. */
  pause(): void
  resume(): void
  traffic(): Traffic
  onMessage(handler: (message: In) => void): void
  onDrain(handler: () => void): void
  /** The peer sent its last message (half close). */
  onEnd(handler: () => void): void
  /** Called once, when the stream is over both ways; without an error when both sides ended in order. */
  onClose(handler: (error: StoreError | undefined) => void): void
}

export interface NetClient {
  call<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    address: string,
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    request: RequestOut,
    options: CallOptions,
  ): Promise<ReplyIn>
  /** Opens at once; a peer that cannot be reached shows as `onClose` with UNAVAILABLE. */
  open<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    address: string,
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
  ): Duplex<RequestOut, ReplyIn>
  close(): Promise<void>
}

export interface CallContext {
  /** Aborts when the caller went away or the deadline passed. */
  readonly signal: AbortSignal
  /** Who calls, for logs. */
  readonly peer: string
}

/** What a service offers. The driver binds it to a port. */
export interface NetServer {
  unary<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    handler: (request: RequestIn, context: CallContext) => Promise<ReplyOut>,
  ): void
  stream<RequestIn, ReplyIn, RequestOut, ReplyOut>(
    method: Method<RequestIn, ReplyIn, RequestOut, ReplyOut>,
    handler: (stream: Duplex<ReplyOut, RequestIn>, context: CallContext) => void,
  ): void
}
