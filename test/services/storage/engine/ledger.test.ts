/** The books of a disk: what is of use in an extent, and what keeps it whatever the figures say. */

import { expect } from 'chai'
import { ExtentRanking } from '../../../../src/core/chunk/compaction.ts'
import { type Location, quarantineAgain } from '../../../../src/core/chunk/record.ts'
import { Ledger } from '../../../../src/services/storage/engine/ledger.ts'

const root = new Uint8Array(8)
const at = (extent: number, payload: number, span: number): Location => ({
  extent,
  group: payload - 4096,
  record: 96,
  payload,
  span,
})

describe('ledger', () => {
  it('does not free quarantined bytes when the books of their extent are put right', () => {
    const ledger = new Ledger(0, new Map(), new ExtentRanking(100_000))
    const put = (id: number, location: Location): void => {
      ledger.apply({ kind: 'put', id, length: 1, lease: 1, root, blockSums: root, frees: [] }, location)
    }
    const rotten = at(1, 8192, 8192)
    put(1, rotten)
    put(2, at(1, 20_480, 40_960))
    ledger.seal(1, 1 << 20, 61_440)
    ledger.apply({ kind: 'quarantine', id: 1, location: rotten, finding: 'rot' }, at(2, 8192, 100))
    const right = { extent: 1, payload: 0, span: 40_960, held: false }
    ledger.apply({ kind: 'delete', id: 0, frees: [right] }, at(2, 16_384, 100))
    expect(ledger.pinnedBytes(1)).to.equal(8192)
    expect(ledger.liveBytes(1)).to.equal(8192)
    // Twice by mistake: the figure is nothing, and the extent is kept all the same.
    expect(ledger.apply({ kind: 'delete', id: 0, frees: [right] }, at(2, 20_480, 100))).to.deep.equal([])
    expect(ledger.isEmpty(1)).to.equal(false)
    const gone = { extent: 1, payload: 8192, span: 8192, held: false }
    expect(ledger.apply({ kind: 'delete', id: 1, frees: [gone] }, at(2, 24_576, 100))).to.deep.equal([1])
  })

  it('has an extent looked through that says which bytes elsewhere are quarantined, and counts it once however often it is said', () => {
    const ledger = new Ledger(0, new Map(), new ExtentRanking(100_000))
    const rotten = at(1, 8192, 8192)
    ledger.apply({ kind: 'put', id: 1, length: 1, lease: 1, root, blockSums: root, frees: [] }, rotten)
    const record = { kind: 'quarantine', id: 1, location: rotten, finding: 'rot' } as const
    ledger.apply(record, at(2, 8192, 100))
    ledger.apply(quarantineAgain(record), at(3, 8192, 100))
    expect([ledger.chunks, ledger.liveBytes(1), ledger.pinnedBytes(1)]).to.deep.equal([0, 8192, 8192])
    for (const extent of [2, 3]) {
      expect(ledger.tombstones.settled(extent, (other) => other === 1)).to.equal(false)
      expect(ledger.tombstones.settled(extent, () => false)).to.equal(true)
    }
  })
})
