/** Extent files in use and free: what must not happen to their descriptors and to a full filesystem. */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../../../src/ports/extents.ts'
import { ExtentTable } from '../../../../src/services/storage/engine/extent-table.ts'
import { Space } from '../../../../src/services/storage/engine/space.ts'
import { ManualClock } from '../../../support/manual-clock.ts'
import { MemoryExtents } from '../../../support/memory-extents.ts'
import { seeded, testHasher } from '../../../support/disk-world.ts'

const size = 64 * 1024

function tableOver(files: ExtentFiles): ExtentTable {
  const random = seeded(1)
  const entropy = { bytes: (length: number) => Uint8Array.from({ length }, () => random() * 256), unit: random }
  const options = { extentBytes: size, reserveBytes: 0, diskId: new Uint8Array(16) }
  return new ExtentTable(files, options, new Space(files, new ManualClock()), entropy, (bytes, out, at) =>
    testHasher.sumInto(bytes, out, at),
  )
}

async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
}

describe('extent table', () => {
  it('closes a file once when it is recycled while others are opened', async () => {
    const memory = new MemoryExtents()
    const closes = new Map<number, number>()
    const letGo: (() => void)[] = []
    const files = memory.under(memory.faults)
    const counted = async (number: number): Promise<ExtentFile> => {
      const file = await files.open(number)
      file.close = () => {
        closes.set(number, (closes.get(number) ?? 0) + 1)
        return new Promise((resolve) => letGo.push(resolve))
      }
      return file
    }
    const table = tableOver({ ...files, open: counted })
    for (let number = 1; number <= 300; number++) {
      await memory.create(number, size)
      table.addUsed(number)
    }
    for (let number = 1; number <= 256; number++) (await table.hold(number))?.release()
    table.retire(1)
    await settled()
    for (let number = 257; number <= 300; number++) (await table.hold(number))?.release()
    await settled()
    for (const resolve of letGo) resolve()
    await settled()
    expect(Math.max(...closes.values())).to.equal(1)
    expect(closes.get(1)).to.equal(1)
  })

  it('leaves no file behind for each try on a filesystem that is full only when written to', async () => {
    const memory = new MemoryExtents()
    let full = true
    const wrap = (file: ExtentFile): ExtentFile => {
      const write = file.write.bind(file)
      file.write = (bytes, offset) =>
        full ? Promise.reject(new StoreError('NO_SPACE', 'the filesystem is full')) : write(bytes, offset)
      return file
    }
    const files = memory.under(memory.faults)
    const table = tableOver({
      ...files,
      open: async (number) => wrap(await files.open(number)),
      create: async (number, bytes) => wrap(await files.create(number, bytes)),
    })
    for (let i = 0; i < 10; i++) {
      const code = await table.next(4096, 'chunk').then(
        () => 'none',
        (error: StoreError) => error.code,
      )
      expect(code).to.equal('NO_SPACE')
    }
    expect((await files.list()).length).to.equal(1)
    full = false
    const held = await table.next(4096, 'chunk')
    expect(held.header?.sequence).to.equal(held.sequence)
    expect((await files.list()).length).to.equal(1)
  })

  for (const failing of ['open', 'open of what was made', 'rename', 'create', 'header'] as const) {
    it(`loses no file when the process has no descriptors left: ${failing}`, async () => {
      const memory = new MemoryExtents()
      const files = memory.under(memory.faults)
      let left = failing === 'open of what was made' ? 1 : 0
      let lacking = true
      const lack = <T>(operation: string, file: T): T => {
        if (!lacking || !failing.startsWith(operation) || left-- > 0) return file
        throw Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE' })
      }
      const wrap = (file: ExtentFile): ExtentFile => ({ ...file, sync: async () => lack('header', file.sync()) })
      const table = tableOver({
        ...files,
        open: async (number) => wrap(lack('open', await files.open(number))),
        // The directory could not be synced: the file has its new name.
        rename: async (from, to) => lack('rename', await files.rename(from, to)),
        create: async (number, bytes) => wrap(lack('create', await files.create(number, bytes))),
      })
      if (failing !== 'create') {
        await memory.create(1, size)
        table.addFree(1, size)
      }
      for (let i = 0; i < (failing === 'create' ? 1 : 3); i++) {
        left = failing === 'open of what was made' ? 1 : 0
        const message = await table.next(4096, 'chunk').then(
          () => 'none',
          (error: Error) => error.message,
        )
        expect(message).to.match(/EMFILE/)
        expect(table.freeBytes).to.equal(size)
      }
      lacking = false
      const held = await table.next(4096, 'chunk')
      expect(held.header?.sequence).to.equal(held.sequence)
      expect(await files.list()).to.deep.equal([held.sequence])
    })
  }

  it('leaves the files alone once it is closed, whenever its last reader is done', async () => {
    const memory = new MemoryExtents()
    const table = tableOver(memory.under(memory.faults))
    for (let number = 1; number <= 4; number++) {
      await memory.create(number, size)
      if (number === 1) table.addUsed(number)
      else table.addFree(number, size)
    }
    const held = await table.hold(1)
    table.retire(1)
    await table.close()
    held?.release()
    await settled()
    expect(await memory.list()).to.deep.equal([1, 2, 3, 4])
  })
})
