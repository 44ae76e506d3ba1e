/**
 * A TCP proxy in front of one node, with faults for each peer that connects through it.
 *
 * A held direction is a black hole as TCP shows it: bytes, ends and resets that were sent stay unseen until the fault
 * is healed, and then arrive late and in order; `cut` loses them by resetting the connections instead. Memory is
 * bounded: a sender whose bytes are held is soon not read any more.
 */

import { connect, createServer, type Server, type Socket } from 'node:net'

/** What happens to the connections of one source. */
export interface LinkFaults {
  /** Bytes to the node are held. */
  readonly holdThere: boolean
  /** Bytes from the node are held. */
  readonly holdBack: boolean
  /** New connections are reset at once. */
  readonly refuse: boolean
  /** Added to every piece, each way. */
  readonly delayMs: number
}

const noFaults: LinkFaults = { holdThere: false, holdBack: false, refuse: false, delayMs: 0 }
const queueBytesMax = 1024 * 1024

type Piece = { readonly dueMs: number } & (
  | { readonly kind: 'bytes'; readonly bytes: Buffer }
  | { readonly kind: 'end' }
  | { readonly kind: 'reset' }
)

/** One direction of one connection. */
class Pipe {
  readonly #from: Socket
  readonly #to: Socket
  readonly #holds: () => boolean
  readonly #delayMs: () => number
  #queue: Piece[] = []
  #bytes = 0
  #full = false
  #timer: NodeJS.Timeout | undefined

  constructor(from: Socket, to: Socket, holds: () => boolean, delayMs: () => number) {
    this.#from = from
    this.#to = to
    this.#holds = holds
    this.#delayMs = delayMs
    from.on('data', (bytes) => {
      this.#bytes += bytes.length
      if (this.#bytes > queueBytesMax) from.pause()
      this.#put({ kind: 'bytes', bytes: bytes as Buffer, dueMs: this.#due() })
    })
    from.on('end', () => this.#put({ kind: 'end', dueMs: this.#due() }))
    from.on('close', (failed) => {
      if (failed) this.#put({ kind: 'reset', dueMs: this.#due() })
    })
    to.on('drain', () => {
      this.#full = false
      this.pump()
    })
  }

  #due(): number {
    return performance.now() + this.#delayMs()
  }

  #put(piece: Piece): void {
    this.#queue.push(piece)
    this.pump()
  }

  /** Gives on what is due and not held. */
  pump(): void {
    clearTimeout(this.#timer)
    while (!this.#holds() && !this.#full) {
      const piece = this.#queue[0]
      if (piece === undefined) return
      const waitMs = piece.dueMs - performance.now()
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.pump(), waitMs)
        return
      }
      this.#queue.shift()
      if (piece.kind === 'reset') this.#to.resetAndDestroy()
      else if (piece.kind === 'end') this.#to.end()
      else this.#write(piece.bytes)
    }
  }

  #write(bytes: Buffer): void {
    this.#bytes -= bytes.length
    if (!this.#to.destroyed) this.#full = !this.#to.write(bytes)
    if (this.#bytes <= queueBytesMax) this.#from.resume()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#queue = []
  }
}

interface Connection {
  readonly source: string
  readonly sockets: readonly Socket[]
  readonly pipes: readonly Pipe[]
}

export class TcpProxy {
  readonly #server: Server
  readonly #targetPort: number
  readonly #sourceOf: (fromPort: number, toPort: number) => string
  readonly #faults = new Map<string, LinkFaults>()
  readonly #connections = new Set<Connection>()

  private constructor(server: Server, targetPort: number, sourceOf: (fromPort: number, toPort: number) => string) {
    this.#server = server
    this.#targetPort = targetPort
    this.#sourceOf = sourceOf
  }

  /** Listens on `port` of loopback for `targetPort`; `sourceOf` names who connects, by the two ports of the connection. */
  static async open(
    port: number,
    targetPort: number,
    sourceOf: (fromPort: number, toPort: number) => string,
  ): Promise<TcpProxy> {
    const server = createServer({ allowHalfOpen: true, noDelay: true })
    const proxy = new TcpProxy(server, targetPort, sourceOf)
    server.on('connection', (socket) => proxy.#accept(socket))
    await new Promise<void>((done, reject) => {
      server.once('error', reject)
      server.listen(port, '127.0.0.1', done)
    })
    return proxy
  }

  #faultsOf(source: string): LinkFaults {
    return this.#faults.get(source) ?? noFaults
  }

  #accept(near: Socket): void {
    near.on('error', () => {})
    const { remotePort, localPort } = near
    if (remotePort === undefined || localPort === undefined) {
      near.destroy()
      return
    }
    const source = this.#sourceOf(remotePort, localPort)
    if (this.#faultsOf(source).refuse) {
      near.resetAndDestroy()
      return
    }
    const far = connect({ port: this.#targetPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    far.on('error', () => {})
    const delayMs = (): number => this.#faultsOf(source).delayMs
    const pipes = [
      new Pipe(near, far, () => this.#faultsOf(source).holdThere, delayMs),
      new Pipe(far, near, () => this.#faultsOf(source).holdBack, delayMs),
    ]
    const connection: Connection = { source, sockets: [near, far], pipes }
    this.#connections.add(connection)
    const closed = (): void => {
      if (!near.destroyed || !far.destroyed) return
      for (const pipe of pipes) pipe.stop()
      this.#connections.delete(connection)
    }
    near.on('close', closed)
    far.on('close', closed)
  }

  /** Changes the faults of one source; what they held and no longer hold goes on. */
  set(source: string, faults: Partial<LinkFaults>): void {
    this.#faults.set(source, { ...this.#faultsOf(source), ...faults })
    this.#pump()
  }

  /** Ends all faults; what was held arrives now. */
  heal(): void {
    this.#faults.clear()
    this.#pump()
  }

  #pump(): void {
    for (const { pipes } of this.#connections) for (const pipe of pipes) pipe.pump()
  }

  /** Resets the connections of `source`, or all; what was on its way is lost. */
  cut(source?: string): void {
    for (const connection of this.#connections) {
      if (source !== undefined && connection.source !== source) continue
      for (const pipe of connection.pipes) pipe.stop()
      for (const socket of connection.sockets) socket.resetAndDestroy()
    }
  }

  /** Names of those who are connected now. */
  sources(): string[] {
    return [...new Set([...this.#connections].map(({ source }) => source))].sort()
  }

  async close(): Promise<void> {
    this.cut()
    await new Promise<void>((done) => this.#server.close(() => done()))
  }
}
