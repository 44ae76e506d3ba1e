/** Answers and calls that take long to pass over a slow line arrive, although nothing whole comes meanwhile. */

import { createServer, connect, type Server, type Socket } from 'node:net'
import type { AddressInfo } from 'node:net'
import { expect } from 'chai'
import { createNodeClock } from '../../src/drivers/clock-node.ts'
import type { Env } from '../../src/ports/env.ts'
import { askLink, Link } from '../../src/sdk/meta-link.ts'
import type { holdfast } from '../../src/wire/messages.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { createKit, type Kit } from '../drivers/grpc-kit.ts'

const pieceBytes = 8 * 1024

/** Passes bytes on at `bytesPerMs`. */
function slowly(from: Socket, to: Socket, bytesPerMs: number): void {
  let waiting: Buffer = Buffer.alloc(0)
  let timer: NodeJS.Timeout | undefined
  const pump = (): void => {
    timer = undefined
    if (to.destroyed || waiting.length === 0) return
    const piece = waiting.subarray(0, pieceBytes)
    waiting = waiting.subarray(piece.length)
    to.write(piece)
    if (waiting.length < pieceBytes) from.resume()
    timer = setTimeout(pump, piece.length / bytesPerMs)
  }
  from.on('data', (bytes: Buffer) => {
    waiting = Buffer.concat([waiting, bytes])
    if (waiting.length >= pieceBytes) from.pause()
    if (timer === undefined) pump()
  })
  from.on('error', () => to.destroy())
  from.on('close', () => {
    clearTimeout(timer)
    to.destroy()
  })
}

describe('a meta link over a slow line', () => {
  let kit: Kit
  let line: Server
  let link: Link

  async function open(bytesPerMs: number): Promise<void> {
    kit = createKit()
    const address = await kit.start((server) => {
      server.stream(metaMethods.session, (stream) => {
        stream.onEnd(() => stream.end())
        stream.onMessage(({ call, body, stagePage }) => {
          const answer: holdfast.v1.MetaReply.$Properties = { call, clusterId: 'c'.repeat(32) }
          if (body === 'listObjects') {
            const entries = Array.from({ length: 500 }, (_, i) => ({ key: `${i}`.padEnd(500, 'k') }))
            stream.send({ ...answer, body: 'listObjects', listObjects: { entries } })
          } else if (stagePage) stream.send({ ...answer, body: 'stagePage', stagePage: {} })
          else if (body === 'listBuckets') stream.send({ ...answer, body: 'listBuckets', listBuckets: {} })
          else stream.send({ ...answer, body: 'error', error: { code: 'INVALID_ARGUMENT', message: 'what?' } })
        })
      })
    })
    const port = Number(address.split(':').at(-1))
    line = createServer((near) => {
      const far = connect(port, '127.0.0.1')
      slowly(near, far, bytesPerMs)
      slowly(far, near, bytesPerMs)
    })
    await new Promise<void>((resolve) => line.listen(0, '127.0.0.1', resolve))
    const env = { clock: createNodeClock(), net: kit.client } as unknown as Env
    link = new Link(env, `127.0.0.1:${(line.address() as AddressInfo).port}`)
  }

  afterEach(async () => {
    link.destroy()
    await kit.stop()
    await new Promise((resolve) => line.close(resolve))
  })

  const limits = { signal: new AbortController().signal, timeoutMs: 30_000 }

  it('takes an answer of 250 KB that needs longer than an answer may stay out', async () => {
    await open(200)
    await askLink(link, 'listBuckets', {}, limits)
    const { entries } = await askLink(link, 'listObjects', { bucket: 'b' }, limits)
    expect(entries.length).to.equal(500)
  })

  it('brings a call of 400 KB to the node', async () => {
    await open(300)
    await askLink(link, 'listBuckets', {}, limits)
    const chunks = Array.from({ length: 400 }, (_, i) => ({ id: i + 1, length: 1, root: new Uint8Array(1000) }))
    await askLink(link, 'stagePage', { chunks, copies: 1, write: 'one' }, limits)
    expect(link.closed).to.equal(false)
  })
})
