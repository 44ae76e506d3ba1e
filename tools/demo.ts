/**
 * `npm run demo`: the main job without hands, on real processes, in about a minute.
 *
 * Starts a cluster, stores real files, kills a storage node and then the meta leader while clients go on putting and
 * getting, watches the repair, compares every byte by SHA-256, and prints how long each step took. Exits 0 only if
 * nothing was lost. Everything it makes is in a temporary directory that it removes.
 */

import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from '../src/main/index.ts'
import type { ClusterStatus, Store } from '../src/sdk/types.ts'
import { sha256File } from '../test/support/content.ts'
import { freePort, type Running, spawnCli, until } from '../test/support/processes.ts'
import { PutGetStream, verifyAll } from '../test/support/stream.ts'

interface ClusterFile {
  readonly meta: readonly { readonly id: string; readonly address: string; readonly pid: number }[]
  readonly storage: readonly { readonly id: string; readonly zone: string; readonly pid: number }[]
}

const startMs = performance.now()

function say(text: string): void {
  const seconds = ((performance.now() - startMs) / 1000).toFixed(1).padStart(6)
  process.stdout.write(`${seconds} s  ${text}\n`)
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

/** Real files: the node binary and the package's own lock file, protocol and sources. */
async function realFiles(): Promise<string[]> {
  const files = [process.execPath, 'package.json', 'package-lock.json']
  for (const folder of ['proto', 'docs', 'src/core', 'src/model']) {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true })
    files.push(...entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name)))
  }
  return files.sort()
}

async function storeFiles(store: Store, files: readonly string[]): Promise<Map<string, string>> {
  const sums = new Map<string, string>()
  let bytes = 0
  for (const file of files) {
    const key = file.replace(/^\/+/, '')
    const { size } = await stat(file)
    // The binary is put from memory here; the command line streams it.
    await store.put('demo', key, await readFile(file), { write: 'all' })
    sums.set(key, await sha256File(file))
    bytes += size
  }
  say(`stored ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB, each on three disks`)
  return sums
}

function progress(status: ClusterStatus): string {
  const { chunks, repair } = status
  const waiting = Object.values(repair.queue).reduce((sum, count) => sum + count, 0)
  return `${chunks.full} of ${chunks.total} chunks full, ${waiting} waiting, ${repair.running} running: ${status.summary}`
}

/** Kills a storage node under load and follows it until full redundancy. */
async function loseStorage(store: Store, victim: ClusterFile['storage'][number]): Promise<void> {
  const repairedBefore = (await store.admin.status()).repair.repaired
  const t0 = performance.now()
  process.kill(victim.pid, 'SIGKILL')
  say(`T0  killed storage node ${victim.id} (zone ${victim.zone}) with SIGKILL`)
  const health = async (): Promise<string | undefined> =>
    (await store.admin.status()).nodes.find((node) => node.id === victim.id)?.health
  await until('the loss is noticed', async () => (await health()) !== 'up')
  const t1 = performance.now()
  say(`T1  noticed after ${seconds(t1 - t0)}`)
  await until('the node is down', async () => (await health()) === 'down')
  const tDown = performance.now()
  await until('repair starts', async () => {
    const { repair, chunks } = await store.admin.status()
    return repair.running > 0 || repair.repaired > repairedBefore || chunks.full === chunks.total
  })
  const t2 = performance.now()
  say(`T2  repair began after ${seconds(t2 - t0)} (declared down after ${seconds(tDown - t0)}, then the wait)`)
  let shown = 0
  const status = await until(
    'full redundancy',
    async () => {
      const now = await store.admin.status()
      if (performance.now() - shown > 1000) {
        shown = performance.now()
        say(`    ${progress(now)}`)
      }
      return now.chunks.full === now.chunks.total && now.repair.running === 0 ? now : undefined
    },
    120_000,
  )
  const t3 = performance.now()
  say(
    `T3  full redundancy after ${seconds(t3 - t0)}: detection ${seconds(t1 - t0)}, wait ${seconds(t2 - t1)}, copy ${seconds(t3 - t2)}; ${status.repair.repaired - repairedBefore} chunks repaired, ${status.chunks.lost} lost`,
  )
}

/** Kills the meta leader under load; says how long no write was acknowledged. */
async function loseLeader(store: Store, file: ClusterFile, stream: PutGetStream): Promise<void> {
  const leader = (await store.admin.status()).meta.find((meta) => meta.role === 'leader')
  const victim = file.meta.find((meta) => meta.id === leader?.id)
  if (victim === undefined) throw new Error('no meta leader to kill')
  const before = stream.acknowledged
  const t0 = performance.now()
  process.kill(victim.pid, 'SIGKILL')
  say(`T0  killed the meta leader ${victim.id} with SIGKILL`)
  await until('writes are acknowledged again', () => stream.acknowledged > before + 4)
  say(`T4  clients write on after ${seconds(performance.now() - t0)}`)
}

async function verifyFiles(store: Store, sums: ReadonlyMap<string, string>): Promise<void> {
  await verifyAll(store, 'demo', sums)
  say(`verified ${sums.size} files by SHA-256`)
}

async function play(directory: string, up: Running): Promise<void> {
  await until(
    'holdfast is ready',
    () => {
      if (up.child.exitCode !== null) throw new Error(up.output())
      return up.output().includes('holdfast is ready')
    },
    60_000,
  )
  const file = JSON.parse(await readFile(join(directory, 'cluster.json'), 'utf8')) as ClusterFile
  say(`a cluster of ${file.meta.length} meta nodes and ${file.storage.length} storage nodes is up`)
  const store = await connect({ meta: file.meta.map((meta) => meta.address) })
  try {
    await store.buckets.create('demo')
    const sums = await storeFiles(store, await realFiles())
    say('clients now put and get without a pause')
    const stream = new PutGetStream(store, 'demo', 'load', 100_000)
    await until('some puts', () => stream.acknowledged > 10)
    await loseStorage(store, file.storage[1] as ClusterFile['storage'][number])
    await loseLeader(store, file, stream)
    const report = await stream.stop()
    const failed = report.errors.length === 0 ? 'none failed' : `${report.errors.length} failed: ${report.errors[0]}`
    say(
      `the load: ${report.acknowledged.size} puts and ${report.reads} gets, ${failed}; longest gap between two acknowledged puts ${seconds(report.longestGapMs)}`,
    )
    await verifyFiles(store, sums)
    await verifyAll(store, 'demo', report.acknowledged)
    say(`verified ${report.acknowledged.size} objects of the load by SHA-256`)
    if (report.errors.length > 0) throw new Error('clients saw errors')
  } finally {
    await store.close()
  }
}

const directory = await mkdtemp(join(tmpdir(), 'holdfast-demo-'))
const up = spawnCli(['up', '--dir', directory, '--port', String(await freePort())])
try {
  await play(directory, up)
  say('nothing was lost')
} catch (error) {
  say(`FAILED: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
} finally {
  up.child.kill('SIGTERM')
  const giveUp = setTimeout(() => up.child.kill('SIGKILL'), 12_000)
  await up.ended
  clearTimeout(giveUp)
  await rm(directory, { recursive: true, force: true })
}
