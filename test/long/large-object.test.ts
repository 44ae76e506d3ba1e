/** An object of 5 TiB: its metadata, through the real handlers and the real state on disk, in bounded memory. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { leaseSpan } from '../../src/model/ids.ts'
import { limits } from '../../src/model/limits.ts'
import { metaMethods as meta } from '../../src/wire/methods.ts'
import { id, MetaKit } from '../services/meta/kit.ts'

const MiB = 1 << 20
const TiB = 2 ** 40
const chunkBytes = 8 * MiB
const chunks = (5 * TiB) / chunkBytes
const pages = chunks / limits.pageChunksMax
const residentGrowthMax = 768 * MiB
const commitId = id(7)
const copies = 3

describe('long: an object of 5 TiB', function () {
  this.timeout(900_000)
  let directory: string
  let kit: MetaKit
  let lease: number
  let residentMost = 0

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-long-'))
    kit = await MetaKit.open(2, { files: createFiles(directory), kv: createLevelFactory(directory) })
  })

  after(async () => {
    await kit?.machine.close()
    await rm(directory, { recursive: true, force: true })
  })

  async function stage(page: number, from: number): Promise<void> {
    const named = Array.from({ length: limits.pageChunksMax }, (_, i) => ({
      id: from + i,
      length: chunkBytes,
      root: new Uint8Array(8).fill(i),
      replicas: [1, 2, 3].map((disk) => ({ disk, generation: 1 })),
    }))
    await kit.call(meta.stagePage, { commitId, lease, page, chunks: named, copies, write: 'all' })
    residentMost = Math.max(residentMost, process.memoryUsage.rss())
  }

  it('is staged page by page from ten leases and committed by one entry', async () => {
    const residentBefore = process.memoryUsage.rss()
    let next = 0
    for (let page = 0; page < pages; page++) {
      if (page === 0 || next + limits.pageChunksMax > lease + leaseSpan) {
        lease = (await kit.call(meta.grantLease, { ttlMs: 600_000 })).id
        next = lease
      }
      await stage(page, next)
      next += limits.pageChunksMax
    }
    const size = 5 * TiB
    const put = { bucket: 'photos', key: 'big', size, etag: '0'.repeat(16), stagedPages: pages, copies, write: 'all' }
    const done = await kit.call(meta.commit, { commitId, lease, operations: [{ put }] })
    expect(done.durable).to.equal(copies)
    expect(done.objects[0]).to.include({ size, chunks })
    expect(kit.machine.applied()).to.include({ chunks, bytes: size, objects: 1 })
    expect(residentMost - residentBefore).to.be.below(residentGrowthMax)
  })

  it('is opened at any page', async () => {
    const opened = await kit.call(meta.openObject, { bucket: 'photos', key: 'big' })
    expect(opened.pages).to.equal(pages)
    const { manifest } = opened
    for (const page of [1, pages / 2, pages - 1]) {
      expect((await kit.call(meta.manifestPage, { manifest, page })).chunks).to.have.length(limits.pageChunksMax)
    }
  })

  it('is deleted by one entry, and its references go one page an entry', async () => {
    const operations = [{ delete: { bucket: 'photos', key: 'big' } }]
    await kit.call(meta.commit, { commitId: id(8), lease: 0, operations })
    expect(kit.machine.applied()).to.include({ chunks, bytes: 0, objects: 0 })
    for (let page = 0; page < pages; page++) {
      expect(
        (await kit.machine.queries.trash(Number.MAX_SAFE_INTEGER - 1, 2)).map((one) => one.nextPage),
      ).to.deep.equal([page])
      await kit.log.command({ kind: 'dropPage', manifest: commitId, page })
    }
    expect(await kit.machine.queries.trash(Number.MAX_SAFE_INTEGER - 1, 1)).to.deep.equal([])
    expect(await kit.machine.queries.manifest(commitId)).to.equal(undefined)
    const garbage = await kit.machine.queries.garbage(Number.MAX_SAFE_INTEGER - 1, chunks + 1)
    expect(garbage.length).to.equal(chunks)
  })
})
