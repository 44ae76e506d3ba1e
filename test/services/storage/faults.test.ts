/**
 * The storage node when disks, clients and orders misbehave: what it gives up, what it tells meta, what it goes on with.
 */

import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { StoreError } from '../../../src/model/errors.ts'
import { fenceOf } from '../../../src/model/fence.ts'
import type { ExtentFile } from '../../../src/ports/extents.ts'
import type { DiskEngine } from '../../../src/services/storage/types.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { until } from '../../drivers/grpc-kit.ts'
import { fastClock } from '../../sdk/fake-net.ts'
import { ChunkClient, chunkBytes, World } from './storage-kit.ts'

const MiB = 1024 * 1024

/** Flips a bit of what a disk holds of `bytes`, past the page cache's back or not: reads see it. */
async function flipStored(engine: DiskEngine | undefined, bytes: Uint8Array): Promise<void> {
  if (engine === undefined) throw new Error('no engine')
  for (const name of await readdir(engine.path)) {
    if (!name.startsWith('extent-')) continue
    const handle = await open(join(engine.path, name), 'r+')
    try {
      const at = (await handle.readFile()).indexOf(bytes.subarray(0, 4096))
      if (at < 0) continue
      await handle.write(Uint8Array.of((bytes[0] ?? 0) ^ 1), 0, 1, at)
      return
    } finally {
      await handle.close()
    }
  }
  throw new Error('the bytes are in no extent')
}

