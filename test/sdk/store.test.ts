/** The SDK against a cluster in memory: what a put promises, what a get refuses, and that both stay within bounds. */

import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { expect } from 'chai'
import { isStoreError, StoreError } from '../../src/model/errors.ts'
import { limits } from '../../src/model/limits.ts'
import { createClient } from '../../src/sdk/client.ts'
import type { Store } from '../../src/sdk/types.ts'
import { createFakeCluster, type FakeCluster } from './fake-cluster.ts'

const MiB = 1024 * 1024

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
    return 'done'
  } catch (error) {
    return isStoreError(error) ? error.code : String(error)
  }
}

describe('store over a fake cluster', () => {
  let cluster: FakeCluster
  let store: Store

  async function useCluster(next: FakeCluster): Promise<void> {
    await store?.close()
    cluster = next
    store = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 5000 })
  }

  beforeEach(async () => useCluster(await createFakeCluster(4)))

  afterEach(() => store.close())

  describe('put', () => {
    it('stores what get gives back, from every kind of body', async () => {
      await useCluster(await createFakeCluster(4, 1)) // much to move: no hurry
      const bytes = new Uint8Array(randomBytes(9 * MiB + 5))
      const bodies = {
        bytes,
        buffer: Buffer.from(bytes),
        readable: Readable.from([bytes.subarray(0, 70_000), bytes.subarray(70_000)]),
        web: new Blob([bytes]).stream(),
        blob: new Blob([bytes]),
        factory: () => [bytes.subarray(0, 5 * MiB), bytes.subarray(5 * MiB)],
      }
      for (const [name, body] of Object.entries(bodies)) {
        const result = await store.put('photos', name, body)
        expect(result.size, name).to.equal(bytes.length)
        expect(result.chunks, name).to.equal(3)
        expect(result.durable, name).to.equal(3)
        const read = await (await store.get('photos', name)).bytes()
        expect(Buffer.compare(read, bytes), name).to.equal(0)
      }
      const etags = new Set([...cluster.meta.objects.values()].map((object) => object.entry.etag))
      expect(etags.size, 'one etag for one content').to.equal(1)
    })

    it('stores text and empty objects', async () => {
      await store.put('photos', 'text', 'grüße')
      expect(await (await store.get('photos', 'text')).text()).to.equal('grüße')
      const empty = await store.put('photos', 'empty', new Uint8Array(0))
      expect(empty.chunks).to.equal(0)
      expect((await (await store.get('photos', 'empty')).bytes()).length).to.equal(0)
    })

    it('stages pages of 512 chunks for an object of more, and commits them once', async () => {
      const clusterOfOne = await createFakeCluster(1, 1)
      const small = createClient(clusterOfOne.env, { meta: ['meta:7400'], chunkBytes: limits.blockBytes })
      const result = await small.put('photos', 'large', new Uint8Array(513 * limits.blockBytes + 1), {
        replicas: 1,
        write: 'one',
      })
      expect(result.chunks).to.equal(514)
      const [commit] = clusterOfOne.meta.commitRequests
      expect(commit?.operations[0]?.put?.stagedPages).to.equal(2)
      expect(commit?.operations[0]?.put?.chunks).to.have.lengthOf(0)
      expect(clusterOfOne.meta.pages.get(commit?.commitId ?? '')?.map((page) => page.length)).to.deep.equal([512, 2])
      const range = [511 * limits.blockBytes, 513 * limits.blockBytes] as const
      expect((await (await small.get('photos', 'large', { range })).bytes()).length).to.equal(2 * limits.blockBytes + 1)
      await small.close()
    })

    it('replaces a target that fails, within the write, so that write all still holds', async () => {
      cluster.meta.preferred = [1, 2, 3, 4]
      const [first] = cluster.storage
      if (first === undefined) throw new Error('no node')
      first.onPut = () => new StoreError('DISK_FAILED', 'fsync failed')
      const result = await store.put('photos', 'cat', randomBytes(1000), { write: 'all' })
      expect(result.durable).to.equal(3)
      const chunk = cluster.meta.commitRequests[0]?.operations[0]?.put?.chunks[0]
      expect(chunk?.replicas.map((replica) => replica.disk).sort()).to.deep.equal([2, 3, 4])
      const replacement = cluster.meta.placeRequests.find((request) => request.have.length > 0)
      expect(replacement?.exclude).to.include(1)
    })

    it('fails write all definitely and shows nothing when no disk is left', async () => {
      for (const node of cluster.storage.slice(1)) node.onPut = () => new StoreError('NO_SPACE', 'full')
      let failure: unknown
      await store.put('photos', 'cat', randomBytes(1000), { write: 'all' }).catch((error: unknown) => {
        failure = error
      })
      expect(isStoreError(failure) && failure.code).to.equal('NO_PLACEMENT')
      expect(isStoreError(failure) && failure.outcome).to.equal('definite')
      expect(cluster.meta.commitRequests).to.have.lengthOf(0)
    })

    it('acknowledges quorum with a straggler, and names it as copying', async () => {
      cluster.meta.preferred = [1, 2, 3, 4]
      const [first] = cluster.storage
      if (first === undefined) throw new Error('no node')
      first.onPut = () => 'hang'
      const result = await store.put('photos', 'cat', randomBytes(1000))
      expect(result.durable).to.equal(2)
      const chunk = cluster.meta.commitRequests[0]?.operations[0]?.put?.chunks[0]
      expect(chunk?.copying).to.deep.equal([1])
      expect(chunk?.replicas).to.have.lengthOf(2)
    })

    it('keeps its bytes in flight within the bound, stragglers included', async () => {
      await useCluster(await createFakeCluster(4, 4)) // much to move: no hurry
      cluster.meta.preferred = [1, 2, 3, 4]
      const [first] = cluster.storage
      if (first === undefined) throw new Error('no node')
      first.onPut = () => 'hang'
      let given = 0
      let stored = 0
      let most = 0
      async function* body(): AsyncGenerator<Uint8Array> {
        for (let i = 0; i < 24; i++) {
          given += 4 * MiB
          most = Math.max(most, given - stored)
          yield new Uint8Array(4 * MiB)
        }
      }
      await store.put('photos', 'big', body(), {
        onProgress: (bytes) => {
          stored = bytes
        },
      })
      expect(most, 'bytes read and not yet stored').to.be.at.most(56 * MiB)
      expect(Math.max(...cluster.storage.map((node) => node.inFlightPeak))).to.be.at.most(48 * MiB)
    })

    it('gives everything up when it is aborted: nothing visible, the lease given back', async () => {
      for (const node of cluster.storage) node.onPut = () => 'hang'
      const controller = new AbortController()
      const putting = codeOf(store.put('photos', 'cat', randomBytes(5 * MiB), { signal: controller.signal }))
      while (cluster.storage.every((node) => node.inFlightPeak === 0))
        await new Promise((resolve) => setImmediate(resolve))
      controller.abort()
      expect(await putting).to.equal('CANCELLED')
      expect(cluster.meta.commitRequests).to.have.lengthOf(0)
      while (cluster.storage.every((node) => node.cancels === 0)) await new Promise((resolve) => setImmediate(resolve))
      await store.close()
      expect(cluster.meta.releasedLeases).to.deep.equal([65_536])
    })

    it('repeats a commit whose answer was lost with the same id, and does it once', async () => {
      let broken = false
      cluster.meta.before = (request) => {
        if (request.commit === null || request.commit === undefined || broken) return undefined
        broken = true
        return 'break-after'
      }
      const result = await store.put('photos', 'cat', 'meow')
      expect(result.version).to.equal(1)
      expect(cluster.meta.commitRequests.map((request) => request.commitId)).to.have.lengthOf(2)
      expect(new Set(cluster.meta.commitRequests.map((request) => request.commitId)).size).to.equal(1)
    })

    it('starts over with a new lease when a commit is fenced and the body can be read again', async () => {
      let refusals = 3
      cluster.meta.before = (request) => {
        if (request.commit === null || request.commit === undefined || refusals-- <= 0) return undefined
        return new StoreError('FENCED', 'the lease has expired')
      }
      const result = await store.put('photos', 'cat', 'meow')
      expect(result.size).to.equal(4)
      expect(cluster.meta.leases).to.equal(2)
    })

    it('refuses a body of another size than announced', async () => {
      expect(await codeOf(store.put('photos', 'cat', 'meow', { size: 5 }))).to.equal('INVALID_ARGUMENT')
      expect(cluster.meta.objects.size).to.equal(0)
    })

    it('passes on what the body throws and commits nothing', async () => {
      async function* body(): AsyncGenerator<Uint8Array> {
        yield new Uint8Array(10)
        throw new StoreError('IO', 'the file shrank')
      }
      expect(await codeOf(store.put('photos', 'cat', body()))).to.equal('IO')
      expect(cluster.meta.commitRequests).to.have.lengthOf(0)
    })

    it('checks names before anything is sent', async () => {
      expect(await codeOf(store.put('photos', 'a//b', 'x'))).to.equal('INVALID_ARGUMENT')
      expect(await codeOf(store.put('P', 'a', 'x'))).to.equal('INVALID_ARGUMENT')
      expect(cluster.meta.calls).to.have.lengthOf(0)
    })
  })

  describe('get', () => {
    const bytes = new Uint8Array(randomBytes(6 * MiB + 123))

    beforeEach(async () => {
      await store.put('photos', 'cat', bytes, { write: 'all' })
    })

    it('gives exactly the bytes of a range, both ends included', async () => {
      for (const [first, last] of [
        [0, 0],
        [65_535, 65_536],
        [4 * MiB - 1, 4 * MiB],
        [bytes.length - 1, bytes.length + 100],
        [100, 5 * MiB],
      ] as const) {
        const read = await (await store.get('photos', 'cat', { range: [first, last] })).bytes()
        expect(Buffer.compare(read, bytes.subarray(first, last + 1)), `${first}-${last}`).to.equal(0)
      }
      expect(await codeOf(store.get('photos', 'cat', { range: [bytes.length, bytes.length] }))).to.equal(
        'INVALID_ARGUMENT',
      )
    })

    it('goes on at the same offset from the next replica when bytes are wrong mid-stream, and reports the bad one', async () => {
      const bad = cluster.storage[0]
      if (bad === undefined) throw new Error('no node')
      for (const node of cluster.storage.slice(1)) node.onGetFrame = (_, __, frame) => frame
      bad.onGetFrame = (_, frame, part) => {
        if (frame === 3) part[1000] = (part[1000] ?? 0) ^ 1
        return part
      }
      // Whichever replica is chosen first, after enough reads the bad one was met.
      for (let i = 0; i < 20 && cluster.meta.reports.length === 0; i++) {
        const read = await (await store.get('photos', 'cat')).bytes()
        expect(Buffer.compare(read, bytes)).to.equal(0)
      }
      expect(cluster.meta.reports[0]).to.include({ disk: 1, code: 'CORRUPT' })
    })

    it('survives a node that breaks or goes silent in the middle', async () => {
      const [first, second] = cluster.storage
      if (first === undefined || second === undefined) throw new Error('no node')
      first.onGetFrame = (_, frame, part) => (frame === 2 ? 'break' : part)
      second.onGetFrame = (_, frame, part) => (frame === 4 ? 'hang' : part)
      for (let i = 0; i < 5; i++) {
        const read = await (await store.get('photos', 'cat')).bytes()
        expect(Buffer.compare(read, bytes)).to.equal(0)
      }
    })

    it('fails with DATA_LOST when every replica is bad, and never gives a wrong byte', async () => {
      for (const node of cluster.storage) {
        node.onGetFrame = (_, frame, part) => {
          if (frame === 1) part[0] = (part[0] ?? 0) ^ 1
          return part
        }
      }
      const object = await store.get('photos', 'cat')
      let at = 0
      let code = ''
      try {
        for await (const piece of object.stream()) {
          expect(Buffer.compare(piece, bytes.subarray(at, at + piece.length))).to.equal(0)
          at += piece.length
        }
      } catch (error) {
        code = isStoreError(error) ? error.code : String(error)
      }
      expect(code).to.equal('DATA_LOST')
    })

    it('fails with CHANGED when the version is gone', async () => {
      const object = await store.get('photos', 'cat')
      cluster.meta.objects.clear()
      for (const node of cluster.storage) node.chunks.clear()
      expect(await codeOf(object.bytes())).to.equal('CHANGED')
    })

    it('reads no further ahead than its bound while the reader is slow', async () => {
      await useCluster(await createFakeCluster(4, 1)) // much to move: no hurry
      const big = new Uint8Array(80 * MiB)
      await store.put('photos', 'big', big, { write: 'all' })
      for (const node of cluster.storage) node.gets = 0
      const stream = (await store.get('photos', 'big')).stream()
      await stream.next()
      for (let i = 0; i < 2000; i++) await new Promise((resolve) => setImmediate(resolve))
      expect(cluster.storage.reduce((sum, node) => sum + node.gets, 0)).to.be.at.most(6)
      await stream.return()
    })
  })

  describe('meta', () => {
    it('follows NOT_LEADER to the leader it names', async () => {
      cluster.net.listeners.set('follower:7400', (_path, control) => {
        const other = new (cluster.meta.constructor as typeof import('./fake-cluster.ts').FakeMeta)(
          'follower:7400',
          [],
          codec,
        )
        other.before = () => new StoreError('NOT_LEADER', 'ask the leader', { details: { leader: ['meta:7400'] } })
        return other.listen(_path, control)
      })
      const { metaMethods } = await import('../../src/wire/methods.ts')
      const codec = metaMethods.session
      const other = createClient(cluster.env, { meta: ['nobody:1', 'follower:7400'] })
      await other.put('photos', 'dog', 'wuff')
      expect(cluster.meta.objects.has('photos/dog')).to.equal(true)
      await other.close()
    })

    it('gives up with UNAVAILABLE when nobody answers, and with NO_QUORUM when nobody leads', async () => {
      const alone = createClient(cluster.env, { meta: ['nobody:1'], retryMs: 1000 })
      expect(await codeOf(alone.put('photos', 'dog', 'wuff'))).to.equal('UNAVAILABLE')
      await alone.close()
      cluster.meta.before = () => new StoreError('NOT_LEADER', 'no leader is known')
      expect(await codeOf(store.stat('photos', 'cat'))).to.equal('NO_QUORUM')
    })

    it('says whom it asked and what the last answer was when the time is over', async () => {
      const alone = createClient(cluster.env, { meta: ['nobody:1'] })
      const nobody: unknown = await alone.buckets.list({ timeoutMs: 300 }).catch((error: unknown) => error)
      await alone.close()
      expect(isStoreError(nobody) && nobody.code).to.equal('UNAVAILABLE')
      expect(String(nobody)).to.match(/no meta node answers at nobody:1 \(.+\)/)
      await store.stat('photos', 'cat').catch(() => undefined)
      cluster.meta.before = () => new StoreError('NOT_LEADER', 'no leader is known')
      const headless: unknown = await store.stat('photos', 'cat', { timeoutMs: 300 }).catch((error: unknown) => error)
      expect(isStoreError(headless) && headless.code, String(headless)).to.equal('NO_QUORUM')
      expect(String(headless)).to.match(/no meta node leads .*last: no leader is known/)
    })

    it("asks again elsewhere when a node goes silent, within the caller's time limit", async () => {
      cluster.meta.before = () => 'hang'
      expect(await codeOf(store.stat('photos', 'cat', { timeoutMs: 100 }))).to.equal('TIMEOUT')
    })

    it('deletes once: a delete whose answer was lost is not NOT_FOUND, with a session and without', async () => {
      for (const sessions of [true, false]) {
        const client = createClient(cluster.env, { meta: ['meta:7400'], retryMs: 5000, sessions })
        await client.put('photos', 'cat', 'meow')
        let broken = false
        cluster.meta.before = (request) => {
          if (request.commit === null || request.commit === undefined || broken) return undefined
          broken = true
          return 'break-after'
        }
        await client.delete('photos', 'cat')
        broken = false
        const error: unknown = await client.delete('photos', 'cat').catch((reason: unknown) => reason)
        // Without a session, the attempt that nobody answered may still be carried out.
        const expected = ['NOT_FOUND', sessions ? 'definite' : 'unknown']
        expect(isStoreError(error) && [error.code, error.outcome]).to.deep.equal(expected)
        await client.close()
      }
    })
  })
})
