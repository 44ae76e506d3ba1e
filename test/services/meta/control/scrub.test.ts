/** What the leader knows of the scrub: reports of nodes, what became of findings, orders to nodes. */

import { expect } from 'chai'
import { codeOf } from '../../../support/disk-world.ts'
import { ControlWorld } from './world.ts'

describe('controllers: the scrub', () => {
  let world: ControlWorld

  afterEach(async () => {
    expect(world.log.filter((entry) => entry.level === 'error')).to.deep.equal([])
    await world.stop()
  })

  it('sums up what nodes report, leaves out those that are away, and has it again after a change of leaders', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const report = { state: 'running', pass: 3, totalBytes: 1000, bytesPerSecond: 10, direct: true }
    world.node(1).scrub = { ...report, scannedBytes: 100, debtSeconds: 50, notes: ['extent 4: damaged'] }
    world.node(2).scrub = { ...report, scannedBytes: 200, debtSeconds: 70 }
    await world.advance(1000)
    const status = await world.control.scrubStatus()
    expect(status).to.deep.include({ scannedBytes: 300, totalBytes: 2000, bytesPerSecond: 20, debtSeconds: 70 })
    expect(status.disks?.map(({ node, report: told }) => [node, told?.pass, told?.notes])).to.deep.equal([
      ['s1', 3, ['extent 4: damaged']],
      ['s2', 3, []],
    ])
    expect((await world.control.status()).scrub).to.deep.include({ totalBytes: 2000, found: 0, open: 0 })
    world.node(2).kill()
    await world.until('left out', async () => (await world.control.scrubStatus()).totalBytes === 1000, 2000)
    world.resign()
    world.back()
    for (const n of [1, 3]) world.node(n).attach()
    await world.until('told again', async () => (await world.control.scrubStatus()).totalBytes === 1000, 5000)
  })

  it('lists a finding until its chunk was repaired, and where the good copy came from', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    const lease = await world.lease()
    const chunk = await world.chunk(lease, 0, 3, [1, 2, 3])
    world.node(2).chunks.set(chunk, 'bad')
    world.node(2).copyCode = 'OVERLOADED'
    world.node(2).corrupt = [{ chunk, disk: world.node(2).disk, finding: 'block 7 differs' }]
    const findings = async () => (await world.control.scrubStatus()).findings ?? []
    await world.until('found', async () => (await findings()).length === 1, 2000)
    const [open] = await findings()
    expect(open?.finding).to.deep.include({ chunk, node: 's2', finding: 'block 7 differs' })
    expect([open?.state, open?.source]).to.deep.equal(['quarantined', ''])
    expect(await world.control.scrubStatus()).to.include({ found: 1, open: 1 })
    world.node(2).copyCode = ''
    await world.until('repaired', async () => (await findings())[0]?.state === 'repaired', 30_000)
    expect((await findings())[0]?.source).to.be.oneOf(['s1', 's3'])
    expect(await world.control.scrubStatus()).to.include({ found: 1, open: 0 })
  })

  it('directs every node or one, and says who does not take it', async () => {
    world = await ControlWorld.make(['a', 'b', 'a'])
    for (const n of [1, 2]) world.node(n).scrub = { state: 'off' }
    const all = await world.control.directScrub('start', '')
    expect(all.disks).to.equal(2)
    expect(all.refused).to.have.length(1)
    expect(all.refused?.[0]).to.match(/^s3, disk 3: .*INCOMPATIBLE_VERSION/)
    expect(await world.control.directScrub('pause', 's2')).to.deep.equal({ disks: 1, refused: [] })
    expect(world.node(1).orders).to.include('scrub start').and.not.include('scrub pause')
    expect(world.node(2).orders).to.include('scrub pause')
    expect(await codeOf(world.control.directScrub('start', 's9'))).to.equal('NOT_FOUND')
  })
})
