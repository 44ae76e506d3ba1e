/** The disk engine over the real drivers, for benches: a disk in a directory, its syncs counted, chunks put and read. */

import { readFileSync } from 'node:fs'
import { createNodeClock } from '../../src/drivers/clock-node.ts'
import { openExtentFiles } from '../../src/drivers/extents-node.ts'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createXxHasher } from '../../src/drivers/hasher-xxhash.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import type { ExtentFiles } from '../../src/ports/extents.ts'
import type { Log } from '../../src/ports/log.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import type { DiskOptions } from '../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'

/** Bytes of one call of `write`, as they come from the network. */
const frameBytes = 512 * 1024

function ignore(): void {}

const quiet: Log = { debug: ignore, info: ignore, warn: ignore, error: ignore, with: () => quiet }

export interface BenchDisk {
  readonly disk: DiskEngine
  readonly extents: ExtentFiles
  /** fdatasyncs of the extent log so far. */
  syncs(): number
}

export async function openBenchDisk(directory: string, options: Omit<DiskOptions, 'path'>): Promise<BenchDisk> {
  const extents = await openExtentFiles(directory)
  let syncs = 0
  const deps = {
    files: createFiles(directory),
    extents,
    kv: createLevelFactory(directory),
    hasher: await createXxHasher(),
    clock: createNodeClock(),
    entropy: { bytes: (length: number) => crypto.getRandomValues(new Uint8Array(length)), unit: Math.random },
    log: quiet,
    metrics: {
      count: ignore,
      gauge: ignore,
      observe: (name: string) => {
        if (name === 'holdfast_disk_sync_seconds') syncs++
      },
    },
  }
  const disk = await openDisk(deps, { path: directory, ...options })
  return { disk, extents, syncs: () => syncs }
}

export async function putChunk(disk: DiskEngine, id: number, chunk: Uint8Array): Promise<void> {
  const writer = await disk.beginPut({ id, length: chunk.length, lease: 1 }, new AbortController().signal)
  for (let at = 0; at < chunk.length; at += frameBytes) writer.write(chunk.subarray(at, at + frameBytes))
  await writer.commit()
}

export async function readChunk(disk: DiskEngine, id: number, offset = 0, length = 0): Promise<void> {
  const reader = await disk.openRead(id, offset, length)
  while ((await reader.next()) !== undefined);
  reader.close()
}

/** Runs `count` tasks, `width` at once. */
export async function inParallel(count: number, width: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

/** Bytes that this process sent to storage since it started (write_bytes), 0 where the system does not tell. */
export function bytesToStorage(): number {
  try {
    return Number(/^write_bytes: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}
