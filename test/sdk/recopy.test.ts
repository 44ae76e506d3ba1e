/** Acknowledgements that are lost before the commit, with a body that cannot be read again. */

import { randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { isStoreError, type StoreError } from '../../src/model/errors.ts'
import { limits } from '../../src/model/limits.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster, type FakeStorage } from './fake-cluster.ts'

async function failureOf(work: Promise<unknown>): Promise<StoreError> {
  try {
    await work
  } catch (error) {
    if (isStoreError(error)) return error
    throw error
  }
  throw new Error('it did not fail')
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve))
}

describe('sdk: copies lost before the commit', () => {
  const chunkBytes = limits.blockBytes
  let cluster: FakeCluster
  let store: Store

  beforeEach(async () => {
    cluster = await createFakeCluster(4)
    cluster.meta.preferred = [1, 2, 3, 4]
    store = createClient(cluster.env, { meta: ['meta:7400'], chunkBytes, retryMs: 5000 })
  })

  afterEach(() => store.close())

  function first(): FakeStorage {
    const [node] = cluster.storage
    if (node === undefined) throw new Error('no node')
    return node
  }

  /** A stream of three chunks that calls `between` when the first two are stored on three disks. */
  async function* stream(bytes: Uint8Array, between: () => void): AsyncGenerator<Uint8Array> {
    yield bytes.subarray(0, 2 * chunkBytes)
    await until(() => cluster.storage.slice(0, 3).every((node) => node.chunks.size >= 2))
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
    between()
    yield bytes.subarray(2 * chunkBytes)
  }

  it("copies a stream's chunks to other disks when a node dies in mid-put, so that write all holds", async () => {
    const bytes = randomBytes(3 * chunkBytes)
    const body = stream(bytes, () => first().kill())
    const result = await store.put('photos', 'cat', body, { write: 'all' })
    expect(result.size).to.equal(bytes.length)
    const chunks = cluster.meta.commitRequests.at(-1)?.operations[0]?.put?.chunks ?? []
    expect(chunks).to.have.lengthOf(3)
    for (const { replicas } of chunks) {
      expect(replicas.map(({ disk }) => disk)).to.include.members([2, 3, 4])
    }
    const read = await (await store.get('photos', 'cat')).bytes()
    expect(Buffer.compare(read, bytes)).to.equal(0)
  })

  it('has a disk that came back as a new generation acknowledge again when there is no other', async () => {
    await store.close()
    cluster = await createFakeCluster(3)
    store = createClient(cluster.env, { meta: ['meta:7400'], chunkBytes, retryMs: 5000 })
    const body = stream(randomBytes(3 * chunkBytes), () => {
      first().generation = 2
    })
    await store.put('photos', 'cat', body, { write: 'all' })
    const chunks = cluster.meta.commitRequests.at(-1)?.operations[0]?.put?.chunks ?? []
    for (const { replicas } of chunks) {
      expect(replicas.find(({ disk }) => disk === 1)?.generation).to.equal(2)
      expect(replicas).to.have.lengthOf(3)
    }
  })

  it('refuses definitely, with what to do, when too few nodes are left', async () => {
    const body = stream(randomBytes(2 * chunkBytes), () => {
      for (const node of cluster.storage.slice(0, 2)) node.kill()
    })
    const failure = await failureOf(store.put('photos', 'cat', body, { write: 'all' }))
    expect(failure.code).to.equal('FENCED')
    expect(failure.outcome).to.equal('definite')
    expect(cluster.meta.objects.size).to.equal(0)
  })

  it('says definite of a body that throws and of an abort before the commit', async () => {
    async function* throwing(): AsyncGenerator<Uint8Array> {
      yield randomBytes(10)
      throw new Error('the disk of the caller broke')
    }
    const thrown = await failureOf(store.put('photos', 'cat', throwing()))
    expect(thrown.message).to.include('the disk of the caller broke')
    expect(thrown.outcome).to.equal('definite')
    const controller = new AbortController()
    const { signal } = controller
    const aborting = stream(randomBytes(3 * chunkBytes), () => controller.abort())
    const aborted = await failureOf(store.put('photos', 'cat', aborting, { signal }))
    expect(aborted.code).to.equal('CANCELLED')
    expect(aborted.outcome).to.equal('definite')
  })

  it('says unknown when the answer to a commit is lost until the time is over', async () => {
    cluster.meta.before = (request) => (request.commit ? 'hang' : undefined)
    const failure = await failureOf(store.put('photos', 'cat', randomBytes(10), { timeoutMs: 4000 }))
    expect(failure.outcome).to.equal('unknown')
  })

  it('names the nodes that did not answer a read within its time, and why', async () => {
    await store.put('photos', 'cat', randomBytes(10), { replicas: 2, write: 'all' })
    for (const node of cluster.storage) node.kill()
    const reading = (await store.get('photos', 'cat', { timeoutMs: 1500 })).bytes()
    const failure = await failureOf(reading)
    expect(failure.code).to.equal('UNAVAILABLE')
    expect(failure.message).to.match(/no node that holds a copy answers/)
    expect(failure.message).to.match(/s1.*: .*refused/)
    expect(failure.message).to.match(/s2.*: .*refused/)
  })
})
