/**
 * Crashes while extents are being compacted, each losing a random part of what was not synced: everything acknowledged is
 * there, what was deleted stays deleted, no extent is missed, and the space comes back all the same. Seeded.
 */

import { expect } from 'chai'
import { openDisk } from '../../../../src/services/storage/engine/disk.ts'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put, seeded, silentLog } from '../../../support/disk-world.ts'
import { turn } from '../../../support/turns.ts'

const cases = 4
const extentBytes = 128 * 1024
const compaction = { liveRatio: 0.5, bytesPerSecond: 1 << 30, idleMs: 10_000 }
const sizeOf = (id: number): number => (id % 3 === 0 ? 2000 : 18_000)

interface Books {
  readonly held: Set<number>
  readonly deleted: Set<number>
}

async function open(world: DiskWorld, errors: string[]): Promise<DiskEngine> {
  // A world that has stopped hangs in its last operation, which looks like a failing disk to the dead process.
  const note = (message: string): void => {
    if (message !== 'disk failed') errors.push(message)
  }
  const log = { ...silentLog, error: note }
  return openDisk({ ...world.deps, log }, world.options)
}

/** Puts, deletes and lets compaction work, until the world stops. */
async function live(
  world: DiskWorld,
  disk: DiskEngine,
  books: Books,
  chance: () => number,
  first: number,
): Promise<void> {
  for (let round = 0; round < 6; round++) {
    const ids = Array.from({ length: 8 }, (_, i) => first + round * 8 + i)
    await Promise.all(
      ids.map(async (id) => {
        await put(disk, id, content(id, sizeOf(id)))
        books.held.add(id)
      }),
    )
    const victims = [...books.held].filter(() => chance() < 0.35)
    for (const id of victims) books.held.delete(id)
    await disk.delete(victims)
    for (const id of victims) books.deleted.add(id)
    world.clock.advance(16_000)
    for (let i = 0; i < 20; i++) {
      for (let turns = 0; turns < 6; turns++) await turn()
      world.clock.advance(400)
    }
  }
}

async function check(disk: DiskEngine, books: Books, seed: number): Promise<void> {
  const found = new Set((await disk.list(1, 100_000, 100_000)).ids)
  for (const id of books.held) expect(found.has(id), `seed ${seed}: ${id} is there`).to.equal(true)
  for (const id of books.deleted) expect(found.has(id), `seed ${seed}: ${id} stays deleted`).to.equal(false)
  for (const id of found) {
    expect(await get(disk, id), `seed ${seed}: ${id}`).to.deep.equal(content(id, sizeOf(id)))
    expect(await disk.verify(id), `seed ${seed}: ${id} in the log`).to.equal('intact')
    books.held.add(id)
  }
  expect(disk.status().chunks, `seed ${seed}: the count`).to.equal(found.size)
}

async function runCase(seed: number): Promise<void> {
  const chance = seeded(seed)
  const world = new DiskWorld(seed, { extentBytes, compaction })
  const books: Books = { held: new Set(), deleted: new Set() }
  const errors: string[] = []
  for (let life = 0; life < 4; life++) {
    world.faults.stopAt = 30 + Math.floor(chance() * 250)
    const living = (async () => {
      const disk = await open(world, errors)
      await check(disk, books, seed)
      await live(world, disk, books, chance, 1 + life * 100)
    })()
    await Promise.race([living, world.faults.whenStopped()])
    world.crash(chance)
  }
  const disk = await open(world, errors)
  await check(disk, books, seed)
  world.clock.advance(20_000)
  for (let i = 0; i < 60; i++) {
    for (let turns = 0; turns < 10; turns++) await turn()
    world.clock.advance(1200)
  }
  await check(disk, books, seed)
  const { liveBytes, reclaimableBytes } = disk.status()
  expect(reclaimableBytes, `seed ${seed}: space is back`).to.be.lessThan(Math.max(liveBytes / 10, 48_000))
  await disk.close()
  expect(errors, `seed ${seed}: nothing is missed or called rot`).to.deep.equal([])
  if (seed % 2 === 1) return
  world.kv.corrupt = true
  const rebuilt = await world.open()
  await check(rebuilt, { held: new Set(books.held), deleted: new Set() }, seed)
  for (const id of books.held) expect(await codeOf(get(rebuilt, id))).to.equal('none')
}

describe('compaction after a crash', () => {
  it(`has lost nothing and brings nothing back, in ${cases} seeded lives`, async () => {
    for (let seed = 1; seed <= cases; seed++) await runCase(seed)
  })
})
