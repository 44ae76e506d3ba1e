/**
 * The SDK's door: joins sessions, leases, placements and streams to a `Store` over any `Env`.
 *
 * `connect` in src/main/index.ts gives it the real world, the simulator its own. One Store is one client: its uploads and
 * downloads share one writer lease, one stream per node and one bound on memory each.
 *
 * Invariant: after `close` nothing of the client runs, and its writer lease is given back or left to expire.
 */

import { toHex } from '../base/bytes.ts'
import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { Env } from '../ports/env.ts'
import { v1 } from '../wire/messages.ts'
import { createAdmin } from './admin.ts'
import { AnyReads } from './any-reads.ts'
import { BufferPool } from './body.ts'
import { ByteBudget } from './byte-budget.ts'
import { stragglerMs } from './chunk-write.ts'
import { hostOf } from './addresses.ts'
import { ChunkStreams } from './chunk-streams.ts'
import { createChunks } from './chunks.ts'
import { ClientSession } from './client-session.ts'
import { bucketOf, present } from './entries.ts'
import { Leases } from './leases.ts'
import { type MetaCaller, routeCalls } from './meta-calls.ts'
import { MetaClient, metaTimesDefault } from './meta-session.ts'
import { Objects } from './objects.ts'
import { checkAddress, checkBucket } from './operations.ts'
import { Placements } from './placements.ts'
import { Scope, sleep, within } from './scope.ts'
import type { Buckets, Store } from './types.ts'

const MiB = 1024 * 1024
/**
 * Chunks of uploads in flight. Beside it a client holds stragglers, frames on their way and garbage not yet collected:
 * with 48 MiB a 5 GiB put peaked at 318 MiB resident, with 24 MiB it stays below 200 at the same rate.
 */
const uploadBytesMax = 24 * MiB
const downloadBytesMax = 48 * MiB
const releaseMs = 1_000

export interface ClientOptions {
  /** Addresses of meta nodes, `host:port`, at least one. */
  readonly meta: readonly string[]
  /** How long failed calls are retried. Default 20 s. */
  readonly retryMs?: number | undefined
  /** Size that objects are cut into, 64 KiB to 8 MiB. Default 4 MiB. */
  readonly chunkBytes?: number | undefined
  /**
   * Calls that change something happen exactly once, over lost answers and changes of the leader, for the price of a
   * session that the cluster keeps for this client. Default true; false suits a client that makes a few calls and ends.
   */
  readonly sessions?: boolean | undefined
  /**
   * Where reads of metadata go: with the other calls, which is to the leader once one of them needs it, or to any of the
   * meta nodes that `meta` names. Both are linearizable; `any` spreads the work, and a follower asks the leader one
   * question for each group of reads. Default leader.
   */
  readonly reads?: 'leader' | 'any' | undefined
}

/** Opens a client. Nothing is sent before the first call. Throws INVALID_ARGUMENT. */
export function createClient(env: Env, options: ClientOptions): Store {
  checkAddresses(options.meta)
  const retryMs = options.retryMs ?? metaTimesDefault.retryMs
  const chunkBytes = options.chunkBytes ?? limits.chunkBytesDefault
  if (!Number.isInteger(chunkBytes) || chunkBytes < limits.blockBytes || chunkBytes > limits.chunkBytesMax) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `chunk size ${chunkBytes} is out of range: use ${limits.blockBytes} to ${limits.chunkBytesMax}`,
    )
  }
  const connectMs = Math.min(metaTimesDefault.connectMs, retryMs)
  const leader = new MetaClient(env, options.meta, { ...metaTimesDefault, retryMs, connectMs })
  const once = options.sessions === false ? undefined : new ClientSession(env, leader)
  const reads = readsOf(options) === 'any' ? new AnyReads(env, leader, options.meta) : undefined
  const meta = routeCalls({ leader, once, reads })
  const streams = new ChunkStreams(env, new Set(options.meta.map(hostOf)))
  const placements = new Placements(env, meta)
  const leases = new Leases(env, meta)
  const behind = new Set<Promise<void>>()
  const background = (work: Promise<void>): void => {
    const quiet = work.catch((error: unknown) => env.log.debug('late work failed', { reason: String(error) }))
    const entry = quiet.finally(() => behind.delete(entry))
    behind.add(entry)
  }
  const shared = { env, meta, streams, retryMs }
  const upload = {
    ...shared,
    leases,
    placements,
    budget: new ByteBudget(uploadBytesMax),
    stragglers: new ByteBudget(limits.stragglerBytesMax),
    pool: new BufferPool(chunkBytes, Math.ceil(uploadBytesMax / chunkBytes)),
    chunkBytes,
    background,
  }
  const deps = { upload, download: { ...shared, budget: new ByteBudget(downloadBytesMax) } }
  const objects = new Objects(deps)
  let closing: Promise<void> | undefined

  async function closeAll(): Promise<void> {
    const scope = new Scope(env.clock, {}, 'close')
    const over = sleep(env.clock, stragglerMs, scope.signal).catch(() => undefined)
    await Promise.race([over, Promise.all(behind)])
    scope.abort(new StoreError('CANCELLED', 'late copies are in'))
    scope.close()
    const closedMs = env.clock.monotonicMs()
    await leases.close(releaseMs)
    await once?.close(Math.max(releaseMs / 2, releaseMs - (env.clock.monotonicMs() - closedMs)))
    placements.close()
    streams.close()
    reads?.close()
    leader.close()
    await env.net.close()
  }

  return {
    put: objects.put.bind(objects),
    get: objects.get.bind(objects),
    stat: objects.stat.bind(objects),
    delete: objects.delete.bind(objects),
    // What bind gives has the last overload only.
    list: objects.list.bind(objects) as Store['list'],
    copy: objects.copy.bind(objects),
    commit: objects.commit.bind(objects),
    buckets: createBuckets(env, meta),
    chunks: createChunks(deps),
    admin: createAdmin(env, meta, options.meta),
    close: () => {
      closing ??= closeAll()
      return closing
    },
  }
}

function checkAddresses(addresses: readonly string[]): void {
  if (addresses.length === 0) {
    throw new StoreError('INVALID_ARGUMENT', 'no meta address: give host:port of at least one meta node')
  }
  for (const address of addresses) checkAddress(address, 'meta address')
}

function readsOf({ reads = 'leader' }: ClientOptions): 'leader' | 'any' {
  if (reads === 'leader' || reads === 'any') return reads
  throw new StoreError('INVALID_ARGUMENT', `reads ${JSON.stringify(reads)} is unknown: use leader or any`)
}

function createBuckets(env: Env, meta: MetaCaller): Buckets {
  return {
    create: (name, options = {}) =>
      within(env.clock, options, `make bucket ${name}`, async (signal) => {
        checkBucket(name)
        const commitId = toHex(env.entropy.bytes(16))
        const reply = await meta.call('createBucket', { name, commitId }, { signal })
        return bucketOf(present(reply.bucket, 'bucket'))
      }),
    delete: (name, options = {}) =>
      within(env.clock, options, `remove bucket ${name}`, async (signal) => {
        checkBucket(name)
        await meta.call(
          'deleteBucket',
          { name },
          // It is gone: an earlier attempt, or somebody else, removed it.
          { signal, afterUnknown: (error) => (error.code === 'NOT_FOUND' ? new v1.Empty() : undefined) },
        )
      }),
    list: (options = {}) =>
      within(env.clock, options, 'list buckets', async (signal) => {
        const reply = await meta.call('listBuckets', {}, { signal })
        return reply.buckets.map(bucketOf)
      }),
  }
}
