/** What the state machine has applied and not yet on disk: who sees it, when it is written, and what a crash leaves. */

import { expect } from 'chai'
import { userMetadataOf } from '../../../src/core/meta/records.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { readApplied, type StateReader } from '../../../src/core/meta/view.ts'
import { StoreError } from '../../../src/model/errors.ts'
import type { Kv, KvFactory, KvOperation } from '../../../src/ports/kv.ts'
import { createMachine, type MetaMachine } from '../../../src/services/meta/machine.ts'
import { FaultPlan } from '../../support/fault-plan.ts'
import { ManualClock } from '../../support/manual-clock.ts'
import { MemoryKvFactory } from '../../support/memory-kv.ts'
import { id, LocalLog, memoryStores, openMachine } from './kit.ts'

/** Writes gather for so long before they are written. */
const gatherMs = 200

async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

/** A store whose synced batches end when the test says so. */
class SlowStores {
  readonly files = memoryStores().files
  readonly inner = new MemoryKvFactory()
  readonly batches: (readonly KvOperation[])[] = []
  failure: Error | undefined
  /** Batches wait for `release` while true. */
  slow = false
  #waiting: (() => void)[] = []

  readonly kv: KvFactory = {
    open: async (name) => this.#wrap(await this.inner.open(name)),
    destroy: (name) => this.inner.destroy(name),
  }

  /** Batches that are under way. */
  get waiting(): number {
    return this.#waiting.length
  }

