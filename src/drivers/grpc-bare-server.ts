/**
 * The server's end of a gRPC stream straight on HTTP/2 (why: grpc-bare.ts). Calls that ask for what is not done here, a
 * deadline or a compression, are left to grpc-js, which serves the same method.
 */

import {
  constants,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  sensitiveHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import type { StoreError } from '../model/errors.ts'
import { MessageStream } from './grpc-bare.ts'
import type { FailedStatus } from './grpc-status.ts'

/** A broken stream whose peer does not take the status is reset after this. */
const resetDelayMs = 1000

/** True when the call can be served here. */
export function isPlainCall(headers: IncomingHttpHeaders): boolean {
  const type = headers['content-type']
  const encoding = headers['grpc-encoding']
  return (
    headers[':method'] === 'POST' &&
    (type === 'application/grpc' || type === 'application/grpc+proto') &&
    headers['grpc-timeout'] === undefined &&
    (encoding === undefined || encoding === 'identity')
  )
}

/** One accepted call. */
export interface BareServerCall {
  readonly messages: MessageStream
  /** Address of the caller, for logs. */
  readonly peer: string
  /** True once everything that was sent, the status too, was handed over. */
  finished(): boolean
  /** Ends the stream with `status` at once, dropping what is queued. */
  abort(status: FailedStatus): void
}

/** Takes a call whose headers arrived. `onBroken`: the peer breaks the framing. `onClose`: the stream is over, either way. */
export function acceptBare(
  stream: ServerHttp2Stream,
  onBroken: (error: StoreError) => void,
  onClose: () => void,
): BareServerCall {
  let trailers: OutgoingHttpHeaders = { 'grpc-status': '0' }
  let finished = false
  stream.on('error', () => undefined) // 'close' follows
  stream.on('wantTrailers', () => stream.sendTrailers(trailers))
  stream.on('finish', () => {
    finished = true
  })
  stream.on('close', onClose)
  // Headers at once, so that the caller knows that it was taken.
  const headers = { ':status': 200, 'content-type': 'application/grpc+proto', 'grpc-accept-encoding': 'identity' }
  stream.respond({ ...headers, [sensitiveHeaders]: [] }, { waitForTrailers: true })
  const messages = new MessageStream(stream, onBroken)
  const { remoteAddress, remotePort } = stream.session?.socket ?? {}
  return {
    messages,
    peer: `${remoteAddress}:${remotePort}`,
    finished: () => finished,
    abort: (status) => {
      messages.drop()
      if (stream.closed || stream.destroyed) return
      trailers = {
        'grpc-status': String(status.code),
        'grpc-message': encodeURI(status.details),
        ...status.metadata.toHttp2Headers(),
      }
      stream.end()
      const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), resetDelayMs)
      timer.unref()
      stream.once('close', () => clearTimeout(timer))
    },
  }
}
