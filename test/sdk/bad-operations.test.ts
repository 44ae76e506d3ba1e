/** What callers without a compiler hand in: refused as a whole, definite, and before anything is sent. */

import { expect } from 'chai'
import { isStoreError, type StoreError } from '../../src/model/errors.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { CommitOperation, ListEntry, ObjectEntry, Store } from '../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts'

async function failureOf(work: () => Promise<unknown>): Promise<StoreError> {
  try {
    await work()
  } catch (error) {
    if (isStoreError(error)) return error
    throw error
  }
  throw new Error('it was accepted')
}

/** Never called: it compiles or it does not. */
export async function entriesHaveTheirTypes(store: Store): Promise<number> {
  let bytes = 0
  for await (const entry of store.list('photos')) bytes += entry.size
  for await (const entry of store.list('photos', { prefix: 'a' })) {
    const object: ObjectEntry = entry
    bytes += object.size
  }
  for await (const entry of store.list('photos', { delimiter: '/' })) {
    const either: ListEntry = entry
    // @ts-expect-error a common prefix has no size
    bytes += entry.size
    if (!either.isPrefix) bytes += either.size
  }
  return bytes
}

describe('malformed calls', () => {
  let cluster: FakeCluster
  let store: Store

  beforeEach(async () => {
    cluster = await createFakeCluster(3)
    store = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 2000 })
  })

  afterEach(() => store.close())

  async function expectRefused(name: string, work: () => Promise<unknown>): Promise<void> {
    const { code, outcome } = await failureOf(work)
    expect({ code, outcome }, name).to.deep.equal({ code: 'INVALID_ARGUMENT', outcome: 'definite' })
    expect(cluster.meta.calls, name).to.deep.equal([])
  }

  const place = { bucket: 'photos', key: 'a' }
  const operations: readonly unknown[] = [
    undefined,
    null,
    'put',
    [],
    {},
    { putt: place },
    { put: undefined },
    { put: null },
    { put: 'photos/a' },
    { put: { key: 'a', body: 'x' } },
    { put: { bucket: 'photos', body: 'x' } },
    { put: { bucket: 7, key: 'a', body: 'x' } },
    { put: { bucket: 'photos', key: 7, body: 'x' } },
    { put: place },
    { put: { ...place, body: null } },
    { put: { ...place, body: 7 } },
    { put: { ...place, body: {} } },
    { put: { ...place, body: 'x', metadata: 'm' } },
    { put: { ...place, body: 'x', metadata: { m: 7 } } },
    { put: { ...place, body: 'x', contentType: 7 } },
    { put: { ...place, body: 'x', size: '7' } },
    { put: { ...place, body: 'x', ifMatch: {} } },
    { put: { ...place, body: 'x', onProgress: 7 } },
    { put: { ...place, body: 'x' }, delete: place },
    { delete: {} },
    { delete: { bucket: 'photos' } },
    { copy: place },
    { copy: { ...place, fromBucket: 'photos' } },
  ]

  it('refuses every malformed operation of a commit before anything is sent', async () => {
    for (const operation of operations) {
      const good: CommitOperation = { put: { ...place, body: 'x' } }
      const list = [good, operation] as CommitOperation[]
      await expectRefused(JSON.stringify(operation) ?? 'undefined', () => store.commit(list))
    }
    for (const list of [undefined, null, {}, 'put', []]) {
      await expectRefused(JSON.stringify(list) ?? 'undefined', () => store.commit(list as unknown as CommitOperation[]))
    }
  })

  it('refuses names that are no strings in every call', async () => {
    for (const bad of [undefined, null, 7, {}, ['photos']]) {
      const name = bad as unknown as string
      const calls: Record<string, () => Promise<unknown>> = {
        putBucket: () => store.put(name, 'a', 'x'),
        putKey: () => store.put('photos', name, 'x'),
        getBucket: () => store.get(name, 'a'),
        getKey: () => store.get('photos', name),
        stat: () => store.stat('photos', name),
        delete: () => store.delete('photos', name),
        copyFrom: () => store.copy({ bucket: 'photos', key: name }, place),
        copyTo: () => store.copy(place, bad as unknown as typeof place),
        list: () => store.list(name).next(),
        makeBucket: () => store.buckets.create(name),
        removeBucket: () => store.buckets.delete(name),
        chunkGet: () => store.chunks.get(name),
        chunkPut: () => store.chunks.put(bad as unknown as Uint8Array),
      }
      for (const [call, work] of Object.entries(calls)) await expectRefused(`${call} ${JSON.stringify(bad)}`, work)
    }
  })

  it('says how many copies are durable only of what was stored anew', async () => {
    expect((await store.put('photos', 'full', 'x')).durable).to.equal(3)
    expect(await store.put('photos', 'empty', '')).not.to.have.property('durable')
  })
})
