/**
 * A server and a client of the real drivers on a free port of the loopback, torn down after each test.
 */

import { createGrpcClient } from '../../src/drivers/grpc-client.ts'
import { createGrpcServer, type GrpcServer } from '../../src/drivers/grpc-server.ts'
import { createTextMetrics, type TextMetrics } from '../../src/drivers/metrics-text.ts'
import { WindowPool } from '../../src/drivers/grpc-windows.ts'
import type { Log } from '../../src/ports/log.ts'
import type { Method, NetClient } from '../../src/ports/net.ts'

/** A log that says nothing. */
export const quietLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  with: () => quietLog,
}

const identity = (bytes: Uint8Array): Uint8Array => bytes

/** A method of plain bytes. */
export function bytesMethod(path: string, kind: 'unary' | 'stream'): Method<Uint8Array, Uint8Array> {
  return {
    path,
    kind,
    encodeRequest: identity,
    decodeRequest: identity,
    encodeReply: identity,
    decodeReply: identity,
  }
}

export interface Kit {
  readonly server: GrpcServer
  readonly client: NetClient
  readonly metrics: TextMetrics
  readonly serverWindows: WindowPool
  readonly clientWindows: WindowPool
  /** Registers with `bind`, listens, and gives the address. */
  start(bind: (server: GrpcServer) => void): Promise<string>
  stop(): Promise<void>
}

/** A fresh server and client. */
export function createKit(bulkPaths: readonly string[] = []): Kit {
  const metrics = createTextMetrics()
  const serverWindows = new WindowPool()
  const clientWindows = new WindowPool()
  const server = createGrpcServer({ log: quietLog, metrics, windows: serverWindows, bulkPaths })
  const client = createGrpcClient({ log: quietLog, windows: clientWindows, openMs: 2000 })
  return {
    server,
    client,
    metrics,
    serverWindows,
    clientWindows,
    start: async (bind) => {
      bind(server)
      return `127.0.0.1:${await server.listen('127.0.0.1:0')}`
    },
    stop: async () => {
      await client.close()
      await server.close(100)
    },
  }
}

/** Resolves when `condition` holds; polls on the event loop, fails after `timeoutMs`. */
export async function until(condition: () => boolean, what: string, timeoutMs = 5000): Promise<void> {
  const end = Date.now() + timeoutMs
  while (!condition()) {
    if (Date.now() > end) throw new Error(`gave up waiting until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
