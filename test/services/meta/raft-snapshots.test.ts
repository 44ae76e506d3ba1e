/** Snapshots between replicators: when they are taken, what they replace, what may go wrong on the way. */

import { expect } from 'chai'
import { utf8 } from '../../../src/base/bytes.ts'
import { Cluster, type Host } from './raft-cluster.ts'

const limits = { compactEntries: 40, trailingEntries: 5 }

async function formed(seed = 1): Promise<{ cluster: Cluster; leader: Host; follower: Host }> {
  const cluster = new Cluster(['m1', 'm2', 'm3'], limits, seed)
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  const follower = cluster.hosts.find((host) => host !== leader)
  if (follower === undefined) throw new Error('no follower')
  return { cluster, leader, follower }
}

async function write(cluster: Cluster, leader: Host, count: number, name = 'x'): Promise<void> {
  for (let i = 0; i < count; i++) await cluster.propose(leader, `${name}${i}`)
}

/** Writes `end` with whoever leads in the end. */
async function finish(cluster: Cluster): Promise<Host> {
  for (;;) {
    const leader = await cluster.untilLeader()
    const outcome = await cluster.outcome(leader.running.propose(utf8('end')))
    if ('value' in outcome) return leader
    await cluster.run(50)
  }
}

function sends(cluster: Cluster): number {
  return cluster.events.filter((item) => item.event === 'sending a snapshot').length
}

