/** Which extent is compacted next, how fast, and which tombstones have to go on. */

import { expect } from 'chai'
import { ExtentRanking, liveRatioWanted, pressureOf } from '../../../src/core/chunk/compaction.ts'
import { Pace } from '../../../src/core/chunk/pace.ts'
import { shadowsOf, Tombstones } from '../../../src/core/chunk/tombstones.ts'

const MiB = 1024 * 1024
const size = 256 * MiB
const payloadMax = 8 * MiB
const everything = Number.POSITIVE_INFINITY

function ranking(live: readonly number[], end: number | undefined = size - 8192): ExtentRanking {
  const out = new ExtentRanking(payloadMax)
  for (const [i, ratio] of live.entries()) out.seal(i + 1, size, end, ratio * size, 0)
  return out
}

describe('compaction: which extent', () => {
  it('takes the emptiest of extents of the same age, and none at or above the ratio', () => {
    const extents = ranking([0.9, 0.2, 0.4, 0.55])
    expect(extents.pick(0.5, everything, 1_000_000)).to.equal(2)
    extents.drop(2)
    expect(extents.pick(0.5, everything, 1_000_000)).to.equal(3)
    extents.drop(3)
    expect(extents.pick(0.5, everything, 1_000_000)).to.equal(undefined)
    expect(extents.pick(0.95, everything, 1_000_000)).to.equal(4)
  })

  it('prefers an old extent to a young one that is a little emptier', () => {
    const extents = ranking([0.42, 0.9, 0.38])
    expect(extents.pick(0.5, everything, 4)).to.equal(1)
    expect(extents.pick(0.5, everything, 1_000_000)).to.equal(3)
  })

  it('follows every change, and leaves out what is empty, quarantined or set aside', () => {
    const extents = ranking([0.9, 0.9, 0.9])
    extents.update(2, 0.1 * size, 0)
    expect(extents.pick(0.5, everything, 9)).to.equal(2)
    extents.update(2, 0, 0)
    expect(extents.pick(0.5, everything, 9)).to.equal(undefined)
    extents.update(3, 0.1 * size, 5)
    expect(extents.pick(0.5, everything, 9)).to.equal(undefined)
    expect(extents.pinnedBytes).to.equal(size)
    extents.update(3, 0.1 * size, 0)
    expect(extents.pick(0.5, everything, 9)).to.equal(3)
    extents.setAside(3)
    expect(extents.pick(0.5, everything, 9)).to.equal(undefined)
    extents.update(3, 0.04 * size, 0)
    expect(extents.pick(0.5, everything, 9)).to.equal(3)
  })

  it('takes only what fits into the room there is, however the classes are headed', () => {
    const extents = ranking([0.4, 0.41])
    extents.seal(7, MiB, MiB - 4096, 0.4 * MiB, 0)
    expect(extents.pick(0.5, 50 * MiB, 9)).to.equal(7)
    expect(extents.pick(0.5, 0.1 * MiB, 9)).to.equal(undefined)
  })

  it('does not count room that no chunk fitted into, so that full extents are never compacted for it', () => {
    // One chunk of 8 MiB in an extent of 16 MiB: a second one does not fit.
    const extents = new ExtentRanking(payloadMax + 8192)
    extents.seal(1, 16 * MiB, 8 * MiB + 8192, 8 * MiB + 4096, 0)
    expect(extents.deadBytes).to.equal(0)
    expect(extents.pick(0.95, everything, 9)).to.equal(undefined)
    // An extent that was left early is waste.
    extents.seal(2, size, 20 * MiB, 20 * MiB - 4096, 0)
    expect(extents.pick(0.95, everything, 9)).to.equal(2)
  })

  it('gets more eager as space gets short, and on an idle disk with more waste than is kept', () => {
    const room = (free: number) => pressureOf({ writable: 0, free, total: 1000, reserve: 20 })
    expect([room(500), room(200), room(110), room(20), room(0)]).to.deep.equal([0, 0, 0.5, 1, 1])
    // A filesystem of which the reserve is most.
    expect(pressureOf({ writable: 0, free: 640, total: 1000, reserve: 640 })).to.equal(1)
    expect(liveRatioWanted(0.5, 0, false)).to.equal(0.5)
    expect(liveRatioWanted(0.5, 0.5, false)).to.be.closeTo(0.725, 1e-9)
    expect(liveRatioWanted(0.5, 1, false)).to.equal(0.95)
    expect(liveRatioWanted(0.5, 0, true)).to.equal(0.95)
    expect(ranking([0.94, 0.95, 0.96]).untidy).to.equal(false)
    expect(ranking([0.9, 0.9, 0.9]).untidy).to.equal(true)
  })
})

describe('compaction: how fast', () => {
  it('lets no more through than the rate, whatever it is asked', () => {
    const pace = new Pace(1000, -1000)
    let nowMs = 0
    let bytes = 0
    while (nowMs < 10_000) {
      nowMs += pace.take(100, nowMs, false)
      bytes += 100
    }
    expect(bytes).to.be.within(9_900, 10_500)
  })

  it('gives way to clients, more so when they are slowed down, and not when space is needed', () => {
    const pace = new Pace(1000, 0)
    expect([pace.part(0, false), pace.part(1000, false)]).to.deep.equal([1 / 4, 1])
    for (let i = 0; i < 100; i++) pace.took(10)
    pace.client(5000)
    expect([pace.part(5500, false), pace.part(5500, true), pace.part(6001, false)]).to.deep.equal([1 / 4, 1, 1])
    for (let i = 0; i < 20; i++) pace.took(50)
    expect([pace.part(5500, false), pace.part(5500, true)]).to.deep.equal([1 / 16, 1])
  })
})

describe('compaction: tombstones', () => {
  const gone = { extent: 3, payload: 4096, span: 100, held: true }
  const inUse = (extent: number): boolean => extent === 3

  it('knows which extents hide a place in an extent that is still there', () => {
    const tombstones = new Tombstones()
    tombstones.note(7, { kind: 'delete', id: 1, frees: [gone] })
    tombstones.note(8, { kind: 'delete', id: 1, frees: [{ ...gone, extent: 4 }] })
    tombstones.unknown(9)
    expect([7, 8, 9, 10].map((extent) => tombstones.settled(extent, inUse))).to.deep.equal([false, true, false, true])
    tombstones.forget(7)
    expect(tombstones.settled(7, inUse)).to.equal(true)
  })

  it('stays bounded: an extent that hides too much is looked through', () => {
    const tombstones = new Tombstones()
    for (let i = 10; i < 200; i++) tombstones.note(7, { kind: 'delete', id: i, frees: [{ ...gone, extent: i }] })
    expect(tombstones.settled(7, () => false)).to.equal(false)
  })

  it('carries on only what is still hidden, and frees nothing a second time', () => {
    const frees = [gone, { ...gone, extent: 5 }, { ...gone, extent: 7 }]
    expect(shadowsOf(frees, 7, (extent) => extent !== 5)).to.deep.equal([
      { extent: 3, payload: 4096, span: 0, held: false },
    ])
  })
})
