/**
 * One meta node as a process: drivers, ports, signals.
 *
 * The ports are taken before the node starts, because peers must reach it to form a cluster or to elect a leader. SIGTERM
 * and SIGINT drain: new calls are refused, leadership is handed over, the stores are closed, all within ten seconds. A node
 * whose disk refused a write stops by itself and says why; what it acknowledged is on the other nodes.
 */

import type { MetaConfig } from '../config/types.ts'
import { asStoreError, type StoreError } from '../model/errors.ts'
import { createMetaNode, type MetaNode } from '../services/meta/meta.ts'
import { metaStores } from './meta-stores.ts'
import { createNodeEnv, listenNode, type NodeEnv, stopNode, stopSignal } from './compose.ts'

type End =
  | { readonly why: 'signal'; readonly signal: string }
  | { readonly why: 'failure'; readonly reason: StoreError }

/**
 * Runs one meta node; resolves when it was stopped by a signal. Rejects with PORT_IN_USE, LOCKED, WRONG_CLUSTER,
 * INCOMPATIBLE_VERSION, CORRUPT or IO when it cannot start or go on.
 */
export async function runMetaNode(config: MetaConfig): Promise<void> {
  const env = await createNodeEnv({ fields: { node: config.id } })
  const stores = metaStores(config.dataDir)
  const node = createMetaNode(env, stores, config)
  env.metrics.onScrape(() => node.samples())
  const ports = await listenNode(
    config.listen,
    env,
    (server) => node.bind(server),
    () => node.notReady(),
  )
  env.log.info('meta node listens', { address: ports.address, http: ports.admin.port, directory: config.dataDir })
  const end = await untilEnd(env, node)
  env.log.info('meta node stops', { why: end.why === 'signal' ? end.signal : end.reason.message })
  await stopNode(env, ports, () => node.stop())
  if (end.why === 'failure') throw end.reason
  env.log.info('meta node stopped')
}

/** Starts the node and waits for what ends it. */
function untilEnd(env: NodeEnv, node: MetaNode): Promise<End> {
  return new Promise((resolve) => {
    const fail = (error: unknown, doing: string): void =>
      resolve({ why: 'failure', reason: asStoreError(error, doing) })
    stopSignal().then(
      (signal) => resolve({ why: 'signal', signal }),
      (error: unknown) => fail(error, 'wait for a signal'),
    )
    node.onFatal((reason) => fail(reason, 'run the meta node'))
    node.start().then(
      () => env.log.info('meta node started'),
      (error: unknown) => fail(error, 'start the meta node'),
    )
  })
}
