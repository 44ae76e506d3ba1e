/**
 * How far the disk engine is from the disk: puts of 4 MiB chunks against raw appends with fdatasync of the same bytes, in the
 * same run and directory. Run: `node dist/bench/disk.js [MiB] [directory]`; figures depend on the machine, the ratio less so.
 */

import { constants } from 'node:fs'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createNodeClock } from '../src/drivers/clock-node.ts'
import { openExtentFiles } from '../src/drivers/extents-node.ts'
import { createFiles } from '../src/drivers/files-node.ts'
import { createXxHasher } from '../src/drivers/hasher-xxhash.ts'
import { createLevelFactory } from '../src/drivers/kv-level.ts'
import type { Log } from '../src/ports/log.ts'
import { openDisk } from '../src/services/storage/engine/disk.ts'
import type { DiskEngine } from '../src/services/storage/types.ts'

const MiB = 1024 * 1024
const chunkBytes = 4 * MiB
const frameBytes = 512 * 1024

const quiet: Log = { debug: ignore, info: ignore, warn: ignore, error: ignore, with: () => quiet }

function ignore(): void {}

interface Figure {
  readonly megabytesPerSecond: number
  readonly cpuSecondsPerGigabyte: number
}

async function measure(name: string, bytes: number, work: () => Promise<void>): Promise<Figure> {
  const cpu = process.cpuUsage()
  const start = performance.now()
  await work()
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const figure = {
    megabytesPerSecond: bytes / 1e6 / seconds,
    cpuSecondsPerGigabyte: (user + system) / 1e6 / (bytes / 1e9),
  }
  const rate = `${figure.megabytesPerSecond.toFixed(0)} MB/s`.padStart(12)
  console.log(`${name.padEnd(44)} ${rate} ${figure.cpuSecondsPerGigabyte.toFixed(2).padStart(7)} CPU-s/GB`)
  return figure
}

/** Runs `count` tasks, `width` at once. */
async function inParallel(count: number, width: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

async function rawAppend(directory: string, chunk: Uint8Array, count: number, flags: number): Promise<void> {
  const path = join(directory, 'raw')
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT | flags)
  for (let i = 0; i < count; i++) {
    await file.write(chunk, 0, chunk.length, i * chunk.length)
    await file.datasync()
  }
  await file.close()
}

async function putChunk(disk: DiskEngine, id: number, chunk: Uint8Array): Promise<void> {
  const writer = await disk.beginPut({ id, length: chunk.length, lease: 1 }, new AbortController().signal)
  for (let at = 0; at < chunk.length; at += frameBytes) writer.write(chunk.subarray(at, at + frameBytes))
  await writer.commit()
}

async function readChunk(disk: DiskEngine, id: number): Promise<void> {
  const reader = await disk.openRead(id, 0, 0)
  while ((await reader.next()) !== undefined);
  reader.close()
}

async function main(): Promise<void> {
  const totalBytes = Number(process.argv[2] ?? 1024) * MiB
  const directory = await mkdtemp(join(process.argv[3] ?? tmpdir(), 'holdfast-bench-'))
  try {
    const extents = await openExtentFiles(join(directory, 'disk'))
    const count = Math.ceil(totalBytes / chunkBytes)
    const chunk = extents.arena(chunkBytes)
    const words = new Uint32Array(chunk.buffer, 0, chunkBytes / 4)
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 0x9e3779b1) >>> 0

    console.log(`${count} chunks of 4 MiB, extents written in mode ${extents.mode}`)
    const raw = await measure('raw append + fdatasync, buffered, new file', totalBytes, () =>
      rawAppend(directory, chunk, count, 0),
    )
    await rm(join(directory, 'raw'))
    await measure('raw append + fdatasync, O_DIRECT, new file', totalBytes, () =>
      rawAppend(directory, chunk, count, constants.O_DIRECT),
    )
    await rm(join(directory, 'raw'))

    const disk = await openDisk(
      {
        files: createFiles(join(directory, 'disk')),
        extents,
        kv: createLevelFactory(join(directory, 'disk')),
        hasher: await createXxHasher(),
        clock: createNodeClock(),
        entropy: { bytes: (length) => crypto.getRandomValues(new Uint8Array(length)), unit: Math.random },
        log: quiet,
        metrics: { count: ignore, gauge: ignore, observe: ignore },
      },
      { path: directory, extentBytes: 256 * MiB, reserveBytes: 64 * MiB },
    )
    for (const width of [1, 4, 8]) {
      const from = width * 1_000_000
      const name = `engine put, ${width} at once, new extents`
      const put = await measure(name, totalBytes, () =>
        inParallel(count, width, (i) => putChunk(disk, from + i, chunk)),
      )
      console.log(`  ${(put.megabytesPerSecond / raw.megabytesPerSecond).toFixed(2)} of the raw buffered append`)
    }
    await measure('engine read, 4 at once', totalBytes, () =>
      inParallel(count, 4, (i) => readChunk(disk, 1_000_000 + i)),
    )
    const small = new Uint8Array(4096)
    const smalls = 20_000
    const start = performance.now()
    await inParallel(smalls, 128, (i) => putChunk(disk, 100_000_000 + i, small))
    console.log(`engine put of 4 KiB, 128 at once: ${((smalls / (performance.now() - start)) * 1000).toFixed(0)}/s`)
    await disk.close()
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

await main()
