/** One client stays with one cluster, whatever its list of meta nodes says. */

import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { createFakeCluster, type FakeCluster, FakeMeta } from './fake-cluster.ts'

describe('a list of meta nodes', () => {
  let cluster: FakeCluster
  /** A leader of another cluster on the same network. */
  let other: FakeMeta
  let store: Store | undefined

  beforeEach(async () => {
    // The client's clock runs as the machine's: times here are real ones.
    cluster = await createFakeCluster(3, 1)
    other = new FakeMeta('other:7400', cluster.storage, metaMethods.session)
    other.clusterId = 'c2'
    cluster.net.listeners.set(other.address, other.listen)
  })

  afterEach(() => store?.close())

  function open(...meta: string[]): Store {
    store = createClient(cluster.env, { meta })
    return store
  }

  async function failure(work: Promise<unknown>): Promise<StoreError> {
    const error: unknown = await work.catch((reason: unknown) => reason)
    if (!isStoreError(error)) throw new Error('did not fail with a StoreError')
    return error
  }

  for (const order of [
    ['meta:7400', 'other:7400'],
    ['other:7400', 'meta:7400'],
  ]) {
    it(`of two clusters is refused before anything is sent: ${order.join(', ')}`, async () => {
      const mixed = open(...order)
      for (const error of [await failure(mixed.buckets.create('photos')), await failure(mixed.stat('photos', 'cat'))]) {
        expect([error.code, error.outcome]).to.deep.equal(['WRONG_CLUSTER', 'definite'])
        expect(error.message).to.match(
          /^meta node \w+:7400 belongs to cluster c\d, but \w+:7400 belongs to c\d: name nodes of one cluster$/,
        )
      }
      expect([...cluster.meta.calls, ...other.calls]).to.deep.equal(['', ''])
    })
  }

  it('works at once when a seed is dead, and asks each seed once', async () => {
    const startMs = performance.now()
    const partly = open('dead:7400', 'meta:7400')
    await partly.put('photos', 'cat', 'miau')
    await partly.put('photos', 'dog', 'wuff')
    expect(performance.now() - startMs).to.be.below(1000)
    expect(cluster.meta.calls.filter((call) => call === '')).to.have.length(1)
  })

  it('does not wait long for a silent seed', async () => {
    other.before = () => 'hang'
    const startMs = performance.now()
    await open('meta:7400', 'other:7400').put('photos', 'cat', 'miau')
    expect(performance.now() - startMs).to.be.below(1500)
  })

  it('refuses a call in progress when a seed that was silent turns out to be of another cluster', async () => {
    let held = true
    const release = new Promise<void>((resolve) => {
      cluster.meta.before = (request) => {
        if (request.body !== 'createBucket') return undefined
        resolve()
        return 'hang'
      }
    })
    const { listen } = other
    cluster.net.listeners.set(other.address, (path, control) => {
      const peer = listen(path, control)
      if (!held || peer === undefined) return peer
      held = false
      return { onGone: peer.onGone, onBytes: (bytes) => void release.then(() => peer.onBytes(bytes)) }
    })
    const error = await failure(open('meta:7400', 'other:7400').buckets.create('photos'))
    expect([error.code, error.outcome]).to.deep.equal(['WRONG_CLUSTER', 'unknown'])
  })

  it('of one node costs no question, and a leader of another cluster that it names is refused', async () => {
    cluster.meta.before = () => new StoreError('NOT_LEADER', 'ask them', { details: { leader: ['other:7400'] } })
    const error = await failure(open('meta:7400').buckets.list())
    expect(error.code).to.equal('WRONG_CLUSTER')
    expect([cluster.meta.calls, other.calls]).to.deep.equal([['listBuckets'], ['listBuckets']])
  })
})
