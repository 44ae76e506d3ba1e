/** Compaction: space of deleted chunks comes back, and nothing that is of use is lost on the way. */

import { expect } from 'chai'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put, seeded } from '../../../support/disk-world.ts'
import { indexKeys } from '../../../../src/core/chunk/keyspace.ts'
import { turn } from '../../../support/turns.ts'

const extentBytes = 256 * 1024
const large = 26_000
const compaction = { liveRatio: 0.5, bytesPerSecond: 1 << 30, idleMs: 60_000 }

function newWorld(seed = 1, capacityBytes?: number, reserveBytes = 0): DiskWorld {
  return new DiskWorld(seed, { extentBytes, reserveBytes, compaction }, capacityBytes)
}

/** Lets compaction do all that it wants, and the checkpoints that follow. */
async function idle(world: DiskWorld, disk: DiskEngine): Promise<void> {
  world.clock.advance(compaction.idleMs + 5000)
  let before = -1
  for (let i = 0, quiet = 0; i < 500 && quiet < 4; i++) {
    for (let turns = 0; turns < 30; turns++) await turn()
    world.clock.advance(1200)
    const now = world.faults.count('sync') + disk.status().reclaimableBytes
    quiet = now === before ? quiet + 1 : 0
    before = now
  }
}

async function fill(
  disk: DiskEngine,
  from: number,
  to: number,
  size: number | ((id: number) => number),
): Promise<void> {
  for (let id = from; id <= to; id += 8) {
    const ids = Array.from({ length: Math.min(8, to - id + 1) }, (_, i) => id + i)
    await Promise.all(ids.map((one) => put(disk, one, content(one, typeof size === 'number' ? size : size(one)))))
  }
}

async function intact(disk: DiskEngine, id: number, size: number): Promise<void> {
  expect(await get(disk, id), `chunk ${id}`).to.deep.equal(content(id, size))
  expect(await disk.verify(id), `chunk ${id} in the log`).to.equal('intact')
}

