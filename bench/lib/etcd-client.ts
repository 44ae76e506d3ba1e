/**
 * A client of etcd's v3 API over node:http2, just enough for a bench: put, linearizable range, member status.
 *
 * gRPC framing and the few protobuf fields are laid by hand, because grpc-js costs several times the CPU of bare HTTP/2 and
 * the client shares the machine with what is measured.
 */

import http2 from 'node:http2'
import protobuf from 'protobufjs/minimal.js'
import type { Connection } from './contender.ts'

const putPath = '/etcdserverpb.KV/Put'
const rangePath = '/etcdserverpb.KV/Range'
const statusPath = '/etcdserverpb.Maintenance/Status'
const frameHead = 5

/** The bytes of one gRPC message, uncompressed. */
function frame(message: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(frameHead + message.length)
  out[0] = 0
  out.writeUInt32BE(message.length, 1)
  out.set(message, frameHead)
  return out
}

function putRequest(key: string, value: Uint8Array): Buffer {
  return frame(new protobuf.Writer().uint32(10).string(key).uint32(18).bytes(value).finish())
}

function rangeRequest(key: string): Buffer {
  return frame(new protobuf.Writer().uint32(10).string(key).finish())
}

/** Varint fields of a message by number; nested messages by number too. */
function fieldsOf(bytes: Uint8Array): Map<number, number | Uint8Array> {
  const reader = protobuf.Reader.create(bytes)
  const out = new Map<number, number | Uint8Array>()
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if ((tag & 7) === 0) out.set(tag >>> 3, Number(reader.uint64()))
    else if ((tag & 7) === 2) out.set(tag >>> 3, reader.bytes())
    else reader.skipType(tag & 7)
  }
  return out
}

export interface EtcdConnection extends Connection {
  readonly closed: boolean
  /** True when the member says that it leads. */
  leads(): Promise<boolean>
}

class Http2Connection implements EtcdConnection {
  readonly #session: http2.ClientHttp2Session
  readonly #value: Uint8Array

  constructor(session: http2.ClientHttp2Session, value: Uint8Array) {
    this.#session = session
    this.#value = value
  }

  get closed(): boolean {
    return this.#session.closed || this.#session.destroyed
  }

  /** Sends one message; resolves with the answer's when the trailers say OK. */
  #call(path: string, message: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const stream = this.#session.request({
        ':method': 'POST',
        ':path': path,
        'content-type': 'application/grpc',
        te: 'trailers',
      })
      const pieces: Buffer[] = []
      let status: unknown
      stream.on('data', (piece: Buffer) => pieces.push(piece))
      stream.on('response', (headers) => {
        status = headers['grpc-status']
      })
      stream.on('trailers', (headers) => {
        status = headers['grpc-status']
      })
      stream.on('error', () => undefined) // 'close' follows
      stream.on('close', () => {
        if (status === '0') resolve(pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces))
        else reject(new Error(`etcd answered ${path} with status ${String(status)}`))
      })
      stream.end(message)
    })
  }

  async put(key: string): Promise<void> {
    await this.#call(putPath, putRequest(key, this.#value))
  }

  async read(key: string): Promise<void> {
    const answer = await this.#call(rangePath, rangeRequest(key))
    if (!fieldsOf(answer.subarray(frameHead)).has(2)) throw new Error(`etcd has no value of ${key}`)
  }

  async leads(): Promise<boolean> {
    const fields = fieldsOf((await this.#call(statusPath, frame(new Uint8Array(0)))).subarray(frameHead))
    const header = fields.get(1)
    const leader = fields.get(4)
    return header instanceof Uint8Array && leader !== undefined && fieldsOf(header).get(2) === leader
  }

  async close(): Promise<void> {
    this.#session.destroy()
  }
}

/** Connects to one member; rejects when it is not there. Puts write `value`. */
export function connectEtcd(address: string, value: Uint8Array = new Uint8Array(0)): Promise<EtcdConnection> {
  return new Promise((resolve, reject) => {
    const session = http2.connect(`http://${address}`)
    session.on('error', reject)
    session.once('close', () => reject(new Error(`etcd at ${address} closed the connection`)))
    session.once('connect', () => resolve(new Http2Connection(session, value)))
  })
}
