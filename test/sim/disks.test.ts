/** Simulated disks keep what the ports promise and take away what they do not: stores, files, extents, failing devices. */

import { expect } from 'chai'
import { utf8 } from '../../src/base/bytes.ts'
import type { Kv } from '../../src/ports/kv.ts'
import { SimProcess, World } from '../../src/sim/clock.ts'
import { SimDevice } from '../../src/sim/disk.ts'
import { SimExtentDisk } from '../../src/sim/extents.ts'
import { SimFilesDisk } from '../../src/sim/files.ts'
import { SimKvDisk } from '../../src/sim/kv.ts'
import { Seeded } from '../../src/sim/seed.ts'
import { turns } from '../../tools/turns.ts'

const times = { writeMs: 1, syncMs: 2, stallRate: 0, stallMs: 0 }

function ignore(): void {}

function living(id: string): SimProcess {
  const process = new SimProcess(id)
  process.alive = true
  return process
}

async function until<T>(world: World, promise: Promise<T>): Promise<T> {
  let settled = false
  promise.then(
    () => (settled = true),
    () => (settled = true),
  )
  await world.run(world.nowMs + 60_000, ignore, () => settled)
  return await promise
}

function deviceOf(world: World, seed: number): SimDevice {
  return new SimDevice(world, new Seeded(seed), times, 1 << 30)
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return await work.then(
    () => 'none',
    (error: { code?: string }) => error.code ?? 'no code',
  )
}

describe('sim: stores', () => {
  async function crashOnce(seed: number): Promise<string> {
    const world = new World({ turns })
    const process = living('p')
    const disk = new SimKvDisk(new Seeded(seed), deviceOf(world, seed))
    const kv: Kv = await disk.factory(process).open('log')
    const put = async (key: string, sync: boolean): Promise<void> => {
      await until(world, kv.batch([{ type: 'put', key: utf8(key), value: utf8('x') }], { sync }))
    }
    await put('a', false)
    await put('b', false)
    await put('c', true)
    await put('d', false)
    process.incarnation++
    disk.crash()
    const again = await disk.factory(process).open('log')
    let left = ''
    for await (const entry of again.iterate({})) left += new TextDecoder().decode(entry.key)
    return left
  }

  it('keeps every synced batch and any subset of the others over a crash', async () => {
    const seen = new Set<string>()
    for (let seed = 1; seed <= 60; seed++) seen.add(await crashOnce(seed))
    for (const left of seen) expect(left).to.contain('c')
    // Not a prefix: `b` without `a` happens, and so does `c` alone.
    expect([...seen]).to.include.members(['c', 'bc', 'ac', 'abcd'])
  })

  it('leaves old or new content of an atomic file, and a mix of an overwritten one', async () => {
    const atomic = new Set<string>()
    let torn = false
    for (let seed = 1; seed <= 40; seed++) {
      const world = new World({ turns })
      const disk = new SimFilesDisk(new Seeded(seed), deviceOf(world, seed))
      const process = living('p')
      const files = disk.port(process)
      const old = new Uint8Array(256).fill(1)
      const fresh = new Uint8Array(256).fill(2)
      await until(world, files.write('a', old))
      await until(world, files.write('b', old))
      files.write('a', fresh).catch(ignore)
      files.overwrite('b', fresh).catch(ignore)
      await world.run(world.nowMs, ignore)
      process.incarnation++
      disk.crash()
      const a = await disk.port(process).read('a')
      const b = await disk.port(process).read('b')
      atomic.add([...new Set(a)].join())
      if (new Set(b).size === 2) torn = true
    }
    expect([...atomic].sort()).to.deep.equal(['1', '2'])
    expect(torn).to.equal(true)
  })
})