describe('storage node in trouble', () => {
  let world: World
  beforeEach(async () => {
    world = new World()
    await world.start()
  })
  afterEach(() => world.stop())

  async function ready(options: Parameters<World['node']>[1] = {}) {
    const started = await world.node('s1', options)
    await until(() => started.node.ready(), 'the node is ready')
    return started
  }

  it('gives up a put that gets no bytes, though its stream is used, and takes its memory back', async () => {
    world.env = { ...world.theEnv(), clock: fastClock(50) }
    const { address } = await ready({ arenaBytes: 9 * MiB, metaSilenceMs: 200_000 })
    const client = new ChunkClient(world.theEnv(), address)
    client.stream.send({ request: 1, putBegin: { id: 60, length: 8 * MiB } })
    client.bytes(1, chunkBytes(MiB))
    let request = 2
    await until(() => {
      client.stream.send({ request: request++, get: { id: 999 } })
      return client.answered(1)
    }, 'it is given up')
    expect(client.failures.get(1)?.code).equal('TIMEOUT')
    const other = new ChunkClient(world.theEnv(), address)
    const whole = chunkBytes(8 * MiB)
    other.put(1, { id: 61, ...world.sums(whole) }, whole)
    await until(() => other.answered(1), 'another one finds room')
    expect(other.done.has(1)).equal(true)
  })

  it('keeps an operation apart from a cancelled one that had its number', async () => {
    const { address } = await ready()
    const env = world.theEnv()
    const big = chunkBytes(8 * MiB)
    const writer = new ChunkClient(env, address)
    writer.put(1, { id: 70, ...world.sums(big) }, big)
    await until(() => writer.answered(1), 'it is stored')
    const client = new ChunkClient(env, address)
    client.stream.pause()
    for (let i = 1; i <= 4; i++) client.stream.send({ request: i, get: { id: 70 } })
    const half = chunkBytes(100_000)
    for (let i = 1; i <= 4; i++) {
      client.stream.send({ request: i, cancel: {} })
      client.stream.send({ request: i, putBegin: { id: 70 + i, length: 200_000 } })
      client.stream.send({ request: i, putData: { data: half } })
    }
    client.stream.send({ request: 9, get: { id: 999 } })
    client.stream.resume()
    await until(() => client.failures.has(9), 'all of it was taken')
    for (let i = 1; i <= 4; i++) client.stream.send({ request: i, putData: { data: half } })
    await until(() => [1, 2, 3, 4].every((i) => client.answered(i)), 'the puts are answered')
    expect(client.failures.size).equal(1)
  })

  it('tells a corrupt replica in every heartbeat until one is answered', async () => {
    const { address, engines } = await ready()
    const client = new ChunkClient(world.theEnv(), address)
    const bytes = chunkBytes(100_000)
    client.put(1, { id: 31 }, bytes)
    await until(() => client.done.has(1), 'it is stored')
    await flipStored(engines[0], bytes)
    world.meta.beats = false
    client.stream.send({ request: 2, get: { id: 31, disk: 1 } })
    await until(() => client.failures.has(2), 'the read is refused')
    expect(client.failures.get(2)?.code).equal('CORRUPT')
    const telling = (): number => world.meta.heartbeats().filter((beat) => beat.corrupt.length > 0).length
    await until(() => telling() > 3, 'it is told again and again')
    expect(world.meta.heartbeats().at(-1)?.corrupt[0]).include({ chunk: 31, disk: 1 })
    world.meta.beats = true
    await until(() => world.meta.heartbeats().at(-1)?.corrupt.length === 0, 'it is told no more')
  })

  it('tells what it found before it was registered', async () => {
    world.meta.refusal = new StoreError('NOT_LEADER', 'not here')
    const { node, engines } = await world.node('s1')
    const [engine] = engines
    if (engine === undefined) throw new Error('no engine')
    const bytes = chunkBytes(100_000)
    const request = { id: 32, length: bytes.length, lease: 0 }
    const writer = await engine.beginPut(request, new AbortController().signal)
    writer.write(bytes)
    await writer.commit()
    await flipStored(engine, bytes)
    expect(await engine.verify(32)).equal('corrupt')
    world.meta.refusal = undefined
    await until(() => node.ready(), 'it is attached')
    const told = (): boolean => world.meta.heartbeats().some((beat) => beat.corrupt[0]?.chunk === 32)
    await until(told, 'meta hears of it')
  })

  it('serves on with its other disk when one fails, and says so at once', async () => {
    let failing = false
    const wrap = (file: ExtentFile): ExtentFile => {
      const sync = file.sync.bind(file)
      file.sync = () => (failing ? Promise.reject(new Error('EIO: i/o error, fdatasync')) : sync())
      return file
    }
    world.wrapExtents = (files) => {
      world.wrapExtents = (others) => others
      return {
        ...files,
        open: async (number) => wrap(await files.open(number)),
        create: async (number, size) => wrap(await files.create(number, size)),
      }
    }
    const { address, node } = await ready({ disks: 2 })
    const client = new ChunkClient(world.theEnv(), address)
    const bytes = chunkBytes(100_000)
    client.put(1, { id: 1, disk: 1 }, bytes)
    client.put(2, { id: 2, disk: 2 }, bytes)
    await until(() => client.done.has(1) && client.done.has(2), 'both disks take chunks')
    failing = true
    client.put(3, { id: 3, disk: 1 }, bytes)
    await until(() => client.answered(3), 'it is answered')
    expect(client.failures.get(3)?.code).equal('DISK_FAILED')
    const states = (): string | undefined =>
      world.meta
        .heartbeats()
        .at(-1)
        ?.disks.map((disk) => disk.state)
        .join()
    await until(() => states() === 'failed,ok', 'meta hears of it')
    failing = false
    client.put(4, { id: 4, disk: 1 }, bytes)
    client.put(5, { id: 5 }, bytes)
    client.stream.send({ request: 6, get: { id: 2, disk: 2 } })
    client.stream.send({ request: 7, get: { id: 1, disk: 1 } })
    await until(() => [4, 5].every((n) => client.answered(n)) && client.complete(6) && client.complete(7), 'all')
    expect(client.failures.get(4)?.code).equal('DISK_FAILED')
    expect(client.done.get(5)?.disk).equal(2)
    expect(client.received(6).equals(bytes)).equal(true)
    expect(client.failures.has(7)).equal(true)
    expect(node.ready()).equal(true)
  })

  it('serves on with its other disk, on the same stream, while one hangs; who waits for that one is answered', async () => {
    let hanging = false
    const hang = (file: ExtentFile): ExtentFile => {
      const [sync, read] = [file.sync.bind(file), file.read.bind(file)]
      file.sync = () => (hanging ? new Promise(() => undefined) : sync())
      file.read = (into, offset) => (hanging ? new Promise(() => undefined) : read(into, offset))
      return file
    }
    world.wrapExtents = (files) => {
      world.wrapExtents = (others) => others
      return {
        ...files,
        open: async (number) => hang(await files.open(number)),
        create: async (number, size) => hang(await files.create(number, size)),
      }
    }
    world.diskOptions = { health: { suspectMs: 300, failMs: 1500 }, ioAtOnce: 4 }
    const { address } = await ready({ disks: 2 })
    const client = new ChunkClient(world.theEnv(), address)
    const bytes = chunkBytes(100_000)
    client.put(1, { id: 1, disk: 1 }, bytes)
    client.put(2, { id: 2, disk: 2 }, bytes)
    await until(() => client.done.has(1) && client.done.has(2), 'both disks take chunks')
    hanging = true
    // More than a stream delivers at once, and more than a node reads at once.
    for (let i = 100; i < 130; i++) client.stream.send({ request: i, get: { id: 1, disk: 1 } })
    client.put(3, { id: 3, disk: 1 }, bytes)
    for (let i = 0; i < 20; i++) client.put(200 + i, { id: 200 + i, disk: 2 }, bytes)
    for (let i = 0; i < 20; i++) client.stream.send({ request: 300 + i, get: { id: 2, disk: 2 } })
    const others = (): boolean =>
      Array.from({ length: 20 }, (_, i) => client.done.has(200 + i) && client.complete(300 + i)).every(Boolean)
    await until(others, 'the other disk serves')
    expect(client.answered(3)).equal(false)
    const state = (): string | undefined => world.meta.heartbeats().at(-1)?.disks[0]?.state
    await until(() => client.answered(3) && state() === 'failed', 'the disk that hangs is given up')
    expect(client.failures.get(3)?.code).equal('DISK_FAILED')
    await until(() => [...Array(30)].every((_, i) => client.complete(100 + i)), 'its readers are answered')
    expect(world.meta.heartbeats().some((beat) => beat.disks[0]?.state === 'suspect')).equal(true)
    expect(world.meta.heartbeats().at(-1)?.disks[0]?.reason).match(/no answer within/)
    expect(world.meta.heartbeats().at(-1)?.disks[1]?.state).equal('ok')
    expect(world.meta.heartbeats().every((beat) => beat.corrupt.length === 0)).equal(true)
  })

  it('stays up and says so when all its disks have failed', async () => {
    let failing = false
    world.wrapExtents = (files) => {
      const wrap = (file: ExtentFile): ExtentFile => {
        const write = file.write.bind(file)
        file.write = (data, offset) => (failing ? Promise.reject(new Error('EIO: i/o error')) : write(data, offset))
        return file
      }
      return {
        ...files,
        open: async (number) => wrap(await files.open(number)),
        create: async (number, size) => wrap(await files.create(number, size)),
      }
    }
    const { address, node } = await ready({ disks: 2 })
    failing = true
    const client = new ChunkClient(world.theEnv(), address)
    const bytes = chunkBytes(100_000)
    for (const disk of [1, 2]) client.put(disk, { id: disk, disk }, bytes)
    await until(() => client.answered(1) && client.answered(2), 'both are answered')
    expect(node.notReady()).match(/every disk of it has failed/)
    const told = (): string | undefined =>
      world.meta
        .heartbeats()
        .at(-1)
        ?.disks.map((disk) => disk.state)
        .join()
    await until(() => told() === 'failed,failed', 'meta hears of it')
    const states = node.samples().filter(({ name, value }) => name === 'holdfast_disk_state' && value === 1)
    expect(states.map(({ labels }) => labels?.['state'])).deep.equal(['failed', 'failed'])
  })

  it('serves on with its other disk when one cannot take the incarnation of a recovered cluster', async () => {
    let readOnly = false
    world.wrapFiles = (files) => {
      world.wrapFiles = (others) => others
      const write = (name: string, bytes: Uint8Array): Promise<void> =>
        readOnly ? Promise.reject(new Error('EROFS: read-only file system')) : files.write(name, bytes)
      return {
        ...files,
        write,
        read: (name) => files.read(name),
        overwrite: (name, bytes) => files.overwrite(name, bytes),
      }
    }
    const { address, engines } = await ready({ disks: 2 })
    const { meta } = world
    const states = (): string | undefined =>
      meta
        .heartbeats()
        .at(-1)
        ?.disks.map((disk) => disk.state)
        .join()
    const recover = async (incarnation: number): Promise<void> => {
      const before = meta.heartbeats().length
      meta.term = fenceOf(1, incarnation)
      meta.stream?.destroy(new StoreError('FENCED', 'register again'))
      await until(() => meta.heartbeats().length > before && states() === 'failed,ok', 'the node is back with one disk')
    }
    readOnly = true
    await recover(2)
    await recover(3)
    expect(engines.map((engine) => engine.clusterIncarnation)).deep.equal([1, 3])
    const client = new ChunkClient(world.theEnv(), address)
    client.put(1, { id: 5 }, chunkBytes(1000))
    await until(() => client.answered(1), 'it takes chunks')
    expect(client.done.get(1)?.disk).equal(2)
    expect(world.fatals).deep.equal([])
  })

  it('does not begin a delete that waited past its deadline', async () => {
    const { address, engines } = await ready()
    const client = new ChunkClient(world.theEnv(), address)
    client.put(1, { id: 1 }, chunkBytes(100))
    await until(() => client.done.has(1), 'it is stored')
    const [engine] = engines
    if (engine === undefined) throw new Error('no engine')
    let letGo: () => void = () => undefined
    const held = new Promise<'intact'>((resolve) => {
      letGo = () => resolve('intact')
    })
    engine.verify = () => held
    const { meta } = world
    for (let order = 1; order <= 4; order++) {
      meta.stream?.send({ order, term: 1, deadlineMs: 10_000, verify: { disk: 1, ids: [1] } })
    }
    const sentMs = performance.now()
    const late = meta.order({ delete: { disk: 1, generation: 1, ids: [1] }, deadlineMs: 20 })
    await until(() => performance.now() - sentMs > 100, 'the deadline has passed')
    letGo()
    expect((await late).code).equal('TIMEOUT')
    expect((await meta.order({ check: { disk: 1, ids: [1] } })).ids).deep.equal([])
  })

  it("does not hold up one disk's orders for another disk that does not answer", async () => {
    const { engines } = await ready({ disks: 2 })
    const [engine] = engines
    if (engine === undefined) throw new Error('no engine')
    engine.verify = () => new Promise(() => undefined)
    const { meta } = world
    for (let order = 1; order <= 10; order++) {
      meta.stream?.send({ order, term: 1, deadlineMs: 60_000, verify: { disk: 1, ids: [1] } })
    }
    expect((await meta.order({ verify: { disk: 2, ids: [1] } })).ids).deep.equal([1])
    expect((await meta.order({ verify: { disk: 9, ids: [1] } })).code).equal('NOT_FOUND')
  })

  it('tells many findings in few heartbeats', async () => {
    const open = world.disk.bind(world)
    let tell: (id: number, finding: string) => void = () => undefined
    world.disk = async (arenaBytes) => {
      const engine = await open(arenaBytes)
      engine.onCorrupt = (handler) => {
        tell = handler
      }
      return engine
    }
    await ready()
    const chunks = 3000
    for (let id = 1; id <= chunks; id++) tell(id, 'a sum does not match')
    const telling = (): holdfast.v1.Heartbeat[] => world.meta.heartbeats().filter((beat) => beat.corrupt.length > 0)
    const told = (): Set<number> => new Set(telling().flatMap((beat) => beat.corrupt.map(({ chunk }) => chunk)))
    await until(() => told().size === chunks, 'all is told')
    await until(() => world.meta.heartbeats().at(-1)?.corrupt.length === 0, 'nothing is left to tell')
    expect(telling().length).lessThan(60)
  })
})
