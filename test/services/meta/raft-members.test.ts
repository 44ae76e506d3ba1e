/** Members added, removed, moved; leadership handed over: the replicator on simulated disks and network. */

import { expect } from 'chai'
import { utf8 } from '../../../src/base/bytes.ts'
import { isStoreError, type StoreError } from '../../../src/model/errors.ts'
import { raftMethods } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { Cluster, type Host } from './raft-cluster.ts'

const three = ['m1', 'm2', 'm3']

async function formed(limits = {}, seed = 1): Promise<{ cluster: Cluster; leader: Host }> {
  const cluster = new Cluster(three, limits, seed)
  await cluster.startAll()
  return { cluster, leader: await cluster.untilLeader() }
}

async function add(cluster: Cluster, host: Host): Promise<boolean> {
  const leader = await cluster.untilLeader()
  await cluster.run(100)
  const outcome = await cluster.outcome(leader.running.addMember(host.process.id, host.address), 90_000)
  if ('error' in outcome) throw outcome.error
  return outcome.value
}

async function remove(cluster: Cluster, id: string): Promise<void> {
  const leader = await cluster.untilLeader()
  const outcome = await cluster.outcome(leader.running.removeMember(id), 90_000)
  if ('error' in outcome) throw outcome.error
}

async function refusal(cluster: Cluster, promise: Promise<unknown>): Promise<StoreError> {
  const outcome = await cluster.outcome(promise, 90_000)
  if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
  return outcome.error
}

/** What a promise was rejected with. */
function settled(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  )
}

function roles(host: Host): Record<string, string> {
  const { peers } = host.running.status()
  return Object.fromEntries(peers.map((peer) => [peer.id, peer.role === 'leader' ? 'follower' : peer.role]))
}

function voters(...ids: string[]): Record<string, string> {
  return Object.fromEntries(ids.map((id) => [id, 'follower']))
}

