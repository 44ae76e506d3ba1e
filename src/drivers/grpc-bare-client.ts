/**
 * The client's end of gRPC streams straight on HTTP/2 (why: grpc-bare.ts): a pool of connections, one an address, and the
 * status that a call ended with.
 *
 * A connection that breaks, or is told to go away, is thrown away and the next stream makes a new one; nothing is retried
 * here. One that nobody used for a minute is closed. A peer that stops answering pings is given up.
 */

import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  type IncomingHttpHeaders,
} from 'node:http2'
import { Metadata, status as Status } from '@grpc/grpc-js'
import type { StoreError } from '../model/errors.ts'
import type { DuplexEnd } from './grpc-duplex.ts'
import { MessageStream } from './grpc-bare.ts'
import { errorOfStatus } from './grpc-status.ts'

const idleMs = 60_000
const keepaliveMs = 10_000
const keepaliveTimeoutMs = 5_000
const sessionMebibytesMax = 64

interface Connection {
  readonly address: string
  readonly session: ClientHttp2Session
  uses: number
  idleTimer: NodeJS.Timeout | undefined
  /** Why it broke, in grpc-js's words, which errorOfStatus knows. */
  failure: string | undefined
  connected: boolean
}

/** What a bare stream tells its owner; `closed` may come more than once, the first one counts. */
interface BareStreamEvents {
  /** The peer took the stream. */
  accepted(): void
  closed(error: StoreError | undefined): void
}

interface BareStream extends DuplexEnd {
  readonly messages: MessageStream
  /** To be called when everything the peer sent was delivered: its status counts only then. */
  drained(): void
  /** Throws the connection away: its peer does not answer. */
  discard(): void
}

/** Connections for bare streams. */
export class BareConnections {
  readonly #connections = new Map<string, Connection>()

  #acquire(address: string): Connection {
    const known = this.#connections.get(address)
    if (known !== undefined && !known.session.closed && !known.session.destroyed) {
      known.uses++
      clearTimeout(known.idleTimer)
      return known
    }
    const connection = this.#connect(address)
    this.#connections.set(address, connection)
    return connection
  }

  #connect(address: string): Connection {
    const session = connect(`http://${address}`, {
      settings: { enablePush: false },
      maxSessionMemory: sessionMebibytesMax,
    })
    const connection: Connection = {
      address,
      session,
      uses: 1,
      idleTimer: undefined,
      failure: undefined,
      connected: false,
    }
    session.on('connect', () => {
      connection.connected = true
    })
    session.on('error', (error: NodeJS.ErrnoException) => {
      const reason = error.code ?? error.message
      connection.failure ??= connection.connected ? reason : `No connection established. Last error: ${reason}`
    })
    session.on('goaway', () => this.#forget(connection))
    let unanswered: NodeJS.Timeout | undefined
    const pings = setInterval(() => {
      if (session.destroyed || session.connecting) return
      unanswered ??= setTimeout(() => {
        connection.failure ??= 'the peer does not answer'
        session.destroy()
      }, keepaliveTimeoutMs)
      session.ping(() => {
        clearTimeout(unanswered)
        unanswered = undefined
      })
    }, keepaliveMs)
    pings.unref()
    session.once('close', () => {
      clearInterval(pings)
      clearTimeout(unanswered)
      this.#forget(connection)
    })
    return connection
  }

  #forget(connection: Connection): void {
    if (this.#connections.get(connection.address) === connection) this.#connections.delete(connection.address)
  }

  #release(connection: Connection): void {
    connection.uses--
    if (connection.uses > 0 || connection.session.destroyed) return
    connection.idleTimer = setTimeout(() => this.#discard(connection), idleMs)
    connection.idleTimer.unref()
  }

  #discard(connection: Connection): void {
    this.#forget(connection)
    clearTimeout(connection.idleTimer)
    connection.session.destroy()
  }

  /**
   * Opens a stream to `path` at `address`. Throws when HTTP/2 does, at once; else it fails only by `events.closed`, and not
   * before this returns.
   */
  open(address: string, path: string, doing: string, events: BareStreamEvents): BareStream {
    const connection = this.#acquire(address)
    const stream = this.#request(connection, path)
    const call = new ClientCall(stream, connection, doing, events)
    stream.once('close', () => this.#release(connection))
    return {
      messages: call.messages,
      abort: () => call.cancel(),
      receivedBytes: () => call.messages.arrivedBytes,
      drained: () => call.drained(),
      discard: () => this.#discard(connection),
    }
  }

  #request(connection: Connection, path: string): ClientHttp2Stream {
    try {
      return connection.session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
        'grpc-accept-encoding': 'identity',
      })
    } catch (error) {
      this.#release(connection)
      throw error
    }
  }

  close(): void {
    for (const connection of this.#connections.values()) this.#discard(connection)
  }
}

/** Follows one call to its end. */
class ClientCall {
  readonly messages: MessageStream
  readonly #stream: ClientHttp2Stream
  readonly #doing: string
  readonly #events: BareStreamEvents
  #succeeded = false
  #drained = false

  constructor(stream: ClientHttp2Stream, connection: Connection, doing: string, events: BareStreamEvents) {
    this.#stream = stream
    this.#doing = doing
    this.#events = events
    this.messages = new MessageStream(stream, (error) => {
      events.closed(error)
      this.cancel()
    })
    stream.on('response', (headers) => {
      events.accepted()
      if (headers['grpc-status'] !== undefined) this.#ended(headers)
      else if (headers[':status'] !== 200) this.#failed(Status.UNAVAILABLE, `HTTP status ${headers[':status']}`)
    })
    stream.on('trailers', (headers: IncomingHttpHeaders) => this.#ended(headers))
    let cause: string | undefined
    stream.on('error', (error) => {
      cause = codeOf(error.cause) // 'close' follows
    })
    stream.on('close', () => {
      if (this.#succeeded && this.#drained) return
      if (!connection.connected) connection.failure ??= `No connection established. Last error: ${cause}`
      const refused = stream.rstCode === constants.NGHTTP2_REFUSED_STREAM ? 'the peer refused the stream' : undefined
      const cancelled = stream.rstCode === constants.NGHTTP2_CANCEL && !connection.session.destroyed
      const reason = connection.failure ?? refused ?? `the connection broke (RST_STREAM code ${stream.rstCode})`
      this.#failed(cancelled ? Status.CANCELLED : Status.UNAVAILABLE, reason)
    })
  }

  drained(): void {
    this.#drained = true
    this.#settle()
  }

  cancel(): void {
    this.messages.drop()
    this.#stream.close(constants.NGHTTP2_CANCEL)
  }

  #settle(): void {
    if (!this.#succeeded || !this.#drained) return
    this.#events.closed(undefined)
    // The call is over, whatever this side had left to say.
    if (!this.#stream.writableEnded) this.#stream.close(constants.NGHTTP2_NO_ERROR)
  }

  #ended(headers: IncomingHttpHeaders): void {
    const code = Number(headers['grpc-status'] ?? Status.UNKNOWN)
    if (code === Status.OK) {
      this.#succeeded = true
      this.#settle()
      return
    }
    const details = decoded(String(headers['grpc-message'] ?? ''))
    this.#events.closed(errorOfStatus({ code, details, metadata: Metadata.fromHttp2Headers(headers) }, this.#doing))
    this.messages.drop()
  }

  #failed(code: number, details: string): void {
    this.#events.closed(errorOfStatus({ code, details }, this.#doing))
  }
}

/** The system's code of an error, where it has one. */
function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}

function decoded(text: string): string {
  try {
    return decodeURI(text)
  } catch {
    return text
  }
}
