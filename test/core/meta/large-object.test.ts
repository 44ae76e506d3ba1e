/** An object of more chunks than a lease has ids: staged, committed, copied, deleted, in entries of bounded size. */

import { expect } from 'chai'
import { keyParts, keys } from '../../../src/core/meta/keys.ts'
import { manifestRecord, trashRecord } from '../../../src/core/meta/records.ts'
import { leaseSpan } from '../../../src/model/ids.ts'
import { limits } from '../../../src/model/limits.ts'
import { anyCondition, id, World } from './world.ts'

const pages = 130
const chunks = (pages - 1) * limits.pageChunksMax + 7
const chunkBytes: number = 8 * 1024 * 1024
/** docs/RULES.md, rule 11: "about 4,096 records" of one command. */
const recordsMax = 4_200

describe('a large object', () => {
  it('is staged from several leases, becomes visible by one record, and goes page by page', () => {
    const world = World.founded(4, 2)
    const upload = id(7)
    let lease = world.lease()
    let next = lease
    let most = 0
    const bounded = (body: Parameters<World['ok']>[0]) => {
      const reply = world.ok(body)
      most = Math.max(most, world.written)
      return reply
    }
    for (let page = 0; page < pages; page++) {
      const count = page === pages - 1 ? chunks % limits.pageChunksMax : limits.pageChunksMax
      if (next + count > lease + leaseSpan) {
        lease = world.lease()
        next = lease
      }
      // Most have one copy, for the sake of the test's time.
      const disks = page === 0 ? [1, 2, 3] : [1]
      const named = Array.from({ length: count }, (_, i) => ({ ...world.acked(next + i, disks), length: chunkBytes }))
      next += count
      const copies = disks.length
      bounded({ kind: 'stagePage', commitId: upload, lease, page, chunks: named, copies, concern: 'quorum' })
    }
    expect(chunks).to.be.greaterThan(leaseSpan)
    const size = chunks * chunkBytes
    const put = world.put('big', [], { stagedPages: pages, size })
    const done = bounded({ kind: 'commit', commitId: upload, lease, operations: [put] })
    expect(world.written).to.be.below(10)
    expect(done.kind === 'committed' && done.objects[0]).to.include({ size, chunks })
    expect([world.applied().chunks, world.applied().bytes]).to.deep.equal([chunks, size])
    const names = { fromBucket: 'photos', fromKey: 'big', bucket: 'photos', key: 'copy' }
    bounded({
      kind: 'commit',
      commitId: id(8),
      lease: 0,
      operations: [{ kind: 'copy', ...names, condition: anyCondition }],
    })
    for (const [i, key] of ['big', 'copy'].entries()) {
      const operation = { kind: 'delete', bucket: 'photos', key, condition: anyCondition } as const
      bounded({ kind: 'commit', commitId: id(20 + i), lease: 0, operations: [operation] })
      expect(world.written).to.be.below(10)
      expect(world.get(keys.manifest(upload), manifestRecord)?.state).to.equal(i === 0 ? 'committed' : 'dropping')
    }
    for (let page = 0; page < pages; page++) {
      expect(world.get(keys.trash(world.nowMs, upload), trashRecord)?.nextPage).to.equal(page)
      bounded({ kind: 'dropPage', manifest: upload, page })
    }
    expect([world.count('t'), world.count('m'), world.count('p'), world.count('g')]).to.deep.equal([0, 0, 0, chunks])
    world.nowMs += 3_600_000
    world.ok({ kind: 'expireLease', id: leaseSpan })
    world.ok({ kind: 'expireLease', id: 2 * leaseSpan })
    const garbage = [...world.map.keys()].filter((name) => name.startsWith('g'))
    const ids = garbage.map((name) => keyParts.garbage(Uint8Array.from(name, (c) => c.charCodeAt(0))).chunk)
    for (let at = 0; at < ids.length; at += 400) {
      bounded({ kind: 'reclaim', graceMs: 1, chunks: ids.slice(at, at + 400) })
    }
    for (const disk of [1, 2, 3]) {
      for (let at = 0; at < ids.length; at += 1000) {
        const { generation } = world.disk(disk)
        bounded({ kind: 'deleted', disk, generation, chunks: ids.slice(at, at + 1000) })
      }
    }
    expect([world.count('c'), world.count('d'), world.applied().chunks]).to.deep.equal([0, 0, 0])
    expect(most).to.be.below(recordsMax)
  }).timeout(120_000)
})
