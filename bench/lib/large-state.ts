/**
 * What a large state costs: puts beside an empty cluster in turn, resident memory, restart to serving, and the latency of
 * puts while a follower that fell behind is sent a snapshot of all of it.
 */

import { join } from 'node:path'
import { connect } from '../../src/main/index.ts'
import { compare } from './compare.ts'
import type { Contender } from './contender.ts'
import { nowMs, pause, residentMebibytes, rounded, say } from './figures.ts'
import { load } from './load.ts'
import { startMeta } from './meta-cluster.ts'
import { fillWithChunks } from './scale.ts'

const clients = 64
/** More entries than the log keeps for one that is away. */
const entriesBehind = 40_000

/** No storage node runs: nobody shall be declared down for that. */
const flags = ['--suspect-after', '23h', '--down-after', '24h']

async function restartSeconds(start: () => Promise<Contender>): Promise<{ cluster: Contender; seconds: number }> {
  const begin = nowMs()
  const cluster = await start()
  return { cluster, seconds: rounded((nowMs() - begin) / 1000, 2) }
}

/** Puts until so many entries were made while one follower is down. */
async function leaveBehind(cluster: Contender, id: string): Promise<void> {
  await cluster.signal(id, 'SIGKILL')
  for (let made = 0; made < entriesBehind; ) {
    made += (await load(cluster, { kind: 'put', clients: 256, seconds: 5, warmSeconds: 0 })).calls
  }
}

/** Loads until the member has caught up, in rounds; answers the latencies of each. */
async function loadUntilCaughtUp(cluster: Contender, id: string) {
  const store = await connect({ meta: cluster.members.map((member) => member.address) })
  const rounds = []
  try {
    for (;;) {
      const { p50, p99, calls, seconds } = await load(cluster, { kind: 'put', clients, seconds: 5, warmSeconds: 0 })
      rounds.push({ perSecond: rounded(calls / seconds), p50Ms: rounded(p50, 1), p99Ms: rounded(p99, 1) })
      const members = (await store.admin.status()).meta
      const leads = members.find((member) => member.role === 'leader')
      const behind = members.find((member) => member.id === id)
      if (behind?.reachable === true && leads !== undefined && leads.applied - behind.applied < 5_000) return rounds
      if (rounds.length === 60) throw new Error(`${id} did not catch up in five minutes`)
    }
  } finally {
    await store.close()
  }
}

/** The part of the bench with `count` chunk records in the state. */
export async function measureLargeState(scratch: string, count: number, runs: number) {
  const large = { directory: join(scratch, 'large'), basePort: 17_720, name: 'large', flags }
  await (await startMeta(large)).stop()
  const begin = nowMs()
  const directories = ['m1', 'm2', 'm3'].map((id) => join(large.directory, id))
  await fillWithChunks(directories, count)
  say(`${count} chunk records made in ${rounded((nowMs() - begin) / 1000)} s`)
  const empty = await startMeta({ directory: join(scratch, 'empty'), basePort: 17_740, name: 'empty', flags })
  const { cluster, seconds: firstStart } = await restartSeconds(() => startMeta(large))
  try {
    const puts = await compare([cluster, empty], { kind: 'put', clients, seconds: 5, warmSeconds: 2, runs })
    const memory = cluster.members.map(({ pid }) => residentMebibytes(pid))
    await empty.stop()
    const leader = await cluster.leader()
    const follower = cluster.members.find((member) => member.id !== leader.id)?.id as string
    const quiet = await load(cluster, { kind: 'put', clients, seconds: 10, warmSeconds: 2 })
    await leaveBehind(cluster, follower)
    await cluster.restart(follower)
    const during = await loadUntilCaughtUp(cluster, follower)
    const worst = Math.max(...during.map((round) => round.p99Ms))
    say(`p99 ${rounded(quiet.p99, 1)} ms quiet, at most ${worst} ms while a snapshot is sent`)
    const memoryAfter = cluster.members.map(({ pid }) => residentMebibytes(pid))
    await cluster.stop()
    await pause(2000)
    const again = await restartSeconds(() => startMeta(large))
    await again.cluster.stop()
    return {
      chunks: count,
      puts,
      residentMebibytes: memory,
      residentMebibytesAfterSnapshot: memoryAfter,
      secondsToServing: [firstStart, again.seconds],
      quietP99Ms: rounded(quiet.p99, 1),
      whileSnapshotIsSent: during,
    }
  } finally {
    await empty.stop()
    await cluster.stop()
  }
}