describe('raft snapshots', () => {
  it('scenario 59: a conflicting log is discarded whole, and the node goes on from the snapshot without a loop', async () => {
    const { cluster, leader } = await formed()
    await write(cluster, leader, 5)
    cluster.isolate(leader)
    for (let i = 0; i < 300; i++) leader.running.propose(utf8(`never-${i}`)).catch(() => undefined)
    await cluster.until('another leads', () => cluster.leader() !== leader && cluster.leader() !== undefined)
    const next = await cluster.untilLeader()
    await write(cluster, next, 200, 'y')
    cluster.net.heal()
    await cluster.until('it caught up', () => leader.commands.length === next.commands.length)
    expect(leader.machine?.installed).to.equal(1)
    expect(leader.commands).to.deep.equal(next.commands)
    expect(leader.commands.some((text) => text.startsWith('never'))).to.equal(false)
    const before = sends(cluster)
    await write(cluster, next, 20, 'z')
    await cluster.run(5000)
    expect(sends(cluster)).to.equal(before)
    cluster.crash(leader)
    await cluster.start(leader)
    await cluster.until('it follows after a crash', () => leader.commands.length === next.commands.length)
  })

  it('scenario 65: a snapshot holds exactly what was applied up to its index, and the members of then', async () => {
    const { cluster, leader, follower } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    cluster.crash(follower)
    const added = await cluster.outcome(leader.running.addMember('m4', m4.address), 90_000)
    expect(added).to.deep.equal({ value: true })
    await write(cluster, leader, 200)
    await cluster.start(follower)
    const ids = (host: Host): string[] => host.running.status().peers.map((peer) => peer.id)
    // The state is there a moment before the log matches it.
    await cluster.until('it caught up', () => follower.commands.length === 200 && ids(follower).length === 4)
    expect(follower.machine?.installed).to.equal(1)
    expect(follower.commands).to.deep.equal(leader.commands)
    expect(ids(follower)).to.deep.equal(['m1', 'm2', 'm3', 'm4'])
    cluster.crash(follower)
    await cluster.start(follower)
    await cluster.run(1000)
    expect(ids(follower)).to.deep.equal(['m1', 'm2', 'm3', 'm4'])
    // The four decide together: two of them are no majority.
    for (const host of [m4, follower]) cluster.crash(host)
    const outcome = await cluster.outcome(leader.running.propose(utf8('alone')))
    expect('error' in outcome).to.equal(true)
  })

  it('scenario 66: a node that campaigned in vain while it was cut off takes the snapshot of the leader', async () => {
    const { cluster, leader, follower } = await formed()
    cluster.isolate(follower)
    await write(cluster, leader, 200)
    await cluster.run(10_000)
    expect(follower.running.status().role).to.not.equal('leader')
    cluster.net.heal()
    await cluster.until('it caught up', () => follower.commands.length === 200)
    expect(follower.machine?.installed).to.equal(1)
    expect(leader.running.status().role).to.equal('leader')
  })

  it('scenario 67: when the report of a snapshot is lost the follower is served on', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      const { cluster, leader, follower } = await formed(seed)
      cluster.crash(follower)
      await write(cluster, leader, 200)
      await cluster.start(follower)
      const before = sends(cluster)
      await cluster.until('it is sent', () => sends(cluster) > before)
      await cluster.run(seed * 0.7)
      cluster.net.reset(leader.process, follower.process)
      await write(cluster, leader, 5, 'after')
      await cluster.until('it caught up', () => follower.commands.length === 205)
      expect(follower.commands, `seed ${seed}`).to.deep.equal(leader.commands)
      expect(follower.fatal).to.equal(undefined)
    }
  })

  it('scenarios 64 and 68: writes, compaction and a transfer of leadership during an install take nothing back', async () => {
    for (let seed = 1; seed <= 8; seed++) {
      const { cluster, leader, follower } = await formed(seed)
      cluster.crash(follower)
      await write(cluster, leader, 200)
      await cluster.start(follower)
      const before = sends(cluster)
      await cluster.until('it is sent', () => sends(cluster) > before)
      const writes = Array.from({ length: 120 }, (_, i) => leader.running.propose(utf8(`during-${i}`)))
      await cluster.run(seed * 0.6)
      leader.running.transfer(undefined).catch(() => undefined)
      await cluster.outcome(Promise.allSettled(writes))
      const next = await finish(cluster)
      await cluster.until('all are equal', () => {
        return cluster.hosts.every(
          (host) => host.commands.at(-1) === 'end' && host.commands.length === next.commands.length,
        )
      })
      for (const host of cluster.hosts) expect(host.commands, `seed ${seed}`).to.deep.equal(next.commands)
      cluster.crash(follower)
      await cluster.start(follower)
      await cluster.until('it follows after a crash', () => follower.commands.at(-1) === 'end')
      expect(follower.startError).to.equal(undefined)
    }
  })

  it('what is appended while a snapshot is under way stays in the log, so that one snapshot is enough', async () => {
    const { cluster, leader, follower } = await formed()
    if (leader.machine === undefined) throw new Error('no machine')
    cluster.crash(follower)
    await write(cluster, leader, 200)
    let read: () => void = () => undefined
    leader.machine.reading = new Promise((resolve) => {
      read = resolve
    })
    await cluster.start(follower)
    const before = sends(cluster)
    await cluster.until('it is sent', () => sends(cluster) > before)
    // Far more than four times what the log keeps otherwise.
    await write(cluster, leader, 600, 'during')
    read()
    await cluster.until('it caught up', () => follower.commands.length === 800)
    expect(sends(cluster)).to.equal(before + 1)
    expect(follower.commands).to.deep.equal(leader.commands)
    await write(cluster, leader, 1100, 'after')
    await cluster.run(2000)
    expect(leader.logEntry(700), 'dropped when nobody needs it any more').to.equal(undefined)
  })

  it('the log is not compacted beyond what the state has on disk, and a start replays from there', async () => {
    const { cluster, leader, follower } = await formed()
    if (follower.machine === undefined) throw new Error('no machine')
    await write(cluster, leader, 10)
    await cluster.until('it has all', () => follower.commands.length === 10)
    await cluster.run(200)
    follower.machine.lazy = true
    const durable = follower.machine.durableIndex()
    await write(cluster, leader, 300)
    await cluster.until('it applied all', () => follower.commands.length === 310)
    expect(follower.machine.durableIndex()).to.equal(durable)
    expect(follower.logEntry(durable + 1)).to.not.equal(undefined)
    cluster.crash(follower)
    await cluster.start(follower)
    expect(follower.commands.length).to.be.below(310)
    await cluster.until('it replayed', () => follower.commands.length === 310)
    expect(follower.machine?.installed).to.equal(0)
    expect(follower.commands).to.deep.equal(leader.commands)
  })

  /** A follower that is being sent a snapshot, and stands just before it is ready until `flushed` is called. */
  async function flushing(): Promise<{ cluster: Cluster; leader: Host; follower: Host; flushed: () => void }> {
    const { cluster, leader, follower } = await formed()
    cluster.crash(follower)
    await write(cluster, leader, 200)
    await cluster.start(follower)
    let flushed: (() => void) | undefined
    if (follower.machine === undefined) throw new Error('no machine')
    const { machine } = follower
    machine.beforeReady = () => {
      machine.beforeReady = undefined
      return new Promise((resolve) => {
        flushed = resolve
      })
    }
    await cluster.until('it flushes', () => flushed !== undefined)
    return { cluster, leader, follower, flushed: () => flushed?.() }
  }

  it('while a new state is made durable the node goes on voting', async () => {
    const { cluster, leader, follower, flushed } = await flushing()
    const third = cluster.hosts.find((host) => host !== leader && host !== follower)
    cluster.crash(leader)
    await cluster.until('the third leads, with its vote', () => third?.running.status().role === 'leader', 5000)
    flushed()
    await cluster.until('it caught up', () => follower.commands.length === 200)
    expect(follower.fatal).to.equal(undefined)
  })

  it('a swap that fails ends the node, because nobody knows whether it happened; the next start finds out', async () => {
    const { cluster, follower, flushed } = await flushing()
    if (follower.machine === undefined) throw new Error('no machine')
    follower.machine.duringSwap = () => Promise.reject(new Error('the pointer was not written'))
    flushed()
    await cluster.until('it stops', () => follower.fatal !== undefined)
    expect(follower.fatal?.message).to.contain('the pointer was not written')
    cluster.crash(follower)
    await cluster.start(follower)
    await cluster.until('it caught up', () => follower.commands.length === 200)
  })
})
