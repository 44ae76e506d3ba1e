/** One byte of a stored chunk flips on disk: the right bytes still come back, it is named, and it is repaired. */

import { open, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'chai'
import { connect } from '../../src/main/index.ts'
import type { Store } from '../../src/sdk/types.ts'
import { TestCluster } from '../support/cluster.ts'
import { content, sha256 } from '../support/content.ts'
import { until } from '../support/processes.ts'

/** Finds `marker` in the files below `directory` and flips one bit of its first byte; true when it was there. */
async function flipByte(directory: string, marker: Uint8Array): Promise<boolean> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  for (const entry of entries.filter((candidate) => candidate.isFile())) {
    const file = await open(join(entry.parentPath, entry.name), 'r+')
    try {
      const piece = Buffer.alloc((4 << 20) + marker.length)
      const { size } = await file.stat()
      for (let at = 0; at < size; at += 4 << 20) {
        const { bytesRead } = await file.read(piece, 0, piece.length, at)
        const found = piece.subarray(0, bytesRead).indexOf(marker)
        if (found < 0) continue
        const flipped = Buffer.from([(marker[0] as number) ^ 1])
        await file.write(flipped, 0, 1, at + found)
        await file.sync()
        return true
      }
    } finally {
      await file.close()
    }
  }
  return false
}

describe('real processes: one flipped byte', function () {
  this.timeout(120_000)
  let cluster: TestCluster
  let store: Store

  before(async () => {
    cluster = await TestCluster.start()
    store = await connect({ meta: [...cluster.meta] })
    await store.buckets.create('rot')
  })

  after(async () => {
    await store?.close()
    await cluster?.stop()
  })

  it('gives the right bytes, names the replica in status and in the log, and repairs it', async () => {
    const bytes = content(4711, 1_500_000)
    await store.put('rot', 'object', bytes, { write: 'all' })
    await cluster.untilFull()
    const [chunk] = (await store.stat('rot', 'object')).chunks
    const holder = chunk?.replicas[0]?.node as string
    expect(await flipByte(cluster.node(holder).directory, bytes.subarray(700_000, 700_032))).to.equal(true)
    const finding = await until('the finding in status', async () => {
      const back = await (await store.get('rot', 'object')).bytes()
      expect(sha256(back)).to.equal(sha256(bytes))
      return (await store.admin.status()).corruptions.find((entry) => entry.chunk === chunk?.id)
    })
    expect(finding.node).to.equal(holder)
    expect(cluster.node(holder).running?.output()).to.match(/corrupt/i)
    await until('the replica is repaired', async () => {
      const status = await store.admin.status()
      if (status.corruptions.every((entry) => entry.repaired) && status.chunks.full === status.chunks.total) return true
      throw new Error(JSON.stringify({ ...status, meta: undefined, nodes: undefined }))
    })
    const replicas = (await store.stat('rot', 'object')).chunks[0]?.replicas ?? []
    expect(replicas.filter((replica) => replica.state === 'current')).to.have.length.of.at.least(3)
    expect(sha256(await (await store.get('rot', 'object')).bytes())).to.equal(sha256(bytes))
  })
})