  async release(): Promise<void> {
    for (const go of this.#waiting.splice(0)) go()
    await settle()
  }

  #wrap(kv: Kv): Kv {
    return {
      ...kv,
      batch: async (operations, options) => {
        this.batches.push(operations)
        if (this.slow) await new Promise<void>((resolve) => this.#waiting.push(resolve))
        if (this.failure !== undefined) throw this.failure
        await kv.batch(operations, options)
      },
    }
  }
}

interface Slow {
  readonly stores: SlowStores
  readonly clock: ManualClock
  readonly machine: MetaMachine
  readonly log: LocalLog
  bucket(number: number): Promise<void>
}

/** A founded machine with a clock, everything on disk, and batches that wait from now on. */
async function slow(): Promise<Slow> {
  const stores = new SlowStores()
  const clock = new ManualClock()
  const machine = createMachine(stores, clock)
  await machine.open()
  const log = new LocalLog(machine)
  await log.command({ kind: 'found', clusterId: id(1), version: 2 })
  await machine.queries.buckets('', 1)
  stores.slow = true
  stores.batches.length = 0
  const bucket = async (number: number): Promise<void> => {
    const { reply } = await log.command({ kind: 'createBucket', name: `bucket-${number}`, commitId: id(number) })
    expect(reply.ok).to.equal(true)
  }
  return { stores, clock, machine, log, bucket }
}

describe('meta machine: behind its replies', () => {
  it('answers before anything is written, and reads see it', async () => {
    const { stores, machine, log, bucket } = await slow()
    await bucket(1)
    expect([machine.appliedIndex(), machine.durableIndex(), stores.batches.length]).to.deep.equal([log.index, 1, 0])
    expect(machine.points.bucket('bucket-1')?.commitId).to.equal(id(1))
    expect((await machine.queries.bucket('bucket-1'))?.commitId).to.equal(id(1))
    expect(machine.peek(keys.bucket('bucket-1'))).not.to.equal(undefined)
    expect((await machine.queries.applied())?.index).to.equal(log.index)
  })

  it('writes what gathered as one batch, and what came meanwhile as the next', async () => {
    const { stores, clock, machine, log, bucket } = await slow()
    for (const number of [1, 2, 3]) await bucket(number)
    clock.advance(gatherMs)
    await bucket(4)
    clock.advance(gatherMs)
    expect([stores.batches.length, stores.waiting]).to.deep.equal([1, 1])
    // Each key once: three buckets, the cluster, the applied record.
    expect(stores.batches[0]?.length).to.equal(5)
    await stores.release()
    expect(machine.durableIndex()).to.equal(log.index - 1)
    clock.advance(gatherMs)
    await stores.release()
    expect(machine.durableIndex()).to.equal(log.index)
    expect(stores.batches.length).to.equal(2)
  })

  it('reads keys that are deleted and not written as absent', async () => {
    const { stores, clock, machine, log, bucket } = await slow()
    await bucket(1)
    clock.advance(gatherMs)
    await stores.release()
    await log.command({ kind: 'deleteBucket', name: 'bucket-1' })
    expect(machine.points.bucket('bucket-1')).to.equal(undefined)
    clock.advance(gatherMs)
    expect(machine.points.bucket('bucket-1')).to.equal(undefined)
    expect(await machine.queries.bucket('bucket-1')).to.equal(undefined)
    await stores.release()
    expect(await machine.queries.bucket('bucket-1')).to.equal(undefined)
  })

  it('lets scans and images wait for what was applied when they began', async () => {
    const { stores, machine, log, bucket } = await slow()
    await bucket(1)
    let listed: string[] | undefined
    const listing = machine.queries.buckets('', 10).then((buckets) => {
      listed = buckets.map(({ name }) => name)
    })
    await settle()
    expect([listed, stores.waiting]).to.deep.equal([undefined, 1])
    await stores.release()
    await listing
    expect(listed).to.deep.equal(['bucket-1'])
    await bucket(2)
    const taken = machine.snapshot()
    await settle()
    await stores.release()
    const image = await taken
    expect(image.index).to.equal(log.index)
    stores.slow = false
    await bucket(3)
    const other = await openMachine(memoryStores())
    await other.install(image.index, image.term, image.pieces)
    expect((await other.queries.buckets('', 10)).map(({ name }) => name)).to.deep.equal(['bucket-1', 'bucket-2'])
  })

  it('gives one image, of one index, to all reads of a list', async () => {
    const { stores, machine, log, bucket } = await slow()
    await bucket(1)
    const opened = machine.snapshotQueries()
    await settle()
    await stores.release()
    const image = await opened
    await bucket(2)
    expect(await image.bucket('bucket-2')).to.equal(undefined)
    expect((await image.applied())?.index).to.equal(log.index - 1)
    await image.close()
  })

  it('reads chunks that lie close together with what is not written yet', async () => {
    const { stores, machine, log } = await slow()
    stores.slow = false
    const disks = [{ id: id(0xd1), state: 'ok' as const, capacityBytes: 1, usedBytes: 0 }]
    const node = { node: 'n1', addresses: [], zone: 'z', incarnation: id(1), disks }
    await log.command({ kind: 'registerNode', ...node })
    const { reply } = await log.command({ kind: 'grantLease', ttlMs: 60_000 })
    const lease = reply.ok && reply.kind === 'lease' ? reply.id : 0
    const pin = (offset: number): Promise<unknown> => {
      const acks = [{ disk: 1, generation: 1 }]
      const chunk = { id: lease + offset, length: 1, root: new Uint8Array(8).fill(offset), acks, copying: [] }
      const body = { commitId: id(100 + offset), lease, chunks: [chunk], copies: 1, concern: 'one' as const }
      return log.command({ kind: 'commitChunks', ...body })
    }
    await pin(1)
    await pin(2)
    await machine.queries.buckets('', 1)
    await log.command({ kind: 'unpinChunk', chunk: lease + 2 })
    await pin(3)
    const records = await machine.queries.chunks([3, 2, 0, 1].map((offset) => lease + offset))
    expect(records.map((record) => record?.pinned)).to.deep.equal([true, false, undefined, true])
  })

  it('ends with the first failed write, tells it once, and applies nothing more', async () => {
    const { stores, clock, machine, log, bucket } = await slow()
    const told: unknown[] = []
    machine.onFailure((error) => told.push(error))
    await bucket(1)
    stores.failure = new StoreError('IO', 'the disk is gone')
    clock.advance(gatherMs)
    const listed = machine.queries.buckets('', 1).catch((error: unknown) => error)
    await stores.release()
    expect(told).to.deep.equal([stores.failure])
    expect(await listed).to.equal(stores.failure)
    expect(await bucket(2).catch((error: unknown) => error)).to.equal(stores.failure)
    expect(machine.durableIndex()).to.equal(1)
    expect(log.index).to.be.greaterThan(machine.appliedIndex())
    await machine.close()
    expect(stores.batches.length).to.equal(1)
  })

  it('holds apply back while too much is not written', async () => {
    const { stores, machine, log } = await slow()
    await log.command({ kind: 'createBucket', name: 'photos', commitId: id(7) })
    const metadata = userMetadataOf([{ name: 'note', value: 'x'.repeat(8_000) }])
    const puts = Array.from({ length: 128 }, (_, i) => ({
      kind: 'put' as const,
      bucket: 'photos',
      key: `k${i}`,
      size: 0,
      etag: new Uint8Array(8),
      chunks: [],
      stagedPages: 0,
      copies: 3,
      concern: 'quorum' as const,
      contentType: 'text/plain',
      metadata,
      condition: { ifAbsent: false, ifMatch: '' },
    }))
    let applied = 0
    const all = Array.from({ length: 60 }, async (_, i) => {
      const operations = puts.map((put) => ({ ...put, key: `${put.key}-${i}` }))
      await log.command({ kind: 'commit', commitId: id(1000 + i), lease: 0, operations })
      applied++
    })
    for (let i = 0; i < 100; i++) await settle()
    expect(applied).to.be.within(30, 45)
    stores.slow = false
    await stores.release()
    await Promise.all(all)
    expect(machine.appliedIndex()).to.equal(log.index)
  })

  it('leaves the state of one index after a crash at any batch, and the log brings it forward', async () => {
    const commands = Array.from({ length: 30 }, (_, i) =>
      i === 0
        ? ({ kind: 'found', clusterId: id(1), version: 1 } as const)
        : ({ kind: 'createBucket', name: `bucket-${i}`, commitId: id(i) } as const),
    )
    const reference = await openMachine(memoryStores())
    const untroubled = new LocalLog(reference)
    const digests = [0]
    for (const command of commands) {
      await untroubled.command(command)
      digests.push(reference.digest())
    }
    const indexes = new Set<number>()
    for (let stopAt = 1; stopAt <= 12; stopAt++) {
      const stores = memoryStores()
      const clock = new ManualClock()
      const machine = createMachine(stores, clock)
      await machine.open()
      const log = new LocalLog(machine)
      stores.faults.stopAt = stores.faults.total + stopAt
      const run = async (): Promise<void> => {
        for (const [i, command] of commands.entries()) {
          await log.command(command)
          if (i % 3 !== 0) continue
          clock.advance(gatherMs)
          await settle()
        }
      }
      await Promise.race([run(), stores.faults.whenStopped()])
      const durable = machine.durableIndex()
      const next = new FaultPlan()
      stores.kv.crash(() => 0.7, next)
      stores.files.faults = next
      const again = await openMachine(stores)
      const index = again.appliedIndex()
      indexes.add(index)
      expect(index).to.be.at.least(durable)
      expect(again.digest()).to.equal(digests[index])
      const replayed = new LocalLog(again)
      replayed.index = index
      for (const command of commands.slice(index)) await replayed.command(command)
      expect(again.digest()).to.equal(digests.at(-1))
    }
    expect(indexes.size).to.be.greaterThan(2)
  })

  it('is where its applied record says, whatever store is read', async () => {
    const { machine, log } = await slow()
    const reader: StateReader = { getSync: (key) => machine.peek(key) }
    expect(readApplied(reader).index).to.equal(log.index)
  })
})
