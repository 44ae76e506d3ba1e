/**
 * The disks of a storage node as a process: opened side by side, each with its share of the I/O threads.
 *
 * A disk that does not open does not keep the others from serving: it is reported to meta as failed, by its id when its
 * identity can be read, else by its directory. A directory that is locked, of another node or cluster, or of a newer format
 * ends the start, because that is a mistake of the operator's; so does a start without any disk.
 */

import { resolve as resolvePath } from 'node:path'
import type { StorageConfig } from '../config/types.ts'
import { sectorBytes } from '../core/chunk/position.ts'
import { openExtentFiles } from '../drivers/extents-node.ts'
import { createFiles, fileError, systemCode } from '../drivers/files-node.ts'
import { createLevelFactory } from '../drivers/kv-level.ts'
import { asStoreError, isStoreError, StoreError } from '../model/errors.ts'
import type { DiskFault } from '../services/storage/disks.ts'
import { openDisk } from '../services/storage/engine/disk.ts'
import { keptOfReserve } from '../services/storage/engine/extent-table.ts'
import { readIdentity } from '../services/storage/engine/identity-file.ts'
import { lostDisk } from '../services/storage/lost-disk.ts'
import type { DiskEngine } from '../services/storage/types.ts'
import type { NodeEnv } from './compose.ts'

/** A reserve below this would not leave the index room to note deletes on a full disk. */
const reserveBytesMin = 64 * 1024 * 1024
/** What libuv makes when nobody says anything. */
const threadsDefault = 4
/** Fewer I/Os at once than these would have writes wait for reads. */
const shareMin = 3

export interface OpenedDisks {
  /** One for each directory whose disk is known, those that did not open too. */
  readonly engines: readonly DiskEngine[]
  /** The directories whose disk is not known. */
  readonly faults: readonly DiskFault[]
}

/** The reserve of a disk in bytes: what is configured, at most 2 % of the filesystem's `totalBytes`, at least 64 MiB. */
export function reserveOf(configuredBytes: number, totalBytes: number): number {
  return Math.max(reserveBytesMin, Math.min(configuredBytes, Math.floor(totalBytes * 0.02)))
}

/**
 * Size of the extents of a disk: what is configured, at most what compaction may take of the reserve, so that what is of use
 * in one extent can be moved on a full disk.
 */
export function extentBytesOf(configuredBytes: number, reserveBytes: number): number {
  return Math.min(configuredBytes, Math.floor((reserveBytes * (1 - keptOfReserve.move)) / sectorBytes) * sectorBytes)
}

/**
 * How many I/Os each of `disks` disks may have under way in a process with so many I/O threads: a disk that hangs keeps its
 * share of them for good, and must leave the others theirs. A disk alone may have all.
 */
export function ioShare(threads: number, disks: number): number {
  return disks === 1 ? Number.POSITIVE_INFINITY : Math.max(shareMin, Math.floor(threads / disks))
}

/** I/O threads of this process: they were made before any code of ours could say how many. */
function ioThreads(): number {
  const set = Number(process.env['UV_THREADPOOL_SIZE'])
  return Number.isSafeInteger(set) && set > 0 ? Math.min(set, 1024) : threadsDefault
}

/** Rejects with DISK_FAILED when the system does not answer. */
async function within<T>(env: NodeEnv, limitMs: number, doing: string, work: Promise<T>): Promise<T> {
  let timer = env.clock.after(0, () => undefined)
  const late = new Promise<never>((_resolve, reject) => {
    timer = env.clock.after(limitMs, () => {
      reject(new StoreError('DISK_FAILED', `${doing}: no answer within ${limitMs} ms; replace the disk`))
    })
  })
  try {
    return await Promise.race([work, late])
  } finally {
    timer.cancel()
  }
}

