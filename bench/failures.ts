/**
 * What failures cost a user, on real processes: the gap in writes after the meta leader is killed, and the time until
 * everything a killed storage node held has three copies again. Usage: npm run bench -- failures [--gib 2] [--runs 5]
 *
 * The gap is the longest time between two acknowledged small puts around the kill, minus nothing: what a client sees.
 * The repair time is told apart into detection, wait and copy, as `status` shows them.
 */

import { randomBytes } from 'node:crypto'
import { mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { parseArgs } from 'node:util'
import { connect, type Store } from '../src/main/index.ts'
import { startCluster } from './lib/processes.ts'

const now = (): number => Number(process.hrtime.bigint()) / 1e6
const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms))

async function leaderGap(store: Store, pidOf: (id: string) => number): Promise<number> {
  const acknowledged: number[] = []
  let running = true
  const writer = (async () => {
    for (let i = 0; running; i++) {
      await store.put('bench', `gap-${i % 100}`, randomBytes(1024))
      acknowledged.push(now())
    }
  })()
  await pause(500)
  const status = await store.admin.status()
  const leader = status.meta.find((node) => node.role === 'leader')
  if (leader === undefined) throw new Error('no leader')
  process.kill(pidOf(leader.id), 'SIGKILL')
  const killed = now()
  while ((acknowledged.at(-1) ?? 0) < killed + 1000) await pause(20)
  running = false
  await writer
  let gap = 0
  for (let i = 1; i < acknowledged.length; i++) {
    gap = Math.max(gap, (acknowledged[i] as number) - (acknowledged[i - 1] as number))
  }
  return gap
}

async function* randomBody(bytes: number): AsyncGenerator<Buffer> {
  const block = randomBytes(4 << 20)
  for (let at = 0; at < bytes; at += block.length) {
    block.writeBigUInt64LE(BigInt(at), 0)
    yield Buffer.from(block)
  }
}

interface Recovery {
  readonly heldGigabytes: number
  readonly downAfterMs: number
  readonly fullAfterMs: number
}

/** Kills the fullest storage node and waits until nothing is short of copies. */
async function recovery(store: Store, pidOf: (id: string) => number): Promise<Recovery> {
  const before = await store.admin.status()
  const victim = [...before.nodes].sort((a, b) => (b.disks[0]?.chunks ?? 0) - (a.disks[0]?.chunks ?? 0))[0]
  if (victim === undefined) throw new Error('no storage node')
  const held = (victim.disks[0]?.chunks ?? 0) * (4 << 20)
  process.kill(pidOf(victim.id), 'SIGKILL')
  const killed = now()
  let down = 0
  for (;;) {
    const status = await store.admin.status()
    if (down === 0 && status.nodes.find((node) => node.id === victim.id)?.health === 'down') down = now() - killed
    if (down !== 0 && status.chunks.degraded === 0) break
    await pause(50)
  }
  return { heldGigabytes: held / 1e9, downAfterMs: down, fullAfterMs: now() - killed }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { gib: { type: 'string', default: '2' }, runs: { type: 'string', default: '5' } },
  })
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-bench-'))
  const gaps: number[] = []
  try {
    for (let run = 0; run < Number(values.runs); run++) {
      const cluster = await startCluster(join(scratch, `gap-${run}`), ['--port', '17600'])
      const store = await connect({ meta: cluster.file.meta.map((node) => node.address) })
      await store.buckets.create('bench')
      gaps.push(await leaderGap(store, (id) => cluster.file.meta.find((node) => node.id === id)?.pid as number))
      await store.close()
      await cluster.stop()
    }
    const cluster = await startCluster(join(scratch, 'recovery'), ['--port', '17600'])
    const store = await connect({ meta: cluster.file.meta.map((node) => node.address) })
    await store.buckets.create('bench')
    const bytes = Math.round((Number(values.gib) * 2 ** 30 * 4) / 3)
    await store.put('bench', 'body', Readable.from(randomBody(bytes)), { write: 'all' })
    const result = await recovery(store, (id) => cluster.file.storage.find((node) => node.id === id)?.pid as number)
    await store.close()
    await cluster.stop()
    process.stdout.write(`${JSON.stringify({ leaderGapMs: gaps.map(Math.round), recovery: result }, null, 2)}\n`)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

await main()
