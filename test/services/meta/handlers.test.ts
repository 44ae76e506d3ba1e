/** The Meta service over the real state machine: names, conditions, lists, leases, errors, the session. */

import { expect } from 'chai'
import { limits } from '../../../src/model/limits.ts'
import { metaMethods as meta } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { id, MetaKit } from './kit.ts'

const root = new Uint8Array(8).fill(7)

describe('meta service', () => {
  let kit: MetaKit
  let lease: number
  let draws: number

  const chunk = (number: number, disks = [1, 2, 3], copying: number[] = []) => ({
    id: number,
    length: 10,
    root,
    replicas: disks.map((disk) => ({ disk, generation: 1 })),
    copying,
  })
  const put = (key: string, chunks: holdfast.v1.ChunkRef.$Properties[] = [], more = {}) => ({
    put: {
      bucket: 'photos',
      key,
      size: chunks.length * 10,
      etag: '0123456789abcdef',
      chunks,
      copies: 3,
      write: 'quorum',
      ...more,
    },
  })
  const commit = (...operations: object[]) =>
    kit.call(meta.commit, { commitId: id(1000 + draws++), lease, operations } as never)
  const commitRefused = (...operations: object[]) =>
    kit.refused(meta.commit, { commitId: id(1000 + draws++), lease, operations } as never)
  const open = (key: string, withChunks = true) => kit.call(meta.openObject, { bucket: 'photos', key, withChunks })
  const list = (more: holdfast.v1.ListObjectsRequest.$Properties) =>
    kit.call(meta.listObjects, { bucket: 'photos', ...more })
  const names = (reply: holdfast.v1.ListObjectsReply) => reply.entries.map((entry) => entry.key)

  beforeEach(async () => {
    kit = await MetaKit.open()
    lease = (await kit.call(meta.grantLease, { ttlMs: 60_000 })).id
    draws = 0
  })

  it('offers every method of the proto', () => {
    expect(kit.methods).to.deep.equal(
      Object.values(meta)
        .map((method) => method.path)
        .sort(),
    )
  })

  it('puts an object and opens it with its chunks and where they are', async () => {
    const more = { contentType: 'image/png', metadata: { b: '2', a: '1' } }
    const done = await commit(put('cat', [chunk(lease, [1, 2], [3]), chunk(lease + 1)], more))
    expect(done.durable).to.equal(2)
    expect(done.objects[0]).to.include({ bucket: 'photos', key: 'cat', size: 20, etag: '0123456789abcdef', chunks: 2 })
    const { object, pages, first } = await open('cat')
    expect(object).to.include({ bucket: 'photos', key: 'cat', size: 20, contentType: 'image/png' })
    expect(object.metadata).to.deep.equal({ a: '1', b: '2' })
    expect(pages).to.equal(1)
    expect(first.chunks.map((one) => one.id)).to.deep.equal([lease, lease + 1])
    expect(first.chunks[0]?.replicas.map((one) => one.state)).to.deep.equal(['current', 'current', 'copying'])
    expect(first.disks.map((one) => one.node)).to.deep.equal(['n1', 'n2', 'n3'])
  })

  it('answers only the record when chunks are not wanted', async () => {
    await commit(put('cat', [chunk(lease)]))
    expect((await open('cat', false)).first.chunks).to.deep.equal([])
  })

  it('names current copies first and calls no copy current that its disk does not have in force', async () => {
    await commit(put('cat', [chunk(lease, [1, 2, 3])]))
    kit.control.states.set(1, 'stale')
    kit.control.states.set(2, 'lost')
    const [only] = (await open('cat')).first.chunks
    expect(only?.replicas.map((one) => `${one.disk}:${one.state}`)).to.deep.equal(['3:current', '1:stale', '2:lost'])
  })

  it('opens an empty object', async () => {
    await commit(put('empty'))
    const { object, pages, first } = await open('empty')
    expect([object.size, pages, first.chunks.length]).to.deep.equal([0, 0, 0])
  })

  it('passes a barrier before every read of names', async () => {
    await commit(put('cat'))
    const before = kit.barriers
    await open('cat')
    await list({})
    await kit.call(meta.listBuckets, {})
    expect(kit.barriers).to.equal(before + 3)
  })

  it('suggests a close bucket name', async () => {
    for (const error of [
      await kit.refused(meta.openObject, { bucket: 'fotos', key: 'cat', withChunks: false }),
      await kit.refused(meta.openObject, { bucket: 'photo', key: 'cat', withChunks: false }),
      await kit.refused(meta.listObjects, { bucket: 'phottos' }),
      await kit.refused(meta.deleteBucket, { name: 'photoz' }),
      await commitRefused(put('cat', [], { bucket: 'phtos' })),
    ]) {
      expect([error.code, error.details.suggestion]).to.deep.equal(['NOT_FOUND', 'photos'])
      expect(error.message).to.contain('did you mean "photos"?')
    }
    const far = await kit.refused(meta.deleteBucket, { name: 'something-else' })
    expect([far.code, far.details.suggestion]).to.deep.equal(['NOT_FOUND', undefined])
  })

  it('refuses objects that are not there', async () => {
    expect((await kit.refused(meta.openObject, { bucket: 'photos', key: 'x', withChunks: true })).code).to.equal(
      'NOT_FOUND',
    )
    const gone = await commitRefused({ delete: { bucket: 'photos', key: 'x' } })
    expect([gone.code, gone.outcome]).to.deep.equal(['NOT_FOUND', 'definite'])
  })

  it('tells everyone but the leader where the leader is', async () => {
    kit.role = 'follower'
    kit.leaderAddresses = ['m2:7400', 'public:7400']
    for (const error of [
      await commitRefused(put('cat')),
      await kit.refused(meta.openObject, { bucket: 'photos', key: 'x', withChunks: true }),
      await kit.refused(meta.place, { chunks: 1, copies: 3, chunkBytes: 10 }),
      await kit.refused(meta.status, {}),
      await kit.refused(meta.manifestPage, { manifest: id(1), page: 0 }),
      await kit.refused(meta.reportReplica, { chunk: 1, disk: 1, code: 'CORRUPT' }),
    ]) {
      expect(error.code).to.equal('NOT_LEADER')
      expect(error.details.leader).to.deep.equal(['m2:7400', 'public:7400'])
    }
  })

  for (const [what, operations] of Object.entries({
    'no operation': [],
    'an empty operation': [{}],
    'a bad bucket name': [{ delete: { bucket: 'A', key: 'x' } }],
    'an empty key': [{ delete: { bucket: 'photos', key: '' } }],
    'a key with ..': [{ delete: { bucket: 'photos', key: 'a/../b' } }],
    'a key with NUL': [{ delete: { bucket: 'photos', key: 'a\0b' } }],
    'a key that is too long': [{ delete: { bucket: 'photos', key: 'é'.repeat(513) } }],
    'a bad etag': [{ put: { bucket: 'photos', key: 'x', etag: 'zz', copies: 3, write: 'all' } }],
    'no copies': [{ put: { bucket: 'photos', key: 'x', etag: '0123456789abcdef', write: 'all' } }],
    'too many copies': [{ put: { bucket: 'photos', key: 'x', etag: '0123456789abcdef', copies: 9, write: 'all' } }],
    'a bad concern': [{ put: { bucket: 'photos', key: 'x', etag: '0123456789abcdef', copies: 3, write: 'most' } }],
    'a short root': [put('x', [{ ...chunk(65536), root: new Uint8Array(7) }])],
    'a chunk id of 0': [put('x', [chunk(0)])],
    'an id beyond 2^53': [put('x', [chunk(2 ** 60)])],
    'a chunk that is too long': [put('x', [{ ...chunk(65536), length: limits.chunkBytesMax + 1 }])],
    'a disk number that is no number of a disk': [put('x', [chunk(65536, [2 ** 40])])],
    'too much metadata': [put('x', [], { metadata: { k: 'v'.repeat(9_000) } })],
    'a content type that is too long': [put('x', [], { contentType: 'v'.repeat(300) })],
    'too many operations': Array.from({ length: 129 }, (_, i) => put(`k${i}`)),
  } as Record<string, object[]>)) {
    it(`refuses a commit with ${what} before it becomes an entry`, async () => {
      const before = kit.log.index
      expect((await commitRefused(...operations)).code).to.equal('INVALID_ARGUMENT')
      expect(kit.log.index).to.equal(before)
    })
  }

  it('answers CONDITION_FAILED to the loser of an if-absent race', async () => {
    const condition = { condition: { ifAbsent: true } }
    const results = await Promise.allSettled([commit(put('k', [], condition)), commit(put('k', [], condition))])
    const lost = results.filter((result) => result.status === 'rejected').map((result) => result.reason.code)
    expect(lost).to.deep.equal(['CONDITION_FAILED'])
  })

  it('fences a commit whose acknowledgements are of an old generation', async () => {
    const stale = { ...chunk(lease), replicas: [1, 2, 3].map((disk) => ({ disk, generation: 0 })) }
    const error = await commitRefused(put('cat', [stale]))
    expect([error.code, error.outcome, error.retryable]).to.deep.equal(['FENCED', 'definite', true])
  })

  it('copies and deletes', async () => {
    await commit(put('cat', [chunk(lease)]))
    await commit({ copy: { fromBucket: 'photos', fromKey: 'cat', bucket: 'photos', key: 'dog' } })
    await commit({ delete: { bucket: 'photos', key: 'cat' } })
    const { object, first } = await open('dog')
    expect([object.size, first.chunks[0]?.id]).to.deep.equal([10, lease])
  })

  it('stages pages of a large object and serves them page by page', async () => {
    const commitId = id(500)
    const first = Array.from({ length: limits.pageChunksMax }, (_, i) => chunk(lease + i))
    const stage = { commitId, lease, copies: 3, write: 'quorum' }
    await kit.call(meta.stagePage, { ...stage, page: 0, chunks: first })
    await kit.call(meta.stagePage, { ...stage, page: 1, chunks: [chunk(lease + 5_000)] })
    const operation = put('big', [], { stagedPages: 2, size: (limits.pageChunksMax + 1) * 10 })
    await kit.call(meta.commit, { commitId, lease, operations: [operation] } as never)
    const opened = await open('big')
    expect([opened.pages, opened.first.chunks.length]).to.deep.equal([2, limits.pageChunksMax])
    const second = await kit.call(meta.manifestPage, { manifest: opened.manifest, page: 1 })
    expect(second.chunks.map((one) => one.id)).to.deep.equal([lease + 5_000])
    expect((await kit.refused(meta.manifestPage, { manifest: opened.manifest, page: 2 })).code).to.equal(
      'INVALID_ARGUMENT',
    )
  })

  it('answers CHANGED for a page of a manifest that is gone, and serves it until then', async () => {
    await commit(put('cat', [chunk(lease)]))
    const { manifest } = await open('cat')
    await commit({ delete: { bucket: 'photos', key: 'cat' } })
    expect((await kit.call(meta.manifestPage, { manifest, page: 0 })).chunks).to.have.length(1)
    const { barriers } = kit
    await kit.log.command({ kind: 'dropPage', manifest, page: 0 })
    expect((await kit.refused(meta.manifestPage, { manifest, page: 0 })).code).to.equal('CHANGED')
    expect(kit.barriers).to.equal(barriers + 1)
  })

  it('keeps leases: renews, releases, fences', async () => {
    expect(await kit.call(meta.grantLease, { ttlMs: 5 })).to.include({ count: 65_536, ttlMs: 1_000 })
    expect(await kit.call(meta.renewLease, { id: lease, ttlMs: 9e9 })).to.include({ id: lease, ttlMs: 600_000 })
    await kit.call(meta.releaseLease, { id: lease })
    await kit.call(meta.releaseLease, { id: lease })
    expect((await kit.refused(meta.renewLease, { id: lease, ttlMs: 1 })).code).to.equal('FENCED')
    expect((await kit.refused(meta.renewLease, { id: 0, ttlMs: 1 })).code).to.equal('INVALID_ARGUMENT')
  })

  it('pins, shows and unpins chunks', async () => {
    const request = { commitId: id(9), lease, chunks: [chunk(lease)], copies: 3, write: 'all' }
    expect((await kit.call(meta.commitChunks, request)).durable).to.equal(3)
    expect((await kit.call(meta.commitChunks, request)).durable).to.equal(3)
    const stat = await kit.call(meta.statChunk, { id: lease })
    expect(stat).to.include({ pinned: true, references: 0, copies: 3 })
    await kit.call(meta.unpinChunk, { id: lease })
    expect((await kit.refused(meta.statChunk, { id: lease })).code).to.equal('NOT_FOUND')
    expect((await kit.refused(meta.unpinChunk, { id: lease })).code).to.equal('NOT_FOUND')
  })

  it('lists buckets with their totals, and repeats their making', async () => {
    const make = { name: 'animals', commitId: id(3) }
    const made = await kit.call(meta.createBucket, make)
    expect(await kit.call(meta.createBucket, make)).to.deep.equal(made)
    expect((await kit.refused(meta.createBucket, { ...make, commitId: id(4) })).code).to.equal('ALREADY_EXISTS')
    expect((await kit.refused(meta.createBucket, { name: 'x', commitId: id(4) })).code).to.equal('INVALID_ARGUMENT')
    await commit(put('cat', [chunk(lease)]))
    const { buckets } = await kit.call(meta.listBuckets, {})
    expect(buckets.map(({ name, objects, bytes }) => [name, objects, bytes])).to.deep.equal([
      ['animals', 0, 0],
      ['photos', 1, 10],
    ])
    expect((await kit.refused(meta.deleteBucket, { name: 'photos' })).code).to.equal('CONDITION_FAILED')
    await kit.call(meta.deleteBucket, { name: 'animals' })
  })

  describe('lists', () => {
    const keys = ['a', 'b/1', 'b/2', 'b/c/3', 'c', 'c-d', 'd/x', '\ufeffbom', 'é', '😀']

    beforeEach(() => commit(...keys.map((key) => put(key))))

    it('every object in byte order of its key', async () => {
      const reply = await list({})
      expect(names(reply)).to.deep.equal(['a', 'b/1', 'b/2', 'b/c/3', 'c', 'c-d', 'd/x', 'é', '\ufeffbom', '😀'])
      expect([reply.next, reply.index]).to.deep.equal(['', kit.log.index])
    })

    it('what starts with a prefix', async () => {
      expect(names(await list({ prefix: 'b/' }))).to.deep.equal(['b/1', 'b/2', 'b/c/3'])
      expect(names(await list({ prefix: 'b/', after: 'a' }))).to.deep.equal(['b/1', 'b/2', 'b/c/3'])
      expect(names(await list({ prefix: 'b/', after: 'c' }))).to.deep.equal([])
      expect(names(await list({ prefix: 'nothing' }))).to.deep.equal([])
    })

    it('folds what shares a prefix up to the delimiter', async () => {
      const reply = await list({ delimiter: '/' })
      expect(reply.entries.map((entry) => [entry.key, entry.isPrefix])).to.deep.equal([
        ['a', false],
        ['b/', true],
        ['c', false],
        ['c-d', false],
        ['d/', true],
        ['é', false],
        ['\ufeffbom', false],
        ['😀', false],
      ])
      expect(names(await list({ prefix: 'b/', delimiter: '/' }))).to.deep.equal(['b/1', 'b/2', 'b/c/'])
    })

    for (const delimiter of ['', '/']) {
      it(`page by page the same as at once, with delimiter "${delimiter}"`, async () => {
        const whole = names(await list({ delimiter }))
        for (const limit of [1, 2, 3]) {
          const paged: string[] = []
          let after = ''
          do {
            const reply = await list({ delimiter, limit, after })
            expect(reply.entries.length).to.be.at.most(limit)
            paged.push(...names(reply))
            after = reply.next
          } while (after !== '')
          expect(paged).to.deep.equal(whole)
        }
      })
    }

    it('folds far more keys than it reads at once', async () => {
      for (let page = 0; page < 4; page++) {
        await commit(...Array.from({ length: 100 }, (_, i) => put(`deep/${page}/${i}`)))
      }
      expect(names(await list({ delimiter: '/', prefix: 'd' }))).to.deep.equal(['d/', 'deep/'])
      expect(names(await list({ delimiter: '/', prefix: 'deep/' }))).to.deep.equal([
        'deep/0/',
        'deep/1/',
        'deep/2/',
        'deep/3/',
      ])
      expect((await list({ prefix: 'deep/' })).entries).to.have.length(400)
    })

    it('refuses limits and fields out of bounds', async () => {
      for (const bad of [{ limit: 1001 }, { delimiter: '/'.repeat(9) }, { prefix: 'x'.repeat(1025) }]) {
        expect((await kit.refused(meta.listObjects, { bucket: 'photos', ...bad })).code).to.equal('INVALID_ARGUMENT')
      }
    })
  })

  it('answers placements from memory and checks what is asked', async () => {
    const reply = await kit.call(meta.place, { chunks: 2, copies: 3, chunkBytes: 10 })
    expect(reply.placements).to.have.length(2)
    for (const bad of [
      { chunks: 0, copies: 3, chunkBytes: 10 },
      { chunks: 257, copies: 3, chunkBytes: 10 },
      { chunks: 1, copies: 9, chunkBytes: 10 },
      { chunks: 1, copies: 3, chunkBytes: 0 },
      { chunks: 1, copies: 3, chunkBytes: 10, exclude: [0] },
    ]) {
      expect((await kit.refused(meta.place, bad)).code).to.equal('INVALID_ARGUMENT')
    }
  })

  it('passes reports of bad replicas on', async () => {
    await kit.call(meta.reportReplica, { chunk: 70_000, disk: 2, code: 'CORRUPT' })
    expect(kit.control.reported).to.have.length(1)
    expect((await kit.refused(meta.reportReplica, { chunk: 0, disk: 2, code: '' })).code).to.equal('INVALID_ARGUMENT')
  })

  it('says how the cluster is, verdict first', async () => {
    await commit(put('cat', [chunk(lease)]))
    const status = await kit.call(meta.status, {})
    expect(status).to.include({ verdict: 'healthy', objects: 1, bytes: 10, clusterId: id(0xc1), clusterVersion: 1 })
    expect(status.meta.map((one) => one.id)).to.deep.equal(['m1', 'm2', 'm3'])
  })

  it('says that a meta node is silent', async () => {
    const all = kit.status()
    kit.status = () => ({ ...all, peers: all.peers.map((peer) => ({ ...peer, reachable: peer.id !== 'm3' })) })
    const status = await kit.call(meta.status, {})
    expect([status.verdict, status.codes[0]?.code, status.codes[0]?.severity]).to.deep.equal([
      'degraded',
      'META_DOWN',
      'critical',
    ])
    expect(status.summary).to.contain('2 of 3 meta nodes')
  })

  describe('session', () => {
    it('answers pipelined calls under their names', async () => {
      const session = kit.session()
      session.request({ call: 1, body: 'listBuckets', listBuckets: {} })
      session.request({ call: 2, body: 'openObject', openObject: { bucket: 'photos', key: 'nothing' } })
      const replies = await session.until(2)
      const first = replies.find((reply) => reply.call === 1)
      const second = replies.find((reply) => reply.call === 2)
      expect(first?.listBuckets?.buckets.map((bucket) => bucket.name)).to.deep.equal(['photos'])
      expect(second?.error).to.include({ code: 'NOT_FOUND', definite: true })
    })

    it('says where the leader is', async () => {
      kit.role = 'follower'
      const session = kit.session()
      session.request({ call: 7, body: 'status', status: {} })
      const [reply] = await session.until(1)
      expect(reply?.error).to.deep.include({ code: 'NOT_LEADER', leader: ['m1:7400'] })
    })

    it('refuses a request without a call', async () => {
      const session = kit.session()
      session.request({ call: 3 })
      const [reply] = await session.until(1)
      expect([reply?.call, reply?.error?.code]).to.deep.equal([3, 'INVALID_ARGUMENT'])
    })

    it('names its cluster in every reply, refusals of a follower included', async () => {
      const session = kit.session()
      session.request({ call: 1, body: 'listBuckets', listBuckets: {} })
      session.request({ call: 2 })
      await session.until(2)
      kit.role = 'follower'
      session.request({ call: 3, body: 'status', status: {} })
      const replies = await session.until(3)
      expect(replies.map((reply) => reply.clusterId)).to.deep.equal([id(0xc1), id(0xc1), id(0xc1)])
    })

    it('ends after its last answer when the client has said all', async () => {
      let release = (): void => undefined
      kit.hold = new Promise((resolve) => {
        release = resolve
      })
      const session = kit.session()
      session.request({ call: 1, body: 'grantLease', grantLease: { ttlMs: 1 } })
      session.finish()
      expect(session.ended).to.equal(false)
      release()
      const [reply] = await session.until(1)
      await new Promise((resolve) => setImmediate(resolve))
      expect([reply?.grantLease?.ttlMs, session.ended]).to.deep.equal([1_000, true])
    })

    it('stops reading while the client does not take its replies', async () => {
      const session = kit.session()
      session.room = false
      session.request({ call: 1, body: 'listBuckets', listBuckets: {} })
      await session.until(1)
      expect(session.paused).to.equal(true)
      session.drain()
      expect(session.paused).to.equal(false)
    })

    it('answers OVERLOADED beyond its bound on calls in flight', async () => {
      let release = (): void => undefined
      kit.hold = new Promise((resolve) => {
        release = resolve
      })
      const session = kit.session()
      for (let call = 1; call <= 1_030; call++) session.request({ call, body: 'grantLease', grantLease: { ttlMs: 1 } })
      const refused = await session.until(6)
      expect(refused.map((reply) => reply.error?.code)).to.deep.equal(Array.from({ length: 6 }, () => 'OVERLOADED'))
      expect(refused[0]?.error?.retryAfterMs).to.be.greaterThan(0)
      release()
      expect((await session.until(1_030)).filter((reply) => reply.body === 'grantLease')).to.have.length(1_024)
    })
  })

  it('drains: refuses new calls and waits for those in flight', async () => {
    let release = (): void => undefined
    kit.hold = new Promise((resolve) => {
      release = resolve
    })
    const running = kit.call(meta.grantLease, { ttlMs: 1 })
    let drained = false
    const drain = kit.service.drain().then(() => {
      drained = true
    })
    expect((await kit.refused(meta.status, {})).code).to.equal('SHUTTING_DOWN')
    expect(drained).to.equal(false)
    release()
    await running
    await drain
    expect(drained).to.equal(true)
  })
})
