/**
 * The NetClient port over @grpc/grpc-js: a pool of channels, one per address and class of traffic.
 *
 * Bulk (chunks, snapshots) goes over a connection of its own, so that a heartbeat never waits behind megabytes; streams of
 * small messages go over connections of grpc-bare.ts. A channel
 * is closed when it was idle for a minute, and its receive window goes back to the pool. A dead peer fails calls at once
 * (no wait-for-ready); a peer that accepts and then says nothing is given up after `openMs`, and its channel thrown away,
 * so that the next call starts with a fresh connection.
 * Invariants: every call settles once, within its timeout; every stream's `onClose` is called once.
 */

import {
  Client,
  type ClientDuplexStream,
  connectivityState,
  credentials,
  Metadata,
  type ServiceError,
  status as Status,
  type StatusObject,
} from '@grpc/grpc-js'
import { AssertionError } from '../base/assert.ts'
import { isAddress } from '../model/address.ts'
import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import { quote } from '../model/names.ts'
import type { Log } from '../ports/log.ts'
import type { CallOptions, Duplex, Method, NetClient } from '../ports/net.ts'
import { BareConnections } from './grpc-bare-client.ts'
import { asBuffer, createDuplex, type DuplexCodec, failedDuplex } from './grpc-duplex.ts'
import { errorOfStatus } from './grpc-status.ts'
import { clientBulkBytes, clientWindowOptions, processWindows, type WindowPool } from './grpc-windows.ts'

/** A stream that was not accepted after this has no live peer. */
const openMsDefault = 5000
const idleMs = 60_000
const keepaliveMs = 10_000
const keepaliveTimeoutMs = 5000

export interface GrpcClientOptions {
  readonly log: Log
  /** Receive windows to grant from; the process's own by default. */
  readonly windows?: WindowPool
  /** How long a peer may take to accept a stream; default 5 s. */
  readonly openMs?: number
}

function isBulk(path: string): boolean {
  return path.startsWith('/holdfast.v1.Storage/') || path === '/holdfast.v1.Raft/Snapshot'
}

const identity = (bytes: Buffer): Buffer => bytes

/** One channel, closed by its pool when nobody used it for a while. */
interface Channel {
  readonly key: string
  readonly client: Client
  readonly grantBytes: number
  uses: number
  idleTimer: NodeJS.Timeout | undefined
  closed: boolean
}

class ChannelPool {
  readonly #windows: WindowPool
  readonly #channels = new Map<string, Channel>()

  constructor(windows: WindowPool) {
    this.#windows = windows
  }

  /** A channel to use; `release` it after. */
  acquire(address: string, path: string): Channel {
    const bulk = isBulk(path)
    const key = `${bulk ? 'bulk' : 'control'} ${address}`
    let channel = this.#channels.get(key)
    if (channel === undefined) {
      channel = this.#create(key, address, bulk)
      this.#channels.set(key, channel)
    }
    channel.uses += 1
    clearTimeout(channel.idleTimer)
    return channel
  }

