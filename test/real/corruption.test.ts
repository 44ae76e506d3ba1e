/** One byte of a stored chunk flips on disk: the right bytes still come back, it is named, and it is repaired. */

import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'
import { flipByte } from '../support/damage.ts'
import { until } from '../support/processes.ts'

describe('real processes: one flipped byte', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store

  before(async () => {
    cluster = await TestCluster.start()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('rot')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  it('gives the right bytes, names the replica in status and in the log, and repairs it', async () => {
    const bytes = content(4711, 1_500_000)
    await store.put('rot', 'object', bytes, { write: 'all' })
    await cluster.untilFull()
    const [chunk] = (await store.stat('rot', 'object')).chunks
    const holder = chunk?.replicas[0]?.node as string
    expect(await flipByte(cluster.node(holder).directory, bytes.subarray(700_000, 700_032))).to.equal(true)
    const finding = await until('the finding in status', async () => {
      const back = await (await store.get('rot', 'object')).bytes()
      expect(sha256(back)).to.equal(sha256(bytes))
      return (await store.admin.status()).corruptions.find((entry) => entry.chunk === chunk?.id)
    })
    expect(finding.node).to.equal(holder)
    expect(cluster.node(holder).running?.output()).to.match(/corrupt/i)
    await until('the replica is repaired', async () => {
      const status = await store.admin.status()
      if (status.corruptions.every((entry) => entry.repaired) && status.chunks.full === status.chunks.total) return true
      throw new Error(JSON.stringify({ ...status, meta: undefined, nodes: undefined }))
    })
    const replicas = (await store.stat('rot', 'object')).chunks[0]?.replicas ?? []
    expect(replicas.filter((replica) => replica.state === 'current')).to.have.length.of.at.least(3)
    expect(sha256(await (await store.get('rot', 'object')).bytes())).to.equal(sha256(bytes))
  })
})
