/**
 * What an append to the Raft log costs: the log in segment files against the one in LevelDB, on one disk, in turns.
 *
 * Usage: npm run bench raft-log [-- --seconds 3] [--size 1024] [--batch 1,64] [--dir DIR] [--runs 3]. One append after the other,
 * each synced, of so many entries of `size` bytes; nothing else runs. What is told is the median of the runs: appends a
 * second, the median time of one, and the CPU of the whole process (LevelDB's threads included) for an append and an entry.
 * The log is compacted as a member compacts it, and has been twice when the run begins.
 */

import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { defaultRaftLimits, type Entry } from '../src/core/raft/types.ts'
import { metaStores } from '../src/main/meta-stores.ts'
import { type LogFormat, logFormats } from '../src/services/meta/identity.ts'
import { openPlace } from '../src/services/meta/log-place.ts'
import { median, say } from './lib/figures.ts'

interface Figures {
  readonly perSecond: number
  readonly medianUs: number
  readonly cpuAppendUs: number
}

const { compactEntries, trailingEntries } = defaultRaftLimits
const config = { members: [], outgoing: [] }
const warmEntries = 3 * compactEntries
const warmBatch = 16

async function run(directory: string, format: LogFormat, batch: number, size: number, ms: number): Promise<Figures> {
  const place = await openPlace(metaStores(directory), format)
  await place.create(config)
  const { store } = await place.open(0)
  const payload = new Uint8Array(randomBytes(size))
  const times: number[] = []
  let index = 0
  let compacting: Promise<void> = Promise.resolve()
  const append = async (count = batch): Promise<void> => {
    const entries: Entry[] = []
    for (let i = 0; i < count; i++) entries.push({ index: ++index, term: 1, type: 'command', payload })
    await store.append(undefined, entries, { term: 1, vote: 'm1' }, index - count)
    if (index - store.baseIndex <= compactEntries) return
    await compacting
    compacting = store.compact(index - trailingEntries, 1, { index: 0, config })
  }
  // A log that has been running: it was compacted twice, and its space is used again.
  while (index < warmEntries) await append(warmBatch)
  await compacting
  const cpu = process.cpuUsage()
  const startedMs = performance.now()
  let nowMs = startedMs
  while (nowMs - startedMs < ms) {
    await append()
    const thenMs = nowMs
    nowMs = performance.now()
    times.push(nowMs - thenMs)
  }
  const { user, system } = process.cpuUsage(cpu)
  await compacting
  await store.close()
  const perSecond = (times.length / (nowMs - startedMs)) * 1000
  return { perSecond, medianUs: median(times) * 1000, cpuAppendUs: (user + system) / times.length }
}

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    size: { type: 'string', default: '1024' },
    batch: { type: 'string', default: '1,64' },
    runs: { type: 'string', default: '3' },
    dir: { type: 'string', default: tmpdir() },
  },
})
for (const batch of values.batch.split(',').map(Number)) {
  const figures = new Map<string, Figures[]>()
  for (let i = 0; i < Number(values.runs); i++) {
    for (const [name, format] of Object.entries(logFormats)) {
      const directory = mkdtempSync(join(values.dir, 'holdfast-raft-log-'))
      const one = await run(directory, format, batch, Number(values.size), Number(values.seconds) * 1000)
      rmSync(directory, { recursive: true })
      figures.set(name, [...(figures.get(name) ?? []), one])
    }
  }
  for (const [name, runs] of figures) {
    const of = (pick: (one: Figures) => number): number => median(runs.map(pick))
    const cpuUs = of((one) => one.cpuAppendUs)
    say(
      `${name.padEnd(8)} ${String(batch).padStart(3)} entries of ${values.size} B: ${of((one) => one.perSecond).toFixed(0)} appends/s, ` +
        `median ${of((one) => one.medianUs).toFixed(0)} us, CPU ${cpuUs.toFixed(0)} us an append, ${(cpuUs / batch).toFixed(1)} us an entry`,
    )
  }
}
