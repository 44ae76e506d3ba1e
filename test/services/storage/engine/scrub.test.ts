/** The scrub of a disk over memory ports: what it finds, what it leaves alone, how fast it goes and where it goes on. */

import { expect } from 'chai'
import { decodeChunkRecord, encodeChunkRecord } from '../../../../src/core/chunk/index-record.ts'
import { indexKeys } from '../../../../src/core/chunk/keyspace.ts'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put, seeded, testHasher } from '../../../support/disk-world.ts'

const large = 100_000
const dayMs = 24 * 60 * 60 * 1000
/** Extents stay as they are. */
const none = { liveRatio: 0, bytesPerSecond: 1, idleMs: 1e12 }
const week = { periodMs: 7 * dayMs, rateMin: 1 << 20, rateMax: 128 << 20 }

/** Lets the scrub run for `ms` of the world's time, in steps of `stepMs`. */
async function run(world: DiskWorld, ms: number, stepMs = 20): Promise<void> {
  for (let at = 0; at < ms; at += stepMs) {
    world.clock.advance(stepMs)
    await settled()
  }
}

/** Everything that is under way in memory comes to its end. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** A whole pass, as fast as is allowed. */
async function pass(world: DiskWorld, disk: DiskEngine): Promise<void> {
  const before = disk.scrub().pass
  disk.startScrub()
  for (let round = 0; round < 5000; round++) {
    world.clock.advance(20)
    await settled()
    const { state, pass: now, suspects } = disk.scrub()
    if (now > before && state !== 'running' && suspects === 0) return
  }
  throw new Error(`the pass did not end: ${JSON.stringify(disk.scrub())}`)
}

interface Filled {
  readonly world: DiskWorld
  readonly disk: DiskEngine
  readonly findings: string[]
}

/** Chunks 1 to 30 over several extents; every third one is large. The last extents are still written. */
async function filled(seed = 1): Promise<Filled> {
  const world = new DiskWorld(seed, { extentBytes: 1 << 20, compaction: none })
  const disk = await world.open()
  const findings: string[] = []
  disk.onCorrupt((id, finding) => findings.push(`${id}: ${finding}`))
  for (let id = 1; id <= 60; id++) await put(disk, id, content(id, id % 3 === 0 ? large : 700 + id))
  return { world, disk, findings }
}