describe('compaction', () => {
  it('gives the space of deleted chunks back and keeps the others, small and large', async () => {
    const world = newWorld()
    const disk = await world.open()
    const sizeOf = (id: number): number => (id % 4 === 0 ? 3000 : large)
    await fill(disk, 1, 120, sizeOf)
    const gone = Array.from({ length: 120 }, (_, i) => i + 1).filter((id) => id % 5 < 3)
    await disk.delete(gone)
    expect(disk.status().reclaimableBytes).to.be.greaterThan(1 << 20)
    await idle(world, disk)
    const { liveBytes, reclaimableBytes } = disk.status()
    expect(reclaimableBytes).to.be.lessThan(liveBytes / 10)
    // One that is written, one made ahead, two kept to be written again.
    expect(world.extents.files.size).to.be.at.most(Math.ceil(liveBytes / extentBytes) + 4)
    for (let id = 1; id <= 120; id++) {
      if (id % 5 < 3) expect(await codeOf(get(disk, id))).to.equal('NOT_FOUND')
      else await intact(disk, id, sizeOf(id))
    }
    expect(disk.status().chunks).to.equal(48)
    world.crash(() => 0)
    const again = await world.open()
    for (let id = 1; id <= 120; id++) if (id % 5 >= 3) await intact(again, id, sizeOf(id))
    expect((await again.list(1, 1000, 1000)).ids).to.have.length(48)
    expect(again.status().liveBytes).to.equal(liveBytes)
    await again.close()
  })

  it('leaves extents alone that are more than half of use while clients are at work', async () => {
    const world = newWorld()
    const disk = await world.open()
    await fill(disk, 1, 60, large)
    await disk.delete(Array.from({ length: 12 }, (_, i) => i * 5 + 1))
    const { reclaimableBytes } = disk.status()
    for (let second = 0; second < 30; second++) {
      await disk.openRead(2, 0, 1).then((reader) => reader.close())
      world.clock.advance(1000)
      for (let turns = 0; turns < 20; turns++) await turn()
    }
    expect(disk.status().reclaimableBytes).to.equal(reclaimableBytes)
    expect(reclaimableBytes).to.be.greaterThan(200_000)
  })

  it('lets deletes, replacements and reads go on meanwhile, and each of them wins', async () => {
    for (let seed = 1; seed <= 4; seed++) await meanwhile(seed)
  })

  it('recycles an extent only when its last reader is done', async () => {
    const world = newWorld()
    const disk = await world.open()
    await fill(disk, 1, 40, large)
    const kept = Array.from({ length: 10 }, (_, i) => i * 4 + 1)
    const readers = await Promise.all(kept.map((id) => disk.openRead(id, 0, 0)))
    await disk.delete(Array.from({ length: 40 }, (_, i) => i + 1).filter((id) => id % 4 !== 1))
    await idle(world, disk)
    await fill(disk, 100, 160, large)
    for (const [i, reader] of readers.entries()) {
      expect(await reader.next()).to.deep.equal(content(kept[i] ?? 0, large))
      reader.close()
    }
  })

  it('quarantines a large chunk that has rotted, keeps its extent, and takes a small one from the index', async () => {
    const world = newWorld()
    const disk = await world.open()
    const found: number[] = []
    disk.onCorrupt((id) => found.push(id))
    await fill(disk, 1, 40, (id) => (id % 4 === 0 ? 5000 : large))
    for (const id of [13, 16]) await rot(world, id, id % 4 === 0 ? 5000 : large)
    await disk.delete(Array.from({ length: 40 }, (_, i) => i + 1).filter((id) => id % 4 === 2 || id % 4 === 3))
    await idle(world, disk)
    // Of the small one only the copy in the log has rotted: the one in the index may be the last of all replicas.
    expect(found).to.deep.equal([13])
    for (const id of [1, 4, 5, 9, 16, 17, 20]) await intact(disk, id, id % 4 === 0 ? 5000 : large)
    expect(await codeOf(get(disk, 13))).to.equal('NOT_FOUND')
    const pinned = disk.status().liveBytes
    await disk.delete([13, 16])
    await idle(world, disk)
    expect(disk.status().liveBytes).to.be.lessThan(pinned)
    expect(disk.status().reclaimableBytes).to.be.lessThan(disk.status().liveBytes / 10)
  })

  it('finds what a damaged group header hides by the index', async () => {
    const world = newWorld()
    const disk = await world.open()
    await fill(disk, 1, 24, large)
    for (const [number, blocks] of world.extents.files) {
      // The second group of each extent: its header and its record are gone, its payload is whole.
      if (blocks.current[4096] === 0x48) world.extents.flip(number, 4096 + 4096 + 28_672 + 2)
    }
    await disk.delete(Array.from({ length: 24 }, (_, i) => i + 1).filter((id) => id % 3 === 0))
    await idle(world, disk)
    expect(disk.status().reclaimableBytes).to.be.lessThan(disk.status().liveBytes / 10)
    for (let id = 1; id <= 24; id++) if (id % 3 !== 0) await intact(disk, id, large)
  })

  it('appends chunks again whose index record is damaged, and keeps an extent that may have one unseen', async () => {
    const world = newWorld()
    const disk = await world.open()
    const found: number[] = []
    disk.onCorrupt((id) => found.push(id))
    const sizeOf = (id: number): number => (id % 4 === 0 ? 5000 : large)
    await fill(disk, 1, 40, sizeOf)
    const kept = [4, 5, 12, 13, 20, 21, 28, 29, 36, 37]
    for (const id of [4, 13, 20, 37]) damage(world, id)
    // The log has no more to say of this one, so that its bytes are found by the index alone.
    hideGroup(world, 21)
    damage(world, 21)
    await disk.delete(Array.from({ length: 40 }, (_, i) => i + 1).filter((id) => !kept.includes(id)))
    await idle(world, disk)
    expect(found).to.deep.equal([])
    for (const id of kept) if (id !== 21) await intact(disk, id, sizeOf(id))
    expect(await disk.verify(21)).to.equal('corrupt')
    expect(found).to.deep.equal([21])
    expect(holder(world, 21, large), 'the bytes are still there').to.not.equal(undefined)
    expect(disk.status().chunks).to.equal(kept.length)
    await disk.close()
    const rebuilt = await world.open()
    expect(rebuilt.rebuilt).to.equal(true)
    for (const id of kept) if (id !== 21) await intact(rebuilt, id, sizeOf(id))
    await rebuilt.close()
  })

  it('goes on with other extents when one cannot be read any more, and loses none that can', async () => {
    const world = newWorld()
    const disk = await world.open()
    const found: number[] = []
    disk.onCorrupt((id) => found.push(id))
    await fill(disk, 1, 40, large)
    await disk.delete(Array.from({ length: 40 }, (_, i) => i + 1).filter((id) => id % 4 !== 1))
    world.faults.failRead = (extent) => extent === 2
    await idle(world, disk)
    expect(found).to.have.length.within(1, 3)
    for (let id = 1; id <= 40; id += 4) if (!found.includes(id)) await intact(disk, id, large)
    expect(disk.status().state).to.not.equal('failed')
    expect(disk.status().reclaimableBytes).to.be.lessThan(2 * extentBytes)
  })

  it('frees a full disk by itself, out of the reserve', async () => {
    const world = newWorld(1, 4 << 20, 512 << 10)
    const disk = await world.open()
    let last = 0
    while ((await codeOf(put(disk, last + 1, content(last + 1, large)))) === 'none') last++
    expect(await codeOf(put(disk, 9999, content(1, large)))).to.equal('NO_SPACE')
    // Every third: no extent is ever empty by itself.
    await disk.delete(Array.from({ length: last }, (_, i) => i + 1).filter((id) => id % 3 === 0))
    for (let i = 0; i < 200 && disk.status().freeForNewBytes < 700 << 10; i++) {
      world.clock.advance(500)
      for (let turns = 0; turns < 20; turns++) await turn()
    }
    await fill(disk, 1001, 1020, large)
    for (let id = 1; id <= last; id++) if (id % 3 !== 0) await intact(disk, id, large)
    for (let id = 1001; id <= 1020; id++) await intact(disk, id, large)
  })

  it('does not bring a deleted chunk back when the index is rebuilt, whatever was recycled', async () => {
    const world = newWorld()
    const disk = await world.open()
    await fill(disk, 1, 30, large)
    // One deleted chunk in each extent, which stays far above any threshold.
    const gone = [3, 13, 23]
    await disk.delete(gone)
    // The deletes lie in an extent that is emptied of chunks.
    await fill(disk, 101, 120, large)
    await disk.delete(Array.from({ length: 20 }, (_, i) => 101 + i))
    for (let round = 0; round < 3; round++) {
      await fill(disk, 201 + round * 20, 220 + round * 20, large)
      await disk.delete(Array.from({ length: 20 }, (_, i) => 201 + round * 20 + i))
      for (let i = 0; i < 10; i++) {
        world.clock.advance(1200)
        await disk.openRead(1, 0, 1).then((reader) => reader.close())
        for (let turns = 0; turns < 30; turns++) await turn()
      }
    }
    await disk.close()
    world.kv.corrupt = true
    const rebuilt = await world.open()
    expect(rebuilt.rebuilt).to.equal(true)
    const held = Array.from({ length: 30 }, (_, i) => i + 1).filter((id) => !gone.includes(id))
    expect((await rebuilt.list(1, 1000, 1000)).ids).to.deep.equal(held)
  })

  it('keeps bytes in quarantine through a rebuild of the index, although the extent that says so was recycled', async () => {
    const world = newWorld()
    const disk = await world.open()
    await fill(disk, 1, 30, large)
    // Quarantined: 13 has no other place, 17 gets one at once, 21 gets one that compaction moves after its quarantine did.
    for (const id of [13, 17, 21]) {
      await rot(world, id, large)
      expect(await disk.verify(id)).to.equal('corrupt')
    }
    await put(disk, 17, content(17, large))
    await fill(disk, 101, 112, large)
    await put(disk, 21, content(21, large))
    await fill(disk, 113, 130, large)
    const said = Math.max(...world.extents.files.keys())
    await disk.delete(Array.from({ length: 30 }, (_, i) => 101 + i))
    await idle(world, disk)
    expect(firstExtent(world)).to.equal(1)
    for (const round of [1, 2]) {
      await fill(disk, 200 * round, 200 * round + 40, large)
      await disk.delete(Array.from({ length: 41 }, (_, i) => 200 * round + i))
      await idle(world, disk)
    }
    // All that was written after the first chunks has been written again, or moved.
    for (let extent = 5; extent <= said; extent++) expect(world.extents.files.has(extent), `${extent}`).to.equal(false)
    const { liveBytes, chunks } = disk.status()
    expect(chunks).to.equal(29)
    await disk.close()
    world.kv.corrupt = true
    const rebuilt = await world.open()
    expect(rebuilt.rebuilt).to.equal(true)
    const told: number[] = []
    rebuilt.onCorrupt((id) => told.push(id))
    expect(told).to.deep.equal([13])
    expect(await codeOf(get(rebuilt, 13))).to.equal('NOT_FOUND')
    for (const id of [17, 21]) await intact(rebuilt, id, large)
    expect(rebuilt.status()).to.include({ liveBytes, chunks })
    await rebuilt.delete(Array.from({ length: 30 }, (_, i) => i + 1).filter((id) => ![13, 17, 21].includes(id)))
    await idle(world, rebuilt)
    // Whatever is free is written again.
    const fresh = Array.from({ length: 80 }, (_, i) => 1001 + i)
    await fill(rebuilt, 1001, 1080, large)
    for (const id of [13, 17, 21]) expect(rotten(world, id), `the quarantined bytes of ${id}`).to.equal(true)
    const pinned = rebuilt.status().liveBytes
    await rebuilt.delete([13, 17, 21])
    expect(pinned - rebuilt.status().liveBytes).to.be.greaterThan(5 * large)
    await rebuilt.delete(fresh)
    await idle(world, rebuilt)
    expect(rebuilt.status()).to.include({ liveBytes: 0, chunks: 0 })
    await rebuilt.close()
  })

  it('stops at once when the disk is closed', async () => {
    const world = new DiskWorld(1, { extentBytes, compaction: { ...compaction, bytesPerSecond: 1 } })
    const disk = await world.open()
    await fill(disk, 1, 40, large)
    await disk.delete(Array.from({ length: 40 }, (_, i) => i + 1).filter((id) => id % 4 !== 1))
    world.clock.advance(10_000)
    for (let turns = 0; turns < 50; turns++) await turn()
    // It waits for its rate now, for days.
    await disk.close()
  })
})

