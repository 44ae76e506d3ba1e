/** What the composition of a storage node decides by itself. */

import { expect } from 'chai'
import { ioShare, reserveOf } from '../../src/main/storage-disks.ts'

const MiB = 1024 * 1024
const GiB = 1024 * MiB

describe('reserve of a disk', () => {
  it('is what is configured, at most 2 % of the filesystem and at least 64 MiB', () => {
    expect(reserveOf(GiB, 1000 * GiB)).to.equal(GiB)
    expect(reserveOf(GiB, 10 * GiB)).to.equal(Math.floor(0.2 * GiB))
    expect(reserveOf(GiB, GiB)).to.equal(64 * MiB)
    expect(reserveOf(0, 1000 * GiB)).to.equal(64 * MiB)
  })
})

describe('share of the I/O threads of a disk', () => {
  it('leaves others a thread, whatever one of them keeps; a disk alone has all', () => {
    expect(ioShare(4, 1)).to.equal(Number.POSITIVE_INFINITY)
    expect(ioShare(4, 2)).to.equal(3)
    expect(ioShare(16, 2)).to.equal(8)
    expect(ioShare(16, 12)).to.equal(3)
    for (let threads = 4; threads < 64; threads++) {
      for (let disks = 2; disks < 16; disks++) expect(ioShare(threads, disks)).to.be.within(3, threads - 1)
    }
  })
})