describe('scrub', () => {
  it('reads everything of use, finds nothing on an intact disk, and says how far it is', async () => {
    const { world, disk, findings } = await filled()
    expect(disk.scrub()).to.include({ state: 'off', pass: 0, finishedMs: 0, direct: false })
    await disk.delete([1, 3, 30])
    await put(disk, 6, content(6, large), { replace: true })
    await pass(world, disk)
    const { scannedBytes, totalBytes, finishedMs, pass: number, debtSeconds, notes } = disk.scrub()
    expect(findings).to.deep.equal([])
    expect([number, debtSeconds, notes]).to.deep.equal([1, 0, []])
    expect(finishedMs).to.be.greaterThan(0)
    expect(totalBytes).to.be.within(18 * large, 22 * large)
    expect(scannedBytes).to.equal(totalBytes)
    await disk.close()
  })

  it('finds a flipped bit wherever it is in what a large chunk needs, in closed extents and in the one that is written', async () => {
    const flips: [string, number, RegExp][] = [
      ['payload', 4096 + 70_000, /^ID: block 1 does not match its checksum$/],
      ['record', 110, /^ID: its record in the log is damaged$/],
      ['group header', 20, /^ID: the header of its group is damaged$/],
    ]
    for (const id of [6, 60]) {
      for (const [what, offset, finding] of flips) {
        const { world, disk, findings } = await filled()
        const place = await placeOf(disk, world, id)
        world.extents.flip(place.extent, place.group + offset)
        await pass(world, disk)
        expect(findings, `${what} of ${id}`).to.have.length(1)
        expect(findings[0]?.replace(`${id}:`, 'ID:'), what).to.match(finding)
        expect(await codeOf(disk.openRead(id, 0, 0))).to.equal('NOT_FOUND')
        expect(disk.scrub()).to.include({ findings: 1 })
        // Everything else is served.
        expect(await get(disk, 9)).to.deep.equal(content(9, large))
        await disk.close()
      }
    }
  })

  it('sees the disk below the page cache, where readers still get the right bytes', async () => {
    const { world, disk, findings } = await filled()
    const place = await placeOf(disk, world, 6)
    world.extents.cacheAll()
    world.extents.flip(place.extent, place.at)
    expect(await get(disk, 6)).to.deep.equal(content(6, large))
    await pass(world, disk)
    expect(findings).to.deep.equal(['6: block 0 does not match its checksum'])
    await disk.close()
  })

  it('finds what is missing at the end of a closed extent by the books alone', async () => {
    const { world, disk, findings } = await filled()
    let last: Place & { id: number } = { id: 0, extent: 1, group: 0, at: 0 }
    for (let id = 1; id <= 30; id++) {
      const place = await placeOf(disk, world, id)
      if (place.extent === 1 && place.group > last.group) last = { ...place, id }
    }
    world.extents.flip(1, last.group + 20)
    await pass(world, disk)
    // A small chunk is renewed from the index.
    expect(findings.length + disk.scrub().healed, `chunk ${last.id}`).to.equal(1)
    await disk.close()
  })

  it('tells a damaged copy of the header of an extent, and looks at each chunk when both are gone', async () => {
    const { world, disk, findings } = await filled()
    const last = (world.extents.files.get(1)?.current.length ?? 0) - 4096
    world.extents.flip(1, 20)
    await pass(world, disk)
    expect(disk.scrub().notes).to.deep.equal(['extent 1: the first copy of its header is damaged'])
    world.extents.flip(1, last + 20)
    await pass(world, disk)
    expect(disk.scrub().notes).to.deep.equal(['extent 1: both copies of its header are damaged'])
    expect(findings).to.deep.equal([])
    await disk.close()
    // The nonce is lost with the last process that knew it.
    const again = await world.open()
    const told: string[] = []
    again.onCorrupt((id, finding) => told.push(`${id}: ${finding}`))
    await pass(world, again)
    expect(told.length).to.be.greaterThan(5)
    expect(told[0]).to.include('both headers of its extent are damaged')
    expect(again.status().chunks).to.equal(60 - told.length)
    await again.close()
  })

  it('renews the bad one of the two copies of a small chunk, in the index or in the log', async () => {
    const { world, disk, findings } = await filled()
    const key = indexKeys.chunk(4)
    world.kv.tamper('index', key, (value) => {
      value[value.length - 1] = (value.at(-1) ?? 0) ^ 1
    })
    await pass(world, disk)
    expect(disk.scrub()).to.include({ healed: 1, findings: 0 })
    const place = await placeOf(disk, world, 5)
    world.extents.flip(place.extent, place.at)
    const other = await placeOf(disk, world, 8)
    // The head of its frame: what is in the group behind it cannot be found any more.
    world.extents.flip(other.extent, other.at - 20)
    await pass(world, disk)
    expect(findings).to.deep.equal([])
    expect(disk.scrub()).to.include({ healed: 3, findings: 0 })
    await pass(world, disk)
    expect(disk.scrub()).to.include({ healed: 3, findings: 0 })
    for (const id of [4, 5, 8]) expect(await get(disk, id)).to.deep.equal(content(id, 700 + id))
    await disk.close()
    world.kv.corrupt = true
    const rebuilt = await world.open()
    for (const id of [4, 5, 8]) expect(await get(rebuilt, id)).to.deep.equal(content(id, 700 + id))
    await rebuilt.close()
  })

  it('finds an index record that is damaged, and one that says other than the log', async () => {
    const { world, disk, findings } = await filled()
    const sum = (bytes: Uint8Array, out: Uint8Array, at: number): void => testHasher.sumInto(bytes, out, at)
    world.kv.tamper('index', indexKeys.chunk(12), (value) => {
      const record = decodeChunkRecord(12, value, sum)
      if (record !== undefined) value.set(encodeChunkRecord(12, { ...record, lease: 1 }, sum))
    })
    await pass(world, disk)
    expect(findings.splice(0)).to.deep.equal(['12: its record in the index differs from the one in the log'])
    await disk.close()
  })

  it('heals a damaged index record from the log, and reports one whose bytes in the log are not intact', async () => {
    const { world, disk, findings } = await filled()
    const tamper = (id: number): void =>
      world.kv.tamper('index', indexKeys.chunk(id), (value) => {
        value[20] = (value[20] ?? 0) ^ 1
      })
    // Small and large, in a closed extent and in the one that is written.
    for (const id of [8, 9, 59, 60]) tamper(id)
    // One is met by somebody else first.
    expect(await disk.verify(9)).to.equal('corrupt')
    expect(findings.splice(0)).to.deep.equal(['9: its record in the index is damaged'])
    await pass(world, disk)
    expect(findings).to.deep.equal([])
    expect(disk.scrub()).to.include({ healed: 4, findings: 1 })
    const rotten = await placeOf(disk, world, 12)
    world.extents.flip(rotten.extent, rotten.at)
    tamper(12)
    await pass(world, disk)
    await pass(world, disk)
    expect(findings).to.deep.equal(['12: its record in the index is damaged'])
    for (const id of [8, 59]) expect(await get(disk, id)).to.deep.equal(content(id, 700 + id))
    for (const id of [9, 60]) expect(await get(disk, id)).to.deep.equal(content(id, large))
    expect(await disk.verify(12)).to.equal('corrupt')
    expect(disk.status().chunks).to.equal(60)
    await disk.close()
    const rebuilt = await world.open()
    expect(rebuilt.rebuilt).to.equal(true)
    for (const id of [8, 59]) expect(await get(rebuilt, id)).to.deep.equal(content(id, 700 + id))
    expect(await codeOf(get(rebuilt, 12))).to.equal('CORRUPT')
    await rebuilt.close()
  })

  it('does not take an older content of the same chunk for the one that a damaged index record had', async () => {
    const { world, disk, findings } = await filled()
    await put(disk, 9, content(900, large), { replace: true })
    const newest = await placeOf(disk, world, 9)
    world.extents.flip(newest.extent, newest.group + 20)
    world.kv.tamper('index', indexKeys.chunk(9), (value) => {
      value[20] = (value[20] ?? 0) ^ 1
    })
    await pass(world, disk)
    expect(await disk.verify(9)).to.equal('corrupt')
    expect(findings).to.deep.equal(['9: its record in the index is damaged'])
    await disk.close()
  })

  it('takes a sector that cannot be read for the loss of what is in it, and goes on', async () => {
    const { world, disk, findings } = await filled()
    const payload = await placeOf(disk, world, 6)
    const head = await placeOf(disk, world, 33)
    const bad = [
      [payload.extent, payload.group + 4096 + 70_000],
      [head.extent, head.group],
    ] as const
    world.faults.failRead = (extent, offset, length) =>
      bad.some(([number, at]) => extent === number && offset <= at && at < offset + length)
    await pass(world, disk)
    expect(findings.map((line) => line.replace(/:.*EIO.*/, ': EIO')).sort()).to.deep.equal(['33: EIO', '6: EIO'])
    expect(disk.status().chunks).to.equal(58)
    await disk.close()
  })

  it('says nothing of what is written, replaced, deleted, moved or cut off while it reads', async () => {
    for (const seed of [1, 2]) {
      const compaction = { liveRatio: 0.5, bytesPerSecond: 1 << 30, idleMs: 100 }
      const world = new DiskWorld(seed, { extentBytes: 1 << 20, compaction })
      const next = seeded(seed)
      let disk = await world.open()
      const held = new Map<number, number>()
      for (let round = 0, id = 1; round < 70; round++) {
        if (disk.scrub().state === 'off') disk.startScrub()
        const size = next() < 0.5 ? 500 : large
        held.set(id, size)
        const work = [put(disk, id, content(id, size))]
        const old = [...held.keys()][Math.floor(next() * held.size)] ?? id
        const oldSize = held.get(old) ?? 0
        if (old !== id && next() < 0.3) work.push(put(disk, old, content(old, oldSize), { replace: true }))
        else if (old !== id && next() < 0.7) {
          held.delete(old)
          await disk.delete([old])
        }
        await Promise.all(work)
        id++
        world.clock.advance(Math.floor(next() * 40))
        if (next() < 0.5) await settled()
        if (next() > 0.02) continue
        world.crash(next)
        disk = await world.open()
      }
      await pass(world, disk)
      expect(disk.scrub(), `seed ${seed}`).to.deep.include({ findings: 0, healed: 0, notes: [] })
      for (const [id, size] of held) expect(await get(disk, id)).to.deep.equal(content(id, size))
      await disk.close()
    }
  })

  it('goes on where it was after a crash, and after a stop in order', async () => {
    const scrub = { ...week, rateMin: 200_000, rateMax: 200_000, on: true }
    const world = new DiskWorld(1, { extentBytes: 1 << 20, scrub, compaction: none })
    let disk = await world.open()
    for (let id = 1; id <= 60; id++) await put(disk, id, content(id, large))
    let before = disk.scrub()
    for (const end of ['crash', 'close'] as const) {
      await run(world, 22_000, 200)
      before = disk.scrub()
      expect(before).to.include({ state: 'running', pass: 1 })
      expect(before.scannedBytes).to.be.within(500_000, before.totalBytes - 1)
      if (end === 'close') await disk.close()
      else {
        // What LevelDB was given outlives the process.
        world.crash(() => 0)
      }
      disk = await world.open()
      const after = disk.scrub()
      expect(after).to.include({
        state: 'running',
        pass: 1,
        totalBytes: before.totalBytes,
        startedMs: before.startedMs,
      })
      // Not more than one extent is read again.
      expect(before.scannedBytes - after.scannedBytes).to.be.within(0, 1 << 20)
    }
    await run(world, 60_000, 200)
    expect(disk.scrub()).to.include({ state: 'resting', pass: 1, findings: 0 })
    await disk.close()
  })

  it('takes the time that its period gives it on a busy disk, less on an idle one', async () => {
    const periodMs = 100_000
    const scrub = { periodMs, rateMin: 0, rateMax: 1 << 30, on: true }
    const took: number[] = []
    for (const busy of [true, false]) {
      const world = new DiskWorld(1, { extentBytes: 1 << 20, scrub, compaction: none })
      const disk = await world.open()
      for (let id = 1; id <= 60; id++) await put(disk, id, content(id, large))
      await run(world, 10_100, 100)
      const { startedMs } = disk.scrub()
      for (let at = 0; disk.scrub().state === 'running' && at < 2 * periodMs; at += 100) {
        if (busy) await get(disk, 1)
        await run(world, 100, 100)
        // Seven windows are the whole pass: what is left can be told roughly only.
        expect(disk.scrub().debtSeconds).to.be.lessThan(5)
      }
      took.push(disk.scrub().finishedMs - startedMs)
      await disk.close()
    }
    expect(took[0]).to.be.within(0.7 * periodMs, periodMs)
    expect(took[1]).to.be.lessThan(0.6 * periodMs)
  })

  it('owes what a pass will be too old, when the disk was off for long', async () => {
    const scrub = { ...week, rateMin: 0, rateMax: 100_000, on: true }
    const world = new DiskWorld(1, { extentBytes: 1 << 20, scrub, compaction: none })
    let disk = await world.open()
    for (let id = 1; id <= 60; id++) await put(disk, id, content(id, large))
    await run(world, 11_000, 200)
    await disk.close()
    world.clock.advance(9 * dayMs)
    disk = await world.open()
    expect(disk.scrub().debtSeconds).to.be.within((2 * dayMs) / 1000, (2.5 * dayMs) / 1000)
    disk.startScrub()
    await run(world, 80_000, 200)
    expect(disk.scrub()).to.include({ state: 'resting', pass: 2, debtSeconds: 0 })
    await disk.close()
  })

  it('looks at suspects first, keeps few of them, and rests when it is told to', async () => {
    const scrub = { ...week, rateMin: 1000, rateMax: 1 << 30, on: true }
    const world = new DiskWorld(1, { extentBytes: 1 << 20, scrub, compaction: none })
    const disk = await world.open()
    const findings: string[] = []
    disk.onCorrupt((id) => findings.push(String(id)))
    for (let id = 1; id <= 60; id++) await put(disk, id, content(id, large))
    await run(world, 11_000, 200)
    const [named, near] = [await placeOf(disk, world, 50), await placeOf(disk, world, 51)]
    expect(near.extent).to.equal(named.extent)
    for (const { extent, at } of [named, near]) world.extents.flip(extent, at)
    disk.suspect(50)
    // What is beside a finding comes next, long before the pass gets there.
    await run(world, 1000)
    expect(findings).to.deep.equal(['50', '51'])
    expect(disk.scrub().scannedBytes).to.be.lessThan(3_000_000)
    disk.pauseScrub()
    for (let id = 1; id <= 10_000; id++) disk.suspect(id)
    await run(world, 1000)
    expect(disk.scrub()).to.include({ state: 'paused', rateBytesPerSecond: 0 })
    expect(disk.scrub().suspects).to.be.within(4000, 4200)
    world.clock.advance(dayMs)
    await run(world, 1000)
    expect(disk.scrub().state).to.equal('running')
    await disk.close()
  })

  it('tells again at the next start what is still out of service, not what has come back', async () => {
    const { world, disk } = await filled()
    for (const id of [6, 9]) {
      const place = await placeOf(disk, world, id)
      world.extents.flip(place.extent, place.at)
    }
    await pass(world, disk)
    await put(disk, 9, content(9, large), { replace: true })
    await disk.close()
    const again = await world.open()
    const told: string[] = []
    again.onCorrupt((id, finding) => told.push(`${id}: ${finding}`))
    expect(told).to.deep.equal(['6: block 0 does not match its checksum'])
    await pass(world, again)
    expect(told).to.have.length(1)
    // The bytes are kept until an order of meta's deletes them.
    const { liveBytes } = again.status()
    await again.delete([6, 9])
    expect(liveBytes - again.status().liveBytes).to.be.within(3 * large, 3.4 * large)
    await again.close()
    const last = await world.open()
    last.onCorrupt((id) => told.push(String(id)))
    expect(told).to.have.length(1)
    await last.close()
  })
})

interface Place {
  readonly extent: number
  readonly group: number
  /** Of the first byte of the chunk. */
  readonly at: number
}

/** Where the group of a chunk is: found by its bytes on the disk, so that the test knows nothing of the index. */
async function placeOf(disk: DiskEngine, world: DiskWorld, id: number): Promise<Place> {
  const bytes = await get(disk, id)
  for (const [extent, blocks] of world.extents.files) {
    const at = Buffer.from(blocks.current.buffer).indexOf(bytes.subarray(0, 64))
    if (at >= 0) return { extent, group: Math.floor((at - 96) / 4096) * 4096, at }
  }
  throw new Error(`chunk ${id} is not on the disk`)
}