async function rot(world: DiskWorld, id: number, size: number): Promise<void> {
  const place = holder(world, id, size)
  if (place === undefined) throw new Error(`chunk ${id} is in no extent`)
  world.extents.flip(place.extent, place.at + 10)
}

/** Where the bytes of a chunk are. */
function holder(world: DiskWorld, id: number, size: number): { extent: number; at: number } | undefined {
  const bytes = content(id, size)
  for (const [extent, blocks] of world.extents.files) {
    const at = Buffer.from(blocks.current.buffer).indexOf(Buffer.from(bytes.buffer, 0, 64))
    if (at >= 0) return { extent, at }
  }
  return undefined
}

/** True while the bytes of a chunk that `rot` has changed are there. */
function rotten(world: DiskWorld, id: number): boolean {
  const bytes = Buffer.from(content(id, large).buffer)
  return [...world.extents.files.values()].some(({ current }) => {
    const whole = Buffer.from(current.buffer)
    for (let at = -1; (at = whole.indexOf(bytes.subarray(64, 128), at + 1)) >= 64; )
      if (whole[at - 54] !== bytes[10]) return true
    return false
  })
}

function firstExtent(world: DiskWorld): number {
  return Math.min(...world.extents.files.keys())
}

/** Damages the header of the group of a large chunk. */
function hideGroup(world: DiskWorld, id: number): void {
  const place = holder(world, id, large)
  if (place !== undefined) world.extents.flip(place.extent, place.at - 4096 + 2)
}

