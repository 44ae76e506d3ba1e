/** Linearizable reads on leaders and followers: the replicator on simulated disks and network. */

import { expect } from 'chai'
import { isStoreError } from '../../../src/model/errors.ts'
import { Cluster, type Host } from './raft-cluster.ts'

async function formed(): Promise<{ cluster: Cluster; leader: Host; follower: Host }> {
  const cluster = new Cluster(['m1', 'm2', 'm3'])
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  const follower = cluster.hosts.find((host) => host !== leader)
  if (follower === undefined) throw new Error('no follower')
  await cluster.until('the follower knows', () => follower.running.status().leader === leader.process.id)
  return { cluster, leader, follower }
}

describe('raft reads', () => {
  it('scenario 46: a barrier on a follower sees every write that was answered before it', async () => {
    const { cluster, leader, follower } = await formed()
    for (let i = 0; i < 20; i++) {
      await cluster.propose(leader, `x${i}`)
      expect('value' in (await cluster.outcome(follower.running.barrier()))).to.equal(true)
      expect(follower.commands).to.include(`x${i}`)
    }
  })

  it('many reads at once on a follower are all answered', async () => {
    const { cluster, follower } = await formed()
    const reads = Array.from({ length: 500 }, () => follower.running.barrier())
    const outcome = await cluster.outcome(Promise.all(reads))
    expect('value' in outcome).to.equal(true)
  })

  it('a follower that is cut off gives reads up after about two election timeouts', async () => {
    const { cluster, follower } = await formed()
    cluster.isolate(follower)
    const beganMs = cluster.world.nowMs
    const outcome = await cluster.outcome(follower.running.barrier())
    if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
    expect(['UNAVAILABLE', 'NOT_LEADER']).to.include(outcome.error.code)
    expect(outcome.error.outcome).to.equal('definite')
    expect(cluster.world.nowMs - beganMs).to.be.within(0, 2100)
  })

  it('a read that waits on a follower when the leader dies is answered or refused, never wrong', async () => {
    const { cluster, leader, follower } = await formed()
    await cluster.propose(leader, 'x')
    const read = follower.running.barrier()
    cluster.crash(leader)
    const outcome = await cluster.outcome(read)
    if ('value' in outcome) expect(follower.commands).to.include('x')
    else expect(isStoreError(outcome.error) && outcome.error.outcome).to.equal('definite')
    await cluster.untilLeader()
    const again = await cluster.outcome(follower.running.barrier())
    expect('value' in again).to.equal(true)
    expect(follower.commands).to.include('x')
  })
})
