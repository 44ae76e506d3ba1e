/**
 * The admin page of a node: HTTP on its port + 1000 with /livez, /readyz and /metrics, for probes and Prometheus.
 *
 * /livez answers as long as the event loop runs. /readyz is 503, with the reason, while the node should get no traffic.
 * Read-only, no request body is looked at, connections and header times are bounded, and bytes that are not HTTP end their connection.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { StoreError } from '../model/errors.ts'

const connectionsMax = 256
const requestMs = 10_000

export interface AdminPage {
  /** Why the node should get no traffic now, in a few words; undefined while it should. */
  readonly notReady: () => string | undefined
  /** The text of /metrics. */
  readonly metrics: () => string
}

/** A listening admin page. */
export interface AdminServer {
  readonly port: number
  close(): Promise<void>
}

const plainText = 'text/plain; charset=utf-8'
/** Prometheus tells the format by the version. */
const metricsText = 'text/plain; version=0.0.4; charset=utf-8'

function answer(response: ServerResponse, status: number, body: string, type = plainText): void {
  response.writeHead(status, { 'content-type': type, connection: 'close' })
  response.end(body)
}

function route(page: AdminPage, request: IncomingMessage, response: ServerResponse): void {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    answer(response, 405, 'only GET and HEAD\n')
    return
  }
  const path = (request.url ?? '').split('?')[0]
  if (path === '/livez') answer(response, 200, 'ok\n')
  else if (path === '/readyz') {
    const reason = page.notReady()
    if (reason === undefined) answer(response, 200, 'ready\n')
    else answer(response, 503, `not ready: ${reason}\n`)
  } else if (path === '/metrics') answer(response, 200, page.metrics(), metricsText)
  else answer(response, 404, 'try /livez, /readyz or /metrics\n')
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}

/** Listens on `host`:`port` (port 0: any free one). PORT_IN_USE when it is taken, USAGE when it cannot be used. */
export async function listenAdmin(host: string, port: number, page: AdminPage): Promise<AdminServer> {
  const server = createServer({ requestTimeout: requestMs, headersTimeout: requestMs }, (request, response) => {
    request.on('error', () => response.destroy())
    request.resume()
    route(page, request, response)
  })
  server.maxConnections = connectionsMax
  server.on('clientError', (_error, socket) => socket.destroy())
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE'
      const why = taken ? "the port is taken; it must be free beside the node's port (port + 1000)" : String(error.code)
      reject(
        new StoreError(taken ? 'PORT_IN_USE' : 'USAGE', `listen on ${host}:${port} for HTTP: ${why}`, { cause: error }),
      )
    })
    server.listen(port, host, resolve)
  })
  server.removeAllListeners('error')
  // After listening only accept errors (no file descriptors left) come here; the next connection may work again.
  server.on('error', () => undefined)
  return { port: (server.address() as AddressInfo).port, close: () => closeServer(server) }
}