describe('raft members', () => {
  it('a fresh node waits to be added, is added as a learner, catches up and counts', async () => {
    const { cluster, leader } = await formed()
    for (let i = 0; i < 20; i++) await cluster.propose(leader, `x${i}`)
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.until('it waits', () => cluster.events.some((item) => item.event.includes('waits to be added')))
    const said = cluster.events.find((item) => item.event.includes('waits to be added'))
    expect(said?.fields?.['run']).to.equal('holdfast meta add m4=m4:1')
    await cluster.run(3000)
    expect(cluster.events.filter((item) => item.event.includes('waits to be added'))).to.have.length(1)
    expect(m4.running.clusterId()).to.equal(undefined)
    expect(await add(cluster, m4)).to.equal(true)
    expect(roles(leader)).to.deep.equal(voters('m1', 'm2', 'm3', 'm4'))
    await cluster.propose(leader, 'after')
    await cluster.until('it has all', () => m4.commands.length === 21)
    expect(m4.commands).to.deep.equal(leader.commands)
    expect(m4.running.clusterId()).to.equal(leader.running.clusterId())
  })

  it('the added node counts: two of four down leave no majority, and it may lead', async () => {
    const { cluster, leader } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await add(cluster, m4)
    const transferred = await cluster.outcome(leader.running.transfer('m4'))
    expect(transferred).to.deep.equal({ value: 'm4' })
    await cluster.until('it leads', () => cluster.leader() === m4)
    await cluster.propose(m4, 'x')
    const others = cluster.hosts.filter((host) => host !== m4).slice(0, 2)
    for (const host of others) cluster.crash(host)
    const error = await refusal(cluster, m4.running.propose(utf8('y')))
    expect(error.outcome).to.equal('unknown')
  })

  it('a node is added from a snapshot when the log is compacted', async () => {
    const { cluster, leader } = await formed({ compactEntries: 60, trailingEntries: 10 })
    for (let i = 0; i < 300; i++) await cluster.propose(leader, `x${i}`)
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    expect(await add(cluster, m4)).to.equal(true)
    expect(m4.machine?.installed).to.equal(1)
    await cluster.until('it has all', () => m4.commands.length === 300)
    cluster.crash(m4)
    await cluster.start(m4)
    await cluster.propose(leader, 'after')
    await cluster.until('it follows after a crash', () => m4.commands.length === 301)
  })

  it('adding is refused with the reason: another id, a used directory, nobody there, not leading', async () => {
    const { cluster, leader } = await formed()
    const follower = cluster.hosts.find((host) => host !== leader)
    if (follower === undefined) throw new Error('no follower')
    expect((await refusal(cluster, follower.running.addMember('m4', 'm4:1'))).code).to.equal('NOT_LEADER')
    const nobody = await refusal(cluster, leader.running.addMember('m4', 'm4:1'))
    expect(nobody.code).to.equal('CONDITION_FAILED')
    expect(nobody.message).to.contain('start it first')
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    expect((await refusal(cluster, leader.running.addMember('m5', 'm4:1'))).code).to.equal('INVALID_ARGUMENT')
    const alone = cluster.join('m6', { peers: [] })
    await cluster.start(alone)
    await cluster.until('it made its own cluster', () => alone.running.clusterId() !== undefined)
    const foreign = await refusal(cluster, leader.running.addMember('m6', 'm6:1'))
    expect(foreign.message).to.contain('another cluster')
    expect(roles(leader)).to.deep.equal(voters(...three))
  })

  it('adding a member again that is one already just says so', async () => {
    const { cluster } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    expect(await add(cluster, m4)).to.equal(true)
    expect(await add(cluster, m4)).to.equal(true)
  })

  it('bad luck: a learner that never catches up costs nothing, and is told of', async () => {
    const { cluster, leader } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    const adding = leader.running.addMember('m4', m4.address)
    await cluster.until('it is a learner', () => roles(leader)['m4'] === 'learner')
    cluster.isolate(m4)
    const outcome = await cluster.outcome(adding, 90_000)
    expect(outcome).to.deep.equal({ value: false })
    expect(roles(leader)['m4']).to.equal('learner')
    await cluster.propose(leader, 'x')
    // It becomes a voter by itself when it can.
    cluster.net.heal()
    await cluster.until('it counts', () => roles(leader)['m4'] === 'follower')
  })

  it('the next leader makes a learner a voter when the one that added it died', async () => {
    const { cluster, leader } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    const adding = leader.running.addMember('m4', m4.address)
    adding.catch(() => undefined)
    const rest = cluster.hosts.filter((host) => host !== leader && host !== m4)
    await cluster.until('others know it', () => rest.every((host) => roles(host)['m4'] !== undefined))
    cluster.crash(leader)
    const next = await cluster.untilLeader()
    await cluster.until('it counts', () => roles(next)['m4'] === 'follower')
  })

  it('who waits for a change when leadership is lost hears that its outcome is unknown', async () => {
    const { cluster, leader } = await formed()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    const adding = leader.running.addMember('m4', m4.address)
    await cluster.until('it is a learner', () => roles(leader)['m4'] !== undefined)
    cluster.isolate(leader)
    expect((await refusal(cluster, adding)).outcome).to.equal('unknown')
  })

  it('a removed member stops with a clear message, and comes back only with an empty directory', async () => {
    const { cluster, leader } = await formed()
    const host = cluster.hosts.find((item) => item !== leader)
    if (host === undefined) throw new Error('no follower')
    const { id } = host.process
    await cluster.propose(leader, 'x')
    await remove(cluster, id)
    expect(Object.keys(roles(leader))).to.not.include(id)
    await cluster.until('it stops', () => host.fatal !== undefined)
    expect(host.fatal?.message).to.contain('removed')
    expect(host.fatal?.message).to.contain('empty its directory')
    // Started again as it is, it stops again, and disturbs nobody.
    const { term } = leader.running.status()
    cluster.crash(host)
    await cluster.start(host)
    await cluster.until('it stops again', () => host.fatal !== undefined)
    expect(leader.running.status().term).to.equal(term)
    const used = await refusal(cluster, leader.running.addMember(id, host.address))
    expect(used.message).to.contain('earlier member')
    cluster.crash(host)
    cluster.wipe(host)
    await cluster.start(host)
    await cluster.run(1500)
    expect(await add(cluster, host)).to.equal(true)
    await cluster.propose(leader, 'y')
    await cluster.until('it has all', () => host.commands.join() === 'x,y')
  })

  it('scenario 54: a wiped member is replaced by remove and add; until then it is refused', async () => {
    const { cluster, leader } = await formed()
    const host = cluster.hosts.find((item) => item !== leader)
    if (host === undefined) throw new Error('no follower')
    const { id } = host.process
    cluster.crash(host)
    cluster.wipe(host)
    await cluster.start(host)
    await cluster.until('refused', () => host.startError !== undefined)
    const stopped = await refusal(cluster, leader.running.addMember(id, host.address))
    expect(stopped.message).to.contain(`holdfast meta remove ${id}`)
    await remove(cluster, id)
    cluster.crash(host)
    await cluster.start(host)
    await cluster.run(1500)
    expect(await add(cluster, host)).to.equal(true)
  })

  it('a member that was down while another was replaced follows the newcomer when it leads', async () => {
    const { cluster } = await formed()
    const leader = await cluster.untilLeader()
    const [down, replaced] = cluster.hosts.filter((host) => host !== leader)
    if (down === undefined || replaced === undefined) throw new Error('roles')
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await add(cluster, m4)
    cluster.crash(down)
    await remove(cluster, replaced.process.id)
    cluster.crash(replaced)
    cluster.wipe(replaced)
    await cluster.start(replaced)
    await cluster.run(1500)
    expect(await add(cluster, replaced)).to.equal(true)
    const handed = await cluster.outcome(leader.running.transfer(replaced.process.id))
    expect(handed).to.deep.equal({ value: replaced.process.id })
    await cluster.until('it leads', () => cluster.leader() === replaced)
    // `down` knows the id with the old directory, and the leader only from its frames.
    await cluster.start(down)
    await cluster.propose(replaced, 'x')
    await cluster.until('it follows', () => down.commands.includes('x'))
    expect(down.running.status().leader).to.equal(replaced.process.id)
  })

  it('scenario 51: a leader that removes itself goes on until that is decided, then stops', async () => {
    const { cluster, leader } = await formed()
    await cluster.propose(leader, 'x')
    await remove(cluster, leader.process.id)
    await cluster.until('another leads', () => {
      const next = cluster.leader()
      return next !== undefined && next !== leader
    })
    const next = await cluster.untilLeader()
    await cluster.propose(next, 'y')
    expect(Object.keys(roles(next))).to.have.length(2)
    await cluster.until('it stops', () => leader.fatal !== undefined)
  })

  it('a removal that would stop the cluster is refused', async () => {
    const { cluster, leader } = await formed()
    const [a, b] = cluster.hosts.filter((host) => host !== leader)
    if (a === undefined || b === undefined) throw new Error('roles')
    cluster.crash(a)
    await cluster.until('its death is seen', () => !leader.running.status().peers.every((peer) => peer.reachable))
    const error = await refusal(cluster, leader.running.removeMember(b.process.id))
    expect(error.code).to.equal('CONDITION_FAILED')
    expect(error.message).to.contain('only 1 of the 2')
    await remove(cluster, a.process.id)
    expect(Object.keys(roles(leader))).to.have.length(2)
    const unknown = await refusal(cluster, leader.running.removeMember('m9'))
    expect(unknown.message).to.contain('no member')
  })

  it('a cluster of version 1 changes no members', async () => {
    const cluster = new Cluster(three)
    for (const host of cluster.hosts) host.options = { version: 1 }
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    expect((await refusal(cluster, leader.running.addMember('m4', 'm4:1'))).message).to.contain('version 1')
    expect((await refusal(cluster, leader.running.removeMember('m2'))).message).to.contain('version 1')
    expect(m4.running.clusterId()).to.equal(undefined)
  })

  it('a program that is too old for the cluster is not added', async () => {
    const { cluster, leader } = await formed()
    const m4 = cluster.join('m4', { versionMax: 1 })
    await cluster.start(m4)
    await cluster.run(1500)
    expect((await refusal(cluster, leader.running.addMember('m4', 'm4:1'))).message).to.contain('upgrade it')
  })

  it('a member that comes back under another address is followed there', async () => {
    const { cluster, leader } = await formed()
    const host = cluster.hosts.find((item) => item !== leader)
    if (host === undefined) throw new Error('no follower')
    cluster.crash(host)
    host.options = { advertise: ['elsewhere:9'] }
    await cluster.start(host)
    const { id } = host.process
    const known = (): readonly string[] | undefined =>
      leader.running.status().peers.find((peer) => peer.id === id)?.addresses
    await cluster.until('the leader knows', () => known()?.join() === 'elsewhere:9')
    const other = cluster.hosts.find((item) => item !== leader && item !== host)
    await cluster.until('the others know', () => {
      const peer = other?.running.status().peers.find((item) => item.id === id)
      return peer?.addresses.join() === 'elsewhere:9'
    })
  })

  it('what somebody else says of where a member is reached changes nothing', async () => {
    const { cluster, leader } = await formed()
    const [host, other] = cluster.hosts.filter((item) => item !== leader)
    if (host === undefined || other === undefined) throw new Error('no followers')
    const { id } = host.process
    const client = cluster.net.client(other.process)
    const hello = { from: 'x', incarnation: '', clusterId: '', peers: [], addresses: [] }
    const ask = async (address: string, request: typeof hello | holdfast.v1.HelloRequest.$Properties) => {
      const outcome = await cluster.outcome(client.call(address, raftMethods.hello, request, { timeoutMs: 1000 }))
      if ('error' in outcome) throw outcome.error
      return outcome.value
    }
    const { incarnation, clusterId } = await ask(host.address, hello)
    cluster.crash(host)
    const before = leader.running.status().commit
    for (const addresses of [['not an address'], ['h:99999'], ['nobody:1'], [other.address]]) {
      await ask(leader.address, { from: id, incarnation, clusterId, peers: [], addresses })
      await cluster.run(3000)
    }
    const known = leader.running.status().peers.find((peer) => peer.id === id)?.addresses
    expect(known).to.deep.equal([host.address])
    expect(leader.running.status().commit).to.equal(before)
    expect([leader.fatal, other.fatal]).to.deep.equal([undefined, undefined])
  })

  it('a founder that was not told of its cluster does not take the answer of a later member for the founders', async () => {
    const cluster = new Cluster(three)
    await cluster.startAll()
    const m3 = cluster.host('m3')
    await cluster.until('it is formed', () => cluster.events.some((item) => item.event === 'cluster formed'))
    // It answered as a founder, and misses what came of it.
    cluster.crash(m3)
    const leader = await cluster.untilLeader()
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    expect(await add(cluster, m4)).to.equal(true)
    for (const host of cluster.hosts) {
      if (host === m3 || host === m4) continue
      cluster.net.cut(m3.process, host.process)
      cluster.net.cut(host.process, m3.process)
    }
    await cluster.start(m3, cluster.hosts)
    await cluster.until('it asks for a founder', () =>
      cluster.events.some((item) => item.event === 'waiting for a founder of the cluster to answer'),
    )
    expect(m3.running.clusterId()).to.equal(undefined)
    cluster.net.heal()
    await cluster.propose(leader, 'x')
    await cluster.until('it follows', () => m3.commands.join() === leader.commands.join())
    expect(m3.fatal).to.equal(undefined)
  })
})

