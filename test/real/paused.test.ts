/**
 * A storage node that is paused (SIGSTOP) or killed while bytes stream: its connections stay open and say nothing, and
 * still reads and writes move to other nodes within seconds, by themselves.
 */

import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'

const MiB = 1024 * 1024
const size = 64 * MiB

describe('real processes: paused nodes', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  const bytes = content(5, size)
  const sum = sha256(bytes)

  before(async () => {
    cluster = await TestCluster.start()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('pauses')
    await store.put('pauses', 'before', bytes, { write: 'all' })
  })

  after(async () => {
    process.kill(cluster.pid('s1'), 'SIGCONT')
    await store?.close()
    await cluster?.stop()
  })

  /** Pieces of `bytes`, with `harm` done after a third of them. */
  async function* harmed(harm: () => void): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < size; at += MiB) {
      if (at === 20 * MiB) harm()
      yield bytes.subarray(at, at + MiB)
    }
  }

  async function read(key: string): Promise<string> {
    return sha256(await (await store.get('pauses', key)).bytes())
  }

  it('reads on from other nodes, and stores on other nodes', async () => {
    const object = await store.get('pauses', 'before')
    const parts: Uint8Array[] = []
    let longestMs = 0
    let lastMs = performance.now()
    for await (const part of object.stream()) {
      if (parts.length === 0) process.kill(cluster.pid('s1'), 'SIGSTOP')
      longestMs = Math.max(longestMs, performance.now() - lastMs)
      lastMs = performance.now()
      parts.push(new Uint8Array(part))
    }
    expect(sha256(Buffer.concat(parts))).to.equal(sum)
    expect(longestMs).to.be.lessThan(5000)
    const startMs = performance.now()
    const put = await store.put('pauses', 'during', bytes, { write: 'all' })
    expect(put.durable).to.equal(3)
    expect(performance.now() - startMs).to.be.lessThan(20_000)
    expect(await read('during')).to.equal(sum)
    process.kill(cluster.pid('s1'), 'SIGCONT')
    await cluster.untilUp()
  })

  it('stores with every write concern when a node is paused in the middle of the put', async () => {
    for (const write of ['quorum', 'all'] as const) {
      const body = harmed(() => process.kill(cluster.pid('s1'), 'SIGSTOP'))
      const startMs = performance.now()
      const put = await store.put('pauses', write, body, { write })
      expect(put.durable, write).to.be.at.least(write === 'all' ? 3 : 2)
      expect(performance.now() - startMs, write).to.be.lessThan(20_000)
      expect(await read(write), write).to.equal(sum)
      process.kill(cluster.pid('s1'), 'SIGCONT')
      await cluster.untilUp()
    }
  })

  it('replaces a node that is killed in the middle of a put, unnoticed', async () => {
    let killed: Promise<unknown> | undefined
    const body = harmed(() => {
      killed = cluster.kill('s2')
    })
    const put = await store.put('pauses', 'killed', body, { write: 'all' })
    await killed
    expect(put.durable).to.equal(3)
    expect(await read('killed')).to.equal(sum)
    cluster.startNode('s2')
    await cluster.untilUp()
  })
})
