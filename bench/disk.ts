/**
 * How far the disk engine is from the disk: puts and reads through the engine beside bare files that do the same work with
 * the same grouping, in turn, in the same directory.
 *
 * Usage: npm run bench -- disk [--part large,medium,small,read,amplification] [--rounds 5] [--mib 1024] [--dir DIR]
 * Figures are medians of the rounds; the ratios travel between machines, the absolute figures do not. The engine writes into
 * recycled extents: a window of chunks is kept and the oldest is deleted as new ones come. Results go to bench/results/.
 */

import { readdirSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { BareFile, bareReads, timed, type Work } from './lib/disk-floors.ts'
import { type BenchDisk, bytesToStorage, inParallel, openBenchDisk, putChunk, readChunk } from './lib/engine.ts'
import { circumstances, median, rounded, say, writeResults } from './lib/figures.ts'

const KiB = 1024
const MiB = 1024 * KiB
const extentBytes = 128 * MiB
/** Live bytes that the engine keeps while it writes on: what is older is deleted. */
const windowBytes = 512 * MiB

interface Plan {
  readonly parts: ReadonlySet<string>
  readonly rounds: number
  readonly bytes: number
  readonly directory: string
}

function planOf(args: readonly string[]): Plan {
  const { values } = parseArgs({
    args: [...args],
    options: {
      part: { type: 'string', default: 'large,medium,small,read,amplification' },
      rounds: { type: 'string', default: '5' },
      mib: { type: 'string', default: '1024' },
      dir: { type: 'string', default: tmpdir() },
    },
  })
  return {
    parts: new Set(values.part.split(',')),
    rounds: Number(values.rounds),
    bytes: Number(values.mib) * MiB,
    directory: values.dir,
  }
}

interface Pair {
  readonly engine: Work[]
  readonly bare: Work[]
}

interface Figures {
  readonly enginePerSecond: number
  readonly barePerSecond: number
  /** Median over the rounds of engine to bare. */
  readonly ratio: number
  readonly engineCpuSecondsPerGigabyte: number
  readonly bareCpuSecondsPerGigabyte: number
}

/** `units`: what one round did, in operations or megabytes. */
function figuresOf({ engine, bare }: Pair, units: number, bytes: number): Figures {
  const cpu = (works: readonly Work[]): number => rounded(median(works.map((w) => w.cpuSeconds / (bytes / 1e9))), 2)
  return {
    enginePerSecond: rounded(median(engine.map(({ seconds }) => units / seconds))),
    barePerSecond: rounded(median(bare.map(({ seconds }) => units / seconds))),
    ratio: rounded(median(engine.map(({ seconds }, i) => (bare[i]?.seconds ?? Number.NaN) / seconds)), 2),
    engineCpuSecondsPerGigabyte: cpu(engine),
    bareCpuSecondsPerGigabyte: cpu(bare),
  }
}

function show(name: string, unit: string, figures: Figures): void {
  const { enginePerSecond, barePerSecond, ratio } = figures
  say(
    `${name}: engine ${enginePerSecond} ${unit}, bare ${barePerSecond}: ${ratio}; CPU-s/GB ${figures.engineCpuSecondsPerGigabyte} and ${figures.bareCpuSecondsPerGigabyte}`,
  )
}

/** Ids of the chunks that a part has put, oldest first, so that the window can be kept. */
class Window {
  readonly #disk: BenchDisk
  readonly #chunkBytes: number
  #next: number
  #oldest: number

  constructor(disk: BenchDisk, firstId: number, chunkBytes: number) {
    this.#disk = disk
    this.#chunkBytes = chunkBytes
    this.#next = firstId
    this.#oldest = firstId
  }

  async put(chunk: Uint8Array): Promise<void> {
    await putChunk(this.#disk.disk, this.#next++, chunk)
  }

  /** Deletes what is beyond the window. */
  async trim(keepBytes: number): Promise<void> {
    const ids: number[] = []
    while ((this.#next - this.#oldest) * this.#chunkBytes > keepBytes) ids.push(this.#oldest++)
    if (ids.length > 0) await this.#disk.disk.delete(ids)
  }

  get ids(): number[] {
    return Array.from({ length: this.#next - this.#oldest }, (_, i) => this.#oldest + i)
  }
}

function filled(bench: BenchDisk, bytes: number): Uint8Array {
  const chunk = bench.extents.arena(bytes)
  const words = new Uint32Array(chunk.buffer, 0, bytes / 4)
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 0x9e3779b1) >>> 0
  return chunk
}

/** Puts of `chunkBytes`, `width` in flight, against bare writes grouped as the engine grouped its own. */
async function puts(
  plan: Plan,
  bench: BenchDisk,
  { chunkBytes, width, firstId }: { chunkBytes: number; width: number; firstId: number },
): Promise<Figures & { readonly meanGroup: number }> {
  const chunk = filled(bench, chunkBytes)
  const window = new Window(bench, firstId, chunkBytes)
  const bytes = Math.min(plan.bytes, windowBytes)
  const count = Math.floor(bytes / chunkBytes)
  const direct = bench.extents.mode === 'direct'
  const file = await BareFile.make(plan.directory, 'bare', windowBytes, filled(bench, 4 * MiB), direct)
  const pair: Pair = { engine: [], bare: [] }
  let group = width
  let groups = 0
  // One round more than count: in the first neither has recycled space to write into.
  for (let round = 0; round <= plan.rounds + 1; round++) {
    const before = bench.syncs()
    const engine = await timed(() => inParallel(count, width, () => window.put(chunk)))
    group = Math.max(1, Math.round(count / Math.max(1, bench.syncs() - before)))
    await window.trim(0)
    await recycled(bench)
    const pieces = Array.from({ length: group }, () => chunk)
    const bare = await timed(async () => {
      for (let done = 0; done < count; done += group) await file.append(pieces.slice(0, count - done))
    })
    if (round < 2) continue
    pair.engine.push(engine)
    pair.bare.push(bare)
    groups += group
  }
  await file.close()
  return { ...figuresOf(pair, bytes / 1e6, bytes), meanGroup: rounded(groups / plan.rounds, 1) }
}

/** Resolves when the engine has taken back the extents that hold nothing of use. */
async function recycled(bench: BenchDisk): Promise<void> {
  const until = Date.now() + 10_000
  let before = -1
  while (Date.now() < until) {
    const now = bench.disk.status().freeForNewBytes
    if (now === before) return
    before = now
    await new Promise((resolve) => setTimeout(resolve, 1500))
  }
}

/** Durable puts of 4 KiB: 64 in flight share their syncs; the same puts one at a time have each its own. */
async function small(plan: Plan, bench: BenchDisk): Promise<Figures & { readonly meanGroup: number }> {
  const chunk = filled(bench, 4 * KiB)
  const together = 20_000
  const alone = 2_000
  const pair: Pair = { engine: [], bare: [] }
  let id = 300_000_000
  let groups = 0
  for (let round = 0; round <= plan.rounds; round++) {
    const before = bench.syncs()
    const engine = await timed(() => inParallel(together, 64, () => putChunk(bench.disk, id++, chunk)))
    const group = together / Math.max(1, bench.syncs() - before)
    const bare = await timed(() => inParallel(alone, 1, () => putChunk(bench.disk, id++, chunk)))
    if (round === 0) continue
    pair.engine.push(engine)
    const scale = together / alone
    pair.bare.push({ seconds: bare.seconds * scale, cpuSeconds: bare.cpuSeconds * scale })
    groups += group
  }
  return { ...figuresOf(pair, together, together * chunk.length), meanGroup: rounded(groups / plan.rounds, 1) }
}

/** Random reads of 64 KiB out of 4 MiB chunks, from the page cache on both sides, 16 at once. */
async function reads(plan: Plan, bench: BenchDisk): Promise<Figures> {
  const chunkBytes = 4 * MiB
  const block = 64 * KiB
  const count = Math.floor(windowBytes / chunkBytes / 2)
  const first = 400_000_000
  const chunk = filled(bench, chunkBytes)
  await inParallel(count, 4, (i) => putChunk(bench.disk, first + i, chunk))
  const operations = 8_000
  const draw = (): { id: number; at: number } => ({
    id: first + Math.floor(Math.random() * count),
    at: Math.floor(Math.random() * (chunkBytes / block)) * block,
  })
  const path = largestFile(plan.directory)
  const spread = Math.floor(path.size / block)
  const pair: Pair = { engine: [], bare: [] }
  for (let round = 0; round <= plan.rounds; round++) {
    const targets = Array.from({ length: operations }, draw)
    const engine = await timed(() =>
      inParallel(operations, 16, (i) => {
        const { id, at } = targets[i] as { id: number; at: number }
        return readChunk(bench.disk, id, at, block)
      }),
    )
    const offsets = targets.map(() => Math.floor(Math.random() * spread) * block)
    const bare = await bareReads(path.name, block, offsets, 16)
    if (round === 0) continue
    pair.engine.push(engine)
    pair.bare.push(bare)
  }
  return figuresOf(pair, operations, operations * block)
}

function largestFile(directory: string): { name: string; size: number } {
  const files = readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.log') && name.includes('extent-'))
    .map((name) => ({ name: join(directory, name), size: statSync(join(directory, name)).size }))
    .sort((a, b) => b.size - a.size)
  const largest = files[0]
  if (largest === undefined) throw new Error('the engine has made no extent')
  return largest
}

/** Bytes sent to the disk for each byte stored in 4 MiB chunks, a fifth of which are deleted and compacted away. */
async function amplification(plan: Plan, bench: BenchDisk): Promise<{ readonly writtenPerStored: number }> {
  const chunkBytes = 4 * MiB
  const chunk = filled(bench, chunkBytes)
  const count = Math.floor(plan.bytes / chunkBytes)
  const first = 500_000_000
  const before = bytesToStorage()
  await inParallel(count, 8, (i) => putChunk(bench.disk, first + i, chunk))
  await bench.disk.delete(Array.from({ length: Math.ceil(count / 5) }, (_, i) => first + i * 5))
  await settled(bench)
  return { writtenPerStored: rounded((bytesToStorage() - before) / (count * chunkBytes), 3) }
}

/** Resolves when compaction has done what it wants to do. */
async function settled(bench: BenchDisk): Promise<void> {
  const until = Date.now() + 120_000
  let quiet = 0
  let before = bytesToStorage()
  while (quiet < 5 && Date.now() < until) {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const now = bytesToStorage()
    quiet = now - before < MiB ? quiet + 1 : 0
    before = now
  }
  void bench
}

async function main(): Promise<void> {
  const plan = planOf(process.argv.slice(2))
  const directory = await mkdtemp(join(plan.directory, 'holdfast-bench-'))
  const own = { ...plan, directory }
  const results: Record<string, unknown> = {}
  const bench = await openBenchDisk(directory, { extentBytes, reserveBytes: 64 * MiB })
  say(`extents written in mode ${bench.extents.mode}, ${plan.rounds} rounds`)
  try {
    if (plan.parts.has('large')) {
      for (const width of [1, 4, 16]) {
        const figures = await puts(own, bench, { chunkBytes: 4 * MiB, width, firstId: width * 1_000_000 })
        show(`put 4 MiB, ${width} in flight, group ${figures.meanGroup}`, 'MB/s', figures)
        results[`put4MiB${width}`] = figures
      }
    }
    if (plan.parts.has('medium')) {
      const figures = await puts(own, bench, { chunkBytes: 64 * KiB, width: 16, firstId: 200_000_000 })
      show(`put 64 KiB, 16 in flight, group ${figures.meanGroup}`, 'MB/s', figures)
      results['put64KiB16'] = figures
    }
    if (plan.parts.has('small')) {
      const figures = await small(own, bench)
      show(`put 4 KiB, 64 in flight against 1, group ${figures.meanGroup}`, 'puts/s', figures)
      results['put4KiB64'] = figures
    }
    if (plan.parts.has('read')) {
      const figures = await reads(own, bench)
      show('read 64 KiB at random, 16 at once', 'reads/s', figures)
      results['read64KiB'] = figures
    }
    if (plan.parts.has('amplification')) {
      const figures = await amplification(own, bench)
      say(`4 MiB chunks, a fifth deleted: ${figures.writtenPerStored} bytes written for each stored`)
      results['amplification'] = figures
    }
    const mode = bench.extents.mode
    const path = writeResults('disk', { ...circumstances(), mode, rounds: plan.rounds, results })
    say(`results in ${path}`)
  } finally {
    await bench.disk.close()
    await rm(directory, { recursive: true, force: true })
  }
}

await main()
