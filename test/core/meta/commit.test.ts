/** Commits: write concern and fencing, atomicity, conditions, idempotence, totals. */

import { expect } from 'chai'
import { keys } from '../../../src/core/meta/keys.ts'
import { anyCondition, id, World } from './world.ts'

describe('commit', () => {
  let world: World
  let lease: number
  let draws: number

  const commit = (operations: ReturnType<World['put']>[], commitId = id(100 + draws++)) =>
    ({ kind: 'commit', commitId, lease, operations }) as const
  const remove = (key: string, condition = anyCondition) =>
    ({ kind: 'delete', bucket: 'photos', key, condition }) as const
  const copy = (fromKey: string, key: string) =>
    ({ kind: 'copy', fromBucket: 'photos', fromKey, bucket: 'photos', key, condition: anyCondition }) as const

  beforeEach(() => {
    world = World.founded()
    lease = world.lease()
    draws = 0
  })

  for (const [concern, acks, code] of [
    ['all', 3, 'ok'],
    ['all', 2, 'FENCED'],
    ['quorum', 2, 'ok'],
    ['quorum', 1, 'FENCED'],
    ['one', 1, 'ok'],
    ['one', 0, 'FENCED'],
  ] as const) {
    it(`answers ${code} to ${acks} acknowledgements of 3 under ${concern}`, () => {
      const chunk = world.acked(lease, [1, 2, 3].slice(0, acks))
      const command = commit([world.put('cat', [chunk], { concern })])
      if (code === 'ok') expect(world.ok(command)).to.include({ durable: acks })
      else world.refused(command, code)
    })
  }

  it('does not count the same disk twice', () => {
    world.refused(commit([world.put('cat', [world.acked(lease, [1, 1])])]), 'FENCED')
  })

  it('does not count an acknowledgement of an old generation', () => {
    const chunk = world.acked(lease, [1, 2])
    world.register('n1', [id(0xd1)], id(2))
    world.refused(commit([world.put('cat', [chunk])]), 'FENCED')
    world.ok({ kind: 'reconciled', disk: 1, generation: world.disk(1).generation })
    world.refused(commit([world.put('cat', [chunk])]), 'FENCED')
    world.ok(commit([world.put('cat', [world.acked(lease, [1, 2])])]))
  })

  it('does not count an acknowledgement of a node that was declared down', () => {
    const chunk = world.acked(lease, [1, 2])
    world.ok({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
    world.refused(commit([world.put('cat', [chunk])]), 'FENCED')
    world.refused(commit([world.put('cat', [world.acked(lease, [1, 2])])]), 'FENCED')
  })

  it('counts a live disk that is not reconciled yet', () => {
    const operations = [world.put('old', [world.acked(lease, [1, 2, 3])])]
    world.ok(commit(operations))
    world.register('n1', [id(0xd1)], id(2))
    expect(world.disk(1).reconciled).to.equal(false)
    world.ok(commit([world.put('cat', [world.acked(lease + 1, [1, 2])])]))
  })

  it('tracks disks that were asked and have not answered as copying', () => {
    world.ok(commit([world.put('cat', [world.acked(lease, [1, 2], [3, 2, 99])])]))
    expect(world.states(lease)).to.equal('1:current 2:current 3:copying')
  })

  it('makes all operations visible or none', () => {
    const good = world.put('cat', [world.acked(lease, [1, 2, 3])])
    const bad = world.put('dog', [world.acked(lease + 1, [1])])
    world.refused(commit([good, bad]), 'FENCED')
    expect(world.object('cat')).to.equal(undefined)
    world.refused(commit([good, remove('nothing')]), 'NOT_FOUND')
    expect(world.object('cat')).to.equal(undefined)
    expect(world.count('c')).to.equal(0)
  })

  it('refuses one key twice, no operation, and too many chunks', () => {
    const one = world.put('cat', [])
    world.refused(commit([one, one]), 'INVALID_ARGUMENT')
    world.refused(commit([]), 'INVALID_ARGUMENT')
    const chunks = Array.from({ length: 300 }, (_, i) => world.acked(lease + i, [1, 2]))
    world.refused(commit([world.put('a', chunks), world.put('b', chunks)]), 'INVALID_ARGUMENT')
  })

  it('refuses names that do not fit, whoever proposed them', () => {
    world.refused(commit([world.put('a//b', [])]), 'INVALID_ARGUMENT')
    world.refused(commit([world.put('x', [], { bucket: 'NO' })]), 'INVALID_ARGUMENT')
    world.refused(commit([world.put('x', [], { bucket: 'nowhere' })]), 'NOT_FOUND')
    world.refused({ kind: 'createBucket', name: '..', commitId: id(9) }, 'INVALID_ARGUMENT')
  })

  it('refuses a size that is not the sum of the chunks', () => {
    world.refused(commit([world.put('cat', [world.acked(lease, [1, 2])], { size: 11 })]), 'INVALID_ARGUMENT')
  })

  it('holds if-absent and if-match to the version before', () => {
    const ifAbsent = { condition: { ifAbsent: true, ifMatch: '' } }
    const ifMatch = (text: string) => ({ condition: { ifAbsent: false, ifMatch: text } })
    world.refused(commit([world.put('cat', [], ifMatch('0102030405060708'))]), 'CONDITION_FAILED')
    world.ok(commit([world.put('cat', [], ifAbsent)]))
    const { version } = world.object('cat') ?? { version: 0 }
    world.refused(commit([world.put('cat', [], ifAbsent)]), 'CONDITION_FAILED')
    world.refused(commit([world.put('cat', [], ifMatch('ffffffffffffffff'))]), 'CONDITION_FAILED')
    world.refused(commit([world.put('cat', [], ifMatch(`v${version - 1}`))]), 'CONDITION_FAILED')
    world.refused(commit([world.put('cat', [], ifMatch('latest'))]), 'INVALID_ARGUMENT')
    world.ok(commit([world.put('cat', [], ifMatch(`v${version}`))]))
    world.refused(commit([remove('cat', { ifAbsent: false, ifMatch: `v${version}` })]), 'CONDITION_FAILED')
    world.ok(commit([remove('cat', { ifAbsent: false, ifMatch: '0102030405060708' })]))
    expect(world.object('cat')).to.equal(undefined)
  })

  it('answers a repeated commit id with the first answer, even after the key was overwritten', () => {
    const first = commit([world.put('cat', [world.acked(lease, [1, 2, 3])])])
    const answer = world.ok(first)
    world.ok(commit([world.put('cat', [world.acked(lease + 1, [1, 2])])]))
    const newest = world.object('cat')?.version
    expect(world.ok(first)).to.deep.equal(answer)
    expect(world.object('cat')?.version).to.equal(newest)
    expect(world.chunk(lease).references).to.equal(1)
  })

  it('answers a repeated delete although the object is gone', () => {
    world.ok(commit([world.put('cat', [])]))
    const command = commit([remove('cat')])
    const answer = world.ok(command)
    expect(answer).to.deep.include({ kind: 'committed' })
    expect(world.ok(command)).to.deep.equal(answer)
  })

  it('refuses a commit id that was used for another commit', () => {
    const commitId = id(77)
    world.ok(commit([world.put('cat', [])], commitId))
    world.refused(commit([world.put('dog', [])], commitId), 'CONFLICT')
  })

  it('forgets outcomes after 15 minutes of committed time', () => {
    world.ok(commit([world.put('a', [])]))
    world.ok(commit([world.put('b', [])]))
    expect(world.count('w')).to.equal(2)
    world.nowMs += 16 * 60_000
    world.ok(commit([world.put('c', [])]))
    expect([world.count('w'), world.count('q')]).to.deep.equal([1, 1])
  })

  it('counts objects and bytes of the bucket and the cluster', () => {
    world.ok(commit([world.put('cat', [world.acked(lease, [1, 2])]), world.put('dog', [])]))
    world.ok(commit([copy('cat', 'kitten')]))
    expect(world.bucket()).to.include({ objects: 3, bytes: 20 })
    expect(world.applied()).to.include({ objects: 3, bytes: 20, chunks: 1 })
    world.ok(commit([remove('cat'), remove('kitten')]))
    expect(world.bucket()).to.include({ objects: 1, bytes: 0 })
  })

  it('copies by reference and trashes the manifest with its last name', () => {
    const commitId = id(50)
    world.ok(commit([world.put('cat', [world.acked(lease, [1, 2])])], commitId))
    world.ok(commit([copy('cat', 'kitten')]))
    expect(world.manifest(commitId)).to.include({ references: 2, state: 'committed' })
    world.ok(commit([remove('cat')]))
    expect(world.manifest(commitId)).to.include({ references: 1, state: 'committed' })
    world.ok(commit([world.put('kitten', [])]))
    expect(world.manifest(commitId)).to.include({ state: 'dropping', trashedMs: world.nowMs })
    expect(world.has(keys.trash(world.nowMs, commitId))).to.equal(true)
    expect(world.effects).to.deep.include({ kind: 'trash', manifest: commitId, sinceMs: world.nowMs })
  })

  it('moves an object by a copy and a delete in one commit, in either order', () => {
    const commitId = id(50)
    world.ok(commit([world.put('cat', [world.acked(lease, [1, 2])])], commitId))
    world.ok(commit([remove('cat'), copy('cat', 'dog')]))
    world.ok(commit([copy('dog', 'cow'), remove('dog')]))
    expect(world.manifest(commitId)).to.include({ references: 1, state: 'committed' })
    expect(world.object('cow')?.manifest).to.equal(commitId)
    expect(world.count('t')).to.equal(0)
  })

  it('copies an object onto itself as a new version', () => {
    world.ok(commit([world.put('cat', [])]))
    const before = world.object('cat')?.version ?? 0
    world.ok(commit([copy('cat', 'cat')]))
    expect(world.object('cat')?.version).to.be.greaterThan(before)
    expect(world.manifest(world.object('cat')?.manifest ?? '')).to.include({ references: 1 })
  })

  it('gives every put of one commit a manifest of its own', () => {
    world.ok(commit([world.put('a', []), world.put('b', [])]))
    expect(world.object('a')?.manifest).to.not.equal(world.object('b')?.manifest)
  })

  it('makes buckets once and removes them only when empty', () => {
    const make = { kind: 'createBucket', name: 'music', commitId: id(3) } as const
    const made = world.ok(make)
    expect(world.ok(make)).to.deep.equal(made)
    world.refused({ ...make, commitId: id(4) }, 'ALREADY_EXISTS')
    world.ok(commit([world.put('song', [], { bucket: 'music' })]))
    world.refused({ kind: 'deleteBucket', name: 'music' }, 'CONDITION_FAILED')
    world.ok(commit([{ kind: 'delete', bucket: 'music', key: 'song', condition: anyCondition }]))
    world.ok({ kind: 'deleteBucket', name: 'music' })
    world.refused({ kind: 'deleteBucket', name: 'music' }, 'NOT_FOUND')
  })

  it('does not see objects of a removed bucket in a new one of the same name', () => {
    world.ok({ kind: 'createBucket', name: 'music', commitId: id(3) })
    world.ok({ kind: 'deleteBucket', name: 'music' })
    world.ok({ kind: 'createBucket', name: 'music', commitId: id(4) })
    world.refused(commit([{ kind: 'delete', bucket: 'music', key: 'song', condition: anyCondition }]), 'NOT_FOUND')
  })
})