describe('sim: failing disks', () => {
  it('leaves a hole where a write failed, and takes no write after a failed sync until it is opened again', async () => {
    const world = new World({ turns })
    const process = living('p')
    const device = deviceOf(world, 3)
    const disk = new SimKvDisk(new Seeded(3), device)
    const kv = await disk.factory(process).open('log')
    const put = (key: string, sync: boolean): Promise<string> =>
      until(world, codeOf(kv.batch([{ type: 'put', key: utf8(key), value: utf8('x') }], { sync })))
    device.failWrites = true
    expect(await put('a', false)).to.equal('IO')
    expect(device.faulted).to.equal(true)
    device.mend()
    expect(await put('b', true)).to.equal('none')
    device.failSyncs = 1
    expect(await put('c', true)).to.equal('IO')
    expect(await put('d', true)).to.equal('IO')
    expect(await kv.get(utf8('a'))).to.equal(undefined)
    process.incarnation++
    disk.crash()
    const again = await disk.factory(process).open('log')
    expect(await again.get(utf8('b'))).not.to.equal(undefined)
    expect(await again.get(utf8('d'))).to.equal(undefined)
    expect(await until(world, codeOf(again.batch([{ type: 'del', key: utf8('b') }], { sync: true })))).to.equal('none')
  })

  it('refuses extents and batches on a full disk', async () => {
    const world = new World({ turns })
    const process = living('p')
    const device = deviceOf(world, 1)
    const extents = new SimExtentDisk(new Seeded(1), device).port(process)
    const kv = await new SimKvDisk(new Seeded(1), device).factory(process).open('index')
    await until(world, extents.create(1, 65_536))
    device.othersBytes = device.capacityBytes
    expect(await until(world, codeOf(extents.create(2, 65_536)))).to.equal('NO_SPACE')
    const put = { type: 'put', key: utf8('a'), value: utf8('x') } as const
    expect(await until(world, codeOf(kv.batch([put], { sync: false })))).to.equal('NO_SPACE')
    expect((await extents.space()).free).to.equal(0)
  })

  it('holds everything back while it is stalled', async () => {
    const world = new World({ turns })
    const device = deviceOf(world, 1)
    device.stall(500)
    await until(world, device.work('sync', living('p'), 'a sync'))
    expect(world.nowMs).to.be.within(500, 510)
  })
})

describe('sim: extents', () => {
  const sector = 4096
  const filled = (value: number, sectors: number): Uint8Array => new Uint8Array(sectors * sector).fill(value)

  /** Writes 1 and syncs it, writes 2 over it, crashes; what is there, by sector: old, new or torn. */
  async function crashOnce(seed: number, syncFails: boolean): Promise<string[]> {
    const world = new World({ turns })
    const process = living('p')
    const device = deviceOf(world, seed)
    const disk = new SimExtentDisk(new Seeded(seed), device)
    const file = await until(world, disk.port(process).create(1, 8 * sector))
    await until(world, file.write(filled(1, 8), 0))
    await until(world, file.sync())
    await until(world, file.write(filled(2, 8), 0))
    if (syncFails) {
      device.failSyncs = 1
      expect(await until(world, codeOf(file.sync()))).to.equal('IO')
      // The next one succeeds, and covers nothing of what was lost.
      await until(world, file.sync())
      const seen = new Uint8Array(1)
      await file.read(seen, 0)
      expect(seen[0]).to.equal(2)
    }
    process.incarnation++
    disk.crash()
    const again = await disk.port(process).open(1)
    const content = new Uint8Array(8 * sector)
    await again.read(content, 0)
    return Array.from({ length: 8 }, (_, i) => [...new Set(content.subarray(i * sector, (i + 1) * sector))].join())
  }

  it('keeps what was synced and any subset of the other sectors, some of them torn', async () => {
    const seen = new Set<string>()
    const mixes = new Set<string>()
    for (let seed = 1; seed <= 30; seed++) {
      const sectors = await crashOnce(seed, false)
      for (const content of sectors) seen.add(content.length > 1 ? 'torn' : content)
      mixes.add(sectors.map((content) => content[0]).join(''))
    }
    expect([...seen].sort()).to.deep.equal(['1', '2', 'torn'])
    expect(mixes.size).to.be.greaterThan(10)
  })

  it('loses what a failed sync was for, whatever is synced later', async () => {
    for (let seed = 1; seed <= 10; seed++) {
      for (const content of await crashOnce(seed, true)) expect(content).to.contain('1')
    }
  })

  it('covers with a sync what had come back before, not what was written since', async () => {
    const outcomes = new Set<number>()
    for (let seed = 1; seed <= 40; seed++) {
      const world = new World({ turns })
      const process = living('p')
      const disk = new SimExtentDisk(new Seeded(seed), deviceOf(world, seed))
      const file = await until(world, disk.port(process).create(1, sector))
      await until(world, file.write(filled(1, 1), 0))
      const synced = file.sync()
      const written = file.write(filled(2, 1), 0)
      await until(world, Promise.all([synced, written]))
      process.incarnation++
      disk.crash()
      const content = new Uint8Array(sector)
      await (await disk.port(process).open(1)).read(content, 0)
      for (const byte of content) outcomes.add(byte)
    }
    expect([...outcomes].sort((a, b) => a - b)).to.deep.equal([1, 2])
  })
})
