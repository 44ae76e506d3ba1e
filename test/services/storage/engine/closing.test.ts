/** The end of a disk's work: the mark that closes its log, and a stop that LevelDB does not answer. */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import type { ExtentFile } from '../../../../src/ports/extents.ts'
import { openDisk } from '../../../../src/services/storage/engine/disk.ts'
import { codeOf, content, DiskWorld, put } from '../../../support/disk-world.ts'

const small = content(1, 500)

/** Lets so much time pass as a process sees it that runs all the while. */
async function pass(world: DiskWorld, ms: number): Promise<void> {
  for (let i = 0; i < 30; i++) await new Promise<void>((resolve) => setImmediate(resolve))
  for (let at = 0; at < ms; at += 500) {
    world.clock.advance(500)
    for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => setImmediate(resolve))
  }
}

describe('closing', () => {
  it('the log, on a full filesystem: the mark is written when there is room again', async () => {
    const world = new DiskWorld()
    let full = false
    let written = 0
    const wrap = (file: ExtentFile): ExtentFile => ({
      ...file,
      write: (bytes, offset) => {
        if (full) return Promise.reject(new StoreError('NO_SPACE', 'ENOSPC: no space left on device'))
        written++
        return file.write(bytes, offset)
      },
    })
    const { deps } = world
    const extents = {
      ...deps.extents,
      open: async (number: number) => wrap(await deps.extents.open(number)),
      create: async (number: number, size: number) => wrap(await deps.extents.create(number, size)),
    }
    const disk = await openDisk({ ...deps, extents }, world.options)
    await put(disk, 1, small)
    full = true
    await pass(world, 1500)
    full = false
    const before = written
    await pass(world, 1500)
    expect(written).equal(before + 1)
    await pass(world, 3000)
    expect(written).equal(before + 1)
    await disk.close()
  })

  for (const failed of [false, true]) {
    it(`a disk that is ${failed ? 'failed' : 'in order'} ends although LevelDB hangs`, async () => {
      const world = new DiskWorld()
      const kv = {
        open: async (name: string) => ({ ...(await world.kv.open(name)), close: () => new Promise<void>(() => {}) }),
        destroy: (name: string) => world.kv.destroy(name),
      }
      const disk = await openDisk({ ...world.deps, kv }, world.options)
      await put(disk, 1, small)
      world.faults.failSync = failed
      expect(await codeOf(put(disk, 2, small))).equal(failed ? 'DISK_FAILED' : 'none')
      let ended = false
      const closing = disk.close().then(() => (ended = true))
      await pass(world, 100_000)
      expect(ended).equal(false)
      await pass(world, 30_000)
      await closing
      expect(disk.hung).equal(true)
    })
  }
})
