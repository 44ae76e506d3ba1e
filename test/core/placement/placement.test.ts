/** Placement: the constraints hold for any cluster, and choices follow the weights. */

import { expect } from 'chai'
import fc from 'fast-check'
import { type DiskWeight, PlacementTable } from '../../../src/core/placement/placement.ts'

const cluster = fc
  .array(
    fc.record({
      zone: fc.integer({ min: 0, max: 3 }),
      weights: fc.array(fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 100 })), { minLength: 1, maxLength: 3 }),
    }),
    { minLength: 1, maxLength: 10 },
  )
  .map((nodes) => {
    const disks: DiskWeight[] = []
    for (const [index, node] of nodes.entries()) {
      for (const weight of node.weights) {
        disks.push({ disk: disks.length + 1, node: `n${index}`, zone: `z${node.zone}`, weight })
      }
    }
    return disks
  })

function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

function tableOf(disks: readonly DiskWeight[]): PlacementTable {
  const table = new PlacementTable()
  for (const disk of disks) table.set(disk)
  return table
}

describe('placement', () => {
  it('keeps every constraint for any cluster, exclusions and copies at hand', () => {
    const args = [
      cluster,
      fc.integer({ min: 1, max: 6 }),
      fc.array(fc.nat(20)),
      fc.array(fc.nat(20)),
      fc.nat(),
    ] as const
    fc.assert(
      fc.property(...args, (disks, copies, exclude, haveAny, seed) => {
        const table = tableOf(disks)
        const byNumber = new Map(disks.map((disk) => [disk.disk, disk]))
        const have = [
          ...new Map(haveAny.flatMap((n) => (byNumber.get(n) ? [[byNumber.get(n)?.node, n]] : []))).values(),
        ]
          .map(Number)
          .slice(0, 3)
        const chosen = table.choose({ copies, exclude, have }, seeded(seed)).map((number) => {
          const disk = byNumber.get(number)
          if (disk === undefined) throw new Error(`disk ${number} does not exist`)
          return disk
        })
        const held = have.flatMap((number) => byNumber.get(number) ?? [])
        const heldNodes = new Set(held.map((disk) => disk.node))
        const usable = disks.filter(
          (disk) => disk.weight > 0 && !exclude.includes(disk.disk) && !heldNodes.has(disk.node),
        )
        const usableNodes = new Set(usable.map((disk) => disk.node))
        for (const disk of chosen) expect(usable).to.include(disk)
        expect(new Set(chosen.map((disk) => disk.node)).size).to.equal(chosen.length)
        expect(chosen.length).to.equal(Math.min(copies, usableNodes.size))
        // Zones: nobody gets a second copy while a zone with a usable node that was left out has none.
        const copiesIn = new Map<string, number>()
        for (const disk of [...held, ...chosen]) copiesIn.set(disk.zone, (copiesIn.get(disk.zone) ?? 0) + 1)
        const left = usable.filter((disk) => !chosen.some((other) => other.node === disk.node))
        for (const zone of new Set(chosen.map((disk) => disk.zone))) {
          for (const other of new Set(left.map((disk) => disk.zone))) {
            expect(copiesIn.get(zone) ?? 0).to.be.at.most((copiesIn.get(other) ?? 0) + 1)
          }
        }
      }),
      { numRuns: 500 },
    )
  })

  it('gives the same answer for the same randomness, however often it was asked before', () => {
    fc.assert(
      fc.property(cluster, fc.nat(), (disks, seed) => {
        const table = tableOf(disks)
        const request = { copies: 3, exclude: [1], have: [2] }
        const first = table.choose(request, seeded(seed))
        for (let i = 0; i < 5; i++) table.choose({ copies: 2, exclude: [3], have: [1, 4] }, seeded(i))
        expect(table.choose(request, seeded(seed))).to.deep.equal(first)
      }),
    )
  })

  it('chooses in proportion to the weights', () => {
    const table = tableOf([
      { disk: 1, node: 'a', zone: 'z', weight: 1 },
      { disk: 2, node: 'b', zone: 'z', weight: 3 },
    ])
    const unit = seeded(7)
    let second = 0
    for (let i = 0; i < 10_000; i++) if (table.choose({ copies: 1, exclude: [], have: [] }, unit)[0] === 2) second++
    expect(second).to.be.within(7200, 7800)
  })

  it('follows removals, moves to another zone and new weights', () => {
    const table = tableOf([
      { disk: 1, node: 'a', zone: 'x', weight: 1 },
      { disk: 2, node: 'b', zone: 'x', weight: 1 },
    ])
    table.set({ disk: 2, node: 'b', zone: 'y', weight: 1 })
    expect(table.zoneOf(2)).to.equal('y')
    table.set({ disk: 2, node: 'b', zone: 'y', weight: 0 })
    expect(table.choose({ copies: 2, exclude: [], have: [] }, seeded(1))).to.deep.equal([1])
    table.remove(1)
    expect(table.choose({ copies: 2, exclude: [], have: [] }, seeded(1))).to.deep.equal([])
  })

  it('places a chunk among 1,000 nodes without looking at them all', () => {
    const table = new PlacementTable()
    for (let i = 1; i <= 1000; i++) table.set({ disk: i, node: `n${i}`, zone: `z${i % 10}`, weight: i })
    let drawn = 0
    const unit = seeded(3)
    const counted = (): number => {
      drawn++
      return unit()
    }
    expect(table.choose({ copies: 3, exclude: [], have: [] }, counted)).to.have.length(3)
    expect(drawn).to.be.at.most(9)
  })
})
