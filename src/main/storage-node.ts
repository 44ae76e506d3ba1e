/**
 * One storage node as a process: drivers, disks, ports, signals.
 *
 * Disks are opened before the ports, so that a locked or foreign directory is one line and no half-started node. A disk
 * that cannot be read does not keep the others from serving (storage-disks.ts). SIGTERM and SIGINT: goodbye to meta, disks closed in order,
 * exit within ten seconds; SIGKILL is always safe.
 */

import type { StorageConfig } from '../config/types.ts'
import type { StoreError } from '../model/errors.ts'
import { createStorageNode } from '../services/storage/storage.ts'
import { createNodeEnv, listenNode, type NodePorts, stopNode, stopSignal } from './compose.ts'
import { openDisks } from './storage-disks.ts'

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
  const { engines, faults } = await openDisks(env, config)
  const stopped = stopSignal()
  let fail: (error: StoreError) => void = () => undefined
  const fatal = new Promise<StoreError>((resolve) => {
    fail = resolve
  })
  const node = createStorageNode(env, engines, { ...config, faults }, (error) => fail(error))
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
  if (node.hung) {
    // Node.js waits for every file operation before it exits; this one may never return.
    env.log.warn('an I/O of a failed disk has not returned: the process ends itself by SIGKILL', {})
    process.kill(process.pid, 'SIGKILL')
  }
  if (typeof end !== 'string') throw end
  env.log.info('storage node stopped')
}
