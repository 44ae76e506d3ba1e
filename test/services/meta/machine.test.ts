/** The state machine over its store: what is durable when, images, and an install that survives a crash anywhere. */

import { expect } from 'chai'
import { userMetadataOf } from '../../../src/core/meta/records.ts'
import { encodeCommand } from '../../../src/core/meta/commands.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { getU32 } from '../../../src/base/bytes.ts'
import { AssertionError } from '../../../src/base/assert.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import { ImageReader } from '../../../src/services/meta/image.ts'
import { commandVersion, createMachine, type MetaMachine } from '../../../src/services/meta/machine.ts'
import { FaultPlan } from '../../support/fault-plan.ts'
import { id, LocalLog, memoryStores, openMachine } from './kit.ts'

async function filled(stores = memoryStores(), buckets = 3): Promise<{ machine: MetaMachine; log: LocalLog }> {
  const machine = await openMachine(stores)
  const log = new LocalLog(machine)
  await log.command({ kind: 'found', clusterId: id(1), version: 1 })
  for (let i = 0; i < buckets; i++) await log.command({ kind: 'createBucket', name: `bucket-${i}`, commitId: id(i) })
  return { machine, log }
}

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const out: Uint8Array[] = []
  for await (const piece of pieces) out.push(piece)
  return out
}

async function* from(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces
}

/** Prefixes of the keys in a piece. */
function lettersOf(piece: Uint8Array): string[] {
  const letters: string[] = []
  for (let at = 0; at < piece.length; at += 8 + getU32(piece, at) + getU32(piece, at + 4)) {
    letters.push(String.fromCharCode(piece[at + 8] ?? 0))
  }
  return letters
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'done'
  } catch (error) {
    return isStoreError(error) ? error.code : String(error)
  }
}

