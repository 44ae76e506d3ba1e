/**
 * What the loss of the leader costs those who write, what handing over costs them, and whether a leader is ever lost
 * without need while the machine is busy.
 */

import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { connect, type Store } from '../../src/main/index.ts'
import type { Contender } from './contender.ts'
import { median, nowMs, pause, rounded, say } from './figures.ts'
import { gapUnder } from './load.ts'
import { startCluster } from './processes.ts'

function summary(values: readonly number[]) {
  return { medianMs: rounded(median(values)), eachMs: values.map((value) => rounded(value)) }
}

/** The longest time without an acknowledged write around the loss of the leader; a put goes to the survivors every 10 ms. */
export async function gapsAfter(contender: Contender, runs: number, signal: 'SIGKILL' | 'SIGSTOP') {
  const out: number[] = []
  for (let run = 0; run < runs; run++) {
    const leader = await contender.leader()
    const survivors = contender.members.filter((member) => member.id !== leader.id).map((member) => member.address)
    const times = { seconds: 6, everyMs: 10 }
    const { gapMs } = await gapUnder(contender, survivors, times, () => contender.signal(leader.id, signal))
    out.push(gapMs)
    say(`${signal} of the leader: ${contender.name} ${rounded(gapMs)} ms without an acknowledged write`)
    if (signal === 'SIGKILL') await contender.restart(leader.id)
    else await contender.signal(leader.id, 'SIGCONT')
    await pause(3000)
  }
  return summary(out)
}

/** The longest time without an acknowledged write while leadership is handed over; a put every 2 ms. */
export async function gapsAtTransfer(contender: Contender, runs: number) {
  const addresses = contender.members.map((member) => member.address)
  const store = await connect({ meta: addresses })
  const gaps: number[] = []
  const took: number[] = []
  try {
    for (let run = 0; run < runs; run++) {
      const { gapMs } = await gapUnder(contender, addresses, { seconds: 3, everyMs: 2 }, async () => {
        took.push((await store.admin.meta.transfer()).tookMs)
      })
      gaps.push(gapMs)
      say(
        `transfer of leadership: ${took.at(-1)} ms without a leader, ${rounded(gapMs)} ms without an acknowledged write`,
      )
    }
  } finally {
    await store.close()
  }
  return { withoutWrite: summary(gaps), withoutLeader: summary(took) }
}

async function termOf(store: Store): Promise<number> {
  return Math.max(...(await store.admin.status()).meta.map((node) => node.term))
}

async function* body(bytes: number): AsyncGenerator<Buffer> {
  const block = randomBytes(4 << 20)
  for (let at = 0; at < bytes; at += block.length) yield block
}

const putsAtOnce = 4
const objectBytes = 256 << 20

/** Terms that passed on a full local cluster that large objects are put into without a pause. */
export async function termsUnderLoad(directory: string, minutes: number) {
  const cluster = await startCluster(directory, ['--port', '17600'])
  const store = await connect({ meta: cluster.file.meta.map((node) => node.address) })
  try {
    await store.buckets.create('busy')
    const before = await termOf(store)
    const end = nowMs() + minutes * 60_000
    let stored = 0
    const writer = async (number: number): Promise<void> => {
      while (nowMs() < end) {
        await store.put('busy', `object-${number}`, Readable.from(body(objectBytes)))
        stored += objectBytes
      }
    }
    await Promise.all(Array.from({ length: putsAtOnce }, (_, number) => writer(number)))
    const changes = (await termOf(store)) - before
    const gigabytes = rounded(stored / 1e9, 1)
    say(`${changes} changes of term in ${minutes} minutes of puts, ${gigabytes} GB stored`)
    return { minutes, gigabytes, changesOfTerm: changes }
  } finally {
    await store.close()
    await cluster.stop()
  }
}
