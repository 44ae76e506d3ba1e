/** Calls of cluster version 2: sessions, quotas, members, versions, deletes, reads of followers, and a full metadata disk. */

import { expect } from 'chai'
import { leaseSpan } from '../../../src/model/ids.ts'
import { metaMethods as meta } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { id, MetaKit } from './kit.ts'

type Request = holdfast.v1.MetaRequest.$Properties

describe('meta service, version 2', () => {
  let kit: MetaKit
  let lease: number

  const putOf = (key: string, more = {}) => ({
    put: { bucket: 'photos', key, size: 0, etag: '0123456789abcdef', copies: 3, write: 'quorum', ...more },
  })
  const commit = (commitId: string, ...operations: object[]) => ({ commitId, lease, operations }) as never
  /** Answers of one session stream, by the numbers of the calls. */
  const ask = async (...requests: Request[]): Promise<holdfast.v1.MetaReply[]> => {
    const session = kit.session()
    for (const [call, request] of requests.entries()) {
      session.request({ call: call + 1, ...request })
      await session.until(call + 1)
    }
    return session.replies
  }
  const ticket = (sequence: number, lowest = 1) => ({ session: id(7), sequence, lowest })

  beforeEach(async () => {
    kit = await MetaKit.open(2)
    lease = (await kit.call(meta.grantLease, { ttlMs: 60_000 })).id
  })

  describe('after a recovery', () => {
    for (const version of [1, 2]) {
      it(`grant nothing before the state was told, at cluster version ${version}`, async () => {
        const recovered = await MetaKit.open(version)
        const before = (await recovered.call(meta.grantLease, { ttlMs: 60_000 })).id
        recovered.incarnation = 2
        const { index } = recovered.log
        const refusal = await recovered.refused(meta.grantLease, { ttlMs: 60_000 })
        expect([refusal.code, refusal.outcome]).to.deep.equal(['UNAVAILABLE', 'definite'])
        expect((await recovered.refused(meta.createBucket, { name: 'one', commitId: id(1) })).code).to.equal(
          'UNAVAILABLE',
        )
        expect(recovered.log.index).to.equal(index)
        await recovered.log.command({ kind: 'recovered', incarnation: 2 })
        const after = (await recovered.call(meta.grantLease, { ttlMs: 60_000 })).id
        // What the lost members granted lies in between.
        expect(after).to.equal(before + leaseSpan + 1024 * leaseSpan)
        expect(await recovered.call(meta.deletesStatus, {})).to.include({ held: true, incarnation: 2 })
        expect(await recovered.call(meta.resumeDeletes, {})).to.include({ held: false })
      })
    }
  })

  describe('client sessions', () => {
    it('are opened, kept and closed', async () => {
      expect(await kit.call(meta.openSession, { session: id(7) })).to.include({ ttlMs: 900_000, callsMax: 256 })
      await kit.call(meta.keepSession, { session: id(7) })
      await kit.call(meta.closeSession, { session: id(7) })
      await kit.call(meta.closeSession, { session: id(7) })
      const gone = await kit.refused(meta.keepSession, { session: id(7) })
      expect([gone.code, gone.outcome]).to.deep.equal(['SESSION_EXPIRED', 'unknown'])
      expect((await kit.refused(meta.openSession, { session: 'x' })).code).to.equal('INVALID_ARGUMENT')
    })

    it('carry every call that changes something out once', async () => {
      await kit.call(meta.openSession, { session: id(7) })
      const calls: Request[] = [
        { createBucket: { name: 'one', commitId: id(1) } },
        { grantLease: { ttlMs: 5_000 } },
        { renewLease: { id: lease, ttlMs: 5_000 } },
        { commit: commit(id(2), putOf('k')) },
        { setQuota: { bucket: 'one', bytesMax: 5, objectsMax: 5 } },
        { unpinChunk: { id: 5 } },
        { deleteBucket: { name: 'none-such' } },
        { releaseLease: { id: lease } },
        { deleteBucket: { name: 'one' } },
        { resumeDeletes: {} },
      ]
      const numbered = calls.map((request, i) => ({ ...request, ...ticket(i + 1) }))
      const first = await ask(...numbered)
      const again = await ask(...numbered)
      expect(again).to.deep.equal(first)
      expect(first.map((reply) => reply.error?.code ?? 'ok')).to.deep.equal([
        ...Array.from({ length: 5 }, () => 'ok'),
        'NOT_FOUND',
        'NOT_FOUND',
        ...Array.from({ length: 3 }, () => 'ok'),
      ])
      const [forgotten] = await ask({ createBucket: { name: 'two', commitId: id(1) }, ...ticket(20, 20) }).then(() =>
        ask({ grantLease: { ttlMs: 5_000 }, ...ticket(2) }),
      )
      expect([forgotten?.error?.code, forgotten?.error?.definite]).to.deep.equal(['SESSION_EXPIRED', false])
    })

    it('give no call a session that only reads', async () => {
      const before = kit.log.index
      const replies = await ask(
        { listBuckets: {}, ...ticket(1) },
        { openObject: { bucket: 'photos', key: 'x' }, ...ticket(2) },
        { status: {}, ...ticket(3) },
      )
      expect(replies.map((reply) => reply.error?.code ?? 'ok')).to.deep.equal(['ok', 'NOT_FOUND', 'ok'])
      expect(kit.log.index).to.equal(before)
    })

    it('refuse bad tickets before they become entries', async () => {
      const before = kit.log.index
      const [bad, wide] = await ask(
        { grantLease: { ttlMs: 1 }, session: 'abc', sequence: 1, lowest: 1 },
        { grantLease: { ttlMs: 1 }, session: id(7), sequence: 2 ** 60, lowest: 1 },
      )
      expect([bad?.error?.code, wide?.error?.code]).to.deep.equal(['INVALID_ARGUMENT', 'INVALID_ARGUMENT'])
      expect(kit.log.index).to.equal(before)
    })
  })

  it('bounds buckets and the cluster, and says what counts', async () => {
    await kit.call(meta.setQuota, { bucket: '', bytesMax: 0, objectsMax: 2 })
    await kit.call(meta.setQuota, { bucket: 'photos', bytesMax: 1_000, objectsMax: 0 })
    await kit.call(meta.createBucket, { name: 'animals', commitId: id(3) })
    await kit.call(meta.commit, commit(id(4), putOf('a'), putOf('b')))
    const over = await kit.refused(meta.commit, commit(id(5), putOf('c')))
    expect([over.code, over.outcome, over.retryable]).to.deep.equal(['QUOTA_EXCEEDED', 'definite', false])
    const { quotas } = await kit.call(meta.listQuotas, {})
    expect(quotas.map((quota) => [quota.bucket, quota.bytesMax, quota.objectsMax, quota.objects])).to.deep.equal([
      ['', 0, 2, 2],
      ['photos', 1_000, 0, 2],
    ])
    const unknown = await kit.refused(meta.setQuota, { bucket: 'fotos', bytesMax: 1, objectsMax: 1 })
    expect([unknown.code, unknown.details.suggestion]).to.deep.equal(['NOT_FOUND', 'photos'])
  })

  describe('versions', () => {
    beforeEach(async () => {
      kit = await MetaKit.open(1)
    })

    it('gate every call that needs the newer one', async () => {
      for (const error of [
        await kit.refused(meta.openSession, { session: id(7) }),
        await kit.refused(meta.setQuota, { bucket: '', bytesMax: 1, objectsMax: 1 }),
        await kit.refused(meta.resumeDeletes, {}),
      ]) {
        expect([error.code, error.outcome]).to.deep.equal(['INCOMPATIBLE_VERSION', 'definite'])
        expect(error.message).to.contain('holdfast upgrade')
      }
      const [wrapped] = await ask({ grantLease: { ttlMs: 1 }, ...ticket(1) })
      expect(wrapped?.error?.code).to.equal('INCOMPATIBLE_VERSION')
    })

    it('are raised when every node supports them, and name those that do not', async () => {
      kit.peerVersions.m2 = 1
      kit.peerVersions.m3 = 0
      kit.control.versions.push({ id: 'n2', versionMax: 0 })
      const status = await kit.call(meta.versionStatus, {})
      expect(status).to.include({ version: 1, possible: 0 })
      expect(status.nodes.map(({ id: node, kind, versionMax }) => `${kind} ${node} ${versionMax}`)).to.deep.equal([
        'meta m1 2',
        'meta m2 1',
        'meta m3 0',
        'storage n1 2',
        'storage n2 0',
      ])
      const refused = await kit.refused(meta.raiseVersion, { version: 0 })
      expect(refused.code).to.equal('CONDITION_FAILED')
      expect(refused.message).to.contain('meta m2 supports 1, meta m3 was not heard of, storage n2 was not heard of')
      expect((await kit.refused(meta.raiseVersion, { version: 3 })).code).to.equal('INVALID_ARGUMENT')
      kit.peerVersions.m2 = 2
      kit.peerVersions.m3 = 2
      kit.control.versions.pop()
      expect((await kit.call(meta.status, {})).codes.map(({ code }) => code)).to.deep.equal(['VERSION_BEHIND'])
      expect((await kit.call(meta.status, {})).verdict).to.equal('healthy')
      expect(await kit.call(meta.raiseVersion, { version: 0 })).to.include({ version: 2, possible: 2 })
      expect(await kit.call(meta.raiseVersion, { version: 1 })).to.include({ version: 2 })
      await kit.call(meta.openSession, { session: id(7) })
    })
  })

  describe('members', () => {
    it('are added, removed and handed leadership by the replicator', async () => {
      const added = await kit.call(meta.addMetaMember, { id: 'm4', address: 'm4:7400' })
      expect([added.catchingUp, added.members.map((member) => member.id)]).to.deep.equal([false, ['m1', 'm2', 'm3']])
      await kit.call(meta.removeMetaMember, { id: 'm3', force: true })
      expect((await kit.call(meta.transferLeadership, { to: 'm2' })).leader).to.equal('m2')
      expect((await kit.call(meta.transferLeadership, {})).leader).to.equal('m2')
      expect(kit.changes).to.deep.equal(['add m4 m4:7400', 'remove m3', 'transfer m2', 'transfer '])
    })

    it('answer before the caller gives up on one that catches up', async () => {
      kit.hold = new Promise(() => undefined)
      const adding = kit.call(meta.addMetaMember, { id: 'm4', address: 'm4:7400' })
      await new Promise<void>((resolve) => setImmediate(resolve))
      kit.clock.advance(40_000)
      expect((await adding).catchingUp).to.equal(true)
    })

    it('are not removed by mistake', async () => {
      expect((await kit.refused(meta.removeMetaMember, { id: 'm9', force: true })).code).to.equal('NOT_FOUND')
      expect((await kit.refused(meta.removeMetaMember, { id: 'm3' })).code).to.equal('CONDITION_FAILED')
      for (const address of ['m4', 'm4:99999', 'm4:0', 'not an address:1', '']) {
        expect((await kit.refused(meta.addMetaMember, { id: 'm4', address })).code).to.equal('INVALID_ARGUMENT')
      }
      expect((await kit.refused(meta.addMetaMember, { id: 'M 4', address: 'a:1' })).code).to.equal('INVALID_ARGUMENT')
      expect(kit.changes).to.deep.equal([])
    })
  })

  it('directs the scrub by what is known to be a direction only', async () => {
    expect(await kit.call(meta.scrubStatus, {})).to.include({ found: 3 })
    expect(await kit.call(meta.directScrub, { action: 'start', node: 's1' })).to.include({ disks: 1 })
    expect((await kit.refused(meta.directScrub, { action: 'stop' })).code).to.equal('INVALID_ARGUMENT')
    expect((await kit.refused(meta.directScrub, { action: 'start', node: 'S 1' })).code).to.equal('INVALID_ARGUMENT')
    expect(kit.control.directed).to.deep.equal(['start s1'])
  })

  it('holds deletes after a recovery until they are resumed', async () => {
    expect(await kit.call(meta.deletesStatus, {})).to.include({ held: false, incarnation: 1, unknownReplicas: 0 })
    kit.incarnation = 2
    expect(await kit.call(meta.deletesStatus, {})).to.include({ held: true, incarnation: 2 })
    await kit.log.command({ kind: 'recovered', incarnation: 2 })
    kit.control.held = 12
    expect(await kit.call(meta.deletesStatus, {})).to.include({ held: true, incarnation: 2, unknownReplicas: 12 })
    expect((await kit.call(meta.status, {})).codes.map(({ code }) => code)).to.deep.equal(['DELETES_HELD'])
    kit.control.held = 0
    expect(await kit.call(meta.resumeDeletes, {})).to.include({ held: false })
  })

  describe('on a node that does not lead', () => {
    beforeEach(async () => {
      await kit.call(meta.commit, commit(id(4), putOf('a'), putOf('b')))
      const chunk = {
        id: lease,
        length: 10,
        root: new Uint8Array(8),
        replicas: [1, 2].map((disk) => ({ disk, generation: 1 })),
      }
      await kit.call(meta.commit, commit(id(5), putOf('c', { size: 10, chunks: [{ ...chunk, copying: [] }] })))
      kit.role = 'follower'
      kit.follows = true
    })

    it('answers reads behind a barrier, with what the records say of disks', async () => {
      const before = kit.barriers
      const { object, first, manifest } = await kit.call(meta.openObject, {
        bucket: 'photos',
        key: 'c',
        withChunks: true,
      })
      expect(object.size).to.equal(10)
      expect(first.chunks[0]?.replicas.map(({ disk, state }) => `${disk}:${state}`)).to.deep.equal([
        '1:current',
        '2:current',
      ])
      expect(first.disks.map(({ node, health, generation }) => `${node} ${health} ${generation}`)).to.deep.equal([
        'n1 up 1',
        'n2 up 1',
      ])
      expect((await kit.call(meta.listObjects, { bucket: 'photos' })).entries.length).to.equal(3)
      expect((await kit.call(meta.listBuckets, {})).buckets.length).to.equal(1)
      expect((await kit.call(meta.statChunk, { id: lease })).copies).to.equal(3)
      expect(kit.barriers).to.equal(before + 4)
      expect((await kit.call(meta.manifestPage, { manifest, page: 0 })).chunks.length).to.equal(1)
      // It knows the manifest while it is staged only, as it was at the upload: the rest is on its way.
      const commitId = id(900)
      const staged = { commitId, lease, copies: 3, write: 'quorum' as const }
      const acked = (at: number) => ({
        id: lease + at,
        length: 10,
        root: new Uint8Array(8),
        replicas: [
          { disk: 1, generation: 1 },
          { disk: 2, generation: 1 },
        ],
      })
      kit.role = 'leader'
      await kit.call(meta.stagePage, {
        ...staged,
        page: 0,
        chunks: Array.from({ length: 512 }, (_, i) => acked(5_000 + i)),
      })
      kit.role = 'follower'
      kit.catchUp = async () => {
        kit.catchUp = undefined
        kit.role = 'leader'
        await kit.call(meta.stagePage, { ...staged, page: 1, chunks: [acked(6_000)] })
        kit.role = 'follower'
      }
      const late = await kit.call(meta.manifestPage, { manifest: commitId, page: 1 })
      expect(late.chunks.map((chunk) => chunk.id)).to.deep.equal([lease + 6_000])
      await kit.log.command({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
      const again = await kit.call(meta.openObject, { bucket: 'photos', key: 'c', withChunks: true })
      expect(again.first.chunks[0]?.replicas.map(({ disk, state }) => `${disk}:${state}`)).to.deep.equal([
        '2:current',
        '1:lost',
      ])
    })

    it('refuses reads that no barrier was passed for, and everything that changes something', async () => {
      kit.follows = false
      for (const error of [
        await kit.refused(meta.openObject, { bucket: 'photos', key: 'c', withChunks: true }),
        await kit.refused(meta.listObjects, { bucket: 'photos' }),
        await kit.refused(meta.statChunk, { id: lease }),
        await kit.refused(meta.commit, commit(id(9), putOf('z'))),
        await kit.refused(meta.openSession, { session: id(7) }),
        await kit.refused(meta.listQuotas, {}),
        await kit.refused(meta.raiseVersion, { version: 0 }),
        await kit.refused(meta.deletesStatus, {}),
        await kit.refused(meta.addMetaMember, { id: 'm4', address: 'm4:1' }),
        await kit.refused(meta.removeMetaMember, { id: 'm3', force: true }),
        await kit.refused(meta.transferLeadership, {}),
      ]) {
        expect([error.code, error.details.leader]).to.deep.equal(['NOT_LEADER', ['m1:7400']])
      }
    })
  })

  it('refuses growth while the disk of the metadata is almost full, and lets everything else go on', async () => {
    await kit.call(meta.commit, commit(id(4), putOf('a')))
    kit.lowSpace = true
    for (const error of [
      await kit.refused(meta.commit, commit(id(5), putOf('b'))),
      await kit.refused(
        meta.commit,
        commit(id(5), { copy: { fromBucket: 'photos', fromKey: 'a', bucket: 'photos', key: 'b' } }),
      ),
      await kit.refused(meta.createBucket, { name: 'another', commitId: id(6) }),
      await kit.refused(meta.grantLease, { ttlMs: 1 }),
    ]) {
      expect([error.code, error.outcome]).to.deep.equal(['NO_SPACE', 'definite'])
    }
    await kit.call(meta.setQuota, { bucket: 'photos', bytesMax: 1, objectsMax: 1 })
    await kit.call(meta.renewLease, { id: lease, ttlMs: 5_000 })
    const low = await kit.call(meta.status, {})
    expect([low.verdict, low.codes.map(({ code }) => code)]).to.deep.equal(['degraded', ['META_LOW_SPACE']])
    expect(low.meta.every((node) => node.lowSpace)).to.equal(true)
    await kit.call(meta.commit, commit(id(7), { delete: { bucket: 'photos', key: 'a' } }))
    await kit.call(meta.deleteBucket, { name: 'photos' })
    kit.lowSpace = false
    await kit.call(meta.createBucket, { name: 'another', commitId: id(6) })
  })
})
