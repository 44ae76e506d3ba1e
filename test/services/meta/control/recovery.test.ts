/** Controllers after a recovery of the metadata: nothing is deleted, orders carry the incarnation, and disks report anew. */

import { expect } from 'chai'
import { userMetadataOf } from '../../../../src/core/meta/records.ts'
import { fenceOf, incarnationOf } from '../../../../src/model/fence.ts'
import { leaseSpan } from '../../../../src/model/ids.ts'
import { hex } from './fake-node.ts'
import { ControlWorld } from './world.ts'

describe('the fence of orders', () => {
  it('puts the incarnation above every term', () => {
    expect(fenceOf(7, 1)).to.equal(7)
    expect(fenceOf(1, 2)).to.be.greaterThan(fenceOf(1_000_000_000, 1))
    expect([incarnationOf(fenceOf(5, 1)), incarnationOf(fenceOf(5, 9)), incarnationOf(0)]).to.deep.equal([1, 9, 1])
  })
})

/** Writes an object of one chunk and removes it. */
async function removedObject(world: ControlWorld): Promise<number> {
  const condition = { ifAbsent: false, ifMatch: '' }
  const lease = await world.lease()
  for (const node of world.nodes) node.chunks.set(lease, 'good')
  const acks = world.nodes.map((node) => ({ disk: node.disk, generation: node.generation }))
  const root = new Uint8Array(8)
  const put = {
    kind: 'put',
    bucket: 'photos',
    key: 'k',
    size: 10,
    etag: root,
    chunks: [{ id: lease, length: 10, root, acks, copying: [] }],
    stagedPages: 0,
    copies: 3,
    concern: 'quorum',
    contentType: 'a/b',
    metadata: userMetadataOf([]),
    condition,
  } as const
  await world.propose({ kind: 'createBucket', name: 'photos', commitId: hex(1) })
  const written = await world.propose({ kind: 'commit', commitId: hex(2), lease, operations: [put] })
  const remove = { kind: 'delete', bucket: 'photos', key: 'k', condition } as const
  const removed = await world.propose({ kind: 'commit', commitId: hex(3), lease: 0, operations: [remove] })
  expect([written.ok, removed.ok]).to.deep.equal([true, true])
  return lease
}

