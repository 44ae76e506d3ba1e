/** The index made anew from the log: by itself, when asked for, cut off anywhere, and when damage shows late. */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import type { Kv, KvFactory, KvOperation } from '../../../../src/ports/kv.ts'
import { openDisk } from '../../../../src/services/storage/engine/disk.ts'
import { rebuildIndex } from '../../../../src/services/storage/engine/rebuild.ts'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put } from '../../../support/disk-world.ts'

const cluster = 'a'.repeat(32)

async function filled(seed = 1): Promise<DiskWorld> {
  const world = new DiskWorld(seed)
  const disk = await world.open()
  await disk.adopt(cluster, 's1')
  await put(disk, 1, content(1, 500))
  await put(disk, 2, content(2, 40_000))
  await put(disk, 3, content(3, 700))
  await disk.delete([3])
  await disk.close()
  return world
}

async function expectWhole(disk: DiskEngine): Promise<void> {
  expect((await disk.list(0, 100, 100)).ids).to.deep.equal([1, 2])
  expect(await get(disk, 1)).to.deep.equal(content(1, 500))
  expect(await get(disk, 2)).to.deep.equal(content(2, 40_000))
}

describe('rebuilding the index', () => {
  it('is finished by the next start, wherever it was cut off, and told until meta has registered the disk', async () => {
    for (let stopAt = 1, cut = true; cut; stopAt++) {
      const world = await filled(stopAt)
      world.kv.corrupt = true
      world.faults.stopAt = world.faults.total + stopAt
      const stopped = world.faults.whenStopped()
      const opening = world.open()
      cut = await Promise.race([stopped.then(() => true), opening.then(() => false)])
      world.faults.stopAt = Number.POSITIVE_INFINITY
      if (cut) world.crash()
      else await (await opening).close()
      let disk = await world.open()
      await expectWhole(disk)
      expect(disk.rebuilt, `cut off at step ${stopAt}`).to.equal(true)
      world.crash()
      disk = await world.open()
      expect(disk.rebuilt, 'a second crash forgets nothing').to.equal(true)
      await disk.adopt(cluster, 's1')
      await disk.close()
      disk = await world.open()
      expect(disk.rebuilt).to.equal(false)
      await expectWhole(disk)
      await disk.close()
      expect(stopAt).to.be.lessThan(100)
    }
  })

  it('when asked for, says what it found and quarantines what does not match', async () => {
    const world = await filled()
    const { deps, options } = world
    expect(await rebuildIndex(deps, options)).to.deep.include({ chunks: 2, damage: [], corrupt: [] })
    const disk = await world.open()
    await expectWhole(disk)
    expect(disk.rebuilt).to.equal(true)
    expect(await codeOf(rebuildIndex(deps, options))).to.equal('LOCKED')
    await disk.close()
    expect(await codeOf(rebuildIndex(new DiskWorld().deps, options))).to.equal('NOT_FOUND')
  })

  it('follows at the next start when a read of the index turns out damaged; until then the disk is failed', async () => {
    const world = await filled()
    const broken = (kv: Kv): Kv => ({
      ...kv,
      get: (key) => (key[8] === 2 ? Promise.reject(new StoreError('CORRUPT', 'Corruption: bad block')) : kv.get(key)),
    })
    const factory: KvFactory = {
      open: async (name) => broken(await world.kv.open(name)),
      destroy: (name) => world.kv.destroy(name),
    }
    let disk = await openDisk({ ...world.deps, kv: factory }, world.options)
    const failed: string[] = []
    disk.onFailed((reason) => failed.push(reason.message))
    expect(await codeOf(get(disk, 2))).to.equal('DISK_FAILED')
    expect(failed[0]).to.match(/bad block; restart the node, which rebuilds the index from the log/)
    await disk.close()
    disk = await world.open()
    expect(disk.rebuilt).to.equal(true)
    await expectWhole(disk)
    await disk.close()
  })

  it('does not believe an earlier checkpoint that the index fell back to, although it was of a stop in order', async () => {
    const world = await filled()
    let kv = await world.kv.open('index')
    const before: KvOperation[] = []
    for await (const { key, value } of kv.iterate({})) before.push({ type: 'put', key, value })
    await kv.close()
    let disk = await world.open()
    await put(disk, 7, content(7, 900))
    await disk.close()
    await world.kv.destroy('index')
    kv = await world.kv.open('index')
    await kv.batch(before, { sync: true })
    await kv.close()
    disk = await world.open()
    expect(disk.clean).to.equal(false)
    expect(await get(disk, 7)).to.deep.equal(content(7, 900))
    await disk.close()
  })
})
