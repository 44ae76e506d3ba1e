/**
 * Three storage nodes that do nothing, so that the leader of a filled state has a quiet cluster as it would in life: they
 * attach with the real code, send heartbeats and answer orders, over disks that say they hold every chunk that was filled.
 *
 * They come with the incarnation that the state knows, as processes that went on while the metadata service restarted: so
 * their disks count at once, no report is compared and nothing is short.
 */

import { fromHex } from '../../src/base/bytes.ts'
import { createNodeEnv } from '../../src/main/compose.ts'
import { StoreError } from '../../src/model/errors.ts'
import type { Env } from '../../src/ports/env.ts'
import { Attach } from '../../src/services/storage/attach.ts'
import { Disks } from '../../src/services/storage/disks.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import type { Filled, FilledNode } from './state-image.ts'

const bytesEach = 4 * 1024 * 1024

function refuse(): Promise<never> {
  return Promise.reject(new StoreError('UNAVAILABLE', 'this disk only says what it holds'))
}

/** A disk that holds the filled chunks and takes no other. */
function idleDisk(filled: Filled, node: FilledNode): DiskEngine {
  const { firstChunk, clusterId } = filled
  // Read each time: what it holds may grow.
  const endOf = (): number => firstChunk + filled.chunks
  return {
    id: node.diskId,
    path: `idle-${node.id}`,
    clean: true,
    clusterId,
    rebuilt: false,
    clusterIncarnation: 1,
    adopt: () => Promise.resolve(),
    status: () => ({
      state: 'ok',
      reason: '',
      speed: { syncMs: 0, readMs: 0, errors: 0 },
      capacityBytes: 2 * filled.chunks * bytesEach + 2 ** 40,
      usedBytes: filled.chunks * bytesEach,
      freeForNewBytes: 2 ** 40,
      liveBytes: 0,
      reclaimableBytes: 0,
      chunks: filled.chunks,
      chunkIdMax: filled.chunks === 0 ? 0 : endOf() - 1,
    }),
    beginPut: refuse,
    openRead: refuse,
    verify: () => Promise.resolve('intact'),
    missing: (ids) => Promise.resolve(ids.filter((id) => id < firstChunk || id >= endOf())),
    list: (from, to, limit) => {
      const end = endOf()
      const start = Math.max(from, firstChunk)
      const until = Math.min(to, end, start + limit)
      const ids = Array.from({ length: Math.max(0, until - start) }, (_, i) => start + i)
      return Promise.resolve({ ids, until: until >= end ? to : until })
    },
    delete: () => Promise.resolve(),
    scrub: () => ({
      state: 'off',
      pass: 0,
      scannedBytes: 0,
      totalBytes: 0,
      rateBytesPerSecond: 0,
      debtSeconds: 0,
      startedMs: 0,
      finishedMs: 0,
      findings: 0,
      healed: 0,
      suspects: 0,
      direct: false,
      notes: [],
    }),
    startScrub: () => undefined,
    pauseScrub: () => undefined,
    resumeScrub: () => undefined,
    suspect: () => undefined,
    onCorrupt: () => undefined,
    onFailed: () => undefined,
    onHealth: () => undefined,
    close: () => Promise.resolve(),
  }
}

/** Attaches the nodes that `filled` names; `meta` are addresses of the metadata service. */
export async function attachIdleNodes(filled: Filled, meta: readonly string[]): Promise<{ stop(): Promise<void> }> {
  const env = await createNodeEnv({ level: 'error' })
  const metaSilenceMs = 2000
  const attached = filled.nodes.map((node) => {
    // The first random bytes that a node asks for are its incarnation.
    const known: Env = {
      ...env,
      entropy: { ...env.entropy, bytes: () => fromHex(node.incarnation) ?? new Uint8Array(16) },
    }
    const disks = new Disks([idleDisk(filled, node)], env.clock, env.log, metaSilenceMs, () => undefined)
    const attach = new Attach(known, disks, {
      id: node.id,
      zone: node.zone,
      addresses: [node.address],
      meta,
      heartbeatMs: 200,
      metaSilenceMs,
      inflightBytes: () => 0,
      onFatal: (error) => {
        throw error
      },
    })
    attach.start()
    return attach
  })
  return {
    stop: async () => {
      for (const attach of attached) attach.stop()
      await env.net.close()
    },
  }
}
