/**
 * What every process is put together from: the drivers behind the ports, the pair of listening ports, and signals.
 *
 * A composition root: the only kind of code that names a driver.
 */

import { asStoreError, StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import type { LogFields } from '../ports/log.ts'
import type { Sample } from '../ports/metrics.ts'
import { createNodeClock } from '../drivers/clock-node.ts'
import { createNodeEntropy } from '../drivers/entropy-node.ts'
import { createGrpcClient } from '../drivers/grpc-client.ts'
import { checkAddress, createGrpcServer, type GrpcServer } from '../drivers/grpc-server.ts'
import { createXxHasher } from '../drivers/hasher-xxhash.ts'
import { type AdminServer, listenAdmin } from '../drivers/http-admin.ts'
import { createJsonLog, type LogLevel } from '../drivers/log-json.ts'
import { createTextMetrics, type TextMetrics } from '../drivers/metrics-text.ts'

/** The HTTP page of a node is on its gRPC port plus this. */
export const adminPortOffset = 1000
/** Tries to find a free pair when any port will do. */
const pairTries = 50

export interface NodeEnvOptions {
  /** Events below this level are dropped; default `info`. */
  readonly level?: LogLevel
  /** Fields of every log event, for example the node's id. */
  readonly fields?: LogFields
}

/** The real world. `env.net.close()` ends its connections. */
export interface NodeEnv extends Env {
  readonly metrics: TextMetrics
}

/** The usual Prometheus names for what a process uses. */
function processSamples(): readonly Sample[] {
  const { user, system } = process.cpuUsage()
  return [
    {
      name: 'process_resident_memory_bytes',
      help: 'Resident memory of the process.',
      value: process.memoryUsage.rss(),
    },
    {
      name: 'process_cpu_seconds_total',
      help: 'User and system CPU time of the process.',
      kind: 'counter',
      value: (user + system) / 1e6,
    },
  ]
}

/** Builds the bundle of drivers of one process. */
export async function createNodeEnv(options: NodeEnvOptions = {}): Promise<NodeEnv> {
  const metrics = createTextMetrics()
  metrics.onScrape(processSamples)
  const log = createJsonLog({ level: options.level ?? 'info', ...(options.fields ? { fields: options.fields } : {}) })
  return {
    clock: createNodeClock(),
    entropy: createNodeEntropy(),
    hasher: await createXxHasher(),
    net: createGrpcClient({ log }),
    log,
    metrics,
  }
}

export interface NodePorts {
  /** Bound gRPC port. */
  readonly port: number
  /** `host:port` that was bound. */
  readonly address: string
  readonly server: GrpcServer
  readonly admin: AdminServer
}

async function bindPair(
  host: string,
  port: number,
  env: NodeEnv,
  bind: (server: GrpcServer) => void,
  notReady: () => string | undefined,
): Promise<NodePorts> {
  const adminPort = port === 0 ? 0 : port + adminPortOffset
  const admin = await listenAdmin(host, adminPort, { notReady, metrics: () => env.metrics.render() })
  const server = createGrpcServer({ log: env.log, metrics: env.metrics, ready: () => notReady() === undefined })
  try {
    bind(server)
    const wanted = admin.port - adminPortOffset
    const shownHost = host.includes(':') ? `[${host}]` : host
    const bound = await server.listen(`${shownHost}:${wanted}`)
    server.setServing(true)
    return { port: bound, address: `${shownHost}:${bound}`, server, admin }
  } catch (error) {
    await admin.close()
    await server.close(0)
    throw error
  }
}

/**
 * Binds a node's two ports: gRPC on `listen` and HTTP on its port + 1000, both or none. Port 0 finds a free pair.
 * `bind` registers the services, and runs before the gRPC port takes calls. `notReady` says why the node should get no
 * traffic now, or undefined; /readyz and grpc.health.v1 follow it.
 */
export async function listenNode(
  listen: string,
  env: NodeEnv,
  bind: (server: GrpcServer) => void,
  notReady: () => string | undefined,
): Promise<NodePorts> {
  const { host, port } = checkAddress(listen)
  if (port + adminPortOffset > 65_535) {
    throw new StoreError(
      'USAGE',
      `listen on ${listen}: HTTP is served on port + ${adminPortOffset}, so use a port up to 64535`,
    )
  }
  if (port !== 0) return bindPair(host, port, env, bind, notReady)
  for (let attempt = 1; ; attempt++) {
    try {
      return await bindPair(host, 0, env, bind, notReady)
    } catch (error) {
      const taken = error instanceof StoreError && error.code === 'PORT_IN_USE'
      if (!taken || attempt === pairTries) throw error
    }
  }
}

/** Resolves with the name of the first SIGTERM or SIGINT; a second one ends the process at once. */
export function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let first = true
    function handle(signal: NodeJS.Signals): void {
      if (!first) process.exit(1)
      first = false
      resolve(signal)
    }
    process.on('SIGTERM', handle)
    process.on('SIGINT', handle)
  })
}

/** An orderly stop gives up after this long; everything acknowledged is durable anyway. */
const stopMs = 8_000
/** Calls in progress may end for so long when the ports close. */
const serverGraceMs = 1_000

/** Stops a node and then closes its ports and connections, within ten seconds whatever happens. */
export async function stopNode(env: NodeEnv, ports: NodePorts, stop: () => Promise<void>): Promise<void> {
  const stopAll = async (): Promise<void> => {
    await stop()
    await ports.server.close(serverGraceMs)
    await ports.admin.close()
    await env.net.close()
  }
  const stopped = stopAll().catch((error: unknown) => {
    env.log.warn('the stop was not clean', { reason: asStoreError(error, 'stop').message })
  })
  await new Promise<void>((resolve) => {
    const timer = env.clock.after(stopMs, resolve)
    const finish = (): void => {
      timer.cancel()
      resolve()
    }
    stopped.then(finish, finish)
  })
}
