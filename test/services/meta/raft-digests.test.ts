/** States that differ are found and told of; the odd one stops itself. */

import { expect } from 'chai'
import { checkpointEnd, checkpointEntries, Digests } from '../../../src/services/meta/raft-digests.ts'
import { Cluster, type Host } from './raft-cluster.ts'

async function run(limits = {}): Promise<{ cluster: Cluster; leader: Host; others: Host[] }> {
  const cluster = new Cluster(['m1', 'm2', 'm3'], limits)
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  return { cluster, leader, others: cluster.hosts.filter((host) => host !== leader) }
}

async function fill(cluster: Cluster, leader: Host, count: number): Promise<void> {
  for (let i = 0; i < count; i += 50) {
    const writes = Array.from({ length: 50 }, (_, n) => leader.running.propose(new Uint8Array([1 + ((i + n) % 9)])))
    const outcome = await cluster.outcome(Promise.all(writes))
    if ('error' in outcome) throw outcome.error
  }
}

describe('raft digests', () => {
  it('equal states raise no alarm, under any grouping', async () => {
    const { cluster, leader } = await run()
    await fill(cluster, leader, 1200)
    await cluster.run(2000)
    for (const host of cluster.hosts) {
      expect(host.running.status().diverged).to.deep.equal([])
      expect(host.fatal).to.equal(undefined)
    }
  })

  it('a follower whose state differs is reported by the leader and stops itself', async () => {
    const { cluster, leader, others } = await run()
    const [odd] = others
    if (odd === undefined) throw new Error('no follower')
    if (odd.machine !== undefined) odd.machine.skew = 7
    await fill(cluster, leader, 300)
    await cluster.until('it stops', () => odd.fatal !== undefined)
    expect(odd.fatal?.message).to.contain('its state differs')
    expect(odd.fatal?.message).to.contain('empty directory')
    expect(leader.running.status().diverged).to.deep.equal([odd.process.id])
    expect(leader.fatal).to.equal(undefined)
    await cluster.propose(leader, 'the others go on')
  })

  it('a leader whose state differs from that of the majority is the odd one: it stops, another leads', async () => {
    const { cluster, leader, others } = await run()
    if (leader.machine !== undefined) leader.machine.skew = 7
    await fill(cluster, leader, 300).catch(() => undefined)
    await cluster.until('it stops', () => leader.fatal !== undefined)
    for (const host of others) expect(host.fatal).to.equal(undefined)
    const next = await cluster.until('another leads', () => {
      const now = cluster.leader()
      return now !== undefined && others.includes(now)
    })
    expect(next).to.equal(undefined)
  })

  it('of two that differ nobody can say which is right: both go on and say so', async () => {
    const cluster = new Cluster(['m1', 'm2'])
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    if (leader.machine !== undefined) leader.machine.skew = 7
    await fill(cluster, leader, 300)
    await cluster.until('it is told', () => leader.running.status().diverged.length === 1)
    for (const host of cluster.hosts) expect(host.fatal).to.equal(undefined)
  })

  it('groups end at checkpoints', () => {
    expect(checkpointEntries).to.equal(256)
    expect(checkpointEnd(1, 1000)).to.equal(256)
    expect(checkpointEnd(256, 1000)).to.equal(256)
    expect(checkpointEnd(257, 300)).to.equal(300)
    expect(checkpointEnd(257, 1000)).to.equal(512)
  })

  it('is outvoted only by more than half of all, at one index, with one digest', () => {
    const members = ['a', 'b', 'c', 'd', 'e']
    const digests = new Digests()
    digests.reached(256, 1)
    digests.reached(512, 2)
    digests.heard('b', { index: 256, digest: 9 })
    digests.heard('c', { index: 256, digest: 9 })
    digests.heard('d', { index: 256, digest: 8 })
    digests.heard('e', { index: 512, digest: 9 })
    expect(digests.outvoted(members)).to.equal(undefined)
    expect(digests.diverged(members)).to.deep.equal(['b', 'c', 'd', 'e'])
    digests.heard('e', { index: 256, digest: 9 })
    expect(digests.outvoted(members)).to.deep.equal({ index: 256, by: ['b', 'c', 'e'] })
    digests.replaced()
    expect(digests.outvoted(members)).to.equal(undefined)
    expect(digests.newest).to.equal(undefined)
  })

  it('a peer that is right again after a snapshot is not reported any more', () => {
    const digests = new Digests()
    digests.reached(256, 1)
    digests.reached(512, 2)
    digests.heard('b', { index: 256, digest: 9 })
    expect(digests.diverged(['b'])).to.deep.equal(['b'])
    digests.heard('b', { index: 512, digest: 2 })
    expect(digests.diverged(['b'])).to.deep.equal([])
  })
})
