/** The index made anew from the log: by itself, when asked for, cut off anywhere, and when damage shows late. */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import type { ExtentFile } from '../../../../src/ports/extents.ts'
import type { Files } from '../../../../src/ports/files.ts'
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

  it('follows also when the damage shows while the mark of an earlier rebuild is taken away', async () => {
    const world = await filled()
    world.kv.corrupt = true
    await (await world.open()).close()
    let damaged = false
    const bad = new StoreError('CORRUPT', 'Corruption: bad block')
    const kv: KvFactory = {
      open: async (name) => {
        const inner = await world.kv.open(name)
        return { ...inner, get: (key) => (damaged ? Promise.reject(bad) : inner.get(key)) }
      },
      destroy: (name) => world.kv.destroy(name),
    }
    let remove: () => void = () => undefined
    const removing = new Promise<void>((resolve) => (remove = resolve))
    const { files } = world
    const slow: Files = {
      read: (name) => files.read(name),
      write: (name, bytes) => files.write(name, bytes),
      overwrite: (name, bytes) => files.overwrite(name, bytes),
      remove: (name) => removing.then(() => files.remove(name)),
      list: () => files.list(),
      freeBytes: () => files.freeBytes(),
    }
    let disk = await openDisk({ ...world.deps, files: slow, kv }, world.options)
    expect(disk.rebuilt).to.equal(true)
    const adopted = codeOf(disk.adopt(cluster, 's1'))
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
    damaged = true
    expect(await codeOf(get(disk, 2))).to.equal('DISK_FAILED')
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
    remove()
    expect(await adopted).to.equal('none')
    await disk.close()
    disk = await world.open()
    expect(disk.rebuilt).to.equal(true)
    await expectWhole(disk)
    await disk.close()
  })

  for (const code of ['CORRUPT', 'IO'] as const) {
    it(`leaves no extent open when a start fails by ${code}`, async () => {
      const world = await filled()
      const open = new Set<ExtentFile>()
      const counted = (file: ExtentFile): ExtentFile => {
        const mine = { ...file, close: async () => void open.delete(mine) }
        open.add(mine)
        return mine
      }
      const { deps } = world
      const extents = {
        ...deps.extents,
        open: async (number: number) => counted(await deps.extents.open(number)),
        create: async (number: number, size: number) => counted(await deps.extents.create(number, size)),
      }
      let openAtFailure = 0
      let failed = false
      const kv: KvFactory = {
        open: async (name) => {
          const inner = await world.kv.open(name)
          if (failed) return inner
          const batch: Kv['batch'] = () => {
            failed = true
            openAtFailure = open.size
            return Promise.reject(new StoreError(code, 'the index cannot be written'))
          }
          return { ...inner, batch }
        },
        destroy: (name) => world.kv.destroy(name),
      }
      const opening = openDisk({ ...deps, extents, kv }, world.options)
      await opening.then(
        (disk) => disk.close(),
        () => undefined,
      )
      expect(failed).to.equal(true)
      expect(openAtFailure).to.be.greaterThan(0)
      expect(open.size).to.equal(0)
    })
  }

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
