/** Recovery from one survivor, and what keeps the old cluster's members out of the new one. */

import { expect } from 'chai'
import { utf8 } from '../../../src/base/bytes.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import type { Files } from '../../../src/ports/files.ts'
import type { ExtentFile, ExtentFiles } from '../../../src/ports/extents.ts'
import type { NodeStores } from '../../../src/services/meta/log-place.ts'
import { inspectMeta, recoverMeta, type SurvivorReport } from '../../../src/services/meta/recover.ts'
import { Cluster, type Host } from './raft-cluster.ts'

/** Three members that have written something; the survivor is a follower that has it all. */
async function stopped(seed = 1): Promise<{ cluster: Cluster; survivor: Host; lost: Host[] }> {
  const cluster = new Cluster(['m1', 'm2', 'm3'], {}, seed)
  await cluster.startAll()
  const leader = await cluster.untilLeader()
  for (let i = 0; i < 10; i++) await cluster.propose(leader, `x${i}`)
  const survivor = cluster.hosts.find((host) => host !== leader)
  if (survivor === undefined) throw new Error('no follower')
  await cluster.until('it has all', () => survivor.commands.length === 10)
  for (const host of cluster.hosts) cluster.crash(host)
  survivor.process.alive = true
  return { cluster, survivor, lost: cluster.hosts.filter((host) => host !== survivor) }
}

async function run<T>(cluster: Cluster, promise: Promise<T>): Promise<T> {
  const outcome = await cluster.outcome(promise)
  if ('error' in outcome) throw outcome.error
  return outcome.value
}

async function codeOf(cluster: Cluster, promise: Promise<unknown>): Promise<string> {
  const outcome = await cluster.outcome(promise)
  if (!('error' in outcome) || !isStoreError(outcome.error)) throw new Error('not refused')
  return outcome.error.code
}

/** The toy state of the tests lies under another name than the real one: recovery sees an empty state, which is legal. */
function recover(cluster: Cluster, host: Host): Promise<SurvivorReport> {
  return run(cluster, recoverMeta(host.stores()))
}

