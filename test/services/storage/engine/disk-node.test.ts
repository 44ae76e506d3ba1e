/** The disk engine over the real drivers: node:fs with O_DIRECT where it works, LevelDB, XXH64, in a temporary directory. */

import { expect } from 'chai'
import { mkdtemp, open, readdir, rm, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openExtentFiles } from '../../../../src/drivers/extents-node.ts'
import { createFiles } from '../../../../src/drivers/files-node.ts'
import { createLevelFactory } from '../../../../src/drivers/kv-level.ts'
import { createNodeClock } from '../../../../src/drivers/clock-node.ts'
import type { Clock } from '../../../../src/ports/clock.ts'
import { openDisk } from '../../../../src/services/storage/engine/disk.ts'
import type { DiskOptions } from '../../../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { ManualClock } from '../../../support/manual-clock.ts'
import { codeOf, content, get, put, seeded, silentLog, silentMetrics, testHasher } from '../../../support/disk-world.ts'

const MiB = 1 << 20

describe('disk engine on the real file system', () => {
  let directory = ''
  const opened: DiskEngine[] = []

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-engine-'))
  })

  afterEach(async () => {
    for (const disk of opened.splice(0)) await disk.close()
    await rm(directory, { recursive: true, force: true })
  })

  async function openHere(nodeId?: string, extra: Partial<DiskOptions> = {}, clock?: Clock): Promise<DiskEngine> {
    const random = seeded(7)
    const deps = {
      files: createFiles(directory),
      extents: await openExtentFiles(directory),
      kv: createLevelFactory(directory),
      hasher: testHasher,
      clock: clock ?? createNodeClock(),
      entropy: { bytes: (length: number) => Uint8Array.from({ length }, () => random() * 256), unit: random },
      log: silentLog,
      metrics: silentMetrics,
    }
    const owner = nodeId === undefined ? {} : { nodeId }
    const options = { ...owner, path: directory, extentBytes: 32 * MiB, reserveBytes: 16 * MiB, ...extra }
    const disk = await openDisk(deps, options)
    opened.push(disk)
    return disk
  }

  it('stores chunks of all sizes and finds them after a stop', async () => {
    let disk = await openHere()
    const sizes = [1, 5000, 16_384, 16_385, 100_000, 4 * MiB, 8 * MiB]
    await Promise.all(sizes.map((size, i) => put(disk, i + 1, content(i, size))))
    await disk.close()
    disk = await openHere()
    expect(disk.clean).to.equal(true)
    for (const [i, size] of sizes.entries()) {
      expect(Buffer.compare(await get(disk, i + 1), content(i, size))).to.equal(0)
      expect(await disk.verify(i + 1)).to.equal('intact')
    }
    expect(disk.status()).to.include({ chunks: 7, chunkIdMax: 7 })
  })

  it('rolls over extents, deletes, and uses emptied ones again', async () => {
    const disk = await openHere()
    for (let round = 0; round < 4; round++) {
      const ids = Array.from({ length: 10 }, (_, i) => round * 100 + i + 1)
      await Promise.all(ids.map((id) => put(disk, id, content(id, 4 * MiB))))
      for (const id of ids) expect(Buffer.compare(await get(disk, id), content(id, 4 * MiB))).to.equal(0)
      await disk.delete(ids)
    }
    expect(disk.status().chunks).to.equal(0)
  })

  it('compacts extents past the page cache, and the moved chunks read back', async () => {
    const clock = new ManualClock()
    const never = Number.MAX_SAFE_INTEGER
    const compaction = { liveRatio: 0.5, bytesPerSecond: 1 << 30, idleMs: 1000 }
    const options = { extentBytes: 4 * MiB, compaction, health: { suspectMs: never, failMs: never } }
    let disk = await openHere(undefined, options, clock)
    const sizeOf = (id: number): number => (id % 4 === 0 ? 3000 : 300_000)
    const ids = Array.from({ length: 60 }, (_, i) => i + 1)
    for (const id of ids) await put(disk, id, content(id, sizeOf(id)))
    await disk.delete(ids.filter((id) => id % 3 > 0))
    while (disk.status().reclaimableBytes > disk.status().liveBytes / 10) {
      clock.advance(500)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await disk.close()
    disk = await openHere()
    for (const id of ids.filter((one) => one % 3 === 0)) {
      expect(Buffer.compare(await get(disk, id), content(id, sizeOf(id)))).to.equal(0)
      expect(await disk.verify(id)).to.equal('intact')
    }
  })

  it('finds a byte flipped in the file, reports it once, and takes the repair', async () => {
    const disk = await openHere()
    await put(disk, 1, content(1, 4 * MiB))
    const findings: number[] = []
    disk.onCorrupt((id) => findings.push(id))
    const name = (await readdir(directory)).find((file) => file.startsWith('extent-'))
    const file = await open(join(directory, name ?? ''), 'r+')
    await file.write(new Uint8Array([content(1, 4 * MiB)[3_000_000] === 1 ? 2 : 1]), 0, 1, 8192 + 3_000_000)
    await file.sync()
    await file.close()
    expect(await disk.verify(1)).to.equal('corrupt')
    expect(findings).to.deep.equal([1])
    expect(await codeOf(disk.openRead(1, 0, 0))).to.equal('NOT_FOUND')
    await put(disk, 1, content(1, 4 * MiB), { replace: true })
    expect(await disk.verify(1)).to.equal('intact')
  })

  it('reports the chunks of files that were removed or cut off while it was closed, and serves none', async () => {
    let disk = await openHere()
    const ids = Array.from({ length: 20 }, (_, i) => i + 1)
    for (const id of ids) await put(disk, id, content(id, 4 * MiB))
    await disk.close()
    const names = (await readdir(directory)).filter((file) => file.startsWith('extent-')).sort()
    await rm(join(directory, names[0] ?? ''))
    await truncate(join(directory, names[1] ?? ''), 10 * MiB)
    disk = await openHere()
    const findings: number[] = []
    disk.onCorrupt((id) => findings.push(id))
    expect(findings.length).to.be.greaterThan(10)
    for (const id of ids) expect(await codeOf(get(disk, id))).to.equal(findings.includes(id) ? 'NOT_FOUND' : 'none')
  })

  it('refuses a disk of another node of the same cluster, before anything is opened', async () => {
    const first = await openHere()
    await first.adopt('a'.repeat(32), 's3')
    await first.close()
    await (await openHere('s3')).close()
    try {
      await openHere('s4')
      expect.fail('opened under another id')
    } catch (error) {
      expect((error as { code: string }).code).to.equal('WRONG_CLUSTER')
      expect((error as Error).message).to.match(/belongs to node s3, not s4: start it with --id s3/)
    }
  })

  it('refuses a directory that is in use, in one sentence', async () => {
    await openHere()
    try {
      await openHere()
      expect.fail('opened twice')
    } catch (error) {
      expect((error as { code: string }).code).to.equal('LOCKED')
      expect((error as Error).message).to.match(/in use by another process/)
    }
  })
})
