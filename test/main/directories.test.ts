/** Making directories: where it cannot be done it fails at once, with the reason in a sentence. */

import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { makeDirectory } from '../../src/main/directories.ts'

describe('make a directory', () => {
  let root: string

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'holdfast-directories-'))
  })

  afterEach(() => rmSync(root, { recursive: true, force: true }))

  it('makes what is missing, and is content with what is there', () => {
    for (let times = 0; times < 2; times++) makeDirectory(join(root, 'a', 'b', 'c'))
    expect(statSync(join(root, 'a', 'b', 'c')).isDirectory()).to.equal(true)
  })

  it('names the file that is in the way', () => {
    writeFileSync(join(root, 'file'), '')
    expect(() => makeDirectory(join(root, 'file', 'below', 'it'))).to.throw(/file" is a file: name another one/)
  })

  it('fails at once where the file system takes no directories', () => {
    expect(() => makeDirectory('/proc/nope/logs')).to.throw(/"\/proc" takes no new directory/)
  })
})
