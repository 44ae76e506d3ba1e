/**
 * Conformance of the gRPC drivers to the net port (src/ports/net.ts), over real sockets.
 */

import { randomBytes } from 'node:crypto'
import { connect as connectHttp2 } from 'node:http2'
import { connect as connectTcp, createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import { expect } from 'chai'
import { createGrpcClient } from '../../src/drivers/grpc-client.ts'
import { createGrpcServer } from '../../src/drivers/grpc-server.ts'
import { type ErrorCode, errorTable, isStoreError, StoreError } from '../../src/model/errors.ts'
import { limits } from '../../src/model/limits.ts'
import type { Duplex } from '../../src/ports/net.ts'
import { storageMethods } from '../../src/wire/methods.ts'
import { bytesMethod, createKit, type Kit, quietLog, until } from './grpc-kit.ts'

const echo = bytesMethod('/holdfast.test.One/Echo', 'unary')
const other = bytesMethod('/holdfast.test.Two/Other', 'unary')
const pipe = bytesMethod('/holdfast.test.One/Pipe', 'stream')
const text = (value: string): Uint8Array => new TextEncoder().encode(value)

async function failure(promise: Promise<unknown>): Promise<StoreError> {
  try {
    await promise
  } catch (error) {
    if (isStoreError(error)) return error
    throw error
  }
  throw new Error('did not fail')
}

function closeOf(stream: Duplex<never, never>): Promise<StoreError | undefined> {
  return new Promise((resolve) => stream.onClose(resolve))
}

describe('grpc drivers', () => {
  let kit: Kit
  beforeEach(() => {
    kit = createKit()
  })
  afterEach(() => kit.stop())

  describe('unary calls', () => {
    it('carry bytes there and back', async () => {
      const address = await kit.start((server) => server.unary(echo, async (request) => request))
      const body = randomBytes(100_000)
      const reply = await kit.client.call(address, echo, body, { timeoutMs: 5000 })
      expect(Buffer.from(reply).equals(body)).equal(true)
    })

    it('reach two services on one port', async () => {
      const address = await kit.start((server) => {
        server.unary(echo, async () => text('one'))
        server.unary(other, async () => text('two'))
      })
      const one = await kit.client.call(address, echo, text(''), { timeoutMs: 5000 })
      const two = await kit.client.call(address, other, text(''), { timeoutMs: 5000 })
      expect(Buffer.from(one).toString() + Buffer.from(two).toString()).equal('onetwo')
    })

    it('carry every error code with its outcome and details', async () => {
      const address = await kit.start((server) =>
        server.unary(echo, async (request) => {
          const code = Buffer.from(request).toString() as ErrorCode
          throw new StoreError(code, `failed with ${code} ünïcode \ud800 and\nlines`, {
            outcome: 'definite',
            details: { leader: ['a:1', 'b:2'], retryAfterMs: 7, suggestion: 'near' },
          })
        }),
      )
      for (const code of Object.keys(errorTable)) {
        const error = await failure(kit.client.call(address, echo, text(code), { timeoutMs: 5000 }))
        expect(error.code).equal(code)
        expect(error.outcome).equal('definite')
        expect(error.details).deep.equal({ leader: ['a:1', 'b:2'], retryAfterMs: 7, suggestion: 'near' })
        expect(error.message).include(`failed with ${code} ünïcode`)
      }
    })

    it('answer INTERNAL when a handler throws something else, and go on', async () => {
      const address = await kit.start((server) =>
        server.unary(echo, async (request) => {
          if (request.length === 0) throw new TypeError('boom')
          return request
        }),
      )
      expect((await failure(kit.client.call(address, echo, text(''), { timeoutMs: 5000 }))).code).equal('INTERNAL')
      expect((await kit.client.call(address, echo, text('x'), { timeoutMs: 5000 })).length).equal(1)
    })

    it('end with TIMEOUT at the deadline, and the handler is told', async () => {
      let aborted = false
      const address = await kit.start((server) =>
        server.unary(echo, (_request, context) => {
          return new Promise((resolve) => {
            context.signal.addEventListener('abort', () => {
              aborted = true
              resolve(text(''))
            })
          })
        }),
      )
      const error = await failure(kit.client.call(address, echo, text(''), { timeoutMs: 100 }))
      expect(error.code).equal('TIMEOUT')
      await until(() => aborted, 'the handler is aborted')
    })

    it('end with CANCELLED by the signal, and the handler is told', async () => {
      let started = false
      let aborted = false
      const address = await kit.start((server) =>
        server.unary(echo, (_request, context) => {
          started = true
          return new Promise((resolve) => {
            context.signal.addEventListener('abort', () => {
              aborted = true
              resolve(text(''))
            })
          })
        }),
      )
      const controller = new AbortController()
      const call = failure(kit.client.call(address, echo, text(''), { timeoutMs: 5000, signal: controller.signal }))
      await until(() => started, 'the handler runs')
      controller.abort()
      expect((await call).code).equal('CANCELLED')
      await until(() => aborted, 'the handler is aborted')
      const late = await failure(
        kit.client.call(address, echo, text(''), { timeoutMs: 5000, signal: controller.signal }),
      )
      expect([late.code, late.outcome]).deep.equal(['CANCELLED', 'definite'])
    })

    it('fail at once with a definite UNAVAILABLE when nobody listens', async () => {
      const tcp = createTcpServer()
      await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))
      const address = `127.0.0.1:${(tcp.address() as AddressInfo).port}`
      await new Promise((resolve) => tcp.close(resolve))
      const start = Date.now()
      const error = await failure(kit.client.call(address, echo, text(''), { timeoutMs: 30_000 }))
      expect([error.code, error.outcome]).deep.equal(['UNAVAILABLE', 'definite'])
      expect(Date.now() - start).lessThan(5000)
    })

    it('answer INVALID_ARGUMENT to bytes that are not the message', async () => {
      const address = await kit.start((server) => {
        server.unary(storageMethods.getChunk, async () => ({ data: text('') }))
      })
      const raw = bytesMethod(storageMethods.getChunk.path, 'unary')
      const error = await failure(kit.client.call(address, raw, text('\xff\xff\xff'), { timeoutMs: 5000 }))
      expect(error.code).equal('INVALID_ARGUMENT')
    })

    it('answer INCOMPATIBLE_VERSION to an unknown method', async () => {
      const address = await kit.start((server) => server.unary(echo, async (request) => request))
      const error = await failure(kit.client.call(address, other, text(''), { timeoutMs: 5000 }))
      expect(error.code).equal('INCOMPATIBLE_VERSION')
    })

    it('refuse a message above the bound', async () => {
      const address = await kit.start((server) => server.unary(echo, async (request) => request))
      const huge = new Uint8Array(limits.messageBytesMax + 1)
      const error = await failure(kit.client.call(address, echo, huge, { timeoutMs: 5000 }))
      expect(error.code).equal('INVALID_ARGUMENT')
    })
  })

  describe('streams', () => {
    it('keep order both ways and end in order', async () => {
      let serverClosed: StoreError | undefined | 'open' = 'open'
      const address = await kit.start((server) =>
        server.stream(pipe, (stream) => {
          stream.onMessage((message) => stream.send(message))
          stream.onEnd(() => stream.end())
          stream.onClose((error) => {
            serverClosed = error
          })
        }),
      )
      const stream = kit.client.open(address, pipe)
      const got: number[] = []
      stream.onMessage((message) => got.push(new DataView(message.buffer, message.byteOffset).getUint32(0)))
      const closed = closeOf(stream as Duplex<never, never>)
      for (let i = 0; i < 1000; i++) {
        const message = new Uint8Array(4)
        new DataView(message.buffer).setUint32(0, i)
        stream.send(message)
      }
      stream.end()
      expect(await closed).equal(undefined)
      expect(got).deep.equal([...Array(1000).keys()])
      await until(() => serverClosed !== 'open', 'the server side is closed')
      expect(serverClosed).equal(undefined)
    })

    it('carry the error that the server broke them with, even when the client stopped reading', async () => {
      const address = await kit.start((server) =>
        server.stream(pipe, (stream) => {
          stream.onMessage(() => {
            for (let i = 0; i < 64; i++) stream.send(new Uint8Array(1024 * 1024))
            stream.destroy(new StoreError('NOT_LEADER', 'not here', { details: { leader: ['x:1'] } }))
          })
        }),
      )
      const stream = kit.client.open(address, pipe)
      stream.onMessage(() => undefined)
      stream.pause()
      const closed = closeOf(stream as Duplex<never, never>)
      stream.send(text('go'))
      const error = await closed
      // With bytes in flight that nobody reads, the reset may overtake the status.
      expect(error?.code).oneOf(['NOT_LEADER', 'CANCELLED', 'UNAVAILABLE'])
    })

    it('carry the error and details of a stream that is refused', async () => {
      const address = await kit.start((server) =>
        server.stream(pipe, (stream) => {
          stream.destroy(new StoreError('NOT_LEADER', 'not here', { details: { leader: ['x:1'] } }))
        }),
      )
      const error = await closeOf(kit.client.open(address, pipe) as Duplex<never, never>)
      expect(error?.code).equal('NOT_LEADER')
      expect(error?.details.leader).deep.equal(['x:1'])
    })

    it('tell the server CANCELLED when the client breaks them', async () => {
      let seen: StoreError | undefined
      let aborted = false
      const address = await kit.start((server) =>
        server.stream(pipe, (stream, context) => {
          context.signal.addEventListener('abort', () => {
            aborted = true
          })
          stream.onMessage(() => stream.send(text('got')))
          stream.onClose((error) => {
            seen = error
          })
        }),
      )
      const stream = kit.client.open(address, pipe)
      const mine = closeOf(stream as Duplex<never, never>)
      stream.onMessage(() => stream.destroy())
      stream.send(text('x'))
      expect((await mine)?.code).equal('CANCELLED')
      await until(() => seen !== undefined && aborted, 'the server side is told')
      expect(seen?.code).equal('CANCELLED')
    })

    it('end with UNAVAILABLE when the server goes away', async () => {
      let taken = false
      const address = await kit.start((server) => {
        server.stream(pipe, () => {
          taken = true
        })
      })
      const stream = kit.client.open(address, pipe)
      const closed = closeOf(stream as Duplex<never, never>)
      await until(() => taken, 'the stream is there')
      await kit.server.close(0)
      expect((await closed)?.code).oneOf(['UNAVAILABLE', 'CANCELLED'])
    })

    it('end with UNAVAILABLE at once when nobody listens', async () => {
      const error = await closeOf(kit.client.open('127.0.0.1:1', pipe) as Duplex<never, never>)
      expect(error?.code).equal('UNAVAILABLE')
    })

    it('are given up when the peer accepts the connection and says nothing', async () => {
      const sockets: Socket[] = []
      const tcp = createTcpServer((socket) => sockets.push(socket))
      await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))
      const client = createGrpcClient({ log: quietLog, openMs: 200 })
      const stream = client.open(`127.0.0.1:${(tcp.address() as AddressInfo).port}`, pipe)
      const error = await closeOf(stream as Duplex<never, never>)
      expect(error?.code).equal('UNAVAILABLE')
      await client.close()
      for (const socket of sockets) socket.destroy()
      tcp.close()
    })

    it('break with the thrown error when a handler throws', async () => {
      const address = await kit.start((server) =>
        server.stream(pipe, (stream) => {
          stream.onMessage(() => {
            throw new StoreError('FENCED', 'too old')
          })
        }),
      )
      const stream = kit.client.open(address, pipe)
      const closed = closeOf(stream as Duplex<never, never>)
      stream.send(text('x'))
      expect((await closed)?.code).equal('FENCED')
    })

    it('make the sender wait for a slow reader, and lose nothing', async () => {
      const pieceBytes = 256 * 1024
      const pieces = 400
      let received = 0
      let reader: Duplex<Uint8Array, Uint8Array> | undefined
      const address = await kit.start((server) =>
        server.stream(pipe, (stream) => {
          reader = stream
          stream.onMessage(() => {
            received += 1
          })
          stream.onEnd(() => stream.end())
          stream.pause()
        }),
      )
      const stream = kit.client.open(address, pipe)
      const closed = closeOf(stream as Duplex<never, never>)
      let sent = 0
      function pump(): void {
        while (sent < pieces) {
          sent += 1
          if (!stream.send(new Uint8Array(pieceBytes))) return
        }
        stream.end()
      }
      stream.onDrain(pump)
      pump()
      await until(() => reader !== undefined, 'the stream is there')
      let before = -1
      await until(() => {
        const still = before === sent
        before = sent
        return still && sent > 1
      }, 'the sender stands still')
      expect(sent * pieceBytes, 'bytes taken from the sender while nobody reads').lessThan(16 * 1024 * 1024)
      reader?.resume()
      expect(await closed).equal(undefined)
      expect(received).equal(pieces)
    })
  })

  describe('listening', () => {
    it('says PORT_IN_USE for a taken port', async () => {
      const address = await kit.start((server) => server.unary(echo, async (request) => request))
      const second = createGrpcServer({ log: quietLog, metrics: kit.metrics })
      expect((await failure(second.listen(address))).code).equal('PORT_IN_USE')
      await second.close(0)
    })

    it('says USAGE for what is not host:port', async () => {
      for (const bad of ['', 'x', ':1', 'a:b', '1.2.3.4:99999', 'http://a:1', '127.0.0.1:1/x']) {
        expect((await failure(kit.server.listen(bad))).code, bad).equal('USAGE')
      }
      expect((await failure(kit.server.listen('203.0.113.7:45000'))).code).equal('USAGE')
    })

    it('serves on after garbage on the port', async () => {
      const address = await kit.start((server) => {
        server.unary(echo, async (request) => request)
        server.stream(pipe, (stream) => stream.onEnd(() => stream.end()))
      })
      const port = Number(address.split(':')[1])
      const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
      const hugeFrame = Buffer.concat([
        preface,
        Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        randomBytes(1 << 20),
      ])
      const inputs = [randomBytes(65_536), text('GET / HTTP/1.1\r\n\r\n'), preface, hugeFrame]
      for (let i = 0; i < 20; i++) inputs.push(Buffer.concat([preface, randomBytes(4096)]))
      for (const bytes of inputs) {
        await new Promise<void>((resolve) => {
          const socket = connectTcp(port, '127.0.0.1', () => socket.end(bytes))
          socket.on('error', () => undefined)
          socket.on('close', () => resolve())
          socket.resume()
          setTimeout(() => socket.destroy(), 300)
        })
      }
      expect((await kit.client.call(address, echo, text('x'), { timeoutMs: 5000 })).length).equal(1)
    })

    it('answers HTTP/2 requests that are not gRPC, and grpc frames that lie about their length', async () => {
      const address = await kit.start((server) => server.unary(echo, async (request) => request))
      const session = connectHttp2(`http://${address}`)
      session.on('error', () => undefined)
      const statuses: unknown[] = []
      const requests: [Record<string, string>, Uint8Array][] = [
        [{ ':path': '/', ':method': 'GET' }, text('')],
        [
          { ':path': echo.path, ':method': 'POST', 'content-type': 'application/grpc' },
          new Uint8Array([0, 255, 255, 255, 255, 1]),
        ],
        [
          { ':path': echo.path, ':method': 'POST', 'content-type': 'application/grpc' },
          new Uint8Array([9, 0, 0, 0, 1, 1]),
        ],
        [{ ':path': '/%01', ':method': 'POST', 'content-type': 'application/grpc', 'grpc-timeout': 'x' }, text('abc')],
      ]
      for (const [headers, body] of requests) {
        await new Promise<void>((resolve) => {
          const stream = session.request(headers, { endStream: false })
          stream.on('response', (response) => statuses.push(response[':status']))
          stream.on('error', () => undefined)
          stream.on('close', () => resolve())
          stream.resume()
          stream.end(body)
        })
      }
      expect(statuses).deep.equal([415, 200, 200, 200])
      session.destroy()
      expect((await kit.client.call(address, echo, text('x'), { timeoutMs: 5000 })).length).equal(1)
    })
  })
})
