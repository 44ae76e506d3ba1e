/** Replicas after their commit: shortfall classes, findings, trim, reclaim, deletion (docs/RULES.md, rules 3, 4, 12). */

import { expect } from 'chai'
import { shortClass } from '../../../src/core/meta/chunks.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import {
  diskChunkRecord,
  findingRecord,
  findingSlots,
  shortRecord,
  type StoredReplicaState,
} from '../../../src/core/meta/records.ts'
import { repairClasses } from '../../../src/model/words.ts'
import { id, rootOf, World } from './world.ts'

type Change = 'copied' | 'missing' | 'corrupt' | 'copy-failed'

describe('replicas', () => {
  let world: World
  let lease: number
  let chunk: number

  const change = (disk: number, what: Change, generation = world.disk(disk).generation, of = chunk) =>
    ({ kind: 'replicas', changes: [{ chunk: of, disk, generation, change: what, finding: 'bad block 3' }] }) as const
  const trim = (disk: number, proof: readonly number[]) =>
    ({
      kind: 'trim',
      chunk,
      disk,
      proof: proof.map((number) => ({ disk: number, generation: world.disk(number).generation })),
    }) as const
  const pin = (disks: readonly number[], copying: readonly number[] = [], copies = 3, of = chunk) => {
    const chunks = [world.acked(of, disks, copying)]
    world.ok({ kind: 'commitChunks', commitId: id(of), lease, chunks, copies, concern: 'one' })
  }
  const shortNames = () =>
    repairClasses.filter((_, index) => world.get(keys.short(index, chunk), shortRecord) !== undefined)

  beforeEach(() => {
    world = World.founded(6)
    lease = world.lease()
    chunk = lease + 5
  })

  for (const [copies, states, name] of [
    [3, 'ccc', undefined],
    [3, 'cc', 'degraded'],
    [3, 'c', 'last-copy'],
    [3, 'mxp', 'last-copy'],
    [5, 'cc', 'at-risk'],
    [5, 'ccc', 'degraded'],
    [2, 'c', 'last-copy'],
    [1, 'c', undefined],
    [1, '', 'last-copy'],
    [3, 'cccc', 'surplus'],
    [3, 'cccx', 'surplus'],
    [3, 'cccd', undefined],
    [3, 'ccd', 'degraded'],
  ] as const) {
    it(`puts ${states || 'nothing'} of ${copies} copies in ${name ?? 'no class'}`, () => {
      const letters: Record<string, StoredReplicaState> = {
        c: 'current',
        m: 'missing',
        x: 'corrupt',
        p: 'copying',
        d: 'deleting',
      }
      const replicas = states.split('').map((letter, i) => ({
        disk: i + 1,
        generation: 1,
        state: letters[letter] ?? 'missing',
      }))
      const index = shortClass({ copies, replicas })
      expect(index === undefined ? undefined : repairClasses[index]).to.equal(name)
    })
  }

  it('repeats the replicas of a chunk under each of its disks', () => {
    pin([1, 2], [3])
    for (const disk of [1, 2, 3]) {
      const record = world.get(keys.diskChunk(disk, chunk), diskChunkRecord)
      expect(record).to.deep.equal({ copies: 3, replicas: world.chunk(chunk).replicas })
    }
    world.ok(change(4, 'copied'))
    expect(world.get(keys.diskChunk(1, chunk), diskChunkRecord)?.replicas).to.have.length(4)
  })

  it('moves the shortfall entry with the copies and keeps since when', () => {
    pin([1, 2])
    const since = world.nowMs
    expect(shortNames()).to.deep.equal(['degraded'])
    world.nowMs += 5_000
    world.ok(change(2, 'missing'))
    expect(shortNames()).to.deep.equal(['last-copy'])
    expect(world.get(keys.short(0, chunk), shortRecord)).to.deep.equal({ sinceMs: since })
    world.ok(change(3, 'copied'))
    world.ok(change(4, 'copied'))
    expect(shortNames()).to.deep.equal([])
  })

  it('turns copying into current when the copy arrived, and drops it after its deadline', () => {
    pin([1, 2], [3, 4])
    world.ok(change(3, 'copied'))
    world.ok(change(4, 'copy-failed'))
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current 4:copying')
    world.nowMs += 10_000
    world.ok(change(4, 'copy-failed'))
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current')
    world.ok(change(1, 'copy-failed'))
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current')
  })

  it('believes nothing of an old generation or a fenced disk', () => {
    pin([1, 2])
    const before = world.states(chunk)
    world.ok(change(3, 'copied', world.disk(3).generation + 1))
    world.ok({ kind: 'nodeDown', node: 'n4', incarnation: id(1) })
    world.ok(change(4, 'copied'))
    world.ok({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
    world.ok(change(1, 'missing'))
    expect(world.states(chunk)).to.equal(before)
  })

  it('shows missing replicas until enough copies are there', () => {
    pin([1, 2, 3])
    world.ok(change(1, 'missing'))
    expect(world.states(chunk)).to.equal('1:missing 2:current 3:current')
    world.ok(change(4, 'copied'))
    expect(world.states(chunk)).to.equal('2:current 3:current 4:current')
    expect(world.has(keys.diskChunk(1, chunk))).to.equal(false)
  })

  it('records a corruption once and marks it repaired by a copy to the same disk', () => {
    pin([1, 2, 3])
    world.ok(change(2, 'corrupt'))
    world.ok(change(2, 'corrupt'))
    expect(world.applied().findings).to.equal(1)
    expect(world.get(keys.finding(0), findingRecord)).to.include({
      chunk,
      disk: 2,
      finding: 'bad block 3',
      repaired: false,
    })
    expect(shortNames()).to.deep.equal(['degraded'])
    world.ok(change(2, 'copied'))
    expect(world.get(keys.finding(0), findingRecord)).to.include({ repaired: true })
    expect(shortNames()).to.deep.equal([])
  })

  it('marks a corruption repaired when a copy elsewhere made the bad replica surplus and it was trimmed', () => {
    pin([1, 2, 3])
    world.ok(change(2, 'corrupt'))
    world.ok(change(4, 'copied'))
    expect(world.get(keys.finding(0), findingRecord)).to.include({ repaired: false })
    world.ok(trim(2, [1, 3, 4]))
    expect(world.states(chunk)).to.equal('1:current 2:deleting 3:current 4:current')
    expect(world.get(keys.finding(0), findingRecord)).to.include({ repaired: true })
  })

  it('keeps findings in a ring', () => {
    for (let i = 0; i <= findingSlots; i++) pin([1, 2], [], 3, lease + 100 + i)
    for (let i = 0; i <= findingSlots; i++) world.ok(change(1, 'corrupt', world.disk(1).generation, lease + 100 + i))
    expect(world.count('x')).to.equal(findingSlots)
    expect(world.get(keys.finding(0), findingRecord)?.chunk).to.equal(lease + 100 + findingSlots)
  })

  it('trims a surplus replica when enough other verified copies are named', () => {
    pin([1, 2, 3, 4])
    expect(shortNames()).to.deep.equal(['surplus'])
    world.ok(trim(4, [1, 2, 3]))
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current 4:deleting')
    expect(world.effects).to.deep.include({ kind: 'deleting', chunk, disk: 4, generation: 1 })
    expect(shortNames()).to.deep.equal([])
  })

  it('refuses a trim whose proof does not hold', () => {
    pin([1, 2, 3, 4], [5])
    world.refused(trim(4, [1, 2]), 'CONDITION_FAILED')
    world.refused(trim(4, [1, 2, 2]), 'CONDITION_FAILED')
    world.refused(trim(4, [1, 2, 4]), 'CONDITION_FAILED')
    world.refused(trim(4, [1, 2, 5]), 'CONDITION_FAILED')
    world.refused(trim(4, [1, 2, 6]), 'CONDITION_FAILED')
    world.refused({ ...trim(4, [1, 2]), proof: [1, 2, 3].map((disk) => ({ disk, generation: 9 })) }, 'CONDITION_FAILED')
    world.ok({ kind: 'nodeDown', node: 'n3', incarnation: id(1) })
    world.refused(trim(4, [1, 2, 3]), 'CONDITION_FAILED')
    world.register('n3', [id(0xd3)], id(2))
    world.refused(trim(4, [1, 2, 3]), 'CONDITION_FAILED')
    world.ok({ kind: 'reconciled', disk: 3, generation: world.disk(3).generation })
    world.ok(trim(4, [1, 2, 3]))
  })

  it('never lets a deleting replica return', () => {
    pin([1, 2, 3, 4])
    world.ok(trim(4, [1, 2, 3]))
    for (const what of ['copied', 'corrupt', 'copy-failed'] as const) world.ok(change(4, what))
    const chunks = [world.acked(chunk, [4])]
    world.ok({ kind: 'commitChunks', commitId: id(99), lease, chunks, copies: 3, concern: 'one' })
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current 4:deleting')
    world.ok({ kind: 'deleted', disk: 4, generation: world.disk(4).generation, chunks: [chunk] })
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current')
  })

  it('gives a chunk that is known no copy back by an old acknowledgement', () => {
    pin([1, 2, 3, 4])
    const late = [world.acked(chunk, [4])]
    world.ok(trim(4, [1, 2, 3]))
    world.ok({ kind: 'deleted', disk: 4, generation: world.disk(4).generation, chunks: [chunk] })
    world.ok({ kind: 'commitChunks', commitId: id(99), lease, chunks: late, copies: 3, concern: 'one' })
    expect(world.states(chunk)).to.equal('1:current 2:current 3:current')
  })

  it('refuses a known id with other content', () => {
    pin([1, 2, 3])
    const chunks = [{ ...world.acked(chunk, [1]), root: rootOf(1) }]
    world.refused({ kind: 'commitChunks', commitId: id(99), lease, chunks, copies: 3, concern: 'one' }, 'CONFLICT')
  })

  it('unpins a chunk that no object names', () => {
    pin([1, 2, 3])
    const operations = [world.put('cat', [world.acked(chunk, [1, 2])])]
    world.ok({ kind: 'commit', commitId: id(44), lease, operations })
    world.refused({ kind: 'unpinChunk', chunk }, 'CONDITION_FAILED')
    pin([1, 2, 3], [], 3, chunk + 1)
    world.ok({ kind: 'unpinChunk', chunk: chunk + 1 })
    world.refused({ kind: 'unpinChunk', chunk: chunk + 1 }, 'NOT_FOUND')
    expect(world.has(keys.garbage(world.nowMs, chunk + 1))).to.equal(true)
  })

  describe('of unreferenced chunks', () => {
    const grace = 900_000
    const reclaim = () => ({ kind: 'reclaim', graceMs: grace, chunks: [chunk] }) as const

    beforeEach(() => {
      pin([1, 2], [3])
      world.ok({ kind: 'unpinChunk', chunk })
    })

    it('are not repaired and wait out the grace', () => {
      expect(shortNames()).to.deep.equal([])
      world.ok({ kind: 'expireLease', id: lease })
      world.nowMs += grace - 1
      world.ok(reclaim())
      expect(world.states(chunk)).to.equal('1:current 2:current 3:copying')
      world.nowMs += 1
      world.ok(reclaim())
      expect(world.states(chunk)).to.equal('1:deleting 2:deleting 3:deleting')
      expect(world.effects.filter((effect) => effect.kind === 'deleting')).to.have.length(3)
      expect(world.count('g')).to.equal(0)
    })

    it('stay while their writer may still commit them, behind those that can go', () => {
      world.nowMs += grace
      world.ok(reclaim())
      expect(world.states(chunk)).to.equal('1:current 2:current 3:copying')
      expect(world.has(keys.garbage(world.nowMs, chunk))).to.equal(true)
      expect(world.count('g')).to.equal(1)
    })

    it('come back when a commit names them again', () => {
      const operations = [world.put('cat', [world.acked(chunk, [1, 2])])]
      world.ok({ kind: 'commit', commitId: id(45), lease, operations })
      expect(world.count('g')).to.equal(0)
      expect(shortNames()).to.deep.equal(['degraded'])
    })

    it('are forgotten when the last replica is deleted, and not before', () => {
      world.ok({ kind: 'expireLease', id: lease })
      world.nowMs += grace
      world.ok(reclaim())
      world.ok({ kind: 'deleted', disk: 1, generation: 7, chunks: [chunk] })
      expect(world.states(chunk)).to.contain('1:deleting')
      for (const disk of [1, 2, 3]) {
        expect(world.has(keys.chunk(chunk))).to.equal(true)
        world.ok({ kind: 'deleted', disk, generation: world.disk(disk).generation, chunks: [chunk] })
      }
      expect([world.count('c'), world.count('d'), world.applied().chunks]).to.deep.equal([0, 0, 0])
    })

    it('order away a copy that completes after the decision', () => {
      world.ok({ kind: 'expireLease', id: lease })
      world.nowMs += grace
      world.ok(reclaim())
      world.ok(change(5, 'copied'))
      expect(world.states(chunk)).to.contain('5:deleting')
    })
  })
})