describe('controllers: a recovered cluster', () => {
  let world: ControlWorld

  afterEach(async () => world.stop())

  const orders = (kind: string): string[] =>
    world.nodes.flatMap((node) => node.orders.filter((order) => order.startsWith(kind)))

  it('gives orders under its fence, and refuses a node that has seen a higher one', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'], {}, 2)
    world.resign()
    world.incarnation = 3
    await world.propose({ kind: 'recovered', incarnation: 3 })
    world.back()
    for (const node of world.nodes) node.attach()
    await world.settle()
    const lease = await world.lease()
    await world.chunk(lease, 0, 3, [1, 2])
    await world.until('copied', () => orders('copy').length > 0)
    expect(world.nodes.flatMap((node) => node.terms).every((term) => incarnationOf(term) <= 3)).to.equal(true)
    expect(world.nodes.flatMap((node) => node.terms).some((term) => term === fenceOf(2, 3))).to.equal(true)
    const [first] = world.nodes
    first?.cut()
    if (first !== undefined) first.termSeen = fenceOf(0, 4)
    first?.attach()
    await world.settle()
    expect([first?.ended?.code, first?.attached]).to.deep.equal(['NOT_LEADER', false])
  })

  it('deletes nothing until deletes are resumed, counts what it holds back, and then deletes it', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'], {}, 2)
    const lease = await world.lease(5_000)
    const dropped = await world.chunk(lease, 0, 3, [1, 2, 3])
    const extra = await world.chunk(lease, 1, 2, [1, 2, 3])
    await world.propose({ kind: 'unpinChunk', chunk: dropped })
    world.resign()
    world.incarnation = 2
    await world.propose({ kind: 'recovered', incarnation: 2 })
    // Written in the lost part of the old life: nobody knows it.
    world.node(1).chunks.set(lease + 9, 'good')
    world.back()
    for (const node of world.nodes) node.attach()
    await world.advance(120_000)
    expect(orders('delete')).to.deep.equal([])
    expect(world.nodes.map((node) => [...node.chunks.keys()].sort((a, b) => a - b))).to.deep.equal([
      [dropped, extra, lease + 9],
      [dropped, extra],
      [dropped, extra],
    ])
    expect((await world.machine.queries.chunk(dropped))?.replicas.map((one) => one.state)).to.deep.equal([
      'current',
      'current',
      'current',
    ])
    expect(world.control.heldBack()).to.equal(1)
    await world.propose({ kind: 'resumeDeletes' })
    await world.until(
      'deleted',
      () => world.nodes.every((node) => !node.chunks.has(dropped) && !node.chunks.has(lease + 9)),
      120_000,
    )
    await world.until('trimmed', () => world.nodes.filter((node) => node.chunks.has(extra)).length === 2, 60_000)
    expect(world.control.heldBack()).to.equal(0)
  })

  it('does nothing while the state has not been told, at cluster version 1 too', async () => {
    world = await ControlWorld.make(['a', 'b'], {}, 1)
    const lease = await world.lease(5_000)
    const chunk = await world.chunk(lease, 0, 2, [1, 2])
    await world.propose({ kind: 'unpinChunk', chunk })
    world.resign()
    world.incarnation = 2
    world.back()
    for (const node of world.nodes) node.attach()
    const before = world.index
    await world.advance(120_000)
    expect(orders('delete')).to.deep.equal([])
    expect(world.index).to.equal(before)
    await world.propose({ kind: 'recovered', incarnation: 2 })
    for (const node of world.nodes) {
      node.cut()
      node.attach()
    }
    await world.advance(60_000)
    expect(orders('delete')).to.deep.equal([])
    await world.propose({ kind: 'resumeDeletes' })
    await world.until('deleted', () => world.nodes.every((node) => node.chunks.size === 0), 120_000)
  })

  it("takes no other content under a chunk's id for a copy, neither to count nor as proof to delete", async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'], {}, 2)
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 1, 3, [2, 3, 4])
    world.node(4).kill()
    world.node(1).kill()
    await world.until('down', async () => (await world.copiesOf(chunk)).length === 2)
    // Written under the same id in a life of the cluster that was lost.
    world.node(1).chunks.set(chunk, 'other')
    const right = new Set(['s2', 's3', 's4'])
    let counted = 0
    const look = async (): Promise<void> => {
      if (world.node(1).chunks.get(chunk) !== 'other') right.add('s1')
      const copies = await world.copiesOf(chunk)
      counted = copies.length
      expect(copies.every((copy) => right.has(copy))).to.equal(true, copies.join(' '))
    }
    world.node(1).restart()
    await world.until(
      'its content is replaced',
      async () => {
        await look()
        return counted === 3
      },
      120_000,
    )
    expect(world.node(1).chunks.get(chunk)).to.equal('good')
    expect(world.node(1).orders).to.include(`copy ${chunk} replace`)
    // A surplus is given up only for copies with the right content.
    world.node(2).chunks.set(chunk, 'other')
    world.node(4).restart()
    await world.until(
      'three right copies',
      async () => {
        const copies = await world.copiesOf(chunk)
        return (
          copies.length === 3 &&
          copies.every((copy) => world.nodes.find(({ id }) => id === copy)?.chunks.get(chunk) === 'good')
        )
      },
      120_000,
    )
    expect(world.nodes.filter((node) => node.chunks.get(chunk) === 'good').length).to.be.at.least(3)
  })

  it('leaves what was removed in the trash until deletes are resumed', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'], {}, 2)
    const chunk = await removedObject(world)
    await world.propose({ kind: 'recovered', incarnation: 2 })
    await world.advance(300_000)
    expect((await world.machine.queries.trash(Number.MAX_SAFE_INTEGER - 1, 5)).length).to.equal(1)
    expect((await world.machine.queries.chunk(chunk))?.references).to.equal(1)
    await world.propose({ kind: 'resumeDeletes' })
    await world.until(
      'emptied',
      async () => (await world.machine.queries.trash(Number.MAX_SAFE_INTEGER - 1, 5)).length === 0,
    )
    expect((await world.machine.queries.chunk(chunk))?.references).to.equal(0)
  })

  it('never hands out an id that a disk reports, and holds deletes when it sees one from the future', async () => {
    world = await ControlWorld.make(['a', 'b'], {}, 2)
    const high = 65_536 * 40 + 3
    world.node(2).chunks.set(high, 'good')
    world.node(2).kill()
    world.node(2).restart()
    await world.until('reserved', async () => (await world.machine.queries.cluster())?.deletesHeld === true, 5_000)
    expect(await world.lease()).to.be.at.least(Math.ceil(high / leaseSpan) * leaseSpan)
    await world.until('compared', () => world.control.heldBack() === 1, 20_000)
    expect(world.node(2).chunks.has(high)).to.equal(true)
    expect(world.events('a disk holds chunks newer than the metadata: deletes are held').length).to.equal(1)
  })

  it('refuses a disk whose ids would use up all there are', async () => {
    world = await ControlWorld.make(['a', 'b'], {}, 2)
    world.node(2).chunks.set(2 ** 52, 'good')
    world.node(2).kill()
    world.node(2).restart()
    await world.settle()
    expect(world.node(2).ended?.code).to.equal('INVALID_ARGUMENT')
    expect(await world.lease()).to.equal(65_536)
  })

  it('says which version each registered node supports', async () => {
    world = await ControlWorld.make(['a', 'b'], {}, 1)
    expect(world.control.storageVersions()).to.deep.equal([
      { id: 's1', versionMax: 2 },
      { id: 's2', versionMax: 2 },
    ])
    world.resign()
    expect(world.control.storageVersions()).to.deep.equal([])
    world.back()
    world.node(1).versionMax = 1
    world.node(1).attach()
    await world.settle()
    expect(world.control.storageVersions()).to.deep.equal([
      { id: 's1', versionMax: 1 },
      { id: 's2', versionMax: 0 },
    ])
  })
})

