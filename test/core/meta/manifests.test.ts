/** Staged uploads, copies by reference, and the slow way out through the trash (docs/RULES.md, rule 11). */

import { expect } from 'chai'
import { keys } from '../../../src/core/meta/keys.ts'
import { trashRecord } from '../../../src/core/meta/records.ts'
import { anyCondition, id, World } from './world.ts'

describe('manifests', () => {
  let world: World
  let lease: number
  const upload = id(7)

  const page = (number: number, count: number, from = lease + number * 512, commitId = upload) =>
    ({
      kind: 'stagePage',
      commitId,
      lease,
      page: number,
      chunks: Array.from({ length: count }, (_, i) => world.acked(from + i, [1, 2])),
      copies: 3,
      concern: 'quorum',
    }) as const
  const finish = (pages: number, size: number) =>
    ({
      kind: 'commit',
      commitId: upload,
      lease,
      operations: [world.put('big', [], { stagedPages: pages, size })],
    }) as const
  const remove = (commitId: string) =>
    ({
      kind: 'commit',
      commitId,
      lease: 0,
      operations: [{ kind: 'delete', bucket: 'photos', key: 'big', condition: anyCondition }],
    }) as const

  beforeEach(() => {
    world = World.founded()
    lease = world.lease()
  })

  it('tracks staged chunks like any other before the commit', () => {
    world.ok(page(0, 3))
    expect(world.chunk(lease)).to.include({ references: 1 })
    expect(world.has(keys.diskChunk(1, lease))).to.equal(true)
    expect(world.has(keys.upload(lease, upload))).to.equal(true)
    expect(world.object('big')).to.equal(undefined)
  })

  it('flips one record at the commit', () => {
    world.ok(page(0, 512))
    world.ok(page(1, 2))
    const answer = world.ok(finish(2, 514 * 10))
    expect(answer).to.include({ durable: 2 })
    expect(world.object('big')).to.include({ chunks: 514, size: 5140, manifest: upload })
    expect(world.manifest(upload)).to.include({ state: 'committed', references: 1, pages: 2 })
    expect(world.leaseRecord(lease)?.uploads).to.equal(0)
    expect(world.count('u')).to.equal(0)
  })

  it('answers a page that is staged again, and refuses it with other chunks', () => {
    world.ok(page(0, 3))
    world.ok(page(0, 3))
    expect(world.chunk(lease).references).to.equal(1)
    world.refused(page(0, 2), 'CONFLICT')
    world.ok(finish(1, 30))
    world.ok(page(0, 3))
    expect(world.chunk(lease).references).to.equal(1)
  })

  it('refuses gaps, a page after a short one, and an empty page', () => {
    world.refused(page(1, 3), 'INVALID_ARGUMENT')
    world.ok(page(0, 3))
    world.refused(page(1, 3), 'INVALID_ARGUMENT')
    world.refused(page(1, 0), 'INVALID_ARGUMENT')
  })

  it('refuses a commit that does not fit what was staged', () => {
    world.ok(page(0, 3))
    world.refused(finish(2, 30), 'INVALID_ARGUMENT')
    world.refused(finish(1, 31), 'INVALID_ARGUMENT')
    world.refused({ ...finish(1, 30), lease: world.lease() }, 'INVALID_ARGUMENT')
  })

  it('refuses to commit an upload whose lease has expired', () => {
    world.ok(page(0, 3))
    world.ok({ kind: 'expireLease', id: lease })
    world.refused(finish(1, 30), 'FENCED')
  })

  it('are not needed by an object without chunks, since version 2', () => {
    const put = (key: string, commitId: string) =>
      ({ kind: 'commit', commitId, lease: 0, operations: [world.put(key, [])] }) as const
    const copy = {
      kind: 'copy',
      fromBucket: 'photos',
      fromKey: 'old',
      bucket: 'photos',
      key: 'both',
      condition: anyCondition,
    } as const
    const gone = (key: string) => ({ kind: 'delete', bucket: 'photos', key, condition: anyCondition }) as const
    world.ok(put('old', id(1)))
    expect(world.count('m')).to.equal(1)
    world.ok({ kind: 'raiseVersion', version: 2 })
    world.ok(put('new', id(2)))
    world.ok(put('new', id(3)))
    world.ok({
      kind: 'commit',
      commitId: id(4),
      lease: 0,
      operations: [copy, { ...copy, fromKey: 'new', key: 'same' }],
    })
    expect([world.count('m'), world.object('same')?.manifest]).to.deep.equal([1, '0'.repeat(32)])
    world.ok({ kind: 'commit', commitId: id(5), lease: 0, operations: ['old', 'new', 'both', 'same'].map(gone) })
    expect([world.count('m'), world.count('t'), world.bucket()?.objects]).to.deep.equal([0, 0, 0])
    // An id of zeros is a manifest's like any other where there are chunks.
    const operations = [world.put('zero', [world.acked(lease, [1, 2])])]
    world.ok({ kind: 'commit', commitId: id(0), lease, operations })
    world.ok({ kind: 'commit', commitId: id(6), lease: 0, operations: [gone('zero')] })
    expect(world.manifest(id(0))).to.include({ state: 'dropping' })
  })

  describe('of several leases', () => {
    const second = (number: number, from: number) => ({ ...page(number, 2, from), lease: from })

    it('are refused by a cluster of version 1', () => {
      world.ok(page(0, 512))
      world.refused(second(1, world.lease()), 'CONFLICT')
    })

    it('live by the lease of the latest page', () => {
      world = World.founded(4, 2)
      lease = world.lease()
      world.ok(page(0, 512))
      const next = world.lease()
      world.refused({ ...second(1, next), lease }, 'INVALID_ARGUMENT')
      world.ok(second(1, next))
      world.ok(second(1, next))
      expect([world.leaseRecord(lease)?.uploads, world.leaseRecord(next)?.uploads, world.count('u')]).to.deep.equal([
        0, 1, 1,
      ])
      world.ok({ kind: 'expireLease', id: lease })
      world.ok({ kind: 'forgetLease', id: lease })
      world.refused({ kind: 'abortUpload', manifest: upload }, 'CONDITION_FAILED')
      world.refused(finish(2, 5140), 'INVALID_ARGUMENT')
      world.ok({ ...finish(2, 5140), lease: next })
      expect(world.object('big')).to.include({ chunks: 514 })
      expect([world.leaseRecord(next)?.uploads, world.count('u')]).to.deep.equal([0, 0])
    })

    it('end with a lease that expired between two pages', () => {
      world = World.founded(4, 2)
      lease = world.lease()
      world.ok(page(0, 512))
      const next = world.lease()
      world.ok({ kind: 'expireLease', id: lease })
      world.refused(second(1, next), 'FENCED')
      world.ok({ kind: 'abortUpload', manifest: upload })
      world.refused(second(1, next), 'CONFLICT')
    })
  })

  it('gives up an upload only after its lease has expired', () => {
    world.ok(page(0, 3))
    world.refused({ kind: 'abortUpload', manifest: upload }, 'CONDITION_FAILED')
    world.ok({ kind: 'expireLease', id: lease })
    world.ok({ kind: 'abortUpload', manifest: upload })
    expect(world.manifest(upload)).to.include({ state: 'dropping' })
    world.refused(finish(1, 30), 'FENCED')
    world.ok({ kind: 'dropPage', manifest: upload, page: 0 })
    expect(world.chunk(lease)).to.include({ references: 0, garbageMs: world.nowMs })
  })

  it('drops a trashed manifest page by page, each once', () => {
    world.ok(page(0, 512))
    world.ok(page(1, 2))
    world.ok(finish(2, 5140))
    world.ok(remove(id(8)))
    const trashed = world.nowMs
    world.nowMs += 60_000
    world.ok({ kind: 'dropPage', manifest: upload, page: 1 })
    expect(world.chunk(lease + 512).references).to.equal(1)
    world.ok({ kind: 'dropPage', manifest: upload, page: 0 })
    world.ok({ kind: 'dropPage', manifest: upload, page: 0 })
    expect(world.get(keys.trash(trashed, upload), trashRecord)).to.deep.equal({ nextPage: 1 })
    expect([world.has(keys.page(upload, 0)), world.has(keys.page(upload, 1))]).to.deep.equal([false, true])
    world.ok({ kind: 'dropPage', manifest: upload, page: 1 })
    expect(world.manifest(upload)).to.equal(undefined)
    expect([world.count('t'), world.count('p')]).to.deep.equal([0, 0])
    expect(world.chunk(lease)).to.include({ references: 0, garbageMs: trashed })
    expect(world.has(keys.garbage(trashed, lease))).to.equal(true)
  })

  it('counts a chunk that two manifests share until both are gone', () => {
    world.ok(page(0, 2))
    world.ok(finish(1, 20))
    const operations = [world.put('small', [world.acked(lease, [1, 2])])]
    world.ok({ kind: 'commit', commitId: id(9), lease, operations })
    expect(world.chunk(lease).references).to.equal(2)
    world.ok(remove(id(8)))
    world.ok({ kind: 'dropPage', manifest: upload, page: 0 })
    expect(world.chunk(lease)).to.include({ references: 1, garbageMs: 0 })
    expect(world.chunk(lease + 1)).to.include({ references: 0 })
  })

  it('removes an empty manifest at once', () => {
    world.ok({ kind: 'commit', commitId: id(9), lease: 0, operations: [world.put('big', [])] })
    world.ok(remove(id(10)))
    expect([world.count('m'), world.count('t')]).to.deep.equal([0, 0])
  })
})
