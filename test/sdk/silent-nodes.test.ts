/** The SDK beside nodes that are paused or hang: it leaves them soon and does not come back for every chunk. */

import { randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { StoreError } from '../../src/model/errors.ts'
import { limits } from '../../src/model/limits.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster, type FakeStorage } from './fake-cluster.ts'

describe('store beside silent nodes', () => {
  let cluster: FakeCluster
  let store: Store
  let first: FakeStorage

  beforeEach(async () => {
    cluster = await createFakeCluster(4)
    cluster.meta.preferred = [1, 2, 3, 4]
    const [node] = cluster.storage
    if (node === undefined) throw new Error('no node')
    first = node
    store = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 5000, chunkBytes: limits.blockBytes })
  })

  afterEach(() => store.close())

  it('asks a paused node for the first chunks of a read only', async () => {
    const bytes = new Uint8Array(randomBytes(100 * limits.blockBytes))
    await store.put('photos', 'cat', bytes)
    first.onGetFrame = () => 'hang'
    first.gets = 0
    const read = await (await store.get('photos', 'cat')).bytes()
    expect(Buffer.compare(read, bytes)).to.equal(0)
    expect(first.gets).to.be.within(1, 14)
  })

  it('replaces a disk that hangs on a node that answers others', async () => {
    let hung = 0
    first.onPut = (id) => {
      hung ||= id
      return id === hung ? 'hang' : 'store'
    }
    let over = false
    const all = store.put('photos', 'cat', randomBytes(1000), { write: 'all' }).finally(() => {
      over = true
    })
    for (let i = 0; !over && i < 2000; i++) await store.put('photos', `dog${i % 10}`, randomBytes(10), { write: 'all' })
    expect(over).to.equal(true)
    expect((await all).durable).to.equal(3)
    const commit = cluster.meta.commitRequests.find(({ operations }) => operations[0]?.put?.key === 'cat')
    const replicas = commit?.operations[0]?.put?.chunks[0]?.replicas
    expect(replicas?.map((replica) => replica.disk).sort()).to.deep.equal([2, 3, 4])
  })

  it('starts over as soon as its lease is lost, without a commit under it', async () => {
    let granted = 0
    cluster.meta.before = (request) => {
      if (request.grantLease) granted++
      return request.renewLease?.id === 65_536 ? new StoreError('FENCED', 'the lease ran out') : undefined
    }
    let reads = 0
    const body = async function* (): AsyncGenerator<Uint8Array> {
      reads++
      yield new Uint8Array(limits.blockBytes)
      while (reads === 1 && !cluster.meta.calls.includes('renewLease')) {
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      // Until the client has heard the refusal.
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
      yield new Uint8Array(limits.blockBytes)
      yield new Uint8Array(1)
    }
    const result = await store.put('photos', 'cat', body)
    expect(result.chunks).to.equal(3)
    expect(reads).to.equal(2)
    expect(granted).to.equal(2)
    expect(cluster.meta.commitRequests.map((request) => request.lease)).to.deep.equal([2 * 65_536])
  })
})
