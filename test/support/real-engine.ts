/** The disk engine over the real drivers in a directory, for tests and for the child processes that they kill. */

import { createNodeClock } from '../../src/drivers/clock-node.ts'
import { createNodeEntropy } from '../../src/drivers/entropy-node.ts'
import { openExtentFiles } from '../../src/drivers/extents-node.ts'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import type { Log } from '../../src/ports/log.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import type { DiskOptions } from '../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import { silentLog, silentMetrics, testHasher } from './disk-world.ts'

/** Opens the disk in `directory`, with small extents so that little load rolls and recycles some. */
export async function openRealDisk(
  directory: string,
  options: Partial<DiskOptions> = {},
  log: Log = silentLog,
): Promise<DiskEngine> {
  const deps = {
    files: createFiles(directory),
    extents: await openExtentFiles(directory),
    kv: createLevelFactory(directory),
    hasher: testHasher,
    clock: createNodeClock(),
    entropy: createNodeEntropy(),
    log,
    metrics: silentMetrics,
  }
  const defaults = { path: directory, extentBytes: 4 << 20, reserveBytes: 0, arenaBytes: 16 << 20 }
  return await openDisk(deps, { ...defaults, ...options })
}
