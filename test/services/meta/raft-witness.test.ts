/** Two members and a witness: formation, one copy, its end, snapshots by mark; on simulated disks and network. */

import { expect } from 'chai'
import { utf8 } from '../../../src/base/bytes.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import { Cluster, type Host } from './raft-cluster.ts'

interface Roles {
  readonly cluster: Cluster
  readonly leader: Host
  readonly other: Host
  readonly witness: Host
}

async function formed(limits = {}): Promise<Roles> {
  const cluster = new Cluster(['w1', 'x1', 'x2'], limits)
  const witness = cluster.host('w1')
  witness.options = { witness: true }
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  const other = cluster.hosts.find((host) => host !== leader && host !== witness)
  if (other === undefined) throw new Error('no other')
  return { cluster, leader, other, witness }
}

describe('raft witness', () => {
  it('the lowest id that is no witness founds; the witness is told apart and never leads', async () => {
    const { cluster, leader, witness } = await formed()
    await cluster.propose(leader, 'x')
    const roles = leader.running.status().peers.map((peer) => [peer.id, peer.role])
    expect(roles).to.deep.include(['w1', 'witness'])
    expect(cluster.events.find((item) => item.event === 'cluster formed')?.host).to.equal('x1')
    const outcome = await cluster.outcome(witness.running.propose(utf8('y')))
    if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
    expect(outcome.error.code).to.equal('NOT_LEADER')
    expect(outcome.error.message).to.contain('witness')
    expect(outcome.error.details.leader).to.deep.equal([leader.address])
    const read = await cluster.outcome(witness.running.barrier())
    expect('error' in read).to.equal(true)
  })

  it('holds no payload of any command', async () => {
    const { cluster, leader, witness } = await formed()
    for (let i = 0; i < 20; i++) await cluster.propose(leader, `secret-${i}`)
    await cluster.run(2000)
    let entries = 0
    for (let index = 1; index < 40; index++) {
      if (witness.logEntry(index) !== undefined) entries++
    }
    for (const number of witness.extents.numbers) {
      const bytes = witness.extents.peek(number) ?? new Uint8Array(0)
      expect(Buffer.from(bytes).includes('secret'), `segment ${number}`).to.equal(false)
    }
    expect(entries).to.be.above(5)
  })

  it('losing the other full member: writes go on with one copy, and status says so until it is back', async () => {
    const { cluster, leader, other } = await formed()
    await cluster.propose(leader, 'x')
    cluster.crash(other)
    await cluster.propose(leader, 'y')
    expect(leader.running.status().solo).to.equal(true)
    await cluster.propose(leader, 'z')
    await cluster.start(other)
    await cluster.until('it caught up', () => other.commands.join() === 'x,y,z')
    await cluster.until('two copies again', () => !leader.running.status().solo)
    await cluster.propose(leader, 'after')
  })

  it('losing the leader: the other one is elected with the witness, nothing acknowledged is lost', async () => {
    const { cluster, leader, other } = await formed()
    for (let i = 0; i < 10; i++) await cluster.propose(leader, `x${i}`)
    cluster.crash(leader)
    const next = await cluster.untilLeader()
    expect(next).to.equal(other)
    await cluster.propose(next, 'y')
    expect(next.commands).to.deep.equal([...Array.from({ length: 10 }, (_, i) => `x${i}`), 'y'])
    await cluster.start(leader)
    await cluster.until('it caught up', () => leader.commands.length === 11)
  })

  it('losing the witness costs nothing', async () => {
    const { cluster, leader, other, witness } = await formed()
    cluster.crash(witness)
    await cluster.propose(leader, 'x')
    expect(leader.running.status().solo).to.equal(false)
    await cluster.until('both have it', () => other.commands.join() === 'x')
    await cluster.start(witness)
    await cluster.run(2000)
    await cluster.propose(leader, 'y')
  })

  it('losing the leader that went on alone: unavailable until it returns, and then nothing is lost', async () => {
    const { cluster, leader, other } = await formed()
    await cluster.propose(leader, 'x')
    cluster.crash(other)
    await cluster.propose(leader, 'alone')
    cluster.crash(leader)
    await cluster.start(other)
    await cluster.run(10_000)
    expect(cluster.leader()).to.equal(undefined)
    await cluster.start(leader)
    const next = await cluster.untilLeader()
    await cluster.until('it has what was acknowledged', () => next.commands.includes('alone'))
    await cluster.propose(next, 'y')
  })

  it('a witness that is far behind is brought forward by a mark without pieces', async () => {
    const { cluster, leader, witness } = await formed({ compactEntries: 60, trailingEntries: 10 })
    cluster.crash(witness)
    for (let i = 0; i < 400; i++) await cluster.propose(leader, `x${i}`)
    await cluster.start(witness)
    await cluster.until('it was sent', () =>
      cluster.events.some((item) => item.event === 'snapshot sent' && item.fields?.['to'] === 'w1'),
    )
    const match = (): number | undefined => leader.running.status().peers.find((peer) => peer.id === 'w1')?.match
    await cluster.until('it has all', () => match() === leader.running.status().commit)
    cluster.crash(witness)
    await cluster.start(witness)
    await cluster.propose(leader, 'after')
    await cluster.until('it follows after a crash', () => match() === leader.running.status().commit)
    expect(witness.fatal).to.equal(undefined)
  })

  it('is added to two members, and removed again', async () => {
    const cluster = new Cluster(['m1', 'm2'])
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    await cluster.propose(leader, 'x')
    const witness = cluster.join('w1', { witness: true })
    await cluster.start(witness)
    await cluster.run(1500)
    const added = await cluster.outcome(leader.running.addMember('w1', witness.address), 90_000)
    expect(added).to.deep.equal({ value: true })
    const other = cluster.hosts.find((host) => host !== leader && host !== witness)
    if (other === undefined) throw new Error('roles')
    cluster.crash(other)
    await cluster.propose(leader, 'y')
    await cluster.start(other)
    await cluster.until('both have it', () => other.commands.join() === 'x,y')
    await cluster.until('two copies again', () => !leader.running.status().solo)
    const third = cluster.join('m3')
    await cluster.start(third)
    await cluster.run(1500)
    const refused = await cluster.outcome(leader.running.addMember('m3', third.address), 90_000)
    expect('error' in refused && String(refused.error)).to.contain('remove the witness first')
    const removed = await cluster.outcome(leader.running.removeMember('w1'), 90_000)
    expect('value' in removed).to.equal(true)
    await cluster.until('it stops', () => witness.fatal !== undefined)
  })

  it('a list with a witness and not exactly two others forms no cluster', async () => {
    const cluster = new Cluster(['m1', 'w1'])
    cluster.host('w1').options = { witness: true }
    await cluster.startAll()
    await cluster.run(5000)
    expect(cluster.leader()).to.equal(undefined)
    expect(cluster.events.some((item) => item.event.includes('exactly two'))).to.equal(true)
  })

  it('a directory does not change between witness and full member', async () => {
    const { cluster, witness } = await formed()
    cluster.crash(witness)
    witness.options = {}
    await cluster.start(witness)
    await cluster.until('refused', () => witness.startError !== undefined)
    expect(isStoreError(witness.startError) && witness.startError.code).to.equal('USAGE')
  })
})
