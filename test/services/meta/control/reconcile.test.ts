/** Nodes that come and go, leases, deletes: what is believed, kept, deleted, and by whose order. */

import { expect } from 'chai'
import { ControlWorld } from './world.ts'

describe('controllers: nodes, leases and deletes', () => {
  let world: ControlWorld

  afterEach(async () => {
    expect(world.log.filter((entry) => entry.level === 'error')).to.deep.equal([])
    await world.stop()
  })

  async function downAndRepaired(chunks: number): Promise<number[]> {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const ids: number[] = []
    for (let i = 0; i < chunks; i++) ids.push(await world.chunk(lease, i, 3, [1, 2, 3]))
    world.node(1).kill()
    await world.until('repaired', () => world.copied.length === chunks)
    return ids
  }

  it('trims the surplus of a returning node only after the other copies were read', async () => {
    const ids = await downAndRepaired(4)
    world.node(1).restart()
    await world.settle()
    for (const node of world.nodes) node.orders.length = 0
    await world.until('trimmed', async () => {
      const counts = await Promise.all(ids.map((id) => world.machine.queries.chunk(id)))
      return counts.every((record) => record?.replicas.length === 3)
    })
    for (const id of ids) {
      const copies = await world.copiesOf(id)
      expect(copies).to.have.length(3)
      const kept = world.nodes.filter((node) => copies.includes(node.id))
      expect(kept.every((node) => node.chunks.get(id) === 'good')).to.equal(true)
      expect(world.nodes.filter((node) => node.chunks.has(id))).to.have.length(3)
    }
  })

  it('trims nothing when a copy that was to stay turns out bad', async () => {
    const [id] = await downAndRepaired(1)
    const chunk = id ?? 0
    const fourth = world.nodes.find((node) => node.id === 's4')
    fourth?.chunks.set(chunk, 'bad')
    world.node(2).chunks.set(chunk, 'bad')
    world.node(1).restart()
    await world.until('three good copies', async () => {
      const copies = await world.copiesOf(chunk)
      const good = world.nodes.filter((node) => node.chunks.get(chunk) === 'good').map((node) => node.id)
      return copies.length === 3 && copies.every((copy) => good.includes(copy))
    })
    expect(world.nodes.filter((node) => node.chunks.get(chunk) === 'good').length).to.be.at.least(3)
    expect(world.events('trim was refused')).to.deep.equal([])
  })

  it('leaves the surplus of a returning disk alone until its report is compared', async () => {
    const ids = await downAndRepaired(2)
    for (const node of world.nodes) node.orders.length = 0
    world.node(1).reportDelayMs = 8000
    world.node(1).restart()
    await world.advance(7000)
    expect(world.nodes.flatMap((node) => node.orders)).to.deep.equal(['report'])
    expect((await world.control.status()).repair.queue?.['surplus']).to.equal(0)
    for (const id of ids) expect((await world.machine.queries.chunk(id))?.replicas).to.have.length(4)
  })

  it('copies nothing when every node starts again and reports at its own pace', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    for (const node of world.nodes) node.kill()
    for (const [i, node] of world.nodes.entries()) {
      node.reportDelayMs = 2000 * i
      node.restart()
    }
    await world.until('all count', async () => (await world.copiesOf(chunk)).length === 3, 20_000)
    await world.advance(15_000)
    expect(world.copied).to.deep.equal([])
  })

  it('does not count a returning disk before its report is compared, and finds what it lost', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const kept = await world.chunk(lease, 0, 3, [1, 2, 3])
    const gone = await world.chunk(lease, 1, 3, [1, 2, 3])
    world.node(1).kill()
    await world.until('down', () => world.events('node down').length === 1, 3000)
    world.node(1).chunks.delete(gone)
    world.node(1).mute = true
    world.node(1).restart()
    await world.settle()
    expect(world.control.replicaState(world.node(1).disk, 'current')).to.equal('stale')
    expect(await world.copiesOf(kept)).to.deep.equal(['s2', 's3'])
    world.node(1).mute = false
    world.node(1).kill()
    world.node(1).restart()
    await world.until('reconciled', async () => (await world.copiesOf(kept)).length === 3, 5000)
    await world.until('repaired', async () => (await world.copiesOf(gone)).length === 3, 15_000)
    expect(world.copied.filter((chunk) => chunk === gone)).to.have.length(1)
    expect(world.copied).to.not.include(kept)
  })

  it('keeps unknown chunks while their lease is open and deletes them after its expiry', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease(30_000)
    const committed = await world.chunk(lease, 0, 3, [1, 2, 3])
    const orphan = lease + 1
    world.node(1).chunks.set(orphan, 'good')
    world.node(2).chunks.set(orphan, 'good')
    world.node(1).kill()
    await world.settle()
    world.node(1).restart()
    await world.advance(10_000)
    expect(world.node(1).orders).to.include('report')
    expect(world.node(1).chunks.has(orphan)).to.equal(true)
    await world.until('deleted', () => !world.node(1).chunks.has(orphan) && !world.node(2).chunks.has(orphan))
    expect(world.clock.monotonicMs()).to.be.at.least(30_000)
    await world.until('forgotten', async () => (await world.machine.queries.lease(lease)) === undefined)
    expect(await world.copiesOf(committed)).to.have.length(3)
    expect(world.node(3).orders.some((order) => order.startsWith('delete'))).to.equal(false)
  })

  it('waits with a sweep for a live disk whose node is away', async () => {
    world = await ControlWorld.make(['a', 'b'], { health: { heartbeatMs: 500, suspectMs: 3000, downMs: 600_000 } })
    const lease = await world.lease(1000)
    const orphan = lease + 9
    world.node(2).chunks.set(orphan, 'good')
    world.node(2).cut()
    await world.advance(20_000)
    expect((await world.machine.queries.lease(lease))?.open).to.equal(false)
    world.node(2).attach()
    await world.until('deleted', () => !world.node(2).chunks.has(orphan), 20_000)
    await world.until('forgotten', async () => (await world.machine.queries.lease(lease)) === undefined, 20_000)
  })

  it('leaves chunks alone that are newer than every lease', async () => {
    world = await ControlWorld.make(['a', 'b'])
    const foreign = 2 ** 40
    world.node(1).chunks.set(foreign, 'good')
    world.node(1).kill()
    world.node(1).restart()
    await world.advance(5000)
    expect(world.node(1).chunks.has(foreign)).to.equal(true)
    expect(world.events('chunks newer than the metadata are kept')).to.have.length(1)
  })

  it('reclaims an unpinned chunk after its grace and the end of its lease, and forgets it', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease(5000)
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    await world.advance(10_000)
    await world.propose({ kind: 'unpinChunk', chunk })
    await world.advance(50_000)
    expect(world.node(1).chunks.has(chunk)).to.equal(true)
    await world.until('deleted', () => world.nodes.every((node) => !node.chunks.has(chunk)), 30_000)
    await world.until('forgotten', async () => (await world.machine.queries.chunk(chunk)) === undefined, 5000)
  })

  it('deletes what a disk still holds when it returns after the reclaim', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease(5000)
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    await world.advance(10_000)
    world.node(3).kill()
    await world.propose({ kind: 'unpinChunk', chunk })
    await world.advance(70_000)
    expect(world.node(1).chunks.has(chunk)).to.equal(false)
    expect(world.node(3).chunks.has(chunk)).to.equal(true)
    world.node(3).restart()
    await world.until('deleted', () => !world.node(3).chunks.has(chunk), 10_000)
    await world.until('forgotten', async () => (await world.machine.queries.chunk(chunk)) === undefined, 5000)
  })

  it('compares a report of many pages while it asks the node about what is absent', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const ids: number[] = []
    for (let i = 0; i < 100; i++) ids.push(await world.chunk(lease, i, 3, [1, 2, 3]))
    const gone = ids.filter((_id, i) => i % 7 === 0)
    world.node(1).kill()
    for (const id of gone) world.node(1).chunks.delete(id)
    world.node(1).pageIds = 1
    world.node(1).restart()
    await world.until('reconciled', () => world.events('disk reconciled').length === 1, 5000)
    expect(world.events('node down')).to.deep.equal([])
    expect(world.events('disk reconciled').at(-1)?.fields['missing']).to.equal(gone.length)
    await world.until('repaired', async () => {
      const copies = await Promise.all(ids.map((id) => world.copiesOf(id)))
      return copies.every((list) => list.length === 3)
    })
  })

  it('fences a node that registered again and died before its first heartbeat', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    world.node(1).kill()
    await world.until('down', async () => (await world.machine.queries.disk(1))?.live === false, 3000)
    world.node(1).silent = true
    world.node(1).restart()
    await world.until('registered', async () => (await world.machine.queries.disk(1))?.live === true, 1000)
    world.node(1).kill()
    await world.until('down again', async () => (await world.machine.queries.disk(1))?.live === false, 15_000)
    const lease = await world.lease(1000)
    await world.until('swept', async () => (await world.machine.queries.lease(lease)) === undefined, 20_000)
  })

  it('takes a node for up with its first heartbeat, however long that comes after its registration', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    world.node(1).kill()
    await world.until('down', async () => (await world.machine.queries.disk(1))?.live === false, 3000)
    world.node(1).silent = true
    world.node(1).restart()
    await world.advance(1000)
    expect((await world.control.status()).nodes[0]?.health).to.equal('suspected')
    world.node(1).wake()
    await world.advance(1000)
    expect((await world.control.status()).nodes[0]?.health).to.equal('up')
    expect(world.control.place({ chunks: 1, copies: 3, chunkBytes: 1000 }).disks).to.have.length(3)
  })

  it('has a node register again that was fenced before its first heartbeat', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    world.node(1).kill()
    world.node(1).silent = true
    world.node(1).restart()
    await world.settle()
    await world.propose({ kind: 'nodeDown', node: 's1', incarnation: world.node(1).incarnation })
    await world.settle()
    world.node(1).wake()
    await world.until('told', () => world.node(1).ended?.code === 'FENCED', 2000)
    world.node(1).attach()
    await world.until('counts', async () => (await world.machine.queries.disk(1))?.reconciled === true, 3000)
    expect((await world.control.status()).nodes[0]?.health).to.equal('up')
  })

  it('ends the stream of a node whose disks were registered anew by another one', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const [first] = await world.machine.queries.nodes()
    const disk = await world.machine.queries.disk(1)
    if (first === undefined || disk === undefined) throw new Error('node s1 is not registered')
    const { addresses, zone } = first.record
    const { id, state, capacityBytes, usedBytes } = disk
    const disks = [{ id, state, capacityBytes, usedBytes }]
    await world.propose({ kind: 'registerNode', node: 's1', addresses, zone, incarnation: 'e'.repeat(32), disks })
    await world.settle()
    expect(world.node(1).ended?.code).to.equal('FENCED')
    world.node(1).attach()
    await world.until('counts', async () => {
      const now = await world.machine.queries.disk(1)
      return now?.reconciled === true && now.generation === world.node(1).generation
    })
  })

  it('refuses a node of another cluster and one that has seen a later term', async () => {
    world = await ControlWorld.make(['a', 'b'])
    const [first, second] = [world.node(1), world.node(2)]
    first.cut()
    second.cut()
    await world.settle()
    first.clusterId = 'f'.repeat(32)
    first.attach()
    second.termSeen = 2
    second.attach()
    await world.settle()
    expect(first.ended?.code).to.equal('WRONG_CLUSTER')
    expect(second.ended?.code).to.equal('NOT_LEADER')
    expect(first.attached || second.attached).to.equal(false)
  })

  it('ends every stream with the address of the leader when it resigns', async () => {
    world = await ControlWorld.make(['a'])
    world.resign()
    await world.settle()
    expect(world.node(1).ended?.code).to.equal('NOT_LEADER')
    expect(world.node(1).ended?.details.leader).to.deep.equal(['elsewhere:1'])
    expect(() => world.control.place({ chunks: 1, copies: 1 })).to.throw('does not lead')
  })
})
