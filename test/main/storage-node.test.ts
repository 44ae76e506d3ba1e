/** What the composition of a storage node decides by itself. */

import { expect } from 'chai'
import { reserveOf } from '../../src/main/storage-node.ts'

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
