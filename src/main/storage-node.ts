/**
 * One storage node as a process: drivers, disks, ports, signals.
 *
 * Disks are opened before the ports, so that a locked or foreign directory is one line and no half-started node. A disk
 * that cannot be read does not keep the others from serving; a directory that is locked, of another node or cluster, or of a newer
 * format does, because that is a mistake of the operator's. SIGTERM and SIGINT: goodbye to meta, disks closed in order,
 * exit within ten seconds; SIGKILL is always safe.
 */

import { resolve as resolvePath } from 'node:path'
import type { StorageConfig } from '../config/types.ts'
import { openExtentFiles } from '../drivers/extents-node.ts'
import { createFiles } from '../drivers/files-node.ts'
import { createLevelFactory } from '../drivers/kv-level.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { openDisk } from '../services/storage/engine/disk.ts'
import { createStorageNode } from '../services/storage/storage.ts'
import type { DiskEngine } from '../services/storage/types.ts'
import { createNodeEnv, listenNode, type NodeEnv, type NodePorts, stopNode, stopSignal } from './compose.ts'

/** A reserve below this would not leave the index room to note deletes on a full disk. */
const reserveBytesMin = 64 * 1024 * 1024

/** The reserve of a disk in bytes: what is configured, at most 2 % of the filesystem's `totalBytes`, at least 64 MiB. */
export function reserveOf(configuredBytes: number, totalBytes: number): number {
  return Math.max(reserveBytesMin, Math.min(configuredBytes, Math.floor(totalBytes * 0.02)))
}

async function openOne(env: NodeEnv, config: StorageConfig, path: string): Promise<DiskEngine> {
  const extents = await openExtentFiles(path)
  const reserveBytes = reserveOf(config.reserveBytes, (await extents.space()).total)
  return openDisk(
    { ...env, files: createFiles(path), extents, kv: createLevelFactory(path) },
    { path, nodeId: config.id, extentBytes: config.extentBytes, reserveBytes },
  )
}

/** True for failures of one disk that the others need not share. */
function isDiskFault(error: StoreError): boolean {
  return error.code === 'IO' || error.code === 'CORRUPT' || error.code === 'DISK_FAILED'
}

async function openDisks(env: NodeEnv, config: StorageConfig): Promise<DiskEngine[]> {
  const paths = config.disks.map((path) => resolvePath(path))
  if (new Set(paths).size !== paths.length) throw new StoreError('USAGE', 'disks: a directory is given twice')
  const opened = await Promise.allSettled(paths.map((path) => openOne(env, config, path)))
  const engines: DiskEngine[] = []
  const faults: StoreError[] = []
  for (const [i, result] of opened.entries()) {
    if (result.status === 'fulfilled') engines.push(result.value)
    else faults.push(asStoreError(result.reason, `open disk ${paths[i]}`))
  }
  const clusters = new Set(engines.flatMap((engine) => engine.clusterId ?? []))
  let stop = faults.find((fault) => !isDiskFault(fault)) ?? (engines.length === 0 ? faults[0] : undefined)
  if (clusters.size > 1) {
    stop = new StoreError(
      'WRONG_CLUSTER',
      `disks of ${clusters.size} clusters in one node: give each node disks of one`,
    )
  }
  if (stop !== undefined) {
    await Promise.allSettled(engines.map((engine) => engine.close()))
    throw stop
  }
  for (const fault of faults) env.log.error('disk left out', { code: fault.code, reason: fault.message })
  return engines
}

/** The advertised addresses; a configured port of 0 is replaced by the one that was found. */
function advertised(config: StorageConfig, ports: NodePorts): readonly string[] {
  if (config.advertise.length === 0) return [ports.address]
  return config.advertise.map((address) => address.replace(/:0$/, `:${ports.port}`))
}

/**
 * Runs one storage node; resolves when it was stopped by a signal. Rejects with PORT_IN_USE, LOCKED, WRONG_CLUSTER,
 * INCOMPATIBLE_VERSION, CORRUPT, IO or USAGE when it cannot start or go on.
 */
export async function runStorageNode(config: StorageConfig): Promise<void> {
  const env = await createNodeEnv({ fields: { node: config.id } })
  const engines = await openDisks(env, config)
  const stopped = stopSignal()
  let fail: (error: StoreError) => void = () => undefined
  const fatal = new Promise<StoreError>((resolve) => {
    fail = resolve
  })
  const node = createStorageNode(env, engines, config, (error) => fail(error))
  env.metrics.onScrape(() => node.samples())
  let ports: NodePorts
  try {
    ports = await listenNode(
      config.listen,
      env,
      (server) => node.bind(server),
      () => node.notReady(),
    )
  } catch (error) {
    await node.stop()
    await env.net.close()
    throw error
  }
  const addresses = advertised(config, ports)
  env.log.info('storage node listens', {
    address: ports.address,
    http: ports.admin.port,
    advertise: addresses.join(','),
  })
  node.start(addresses)
  const end = await Promise.race([stopped, fatal])
  env.log.info('storage node stops', { why: typeof end === 'string' ? end : end.message })
  ports.server.setServing(false)
  await stopNode(env, ports, () => node.stop())
  if (typeof end !== 'string') throw end
  env.log.info('storage node stopped')
}