async function openOne(env: NodeEnv, config: StorageConfig, path: string, ioAtOnce: number): Promise<DiskEngine> {
  const { diskProbeMs, diskSuspectMs, diskFailMs, scrub, compaction } = config
  const look = async () => {
    const extents = await openExtentFiles(path)
    return { extents, space: await extents.space() }
  }
  const { extents, space } = await within(env, diskFailMs, `open disk ${path}`, look())
  const reserveBytes = reserveOf(config.reserveBytes, space.total)
  return openDisk(
    { ...env, files: createFiles(path), extents, kv: createLevelFactory(path) },
    {
      path,
      nodeId: config.id,
      extentBytes: extentBytesOf(config.extentBytes, reserveBytes),
      reserveBytes,
      compaction,
      scrub,
      probeMs: diskProbeMs,
      health: { suspectMs: diskSuspectMs, failMs: diskFailMs },
      ioAtOnce,
    },
  )
}

/** True for failures of one disk that the others need not share. */
function isDiskFault(error: StoreError): boolean {
  return error.code === 'IO' || error.code === 'CORRUPT' || error.code === 'DISK_FAILED' || error.code === 'NO_SPACE'
}

function faultOf(error: unknown, path: string): StoreError {
  const doing = `open disk ${path}`
  return isStoreError(error) || systemCode(error) === undefined ? asStoreError(error, doing) : fileError(error, doing)
}

/** The disk that does not open, if its identity can still be read and is this node's. */
async function lostOne(env: NodeEnv, config: StorageConfig, fault: DiskFault): Promise<DiskEngine | undefined> {
  const { path, reason } = fault
  const sum = (bytes: Uint8Array, out: Uint8Array, at: number): void => env.hasher.sumInto(bytes, out, at)
  try {
    const identity = await within(env, config.diskFailMs, `look at ${path}`, readIdentity(createFiles(path), path, sum))
    if (identity === undefined || (identity.nodeId ?? config.id) !== config.id) return undefined
    const { diskId, clusterId, clusterIncarnation } = identity
    return lostDisk({ id: diskId, path, clusterId, clusterIncarnation, reason })
  } catch {
    return undefined
  }
}

/** Opens every disk. Rejects with USAGE, LOCKED, WRONG_CLUSTER or INCOMPATIBLE_VERSION, or why the last one failed. */
export async function openDisks(env: NodeEnv, config: StorageConfig): Promise<OpenedDisks> {
  const paths = config.disks.map((path) => resolvePath(path))
  if (new Set(paths).size !== paths.length) throw new StoreError('USAGE', 'disks: a directory is given twice')
  const threads = ioThreads()
  const share = ioShare(threads, paths.length)
  if (paths.length > 1 && threads < (paths.length + 1) * shareMin) {
    const wanted = (paths.length + 1) * 8
    const advice = `start with UV_THREADPOOL_SIZE=${wanted}`
    env.log.warn('few I/O threads: disks that hang may hold up the others', { threads, disks: paths.length, advice })
  }
  const opened = await Promise.allSettled(paths.map((path) => openOne(env, config, path, share)))
  const engines: DiskEngine[] = []
  const errors: StoreError[] = []
  const left: DiskFault[] = []
  for (const [i, result] of opened.entries()) {
    const path = paths[i] ?? ''
    if (result.status === 'fulfilled') engines.push(result.value)
    else {
      const error = faultOf(result.reason, path)
      errors.push(error)
      left.push({ path, reason: error.message })
    }
  }
  let stop = errors.find((error) => !isDiskFault(error)) ?? (engines.length === 0 ? errors[0] : undefined)
  const faults: DiskFault[] = []
  for (const fault of stop === undefined ? left : []) {
    env.log.error('disk left out', { path: fault.path, reason: fault.reason })
    const lost = await lostOne(env, config, fault)
    if (lost === undefined) faults.push(fault)
    else engines.push(lost)
  }
  const clusters = new Set(engines.flatMap((engine) => engine.clusterId ?? []))
  if (clusters.size > 1) {
    const message = `disks of ${clusters.size} clusters in one node: give each node disks of one`
    stop = new StoreError('WRONG_CLUSTER', message)
  }
  if (stop === undefined) return { engines, faults }
  await Promise.allSettled(engines.map((engine) => engine.close()))
  throw stop
}
