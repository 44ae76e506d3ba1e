/**
 * The NetServer port over @grpc/grpc-js.
 *
 * Messages are encoded and decoded here and not by grpc-js, so that a request that does not parse is INVALID_ARGUMENT
 * with our error detail. Nothing that arrives on the port can throw out of here: handlers that fail answer their own
 * call, bytes that are not HTTP/2 end their connection. Only a broken invariant (AssertionError) goes up and ends the
 * process. Streams, connections, message sizes and receive windows are bounded.
 */

import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import {
  logVerbosity,
  Metadata,
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  setLogVerbosity,
} from '@grpc/grpc-js'
import { AssertionError } from '../base/assert.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { Log } from '../ports/log.ts'
import type { Metrics } from '../ports/metrics.ts'
import type { CallContext, Duplex, Method, NetServer } from '../ports/net.ts'
import { acceptBare, isPlainCall } from './grpc-bare-server.ts'
import { asBuffer, createDuplex, type DuplexCodec } from './grpc-duplex.ts'
import { addHealth, addReflection } from './grpc-reflection.ts'
import { statusOf } from './grpc-status.ts'
import {
  abortServerStream,
  attachWindows,
  processWindows,
  type ServerSessions,
  type WindowPool,
} from './grpc-windows.ts'

/** Streams that one connection may have open; a client waits for one to end beyond that. */
const streamsPerConnection = 256
/** An idle connection is asked for a sign of life after this; one that never spoke HTTP/2 ends by it. */
const keepaliveMs = 30_000
const keepaliveTimeoutMs = 10_000

/** A gRPC server: register methods, then listen. */
export interface GrpcServer extends NetServer {
  /** Binds `host:port` (port 0: any free one); resolves to the port. PORT_IN_USE, or USAGE for a bad address. */
  listen(address: string): Promise<number>
  /** `grpc.health.v1` says SERVING, for the server and its services, from `true` on while `ready` of the options holds. */
  setServing(serving: boolean): void
  /** Takes no new calls, waits up to `graceMs` for those that run, then breaks what is left. */
  close(graceMs: number): Promise<void>
}

export interface GrpcServerOptions {
  readonly log: Log
  readonly metrics: Metrics
  /** False while the node should get no traffic, for `grpc.health.v1`; always true by default. */
  readonly ready?: () => boolean
  /** Receive windows to grant from; the process's own by default. */
  readonly windows?: WindowPool
  /** Paths of streams that carry bulk data to this server. */
  readonly bulkPaths?: readonly string[]
}

const defaultBulkPaths = ['/holdfast.v1.Storage/Chunks', '/holdfast.v1.Raft/Snapshot']
const identity = (bytes: Buffer): Buffer => bytes

/** A context whose signal is made when somebody asks for it: most unary handlers never do. */
class LazyContext implements CallContext {
  readonly #peer: () => string
  #controller: AbortController | undefined
  #aborted = false

  constructor(peer: () => string) {
    this.#peer = peer
  }

  get peer(): string {
    return this.#peer()
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#aborted) this.#controller.abort()
    }
    return this.#controller.signal
  }

  abort(): void {
    this.#aborted = true
    this.#controller?.abort()
  }
}

type UnaryCall = ServerUnaryCall<Buffer, Buffer>
type StreamCall = ServerDuplexStream<Buffer, Buffer>

function unaryHandler<QI, RI, QO, RO>(
  method: Method<QI, RI, QO, RO>,
  handler: (request: QI, context: CallContext) => Promise<RO>,
  onFailure: (error: StoreError) => void,
) {
  return (call: UnaryCall, respond: sendUnaryData<Buffer>): void => {
    const context = new LazyContext(() => call.getPeer())
    let answered = false
    call.on('cancelled', () => {
      if (!answered) context.abort()
    })
    const run = async (): Promise<Buffer> => {
      const reply = await handler(method.decodeRequest(call.request), context)
      return asBuffer(method.encodeReply(reply))
    }
    run().then(
      (reply) => {
        answered = true
        respond(null, reply)
      },
      (thrown: unknown) => {
        answered = true
        if (thrown instanceof AssertionError) throw thrown
        const error = asStoreError(thrown, method.path)
        onFailure(error)
        respond(statusOf(error))
      },
    )
  }
}

