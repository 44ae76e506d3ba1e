/**
 * What clients do to a meta leader: too large a proposal, answers that nobody reads, ten thousand sessions. The node refuses
 * in one line, its memory stays bounded, and the other clients do not notice.
 */

import { randomBytes } from 'node:crypto'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { DeafClient } from '../support/deaf-client.ts'
import { residentMiB, until } from '../support/processes.ts'
import { RawSession } from '../support/raw-session.ts'

/** Sessions that a cluster keeps at most. */
const sessionsMax = 16_384

describe('real processes: clients that ask too much', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  let leader: string

  before(async () => {
    cluster = await TestCluster.start({ storage: 0 })
    store = await connect({ meta: cluster.meta })
    await store.buckets.create('clients')
    leader = await cluster.leader()
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  async function raw(): Promise<RawSession> {
    leader = await cluster.leader()
    return await RawSession.open(cluster.node(leader).address)
  }

  /** Resident memory of the leader now, in MiB. */
  function memory(): number {
    return residentMiB(cluster.pid(leader)) ?? 0
  }

  it('refuses a proposal that is too large, definitely, and goes on', async () => {
    const session = await raw()
    const metadata = Array.from({ length: 16 }, (_, i) => ({ name: `n${i}`, value: 'x'.repeat(480) }))
    const operation = (key: string, valid: boolean): object => ({
      put: {
        bucket: 'clients',
        key,
        etag: '0000000000000000',
        metadata: valid ? metadata : metadata.map(({ name }) => ({ name, value: 'x'.repeat(600_000) })),
        concern: 'quorum',
        copies: 3,
      },
    })
    const commit = async (operations: object[]): Promise<string> => {
      const commitId = randomBytes(16).toString('hex')
      const reply = await session.call({ commit: { commitId, operations } })
      return reply.error?.code ?? 'ok'
    }
    // 9 MiB of metadata on one object; more operations than a commit takes; a key of a megabyte.
    expect(await commit([operation('too-much-metadata', false)])).to.equal('INVALID_ARGUMENT')
    const many = Array.from({ length: 5000 }, (_, i) => operation(`k${i}`, true))
    expect(await commit(many)).to.equal('INVALID_ARGUMENT')
    expect(await commit([operation('k'.repeat(1 << 20), true)])).to.equal('INVALID_ARGUMENT')
    await session.close()
    await store.put('clients', 'after-the-large', '')
    expect(cluster.node(leader).running?.child.exitCode).to.equal(null)
  })

  it('a client that never reads its replies is soon not read any more, and the others do not notice', async () => {
    leader = await cluster.leader()
    await store.put('clients', 'warm', '')
    const before = memory()
    const deaf = new DeafClient(cluster.node(leader).address, 4)
    let slowestMs = 0
    const put = async (i: number): Promise<void> => {
      const startMs = performance.now()
      await store.put('clients', `beside-the-deaf/${i % 50}`, '')
      slowestMs = Math.max(slowestMs, performance.now() - startMs)
    }
    try {
      await until('the node takes nothing more', async () => {
        const sent = deaf.sent
        for (let i = 0; i < 100; i++) await put(i)
        return deaf.sent > 1000 && deaf.sent === sent
      })
      expect(memory() - before, 'MiB more').to.be.lessThan(250)
      expect(slowestMs).to.be.lessThan(5000)
      expect(cluster.node(leader).running?.child.exitCode).to.equal(null)
    } finally {
      deaf.close()
    }
    await store.put('clients', 'after-the-deaf', '')
  })

  it('keeps 10,000 sessions and more in bounded memory, refuses one too many, and never drops one that lives', async () => {
    const ids = Array.from({ length: sessionsMax }, () => randomBytes(16).toString('hex'))
    let client = await raw()
    const before = memory()
    // The store of this test may have a session of its own, so a few of the last may find no room.
    let left: string[] = ids
    let refused = 0
    for (let round = 0; round < 5 && left.length > refused; round++) {
      const opened = await client.callAll(left.map((session) => ({ openSession: { session } })))
      left = left.filter((_, i) => opened[i]?.error?.code !== undefined)
      refused = opened.filter((reply) => /has \d+ client sessions/.test(reply.error?.message ?? '')).length
      if (left.length === refused) break
      await client.close() // a leader that lost its office on the way: opening again opens the same sessions
      client = await raw()
    }
    expect(left.length).to.equal(refused)
    expect(refused).to.be.lessThan(8)
    expect(memory() - before, 'MiB more').to.be.lessThan(200)
    const extra = await client.call({ openSession: { session: randomBytes(16).toString('hex') } })
    expect(extra.error?.code).to.equal('OVERLOADED')
    // Sessions that live are kept and used: a call of one, twice with one number, happens once.
    const [first] = ids as [string]
    const make = {
      session: first,
      sequence: 1,
      lowest: 1,
      createBucket: { name: 'by-session', commitId: randomBytes(16).toString('hex') },
    }
    const twice = [await client.call(make), await client.call(make)]
    expect(twice[0]?.createBucket?.bucket?.createdMs).to.be.greaterThan(0)
    expect(twice[1]?.createBucket).to.deep.equal(twice[0]?.createBucket)
    const kept = await client.callAll(ids.slice(0, 200).map((session) => ({ keepSession: { session } })))
    expect(kept.filter((reply) => reply.error !== null && reply.error !== undefined)).to.deep.equal([])
    // Room comes back, and a client without a session goes on all the while.
    await store.put('clients', 'while-full', '')
    await client.call({ closeSession: { session: ids[1] as string } })
    const again = await client.call({ openSession: { session: randomBytes(16).toString('hex') } })
    expect(again.error?.code).to.equal(undefined)
    await client.close()
    await cluster.untilAgreed()
  })
})
