/**
 * HTTP/2 receive windows, and every other place where we reach into grpc-js: the one file to look at when it is upgraded.
 *
 * Why: with HTTP/2's default window of 64 KiB a bulk stream moves 250-390 MB/s; with 16 MiB it moves over 1,100. grpc-js
 * has an option for clients only, so on servers the http2 sessions are reached through `Server.http2Servers`.
 *
 * Node gives the connection's window back as soon as bytes arrive, whether or not anybody reads them; so what a peer can
 * make us hold is (streams of the session) x (initial window). That product is what is bounded here, for the process:
 * a session starts at HTTP/2's default, grows when a stream of bulk or of Raft opens, only by what `WindowPool` grants, shares its grant
 * among its streams, and gives it back when the last such stream or itself closes.
 *
 * What is relied on, and tested (test/drivers/grpc-windows.test.ts): `server.http2Servers` is a Map keyed by http2 servers
 * after bindAsync, and has one listener of 'stream' on each; a server stream has `call.sendStatus` and `call.stream`.
 */

import {
  constants,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import type { Server } from '@grpc/grpc-js'
import { limits } from '../model/limits.ts'
import type { FailedStatus } from './grpc-status.ts'

/** HTTP/2's own initial window; a stream never gets less. */
const smallestBytes = 65_535
/** Window of a bulk stream that is alone on its connection. More brings nothing (measured). */
const bulkBytes = 16 * 1024 * 1024
/**
 * Window of a connection of Raft messages: a batch of entries arrives whole. With HTTP/2's own window the sender would be
 * woken once for every 64 KiB of it.
 */
const messagesBytes = 2 * 1024 * 1024
const messagesPath = '/holdfast.v1.Raft/Messages'
/** A grant below this would not be worth a settings frame. */
const grantBytesMin = 256 * 1024
/** A broken stream whose peer does not take the status is reset after this. */
const resetDelayMs = 1000

/** The receive windows of a process: grants in bytes, whose sum never exceeds the bound. */
export class WindowPool {
  #left: number

  constructor(totalBytes: number = limits.windowBytesMax) {
    this.#left = totalBytes
  }

  /** Bytes that may still be granted. */
  get left(): number {
    return this.#left
  }

  /**
   * Grants up to `wantedBytes`, at most a quarter of what is left so that late comers find something; 0 when too little
   * is left. What is granted must be given back.
   */
  take(wantedBytes: number): number {
    const granted = Math.min(wantedBytes, Math.floor(this.#left / 4))
    if (granted < grantBytesMin) return 0
    this.#left -= granted
    return granted
  }

  giveBack(grantedBytes: number): void {
    this.#left += grantedBytes
  }
}

/** The pool of this process, shared by its server and its clients. */
export const processWindows: WindowPool = new WindowPool()

/** Wanted window of a client's bulk connection, for `WindowPool.take`. */
export const clientBulkBytes: number = bulkBytes

/** Channel options of a client connection whose receive window is `grantedBytes` (0: HTTP/2's default). */
export function clientWindowOptions(grantedBytes: number): Record<string, number> {
  return grantedBytes === 0 ? {} : { 'grpc-node.flow_control_window': grantedBytes }
}

/** Window of each stream when `streams` share `grantBytes`; moves in powers of two, so that it seldom changes. */
function windowFor(grantBytes: number, streams: number): number {
  const shares = 2 ** Math.ceil(Math.log2(Math.max(1, streams)))
  return Math.max(smallestBytes, Math.floor(grantBytes / shares))
}

/** Keeps the windows of one session within its grant. */
class SessionWindows {
  readonly #session: ServerHttp2Session
  readonly #pool: WindowPool
  #grantBytes = 0
  #windowBytes = smallestBytes
  #streams = 0
  /** Open streams that want a large window. */
  #wideStreams = 0

  constructor(session: ServerHttp2Session, pool: WindowPool) {
    this.#session = session
    this.#pool = pool
    session.once('close', () => this.#release())
  }

  /** `wantedBytes`: 0 for a stream that does with HTTP/2's own window. */
  opened(stream: ServerHttp2Stream, wantedBytes: number): void {
    const wide = wantedBytes > 0
    this.#streams += 1
    if (wide) this.#wideStreams += 1
    stream.once('close', () => {
      this.#streams -= 1
      if (wide) this.#wideStreams -= 1
      if (this.#wideStreams === 0) this.#release()
      this.#adjust()
    })
    if (wide && this.#grantBytes === 0) this.#grantBytes = this.#pool.take(wantedBytes)
    this.#adjust()
  }

  #release(): void {
    this.#pool.giveBack(this.#grantBytes)
    this.#grantBytes = 0
  }

  #adjust(): void {
    const windowBytes = windowFor(this.#grantBytes, this.#streams)
    if (windowBytes === this.#windowBytes || this.#session.destroyed || this.#session.closed) return
    const grown = windowBytes > this.#windowBytes
    this.#windowBytes = windowBytes
    this.#session.settings({ initialWindowSize: windowBytes })
    // The connection's own window does not bound memory (see above); it only has to be no smaller than the streams'.
    if (grown) this.#session.setLocalWindowSize(Math.max(this.#grantBytes, smallestBytes))
  }
}

function isHttp2Server(value: unknown): value is Http2Server {
  return typeof value === 'object' && value !== null && 'listening' in value && 'on' in value
}

/** The http2 servers of a bound grpc-js server. Throws when grpc-js no longer keeps them where it did. */
function http2ServersOf(server: Server): Http2Server[] {
  const map = (server as unknown as { http2Servers?: unknown }).http2Servers
  const servers = map instanceof Map ? [...map.keys()].filter(isHttp2Server) : []
  if (servers.length === 0) throw new Error('grpc-js no longer keeps its http2 servers in Server.http2Servers')
  return servers
}

/** The sessions of a server. */
export interface ServerSessions {
  /** Breaks every connection. grpc-js's forceShutdown does so only while its channelz bookkeeping is on. */
  destroyAll(): void
}

/** Puts `bareFor` before grpc-js: a stream that it has a handler for never reaches grpc-js. */
function interceptStreams(
  http2Server: Http2Server,
  bareFor: (headers: IncomingHttpHeaders) => ((stream: ServerHttp2Stream) => void) | undefined,
): void {
  const listeners = http2Server.listeners('stream')
  if (listeners.length !== 1) throw new Error('grpc-js no longer takes its streams by one listener of "stream"')
  http2Server.removeAllListeners('stream')
  http2Server.on('stream', (stream, headers, flags) => {
    const bare = bareFor(headers)
    if (bare === undefined) for (const listener of listeners) listener.call(http2Server, stream, headers, flags)
    else bare(stream)
  })
}

/**
 * Takes over the sessions of a server that was just bound: windows grow for streams to `bulkPaths` and of Raft, streams that `bareFor`
 * has a handler for are given to it, session errors (bytes that are not HTTP/2, peers that vanish) are counted by
 * `onSessionError` and end nothing but their session.
 */
export function attachWindows(
  server: Server,
  bulkPaths: ReadonlySet<string>,
  pool: WindowPool,
  bareFor: (headers: IncomingHttpHeaders) => ((stream: ServerHttp2Stream) => void) | undefined,
  onSessionError: (error: Error) => void,
): ServerSessions {
  const open = new Set<ServerHttp2Session>()
  for (const http2Server of http2ServersOf(server)) {
    const sessions = new WeakMap<object, SessionWindows>()
    http2Server.maxConnections = connectionsMax
    http2Server.on('error', onSessionError)
    http2Server.on('sessionError', onSessionError)
    http2Server.on('session', (session) => {
      open.add(session)
      session.once('close', () => open.delete(session))
    })
    interceptStreams(http2Server, bareFor)
    http2Server.on('stream', (stream, headers) => {
      const session = stream.session
      if (session === undefined || session.destroyed) return
      let windows = sessions.get(session)
      if (windows === undefined) {
        windows = new SessionWindows(session as ServerHttp2Session, pool)
        sessions.set(session, windows)
      }
      const path = String(headers[':path'])
      windows.opened(stream, bulkPaths.has(path) ? bulkBytes : path === messagesPath ? messagesBytes : 0)
    })
  }
  return {
    destroyAll: () => {
      for (const session of open) session.destroy()
    },
  }
}

/** Connections of one server; more are closed at once by Node. */
const connectionsMax = 4096

interface ServerCallInternals {
  sendStatus(status: FailedStatus): void
  readonly stream?: ServerHttp2Stream
}

/**
 * Ends a server stream with `status` at once, dropping what is queued; resets it when the peer does not even take that.
 * grpc-js's own way (emitting 'error') would wait behind everything queued, for ever when the peer stopped reading.
 */
export function abortServerStream(stream: object, status: FailedStatus): void {
  const call = (stream as { call?: ServerCallInternals }).call
  if (call === undefined) throw new Error('grpc-js server streams no longer have `call`')
  call.sendStatus(status)
  const http2Stream = call.stream
  if (http2Stream === undefined || http2Stream.closed) return
  const timer = setTimeout(() => http2Stream.close(constants.NGHTTP2_CANCEL), resetDelayMs)
  timer.unref()
  http2Stream.once('close', () => clearTimeout(timer))
}