describe('raft recovery', () => {
  it('scenario 92: one survivor becomes a cluster of its own and keeps everything it had', async () => {
    const { cluster, survivor } = await stopped()
    const before = await run(cluster, inspectMeta(survivor.stores()))
    const report = await recover(cluster, survivor)
    const { id } = survivor.process
    expect(report).to.include({ node: id, role: 'voter', lastIndex: before.lastIndex })
    expect(report.clusterIncarnation).to.be.above(1)
    expect(report.term).to.be.above(before.term)
    expect([...report.membersLost, id].sort()).to.deep.equal(['m1', 'm2', 'm3'])
    cluster.crash(survivor)
    await cluster.start(survivor)
    const leader = await cluster.untilLeader()
    expect(leader).to.equal(survivor)
    expect(survivor.running.clusterIncarnation()).to.equal(report.clusterIncarnation)
    expect(survivor.commands).to.deep.equal(Array.from({ length: 10 }, (_, i) => `x${i}`))
    await cluster.propose(survivor, 'after')
    expect(survivor.running.status().peers.map((peer) => peer.id)).to.deep.equal([id])
  })

  it('refuses a node that runs, an empty directory, another node, and changes nothing when it inspects', async () => {
    const { cluster, survivor } = await stopped()
    const { stores } = { stores: survivor.stores() }
    expect(await codeOf(cluster, recoverMeta(stores, { expect: 'm9' }))).to.equal('CONDITION_FAILED')
    await run(cluster, inspectMeta(stores))
    expect((await run(cluster, inspectMeta(stores))).clusterIncarnation).to.equal(1)
    cluster.crash(survivor)
    await cluster.start(survivor)
    await cluster.run(100)
    expect(await codeOf(cluster, recoverMeta(survivor.stores()))).to.equal('LOCKED')
    const fresh = cluster.join('m9')
    expect(await codeOf(cluster, recoverMeta(fresh.stores()))).to.equal('CONDITION_FAILED')
  })

  it('scenario 91: members of the old incarnation are refused, change nothing and stop', async () => {
    const { cluster, survivor, lost } = await stopped()
    await recover(cluster, survivor)
    cluster.crash(survivor)
    await cluster.start(survivor)
    await cluster.untilLeader()
    await cluster.propose(survivor, 'new')
    const { term } = survivor.running.status()
    // One of them alone: together they would be the old cluster, which nobody can tell from the right one.
    const [old] = lost
    if (old === undefined) throw new Error('nobody lost')
    await cluster.start(old)
    await cluster.until('it stops', () => old.fatal !== undefined)
    expect(old.fatal?.message).to.contain('recovered without it')
    expect(survivor.running.status().term).to.equal(term)
    expect(old.commands).to.not.include('new')
  })

  it('an old member joins the recovered cluster with an empty directory', async () => {
    const { cluster, survivor, lost } = await stopped()
    const { clusterIncarnation } = await recover(cluster, survivor)
    cluster.crash(survivor)
    await cluster.start(survivor)
    await cluster.untilLeader()
    const [old] = lost
    if (old === undefined) throw new Error('nobody lost')
    cluster.wipe(old)
    await cluster.start(old)
    await cluster.run(1500)
    const added = await cluster.outcome(survivor.running.addMember(old.process.id, old.address), 90_000)
    expect(added).to.deep.equal({ value: true })
    expect(old.running.clusterIncarnation()).to.equal(clusterIncarnation)
    await cluster.propose(survivor, 'both')
    await cluster.until('it has all', () => old.commands.includes('both'))
    cluster.crash(old)
    await cluster.start(old)
    await cluster.propose(survivor, 'again')
    await cluster.until('it follows after a crash', () => old.commands.includes('again'))
  })

  it('two survivors that are both recovered are two incarnations', async () => {
    const { cluster, survivor, lost } = await stopped()
    const [other] = lost
    if (other === undefined) throw new Error('nobody lost')
    const first = await recover(cluster, survivor)
    other.process.alive = true
    const second = await recover(cluster, other)
    expect(second.clusterIncarnation).to.not.equal(first.clusterIncarnation)
  })

  it('what a log holds beyond what is known to be committed is kept', async () => {
    const cluster = new Cluster(['m1', 'm2', 'm3'])
    await cluster.startAll()
    const leader = await cluster.untilLeader()
    await cluster.propose(leader, 'x')
    cluster.isolate(leader)
    leader.running.propose(utf8('alone')).catch(() => undefined)
    await cluster.run(20)
    for (const host of cluster.hosts) cluster.crash(host)
    leader.process.alive = true
    const report = await recover(cluster, leader)
    expect(report.lastIndex).to.be.above(report.committedIndex)
    cluster.crash(leader)
    cluster.net.heal()
    await cluster.start(leader)
    await cluster.untilLeader()
    expect(leader.commands).to.deep.equal(['x', 'alone'])
  })

  it('a crash at any of its writes: the node refuses to start until recovery was run again, which then is whole', async () => {
    for (let step = 1; ; step++) {
      const { cluster, survivor } = await stopped(step)
      const broken = failingAt(survivor.stores(), step)
      const first = await cluster.outcome(recoverMeta(broken.stores))
      cluster.crash(survivor)
      if ('error' in first) {
        await cluster.start(survivor)
        await cluster
          .until(
            'it starts or refuses',
            () => {
              return survivor.startError !== undefined || survivor.replicator?.status().leader !== undefined || false
            },
            3000,
          )
          .catch(() => undefined)
        const refused = isStoreError(survivor.startError) ? survivor.startError.code : 'started'
        expect(['CONDITION_FAILED', 'started'], `write ${step}`).to.include(refused)
        const incarnation = survivor.running.clusterIncarnation()
        cluster.crash(survivor)
        survivor.process.alive = true
        const again = await recover(cluster, survivor)
        if (refused === 'started') expect(again.clusterIncarnation, `write ${step}`).to.be.above(incarnation)
        cluster.crash(survivor)
      }
      await cluster.start(survivor)
      await cluster.untilLeader()
      expect(survivor.commands, `write ${step}`).to.have.length(10)
      await cluster.propose(survivor, 'after')
      if (!('error' in first)) {
        expect(step).to.be.above(5)
        return
      }
    }
  })
})

/** Stores whose write number `at` (counted over files and log) fails; it may or may not have happened. */
function failingAt(stores: NodeStores, at: number): { stores: NodeStores } {
  let writes = 0
  const pass = async (work: () => Promise<void>): Promise<void> => {
    writes++
    if (writes > at) throw new Error('gone')
    if (writes === at && at % 2 === 0) throw new Error('gone before')
    await work()
    if (writes === at) throw new Error('gone after')
  }
  const files: Files = {
    ...stores.files,
    write: (name, bytes) => pass(() => stores.files.write(name, bytes)),
    overwrite: (name, bytes) => pass(() => stores.files.overwrite(name, bytes)),
  }
  const failing = (file: ExtentFile): ExtentFile => {
    return { ...file, write: (bytes, offset) => pass(() => file.write(bytes, offset)) }
  }
  const segments = async (): Promise<ExtentFiles> => {
    const extents = await stores.segments()
    return { ...extents, open: async (number, durable) => failing(await extents.open(number, durable)) }
  }
  return { stores: { ...stores, files, segments } }
}
