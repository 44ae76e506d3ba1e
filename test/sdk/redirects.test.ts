/** Meta nodes that name each other as the leader: a client is not led round for ever, and what it asked happens once. */

import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { createClient } from '../../src/sdk/client.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { createFakeCluster, FakeMeta } from './fake-cluster.ts'

function notLeader(leader: string): StoreError {
  return new StoreError('NOT_LEADER', `ask ${leader}`, { details: { leader: [leader] } })
}

describe('redirects', () => {
  it('in a circle end with NO_QUORUM in time, after few calls (scenario 86)', async () => {
    const cluster = await createFakeCluster(1)
    const other = new FakeMeta('other:7400', [], metaMethods.session)
    cluster.net.listeners.set(other.address, other.listen)
    cluster.meta.before = () => notLeader('other:7400')
    other.before = () => notLeader('meta:7400')
    const store = createClient(cluster.env, { meta: ['meta:7400', 'other:7400'], retryMs: 3000 })
    const failure: unknown = await store.put('photos', 'cat', '').catch((error: unknown) => error)
    expect(isStoreError(failure) && failure.code, String(failure)).to.equal('NO_QUORUM')
    expect(isStoreError(failure) && failure.outcome).to.equal('definite')
    expect(cluster.meta.calls.length + other.calls.length).to.be.within(4, 100)
    expect(cluster.meta.objects.size).to.equal(0)
    await store.close()
  })

  it('and broken answers on the way to the leader carry a command out once (scenario 86)', async () => {
    const cluster = await createFakeCluster(1)
    const other = new FakeMeta('other:7400', [], metaMethods.session)
    cluster.net.listeners.set(other.address, other.listen)
    other.before = () => notLeader('meta:7400')
    let commits = 0
    cluster.meta.before = (request) => {
      if (request.commit === null || request.commit === undefined) return undefined
      commits++
      if (commits === 1) return 'break-after' // done, and the answer lost
      return commits <= 4 ? notLeader('other:7400') : undefined
    }
    const store = createClient(cluster.env, { meta: ['other:7400', 'meta:7400'], retryMs: 5000 })
    const put = await store.put('photos', 'cat', '', { ifAbsent: true })
    expect(commits).to.be.greaterThan(4)
    expect(put.version).to.equal(1)
    expect(cluster.meta.objects.size).to.equal(1)
    await store.close()
  })
})