/** Flips a bit in the chunk's index record. */
function damage(world: DiskWorld, id: number): void {
  world.kv.tamper('index', indexKeys.chunk(id), (value) => {
    value[20] = (value[20] ?? 0) ^ 1
  })
}

/** Clients at work while extents are moved: what they end with is what is there. */
async function meanwhile(seed: number): Promise<void> {
  const chance = seeded(seed)
  const world = newWorld(seed)
  const disk = await world.open()
  const sizeOf = (id: number): number => (id % 3 === 0 ? 4000 : large)
  await fill(disk, 1, 60, sizeOf)
  const held = new Set(Array.from({ length: 60 }, (_, i) => i + 1))
  const first = [...held].filter((id) => id % 5 < 3)
  await disk.delete(first)
  for (const id of first) held.delete(id)
  world.clock.advance(10_000)
  let running: Promise<void>[] = []
  for (let step = 0; step < 60; step++) {
    const ids = [...held]
    const id = ids[Math.floor(chance() * ids.length)] ?? 1
    const what = chance()
    if (what < 0.4) {
      held.delete(id)
      running.push(disk.delete([id]))
    } else if (what < 0.5) running.push(put(disk, id, content(id, sizeOf(id)), { replace: true }).then(() => undefined))
    else if (what < 0.7) expect(await get(disk, id)).to.deep.equal(content(id, sizeOf(id)))
    else if (what < 0.9) {
      const fresh = 100 + step
      running.push(put(disk, fresh, content(fresh, sizeOf(fresh))).then(() => void held.add(fresh)))
    }
    for (let turns = Math.floor(chance() * 5); turns > 0; turns--) await turn()
    if (chance() < 0.3) continue
    await Promise.all(running)
    running = []
    if (chance() < 0.1) world.clock.advance(1100)
  }
  await Promise.all(running)
  await idle(world, disk)
  expect((await disk.list(1, 1000, 1000)).ids, `seed ${seed}`).to.deep.equal([...held].sort((a, b) => a - b))
  for (const id of held) await intact(disk, id, sizeOf(id))
  expect(disk.status().chunks).to.equal(held.size)
  expect(disk.status().reclaimableBytes, `seed ${seed}`).to.be.lessThan(Math.max(disk.status().liveBytes / 10, 70_000))
  await disk.close()
}