function serverCodec<QI, RI, QO, RO>(method: Method<QI, RI, QO, RO>): DuplexCodec<RO, QI> {
  return { encode: (message) => method.encodeReply(message), decode: (bytes) => method.decodeRequest(bytes) }
}

/** Hands a new stream to its handler; a handler that throws breaks its stream. */
function startHandler<Out, In>(
  handler: (stream: Duplex<Out, In>, context: CallContext) => void,
  duplex: Duplex<Out, In>,
  context: CallContext,
  path: string,
): void {
  try {
    handler(duplex, context)
  } catch (thrown) {
    if (thrown instanceof AssertionError) throw thrown
    duplex.destroy(asStoreError(thrown, path))
  }
}

const brokenByPeer = (path: string): StoreError => new StoreError('CANCELLED', `${path}: the peer broke the stream`)

function streamHandler<QI, RI, QO, RO>(
  method: Method<QI, RI, QO, RO>,
  handler: (stream: Duplex<RO, QI>, context: CallContext) => void,
  onFailure: (error: StoreError) => void,
) {
  return (call: StreamCall): void => {
    const context = new LazyContext(() => call.getPeer())
    const open = createDuplex<RO, QI>(call, serverCodec(method), {
      abort: (error) => {
        if (error.code === 'INTERNAL') onFailure(error)
        abortServerStream(call, statusOf(error))
        call.destroy()
      },
    })
    let finished = false
    call.on('finish', () => {
      finished = true
    })
    call.on('close', () => {
      context.abort()
      const inOrder = open.ended() && finished
      open.closed(inOrder ? undefined : brokenByPeer(method.path))
    })
    // Headers at once, so that the caller knows that it was taken.
    call.sendMetadata(new Metadata())
    startHandler(handler, open.duplex, context, method.path)
  }
}

/** The same for a stream that grpc-js does not see (grpc-bare.ts). */
function bareHandler<QI, RI, QO, RO>(
  method: Method<QI, RI, QO, RO>,
  handler: (stream: Duplex<RO, QI>, context: CallContext) => void,
  onFailure: (error: StoreError) => void,
) {
  return (stream: ServerHttp2Stream): void => {
    const call = acceptBare(
      stream,
      (error) => open.duplex.destroy(error),
      () => {
        context.abort()
        const inOrder = open.ended() && call.finished()
        open.closed(inOrder ? undefined : brokenByPeer(method.path))
      },
    )
    const context = new LazyContext(() => call.peer)
    const open = createDuplex<RO, QI>(call.messages, serverCodec(method), {
      abort: (error) => {
        if (error.code === 'INTERNAL') onFailure(error)
        call.abort(statusOf(error))
      },
    })
    startHandler(handler, open.duplex, context, method.path)
  }
}

/** `host:port` with a numeric port, or USAGE. */
export function checkAddress(address: string): { host: string; port: number } {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:\s/]+):(\d{1,5})$/.exec(address)
  const port = Number(match?.[2])
  if (match === null || port > 65_535) {
    throw new StoreError(
      'USAGE',
      `address ${JSON.stringify(address.slice(0, 80))} is not host:port: give for example 127.0.0.1:7400`,
    )
  }
  return { host: (match[1] as string).replace(/^\[|\]$/g, ''), port }
}

function bindError(error: Error, address: string): StoreError {
  if (error.message.includes('EADDRINUSE')) {
    return new StoreError(
      'PORT_IN_USE',
      `listen on ${address}: the port is taken; stop what uses it or choose another`,
      {
        cause: error,
      },
    )
  }
  const reason = /listen ([A-Z]+)/.exec(error.message)?.[1] ?? error.message.split('\n')[0]
  return new StoreError('USAGE', `listen on ${address}: ${reason}; give an address of this machine`, { cause: error })
}

