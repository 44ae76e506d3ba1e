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
})
