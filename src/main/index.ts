/**
 * The package's public entry: `connect` joins the SDK with the real world's drivers.
 *
 *     import { connect } from 'holdfast'
 *     const store = await connect({ meta: ['127.0.0.1:7400'] })
 *     await store.put('photos', 'cat.jpg', bytes)
 *     await store.close()
 */

import { StoreError } from '../model/errors.ts'
import { createClient } from '../sdk/client.ts'
import type { Store } from '../sdk/types.ts'
import { clusterDirDefault, clusterFilePath, readClusterFile } from './cluster-file.ts'
import { createNodeEnv } from './compose.ts'

export { type ErrorCode, type ErrorDetails, isStoreError, type Outcome, StoreError } from '../model/errors.ts'
export type * from '../sdk/types.ts'

export interface ConnectOptions {
  /** Addresses of meta nodes. Default: HOLDFAST_META, then `cluster.json` under `dir`. */
  readonly meta?: readonly string[] | string | undefined
  /** Directory of a cluster that `holdfast up` runs. Default ./.holdfast. */
  readonly dir?: string | undefined
  /** How long failed calls are retried, in milliseconds. Default 20,000. */
  readonly retryMs?: number | undefined
  /** Exactly-once calls by a session in the cluster (see ClientOptions). Default true. */
  readonly sessions?: boolean | undefined
  /** Reads of metadata go to the leader (default), or to any of the nodes that `meta` names. Both are linearizable. */
  readonly reads?: 'leader' | 'any' | undefined
  /** Events to log on stderr. Default error. */
  readonly logLevel?: 'debug' | 'info' | 'warn' | 'error' | undefined
}

/** Addresses of meta nodes by the rules of `ConnectOptions`. Throws USAGE when none is named anywhere. */
export function findMeta(options: ConnectOptions): readonly string[] {
  const given = options.meta ?? process.env['HOLDFAST_META']
  if (given !== undefined && given !== '') {
    const list = typeof given === 'string' ? given.split(',') : given
    return list.map((address) => address.trim()).filter((address) => address !== '')
  }
  const dir = options.dir ?? clusterDirDefault
  const cluster = readClusterFile(dir)
  if (cluster === undefined) {
    throw new StoreError(
      'USAGE',
      `no cluster is named and there is no ${clusterFilePath(dir)}: give --meta host:port, set HOLDFAST_META, or run "holdfast up"`,
    )
  }
  return cluster.meta.map((node) => node.address)
}

/** Opens a client of one cluster. Nothing is sent before the first call. Throws USAGE or INVALID_ARGUMENT. */
export async function connect(options: ConnectOptions = {}): Promise<Store> {
  const meta = findMeta(options)
  const env = await createNodeEnv({ level: options.logLevel ?? 'error' })
  const { retryMs, sessions, reads } = options
  return createClient(env, { meta, retryMs, sessions, reads })
}
