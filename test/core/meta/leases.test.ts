/** Writer leases (docs/RULES.md, rule 1): ranges handed out once, expiry for good, commits by the stored state alone. */

import { expect } from 'chai'
import { leaseSpan } from '../../../src/model/ids.ts'
import { id, World } from './world.ts'

describe('writer leases', () => {
  it('hands out ranges that never meet', () => {
    const world = World.founded()
    const ids = [world.lease(), world.lease()]
    world.ok({ kind: 'expireLease', id: ids[0] as number })
    world.ok({ kind: 'forgetLease', id: ids[0] as number })
    ids.push(world.lease())
    expect(ids).to.deep.equal([leaseSpan, 2 * leaseSpan, 3 * leaseSpan])
  })

  it('renews an open lease and never shortens it', () => {
    const world = World.founded()
    const lease = world.lease()
    world.nowMs += 1_000
    world.ok({ kind: 'renewLease', id: lease, ttlMs: 1_000 })
    expect(world.leaseRecord(lease)?.expiresMs).to.equal(1_060_000)
    world.ok({ kind: 'renewLease', id: lease, ttlMs: 100_000 })
    expect(world.leaseRecord(lease)?.expiresMs).to.equal(1_101_000)
  })

  it('keeps the life of a lease between 1 s and 10 min', () => {
    const world = World.founded()
    const short = world.ok({ kind: 'grantLease', ttlMs: 0 })
    const long = world.ok({ kind: 'grantLease', ttlMs: 1e12 })
    expect(short).to.include({ expiresMs: world.nowMs + 1_000 })
    expect(long).to.include({ expiresMs: world.nowMs + 600_000 })
  })

  it('fences renewal and commit after a committed expiry', () => {
    const world = World.founded()
    const lease = world.lease()
    world.ok({ kind: 'expireLease', id: lease })
    world.refused({ kind: 'renewLease', id: lease, ttlMs: 60_000 }, 'FENCED')
    const operations = [world.put('cat', [world.acked(lease, [1, 2, 3])])]
    world.refused({ kind: 'commit', commitId: id(5), lease, operations }, 'FENCED')
  })

  it('takes a commit after expiresMs as long as no expiry is committed', () => {
    const world = World.founded()
    const lease = world.lease()
    world.nowMs += 3_600_000
    world.ok({
      kind: 'commit',
      commitId: id(5),
      lease,
      operations: [world.put('cat', [world.acked(lease, [1, 2, 3])])],
    })
  })

  it('refuses to forget an open lease, and an expired one with uploads', () => {
    const world = World.founded()
    const lease = world.lease()
    world.refused({ kind: 'forgetLease', id: lease }, 'CONDITION_FAILED')
    const page = { kind: 'stagePage', commitId: id(7), lease, page: 0, copies: 3, concern: 'quorum' } as const
    world.ok({ ...page, chunks: [world.acked(lease, [1, 2, 3])] })
    world.ok({ kind: 'expireLease', id: lease })
    world.refused({ kind: 'forgetLease', id: lease }, 'CONDITION_FAILED')
    world.ok({ kind: 'abortUpload', manifest: id(7) })
    world.ok({ kind: 'forgetLease', id: lease })
    expect(world.leaseRecord(lease)).to.equal(undefined)
  })

  it('refuses chunk ids outside the range of the lease', () => {
    const world = World.founded()
    const lease = world.lease()
    const other = world.lease()
    for (const chunk of [lease - 1, other, other + leaseSpan]) {
      const operations = [world.put('cat', [world.acked(chunk, [1, 2, 3])])]
      world.refused({ kind: 'commit', commitId: id(5), lease, operations }, 'INVALID_ARGUMENT')
    }
  })

  it('never lets time go back', () => {
    const world = World.founded()
    const before = world.applied().timeMs
    world.nowMs -= 500_000
    const lease = world.lease()
    expect(world.applied().timeMs).to.equal(before)
    expect(world.leaseRecord(lease)?.expiresMs).to.equal(before + 60_000)
  })
})
