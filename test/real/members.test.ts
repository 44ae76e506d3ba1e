/**
 * The members of a real cluster change under load: added, handed leadership, removed, wiped and added again; those that
 * may not take part any more say so and disturb nobody.
 */

import { rm } from 'node:fs/promises'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { MetaLoad } from '../support/meta-load.ts'
import { until } from '../support/processes.ts'

interface MemberLine {
  readonly id: string
  readonly role: string
}

describe('real processes: meta members', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  let load: MetaLoad

  before(async () => {
    cluster = await TestCluster.start({ storage: 0 })
    store = await connect({ meta: cluster.meta })
    load = await MetaLoad.start(store)
  })

  after(async () => {
    await load?.stop()
    await store?.close()
    await cluster?.stop()
  })

  async function roles(): Promise<Record<string, string>> {
    const lines = await cluster.json<MemberLine[]>(['meta', 'ls'])
    return Object.fromEntries(lines.map((line) => [line.id, line.role]))
  }

  async function term(): Promise<number> {
    return (await cluster.gauges(await cluster.leader())).get('holdfast_raft_term') ?? 0
  }

  it('adds a fourth node under load, which catches up and counts', async () => {
    const node = await cluster.newMeta('m4')
    cluster.startNode('m4')
    await until('m4 waits', () => /meta add m4=/.test(node.running?.output() ?? ''))
    await cluster.ok(['meta', 'add', `m4=${node.address}`])
    expect(Object.keys(await roles()).sort()).to.deep.equal(['m1', 'm2', 'm3', 'm4'])
    await load.goesOn()
    await cluster.untilReady('m4')
  })

  it('hands leadership to a node of choice, without a failed put', async () => {
    await cluster.ok(['meta', 'transfer', 'm4'])
    expect(await cluster.leader()).to.equal('m4')
    await load.goesOn()
  })

  it('a removed node stops with one clear line, and again when it comes back; nobody is disturbed (scenario 53)', async () => {
    await cluster.ok(['meta', 'remove', 'm1'])
    const first = await cluster.ended('m1')
    expect(first.code, first.stderr).not.to.equal(0)
    expect(first.stderr).to.match(/m1.*removed.*empty its directory.*meta add/)
    const before = await term()
    cluster.startNode('m1')
    const second = await cluster.ended('m1')
    expect(second.stderr).to.match(/m1.*removed.*empty its directory.*meta add/)
    expect(second.stderr).not.to.match(/\n\s+at /)
    await load.goesOn()
    expect(await term()).to.equal(before)
  })

  it('it comes back as a new member with an empty directory', async () => {
    const node = cluster.node('m1')
    await rm(node.directory, { recursive: true })
    cluster.startNode('m1')
    await until('m1 waits', () => /meta add m1=/.test(node.running?.output() ?? ''))
    await cluster.ok(['meta', 'add', `m1=${node.address}`])
    await cluster.untilReady('m1')
    await load.goesOn()
  })

  it('a wiped member is refused under its old name until it is removed and added (scenario 54)', async () => {
    const leader = await cluster.leader()
    const id = ['m2', 'm3'].find((one) => one !== leader) as string
    const node = cluster.node(id)
    await cluster.kill(id)
    await rm(node.directory, { recursive: true })
    cluster.startNode(id)
    const ended = await cluster.ended(id)
    expect(ended.stderr).to.match(new RegExp(`meta remove ${id}.*meta add ${id}=`))
    await load.goesOn()
    await cluster.ok(['meta', 'remove', id, '--yes'])
    cluster.startNode(id)
    await cluster.ok(['meta', 'add', `${id}=${node.address}`])
    await cluster.untilReady(id)
    expect(Object.keys(await roles()).sort()).to.deep.equal(['m1', 'm2', 'm3', 'm4'])
  })

  it('a learner that never catches up costs nothing, is told of, and counts by itself when it answers again', async () => {
    const node = await cluster.newMeta('m5')
    cluster.startNode('m5')
    await until('m5 waits', () => /meta add m5=/.test(node.running?.output() ?? ''))
    const adding = cluster.run(['meta', 'add', `m5=${node.address}`, '--timeout', '3s'])
    await until('m5 is a learner', async () => (await roles())['m5'] !== undefined)
    if ((await roles())['m5'] === 'learner') process.kill(cluster.pid('m5'), 'SIGSTOP')
    else return // it was faster than the test could look
    try {
      const ended = await adding
      expect(ended.code, ended.stderr).to.equal(5)
      expect(ended.stderr).to.match(/not done within|catch/)
      await load.goesOn()
      // Four voters: one may fail, and the learner counts for nothing.
      const leader = await cluster.leader()
      const victim = ['m2', 'm3', 'm4'].find((id) => id !== leader) as string
      await cluster.kill(victim)
      await load.goesOn()
      cluster.startNode(victim)
    } finally {
      process.kill(cluster.pid('m5'), 'SIGCONT')
    }
    await until('m5 counts', async () => (await roles())['m5'] === 'follower')
  })

  it('has everything acknowledged, and one state on all members', async () => {
    await load.finish()
    await cluster.untilAgreed()
    expect(load.acknowledged.length).to.be.greaterThan(100)
  })
})
