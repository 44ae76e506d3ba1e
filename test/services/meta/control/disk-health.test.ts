/** What the leader makes of the health of disks: where it places, whom it reads from, what it repairs, what it says. */

import { expect } from 'chai'
import { ControlWorld } from './world.ts'

describe('controllers: health of disks', () => {
  let world: ControlWorld

  afterEach(async () => {
    expect(world.log.filter((entry) => entry.level === 'error')).to.deep.equal([])
    await world.stop()
  })

  function placed(copies = 3): number[] {
    const disks = world.control.place({ chunks: 40, copies, chunkBytes: 1000 }).placements?.flatMap((one) => one.disks)
    return [...new Set(disks)].sort((a, b) => (a ?? 0) - (b ?? 0)) as number[]
  }

  async function codes(): Promise<Record<string, string>> {
    const { codes } = await world.control.status()
    return Object.fromEntries(codes.map(({ code, summary }) => [code, summary ?? '']))
  }

  async function diskOf(number: number) {
    const { nodes } = await world.control.status()
    return nodes.find((node) => node.id === `s${number}`)?.disks?.[0]
  }

  it('takes the replicas of a failed disk for lost with the heartbeat that says so, and waits for nothing', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'], {
      repair: { waitDegradedMs: 300_000, waitAtRiskMs: 60_000, copiesMax: 8, copiesPerNode: 4 },
    })
    const chunk = await world.chunk(await world.lease(), 0, 3, [1, 2, 3])
    const [failing] = world.nodes
    if (failing === undefined) throw new Error('no node')
    await world.advance(1000)
    failing.state = 'failed'
    failing.reason = 'syncing: EIO: i/o error, fdatasync'
    await world.until('repaired', async () => (await world.copiesOf(chunk)).join() === 's2,s3,s4', 1000)
    expect(failing.attached).to.equal(true)
    expect(await codes()).to.deep.equal({
      DISK_FAILED:
        'failed: disk 1 of s1: syncing: EIO: i/o error, fdatasync; replace the disk: docs/operating/replace-a-disk.md',
    })
    expect(await diskOf(1)).to.include({ state: 'failed', reason: 'syncing: EIO: i/o error, fdatasync' })
    expect(placed()).not.to.include(1)
  })

  for (const state of ['suspect', 'read-only'] as const) {
    it(`puts nothing new on a ${state} disk, repairs nothing for it, and comes back to it`, async () => {
      world = await ControlWorld.make(['a', 'b', 'a', 'b'])
      const chunk = await world.chunk(await world.lease(), 0, 3, [1, 2, 3])
      await world.advance(1000)
      expect(placed()).to.deep.equal([1, 2, 3, 4])
      world.node(2).state = state
      world.node(2).reason = 'for a reason'
      await world.advance(1000)
      expect(placed()).to.deep.equal([1, 3, 4])
      const code = state === 'suspect' ? 'DISK_SUSPECT' : 'DISK_READ_ONLY'
      expect((await codes())[code]).to.match(/disk 2 of s2: for a reason/)
      const { disks } = world.control.place({ chunks: 1, copies: 3, chunkBytes: 1 })
      expect(disks?.every((disk) => disk.health === 'up')).to.equal(true)
      await world.advance(30_000)
      expect(world.copied).to.deep.equal([])
      expect(await world.copiesOf(chunk)).to.deep.equal(['s1', 's2', 's3'])
      world.node(2).state = 'ok'
      await world.advance(1000)
      expect(placed()).to.include(2)
      expect(await codes()).to.deep.equal({})
    })
  }

  it('falls back on suspect disks for copies of a put that no other disk can take, and tells readers to go elsewhere', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'])
    for (const number of [2, 3]) world.node(number).state = 'suspect'
    await world.advance(1000)
    expect(placed()).to.deep.equal([1, 2, 3])
    expect(placed(1)).to.deep.equal([1])
    const { disks = [] } = world.control.place({ chunks: 1, copies: 3, chunkBytes: 1 })
    expect(disks.map((disk) => disk.health)).to.deep.equal(['up', 'suspected', 'suspected'])
    for (const node of world.nodes) node.state = 'read-only'
    await world.advance(1000)
    expect(() => placed()).to.throw(/every disk of the nodes that are up is failed or read-only/)
  })

  it('copies what a disk lacks to no suspect one', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'])
    world.node(3).state = 'suspect'
    await world.advance(1000)
    const chunk = await world.chunk(await world.lease(), 0, 3, [1, 2])
    await world.advance(20_000)
    expect(await world.copiesOf(chunk)).to.deep.equal(['s1', 's2'])
    world.node(3).state = 'ok'
    await world.until('repaired', async () => (await world.copiesOf(chunk)).length === 3, 5000)
  })

  it('finds a disk slow against its peers, keeps new copies away, and takes it back when it is quick again', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b', 'a'])
    const chunk = await world.chunk(await world.lease(), 0, 3, [1, 2, 3])
    world.node(2).syncUs = 800_000
    await world.until('slow', () => world.events('disk is slow').length === 1, 70_000)
    expect(world.clock.monotonicMs()).to.be.greaterThan(30_000)
    expect(placed()).to.deep.equal([1, 3, 4, 5])
    expect((await codes())['DISK_SUSPECT']).to.match(/disk 2 of s2: slow against its peers: .* 800 ms, theirs 1 ms/)
    expect(await diskOf(2)).to.deep.include({ state: 'suspect', syncUs: 800_000 })
    expect((await world.machine.queries.disk(2))?.state).to.equal('ok')
    expect(await world.copiesOf(chunk)).to.have.length(3)
    world.node(2).syncUs = 1000
    await world.until('quick again', () => world.events('disk is no longer slow').length === 1, 70_000)
    expect(placed()).to.include(2)
    expect(world.copied).to.deep.equal([])
  })

  it('names a directory that does not open, and no longer a disk that its node runs without', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'])
    world.node(1).state = 'failed'
    world.node(1).reason = 'writing: EIO'
    world.node(2).faults = [{ path: '/disks/b', reason: 'its identity file is damaged' }]
    await world.advance(1000)
    expect((await codes())['DISK_FAILED']).to.equal(
      'failed: disk 1 of s1: writing: EIO; /disks/b of s2 does not open: its identity file is damaged; replace the disk: docs/operating/replace-a-disk.md',
    )
    world.node(2).faults = []
    // Somebody put another disk in its place.
    world.node(1).kill()
    world.node(1).swapDisk()
    world.node(1).state = 'ok'
    world.node(1).reason = ''
    world.node(1).restart()
    await world.until('up again', async () => (await codes())['NODE_DOWN'] === undefined, 5000)
    await world.advance(1000)
    expect(await codes()).to.deep.equal({})
    const { nodes } = await world.control.status()
    const shown = nodes[0]?.disks?.map(({ number, state, reason }) => ({ number, state, reason }))
    expect(shown).to.deep.equal([
      { number: 1, state: 'failed', reason: 'its node runs without it' },
      { number: 4, state: 'ok', reason: '' },
    ])
  })
})
