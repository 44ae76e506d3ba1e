/**
 * Two meta nodes and a witness, real processes: any one of the three may be lost and writes go on; while one full node is
 * alone it says so, and losing it then means waiting for it, never losing what it acknowledged (docs/RULES.md, rule 8).
 */

import { readdir } from 'node:fs/promises'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { MetaLoad } from '../support/meta-load.ts'
import { until } from '../support/processes.ts'

describe('real processes: two meta nodes and a witness', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store
  let load: MetaLoad

  before(async () => {
    cluster = await TestCluster.start({ storage: 0, witnesses: ['m3'] })
    store = await connect({ meta: cluster.meta })
    load = await MetaLoad.start(store)
    await load.goesOn()
  })

  after(async () => {
    await load?.stop()
    await store?.close()
    await cluster?.stop()
  })

  async function full(): Promise<{ leader: string; other: string }> {
    const leader = await cluster.leader()
    expect(leader).not.to.equal('m3')
    return { leader, other: leader === 'm1' ? 'm2' : 'm1' }
  }

  async function hasCode(code: string): Promise<boolean> {
    return (await store.admin.status()).codes.some((one) => one.code === code)
  }

  /** The node runs again, and the full nodes hold the same state. */
  async function back(id: string): Promise<void> {
    cluster.startNode(id)
    await until('nobody is alone', async () => !(await hasCode('META_ONE_COPY')))
    await load.goesOn()
    await cluster.untilAgreed(['m1', 'm2'])
  }

  it('shows its role, and keeps no state', async () => {
    const { meta } = await store.admin.status()
    expect(meta.find((node) => node.id === 'm3')?.role).to.equal('witness')
    expect(await readdir(cluster.node('m3').directory)).not.to.include('state')
  })

  it('goes on without the other full node, says so, and has two copies again when it is back', async () => {
    const { other } = await full()
    await cluster.kill(other)
    await load.goesOn()
    await until('it is said', async () => await hasCode('META_ONE_COPY'))
    await back(other)
  })

  it('goes on when the leader is lost: the other one leads with the witness', async () => {
    const { leader, other } = await full()
    await cluster.kill(leader)
    await load.goesOn()
    expect(await cluster.leader()).to.equal(other)
    await back(leader)
  })

  it('goes on without the witness, with two copies', async () => {
    await cluster.kill('m3')
    await load.goesOn()
    expect(await hasCode('META_ONE_COPY')).to.equal(false)
    await back('m3')
  })

  it('waits for the leader that was alone, when it is lost: what it acknowledged is not given up', async () => {
    const { leader, other } = await full()
    await cluster.kill(other)
    await load.goesOn()
    await cluster.kill(leader)
    cluster.startNode(other)
    await until('the other one answers', async () => {
      const status = await store.admin.survey()
      return status.meta.some((node) => node.reachable)
    })
    const refused = await store
      .put('load', 'while-nobody-may-lead', '', { timeoutMs: 3000 })
      .catch((error: unknown) => error)
    expect(isStoreError(refused) && refused.code, String(refused)).to.be.oneOf(['NO_QUORUM', 'UNAVAILABLE', 'TIMEOUT'])
    await back(leader)
  })

  it('has everything acknowledged', async () => {
    await load.finish()
  })
})
