/**
 * One object of as many chunks as 5 TiB have, staged page by page and committed through a running cluster, beside a light load
 * of other commits; then deleted, until nothing is left of it. The chunks are on disks that only say that they hold them.
 */

import { toHex } from '../../src/base/bytes.ts'
import { leaseSpan } from '../../src/model/ids.ts'
import { limits } from '../../src/model/limits.ts'
import { createNodeEnv } from '../../src/main/compose.ts'
import { connect } from '../../src/main/index.ts'
import { MetaClient } from '../../src/sdk/meta-session.ts'
import type { Contender } from './contender.ts'
import { nowMs, pause, rounded, say } from './figures.ts'
import { attachIdleNodes } from './idle-nodes.ts'
import { memoryOf } from './memory.ts'
import { benchBucket, startMeta } from './meta-cluster.ts'
import { type Filled, fillingNodes } from './state-image.ts'
import { SteadyLoad } from './steady-load.ts'

const chunkBytes = 4 * 1024 * 1024
const key = 'five-tebibytes'
const otherClients = 8
/** Nobody reads the deleted object any more: its pages go at once. */
const flags = ['--gc-grace', '1s']
/** The deletion is watched for so long. */
const deleteSeconds = 240

interface Ack {
  readonly disk: number
  readonly generation: number
}

/** The disks that the cluster knows, once all are there. */
async function acksOf(cluster: Contender): Promise<Ack[]> {
  const store = await connect({ meta: cluster.members.map((member) => member.address) })
  try {
    for (;;) {
      const disks = (await store.admin.status()).nodes.flatMap((node) => node.disks)
      if (disks.length === 3) return disks.map(({ number }) => ({ disk: number, generation: 1 }))
      await pause(100)
    }
  } finally {
    await store.close()
  }
}

class LargeObject {
  readonly #client: MetaClient
  readonly #acks: readonly Ack[]
  readonly #held: Filled
  readonly #commitId: string
  readonly #signal = new AbortController().signal
  readonly #leases: number[] = []
  #lease = 0
  #next = 0

  constructor(client: MetaClient, acks: readonly Ack[], held: Filled, commitId: string) {
    this.#client = client
    this.#acks = acks
    this.#held = held
    this.#commitId = commitId
  }

  async stage(page: number): Promise<void> {
    if (this.#lease === 0 || this.#next + limits.pageChunksMax > this.#lease + leaseSpan) {
      const granted = await this.#client.call('grantLease', { ttlMs: 600_000 }, { signal: this.#signal })
      this.#leases.push(granted.id)
      this.#lease = granted.id
      this.#next = granted.id
    }
    const chunks = Array.from({ length: limits.pageChunksMax }, (_, i) => ({
      id: this.#next + i,
      length: chunkBytes,
      root: new Uint8Array(8).fill(i),
      replicas: [...this.#acks],
    }))
    this.#next += limits.pageChunksMax
    this.#held.chunks = this.#next - this.#held.firstChunk
    const upload = { commitId: this.#commitId, lease: this.#lease, page, copies: 3, write: 'all' }
    await this.#client.call('stagePage', { ...upload, chunks }, { signal: this.#signal })
  }

  async commit(pages: number): Promise<number> {
    const size = pages * limits.pageChunksMax * chunkBytes
    const put = { bucket: benchBucket, key, size, etag: '0'.repeat(16), stagedPages: pages, copies: 3, write: 'all' }
    const request = { commitId: this.#commitId, lease: this.#lease, operations: [{ put }] }
    const reply = await this.#client.call('commit', request, { signal: this.#signal })
    for (const id of this.#leases) await this.#client.call('releaseLease', { id }, { signal: this.#signal })
    return reply.objects[0]?.chunks ?? 0
  }
}

/** Seconds until the cluster knows none of the chunks any more; undefined when some are left after `deleteSeconds`. */
async function deleteAll(cluster: Contender): Promise<{ answered: number; gone: number | undefined; left: number }> {
  const store = await connect({ meta: cluster.members.map((member) => member.address) })
  try {
    const startMs = nowMs()
    await store.delete(benchBucket, key)
    const answered = rounded(nowMs() - startMs, 1)
    for (;;) {
      const left = (await store.admin.status()).chunks.total
      const seconds = (nowMs() - startMs) / 1000
      if (left === 0) return { answered, gone: rounded(seconds, 1), left }
      if (seconds > deleteSeconds) return { answered, gone: undefined, left }
      await pause(500)
    }
  } finally {
    await store.close()
  }
}

/** The part of the bench with one object of `pages` full pages. */
export async function measureLargeObject(directory: string, basePort: number, pages: number) {
  const cluster = await startMeta({ directory, basePort, name: 'object', flags })
  const addresses = cluster.members.map((member) => member.address)
  const held: Filled = { clusterId: '', firstChunk: leaseSpan, chunks: 0, nodes: fillingNodes() }
  const nodes = await attachIdleNodes(held, addresses)
  const env = await createNodeEnv({ level: 'error' })
  const client = new MetaClient(env, addresses)
  try {
    const object = new LargeObject(client, await acksOf(cluster), held, toHex(env.entropy.bytes(16)))
    const load = new SteadyLoad(addresses, otherClients)
    await load.wait(4)
    const quietFrom = load.at
    await load.wait(6)
    const quiet = load.since(quietFrom)
    const stagingFrom = load.at
    const startMs = nowMs()
    for (let page = 0; page < pages; page++) await object.stage(page)
    const stagedSeconds = rounded((nowMs() - startMs) / 1000, 1)
    const whileStaged = load.since(stagingFrom)
    const commitMs = nowMs()
    const chunks = await object.commit(pages)
    const committedMs = rounded(nowMs() - commitMs, 1)
    const memory = cluster.members.map(({ id, pid }) => ({ id, ...memoryOf(pid) }))
    say(`${chunks} chunks in ${pages} pages staged in ${stagedSeconds} s, committed in ${committedMs} ms`)
    const deletingFrom = load.at
    const deleted = await deleteAll(cluster)
    const whileDeleted = load.since(deletingFrom)
    say(`deleted in ${deleted.answered} ms, ${deleted.left} chunks left after ${deleted.gone ?? deleteSeconds} s`)
    await load.stop()
    return { pages, chunks, stagedSeconds, committedMs, deleted, quiet, whileStaged, whileDeleted, memory }
  } finally {
    client.close()
    await env.net.close()
    await nodes.stop()
    await cluster.stop()
  }
}