  #create(key: string, address: string, bulk: boolean): Channel {
    const grantBytes = bulk ? this.#windows.take(clientBulkBytes) : 0
    const client = new Client(address, credentials.createInsecure(), {
      ...clientWindowOptions(grantBytes),
      'grpc.use_local_subchannel_pool': 1,
      'grpc.enable_retries': 0,
      'grpc.enable_http_proxy': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.dns_min_time_between_resolutions_ms': 1000,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.keepalive_time_ms': keepaliveMs,
      'grpc.keepalive_timeout_ms': keepaliveTimeoutMs,
      'grpc.max_receive_message_length': limits.messageBytesMax,
      'grpc.max_send_message_length': limits.messageBytesMax,
      'grpc.enable_channelz': 0,
    })
    return { key, client, grantBytes, uses: 0, idleTimer: undefined, closed: false }
  }

  release(channel: Channel): void {
    channel.uses -= 1
    if (channel.uses > 0 || channel.closed) return
    channel.idleTimer = setTimeout(() => this.discard(channel), idleMs)
    channel.idleTimer.unref()
  }

  /** Closes a channel; the next `acquire` of its address makes a new one. */
  discard(channel: Channel): void {
    if (channel.closed) return
    channel.closed = true
    clearTimeout(channel.idleTimer)
    if (this.#channels.get(channel.key) === channel) this.#channels.delete(channel.key)
    this.#windows.giveBack(channel.grantBytes)
    channel.client.close()
  }

  close(): void {
    for (const channel of this.#channels.values()) this.discard(channel)
  }
}

/** Addresses come from peers too: one that is none is a peer that cannot be reached, and no reason to end the process. */
function checkPeer(address: string, path: string): void {
  if (isAddress(address)) return
  throw new StoreError('UNAVAILABLE', `${path}: ${quote(address)} is not host:port`, { outcome: 'definite' })
}

/** What HTTP/2 throws at once (a name that cannot be one, a connection that just ended) is told like any other failure. */
function unreachable(error: unknown, doing: string): StoreError {
  if (error instanceof StoreError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new StoreError('UNAVAILABLE', `${doing}: ${reason}`, { cause: error, outcome: 'definite' })
}

type StreamCall = ClientDuplexStream<Buffer, Buffer>

function clientCodec<QI, RI, QO, RO>(method: Method<QI, RI, QO, RO>): DuplexCodec<QO, RI> {
  return { encode: (message) => method.encodeRequest(message), decode: (bytes) => method.decodeReply(bytes) }
}

class GrpcClientDriver implements NetClient {
  readonly #pool: ChannelPool
  readonly #bare = new BareConnections()
  readonly #openMs: number
  readonly #streams = new Set<Duplex<never, never>>()
  #closed = false

  constructor(options: GrpcClientOptions) {
    this.#pool = new ChannelPool(options.windows ?? processWindows)
    this.#openMs = options.openMs ?? openMsDefault
  }

  call<QI, RI, QO, RO>(
    address: string,
    method: Method<QI, RI, QO, RO>,
    request: QO,
    options: CallOptions,
  ): Promise<RI> {
    const doing = `${method.path} at ${address}`
    return new Promise<RI>((resolve, reject) => {
      if (options.signal?.aborted === true)
        throw new StoreError('CANCELLED', `${doing}: cancelled before it started`, { outcome: 'definite' })
      if (this.#closed) throw new StoreError('CANCELLED', `${doing}: the client is closed`, { outcome: 'definite' })
      checkPeer(address, method.path)
      const body = asBuffer(method.encodeRequest(request))
      const channel = this.#pool.acquire(address, method.path)
      const cancel = (): void => call.cancel()
      const done = (error: ServiceError | null, reply?: Buffer): void => {
        options.signal?.removeEventListener('abort', cancel)
        this.#pool.release(channel)
        if (error !== null) {
          // Still connecting at the deadline: nobody is there, and the attempt would go on for minutes.
          const stuck = channel.client.getChannel().getConnectivityState(false) === connectivityState.CONNECTING
          if (error.code === Status.DEADLINE_EXCEEDED && stuck) this.#pool.discard(channel)
          reject(errorOfStatus(error, doing))
          return
        }
        try {
          resolve(method.decodeReply(reply ?? Buffer.alloc(0)))
        } catch (thrown) {
          reject(thrown)
        }
      }
      const deadline = Date.now() + options.timeoutMs
      const call = channel.client.makeUnaryRequest(
        method.path,
        identity,
        identity,
        body,
        new Metadata(),
        { deadline },
        done,
      )
      options.signal?.addEventListener('abort', cancel, { once: true })
    })
  }

  open<QI, RI, QO, RO>(address: string, method: Method<QI, RI, QO, RO>): Duplex<QO, RI> {
    const doing = `${method.path} at ${address}`
    try {
      checkPeer(address, method.path)
      return isBulk(method.path) ? this.#openBulk(address, method, doing) : this.#openBare(address, method, doing)
    } catch (error) {
      if (error instanceof AssertionError) throw error
      return failedDuplex(unreachable(error, doing))
    }
  }

  /** A stream of many small messages. */
  #openBare<QI, RI, QO, RO>(address: string, method: Method<QI, RI, QO, RO>, doing: string): Duplex<QO, RI> {
    const bare = this.#bare.open(address, method.path, doing, {
      accepted: () => clearTimeout(timer),
      closed: (error) => {
        clearTimeout(timer)
        this.#streams.delete(open.duplex as Duplex<never, never>)
        open.closed(error)
      },
    })
    const open = createDuplex<QO, RI>(bare.messages, clientCodec(method), bare)
    bare.messages.on('end', () => bare.drained())
    const timer = setTimeout(() => {
      open.closed(new StoreError('UNAVAILABLE', `${doing}: no answer within ${this.#openMs} ms`))
      bare.discard()
    }, this.#openMs)
    if (this.#closed) open.duplex.destroy(new StoreError('CANCELLED', `${doing}: the client is closed`))
    this.#streams.add(open.duplex as Duplex<never, never>)
    return open.duplex
  }

  #openBulk<QI, RI, QO, RO>(address: string, method: Method<QI, RI, QO, RO>, doing: string): Duplex<QO, RI> {
    const channel = this.#pool.acquire(address, method.path)
    const call: StreamCall = channel.client.makeBidiStreamRequest(method.path, identity, identity)
    const open = createDuplex<QO, RI>(call, clientCodec(method), { abort: () => call.cancel() })
    const timer = setTimeout(() => {
      open.closed(new StoreError('UNAVAILABLE', `${doing}: no answer within ${this.#openMs} ms`))
      call.cancel()
      this.#pool.discard(channel)
    }, this.#openMs)
    if (this.#closed) open.duplex.destroy(new StoreError('CANCELLED', `${doing}: the client is closed`))
    this.#streams.add(open.duplex as Duplex<never, never>)
    let status: StatusObject | undefined
    let drained = false
    const settle = (): void => {
      if (drained && status?.code === Status.OK) open.closed(undefined)
    }
    call.on('metadata', () => clearTimeout(timer))
    call.on('error', (error: ServiceError) => open.closed(errorOfStatus(error, doing)))
    call.on('end', () => {
      drained = true
      settle()
    })
    call.on('status', (received: StatusObject) => {
      clearTimeout(timer)
      status = received
      this.#streams.delete(open.duplex as Duplex<never, never>)
      this.#pool.release(channel)
      settle()
    })
    return open.duplex
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const stream of this.#streams) stream.destroy()
    this.#pool.close()
    this.#bare.close()
  }
}

/** A client for any number of addresses. */
export function createGrpcClient(options: GrpcClientOptions): NetClient {
  return new GrpcClientDriver(options)
}