describe('controllers: client sessions', () => {
  let world: ControlWorld

  afterEach(async () => world.stop())

  const open = (session: number, ttlMs: number): Promise<unknown> =>
    world.propose({ kind: 'openSession', session: session.toString(16).padStart(32, '0'), ttlMs })
  const left = async (): Promise<number> => world.machine.applied().sessions

  it('are forgotten when their time is over, and not before, however many there are', async () => {
    world = await ControlWorld.make(['a'], {}, 2)
    for (let session = 1; session <= 40; session++) await open(session, 60_000)
    await open(100, 120_000)
    await world.advance(30_000)
    await world.propose({ kind: 'keepSession', session: '1'.padStart(32, '0') })
    await world.advance(29_500)
    expect(await left()).to.equal(41)
    await world.advance(3_000)
    expect(await left()).to.equal(2)
    await world.advance(29_000)
    expect(await left()).to.equal(1)
    await world.advance(60_000)
    expect(await left()).to.equal(0)
  })

  it('are found by a new leader', async () => {
    world = await ControlWorld.make(['a'], {}, 2)
    for (let session = 1; session <= 3; session++) await open(session, 10_000)
    world.resign()
    await world.advance(5_000)
    await world.propose({ kind: 'closeSession', session: '2'.padStart(32, '0') })
    world.back()
    await world.advance(4_000)
    expect(await left()).to.equal(3)
    await world.advance(3_000)
    // The id of the one that was closed is kept for as long as it could have lived.
    expect(await left()).to.equal(1)
    await world.advance(5_000)
    expect(await left()).to.equal(0)
  })
})
