/** Extent files on a real filesystem: what the disk engine's own tests do not ask of them. */

import { mkdtemp, rm, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { openExtentFiles } from '../../src/drivers/extents-node.ts'

describe('extent files of node', () => {
  it('counts as used what is used, not what the filesystem keeps back', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'holdfast-extents-'))
    try {
      const files = await openExtentFiles(directory)
      const { free, total } = await files.space()
      const { bsize, blocks, bfree } = await statfs(directory)
      // Others write here too, at the same time.
      expect(total - free).to.be.closeTo(bsize * (blocks - bfree), 1024 ** 3)
    } finally {
      await rm(directory, { recursive: true })
    }
  })

  it('opened as durable says that its writes need no sync, and holds what was written', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'holdfast-extents-'))
    try {
      const files = await openExtentFiles(directory)
      const made = await files.create(1, 64 * 1024)
      expect(made.durable).to.equal(false)
      await made.close()
      const file = await files.open(1, true)
      expect(file.durable).to.equal(true)
      await file.write(files.arena(4096).fill(7), 8192)
      const read = new Uint8Array(4096)
      expect(await file.read(read, 8192)).to.equal(4096)
      expect(read).to.deep.equal(new Uint8Array(4096).fill(7))
      await file.close()
    } finally {
      await rm(directory, { recursive: true })
    }
  })
})
