/** The disk engine over memory ports: what it stores, refuses, notices and survives. */

import { expect } from 'chai'
import { indexKeys } from '../../../../src/core/chunk/keyspace.ts'
import { codeOf, content, DiskWorld, get, put } from '../../../support/disk-world.ts'

const large = 100_000

function tamper(world: DiskWorld, id: number): void {
  world.kv.tamper('index', indexKeys.chunk(id), (value) => {
    value[20] = (value[20] ?? 0) ^ 1
  })
}

describe('disk engine', () => {
  it('reads back what was put, small and large, whole and by range', async () => {
    const disk = await new DiskWorld().open()
    const sizes = [1, 4096, 16_384, 16_385, 65_536, 65_537, 300_000]
    for (const [i, size] of sizes.entries()) await put(disk, i + 1, content(i, size))
    for (const [i, size] of sizes.entries()) expect(await get(disk, i + 1)).to.deep.equal(content(i, size))
    const reader = await disk.openRead(7, 70_000, 10)
    expect([reader.offset, reader.bytes, reader.length]).to.deep.equal([65_536, 65_536, 300_000])
    expect(await reader.next()).to.deep.equal(content(6, 300_000).slice(65_536, 131_072))
    expect(await reader.next()).to.equal(undefined)
    reader.close()
    expect(disk.status()).to.include({ state: 'ok', chunks: 7, chunkIdMax: 7 })
    await disk.close()
  })

  it('refuses ranges outside the chunk and ids that are not held', async () => {
    const disk = await new DiskWorld().open()
    await put(disk, 1, content(1, large))
    expect(await codeOf(disk.openRead(1, large, 0))).to.equal('INVALID_ARGUMENT')
    expect(await codeOf(disk.openRead(1, 1, large))).to.equal('INVALID_ARGUMENT')
    expect(await codeOf(disk.openRead(2, 0, 0))).to.equal('NOT_FOUND')
    expect(await codeOf(put(disk, 0, content(1, 10)))).to.equal('INVALID_ARGUMENT')
  })

  it('takes the same content twice and refuses other content under the same id', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    const first = await put(disk, 1, content(1, large))
    const writes = world.faults.count('write')
    expect((await put(disk, 1, content(1, large))).root).to.deep.equal(first.root)
    expect(world.faults.count('write')).to.equal(writes)
    expect(await codeOf(put(disk, 1, content(2, large)))).to.equal('CONFLICT')
    const both = await Promise.all([codeOf(put(disk, 2, content(3, 50))), codeOf(put(disk, 2, content(4, 50)))])
    expect(both.sort()).to.deep.equal(['CONFLICT', 'none'])
  })

  it('does not take other content under an id for the chunk that is asked for', async () => {
    const disk = await new DiskWorld().open()
    const [none, other] = [new Uint8Array(0), new Uint8Array(8).fill(9)]
    const one = await put(disk, 1, content(1, large))
    const two = await put(disk, 2, content(2, 100))
    expect(await disk.missing([1, 2, 3], [one.root, other, other])).to.deep.equal([2, 3])
    expect(await disk.missing([1, 2, 3], [none, two.root, none])).to.deep.equal([3])
    expect([await disk.verify(1, one.root), await disk.verify(1, none), await disk.verify(1)]).to.deep.equal([
      'intact',
      'intact',
      'intact',
    ])
    expect([await disk.verify(1, other), await disk.verify(2, other)]).to.deep.equal(['missing', 'missing'])
    // It is not touched.
    expect(await get(disk, 1)).to.deep.equal(content(1, large))
    await disk.close()
  })

  it('stores nothing when the bytes do not match their sums', async () => {
    const disk = await new DiskWorld().open()
    const sums = await put(disk, 1, content(1, large))
    expect(await codeOf(put(disk, 2, content(2, large), sums))).to.equal('CORRUPT')
    expect(await codeOf(disk.openRead(2, 0, 0))).to.equal('NOT_FOUND')
    expect(await codeOf(put(disk, 3, content(1, large), sums))).to.equal('none')
  })

  it('lists, deletes and stays deleted after a restart', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    for (let id = 1; id <= 10; id++) await put(disk, id, content(id, id % 2 === 0 ? large : 100))
    await disk.delete([2, 3, 99])
    await disk.delete([2])
    expect(await disk.list(1, 100, 4)).to.deep.equal({ ids: [1, 4, 5, 6], until: 7 })
    expect(await disk.list(7, 100, 10)).to.deep.equal({ ids: [7, 8, 9, 10], until: 100 })
    expect(await disk.missing([1, 2, 3, 4])).to.deep.equal([2, 3])
    world.crash()
    disk = await world.open()
    expect((await disk.list(1, 100, 100)).ids).to.deep.equal([1, 4, 5, 6, 7, 8, 9, 10])
    expect(disk.status().chunks).to.equal(8)
  })

  it('shares one fdatasync among all that wait', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    await put(disk, 1000, content(1, 10))
    const before = world.faults.count('sync')
    await Promise.all(Array.from({ length: 100 }, (_, i) => put(disk, i + 1, content(i, 1000))))
    expect(world.faults.count('sync') - before).to.be.lessThan(10)
    expect(disk.status().chunks).to.equal(101)
  })

  it('writes the watermark when idle and at a clean stop, and says how it was stopped', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    expect(disk.clean).to.equal(true)
    await put(disk, 1, content(1, 100))
    const writes = world.faults.count('write')
    world.clock.advance(1500)
    await until(() => world.faults.count('write') > writes)
    await disk.close()
    disk = await world.open()
    expect(disk.clean).to.equal(true)
    await put(disk, 2, content(2, 100))
    world.crash()
    disk = await world.open()
    expect(disk.clean).to.equal(false)
    expect(await get(disk, 1)).to.deep.equal(content(1, 100))
    expect(await get(disk, 2)).to.deep.equal(content(2, 100))
  })

  it('quarantines and reports a large chunk with a flipped byte, on read and on verify', async () => {
    for (const by of ['read', 'verify'] as const) {
      const world = new DiskWorld()
      const disk = await world.open()
      const findings: string[] = []
      disk.onCorrupt((id, finding) => findings.push(`${id}: ${finding}`))
      await put(disk, 1, content(1, large))
      world.extents.flip(1, 4096 + 4096 + 70_000)
      if (by === 'read') expect(await codeOf(get(disk, 1))).to.equal('CORRUPT')
      else expect(await disk.verify(1)).to.equal('corrupt')
      expect(findings).to.deep.equal(['1: block 1 does not match its checksum'])
      expect(await codeOf(disk.openRead(1, 0, 0))).to.equal('NOT_FOUND')
      expect(await disk.missing([1])).to.deep.equal([1])
      expect(await disk.verify(1)).to.equal('missing')
      await put(disk, 1, content(1, large), { replace: true })
      expect(await get(disk, 1)).to.deep.equal(content(1, large))
      expect(await disk.verify(1)).to.equal('intact')
      await disk.close()
    }
  })

  it('notices a damaged record header in the log, which a read does not need', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    await put(disk, 1, content(1, large))
    world.extents.flip(1, 4096 + 110)
    expect(await get(disk, 1)).to.deep.equal(content(1, large))
    expect(await disk.verify(1)).to.equal('corrupt')
  })

  it('reads a small chunk from the log when its bytes in the index are damaged, and renews them on verify', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    await put(disk, 1, content(1, 1000))
    world.kv.tamper('index', indexKeys.chunk(1), (value) => {
      value[value.length - 1] = (value.at(-1) ?? 0) ^ 1
    })
    expect(await get(disk, 1)).to.deep.equal(content(1, 1000))
    expect(await disk.verify(1)).to.equal('intact')
    expect(disk.scrub()).to.include({ healed: 1, findings: 0 })
    world.extents.flip(1, 4096 + 300)
    expect(await get(disk, 1)).to.deep.equal(content(1, 1000))
    expect(await disk.verify(1)).to.equal('intact')
    expect(disk.scrub()).to.include({ healed: 2, findings: 0 })
    await disk.close()
    world.kv.corrupt = true
    expect(await get(await world.open(), 1)).to.deep.equal(content(1, 1000))
  })

  it('reports a chunk whose index record is damaged once, keeps its bytes, and serves them after the next start', async () => {
    for (const length of [1000, large]) {
      const world = new DiskWorld()
      const disk = await world.open()
      await put(disk, 1, content(1, length))
      await put(disk, 2, content(2, length))
      tamper(world, 1)
      const findings: number[] = []
      disk.onCorrupt((id) => findings.push(id))
      for (let i = 0; i < 3; i++) expect(await codeOf(disk.openRead(1, 0, 0))).to.equal('CORRUPT')
      expect(await disk.verify(1)).to.equal('corrupt')
      expect(findings).to.deep.equal([1])
      expect(await get(disk, 2)).to.deep.equal(content(2, length))
      await disk.close()
      const again = await world.open()
      expect(again.rebuilt).to.equal(true)
      for (const id of [1, 2]) expect(await get(again, id)).to.deep.equal(content(id, length))
      expect(again.status().chunks).to.equal(2)
      await again.close()
    }
  })

  it('replaces and deletes a chunk whose index record is damaged', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    for (const id of [1, 2]) await put(disk, id, content(id, 1000))
    for (const id of [1, 2]) tamper(world, id)
    for (const id of [1, 2]) expect(await codeOf(disk.openRead(id, 0, 0))).to.equal('CORRUPT')
    await put(disk, 1, content(1, 1000))
    await disk.delete([2])
    expect(await get(disk, 1)).to.deep.equal(content(1, 1000))
    expect(await codeOf(disk.openRead(2, 0, 0))).to.equal('NOT_FOUND')
    expect(disk.status().chunks).to.equal(1)
    await disk.close()
    const again = await world.open()
    expect((await again.list(1, 10, 10)).ids).to.deep.equal([1])
    await again.close()
  })

  it('counts a chunk once that replaces one whose index record is damaged', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    await put(disk, 1, content(1, 1000))
    tamper(world, 1)
    await put(disk, 1, content(1, 1000), { replace: true })
    expect(disk.status().chunks).to.equal(1)
    await disk.close()
  })

  it('keeps serving after replacing, and counts a chunk once', async () => {
    const disk = await new DiskWorld().open()
    await put(disk, 1, content(1, large))
    await put(disk, 1, content(1, large), { replace: true })
    expect(disk.status().chunks).to.equal(1)
    expect(await get(disk, 1)).to.deep.equal(content(1, large))
  })

  it('fails for good at the first write or sync error, and says so once', async () => {
    for (const fault of ['failSync', 'failWrite'] as const) {
      const world = new DiskWorld()
      const disk = await world.open()
      const reasons: string[] = []
      disk.onFailed((reason) => reasons.push(reason.message))
      await put(disk, 1, content(1, 100))
      world.faults[fault] = true
      const results = await Promise.all([
        codeOf(put(disk, 2, content(2, 100))),
        codeOf(put(disk, 3, content(3, large))),
      ])
      expect(results).to.deep.equal(['DISK_FAILED', 'DISK_FAILED'])
      world.faults[fault] = false
      expect(await codeOf(put(disk, 4, content(2, 100)))).to.equal('DISK_FAILED')
      expect(await codeOf(disk.openRead(1, 0, 0))).to.equal('DISK_FAILED')
      expect(disk.status().state).to.equal('failed')
      expect(reasons).to.have.length(1)
      await disk.close()
    }
  })

  it('answers NO_SPACE at the reserve, goes on deleting, and comes back by itself', async () => {
    const world = new DiskWorld(1, { reserveBytes: 1 << 20 }, 8 << 20)
    const disk = await world.open()
    const stored: number[] = []
    let code = 'none'
    for (let id = 1; code === 'none' && id < 200; id++) {
      code = await codeOf(put(disk, id, content(id, large)))
      if (code === 'none') stored.push(id)
    }
    expect(code).to.equal('NO_SPACE')
    expect(stored.length).to.be.greaterThan(40)
    expect(await get(disk, 1)).to.deep.equal(content(1, large))
    await disk.delete(stored)
    expect(disk.status().chunks).to.equal(0)
    world.clock.advance(2000)
    await until(async () => (await codeOf(put(disk, 1000, content(1, large)))) === 'none')
    await disk.close()
  })

  it('writes emptied extents again and never believes what they held before', async () => {
    const world = new DiskWorld(1, { extentBytes: 1 << 20 })
    let disk = await world.open()
    for (let round = 0; round < 6; round++) {
      const ids = Array.from({ length: 20 }, (_, i) => round * 100 + i + 1)
      for (const id of ids) await put(disk, id, content(id, large))
      await disk.delete(ids)
      world.clock.advance(1500)
      await until(() => world.extents.files.size < 6)
    }
    expect(world.faults.count('rename')).to.be.greaterThan(0)
    await put(disk, 5000, content(1, large))
    world.crash()
    disk = await world.open()
    expect((await disk.list(1, 10_000, 100)).ids).to.deep.equal([5000])
    await disk.close()
    world.kv.corrupt = true
    disk = await world.open()
    expect(disk.rebuilt).to.equal(true)
    expect(await get(disk, 5000)).to.deep.equal(content(1, large))
  })

  it('keeps an emptied extent while a reader holds a place in it', async () => {
    const world = new DiskWorld(1, { extentBytes: 1 << 20 })
    const disk = await world.open()
    await put(disk, 1, content(1, 400_000))
    const reader = await disk.openRead(1, 0, 0)
    const ids = Array.from({ length: 30 }, (_, i) => i + 2)
    for (const id of ids) await put(disk, id, content(id, large))
    await disk.delete([1, ...ids])
    world.clock.advance(1500)
    await until(() => world.faults.count('flush') > 1)
    for (const id of ids) await put(disk, id + 100, content(id, large))
    expect(await reader.next()).to.deep.equal(content(1, 400_000))
    reader.close()
  })

  it('answers a reader that outlives the disk', async () => {
    const world = new DiskWorld()
    const disk = await world.open()
    await put(disk, 1, content(1, 480_000))
    const reader = await disk.openRead(1, 0, 0)
    await reader.next()
    const closing = disk.close()
    expect(await codeOf(reader.next())).to.equal('SHUTTING_DOWN')
    await closing
    expect(await codeOf(reader.next())).to.equal('SHUTTING_DOWN')
    reader.close()
  })

  it('rebuilds a lost index from the log', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    for (let id = 1; id <= 30; id++) await put(disk, id, content(id, id % 3 === 0 ? large : 500))
    await disk.delete([3, 4])
    await put(disk, 5, content(5, 500), { replace: true })
    await disk.close()
    world.kv.corrupt = true
    disk = await world.open()
    expect(disk.rebuilt).to.equal(true)
    expect(disk.status().chunks).to.equal(28)
    for (let id = 5; id <= 30; id++) expect(await get(disk, id)).to.deep.equal(content(id, id % 3 === 0 ? large : 500))
    await disk.adopt('a'.repeat(32), 's1')
    await disk.close()
    expect((await world.open()).rebuilt).to.equal(false)
  })

  it('reports rot below the watermark at the next start and keeps the rest', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    await put(disk, 1, content(1, 1000))
    await put(disk, 2, content(2, large))
    await put(disk, 3, content(3, 1000))
    world.extents.flip(1, 4096 + 300)
    world.crash(() => 1)
    disk = await world.open()
    const findings: number[] = []
    disk.onCorrupt((id) => findings.push(id))
    expect(findings).to.deep.equal([1])
    expect(await disk.missing([1, 2, 3])).to.deep.equal([1])
    expect(await get(disk, 2)).to.deep.equal(content(2, large))
    expect(await get(disk, 3)).to.deep.equal(content(3, 1000))
  })

  it('never believes what was left in a dropped tail that the log went around', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    for (let id = 1; id <= 8; id++) await put(disk, id, content(id, large))
    world.faults.stopAt = world.faults.total + 3
    for (const id of [9, 10]) put(disk, id, content(id, 16_385)).catch(() => undefined)
    await world.faults.whenStopped()
    // Two groups are written and not synced: the first loses its head, the second survives whole.
    let sectors = 0
    world.crash(() => (sectors++ === 0 ? 1 : 0))
    disk = await world.open()
    expect(await disk.missing([9, 10])).to.deep.equal([9, 10])
    await put(disk, 11, content(11, 120_000))
    expect(world.extents.files.size).to.be.greaterThan(1)
    world.crash(() => 0)
    disk = await world.open()
    expect((await disk.list(1, 100, 100)).ids).to.deep.equal([1, 2, 3, 4, 5, 6, 7, 8, 11])
    expect(disk.status().chunks).to.equal(9)
  })

  it('refuses a second process, another cluster, another node, a newer format and a damaged identity', async () => {
    const world = new DiskWorld()
    let disk = await world.open()
    expect(await codeOf(world.open())).to.equal('LOCKED')
    expect(disk.clusterId).to.equal(undefined)
    await disk.adopt('a'.repeat(32), 'n1')
    await disk.adopt('a'.repeat(32), 'n1')
    expect(await codeOf(disk.adopt('b'.repeat(32), 'n1'))).to.equal('WRONG_CLUSTER')
    const { id } = disk
    await disk.close()
    disk = await world.open()
    expect([disk.id, disk.clusterId]).to.deep.equal([id, 'a'.repeat(32)])
    expect(await codeOf(disk.adopt('a'.repeat(32), 'n2'))).to.equal('WRONG_CLUSTER')
    await disk.adopt('a'.repeat(32), 'n1', 3)
    await disk.adopt('a'.repeat(32), 'n1', 2)
    await disk.close()
    disk = await world.open()
    expect(disk.clusterIncarnation).to.equal(3)
    await disk.close()
    const identity = world.files.contents.get('identity')
    const edit = (from: string, to: string): void => {
      const text = new TextDecoder().decode(identity).replace(from, to)
      world.files.contents.set('identity', new TextEncoder().encode(text))
    }
    edit('"format":1', '"format":2')
    expect(await codeOf(world.open())).to.equal('INCOMPATIBLE_VERSION')
    edit('aaaa', 'aaab')
    expect(await codeOf(world.open())).to.equal('CORRUPT')
    world.files.contents.delete('identity')
    await put(await new DiskWorld().open(), 1, content(1, 10))
  })

  it('bounds the memory of chunks on their way in, and gives it back on abort', async () => {
    const disk = await new DiskWorld(1, { arenaBytes: 256 * 1024, extentBytes: 1 << 20 }).open()
    const { signal } = new AbortController()
    const first = await disk.beginPut({ id: 1, length: 200_000, lease: 0 }, signal)
    let second = false
    const waiting = disk.beginPut({ id: 2, length: 200_000, lease: 0 }, signal).then((writer) => {
      second = true
      return writer
    })
    const giving = new AbortController()
    const third = codeOf(disk.beginPut({ id: 3, length: 200_000, lease: 0 }, giving.signal))
    await new Promise((resolve) => setImmediate(resolve))
    expect(second).to.equal(false)
    giving.abort()
    expect(await third).to.equal('CANCELLED')
    first.abort()
    ;(await waiting).abort()
    await put(disk, 4, content(4, 200_000))
  })
})

/** Lets the world run until `condition` holds; fails the test when it does not for long. */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let turn = 0; turn < 5000; turn++) {
    if (await condition()) return
    await new Promise((resolve) => setImmediate(resolve))
  }
  throw new Error('the condition does not come true')
}
