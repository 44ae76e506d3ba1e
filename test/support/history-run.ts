/** One run of history clients against a cluster of real processes in trouble, judged at its end. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { Prng } from '../../src/base/prng.ts'
import { checkLinearizable } from '../../src/sim/check/linearizable.ts'
import { TestCluster } from './cluster.ts'
import { HistoryClients } from './history-clients.ts'
import { faketimeEnv, type Trouble, World } from './nemesis.ts'
import { until } from './processes.ts'

export interface HistoryRun {
  readonly meta: number
  /** Which troubles hit whom, and what the clients do, as far as real processes let it be repeated. */
  readonly seed: number
  /** Gone through in this order, once. */
  readonly troubles: readonly Trouble[]
  /** How long each lasts, least and most. */
  readonly lastMs: readonly [number, number]
  readonly clients: number
  /** Storage nodes; without any, all objects are empty. */
  readonly storage?: number
  /** libfaketime to start the meta nodes under. */
  readonly faketime?: string | undefined
}

/** Writes that must be acknowledged after a trouble before the next begins. */
const writesBetween = 30
/** A loaded machine takes long to start five processes; a cluster that is stuck takes for ever. */
const recoverMs = 60_000

/** Clock files for the meta nodes, and the environment that makes each node obey its own. */
async function clockFiles(
  run: HistoryRun,
  directory: string,
): Promise<{ files: Map<string, string>; env: (id: string) => Record<string, string> }> {
  const files = new Map<string, string>()
  if (run.faketime === undefined) return { files, env: () => ({}) }
  const library = run.faketime
  for (let i = 1; i <= run.meta; i++) {
    const file = join(directory, `clock-m${i}`)
    await writeFile(file, '+0s\n')
    files.set(`m${i}`, file)
  }
  return { files, env: (id) => faketimeEnv(library, files.get(id) ?? '') }
}

/** Runs the clients through all troubles. Rejects when what they saw is impossible, or when anything acknowledged is lost. */
export async function runHistory(run: HistoryRun): Promise<void> {
  const scratch = await mkdtemp(join(tmpdir(), 'holdfast-clocks-'))
  const { files, env } = await clockFiles(run, scratch)
  const { meta, storage = 0 } = run
  const cluster = await TestCluster.start({ meta, storage, links: true, metaEnv: env })
  let clients: HistoryClients | undefined
  let doing = 'start'
  try {
    const { seed } = run
    clients = await HistoryClients.start({
      meta: cluster.meta,
      clients: run.clients,
      keys: 5,
      seed,
      bytes: storage > 0 ? 2000 : 0,
    })
    const startTerm = await highestTerm(cluster)
    const world = new World(cluster, new Prng(seed).fork('troubles'), run.lastMs, files)
    for (const trouble of run.troubles) {
      doing = trouble.name
      await untilWrites(clients)
      await trouble.run(world)
    }
    doing = 'healed'
    await untilWrites(clients)
    await clients.finish()
    const report = checkLinearizable(clients.operations)
    expect(report.violations, report.violations.join('\n')).to.deep.equal([])
    await cluster.untilAgreed()
    expect(clients.acknowledged.size).to.be.greaterThan(0)
    const elections = run.troubles.filter((trouble) => trouble.elects === true).length
    expect((await highestTerm(cluster)) - startTerm, 'elections').to.be.at.least(elections)
  } catch (error) {
    const file = join(tmpdir(), `holdfast-history-${run.meta}-${run.seed}.json`)
    await writeFile(file, JSON.stringify(clients?.operations ?? [], undefined, 1))
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error)
    const nodes = await describeNodes(cluster)
    throw new Error(`seed ${run.seed}, ${doing}: ${reason}\nhistory: ${file}\n${nodes}`, { cause: error })
  } finally {
    await clients?.close()
    await cluster.stop()
    await rm(scratch, { recursive: true, force: true })
  }
}

async function highestTerm(cluster: TestCluster): Promise<number> {
  const metas = cluster.nodes.filter((node) => node.kind === 'meta')
  const terms = metas.map(async (node) => (await cluster.gauges(node.id)).get('holdfast_raft_term') ?? 0)
  return Math.max(...(await Promise.all(terms)))
}

async function untilWrites(clients: HistoryClients): Promise<void> {
  const before = clients.writes
  await until('writes go on', () => clients.writes >= before + writesBetween || clients.failed, recoverMs)
  if (clients.failed) await clients.finish()
}

/** What each node tells of its Raft, and the last lines that it wrote. */
async function describeNodes(cluster: TestCluster): Promise<string> {
  const told: string[] = []
  for (const node of cluster.nodes) {
    const gauges = [...(await cluster.gauges(node.id))].filter(([name]) => name.startsWith('holdfast_raft_'))
    const raft = gauges.map(([name, value]) => `${name.slice('holdfast_raft_'.length)} ${value}`).join(', ')
    const lines = (node.running?.output() ?? 'not running').split('\n').slice(-12).join('\n  ')
    told.push(`${node.id} (${raft}): ${lines}`)
  }
  return told.join('\n')
}