describe('raft transfer', () => {
  it('is done within 50 ms and names the new leader', async () => {
    const { cluster, leader } = await formed()
    await cluster.propose(leader, 'x')
    const beganMs = cluster.world.nowMs
    const outcome = await cluster.outcome(leader.running.transfer(undefined))
    expect(cluster.world.nowMs - beganMs).to.be.below(50)
    if (!('value' in outcome)) throw new Error('not handed over')
    expect(outcome.value).to.not.equal(leader.process.id)
    const next = cluster.host(outcome.value)
    await cluster.until('it leads', () => cluster.leader() === next)
    await cluster.propose(next, 'y')
  })

  it('holds what is proposed meanwhile, and then says where the new leader is', async () => {
    const { cluster, leader } = await formed()
    await cluster.propose(leader, 'x')
    const moved = cluster.outcome(leader.running.transfer(undefined))
    const error = await refusal(cluster, leader.running.propose(utf8('y')))
    const outcome = await moved
    if (!('value' in outcome)) throw new Error('not handed over')
    expect(error.code).to.equal('NOT_LEADER')
    expect(error.outcome).to.equal('definite')
    expect(error.details.leader).to.deep.equal([cluster.host(outcome.value).address])
  })

  it('that fails lets go what was held, and it is carried out', async () => {
    const { cluster, leader } = await formed()
    const [a, b] = cluster.hosts.filter((host) => host !== leader)
    if (a === undefined || b === undefined) throw new Error('roles')
    cluster.pause(a)
    const moved = refusal(cluster, leader.running.transfer(a.process.id))
    const held = cluster.outcome(leader.running.propose(utf8('z')))
    expect((await moved).code).to.equal('TIMEOUT')
    expect(await held).to.have.property('value')
    await cluster.until('it is applied', () => b.commands.includes('z'))
  })

  it('scenario 89: to a learner, a stranger, a silent or lagging member it fails cleanly', async () => {
    const { cluster, leader } = await formed()
    const [a] = cluster.hosts.filter((host) => host !== leader)
    if (a === undefined) throw new Error('no follower')
    const m4 = cluster.join('m4')
    await cluster.start(m4)
    await cluster.run(1500)
    const adding = leader.running.addMember('m4', m4.address)
    adding.catch(() => undefined)
    await cluster.until('it is a learner', () => roles(leader)['m4'] === 'learner')
    for (const to of ['m4', 'm9']) {
      const error = await refusal(cluster, leader.running.transfer(to))
      expect(error.code).to.equal('CONDITION_FAILED')
    }
    cluster.crash(a)
    await cluster.until('its death is seen', () => {
      const peer = leader.running.status().peers.find((item) => item.id === a.process.id)
      return peer?.reachable === false
    })
    expect((await refusal(cluster, leader.running.transfer(a.process.id))).message).to.contain('does not answer')
    await cluster.propose(leader, 'still here')
  })

  it('a target that dies in the middle is a TIMEOUT, and writes go on', async () => {
    const { cluster, leader } = await formed()
    const [a] = cluster.hosts.filter((host) => host !== leader)
    if (a === undefined) throw new Error('no follower')
    cluster.pause(a)
    const error = await refusal(cluster, leader.running.transfer(a.process.id))
    expect(error.code).to.equal('TIMEOUT')
    expect(error.outcome).to.equal('definite')
    await cluster.propose(leader, 'x')
    cluster.resume(a)
    await cluster.until('it follows', () => a.commands.join() === 'x')
  })

  it('scenario 90: a transfer interrupted by the loss of leadership leaves nothing behind', async () => {
    const { cluster, leader } = await formed()
    const [a, b] = cluster.hosts.filter((host) => host !== leader)
    if (a === undefined || b === undefined) throw new Error('roles')
    cluster.pause(a)
    leader.running.transfer(a.process.id).catch(() => undefined)
    cluster.isolate(leader)
    cluster.resume(a)
    await cluster.until('another leads', () => cluster.leader() !== leader && cluster.leader() !== undefined)
    cluster.net.heal()
    const next = await cluster.untilLeader()
    await cluster.until('the old one follows', () => leader.running.status().leader === next.process.id)
    const back = await cluster.outcome(next.running.transfer(leader.process.id))
    expect(back).to.deep.equal({ value: leader.process.id })
    await cluster.until('it leads again', () => cluster.leader() === leader)
    await cluster.propose(leader, 'writes are taken')
  })

  it('scenario 88: waiters are released by a stop, a step-down, and a failure', async () => {
    const { cluster, leader } = await formed()
    cluster.isolate(leader)
    const write = leader.running.propose(utf8('x'))
    const read = leader.running.barrier()
    const [written, seen] = await Promise.all([refusal(cluster, write), settled(read)])
    expect(written.outcome).to.equal('unknown')
    expect(isStoreError(seen) && seen.outcome).to.equal('definite')
    cluster.net.heal()
    const next = await cluster.untilLeader()
    const late = next.running.propose(utf8('y'))
    late.catch(() => undefined)
    await cluster.outcome(next.running.stop())
    const outcome = await cluster.outcome(late)
    expect('value' in outcome || isStoreError(outcome.error)).to.equal(true)
    expect((await refusal(cluster, next.running.propose(utf8('z')))).code).to.equal('SHUTTING_DOWN')
  })
})
