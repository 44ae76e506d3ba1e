/**
 * A rolling upgrade from 0.1.0 to this build on real processes, under load from clients of both versions: node by node
 * on the same directories, back and forth before the cluster version is raised, never back after it.
 */

import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import { TestCluster } from './cluster.ts'
import { cliPath, until } from './processes.ts'
import { type Release, release010 } from './released.ts'
import { PutGetStream, verifyAll } from './stream.ts'

export interface UpgradeRun {
  /** Also rolls all nodes back, and forward again, before the version is raised. */
  readonly allBack: boolean
}

class Upgrade {
  readonly #cluster: TestCluster
  readonly #streams: readonly PutGetStream[]

  constructor(cluster: TestCluster, streams: readonly PutGetStream[]) {
    this.#cluster = cluster
    this.#streams = streams
  }

  /** Puts of both clients go on. */
  async #untilPuts(): Promise<void> {
    const wanted = this.#streams.map((stream) => stream.acknowledged + 3)
    await until('puts of both versions go on', () => {
      if (this.#streams.every((stream, i) => stream.acknowledged >= (wanted[i] as number))) return true
      throw new Error(this.#streams.map((stream) => stream.lastError ?? 'no failure').join('; '))
    })
  }

  /** Stops a node in order and starts it with another build, on the same directory. */
  async replace(id: string, build: string): Promise<void> {
    const ended = await this.#cluster.kill(id, 'SIGTERM')
    expect(ended.code, `${id} stops in order: ${ended.stderr}`).to.equal(0)
    this.#cluster.node(id).build = build
    this.#cluster.startNode(id)
    await this.#cluster.untilReady(id)
    await this.#untilPuts()
  }

  async replaceAll(build: string): Promise<void> {
    for (const { id } of this.#cluster.nodes) {
      if (this.#cluster.node(id).build !== build) await this.replace(id, build)
    }
  }
}

/** Rejects when anything that was acknowledged is not there at the end, byte for byte, or when a step fails. */
export async function runUpgrade(run: UpgradeRun): Promise<void> {
  const old: Release = await release010()
  const cluster = await TestCluster.start({ meta: 3, storage: 3, zones: 3, build: old.cli })
  const stores = [await old.connect({ meta: cluster.meta }), await connect({ meta: cluster.meta })]
  const [oldStore, newStore] = stores as [(typeof stores)[0], (typeof stores)[0]]
  let streams: PutGetStream[] = []
  try {
    await oldStore.buckets.create('upgrade')
    streams = [
      new PutGetStream(oldStore, 'upgrade', 'by-old', 30_000, 1, 1),
      new PutGetStream(newStore, 'upgrade', 'by-new', 30_000, 1, 1),
    ]
    const upgrade = new Upgrade(cluster, streams)
    const version = async (): Promise<number> => (await newStore.admin.status()).clusterVersion

    await upgrade.replace('m1', cliPath)
    await upgrade.replace('m1', old.cli)
    await upgrade.replaceAll(cliPath)
    expect(await version()).to.equal(1)
    if (run.allBack) {
      await upgrade.replaceAll(old.cli)
      await upgrade.replaceAll(cliPath)
      expect(await version()).to.equal(1)
    }
    await cluster.ok(['upgrade', '--yes'])
    await until('the version is raised', async () => (await version()) === 2)
    await cluster.untilAgreed()
    await expectOldRefused(cluster, 'm1', old)
    const reports = await Promise.all(streams.map(async (stream) => await stream.stop()))
    for (const report of reports) {
      expect(report.errors).to.deep.equal([])
      await verifyAll(newStore, 'upgrade', report.acknowledged)
    }
    await cluster.untilAgreed()
  } finally {
    await Promise.allSettled(streams.map(async (stream) => await stream.stop()))
    await Promise.all(stores.map(async (store) => await store.close()))
    await cluster.stop()
  }
}

/** The old program does not start on the directory of a cluster that was raised, says why in one line, and harms nothing. */
async function expectOldRefused(cluster: TestCluster, id: string, old: Release): Promise<void> {
  const node = cluster.node(id)
  await cluster.kill(id, 'SIGTERM')
  node.build = old.cli
  cluster.startNode(id)
  const ended = await cluster.ended(id)
  expect(ended.code, ended.stderr).to.equal(1)
  expect(ended.stderr).to.match(/version 2, this program knows 1; upgrade it/)
  node.build = cliPath
  cluster.startNode(id)
  await cluster.untilReady(id)
}
