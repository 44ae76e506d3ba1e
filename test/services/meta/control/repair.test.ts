/** Repair by the controllers, on the real state machine: what is copied, in which order, from whom, and what is not. */

import { expect } from 'chai'
import { ControlWorld } from './world.ts'

describe('controllers: repair', () => {
  let world: ControlWorld

  afterEach(async () => {
    expect(world.log.filter((entry) => entry.level === 'error')).to.deep.equal([])
    await world.stop()
  })

  it('fences a killed node within two seconds and copies what it held, last copies first', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b', 'a'], {
      repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 1, copiesPerNode: 1 },
    })
    const lease = await world.lease()
    const degraded: number[] = []
    for (let i = 0; i < 5; i++) degraded.push(await world.chunk(lease, i, 3, [1, 2, 4]))
    const last: number[] = []
    for (let i = 5; i < 10; i++) last.push(await world.chunk(lease, i, 2, [1, 2]))
    await world.advance(1000)
    expect(world.copied).to.deep.equal([])
    world.node(1).kill()
    await world.until('fenced', async () => (await world.machine.queries.disk(1))?.live === false, 2000)
    expect(world.events('node suspected')).to.have.length(1)
    expect(world.events('node down')).to.have.length(1)
    await world.until('repaired', () => world.copied.length >= 10)
    expect(world.copied.slice(0, 5)).to.deep.equal(last)
    expect(world.copied.slice(5).sort((a, b) => a - b)).to.deep.equal(degraded)
    await world.settle()
    for (const chunk of degraded) expect(await world.copiesOf(chunk)).to.have.length(3)
    for (const chunk of last) expect(await world.copiesOf(chunk)).to.have.length(2)
    const status = await world.control.status()
    expect(status.repair.repaired).to.equal(10)
    expect(status.chunks).to.deep.include({ total: 10, full: 10, degraded: 0, lastCopy: 0, lost: 0 })
    expect(status.codes.map((code) => code.code)).to.deep.equal(['NODE_DOWN'])
    expect(world.events('repair started')).to.have.length(1)
    expect(world.events('repair finished')).to.have.length(1)
  })

  it('gives a node that may return the wait of the class, and a corrupt replica none', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'], {
      repair: { waitDegradedMs: 20_000, waitAtRiskMs: 5000, copiesMax: 8, copiesPerNode: 4 },
    })
    const lease = await world.lease()
    const waiting = await world.chunk(lease, 0, 3, [1, 2, 3])
    const bad = await world.chunk(lease, 1, 3, [2, 3, 4])
    world.node(1).kill()
    world.node(2).chunks.set(bad, 'bad')
    world.node(2).corrupt = [{ chunk: bad, disk: world.node(2).disk, finding: 'block 0 differs' }]
    await world.until('down', () => world.events('node down').length === 1, 3000)
    await world.until('replaced', async () => (await world.copiesOf(bad)).length === 3, 3000)
    expect(await world.copiesOf(waiting)).to.deep.equal(['s2', 's3'])
    await world.advance(15_000)
    expect(world.copied).to.deep.equal([bad])
    await world.until('repaired', async () => (await world.copiesOf(waiting)).length === 3, 10_000)
  })

  it('replaces a corrupt replica in its place and closes the finding', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    world.node(2).chunks.set(chunk, 'bad')
    world.node(2).corrupt = [{ chunk, disk: world.node(2).disk, finding: 'block 7 differs' }]
    await world.until('found', async () => (await world.machine.queries.findings()).length === 1, 2000)
    await world.until('repaired', async () => (await world.copiesOf(chunk)).length === 3, 2000)
    expect(world.node(2).orders).to.include(`copy ${chunk} replace`)
    expect(world.node(2).chunks.get(chunk)).to.equal('good')
    const status = await world.control.status()
    expect(status.corruptions).to.have.length(1)
    expect(status.corruptions.at(0)).to.deep.include({ chunk, node: 's2', finding: 'block 7 differs', repaired: true })
    expect(status.verdict).to.equal('healthy')
    expect(world.events('corrupt replica found')).to.have.length(1)
    expect(world.events('corrupt replica replaced')).to.have.length(1)
  })

  it('believes no client: a reported replica is read by its node first', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    const report = { chunk, disk: world.node(1).disk, code: 'CORRUPT' }
    await world.control.reportReplica(report)
    await world.settle()
    expect(world.node(1).orders).to.deep.equal([`check ${chunk}`, `verify ${chunk}`])
    expect(await world.copiesOf(chunk)).to.have.length(3)
    expect(world.copied).to.deep.equal([])
    world.node(1).chunks.set(chunk, 'bad')
    await world.control.reportReplica(report)
    await world.until('repaired', () => world.copied.length === 1, 1000)
    expect(world.node(1).chunks.get(chunk)).to.equal('good')
  })

  it('reads the source when a copy fails for its sake, and goes on from another one', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const chunks: number[] = []
    for (let i = 0; i < 4; i++) chunks.push(await world.chunk(lease, i, 3, [1, 2, 3]))
    for (const chunk of chunks) world.node(2).chunks.set(chunk, 'bad')
    world.node(1).kill()
    await world.until('tried', () => world.events('repair copy failed').length > 0)
    const failed = new Set(chunks.filter((chunk) => world.node(2).orders.includes(`verify ${chunk}`)))
    await world.until('whole again', async () => {
      const copies = await Promise.all(chunks.map((chunk) => world.copiesOf(chunk)))
      return copies.every((list) => list.length === 3)
    })
    expect(failed.size).to.be.at.least(1)
    for (const chunk of failed) expect(world.node(2).chunks.get(chunk)).to.equal('good')
  })

  it('counts a straggler of a commit as soon as it is there', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2], [3])
    world.node(3).chunks.set(chunk, 'good')
    expect((await world.control.status()).chunks.degraded).to.equal(0)
    await world.until('counted', async () => (await world.copiesOf(chunk)).length === 3, 2000)
    expect(world.copied).to.deep.equal([])
  })

  it('gives a straggler up 10 s after the commit and copies at once', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'], {
      repair: { waitDegradedMs: 300_000, waitAtRiskMs: 300_000, copiesMax: 8, copiesPerNode: 4 },
    })
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2], [3])
    await world.advance(9500)
    expect(world.copied).to.deep.equal([])
    await world.until('copied', async () => (await world.copiesOf(chunk)).length === 3, 2000)
    expect(world.copied).to.deep.equal([chunk])
  })

  it('parks what has no target, says why, and goes on when a node comes', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    world.node(3).kill()
    await world.until('parked', async () => (await world.control.status()).repair.parked?.['no-target'] === 1, 3000)
    const status = await world.control.status()
    expect(status.verdict).to.equal('degraded')
    expect(status.canLose).to.equal(1)
    world.node(3).chunks.clear()
    world.node(3).restart()
    await world.until('repaired', async () => (await world.copiesOf(chunk)).length === 3)
  })

  it('goes on when the only target was suspected for a while', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    world.node(4).silent = true
    await world.until('suspected', () => world.events('node suspected').length === 1, 5000)
    world.node(3).kill()
    await world.until('parked', async () => (await world.control.status()).repair.parked?.['no-target'] === 1, 5000)
    world.node(4).wake()
    await world.until('repaired', async () => (await world.copiesOf(chunk)).length === 3, 5000)
    expect(await world.copiesOf(chunk)).to.include('s4')
  })

  it('deletes a copy that was made after it was given up, when the chunk is whole without it', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b', 'a'])
    const lease = await world.lease(1000)
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    for (const target of [4, 5]) world.node(target).copyAnswerMs = 60_000
    world.node(1).kill()
    await world.until('given up', () => world.events('repair copy failed').length === 1)
    for (const target of [4, 5]) world.node(target).copyAnswerMs = 0
    const late = world.nodes.find(
      (node) => node.id !== 's1' && node.chunks.has(chunk) && node.orders.includes(`copy ${chunk}`),
    )
    const other = world.node(late?.id === 's4' ? 5 : 4)
    other.chunks.set(chunk, 'good')
    await world.propose({
      kind: 'replicas',
      changes: [{ chunk, disk: other.disk, generation: other.generation, change: 'copied', finding: '' }],
    })
    await world.until('cleaned', () => late !== undefined && !late.chunks.has(chunk), 30_000)
    expect(await world.copiesOf(chunk)).to.have.length(3)
    expect(world.nodes.filter((node) => node.alive && node.chunks.get(chunk) === 'good')).to.have.length(3)
  })

  it('calls no chunk lost that nothing refers to any more', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease(1000)
    const chunk = await world.chunk(lease, 0, 1, [1])
    await world.advance(5000)
    world.node(1).mute = true
    await world.propose({ kind: 'unpinChunk', chunk })
    await world.advance(61_000)
    await world.propose({ kind: 'reclaim', graceMs: 60_000, chunks: [chunk] })
    world.node(1).kill()
    await world.until('down', () => world.events('node down').length === 1, 3000)
    await world.settle()
    expect((await world.control.status()).chunks.lost).to.equal(0)
  })

  it('does not judge by an entry that a change overtook while it was read', async () => {
    world = await ControlWorld.make(['a', 'b', 'a', 'b'], {
      repair: { waitDegradedMs: 0, waitAtRiskMs: 0, copiesMax: 0, copiesPerNode: 4 },
    })
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    // A walk over the disk begins, and gets its page only after the replica was found missing and judged.
    const { queries } = world.machine
    const diskChunks = queries.diskChunks.bind(queries)
    let pages = 0
    let release = (): void => undefined
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    queries.diskChunks = async (disk, from, limit, to) => {
      const page = await diskChunks(disk, from, limit, to)
      if (disk === world.node(2).disk && to === undefined && pages++ === 0) await held
      return page
    }
    for (const node of world.nodes) node.mute = true
    world.node(2).cut()
    world.node(2).attach()
    await world.advance(1000)
    expect(pages).to.equal(1)
    const { disk, generation } = world.node(1)
    world.node(1).chunks.delete(chunk)
    await world.propose({ kind: 'replicas', changes: [{ chunk, disk, generation, change: 'missing', finding: '' }] })
    await world.settle()
    release()
    await world.settle()
    expect((await world.control.status()).chunks.degraded).to.equal(1)
  })

  it('tells what is lost for now and counts it again when the disk returns', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 1, [1])
    world.node(1).kill()
    await world.until('lost', async () => (await world.control.status()).chunks.lost === 1, 3000)
    expect((await world.control.status()).verdict).to.equal('data-lost')
    world.node(1).restart()
    await world.until('back', async () => (await world.copiesOf(chunk)).length === 1, 3000)
    expect((await world.control.status()).chunks.lost).to.equal(0)
    expect((await world.control.status()).verdict).to.equal('healthy')
  })

  it('places nothing on a disk whose node has no room above its reserve, and again when it has', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'])
    const place = (): number[] =>
      world.control.place({ chunks: 20, copies: 3, chunkBytes: 1000 }).placements?.[0]?.disks ?? []
    await world.advance(1000)
    expect(place()).to.have.length(3)
    world.node(2).freeForNewBytes = 8 * 2 ** 20 - 1
    await world.advance(1000)
    expect(place()).to.have.length(2)
    expect(place()).not.to.include(world.node(2).disk)
    for (const node of world.nodes) node.freeForNewBytes = 0
    await world.advance(1000)
    expect(place).to.throw(/every disk that is up is full/)
    for (const node of world.nodes) node.freeForNewBytes = 2 ** 30
    await world.advance(1000)
    expect(place()).to.have.length(3)
  })

  it('leaves a disk alone for half a minute whose node had no room for a copy', async () => {
    world = await ControlWorld.make(['a', 'b', 'c'])
    world.node(3).copyCode = 'NO_SPACE'
    const chunk = await world.chunk(await world.lease(), 0, 3, [1, 2])
    const copies = (): number => world.node(3).orders.filter((order) => order === `copy ${chunk}`).length
    await world.until('tried', () => copies() === 1)
    await world.advance(28_000)
    expect(copies()).to.equal(1)
    world.node(3).copyCode = ''
    await world.until('repaired', async () => (await world.copiesOf(chunk)).length === 3, 10_000)
    expect(copies()).to.equal(2)
  })
})
