/** How fast a dead, reset or standing leader is replaced, and what must not replace one: real host, virtual time. */

import { expect } from 'chai'
import { Cluster, type Host } from './raft-cluster.ts'

/** The times of the product. */
const times = { tickMs: 25, heartbeatTicks: 2, electionTicks: 10, electionSpreadTicks: 6, leaseReads: false }

async function formed(
  seed: number,
  ids: readonly string[] = ['m1', 'm2', 'm3'],
): Promise<{ cluster: Cluster; leader: Host }> {
  const cluster = new Cluster(ids, {}, seed)
  cluster.times = times
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  await cluster.propose(leader, 'x')
  await cluster.run(1000 + seed * 7)
  return { cluster, leader }
}

/** Milliseconds until another leader has answered a write. */
async function gap(cluster: Cluster, old: Host): Promise<number> {
  const beganMs = cluster.world.nowMs
  await cluster.until('another leads', () => {
    const next = cluster.leader()
    return next !== undefined && next !== old
  })
  const next = await cluster.untilLeader()
  await cluster.propose(next, 'after')
  return cluster.world.nowMs - beganMs
}

describe('raft failover', () => {
  it('after the death of the leader writes go on at once: its connections break', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const { cluster, leader } = await formed(seed)
      cluster.crash(leader)
      expect(await gap(cluster, leader), `seed ${seed}`).to.be.below(700)
    }
  })

  it('after the leader stands still writes go on within an election timeout and a little', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const { cluster, leader } = await formed(seed)
      cluster.pause(leader)
      expect(await gap(cluster, leader), `seed ${seed}`).to.be.below(550)
      cluster.resume(leader)
      await cluster.until('it follows', () => leader.running.status().role === 'follower')
    }
  })

  it('with five members as with three', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { cluster, leader } = await formed(seed, ['m1', 'm2', 'm3', 'm4', 'm5'])
      cluster.crash(leader)
      expect(await gap(cluster, leader), `seed ${seed}`).to.be.below(700)
    }
  })

  it('a reset connection between the leader and one member replaces nobody', async () => {
    const { cluster, leader } = await formed(3)
    const { term } = leader.running.status()
    for (let i = 0; i < 20; i++) {
      const other = cluster.hosts[i % 3] as Host
      if (other !== leader) cluster.net.reset(leader.process, other.process)
      await cluster.run(40)
    }
    await cluster.run(1000)
    expect(leader.running.status()).to.include({ role: 'leader', term })
    expect(leader.leaderships).to.deep.equal([term])
  })

  it('scenario 14: a follower that stood still longer than the election timeout raises no term when it goes on', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { cluster, leader } = await formed(seed)
      const { term } = leader.running.status()
      const follower = cluster.hosts.find((host) => host !== leader) as Host
      cluster.pause(follower)
      await cluster.run(5000)
      cluster.resume(follower)
      await cluster.run(2000)
      expect(leader.running.status(), `seed ${seed}`).to.include({ role: 'leader', term })
      expect(follower.running.status().leader).to.equal(leader.process.id)
    }
  })

  it('an orderly stop of the leader takes less than 50 ms', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { cluster, leader } = await formed(seed)
      leader.running.stop().catch(() => undefined)
      expect(await gap(cluster, leader), `seed ${seed}`).to.be.below(50)
    }
  })

  it('minutes of writes change no leader', async () => {
    const { cluster, leader } = await formed(1)
    const { term } = leader.running.status()
    let answered = 0
    for (let minute = 0; minute < 2; minute++) {
      for (let i = 0; i < 40; i++) {
        const writes = Array.from({ length: 8 }, (_, n) => leader.running.propose(new Uint8Array(100).fill(n)))
        await cluster.outcome(Promise.all(writes))
        answered += writes.length
      }
      await cluster.run(59_000)
    }
    expect(answered).to.equal(640)
    expect(leader.running.status()).to.include({ role: 'leader', term })
  })
})
