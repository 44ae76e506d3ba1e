/**
 * A client that asks and never reads an answer: HTTP/2 by hand, with a receive window that is never opened. A server that
 * keeps what such a client does not take grows without bound.
 */

import { connect, type ClientHttp2Session } from 'node:http2'
import { metaMethods } from '../../src/wire/methods.ts'

/** Opens `streams` Session streams and pushes requests into each as fast as the node takes them, until `close`. */
export class DeafClient {
  readonly #session: ClientHttp2Session
  /** Requests that were handed to the transport. */
  sent = 0
  #closed = false

  constructor(address: string, streams: number) {
    this.#session = connect(`http://${address}`, { settings: { initialWindowSize: 0 } })
    this.#session.on('error', () => {})
    const body = metaMethods.session.encodeRequest({ call: 1, status: {} })
    const frame = Buffer.alloc(5 + body.length)
    frame.writeUInt32BE(body.length, 1)
    frame.set(body, 5)
    const many = Buffer.concat(Array.from({ length: 256 }, () => frame))
    for (let i = 0; i < streams; i++) this.#push(many)
  }

  #push(many: Buffer): void {
    const stream = this.#session.request(
      {
        ':method': 'POST',
        ':path': metaMethods.session.path,
        'content-type': 'application/grpc+proto',
        te: 'trailers',
      },
      { endStream: false },
    )
    stream.on('error', () => {})
    stream.pause()
    const write = (): void => {
      while (!this.#closed && !stream.destroyed) {
        this.sent += 256
        if (!stream.write(many)) break
      }
    }
    stream.on('drain', write)
    stream.on('ready', write)
  }

  close(): void {
    this.#closed = true
    this.#session.destroy()
  }
}
