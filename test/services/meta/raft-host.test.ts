/** The replicator on simulated disks and network: formation, failover, restart, snapshots, overload, fatal errors. */

import { expect } from 'chai'
import { utf8 } from '../../../src/base/bytes.ts'
import { isStoreError, StoreError } from '../../../src/model/errors.ts'
import { Cluster } from './raft-cluster.ts'

const three = ['m1', 'm2', 'm3']

async function formed(limits = {}, seed = 1): Promise<Cluster> {
  const cluster = new Cluster(three, limits, seed)
  await cluster.startAll()
  await cluster.untilLeader()
  return cluster
}

describe('raft host', () => {
  it('three empty nodes form one cluster, elect a leader and replicate', async () => {
    const cluster = await formed()
    const leader = cluster.leader()
    if (leader === undefined) throw new Error('no leader')
    for (let i = 0; i < 5; i++) await cluster.propose(leader, `x${i}`)
    await cluster.until('all have applied', () => cluster.hosts.every((host) => host.commands.length === 5))
    const ids = new Set(cluster.hosts.map((host) => host.running.clusterId()))
    expect(ids.size).to.equal(1)
    expect([...ids][0]).to.match(/^[0-9a-f]{32}$/)
    for (const host of cluster.hosts) expect(host.commands).to.deep.equal(['x0', 'x1', 'x2', 'x3', 'x4'])
    const status = leader.running.status()
    expect(status.peers.map((peer) => peer.id)).to.deep.equal(three)
    expect(status.peers.every((peer) => peer.reachable)).to.equal(true)
  })

  it('a single node works alone', async () => {
    const cluster = new Cluster(['m1'])
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    await cluster.propose(leader, 'x')
    expect('value' in (await cluster.outcome(leader.running.barrier()))).to.equal(true)
    expect(leader.commands).to.deep.equal(['x'])
  })

  it('no cluster is formed while a peer is missing or has another list', async () => {
    const cluster = new Cluster(three)
    const [m1, m2, m3] = cluster.hosts
    if (m1 === undefined || m2 === undefined || m3 === undefined) throw new Error('three hosts')
    await cluster.start(m1)
    await cluster.start(m2)
    await cluster.run(5000)
    expect(cluster.leader()).to.equal(undefined)
    await cluster.start(m3, [m2, m3])
    await cluster.run(5000)
    expect(cluster.leader()).to.equal(undefined)
    expect(m1.running.clusterId()).to.equal(undefined)
    cluster.crash(m3)
    await cluster.start(m3)
    await cluster.untilLeader()
  })

  it('a wiped node is refused by its formed cluster, with the commands that replace it', async () => {
    const cluster = await formed()
    const host = cluster.host('m3')
    cluster.crash(host)
    cluster.wipe(host)
    await cluster.start(host)
    await cluster.until('a refusal', () => host.startError !== undefined)
    expect(isStoreError(host.startError) && host.startError.code).to.equal('WRONG_CLUSTER')
    expect(String(host.startError)).to.contain('holdfast meta remove m3')
    await cluster.until('the others go on', () => cluster.leader() !== undefined)
  })

  it('keeps its log in LevelDB while a member may go back, and moves it at a start after the raise', async () => {
    const cluster = new Cluster(['m1', 'm2', 'm3'])
    for (const host of cluster.hosts) host.options = { version: 1, versionMax: host.process.id === 'm3' ? 1 : 2 }
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    for (let i = 0; i < 10; i++) await cluster.propose(leader, `x${i}`)
    await cluster.run(2000)
    for (const host of cluster.hosts) {
      expect(host.extents.numbers).to.deep.equal([])
      cluster.crash(host)
    }
    for (const host of cluster.hosts) {
      host.options = { version: 2 }
      await cluster.start(host)
    }
    const next = await cluster.untilLeader()
    await cluster.propose(next, 'after')
    await cluster.until('all have all', () => cluster.hosts.every((host) => host.commands.length === 11))
    for (const host of cluster.hosts) {
      expect(host.extents.numbers).to.not.deep.equal([])
      expect([...host.kv.entries('raft-log')]).to.deep.equal([])
      cluster.crash(host)
    }
    await cluster.startAll()
    await cluster.propose(await cluster.untilLeader(), 'again')
  })

  it('scenario 76: a node whose log was lost refuses to start', async () => {
    const cluster = await formed()
    const host = cluster.host('m2')
    cluster.crash(host)
    host.extents.wipe()
    await cluster.start(host)
    await cluster.until('a refusal', () => host.startError !== undefined)
    expect(isStoreError(host.startError) && host.startError.code).to.equal('DATA_LOST')
  })

  it('the death of the leader is survived, nothing acknowledged is lost, and it comes back as a follower', async () => {
    const cluster = await formed()
    const old = cluster.leader()
    if (old === undefined) throw new Error('no leader')
    for (let i = 0; i < 10; i++) await cluster.propose(old, `a${i}`)
    cluster.crash(old)
    const diedMs = cluster.world.nowMs
    const leader = await cluster.untilLeader()
    expect(cluster.world.nowMs - diedMs).to.be.below(3000)
    await cluster.propose(leader, 'b')
    expect(leader.commands).to.deep.equal([...Array.from({ length: 10 }, (_, i) => `a${i}`), 'b'])
    await cluster.start(old)
    await cluster.until('the old leader catches up', () => old.commands.length === 11)
    expect(old.running.status().role).to.equal('follower')
  })

  it('scenario 71: after a crash of all nodes everything acknowledged is there', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const cluster = await formed({}, seed)
      const leader = cluster.leader()
      if (leader === undefined) throw new Error('no leader')
      const acknowledged: string[] = []
      for (let i = 0; i < 40; i++) {
        leader.running.propose(utf8(`x${i}`)).then(
          () => acknowledged.push(`x${i}`),
          () => undefined,
        )
      }
      await cluster.until('some answers', () => acknowledged.length >= 10)
      for (const host of cluster.hosts) cluster.crash(host)
      for (const host of cluster.hosts) await cluster.start(host)
      const next = await cluster.untilLeader()
      expect(next.commands).to.include.members(acknowledged)
      expect(new Set(next.commands).size).to.equal(next.commands.length)
    }
  })

  it('scenario 70: a single node answers only after its own sync', async () => {
    const cluster = new Cluster(['m1'])
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    leader.device.stall(400)
    const beganMs = cluster.world.nowMs
    await cluster.propose(leader, 'x')
    expect(cluster.world.nowMs - beganMs).to.be.at.least(400)
  })

  it('scenario 72: power lost at one node while another stands still loses nothing that was acknowledged', async () => {
    for (let seed = 1; seed <= 5; seed++) {
      const cluster = await formed({}, seed)
      const leader = await cluster.untilLeader()
      const [a, b] = cluster.hosts.filter((host) => host !== leader)
      if (a === undefined || b === undefined) throw new Error('roles')
      cluster.pause(b)
      for (let i = 0; i < 20; i++) await cluster.propose(leader, `x${i}`)
      cluster.crash(a)
      cluster.crash(leader)
      cluster.resume(b)
      await cluster.start(a)
      const next = await cluster.untilLeader()
      expect(next.commands, `seed ${seed}`).to.deep.equal(Array.from({ length: 20 }, (_, i) => `x${i}`))
    }
  })

  it('scenario 77: a member whose log rotted refuses to start, and costs the others nothing', async () => {
    const cluster = await formed()
    const leader = await cluster.untilLeader()
    for (let i = 0; i < 20; i++) await cluster.propose(leader, `x${i}`)
    const host = cluster.hosts.find((item) => item !== leader)
    if (host === undefined) throw new Error('no follower')
    await cluster.run(2000)
    cluster.crash(host)
    host.rot(10)
    await cluster.start(host)
    await cluster.until('a refusal', () => host.startError !== undefined)
    expect(isStoreError(host.startError) && host.startError.code).to.equal('DATA_LOST')
    await cluster.propose(leader, 'after')
    expect(leader.commands).to.have.length(21)
  })

  it('scenario 79: a small file that vanished is noticed: no vote is given twice, no second life begins', async () => {
    const refused: Record<string, string> = {}
    for (const name of ['raft-identity', 'raft-hard']) {
      const cluster = await formed()
      const host = cluster.hosts.find((item) => item !== cluster.leader())
      if (host === undefined) throw new Error('no follower')
      cluster.crash(host)
      host.process.alive = true
      const files = host.files.port(host.process)
      const gone = (await files.list()).filter((file) => file.startsWith(name))
      for (const file of gone) await cluster.outcome(files.remove(file))
      cluster.crash(host)
      await cluster.start(host)
      await cluster.until('a refusal', () => host.startError !== undefined)
      refused[name] = isStoreError(host.startError) ? host.startError.code : ''
    }
    expect(refused).to.deep.equal({ 'raft-identity': 'WRONG_CLUSTER', 'raft-hard': 'DATA_LOST' })
  })

  it('a full filesystem is told to everybody, and its end too', async () => {
    const cluster = new Cluster(three)
    for (const host of cluster.hosts) host.options = { reserveBytes: 1000 }
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    const full = cluster.hosts.find((host) => host !== leader)
    if (full === undefined) throw new Error('no follower')
    full.device.fill(500)
    const told = (): boolean | undefined =>
      leader.running.status().peers.find((peer) => peer.id === full.process.id)?.lowSpace
    await cluster.until('the leader knows', () => told() === true)
    expect(full.running.lowSpace()).to.equal(true)
    expect(leader.running.lowSpace()).to.equal(false)
    full.device.fill(1050)
    await cluster.run(3000)
    expect(full.running.lowSpace()).to.equal(true)
    full.device.othersBytes = 0
    await cluster.until('it is over', () => told() === false)
  })

  it('every member knows which version the others support', async () => {
    const cluster = new Cluster(three)
    cluster.host('m2').options = { versionMax: 1, version: 1 }
    await cluster.startAll()
    await cluster.untilLeader()
    for (const host of cluster.hosts) {
      await cluster.until('all are heard of', () => host.running.status().peers.every((peer) => peer.versionMax > 0))
      expect(host.running.status().peers.map((peer) => peer.versionMax)).to.deep.equal([2, 1, 2])
    }
  })

  it('an oversized proposal is refused at once and changes nothing', async () => {
    const cluster = await formed({ entryBytes: 1000 })
    const leader = await cluster.untilLeader()
    const { commit } = leader.running.status()
    const outcome = await cluster.outcome(leader.running.propose(new Uint8Array(1001)))
    if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
    expect(outcome.error.code).to.equal('INVALID_ARGUMENT')
    expect(outcome.error.message).to.contain('1001 bytes, the most is 1000')
    expect(leader.running.status().commit).to.equal(commit)
    await cluster.propose(leader, 'x'.repeat(1000))
  })

  it('proposals that come together share their batches', async () => {
    const cluster = await formed()
    const leader = cluster.leader()
    if (leader === undefined) throw new Error('no leader')
    const before = leader.log.writes
    let answered = 0
    for (let i = 0; i < 1000; i++)
      leader.running.propose(utf8(`x${i}`)).then(
        () => answered++,
        () => undefined,
      )
    await cluster.until('all answers', () => answered === 1000)
    expect(leader.log.writes - before).to.be.below(20)
  })

  it('a follower redirects writes to the leader; in version 1 reads too', async () => {
    const cluster = new Cluster(three)
    for (const host of cluster.hosts) host.options = { version: 1 }
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    await cluster.until('followers know', () =>
      cluster.hosts.every((host) => host.running.status().leader !== undefined),
    )
    const follower = cluster.hosts.find((host) => host !== leader)
    if (follower === undefined) throw new Error('roles')
    const calls = [() => follower.running.propose(utf8('x')), () => follower.running.barrier()]
    for (const call of calls) {
      const outcome = await cluster.outcome<unknown>(call())
      if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('refused')
      expect(outcome.error.code).to.equal('NOT_LEADER')
      expect(outcome.error.outcome).to.equal('definite')
      expect(outcome.error.details.leader).to.deep.equal([leader.address])
    }
  })

  it('a leader that was cut off answers "unknown" to what it could not decide', async () => {
    const cluster = await formed()
    const leader = cluster.leader()
    if (leader === undefined) throw new Error('no leader')
    for (const host of cluster.hosts) {
      cluster.net.cut(host.process, leader.process)
      cluster.net.cut(leader.process, host.process)
    }
    const outcome = await cluster.outcome(leader.running.propose(utf8('x')))
    if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
    expect(outcome.error.outcome).to.equal('unknown')
    expect(leader.leaderships.at(-1)).to.equal(undefined)
  })

  it('a stop hands leadership over at once', async () => {
    const cluster = await formed()
    const leader = cluster.leader()
    if (leader === undefined) throw new Error('no leader')
    await cluster.propose(leader, 'x')
    const beganMs = cluster.world.nowMs
    const stopped = leader.running.stop()
    await cluster.until('another leader', () => cluster.leader() !== undefined && cluster.leader() !== leader)
    expect(cluster.world.nowMs - beganMs).to.be.below(200)
    await cluster.outcome(stopped)
    const next = cluster.leader()
    if (next === undefined) throw new Error('no leader')
    await cluster.propose(next, 'y')
    expect(next.commands).to.deep.equal(['x', 'y'])
  })

  it('a follower that is too far behind is sent a snapshot, and goes on from there after a crash', async () => {
    const cluster = await formed({ compactEntries: 60, trailingEntries: 10 })
    const leader = cluster.leader()
    const follower = cluster.hosts.find((host) => host !== leader)
    if (leader === undefined || follower === undefined) throw new Error('roles')
    cluster.crash(follower)
    for (let i = 0; i < 300; i++) await cluster.propose(leader, `x${i}`)
    await cluster.start(follower)
    await cluster.until('it caught up', () => follower.commands.length === 300)
    expect(follower.machine?.installed).to.equal(1)
    await cluster.propose(leader, 'after')
    await cluster.until('it follows', () => follower.commands.length === 301)
    cluster.crash(follower)
    await cluster.start(follower)
    await cluster.propose(leader, 'again')
    await cluster.until('it follows again', () => follower.commands.length === 302)
    expect(follower.commands).to.deep.equal(leader.commands)
  })

  it('scenario 61: a crash at any moment of a snapshot install leaves the old state or the new, and it is finished later', async () => {
    for (let seed = 1; seed <= 12; seed++) {
      const cluster = await formed({ compactEntries: 40, trailingEntries: 5 }, seed)
      const leader = cluster.leader()
      const follower = cluster.hosts.find((host) => host !== leader)
      if (leader === undefined || follower === undefined) throw new Error('roles')
      cluster.crash(follower)
      for (let i = 0; i < 200; i++) await cluster.propose(leader, `x${i}`)
      await cluster.start(follower)
      await cluster.until('the install begins', () =>
        cluster.events.some((event) => event.event === 'sending a snapshot'),
      )
      await cluster.run(seed * 0.8)
      cluster.crash(follower)
      await cluster.start(follower)
      await cluster.until('it caught up', () => follower.commands.length === 200)
      expect(follower.startError, `seed ${seed}`).to.equal(undefined)
      expect(follower.fatal, `seed ${seed}`).to.equal(undefined)
      expect(follower.commands).to.deep.equal(leader.commands)
    }
  })

  it('scenario 80: a write error of the log is fatal: the node stops voting, leading and answering', async () => {
    const cluster = await formed()
    const leader = cluster.leader()
    if (leader === undefined) throw new Error('no leader')
    leader.log.failure = new StoreError('IO', 'no space left on device')
    const outcome = await cluster.outcome(leader.running.propose(utf8('x')))
    if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
    expect(outcome.error.outcome).to.equal('unknown')
    expect(leader.fatal?.message).to.contain('no space left')
    leader.log.failure = undefined
    const others = cluster.hosts.filter((host) => host !== leader)
    await cluster.until('another leader', () => others.some((host) => host.leaderships.at(-1) !== undefined))
    const later = await cluster.outcome(leader.running.propose(utf8('y')))
    expect('error' in later).to.equal(true)
  })
})
