/**
 * gRPC streams straight on HTTP/2: that both ends speak the same gRPC as anybody, in pieces of any size, and what happens to
 * those that do not. A bare http2 peer stands for a stranger.
 */

import {
  connect,
  constants,
  createServer,
  type ClientHttp2Session,
  type Http2Server,
  type ServerHttp2Stream,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import { Client, credentials, Metadata } from '@grpc/grpc-js'
import { expect } from 'chai'
import { StoreError } from '../../src/model/errors.ts'
import { bytesMethod, createKit, type Kit, until } from './grpc-kit.ts'

const pipe = bytesMethod('/holdfast.test.One/Pipe', 'stream')

function framed(...messages: string[]): Buffer {
  return Buffer.concat(
    messages.map((message) => {
      const out = Buffer.alloc(5 + Buffer.byteLength(message))
      out.writeUInt32BE(Buffer.byteLength(message), 1)
      out.write(message, 5)
      return out
    }),
  )
}

interface Answer {
  readonly headers: Record<string, unknown>
  readonly body: Buffer
}

describe('gRPC streams on bare HTTP/2', () => {
  let kit: Kit
  let session: ClientHttp2Session | undefined
  let strangers: Http2Server[] = []
  beforeEach(() => {
    kit = createKit()
  })
  afterEach(async () => {
    session?.destroy()
    for (const stranger of strangers) stranger.close()
    session = undefined
    strangers = []
    await kit.stop()
  })

  const echo = (): Promise<string> =>
    kit.start((server) =>
      server.stream(pipe, (stream) => {
        stream.onMessage((message) => stream.send(message))
        stream.onEnd(() => stream.end())
      }),
    )

  /** Sends `pieces` one by one to the echo and gives what came back, headers and trailers together. */
  function exchange(address: string, pieces: readonly Buffer[], more: Record<string, string> = {}): Promise<Answer> {
    session = connect(`http://${address}`)
    session.on('error', () => undefined)
    const stream = session.request({
      ':method': 'POST',
      ':path': pipe.path,
      'content-type': 'application/grpc',
      ...more,
    })
    return new Promise((resolve) => {
      const headers = {}
      const body: Buffer[] = []
      stream.on('response', (received) => Object.assign(headers, received))
      stream.on('trailers', (received) => Object.assign(headers, received))
      stream.on('data', (piece: Buffer) => body.push(piece))
      stream.on('error', () => undefined)
      stream.on('close', () => resolve({ headers, body: Buffer.concat(body) }))
      const send = async (): Promise<void> => {
        for (const piece of pieces) {
          stream.write(piece)
          await new Promise((done) => setTimeout(done, 2))
        }
        stream.end()
      }
      send().catch(() => undefined)
    })
  }

  it('take messages in pieces of any size', async () => {
    const address = await echo()
    const bytes = framed('one', '', 'x'.repeat(40), 'four')
    for (const size of [1, 3, 5, 7, 1000]) {
      const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
        bytes.subarray(i * size, (i + 1) * size),
      )
      const { headers, body } = await exchange(address, pieces)
      expect(headers['grpc-status']).equal('0')
      expect(body.equals(bytes), `pieces of ${size}`).equal(true)
    }
  })

  it('refuse what is compressed, too long, or ends in the middle of a message', async () => {
    const address = await echo()
    const compressed = Buffer.from([1, 0, 0, 0, 1, 65])
    const tooLong = Buffer.from([0, 0x7f, 0xff, 0xff, 0xff, 65])
    const halved = framed('whole').subarray(0, 7)
    expect((await exchange(address, [compressed])).headers['grpc-status']).equal('3')
    expect((await exchange(address, [tooLong])).headers['grpc-status']).equal('3')
    expect((await exchange(address, [halved])).headers['grpc-status']).equal('14')
  })

  it('leave calls with a deadline or a compression to grpc-js, which serves them too', async () => {
    const address = await echo()
    const later = await exchange(address, [framed('a')], { 'grpc-timeout': '5S' })
    expect([later.headers['grpc-status'], later.body.equals(framed('a'))]).deep.equal(['0', true])
    const identity = (bytes: Buffer): Buffer => bytes
    const client = new Client(address, credentials.createInsecure())
    const call = client.makeBidiStreamRequest(pipe.path, identity, identity, new Metadata(), {
      deadline: Date.now() + 5000,
    })
    const got: string[] = []
    call.on('data', (bytes: Buffer) => got.push(bytes.toString()))
    const ended = new Promise((resolve) => call.on('end', resolve))
    call.write(Buffer.from('b'))
    call.end()
    await ended
    client.close()
    expect(got).deep.equal(['b'])
  })

  it('send what was said in one turn in one piece, whole and in order', async () => {
    const address = await kit.start((server) =>
      server.stream(pipe, (stream) => {
        stream.onMessage(() => {
          for (let i = 0; i < 100; i++) stream.send(Buffer.from(`m${i}`))
          stream.end()
        })
      }),
    )
    const { headers, body } = await exchange(address, [framed('go')])
    expect(headers['grpc-status']).equal('0')
    expect(body.equals(framed(...Array.from({ length: 100 }, (_, i) => `m${i}`)))).equal(true)
  })

  it('deliver nothing while paused, not even what arrived in the same piece', async () => {
    const got: string[] = []
    let go: (() => void) | undefined
    const address = await kit.start((server) =>
      server.stream(pipe, (stream) => {
        stream.onMessage((message) => {
          got.push(Buffer.from(message).toString())
          stream.pause()
          go = () => stream.resume()
        })
        stream.onEnd(() => stream.end())
      }),
    )
    const answer = exchange(address, [framed('a', 'b', 'c')])
    for (const seen of ['a', 'ab', 'abc']) {
      await until(() => got.join('') === seen, `${seen} was delivered`)
      await new Promise((resolve) => setTimeout(resolve, 10))
      expect(got.join('')).equal(seen)
      go?.()
    }
    expect((await answer).headers['grpc-status']).equal('0')
  })

  /** A server that answers every stream with `answer`, and what our client makes of it. */
  async function strange(answer: (stream: ServerHttp2Stream) => void): Promise<StoreError | undefined> {
    const stranger = createServer()
    strangers.push(stranger)
    stranger.on('stream', (stream) => {
      stream.on('error', () => undefined)
      answer(stream)
    })
    await new Promise<void>((resolve) => stranger.listen(0, '127.0.0.1', resolve))
    const stream = kit.client.open(`127.0.0.1:${(stranger.address() as AddressInfo).port}`, pipe)
    return new Promise((resolve) => stream.onClose(resolve))
  }

  it("turn a stranger's status, refusal and nonsense into errors", async () => {
    const denied = await strange((stream) =>
      stream.respond(
        { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': '5', 'grpc-message': 'no%20such%20thing' },
        { endStream: true },
      ),
    )
    expect(denied?.code).equal('NOT_FOUND')
    expect(denied?.message).include('no such thing')
    expect((await strange((stream) => stream.respond({ ':status': 503 }, { endStream: true })))?.code).equal(
      'UNAVAILABLE',
    )
    expect((await strange((stream) => stream.close(constants.NGHTTP2_REFUSED_STREAM)))?.code).equal('UNAVAILABLE')
    const silent = await strange((stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
      stream.end()
    })
    expect(silent?.code).equal('UNAVAILABLE')
  })

  it('say that nothing can have happened when nobody listens', async () => {
    const stream = kit.client.open('127.0.0.1:1', pipe)
    const error = await new Promise<StoreError | undefined>((resolve) => stream.onClose(resolve))
    expect([error?.code, error?.outcome]).deep.equal(['UNAVAILABLE', 'definite'])
    expect(error?.message).include('connection refused')
  })

  it('use a new connection after the old one broke', async () => {
    const address = await echo()
    const first = kit.client.open(address, pipe)
    first.send(Buffer.from('x'))
    await new Promise<void>((resolve) => first.onMessage(() => resolve()))
    first.destroy(new StoreError('CANCELLED', 'enough'))
    const second = kit.client.open(address, pipe)
    const got = new Promise<string>((resolve) => second.onMessage((bytes) => resolve(Buffer.from(bytes).toString())))
    second.send(Buffer.from('y'))
    expect(await got).equal('y')
  })

  it('fail by their close, and calls by their promise, when an address is none', async () => {
    const bulk = bytesMethod('/holdfast.v1.Storage/Put', 'stream')
    const call = bytesMethod('/holdfast.test.One/Call', 'unary')
    for (const address of [
      'not an address',
      'h:99999',
      '',
      'h',
      'h:0',
      'user@h:1',
      'h/x:1',
      '999.1.1.1:80',
      '[::::]:1',
    ]) {
      for (const method of [pipe, bulk]) {
        const stream = kit.client.open(address, method)
        stream.send(Buffer.from('x'))
        stream.end()
        const error = await new Promise<StoreError | undefined>((resolve) => stream.onClose(resolve))
        expect(error?.code, `${address} ${method.path}`).equal('UNAVAILABLE')
      }
      const error: unknown = await kit.client
        .call(address, call, Buffer.from('x'), { timeoutMs: 2000 })
        .catch((thrown: unknown) => thrown)
      expect(error, address).instanceOf(StoreError)
      expect((error as StoreError).code, address).equal('UNAVAILABLE')
    }
  })
})
