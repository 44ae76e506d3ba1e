/**
 * Crashes at many points, each losing a random part of what was not synced: what was acknowledged is there, what was
 * deleted stays deleted, and nothing is served that was never put. Seeded: a failing case names its seed.
 */

import { expect } from 'chai'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put, seeded } from '../../../support/disk-world.ts'
import { equalBytes } from '../../../../src/base/bytes.ts'

const cases = 60

interface Expected {
  readonly acknowledged: Set<number>
  readonly deleted: Set<number>
  readonly attempted: Set<number>
}

const sizeOf = (id: number): number => (id % 3 === 0 ? 20_000 + ((id * 7919) % 90_000) : 1 + ((id * 131) % 16_384))

/** Puts and deletes, several at once, until the world stops or the work is done. */
async function work(
  disk: DiskEngine,
  world: DiskWorld,
  expected: Expected,
  chance: () => number,
  firstId: number,
): Promise<void> {
  const one = async (id: number): Promise<void> => {
    expected.attempted.add(id)
    await put(disk, id, content(id, sizeOf(id)))
    expected.acknowledged.add(id)
  }
  for (let round = 0; round < 8; round++) {
    const ids = Array.from({ length: 1 + Math.floor(chance() * 6) }, (_, i) => firstId + round * 10 + i)
    await Promise.all(ids.map(one))
    if (chance() < 0.2) world.clock.advance(1200)
    const held = [...expected.acknowledged]
    if (chance() < 0.5 && held.length > 3) {
      const victims = held.filter(() => chance() < 0.3)
      for (const id of victims) expected.acknowledged.delete(id)
      await disk.delete(victims)
      for (const id of victims) expected.deleted.add(id)
    }
  }
  if (chance() < 0.3) await disk.close()
}

async function checkAll(disk: DiskEngine, expected: Expected, seed: number): Promise<void> {
  const held = new Set((await disk.list(1, 1_000_000, 100_000)).ids)
  for (const id of expected.acknowledged)
    expect(held.has(id), `seed ${seed}: acknowledged ${id} is there`).to.equal(true)
  for (const id of expected.deleted) expect(held.has(id), `seed ${seed}: deleted ${id} stays deleted`).to.equal(false)
  for (const id of held) {
    expect(expected.attempted.has(id), `seed ${seed}: ${id} was put`).to.equal(true)
    expect(equalBytes(await get(disk, id), content(id, sizeOf(id))), `seed ${seed}: ${id} reads back`).to.equal(true)
    expect(await disk.verify(id), `seed ${seed}: ${id} is intact in the log`).to.equal('intact')
    expected.acknowledged.add(id)
  }
  expect(disk.status().chunks, `seed ${seed}: the count is right`).to.equal(held.size)
}

async function runCase(seed: number): Promise<void> {
  const chance = seeded(seed)
  const world = new DiskWorld(seed, { extentBytes: 512 * 1024 })
  const expected: Expected = { acknowledged: new Set(), deleted: new Set(), attempted: new Set() }
  for (let life = 0; life < 3; life++) {
    const lives = world.faults
    lives.stopAt = 1 + Math.floor(chance() * 120)
    const living = (async () => {
      const disk = await world.open()
      const corrupt: number[] = []
      disk.onCorrupt((id) => corrupt.push(id))
      await checkAll(disk, expected, seed)
      expect(corrupt, `seed ${seed}: a torn tail is no corruption`).to.deep.equal([])
      await work(disk, world, expected, chance, 1 + life * 1000)
    })()
    await Promise.race([living, lives.whenStopped()])
    world.crash(chance)
  }
  const disk = await world.open()
  await checkAll(disk, expected, seed)
  if (seed % 4 === 0) {
    await disk.close()
    world.kv.corrupt = true
    const rebuilt = await world.open()
    for (const id of expected.acknowledged)
      expect(await codeOf(get(rebuilt, id)), `seed ${seed}: ${id} is rebuilt`).to.equal('none')
  }
}

describe('disk engine after a crash', () => {
  it(`has everything acknowledged and invents nothing, in ${cases} seeded lives`, async () => {
    for (let seed = 1; seed <= cases; seed++) await runCase(seed)
  })
})
