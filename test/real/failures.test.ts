/**
 * Processes die in the middle of a stream of puts and gets: clients go on by themselves, everything acknowledged is
 * there, nothing else is half visible, and copies come back to three without an operator.
 */

import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { PutGetStream, type StreamReport, verifyAll } from '../support/stream.ts'
import { until } from '../support/processes.ts'

describe('real processes: kill -9', function () {
  this.timeout(180_000)
  let cluster: TestCluster
  let store: Store
  const acknowledged = new Map<string, string>()
  const unsure = new Set<string>()

  before(async () => {
    cluster = await TestCluster.start()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('stream')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  /** Streams puts and gets, does `harm` in their middle, and waits until writes have gone on after it. */
  async function under(prefix: string, harm: () => Promise<unknown>): Promise<StreamReport> {
    const stream = new PutGetStream(store, 'stream', prefix, 200_000)
    await until('some puts acknowledged', () => stream.acknowledged >= 10)
    await harm()
    const before = stream.acknowledged
    await until('puts go on', () => stream.acknowledged >= before + 20, 60_000)
    const report = await stream.stop()
    for (const [key, sum] of report.acknowledged) acknowledged.set(key, sum)
    for (const key of report.unsure) unsure.add(key)
    return report
  }

  it('goes on without its meta leader (scenario 87)', async () => {
    const leader = await cluster.leader()
    const report = await under('leader', async () => await cluster.kill(leader))
    expect(report.errors).to.deep.equal([])
    expect(report.reads).to.be.greaterThan(0)
    await verifyAll(store, 'stream', acknowledged)
    cluster.startNode(leader)
    await until('the old leader follows', async () => {
      const { meta } = await cluster.status()
      return meta.every((peer) => peer.reachable)
    })
  })

  it('goes on without a meta follower', async () => {
    const leader = await cluster.leader()
    const follower = ['m1', 'm2', 'm3'].find((id) => id !== leader) as string
    const report = await under('follower', async () => await cluster.kill(follower))
    expect(report.errors).to.deep.equal([])
    await verifyAll(store, 'stream', acknowledged)
    cluster.startNode(follower)
  })

  it('goes on without a storage node, and its chunks return to three copies on the others', async () => {
    const report = await under('storage', async () => await cluster.kill('s2'))
    expect(report.errors).to.deep.equal([])
    await verifyAll(store, 'stream', acknowledged)
    await until(
      's2 is down',
      async () => (await cluster.status()).nodes.find((node) => node.id === 's2')?.health === 'down',
    )
    await cluster.untilFull(90_000)
    await verifyAll(store, 'stream', acknowledged)
    const [key] = acknowledged.keys()
    const { chunks } = await store.stat('stream', key as string)
    for (const chunk of chunks) {
      const current = chunk.replicas.filter((replica) => replica.state === 'current').map((replica) => replica.node)
      expect(new Set(current).size).to.be.at.least(3)
      expect(current).not.to.include('s2')
    }
    cluster.startNode('s2')
    await cluster.untilUp()
  })

  it('has everything acknowledged after all processes were killed and started again (scenarios 2, 87)', async () => {
    await store.close()
    await Promise.all(
      cluster.nodes.filter((node) => node.running !== undefined).map(async (node) => await cluster.kill(node.id)),
    )
    for (const node of cluster.nodes) cluster.startNode(node.id)
    await cluster.untilUp()
    store = await connect({ meta: [...cluster.meta] })
    await verifyAll(store, 'stream', acknowledged)
    expect(acknowledged.size).to.be.greaterThan(60)
  })

  it('shows nothing that was not acknowledged, except whole objects of unknown outcome', async () => {
    const listed: string[] = []
    for await (const entry of store.list('stream')) listed.push(entry.key)
    for (const key of acknowledged.keys()) expect(listed).to.include(key)
    for (const key of listed) {
      if (acknowledged.has(key)) continue
      expect(unsure.has(key), `${key} is listed and nobody put it`).to.equal(true)
      const object = await store.get('stream', key)
      expect((await object.bytes()).length).to.equal(object.size)
    }
  })

  it('stops in order on SIGTERM, with exit code 0, within 10 seconds', async () => {
    for (const id of ['s1', 'm1']) {
      const startMs = performance.now()
      const ended = await cluster.kill(id, 'SIGTERM')
      expect(ended.code, `${id}: ${String(ended.signal)} ${ended.stderr}`).to.equal(0)
      expect(performance.now() - startMs).to.be.lessThan(10_000)
      cluster.startNode(id)
    }
    await cluster.untilUp()
  })
})
