/** Extent files that vanish or are cut off: every chunk in them is reported and none is served. */

import { expect } from 'chai'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put } from '../../../support/disk-world.ts'

const large = 100_000
const count = 60

async function filled(world: DiskWorld): Promise<DiskEngine> {
  const disk = await world.open()
  for (let id = 1; id <= count; id++) await put(disk, id, content(id, id % 3 === 0 ? 1000 : large))
  return disk
}

const all = Array.from({ length: count }, (_, i) => i + 1)

/**
 * Asserts that each chunk is either read back or was reported and is refused; gives those. After a crash the index may
 * have forgotten a chunk whose record in the log is gone: the disk does not claim to hold it, and says it was not clean.
 */
async function lostOf(disk: DiskEngine): Promise<number[]> {
  const found: number[] = []
  disk.onCorrupt((id) => found.push(id))
  if (!disk.clean) found.push(...(await disk.missing(all)).filter((id) => !found.includes(id)))
  for (let id = 1; id <= count; id++) {
    if (found.includes(id)) expect(await codeOf(disk.openRead(id, 0, 0))).to.equal('NOT_FOUND')
    else expect(await get(disk, id)).to.deep.equal(content(id, id % 3 === 0 ? 1000 : large))
  }
  expect(new Set(found).size).to.equal(found.length)
  return found
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 1000 && !holds(); i++) await new Promise<void>((resolve) => setImmediate(resolve))
  expect(holds()).to.equal(true)
}

describe('extents that are missing or cut off', () => {
  for (const stop of ['clean', 'crash'] as const) {
    it(`reports every chunk of an extent that is gone at the start (${stop})`, async () => {
      const world = new DiskWorld()
      const first = await filled(world)
      await (stop === 'clean' ? first.close() : world.crash())
      expect(world.extents.files.size).to.be.greaterThan(4)
      world.extents.files.delete(2)
      const disk = await world.open()
      const found = await lostOf(disk)
      expect(found.length).to.be.greaterThan(5)
      expect(await disk.missing(found)).to.have.members(found)
      // The index has the bytes of small chunks as well.
      if (stop === 'clean') expect(found.filter((id) => id % 3 === 0)).to.deep.equal([])
      for (const id of found) await put(disk, id, content(id, id % 3 === 0 ? 1000 : large), { replace: true })
      await disk.close()
      const repaired = await world.open()
      expect(await lostOf(repaired)).to.deep.equal([])
    })
  }

  it('reports the chunks beyond the end of an extent that was cut off, and serves those before it', async () => {
    const world = new DiskWorld()
    await (await filled(world)).close()
    world.extents.truncate(1, 4096 * 100)
    const found = await lostOf(await world.open())
    expect(found.length).to.be.greaterThan(1)
    expect(found).not.to.include(1)
  })

  it('takes new chunks when the extent that the log goes on in is gone or cut off', async () => {
    for (const harm of ['remove', 'truncate'] as const) {
      const world = new DiskWorld()
      let disk = await world.open()
      await put(disk, 1, content(1, large))
      await put(disk, 2, content(2, large))
      await disk.close()
      if (harm === 'remove') world.extents.files.delete(1)
      else world.extents.truncate(1, 4096 * 40)
      disk = await world.open()
      const found: number[] = []
      disk.onCorrupt((id) => found.push(id))
      expect(found).to.deep.equal(harm === 'remove' ? [1, 2] : [2])
      await put(disk, 3, content(3, large))
      await disk.close()
      expect(await get(await world.open(), 3)).to.deep.equal(content(3, large))
    }
  })

  it('reports all chunks of an extent once the first read meets its loss', async () => {
    const world = new DiskWorld()
    await (await filled(world)).close()
    const disk = await world.open()
    const found: number[] = []
    disk.onCorrupt((id) => found.push(id))
    world.extents.files.delete(2)
    let met = 0
    for (let id = 1; met === 0; id++) if ((await codeOf(get(disk, id))) === 'CORRUPT') met = id
    await until(() => found.length > 5)
    await disk.close()
    expect(found[0]).to.equal(met)
    const again = await world.open()
    // Meta may not have heard it the first time.
    const told: number[] = []
    again.onCorrupt((id) => told.push(id))
    for (const id of told) if (!found.includes(id)) found.push(id)
    for (let id = 1; id <= count; id++) {
      expect(await codeOf(get(again, id))).to.equal(found.includes(id) ? 'NOT_FOUND' : 'none')
    }
    expect(new Set(found).size).to.equal(found.length)
    expect(told.toSorted((a, b) => a - b)).to.deep.equal(found.toSorted((a, b) => a - b))
  })

  it('fails the disk and quarantines nothing when its whole directory is gone', async () => {
    const world = new DiskWorld()
    await (await filled(world)).close()
    const disk = await world.open()
    const found: number[] = []
    disk.onCorrupt((id) => found.push(id))
    const files = new Map(world.extents.files)
    const identity = world.files.contents.get('identity')
    world.extents.files.clear()
    world.files.contents.clear()
    expect(await codeOf(get(disk, 1))).to.equal('DISK_FAILED')
    expect(disk.status().state).to.equal('failed')
    await disk.close()
    expect(found).to.deep.equal([])
    for (const [number, file] of files) world.extents.files.set(number, file)
    if (identity !== undefined) world.files.contents.set('identity', identity)
    expect(await lostOf(await world.open())).to.deep.equal([])
  })

  it('reports a chunk in an extent that is gone as corrupt when it is verified', async () => {
    const world = new DiskWorld()
    await (await filled(world)).close()
    const disk = await world.open()
    world.extents.files.delete(1)
    expect(await disk.verify(1)).to.equal('corrupt')
    expect(await disk.verify(1)).to.equal('missing')
  })

  it('counts right after a crash behind an extent that was cut off under it, whatever the log lacks', async () => {
    for (const draw of [0, 0.99]) {
      const world = new DiskWorld()
      let disk = await filled(world)
      world.extents.truncate(1, 4096 * 40)
      disk.onCorrupt(() => undefined)
      for (let id = 1; id <= count; id++) await codeOf(get(disk, id))
      await put(disk, 1000, content(1000, large))
      world.crash(() => draw)
      disk = await world.open()
      const held = (await disk.list(1, 2000, 1000)).ids
      expect(disk.status().chunks).to.equal(held.length)
      await disk.delete(held)
      await disk.close()
      disk = await world.open()
      expect(disk.status().chunks).to.equal(0)
      await disk.close()
    }
  })
})
