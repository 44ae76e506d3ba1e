/**
 * The storage node as clients and meta see it: over gRPC, on real disks.
 */

import type { TextMetrics } from '../../../src/drivers/metrics-text.ts'
import { expect } from 'chai'
import { isStoreError, StoreError } from '../../../src/model/errors.ts'
import { fenceOf } from '../../../src/model/fence.ts'
import { storageMethods } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { until } from '../../drivers/grpc-kit.ts'
import { ChunkClient, chunkBytes, clusterId, World } from './storage-kit.ts'

const MiB = 1024 * 1024

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'ok'
  } catch (error) {
    if (isStoreError(error)) return error.code
    throw error
  }
}

describe('storage node', () => {
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

  describe('puts and gets', () => {
    it('stores chunks with and without sums and gives them back', async () => {
      const { address } = await ready()
      const client = new ChunkClient(world.theEnv(), address)
      const big = chunkBytes(3 * MiB + 17)
      const small = chunkBytes(5)
      client.put(1, { id: 11, disk: 1, lease: 1, ...world.sums(big) }, big)
      client.put(2, { id: 12, disk: 0, lease: 1 }, small)
      await until(() => client.answered(1) && client.answered(2), 'both are answered')
      expect(client.done.get(1)).include({ id: 11, disk: 1, generation: 1 })
      expect(client.done.get(1)?.blockSums.length).equal(0)
      expect(Buffer.from(client.done.get(2)?.root ?? []).equals(world.sums(small).root)).equal(true)
      expect(Buffer.from(client.done.get(2)?.blockSums ?? []).equals(world.sums(small).blockSums)).equal(true)
      client.stream.send({ request: 3, get: { id: 11 } })
      client.stream.send({ request: 4, get: { id: 12, disk: 1 } })
      client.stream.send({ request: 5, get: { id: 11, offset: 70_000, length: 10 } })
      await until(() => client.complete(3) && client.complete(4) && client.complete(5), 'all come back')
      expect(client.received(3).equals(big)).equal(true)
      expect(client.received(4).equals(small)).equal(true)
      expect(client.begins.get(5)).include({ offset: 65_536, length: big.length })
      expect(
        client
          .received(5)
          .subarray(70_000 - 65_536, 70_010 - 65_536)
          .equals(big.subarray(70_000, 70_010)),
      ).equal(true)
      client.stream.end()
      await until(() => client.closed !== 'open', 'the stream ends in order')
      expect(client.closed).equal(undefined)
    })

    it('takes interleaved puts on one stream', async () => {
      const { address } = await ready()
      const client = new ChunkClient(world.theEnv(), address)
      const chunks = Array.from({ length: 8 }, () => chunkBytes(MiB + 100))
      chunks.forEach((bytes, i) => client.stream.send({ request: i, putBegin: { id: 100 + i, length: bytes.length } }))
      for (let at = 0; at < MiB + 100; at += 200_000) {
        chunks.forEach((bytes, i) =>
          client.stream.send({ request: i, putData: { data: bytes.subarray(at, at + 200_000) } }),
        )
      }
      await until(() => chunks.every((_, i) => client.answered(i)), 'all are answered')
      expect(client.done.size).equal(8)
      for (const [i, bytes] of chunks.entries()) {
        expect(Buffer.from(client.done.get(i)?.root ?? []).equals(world.sums(bytes).root)).equal(true)
      }
    })

    it('answers each bad put with a failure and serves the others', async () => {
      const { address } = await ready()
      const client = new ChunkClient(world.theEnv(), address)
      const bytes = chunkBytes(1000)
      const wrong = { ...world.sums(bytes), blockSums: new Uint8Array(8) }
      client.put(1, { id: 1, ...wrong }, bytes)
      client.put(2, { id: 0 }, bytes)
      client.put(3, { id: 2, length: 9 * MiB }, bytes)
      client.put(4, { id: 3, length: 10 }, bytes)
      client.put(5, { id: 4, disk: 9 }, bytes)
      client.put(6, { id: 5, blockSums: new Uint8Array(7) }, bytes)
      client.put(7, { id: 6 }, bytes)
      await until(() => [1, 2, 3, 4, 5, 6, 7].every((n) => client.answered(n)), 'all are answered')
      const codes = [1, 2, 3, 4, 5, 6].map((n) => client.failures.get(n)?.code)
      expect(codes).deep.equal([
        'CORRUPT',
        'INVALID_ARGUMENT',
        'INVALID_ARGUMENT',
        'INVALID_ARGUMENT',
        'NOT_FOUND',
        'INVALID_ARGUMENT',
      ])
      expect(client.done.has(7)).equal(true)
    })

    it('answers CONFLICT to other bytes under a held id, and acknowledges the same ones', async () => {
      const { address } = await ready()
      const client = new ChunkClient(world.theEnv(), address)
      const bytes = chunkBytes(100_000)
      for (const [request, body] of [bytes, bytes, chunkBytes(100_000)].entries()) {
        client.put(request, { id: 7, ...world.sums(body) }, body)
        await until(() => client.answered(request), 'it is answered')
      }
      expect([client.done.has(0), client.done.has(1)]).deep.equal([true, true])
      expect(client.failures.get(2)?.code).equal('CONFLICT')
    })

    it('gives up what was cancelled and forgets what a broken stream left', async () => {
      const { address, engines } = await ready({ arenaBytes: 20 * MiB })
      const half = chunkBytes(4 * MiB)
      for (let round = 0; round < 4; round++) {
        const client = new ChunkClient(world.theEnv(), address)
        client.stream.send({ request: 1, putBegin: { id: 50, length: 8 * MiB } })
        client.bytes(1, half)
        client.stream.send({ request: 2, putBegin: { id: 51, length: 8 * MiB } })
        client.stream.send({ request: 2, cancel: {} })
        client.stream.send({ request: 3, get: { id: 999 } })
        await until(() => client.failures.has(3), 'the stream is served')
        client.stream.destroy()
      }
      const client = new ChunkClient(world.theEnv(), address)
      const whole = chunkBytes(8 * MiB)
      client.put(1, { id: 52, ...world.sums(whole) }, whole)
      await until(() => client.answered(1), 'there is room again')
      expect(client.done.has(1)).equal(true)
      expect(engines[0]?.status().chunks).equal(1)
    })

    it('keeps putting when the arena is smaller than what is sent at once', async () => {
      const { address } = await ready({ arenaBytes: 20 * MiB })
      const client = new ChunkClient(world.theEnv(), address)
      const bytes = chunkBytes(4 * MiB)
      const sums = world.sums(bytes)
      for (let i = 0; i < 24; i++) client.put(i, { id: 200 + i, ...sums }, bytes)
      await until(
        () => Array.from({ length: 24 }, (_, i) => client.answered(i)).every(Boolean),
        'all are answered',
        30_000,
      )
      expect(client.failures.size).equal(0)
    })

    it('breaks a stream that names a request twice or says nothing', async () => {
      const { address } = await ready()
      const twice = new ChunkClient(world.theEnv(), address)
      twice.stream.send({ request: 1, putBegin: { id: 1, length: 10 } })
      twice.stream.send({ request: 1, putBegin: { id: 2, length: 10 } })
      const empty = new ChunkClient(world.theEnv(), address)
      empty.stream.send({ request: 1 })
      await until(() => twice.closed !== 'open' && empty.closed !== 'open', 'both are broken')
      expect(twice.closed).include({ code: 'INVALID_ARGUMENT' })
      expect(empty.closed).include({ code: 'INVALID_ARGUMENT' })
    })

    it('does not read ahead for a client that stopped reading', async () => {
      const { address, engines } = await ready()
      const bytes = chunkBytes(8 * MiB)
      const env = world.theEnv()
      const writer = new ChunkClient(env, address)
      writer.put(1, { id: 300, ...world.sums(bytes) }, bytes)
      await until(() => writer.answered(1), 'it is stored')
      const engine = engines[0]
      if (engine === undefined) throw new Error('no engine')
      let read = 0
      const openRead = engine.openRead.bind(engine)
      engine.openRead = async (id, offset, length) => {
        const reader = await openRead(id, offset, length)
        const next = reader.next.bind(reader)
        reader.next = async () => {
          const piece = await next()
          read += piece?.length ?? 0
          return piece
        }
        return reader
      }
      const slow = new ChunkClient(env, address)
      slow.stream.pause()
      const gets = 32
      for (let i = 0; i < gets; i++) slow.stream.send({ request: i, get: { id: 300 } })
      let before = -1
      await until(() => {
        const still = before === read && read > 0
        before = read
        return still
      }, 'reading stands still')
      expect(read).lessThan(gets * 8 * MiB * 0.25)
      slow.stream.resume()
      await until(() => Array.from({ length: gets }, (_, i) => slow.complete(i)).every(Boolean), 'all come', 30_000)
      expect(slow.received(gets - 1).equals(bytes)).equal(true)
    })

    it('serves unary PutChunk and GetChunk up to 1 MiB', async () => {
      const { address } = await ready()
      const { net } = world.theEnv()
      const bytes = chunkBytes(MiB)
      const done = await net.call(
        address,
        storageMethods.putChunk,
        { begin: { id: 21, length: bytes.length }, data: bytes },
        { timeoutMs: 5000 },
      )
      expect(Buffer.from(done.root).equals(world.sums(bytes).root)).equal(true)
      const got = await net.call(address, storageMethods.getChunk, { id: 21 }, { timeoutMs: 5000 })
      expect(Buffer.from(got.data).equals(bytes)).equal(true)
      const call = (request: object): Promise<string> =>
        codeOf(net.call(address, storageMethods.getChunk, request, { timeoutMs: 5000 }))
      expect(await call({ id: 0 })).equal('INVALID_ARGUMENT')
      expect(await call({ id: 99 })).equal('NOT_FOUND')
      expect(await call({ id: 21, disk: 7 })).equal('NOT_FOUND')
      expect(await call({ id: 21, offset: 2 * MiB })).equal('INVALID_ARGUMENT')
    })
  })

  describe('metrics', () => {
    it('say how full each disk is and what was read and found corrupt', async () => {
      const { address, node, engines } = await ready()
      const page = (): string => (world.theEnv().metrics as TextMetrics).render()
      expect(page()).include('holdfast_corrupt_replicas_total 0\n')
      expect(page()).include('holdfast_disk_read_bytes_total 0\n')
      const client = new ChunkClient(world.theEnv(), address)
      client.put(1, { id: 11 }, chunkBytes(3 * MiB + 17))
      client.put(2, { id: 12 }, chunkBytes(5))
      await until(() => client.answered(1) && client.answered(2), 'both are stored')
      client.stream.send({ request: 3, get: { id: 11 } })
      client.stream.send({ request: 4, get: { id: 12 } })
      await until(() => client.complete(3) && client.complete(4), 'both come back')
      expect(page()).include(`holdfast_disk_read_bytes_total ${3 * MiB + 17 + 5}\n`)
      const samples = node.samples()
      expect(new Set(samples.map((sample) => sample.labels?.['disk']))).deep.equal(new Set([engines[0]?.id]))
      const value = (name: string): number => samples.find((sample) => sample.name === name)?.value ?? -1
      expect(value('holdfast_disk_chunks')).equal(2)
      expect(value('holdfast_disk_capacity_bytes')).greaterThan(0)
      expect(value('holdfast_disk_used_bytes')).within(1, value('holdfast_disk_capacity_bytes'))
    })
  })

  describe('contact with meta', () => {
    it('refuses writes and serves reads while meta is silent, and writes again after it is back', async () => {
      const { address, node } = await ready({ metaSilenceMs: 300 })
      const client = new ChunkClient(world.theEnv(), address)
      const bytes = chunkBytes(100)
      client.put(1, { id: 1 }, bytes)
      await until(() => client.done.has(1), 'it is stored')
      world.meta.beats = false
      world.meta.refusal = new StoreError('NOT_LEADER', 'not here')
      await until(() => !node.ready(), 'contact is lost')
      expect(node.notReady()).equal('no contact with meta')
      client.put(2, { id: 2 }, bytes)
      client.stream.send({ request: 3, get: { id: 1 } })
      await until(() => client.answered(2) && client.complete(3), 'both are answered')
      expect(client.failures.get(2)?.code).equal('UNAVAILABLE')
      expect(client.received(3).equals(bytes)).equal(true)
      world.meta.beats = true
      world.meta.refusal = undefined
      world.meta.generation = 2
      await until(() => node.ready(), 'contact is back')
      client.put(4, { id: 4 }, bytes)
      await until(() => client.answered(4), 'it is stored')
      expect(client.done.get(4)?.generation).equal(2)
    })

    it('refuses writes before it is registered', async () => {
      world.meta.refusal = new StoreError('NOT_LEADER', 'not here')
      const { address } = await world.node('s1')
      const client = new ChunkClient(world.theEnv(), address)
      client.put(1, { id: 1 }, chunkBytes(100))
      await until(() => client.answered(1), 'it is answered')
      expect(client.failures.get(1)?.code).equal('UNAVAILABLE')
    })

    it('takes the cluster id from meta, registers with it again, and refuses another one', async () => {
      const { node, engines } = await ready()
      expect(engines[0]?.clusterId).equal(clusterId)
      world.meta.clusterId = 'd'.repeat(32)
      const before = world.meta.attaches
      world.meta.stream?.destroy()
      await until(() => world.meta.attaches > before, 'it comes back')
      await until(() => world.fatals.length > 0, 'it gives up')
      expect(world.fatals[0]?.code).equal('WRONG_CLUSTER')
      expect(world.meta.received.flatMap((m) => m.register ?? []).at(-1)?.clusterId).equal(clusterId)
      expect(node.ready()).equal(false)
    })

    it('follows the leader that another meta node names', async () => {
      const other = new World()
      await other.start()
      other.meta.refusal = new StoreError('NOT_LEADER', 'x', { details: { leader: [world.meta.address] } })
      const { node } = await world.node('s1', { meta: [other.meta.address] })
      await until(() => node.ready(), 'the node is attached')
      expect(other.meta.attaches).equal(1)
      await other.stop()
    })

    it('refuses a leader of a lower term than it has seen', async () => {
      world.meta.term = 5
      const { node } = await ready()
      world.meta.term = 4
      const before = world.meta.attaches
      world.meta.stream?.destroy()
      await until(() => world.meta.attaches >= before + 2, 'it tries again and again')
      expect(node.ready()).equal(false)
      world.meta.term = 6
      await until(() => node.ready(), 'a later leader is accepted')
    })

    it('learns nothing from the fence of another cluster', async () => {
      world.meta.term = 5
      // One wrong answer of many is not the end.
      const { node } = await ready({ meta: Array.from({ length: 8 }, () => world.meta.address) })
      const registers = (): holdfast.v1.Register[] => world.meta.received.flatMap(({ register }) => register ?? [])
      const own = world.meta.clusterId
      world.meta.clusterId = 'd'.repeat(32)
      world.meta.term = fenceOf(7, 2)
      const before = registers().length
      world.meta.stream?.destroy()
      await until(() => registers().length > before, 'it meets the other cluster')
      world.meta.clusterId = own
      world.meta.term = 6
      await until(() => registers().length > before + 1 && node.ready(), 'its own leader is accepted')
      expect(registers().at(-1)?.termSeen).equal(5)
    })

    it('notes a recovery of the metadata on its disks, and refuses leaders from before it in whatever term', async () => {
      world.meta.term = fenceOf(2, 3)
      const { node, engines } = await ready({ disks: 2 })
      expect(engines.map((engine) => engine.clusterIncarnation)).deep.equal([3, 3])
      world.meta.term = fenceOf(1_000_000, 2)
      const before = world.meta.attaches
      world.meta.stream?.destroy()
      await until(() => world.meta.attaches >= before + 2, 'it tries again and again')
      expect(node.ready()).equal(false)
      const registered = world.meta.received.flatMap((message) => message.register ?? []).at(-1)
      expect(registered?.termSeen).equal(fenceOf(2, 3))
    })

    it('says goodbye when it stops', async () => {
      const { node } = await ready()
      await node.stop()
      await until(() => world.meta.received.some((message) => message.goodbye), 'meta hears it')
    })

    it('reports every disk with its state in heartbeats', async () => {
      await ready({ disks: 2 })
      await until(() => world.meta.heartbeats().length > 2, 'heartbeats come')
      const last = world.meta.heartbeats().at(-1)
      expect(last?.disks.map((disk) => disk.state)).deep.equal(['ok', 'ok'])
      expect(last?.disks.every((disk) => disk.capacityBytes > 0)).equal(true)
    })
  })

  describe('orders', () => {
    async function store(address: string, ids: readonly number[], bytes: Uint8Array): Promise<void> {
      const client = new ChunkClient(world.theEnv(), address)
      for (const id of ids) client.put(id, { id }, bytes)
      await until(() => ids.every((id) => client.done.has(id)), 'all are stored')
      client.stream.end()
    }

    it('reports, checks, verifies and deletes', async () => {
      const { address } = await ready()
      await store(address, [1, 2, 3, 10], chunkBytes(100))
      const meta = world.meta
      meta.stream?.send({ order: 5, term: 1, deadlineMs: 1000, reportRange: { disk: 1, from: 2, to: 100 } })
      await until(() => meta.received.some((message) => message.report), 'the report comes')
      const report = meta.received.find((message) => message.report)?.report
      expect(report?.ids).deep.equal([2, 3, 10])
      expect(report?.until).equal(100)
      expect((await meta.order({ check: { disk: 1, ids: [1, 4, 10] } })).ids).deep.equal([4])
      expect((await meta.order({ verify: { disk: 1, ids: [1, 4, 10] } })).ids).deep.equal([4])
      // Held, but not with that content.
      const [any, other] = [new Uint8Array(0), new Uint8Array(8).fill(1)]
      expect((await meta.order({ check: { disk: 1, ids: [1, 10], roots: [other, any] } })).ids).deep.equal([1])
      expect((await meta.order({ verify: { disk: 1, ids: [1, 10], roots: [any, other] } })).ids).deep.equal([10])
      expect((await meta.order({ verify: { disk: 1, ids: [1, 10], roots: [any] } })).code).equal('INVALID_ARGUMENT')
      const stale = await meta.order({ delete: { disk: 1, generation: 9, ids: [1] } })
      expect(stale.code).equal('FENCED')
      const deleted = await meta.order({ delete: { disk: 1, generation: 1, ids: [1, 2] } })
      expect([deleted.code, deleted.generation]).deep.equal(['', 1])
      expect((await meta.order({ check: { disk: 1, ids: [1, 2, 3] } })).ids).deep.equal([1, 2])
    })

    it('copies a chunk from another node, trying the next source when one fails', async () => {
      const { address: from } = await ready()
      const bytes = chunkBytes(2 * MiB + 5)
      await store(from, [77], bytes)
      const second = new World()
      await second.start()
      const target = await second.node('s2')
      await until(() => target.node.ready(), 'the target is ready')
      const { root } = world.sums(bytes)
      const sources = [
        { disk: 3, node: 'gone', addresses: ['127.0.0.1:1'] },
        { disk: 1, node: 's1', addresses: [from] },
      ]
      const copied = await second.meta.order({ copy: { disk: 1, chunk: 77, length: bytes.length, root, sources } })
      expect([copied.code, copied.bytes]).deep.equal(['', bytes.length])
      expect((await second.meta.order({ verify: { disk: 1, ids: [77] } })).ids).deep.equal([])
      const again = await second.meta.order({ copy: { disk: 1, chunk: 77, length: bytes.length, root, sources } })
      expect(again.code).equal('')
      await second.stop()
    })

    it('does not take a copy whose root is another one', async () => {
      const { address: from } = await ready()
      const bytes = chunkBytes(1000)
      await store(from, [78], bytes)
      const second = new World()
      await second.start()
      const target = await second.node('s2')
      await until(() => target.node.ready(), 'the target is ready')
      const sources = [{ disk: 1, node: 's1', addresses: [from] }]
      const order = { disk: 1, chunk: 78, length: bytes.length, root: new Uint8Array(8), sources }
      expect((await second.meta.order({ copy: order })).code).equal('CORRUPT')
      expect((await second.meta.order({ check: { disk: 1, ids: [78] } })).ids).deep.equal([78])
      await second.stop()
    })

    it('answers NOT_FOUND for a disk it does not have', async () => {
      await ready()
      expect((await world.meta.order({ check: { disk: 5, ids: [1] } })).code).equal('NOT_FOUND')
    })
  })
})
