/** After `meta recover`, or with disks newer than the metadata: nothing old counts, no id comes twice, nothing is deleted. */

import { expect } from 'chai'
import { leaseSpan } from '../../../src/model/ids.ts'
import { id, World } from './world.ts'

describe('a recovered cluster', () => {
  it('fences every disk far beyond what lost members can have granted, holds deletes, and leaves ids out', () => {
    const world = World.founded(3, 2)
    const lease = world.lease()
    const { nextChunk } = world.cluster()
    const before = [1, 2, 3].map((disk) => world.disk(disk).generation)
    world.ok({ kind: 'recovered', incarnation: 2 })
    expect(world.cluster()).to.include({ incarnation: 2, deletesHeld: true })
    expect(world.cluster().nextChunk).to.be.at.least(nextChunk + 1000 * leaseSpan)
    expect(world.cluster().nextChunk % leaseSpan).to.equal(0)
    for (const disk of [1, 2, 3]) {
      expect(world.disk(disk)).to.include({ live: false, reconciled: false })
      expect(world.disk(disk).generation - (before[disk - 1] ?? 0)).to.be.greaterThan(1_000_000)
    }
    const stale = [
      { disk: 1, generation: before[0] ?? 0 },
      { disk: 2, generation: before[1] ?? 0 },
    ]
    const chunk = { id: lease, length: 10, root: new Uint8Array(8), acks: stale, copying: [] }
    world.refused({ kind: 'commit', commitId: id(9), lease, operations: [world.put('k', [chunk])] }, 'FENCED')
    // The same process registers again: its disks are compared before they count.
    world.register('n1', [id(0xd1)])
    expect(world.disk(1)).to.include({ live: true, reconciled: false })
  })

  it('is told once, and never of an older incarnation', () => {
    const world = World.founded(1, 2)
    world.ok({ kind: 'recovered', incarnation: 3 })
    const { nextChunk } = world.cluster()
    for (const incarnation of [3, 2, 1]) {
      world.ok({ kind: 'recovered', incarnation })
      expect(world.effects).to.deep.equal([])
    }
    expect(world.cluster()).to.include({ incarnation: 3, nextChunk })
  })

  it('deletes again only when it is told to', () => {
    const world = World.founded(1, 2)
    world.ok({ kind: 'recovered', incarnation: 2 })
    world.ok({ kind: 'resumeDeletes' })
    expect(world.cluster().deletesHeld).to.equal(false)
    expect(world.effects).to.deep.equal([{ kind: 'cluster' }])
    world.ok({ kind: 'resumeDeletes' })
    expect(world.effects).to.deep.equal([])
  })
})

describe('ids that a disk reports', () => {
  it('are never handed out again, and show that the metadata is old', () => {
    const world = World.founded(1, 2)
    const { nextChunk } = world.cluster()
    world.ok({ kind: 'reserveChunkIds', above: nextChunk })
    expect(world.cluster()).to.include({ nextChunk, deletesHeld: false })
    const above = nextChunk + 5 * leaseSpan + 17
    world.ok({ kind: 'reserveChunkIds', above })
    expect(world.cluster()).to.include({ nextChunk: nextChunk + 6 * leaseSpan, deletesHeld: true })
    expect(world.lease()).to.be.at.least(above)
  })

  it('are not believed when they would use up all there are', () => {
    const world = World.founded(1, 2)
    world.refused({ kind: 'reserveChunkIds', above: Number.MAX_SAFE_INTEGER }, 'INVALID_ARGUMENT')
    world.refused({ kind: 'reserveChunkIds', above: 2 ** 45 }, 'INVALID_ARGUMENT')
    world.ok({ kind: 'reserveChunkIds', above: 2 ** 43 })
  })
})
