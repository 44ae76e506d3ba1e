/** Reads that may go to any meta node: spread when all answer, and as good as the leader's when some do not. */

import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { createFakeCluster, type FakeCluster, FakeMeta } from './fake-cluster.ts'
import type { Listener } from './fake-net.ts'

const addresses = ['meta:7400', 'm2:7400', 'm3:7400'] as const

describe('reads from any meta node', () => {
  let cluster: FakeCluster
  let store: Store
  let reads: Map<string, number>

  /** Counts the read calls that come in at `address`. */
  function counted(address: string, listen: Listener): Listener {
    return (path, control) => {
      const peer = listen(path, control)
      if (peer === undefined) return undefined
      return {
        onGone: () => peer.onGone(),
        onBytes: (bytes) => {
          if (metaMethods.session.decodeRequest(bytes).body === 'openObject')
            reads.set(address, (reads.get(address) ?? 0) + 1)
          peer.onBytes(bytes)
        },
      }
    }
  }

  /** A node that answers everything with `answer`. */
  function refuse(address: string, answer: StoreError | 'hang'): void {
    const node = new FakeMeta(address, [], metaMethods.session)
    node.before = (request) => (request.body === undefined ? undefined : answer)
    cluster.net.listeners.set(address, counted(address, node.listen))
  }

  beforeEach(async () => {
    cluster = await createFakeCluster(3)
    reads = new Map()
    for (const address of addresses) cluster.net.listeners.set(address, counted(address, cluster.meta.listen))
    store = createClient(cluster.env, { meta: addresses, retryMs: 5000, reads: 'any' })
    await store.put('photos', 'cat', 'miau')
  })

  afterEach(() => store.close())

  async function readMany(times: number): Promise<void> {
    for (let i = 0; i < times; i++) expect(await (await store.get('photos', 'cat')).text()).to.equal('miau')
  }

  it('are spread over all of them', async () => {
    await readMany(60)
    for (const address of addresses) expect(reads.get(address) ?? 0, address).to.be.above(5)
  })

  it('go to the leader when a node does not know one or is silent, and leave that node alone for a while', async () => {
    refuse('m2:7400', new StoreError('NOT_LEADER', 'no leader is known'))
    refuse('m3:7400', 'hang')
    cluster.net.listeners.get('m2:7400')
    await readMany(40)
    expect(reads.get('m2:7400') ?? 0).to.be.below(10)
    expect(reads.get('m3:7400') ?? 0).to.be.below(10)
    expect(reads.get('meta:7400') ?? 0).to.be.at.least(40)
  })

  it('go on when a node is gone', async () => {
    cluster.net.listeners.delete('m2:7400')
    await readMany(20)
  })

  it('say what the node says when it is not about the node', async () => {
    for (let i = 0; i < 10; i++) {
      const error: unknown = await store.stat('photos', 'none').catch((reason: unknown) => reason)
      expect(isStoreError(error) && error.code).to.equal('NOT_FOUND')
    }
  })

  it('never mix clusters', async () => {
    const other = new FakeMeta('m2:7400', cluster.storage, metaMethods.session)
    other.clusterId = 'c2'
    await store.close()
    cluster.net.listeners.set('m2:7400', counted('m2:7400', other.listen))
    store = createClient(cluster.env, { meta: addresses, reads: 'any' })
    const error: unknown = await store.get('photos', 'cat').catch((reason: unknown) => reason)
    expect(isStoreError(error) && error.code).to.equal('WRONG_CLUSTER')
  })

  it('are the leader’s by default, and no other word is taken', async () => {
    const plain = createClient(cluster.env, { meta: addresses })
    reads.clear()
    await plain.get('photos', 'cat')
    await plain.get('photos', 'cat')
    await plain.close()
    expect([...reads.values()]).to.deep.equal([2])
    expect(() => createClient(cluster.env, { meta: addresses, reads: 'some' as 'any' })).to.throw('use leader or any')
  })
})
