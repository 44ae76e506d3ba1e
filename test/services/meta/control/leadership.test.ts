/** Taking and leaving office, placement, health as others see it. */

import { expect } from 'chai'
import { isStoreError } from '../../../../src/model/errors.ts'
import { ControlWorld } from './world.ts'

describe('controllers: leadership and placement', () => {
  let world: ControlWorld

  afterEach(async () => {
    expect(world.log.filter((entry) => entry.level === 'error')).to.deep.equal([])
    await world.stop()
  })

  async function generations(): Promise<number[]> {
    return (await world.machine.queries.disks()).map((disk) => disk.record.generation)
  }

  it('keeps generations and reconciled disks when nodes attach to a new leader', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    const before = await generations()
    world.resign()
    await world.advance(1000)
    world.back()
    for (const node of world.nodes) {
      node.orders.length = 0
      node.attach()
    }
    await world.advance(15_000)
    expect(await generations()).to.deep.equal(before)
    expect(await world.copiesOf(chunk)).to.have.length(3)
    expect(world.nodes.flatMap((node) => node.orders)).to.deep.equal([])
  })

  it('places again on a node that comes back after a new leader found it down', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    world.node(1).kill()
    await world.until('down', async () => (await world.machine.queries.disk(1))?.live === false, 12_000)
    world.resign()
    await world.settle()
    world.back()
    for (const node of world.nodes.slice(1)) node.attach()
    await world.advance(1000)
    world.node(1).restart()
    await world.advance(2000)
    expect(world.control.place({ chunks: 1, copies: 3, chunkBytes: 1000 }).disks).to.have.length(3)
  })

  it('serves last copies at once in a new term, others when the nodes had 10 s to attach', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const last = await world.chunk(lease, 0, 2, [1, 2])
    const degraded = await world.chunk(lease, 1, 3, [1, 2, 3])
    for (const node of world.nodes) node.mute = true
    world.node(1).kill()
    await world.until('down', async () => (await world.machine.queries.disk(1))?.live === false, 3000)
    world.resign()
    await world.settle()
    for (const node of world.nodes) {
      node.mute = false
      node.orders.length = 0
    }
    world.back()
    // Node 6 stays away.
    for (const node of world.nodes.slice(1, 5)) node.attach()
    await world.advance(2000)
    expect(world.copied).to.deep.equal([last])
    await world.advance(7000)
    expect(world.copied).to.deep.equal([last])
    await world.until('repaired', async () => (await world.copiesOf(degraded)).length === 3, 5000)
    expect(new Set(world.nodes.flatMap((node) => node.terms.slice(-1)))).to.include(2)
  })

  it('finds by itself what is to be deleted when leadership starts', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease(5000)
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    await world.advance(10_000)
    await world.propose({ kind: 'unpinChunk', chunk })
    world.resign()
    await world.advance(70_000)
    await world.propose({ kind: 'reclaim', graceMs: 60_000, chunks: [chunk] })
    world.back()
    for (const node of world.nodes) node.attach()
    await world.until('deleted', () => world.nodes.every((node) => !node.chunks.has(chunk)), 10_000)
  })

  it('keeps no timer after resigning', async () => {
    world = await ControlWorld.make(['a', 'b'])
    for (const node of world.nodes) node.mute = true
    await world.control.reportReplica({ chunk: 70_000, disk: 1, code: 'CORRUPT' })
    await world.settle()
    expect(world.timers).to.be.above(0)
    world.resign()
    await world.settle()
    expect(world.timers).to.equal(0)
    const before = world.log.length
    await world.advance(60_000)
    expect(world.log.slice(before)).to.deep.equal([])
  })

  it('places copies on distinct nodes over both zones, and none on a suspected node', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    await world.control.ready()
    for (const placement of world.control.place({ chunks: 50, copies: 3, chunkBytes: 1000 }).placements ?? []) {
      const disks = placement.disks ?? []
      const nodes = disks.map((disk) => world.nodes.find((node) => node.disk === disk))
      expect(new Set(nodes).size).to.equal(3)
      expect(new Set(nodes.map((node) => node?.zone)).size).to.equal(2)
    }
    world.node(2).cut()
    await world.settle()
    const reply = world.control.place({ chunks: 50, copies: 4, chunkBytes: 1000 })
    expect((reply.disks ?? []).map((disk) => disk.node)).to.deep.equal(['s1', 's3', 's4'])
    world.node(2).attach()
    await world.settle()
    expect(world.control.place({ chunks: 1, copies: 4, chunkBytes: 1000 }).disks).to.have.length(4)
  })

  it('gives nodes and chunks as gauges while it leads, and none when it does not', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    await world.chunk(lease, 0, 3, [1, 2, 3])
    await world.chunk(lease, 1, 3, [1, 2, 3])
    await world.settle()
    const gauges = (): Record<string, number> =>
      Object.fromEntries(
        world.control
          .samples(world.machine.applied().chunks)
          .map(({ name, labels, value }) => [`${name} ${Object.values(labels ?? {}).join()}`, value]),
      )
    expect(gauges()).to.deep.equal({
      'holdfast_node_up s1': 1,
      'holdfast_node_up s2': 1,
      'holdfast_node_up s3': 1,
      'holdfast_chunks full': 2,
      'holdfast_chunks degraded': 0,
      'holdfast_chunks at-risk': 0,
      'holdfast_chunks last-copy': 0,
      'holdfast_chunks lost': 0,
    })
    world.node(2).kill()
    await world.until('down', async () => (await world.machine.queries.disk(2))?.live === false, 12_000)
    await world.until('seen', () => Promise.resolve(gauges()['holdfast_chunks full'] === 0), 5000)
    const after = gauges()
    expect(after['holdfast_node_up s2']).to.equal(0)
    expect(
      Object.entries(after).reduce((sum, [name, value]) => sum + (name.includes('chunks') ? value : 0), 0),
    ).to.equal(2)
    world.resign()
    expect(gauges()).to.deep.equal({})
  })

  it('says so when there is nowhere to place a chunk', async () => {
    world = await ControlWorld.make([])
    await world.control.ready()
    try {
      world.control.place({ chunks: 1, copies: 3, chunkBytes: 1000 })
      expect.fail('placed on nothing')
    } catch (error) {
      expect(isStoreError(error) && error.code).to.equal('NO_PLACEMENT')
    }
  })

  it('suspects a node that stays attached and says nothing, and fences it at last', async () => {
    world = await ControlWorld.make(['a', 'b'])
    const silent = world.node(1)
    silent.silent = true
    await world.advance(9000)
    expect(silent.attached).to.equal(true)
    expect((await world.control.status()).nodes[0]?.health).to.equal('suspected')
    expect((await world.machine.queries.disk(1))?.live).to.equal(true)
    await world.until('fenced', async () => (await world.machine.queries.disk(1))?.live === false, 3000)
    expect((await world.control.status()).nodes[0]?.health).to.equal('down')
    expect(silent.ended?.code).to.equal('FENCED')
    silent.silent = false
    silent.attach()
    await world.until('back', async () => (await world.control.status()).nodes[0]?.health === 'up', 1000)
    await world.until('counts', async () => (await world.machine.queries.disk(1))?.reconciled === true, 3000)
  })
})