class GrpcServerDriver implements GrpcServer {
  readonly #server: Server
  readonly #options: GrpcServerOptions
  readonly #health: { refresh(): void }
  /** Full names, in the order they were bound. */
  readonly #services = new Set<string>()
  /** Streams that grpc-js need not see, by path. */
  readonly #bare = new Map<string, (stream: ServerHttp2Stream) => void>()
  #serving = false
  #sessions: ServerSessions | undefined

  constructor(options: GrpcServerOptions) {
    this.#options = options
    // grpc-js writes some failures to stderr on its own; we report all of them as errors and log lines of ours.
    setLogVerbosity(logVerbosity.NONE)
    this.#server = new Server({
      'grpc.max_receive_message_length': limits.messageBytesMax,
      'grpc.max_send_message_length': limits.messageBytesMax,
      'grpc.max_concurrent_streams': streamsPerConnection,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
      'grpc.enable_channelz': 0,
    })
    const services = (): string[] => [...this.#services]
    const { ready = () => true } = options
    this.#health = addHealth(this.#server, { services, serving: () => this.#serving && ready() })
    addReflection(this.#server, services)
  }

  unary<QI, RI, QO, RO>(
    method: Method<QI, RI, QO, RO>,
    handler: (request: QI, context: CallContext) => Promise<RO>,
  ): void {
    const wrapped = unaryHandler(method, handler, (error) => this.#failed(method.path, error))
    this.#server.register(method.path, wrapped, identity, identity, 'unary')
    this.#bound(method.path)
  }

  stream<QI, RI, QO, RO>(
    method: Method<QI, RI, QO, RO>,
    handler: (stream: Duplex<RO, QI>, context: CallContext) => void,
  ): void {
    const failed = (error: StoreError): void => this.#failed(method.path, error)
    this.#server.register(method.path, streamHandler(method, handler, failed), identity, identity, 'bidi')
    if (!(this.#options.bulkPaths ?? defaultBulkPaths).includes(method.path)) {
      this.#bare.set(method.path, bareHandler(method, handler, failed))
    }
    this.#bound(method.path)
  }

  /** Notes the service of a path `/package.Service/Method`. */
  #bound(path: string): void {
    this.#services.add(path.split('/')[1] ?? path)
  }

  #failed(path: string, error: StoreError): void {
    this.#options.metrics.count('holdfast_rpc_failures_total', 'Calls answered with an error.', 1, {
      path,
      code: error.code,
    })
    if (error.code !== 'INTERNAL') return
    const cause = error.cause instanceof Error ? error.cause.stack : undefined
    this.#options.log.error('call failed by a bug', { path, reason: error.message, cause })
  }

  async listen(address: string): Promise<number> {
    checkAddress(address)
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
        if (error !== null) {
          reject(bindError(error, address))
          return
        }
        this.#takeOver()
        resolve(bound)
      })
    })
    return port
  }

  #takeOver(): void {
    const { log, metrics, windows = processWindows, bulkPaths = defaultBulkPaths } = this.#options
    const bareFor = (headers: IncomingHttpHeaders): ((stream: ServerHttp2Stream) => void) | undefined =>
      isPlainCall(headers) ? this.#bare.get(String(headers[':path'])) : undefined
    this.#sessions = attachWindows(this.#server, new Set(bulkPaths), windows, bareFor, (error) => {
      metrics.count('holdfast_rpc_broken_connections_total', 'Connections that broke or did not speak HTTP/2.')
      log.debug('connection broke', { reason: error.message })
    })
  }

  setServing(serving: boolean): void {
    this.#serving = serving
    this.#health.refresh()
  }

  async close(graceMs: number): Promise<void> {
    this.setServing(false)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => this.#sessions?.destroyAll(), graceMs)
      this.#server.tryShutdown(() => {
        clearTimeout(timer)
        resolve()
      })
    })
  }
}

/** A gRPC server with health and reflection, not yet listening. */
export function createGrpcServer(options: GrpcServerOptions): GrpcServer {
  return new GrpcServerDriver(options)
}
