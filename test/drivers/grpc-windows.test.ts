/**
 * Fails when an upgrade of grpc-js or Node takes the large receive windows away: looks at what the peer is told and at how
 * much one stream really takes while nobody reads.
 */

import { connect, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { expect } from 'chai'
import { WindowPool } from '../../src/drivers/grpc-windows.ts'
import { limits } from '../../src/model/limits.ts'
import type { Duplex } from '../../src/ports/net.ts'
import { bytesMethod, createKit, type Kit, until } from './grpc-kit.ts'

const MiB = 1024 * 1024
const bulk = bytesMethod('/holdfast.v1.Storage/Chunks', 'stream')
const control = bytesMethod('/holdfast.v1.Meta/Session', 'stream')
const raft = bytesMethod('/holdfast.v1.Raft/Messages', 'stream')
type Stream = Duplex<Uint8Array, Uint8Array>

describe('receive windows', () => {
  let kit: Kit
  let address: string
  let sessions: ClientHttp2Session[]
  let held: Stream[]

  beforeEach(async () => {
    kit = createKit([bulk.path])
    sessions = []
    held = []
    address = await kit.start((server) => {
      for (const method of [bulk, control, raft]) {
        server.stream(method, (stream) => {
          held.push(stream)
          stream.pause()
        })
      }
    })
  })
  afterEach(async () => {
    for (const session of sessions) session.destroy()
    await kit.stop()
  })

  function dial(): ClientHttp2Session {
    const session = connect(`http://${address}`, { maxSessionMemory: 100 })
    session.on('error', () => undefined)
    sessions.push(session)
    return session
  }

  function request(session: ClientHttp2Session, path: string): ClientHttp2Stream {
    const stream = session.request({ ':path': path, ':method': 'POST', 'content-type': 'application/grpc' })
    stream.on('error', () => undefined)
    stream.resume()
    return stream
  }

  /** Bytes that the peer takes of `count` half-MiB gRPC messages while nobody reads them, at least `least`. */
  async function taken(
    session: ClientHttp2Session,
    stream: ClientHttp2Stream,
    count: number,
    least: number,
  ): Promise<number> {
    const message = Buffer.alloc(5 + MiB / 2)
    message.writeUInt32BE(MiB / 2, 1)
    for (let i = 0; i < count; i++) stream.write(message)
    let before = 0
    let stillSince = Date.now()
    await until(() => {
      const now = session.socket.bytesWritten
      if (now !== before) stillSince = Date.now()
      before = now
      return now > least && Date.now() - stillSince > 300
    }, 'the sender stands still')
    expect(stream.destroyed).equal(false)
    return before
  }

  it('grow for a bulk stream, as the peer is told', async () => {
    const session = dial()
    request(session, bulk.path)
    await until(() => session.remoteSettings.initialWindowSize === 16 * MiB, 'the window grows')
    await until(() => (session.state.remoteWindowSize ?? 0) >= 16 * MiB, "the connection's window grows too")
    expect(kit.serverWindows.left).equal(limits.windowBytesMax - 16 * MiB)
  })

  it('grow for a stream of Raft messages as far as one batch of entries needs', async () => {
    const session = dial()
    request(session, raft.path)
    await until(() => session.remoteSettings.initialWindowSize === 2 * MiB, 'the window grows')
    expect(kit.serverWindows.left).equal(limits.windowBytesMax - 2 * MiB)
    session.destroy()
    await until(() => kit.serverWindows.left === limits.windowBytesMax, 'the window is given back')
  })

  it('stay small for a control stream', async () => {
    const session = dial()
    request(session, control.path)
    await until(() => held.length === 1, 'the stream is there')
    expect(session.remoteSettings.initialWindowSize).equal(65_535)
    expect(kit.serverWindows.left).equal(limits.windowBytesMax)
  })

  it('let one bulk stream send far more than 64 KiB while nobody reads, and a control stream not', async () => {
    const wide = dial()
    const stream = request(wide, bulk.path)
    await until(() => wide.remoteSettings.initialWindowSize === 16 * MiB, 'the window grows')
    // grpc-js itself holds 16 messages for a handler that does not read; what follows can only be in the window.
    expect(await taken(wide, stream, 32, MiB)).greaterThan(16 * MiB)
    const narrow = dial()
    expect(await taken(narrow, request(narrow, control.path), 32, 32 * 1024)).lessThan(MiB)
  })

  it('are shared by the streams of a connection', async () => {
    const session = dial()
    for (let i = 0; i < 4; i++) request(session, bulk.path)
    await until(() => session.remoteSettings.initialWindowSize === 4 * MiB, 'each gets a quarter')
    expect(kit.serverWindows.left).equal(limits.windowBytesMax - 16 * MiB)
  })

  it('are given back when the stream closes and when the connection breaks', async () => {
    const first = dial()
    const stream = request(first, bulk.path)
    await until(() => kit.serverWindows.left < limits.windowBytesMax, 'granted')
    stream.close()
    await until(() => kit.serverWindows.left === limits.windowBytesMax, 'given back by the stream')
    const second = dial()
    request(second, bulk.path)
    await until(() => kit.serverWindows.left < limits.windowBytesMax, 'granted')
    second.destroy()
    await until(() => kit.serverWindows.left === limits.windowBytesMax, 'given back by the connection')
  })

  it('never exceed the bound, however many connections come', async () => {
    for (let i = 0; i < 64; i++) request(dial(), bulk.path)
    await until(() => held.length === 64, 'all are there')
    expect(kit.serverWindows.left).greaterThan(0)
    const told = sessions.map((session) => session.remoteSettings.initialWindowSize ?? 0)
    const beyondDefault = told.reduce((sum, window) => sum + (window > 65_535 ? window : 0), 0)
    expect(beyondDefault).lessThan(limits.windowBytesMax)
    expect(kit.serverWindows.left).greaterThanOrEqual(limits.windowBytesMax - told.reduce((a, b) => a + b, 0))
  })

  it('of the client grow for bulk channels only, and go back when it closes', async () => {
    const stream = kit.client.open(address, control)
    stream.onClose(() => undefined)
    expect(kit.clientWindows.left).equal(limits.windowBytesMax)
    const wide = kit.client.open(address, bulk)
    wide.onClose(() => undefined)
    expect(kit.clientWindows.left).equal(limits.windowBytesMax - 16 * MiB)
    await until(() => held.length === 2, 'both are there')
    await kit.client.close()
    expect(kit.clientWindows.left).equal(limits.windowBytesMax)
  })

  it('are granted a quarter of the rest at most, and nothing small', () => {
    const pool = new WindowPool(8 * MiB)
    expect(pool.take(16 * MiB)).equal(2 * MiB)
    expect(pool.take(1 * MiB)).equal(1 * MiB)
    expect(new WindowPool(MiB / 2).take(MiB)).equal(0)
  })
})