describe('meta machine', () => {
  it('is durable up to its last entry when it was closed in order', async () => {
    const stores = memoryStores()
    const { machine, log } = await filled(stores)
    const digest = machine.digest()
    await machine.close()
    stores.kv.crash(() => 0, new FaultPlan())
    const again = await openMachine(stores)
    expect([again.appliedIndex(), again.durableIndex(), again.digest()]).to.deep.equal([log.index, log.index, digest])
    expect((await again.queries.buckets('', 10)).map((one) => one.name)).to.deep.equal([
      'bucket-0',
      'bucket-1',
      'bucket-2',
    ])
  })

  it('moves the applied index over entries without a command', async () => {
    const { machine, log } = await filled()
    const digest = machine.digest()
    expect((await log.payload(new Uint8Array(0))).reply).to.include({ ok: true, kind: 'done' })
    expect([machine.appliedIndex(), machine.digest()]).to.deep.equal([log.index, digest])
  })

  it('refuses an entry out of order', async () => {
    const { machine, log } = await filled()
    const payload = encodeCommand({ kind: 'grantLease', nowMs: 1, ttlMs: 1 })
    const error = await machine.apply([{ index: log.index + 2, term: 1, payload }]).catch((cause: unknown) => cause)
    expect(error).to.be.instanceOf(AssertionError)
  })

  it('carries its state to another node by an image', async () => {
    const { machine, log } = await filled(memoryStores(), 40)
    const image = await machine.snapshot()
    const pieces = await collect(image.pieces)
    const other = await openMachine(memoryStores())
    await other.install(image.index, image.term, from(pieces))
    expect([other.appliedIndex(), other.digest()]).to.deep.equal([log.index, machine.digest()])
    const payload = encodeCommand({ kind: 'grantLease', nowMs: 1, ttlMs: 1 })
    const entry = { index: log.index + 1, term: 1, payload }
    expect(await other.apply([entry])).to.deep.equal(await machine.apply([entry]))
    expect(other.digest()).to.equal(machine.digest())
  })

  for (const version of [1, 2]) {
    it(`an image at version ${version} brings every disk's chunks`, async () => {
      const machine = await openMachine(memoryStores())
      const log = new LocalLog(machine)
      await log.command({ kind: 'found', clusterId: id(1), version })
      for (const node of ['n1', 'n2']) {
        const disks = [{ id: id(node === 'n1' ? 1 : 2), state: 'ok' as const, capacityBytes: 1000, usedBytes: 0 }]
        await log.command({ kind: 'registerNode', node, addresses: ['a:1'], zone: node, incarnation: id(7), disks })
      }
      const { reply } = await log.command({ kind: 'grantLease', ttlMs: 1000 })
      const lease = reply.ok && reply.kind === 'lease' ? reply.id : 0
      const chunks = Array.from({ length: 5 }, (_, i) => ({
        id: lease + i,
        length: 10,
        root: new Uint8Array(8).fill(i),
        acks: [{ disk: 1, generation: 1 }],
        copying: i % 2 === 0 ? [2] : [],
      }))
      await log.command({ kind: 'commitChunks', commitId: id(9), lease, chunks, copies: 2, concern: 'one' })
      const image = await machine.snapshot()
      const pieces = await collect(image.pieces)
      const letters = new Set(pieces.flatMap((piece) => lettersOf(piece)))
      expect(letters.has('d')).to.equal(version === 1)
      const other = await openMachine(memoryStores())
      await other.install(image.index, image.term, from(pieces))
      for (const disk of [1, 2]) {
        const entries = await machine.queries.diskChunks(disk, 0, 100)
        expect(entries.length).to.equal(disk === 1 ? 5 : 3)
        expect(await other.queries.diskChunks(disk, 0, 100)).to.deep.equal(entries)
      }
      expect(await collect((await other.snapshot()).pieces)).to.deep.equal(pieces)
    })
  }

  it('takes the image at the time of the call, whatever is applied while it is read', async () => {
    const { machine, log } = await filled()
    const image = await machine.snapshot()
    await log.command({ kind: 'createBucket', name: 'later', commitId: id(99) })
    const other = await openMachine(memoryStores())
    await other.install(image.index, image.term, image.pieces)
    expect(await other.queries.bucket('later')).to.equal(undefined)
  })

  it('keeps pieces within 1 MiB and refuses damaged ones', async () => {
    const { machine, log } = await filled(memoryStores(), 1)
    const metadata = userMetadataOf([{ name: 'note', value: 'x'.repeat(8_000) }])
    for (let i = 0; i < 300; i++) {
      const put = {
        kind: 'put' as const,
        bucket: 'bucket-0',
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
      }
      await log.command({ kind: 'commit', commitId: id(1000 + i), lease: 0, operations: [put] })
    }
    const image = await machine.snapshot()
    const pieces = await collect(image.pieces)
    expect(pieces.length).to.be.greaterThan(2)
    expect(Math.max(...pieces.map((piece) => piece.length))).to.be.at.most(1024 * 1024)
    const [first, second] = pieces as [Uint8Array, Uint8Array]
    for (const bad of [
      [first, first],
      [second, first],
      [first.subarray(0, first.length - 1)],
      [first.subarray(0, 5)],
      [],
    ]) {
      const other = await openMachine(memoryStores())
      expect(await codeOf(other.install(image.index, image.term, from(bad)))).to.equal('CORRUPT')
      expect(other.appliedIndex()).to.equal(0)
      await other.install(image.index, image.term, from(pieces))
      expect(other.digest()).to.equal(machine.digest())
    }
    expect(await codeOf(machine.install(image.index + 1, image.term, from(pieces)))).to.equal('CORRUPT')
    expect(machine.appliedIndex()).to.equal(log.index)
  })

  it('never makes garbage of a length into a crash', () => {
    expect(() => [...new ImageReader().writes(new Uint8Array(40).fill(0xff))]).to.throw('cut short')
  })

  it('has the old state or the new one after a crash at any point of an install', async () => {
    const source = await filled(memoryStores(), 20)
    const image = await source.machine.snapshot()
    const pieces = await collect(image.pieces)
    const outcomes = new Set<number>()
    for (let stopAt = 1; ; stopAt++) {
      const stores = memoryStores()
      const target = await filled(stores, 1)
      const before = target.log.index
      const plan = stores.faults
      plan.stopAt = plan.total + stopAt
      const done = await Promise.race([
        target.machine.install(image.index, image.term, from(pieces)).then(() => true),
        plan.whenStopped().then(() => false),
      ])
      const next = new FaultPlan()
      stores.kv.crash(() => 0.3, next)
      stores.files.faults = next
      const reopened = createMachine(stores)
      await reopened.open()
      outcomes.add(reopened.appliedIndex())
      expect([before, image.index]).to.include(reopened.appliedIndex())
      if (reopened.appliedIndex() === image.index) expect(reopened.digest()).to.equal(source.machine.digest())
      await reopened.install(image.index, image.term, from(pieces))
      expect(reopened.digest()).to.equal(source.machine.digest())
      if (done) break
    }
    expect(outcomes.size).to.equal(2)
  })

  it('refuses to open a state of a newer version', async () => {
    const stores = memoryStores()
    await (await filled(stores)).machine.close()
    // The version is the byte after the cluster's id and incarnation.
    stores.kv.tamper('state', keys.cluster(), (value) => value.set([commandVersion + 1], 17))
    expect(await codeOf(openMachine(stores))).to.equal('INCOMPATIBLE_VERSION')
  })

  it('stops at a raise to a version that it does not know, and applies nothing of it', async () => {
    const { machine, log } = await filled()
    const raise = { kind: 'raiseVersion', nowMs: 1, version: commandVersion + 1 } as const
    const entry = { index: log.index + 1, term: 1, payload: encodeCommand(raise) }
    expect(await codeOf(machine.apply([entry]))).to.equal('INCOMPATIBLE_VERSION')
    expect([machine.appliedIndex(), machine.cluster()?.version]).to.deep.equal([log.index, 1])
  })
})
