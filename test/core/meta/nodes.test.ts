/** Registration, generations and fencing (docs/RULES.md, rule 3). */

import { expect } from 'chai'
import { keys } from '../../../src/core/meta/keys.ts'
import { nodeRecord } from '../../../src/core/meta/records.ts'
import { id, World } from './world.ts'

describe('nodes', () => {
  let world: World
  const node = (name: string) => world.get(keys.node(name), nodeRecord)

  beforeEach(() => {
    world = World.founded(2)
  })

  it('numbers new disks, and trusts them at once', () => {
    const reply = world.register('n3', [id(0xe1), id(0xe2)])
    expect(reply).to.deep.include({
      disks: [
        { id: id(0xe1), number: 3, generation: 1 },
        { id: id(0xe2), number: 4, generation: 1 },
      ],
    })
    expect(world.disk(3)).to.include({ live: true, reconciled: true, node: 'n3' })
    expect(node('n3')).to.deep.include({ health: 'up', mode: 'active', disks: [3, 4] })
  })

  it('keeps the generation when the same process registers again', () => {
    world.register('n1', [id(0xd1)])
    expect(world.disk(1)).to.include({ generation: 1, reconciled: true })
  })

  it('gives a new generation to a new process, to be reconciled', () => {
    world.register('n1', [id(0xd1)], id(2))
    expect(world.disk(1)).to.include({ generation: 2, live: true, reconciled: false })
    world.ok({ kind: 'reconciled', disk: 1, generation: 1 })
    expect(world.disk(1).reconciled).to.equal(false)
    world.ok({ kind: 'reconciled', disk: 1, generation: 2 })
    expect(world.disk(1).reconciled).to.equal(true)
  })

  it('fences a node that is down, and the same process when it returns', () => {
    world.ok({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
    expect(world.disk(1)).to.include({ generation: 2, live: false, reconciled: false })
    expect(node('n1')?.health).to.equal('down')
    world.register('n1', [id(0xd1)])
    expect(world.disk(1)).to.include({ generation: 3, live: true, reconciled: false })
    expect(node('n1')?.health).to.equal('up')
  })

  it('ignores a verdict on an earlier process', () => {
    world.register('n1', [id(0xd1)], id(2))
    world.ok({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
    expect(node('n1')?.health).to.equal('up')
    expect(world.disk(1)).to.include({ generation: 2, live: true })
  })

  it('fences a disk that its node no longer names', () => {
    world.register('n1', [id(0xe5)])
    expect(world.disk(1)).to.include({ live: false, generation: 2 })
    expect(node('n1')?.disks).to.deep.equal([3, 1])
  })

  it('lets a disk move to another node under a new generation', () => {
    world.register('n2', [id(0xd2), id(0xd1)])
    expect(world.disk(1)).to.include({ node: 'n2', generation: 2, reconciled: false })
    world.ok({ kind: 'nodeDown', node: 'n1', incarnation: id(1) })
    expect(world.disk(1)).to.include({ live: true, generation: 2 })
    world.register('n1', [])
    expect(world.disk(1)).to.include({ node: 'n2', live: true, generation: 2 })
  })

  it('fences a failed disk until its node starts anew', () => {
    world.ok({ kind: 'diskState', disk: 1, generation: 1, state: 'read-only' })
    expect(world.disk(1)).to.include({ state: 'read-only', live: true, generation: 1 })
    world.ok({ kind: 'diskState', disk: 1, generation: 1, state: 'failed' })
    expect(world.disk(1)).to.include({ state: 'failed', live: false, generation: 2 })
    world.ok({ kind: 'diskState', disk: 1, generation: 2, state: 'ok' })
    expect(world.disk(1)).to.include({ state: 'failed', live: false })
  })

  it('never lets a failed disk be live by a registration', () => {
    const disks = [{ id: id(0xd1), state: 'failed' as const, capacityBytes: 0, usedBytes: 0 }]
    world.ok({ kind: 'registerNode', node: 'n1', addresses: [], zone: 'z1', incarnation: id(1), disks })
    expect(world.disk(1)).to.include({ live: false, reconciled: false, generation: 2 })
  })

  it('refuses a node id that does not fit and a disk named twice', () => {
    const body = { kind: 'registerNode', addresses: [], zone: 'z1', incarnation: id(1) } as const
    const disk = { id: id(0xe1), state: 'ok' as const, capacityBytes: 0, usedBytes: 0 }
    world.refused({ ...body, node: 'No!', disks: [disk] }, 'INVALID_ARGUMENT')
    world.refused({ ...body, node: 'n9', disks: [disk, disk] }, 'INVALID_ARGUMENT')
  })

  it('keeps the mode that people set', () => {
    world.ok({ kind: 'setMode', node: 'n1', mode: 'draining' })
    world.register('n1', [id(0xd1)], id(2))
    expect(node('n1')?.mode).to.equal('draining')
    world.refused({ kind: 'setMode', node: 'nobody', mode: 'active' }, 'NOT_FOUND')
  })

  it('refuses everything before the cluster is founded, and founds it once', () => {
    const fresh = new World()
    fresh.refused({ kind: 'grantLease', ttlMs: 1 }, 'UNAVAILABLE')
    fresh.ok({ kind: 'found', clusterId: id(1), version: 1 })
    const lease = fresh.lease()
    fresh.ok({ kind: 'found', clusterId: id(2), version: 1 })
    expect(fresh.lease()).to.be.greaterThan(lease)
  })
})
