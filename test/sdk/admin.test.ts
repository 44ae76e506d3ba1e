/** What operators do from a program, against the fake leader. */

import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import type { FakeAdmin } from './fake-admin.ts'
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts'

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return isStoreError(error) ? error.code : 'done'
}

describe('admin', () => {
  let cluster: FakeCluster
  let fake: FakeAdmin
  let store: Store

  beforeEach(async () => {
    cluster = await createFakeCluster(3)
    fake = cluster.meta.admin
    store = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 5000 })
  })

  afterEach(() => store.close())

  const rolesOf = (members: readonly { id: string; role: string }[]): string[] =>
    members.map(({ id, role }) => `${id} ${role}`)

  it('lists, adds, removes meta nodes and hands leadership over', async () => {
    const { meta } = store.admin
    expect(rolesOf(await meta.ls())).to.deep.equal(['m1 leader', 'm2 follower', 'm3 follower'])
    const added = await meta.add('m4', '10.0.0.4:7400')
    expect(added.catchingUp).to.equal(false)
    expect(added.members.at(-1)).to.deep.include({ id: 'm4', address: '10.0.0.4:7400', role: 'follower' })
    expect(await meta.transfer('m3')).to.deep.equal({ leader: 'm3', tookMs: 12 })
    expect(rolesOf(await meta.remove('m1'))).to.deep.equal(['m2 follower', 'm3 leader', 'm4 follower'])
    expect(await codeOf(meta.remove('m2'))).to.equal('CONDITION_FAILED')
    expect(await meta.remove('m2', { force: true })).to.have.lengthOf(2)
    expect(await codeOf(meta.remove('m9', { force: true }))).to.equal('NOT_FOUND')
  })

  it('says when a node is still catching up, and waits on when asked again', async () => {
    fake.catchUps = 1
    const first = await store.admin.meta.add('m4', '10.0.0.4:7400')
    expect([first.catchingUp, first.members.at(-1)?.role]).to.deep.equal([true, 'learner'])
    expect((await store.admin.meta.add('m4', '10.0.0.4:7400')).catchingUp).to.equal(false)
  })

  it('waits for a node that catches up far longer than for other answers, until the caller gives up', async () => {
    cluster.meta.before = (request) => (request.addMetaMember ? 'hang' : undefined)
    expect(await codeOf(store.admin.meta.add('m4', '10.0.0.4:7400', { timeoutMs: 20_000 }))).to.equal('TIMEOUT')
    expect(cluster.meta.calls.filter((call) => call === 'addMetaMember')).to.have.lengthOf(1)
  })

  it('takes a removal whose answer was lost for done', async () => {
    let lost = false
    cluster.meta.before = (request) => {
      if (!request.removeMetaMember || lost) return undefined
      lost = true
      return 'break-after'
    }
    expect(rolesOf(await store.admin.meta.remove('m3', { force: true }))).to.deep.equal(['m1 leader', 'm2 follower'])
  })

  it('sets and lists quotas of the cluster and of buckets', async () => {
    const { quotas } = store.admin
    expect(await quotas.list()).to.deep.equal([{ bucket: null, bytesMax: 0, objectsMax: 0, bytes: 10, objects: 1 }])
    await quotas.set('photos', { bytesMax: 5000 })
    await quotas.set(null, { objectsMax: 7 })
    expect(await quotas.list()).to.deep.equal([
      { bucket: null, bytesMax: 0, objectsMax: 7, bytes: 10, objects: 1 },
      { bucket: 'photos', bytesMax: 5000, objectsMax: 0, bytes: 10, objects: 1 },
    ])
  })

  it('shows versions and raises them as far as every node supports', async () => {
    expect(await store.admin.version.status()).to.deep.include({ version: 1, possible: 2 })
    fake.versions = [...fake.versions, { id: 's2', kind: 'storage', versionMax: 1 }]
    expect(await codeOf(store.admin.version.raise(2))).to.equal('CONDITION_FAILED')
    fake.versions.pop()
    expect((await store.admin.version.raise()).version).to.equal(2)
  })

  it('shows held deletes and lets them go', async () => {
    Object.assign(fake, { held: true, incarnation: 2, unknownReplicas: 5 })
    const held = { held: true, incarnation: 2, unknownReplicas: 5 }
    expect(await store.admin.deletes.status()).to.deep.equal(held)
    expect(await store.admin.deletes.resume()).to.deep.equal({ ...held, held: false })
  })

  it('says of a cluster of version 1, and of a program that knows no more, that it has to be upgraded', async () => {
    const answers = [
      new StoreError('INCOMPATIBLE_VERSION', 'quotas need cluster version 2'),
      new StoreError('INVALID_ARGUMENT', 'a session request without a known call: use proto/holdfast/v1/meta.proto'),
    ]
    for (const answer of answers) {
      cluster.meta.before = (request) => (request.listQuotas ? answer : undefined)
      expect(await codeOf(store.admin.quotas.list())).to.equal('INCOMPATIBLE_VERSION')
    }
  })

  it('refuses what cannot be right before anything is sent', async () => {
    const { meta, quotas, version } = store.admin
    const wrong = [
      meta.add('M 4', '10.0.0.4:7400'),
      meta.add('m4', '10.0.0.4'),
      meta.add(4 as unknown as string, '10.0.0.4:7400'),
      meta.remove('../m1'),
      meta.transfer('M'),
      quotas.set('NO', { bytesMax: 1 }),
      quotas.set(undefined as unknown as null, { bytesMax: 1 }),
      quotas.set(null, { bytesMax: -1 }),
      quotas.set(null, { objectsMax: 1.5 }),
      version.raise(-1),
    ]
    for (const [at, work] of wrong.entries()) expect(await codeOf(work), String(at)).to.equal('INVALID_ARGUMENT')
    expect(cluster.meta.calls).to.deep.equal([])
  })
})
