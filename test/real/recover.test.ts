/**
 * The majority of the meta nodes is gone for good: a new cluster is made of one survivor, offline. It keeps what the survivor
 * has, deletes nothing until told, and the members of the old incarnation are refused for ever.
 */

import { rm } from 'node:fs/promises'
import { expect } from 'chai'
import { createGrpcClient } from '../../src/drivers/grpc-client.ts'
import { connect } from '../../src/main/index.ts'
import { leaseSpan } from '../../src/model/ids.ts'
import { metaMethods } from '../../src/wire/methods.ts'
import { quietLog } from '../drivers/grpc-kit.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'
import { runCli, until } from '../support/processes.ts'

/** Asks one meta node for leases, many times a millisecond, until it has granted `count`. */
async function granted(address: string, count: number): Promise<number[]> {
  const net = createGrpcClient({ log: quietLog })
  const ids: number[] = []
  const endMs = Date.now() + 20_000
  const ask = async (): Promise<void> => {
    const { id } = await net.call(address, metaMethods.grantLease, { ttlMs: 60_000 }, { timeoutMs: 3_000 })
    ids.push(id)
  }
  while (ids.length < count && Date.now() < endMs) {
    await Promise.allSettled(Array.from({ length: Math.min(8, count) }, ask))
  }
  await net.close()
  if (ids.length < count) throw new Error(`${address} granted ${ids.length} leases`)
  return ids
}

describe('real processes: meta recover', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let lastLease = 0
  const bytes = content(31, 300_000)

  before(async () => {
    cluster = await TestCluster.start({ storage: 3, zones: 3 })
    const store = await connect({ meta: cluster.meta })
    await store.buckets.create('kept')
    for (let i = 0; i < 20; i++) await store.put('kept', `k${i}`, i % 5 === 0 ? bytes : '')
    await store.close()
    await cluster.untilAgreed()
    const addresses = ['m1', 'm2', 'm3'].map((id) => cluster.node(id).address)
    lastLease = (await Promise.any(addresses.map(async (address) => await granted(address, 1))))[0] ?? 0
    await cluster.untilAgreed()
  })

  after(async () => {
    await cluster?.stop()
  })

  async function recover(id: string, ...flags: string[]): ReturnType<typeof runCli> {
    return await runCli(['meta', 'recover', '--data', cluster.node(id).directory, '--id', id, ...flags])
  }

  it('refuses a node that runs, another name, and to do anything without --yes (scenario 92)', async () => {
    const running = await recover('m2', '--yes')
    expect(running.code, running.stderr).to.equal(1)
    expect(running.stderr).to.match(/another process|runs/)
    await Promise.all(['m1', 'm2', 'm3'].map(async (id) => await cluster.kill(id)))
    const other = await runCli(['meta', 'recover', '--data', cluster.node('m2').directory, '--id', 'm1', '--yes'])
    expect(other.code, other.stdout).not.to.equal(0)
    const shown = await recover('m2')
    expect(shown.code).to.equal(4)
    expect(shown.stdout).to.match(/may lose acknowledged metadata/)
  })

  it('makes a cluster of one, which has everything the survivor had, and deletes nothing', async () => {
    const done = await recover('m2', '--yes')
    expect(done.code, done.stderr).to.equal(0)
    cluster.startNode('m2')
    // Clients that do not wait for anything: no id may be granted that the lost members may have granted.
    const leases = await granted(cluster.node('m2').address, 20)
    expect(Math.min(...leases)).to.be.greaterThan(lastLease + 1024 * leaseSpan)
    await cluster.untilReady('m2')
    await cluster.untilUp()
    const store = await connect({ meta: [cluster.node('m2').address] })
    const keys: string[] = []
    for await (const entry of store.list('kept')) keys.push(entry.key)
    expect(keys).to.have.length(20)
    expect(sha256(await (await store.get('kept', 'k5')).bytes())).to.equal(sha256(bytes))
    await store.put('kept', 'after', bytes)
    expect(sha256(await (await store.get('kept', 'after')).bytes())).to.equal(sha256(bytes))
    await store.close()
    expect((await cluster.run(['deletes', 'status'])).stdout).to.match(/held|off|paused/)
  })

  it('refuses the members of the old incarnation, with one line each (scenario 91)', async () => {
    for (const id of ['m1', 'm3']) cluster.startNode(id)
    for (const id of ['m1', 'm3']) {
      const ended = await cluster.ended(id)
      expect(ended.code, ended.stderr).not.to.equal(0)
      expect(ended.stderr).to.match(/recovered|incarnation/)
      expect(ended.stderr).not.to.match(/\n\s+at /)
    }
    expect(await cluster.leader()).to.equal('m2')
  })

  it('grows again by nodes with empty directories, and deletes when it is told to', async () => {
    for (const id of ['m1', 'm3']) {
      const node = cluster.node(id)
      await rm(node.directory, { recursive: true })
      cluster.startNode(id)
      await until(`${id} waits`, () => new RegExp(`meta add ${id}=`).test(node.running?.output() ?? ''))
      await cluster.ok(['meta', 'add', `${id}=${node.address}`])
    }
    await cluster.untilUp()
    await cluster.untilAgreed()
    await cluster.kill('m2')
    const store = await connect({ meta: cluster.meta })
    await until('a newcomer leads', async () => {
      await store.put('kept', 'by-a-newcomer', '')
      return true
    })
    await store.close()
    cluster.startNode('m2')
    await cluster.ok(['deletes', 'resume', '--yes'])
  })
})
