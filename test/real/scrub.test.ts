/**
 * The scrub on real processes: a byte flips on a disk that nobody reads; the scrub finds it below the page cache, meta
 * hears of it, it is repaired from a verified copy and listed.
 */

import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { ScrubDetails, Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'
import { flipByte } from '../support/damage.ts'
import { until } from '../support/processes.ts'

describe('real processes: the scrub', function () {
  this.timeout(180_000)
  let cluster: TestCluster
  let store: Store

  before(async () => {
    cluster = await TestCluster.start({ storageFlags: ['--extent-size', '16MiB'] })
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('rot')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  const scrub = (): Promise<ScrubDetails> => cluster.json<ScrubDetails>(['scrub', 'status'])

  /** Asks for a pass and waits until every disk has done one more. */
  async function pass(): Promise<ScrubDetails> {
    const before = new Map((await scrub()).disks.map((disk) => [disk.disk, disk.pass]))
    expect(await cluster.ok(['scrub', 'start'])).to.include('scrub of 4 disks: a pass begins')
    return until('a pass on every disk', async () => {
      const now = await scrub()
      const left = now.disks.filter((disk) => disk.state === 'running' || disk.pass <= (before.get(disk.disk) ?? 0))
      if (left.length > 0 || now.disks.length < 4) throw new Error(JSON.stringify(left))
      return now
    })
  }

  it('finds nothing on intact disks, and shows how far it is', async () => {
    await store.put('rot', 'large', content(1, 3_000_000), { write: 'all' })
    await store.put('rot', 'small', content(2, 9_000), { write: 'all' })
    await cluster.untilFull()
    const done = await pass()
    expect(done).to.include({ found: 0, open: 0, debtSeconds: 0 })
    expect(done.scannedBytes).to.equal(done.totalBytes)
    expect(done.totalBytes).to.be.greaterThan(9_000_000)
    expect((await cluster.status()).scrub).to.include({ found: 0, open: 0, totalBytes: done.totalBytes })
    expect(await cluster.ok(['scrub', 'status'])).to.match(/^scrub: 100 % of .*, debt none; 0 findings, 0 open\n/)
  })

  it('finds a flipped byte that nobody reads, and has it repaired from a verified copy', async () => {
    const bytes = content(4712, 1_500_000)
    await store.put('rot', 'object', bytes, { write: 'all' })
    await cluster.untilFull()
    const [chunk] = (await store.stat('rot', 'object')).chunks
    const holder = chunk?.replicas[0]?.node as string
    expect(await flipByte(cluster.node(holder).directory, bytes.subarray(700_000, 700_032))).to.equal(true)
    await pass()
    const finding = await until('the finding is repaired', async () => {
      const { findings } = await scrub()
      const found = findings.find((entry) => entry.chunk === chunk?.id)
      if (found?.state !== 'repaired') throw new Error(JSON.stringify(findings))
      return found
    })
    expect(finding.node).to.equal(holder)
    expect(finding.finding).to.match(/block 10 does not match its checksum/)
    expect(finding.source).to.be.oneOf((chunk?.replicas ?? []).map(({ node }) => node).filter((id) => id !== holder))
    expect(await cluster.ok(['scrub', 'status'])).to.include(`repaired from ${finding.source}`)
    const replicas = (await store.stat('rot', 'object')).chunks[0]?.replicas ?? []
    expect(replicas.filter(({ state }) => state === 'current')).to.have.length(3)
    expect(sha256(await (await store.get('rot', 'object')).bytes())).to.equal(sha256(bytes))
    // The next pass meets the repaired copy and has nothing to say.
    expect(await pass()).to.include({ found: 1, open: 0 })
  })

  it('is directed on one node, and goes on after a kill', async () => {
    const paused = await cluster.json(['scrub', 'pause', '--node', 's2'])
    expect(paused).to.deep.equal({ disks: 1, refused: [] })
    await until('the pause in status', async () => {
      const disk = (await scrub()).disks.find(({ node }) => node === 's2')
      if (disk?.state !== 'paused') throw new Error(JSON.stringify(disk))
      return true
    })
    const before = (await scrub()).disks.find(({ node }) => node === 's3')?.pass
    await cluster.kill('s3')
    cluster.startNode('s3')
    await until('s3 reports', async () => {
      const disk = (await scrub()).disks.find(({ node }) => node === 's3')
      if (disk?.pass !== before) throw new Error(JSON.stringify(disk))
      return true
    })
    await cluster.ok(['scrub', 'resume'])
    const unknown = await cluster.run(['scrub', 'start', '--node', 's9'])
    expect([unknown.code, unknown.stderr]).to.satisfy(
      ([code, text]: [number, string]) => code === 3 && text.includes('storage node s9 is not attached'),
    )
  })
})
