/**
 * A disk in trouble: what EIO, ENOSPC, EROFS and an I/O that never returns end as, for whoever waits and for the disk.
 */

import { expect } from 'chai'
import { StoreError } from '../../../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../../../src/ports/extents.ts'
import type { Kv } from '../../../../src/ports/kv.ts'
import { openDisk } from '../../../../src/services/storage/engine/disk.ts'
import { IoWatch, watchExtents } from '../../../../src/services/storage/engine/health-io.ts'
import { DiskGate, type DiskOptions } from '../../../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../../../src/services/storage/types.ts'
import { codeOf, content, DiskWorld, get, put, silentMetrics } from '../../../support/disk-world.ts'
import { ManualClock } from '../../../support/manual-clock.ts'

type Operation = 'write' | 'sync' | 'read' | 'index'

/** What a device does with an operation: nothing special, fails it, or never answers. */
class Device {
  readonly done = new Map<Operation, number>()
  readonly #errors = new Map<Operation, () => Error | undefined>()
  readonly #hanging = new Set<Operation>()
  #hung: (() => void)[] = []

  /** From now on; `error` may let some pass. */
  fail(operation: Operation, error: (() => Error | undefined) | undefined): void {
    if (error === undefined) this.#errors.delete(operation)
    else this.#errors.set(operation, error)
  }

  hang(operation: Operation): void {
    this.#hanging.add(operation)
  }

  /** What hung comes back at last, as if nothing had been. */
  release(): void {
    this.#hanging.clear()
    for (const resume of this.#hung.splice(0)) resume()
  }

  get hung(): number {
    return this.#hung.length
  }

  async #pass<T>(operation: Operation, work: () => Promise<T>): Promise<T> {
    if (this.#hanging.has(operation)) await new Promise<void>((resolve) => this.#hung.push(resolve))
    const error = this.#errors.get(operation)?.()
    if (error !== undefined) throw error
    this.done.set(operation, (this.done.get(operation) ?? 0) + 1)
    return work()
  }

  #file(file: ExtentFile): ExtentFile {
    return {
      number: file.number,
      size: file.size,
      write: (bytes, offset) => this.#pass('write', () => file.write(bytes, offset)),
      sync: () => this.#pass('sync', () => file.sync()),
      read: (into, offset) => this.#pass('read', () => file.read(into, offset)),
      close: () => file.close(),
    }
  }

  extents(files: ExtentFiles): ExtentFiles {
    const probe = files.openProbe?.bind(files)
    return {
      alignment: files.alignment,
      mode: files.mode,
      arena: (size) => files.arena(size),
      list: () => files.list(),
      sizeOf: (number) => files.sizeOf(number),
      create: async (number, size) => this.#file(await files.create(number, size)),
      open: async (number) => this.#file(await files.open(number)),
      ...(probe === undefined ? {} : { openProbe: async () => this.#file(await probe()) }),
      rename: (from, to) => files.rename(from, to),
      remove: (number) => files.remove(number),
      space: () => files.space(),
    }
  }

  kv(kv: Kv): Kv {
    return {
      get: (key) => kv.get(key),
      getSync: (key) => kv.getSync(key),
      batch: (operations, options) => this.#pass('index', () => kv.batch(operations, options)),
      iterate: (range) => kv.iterate(range),
      snapshot: () => kv.snapshot(),
      flush: () => this.#pass('index', () => kv.flush()),
      close: () => kv.close(),
    }
  }
}

function system(code: string): () => Error {
  return () => Object.assign(new Error(`${code}: it says so`), { code })
}
const full = (): Error => new StoreError('NO_SPACE', 'ENOSPC: no space left on device')

interface Started {
  readonly world: DiskWorld
  readonly device: Device
  readonly disk: DiskEngine
}

async function start(options: Partial<DiskOptions> = {}, world = new DiskWorld(1, options)): Promise<Started> {
  const device = new Device()
  const { deps } = world
  const kv = {
    ...deps.kv,
    open: async (name: string) => device.kv(await deps.kv.open(name)),
    destroy: (name: string) => deps.kv.destroy(name),
  }
  const disk = await openDisk({ ...deps, extents: device.extents(deps.extents), kv }, { ...world.options, ...options })
  return { world, device, disk }
}

/** How `work` ends, seen from outside: empty while it has not. */
function ending(work: Promise<unknown>): { code: string } {
  const end = { code: '' }
  codeOf(work)
    .then((code) => {
      end.code = code
    })
    .catch(() => undefined)
  return end
}

/** Lets everything run that needs no time. */
async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

/** Lets so much time pass as a process sees it that runs all the while. */
async function pass(clock: ManualClock, ms: number): Promise<void> {
  for (let at = 0; at < ms; at += 500) {
    clock.advance(500)
    await new Promise<void>((resolve) => setImmediate(resolve))
  }
}

const small = content(1, 2000)
const large = content(2, 200_000)

describe('disk health', () => {
  describe('EIO', () => {
    for (const operation of ['write', 'sync', 'index'] as const) {
      it(`of a ${operation}: the disk is failed at once and for good, and who waits is told`, async () => {
        const { device, disk } = await start()
        await put(disk, 1, large)
        const told: string[] = []
        disk.onFailed((reason) => told.push(reason.message))
        device.fail(operation, system('EIO'))
        const codes = await Promise.all([
          codeOf(put(disk, 2, large)),
          codeOf(put(disk, 3, small)),
          codeOf(disk.delete([1])),
        ])
        expect(new Set(codes)).deep.equal(new Set(['DISK_FAILED']))
        device.fail(operation, undefined)
        const status = disk.status()
        expect(status.state).equal('failed')
        expect(status.reason).match(/(writing|syncing).*EIO/)
        expect(told).length(1)
        expect(told[0]).match(/disk \/disk failed: (writing|syncing).*: EIO.*replace the disk/)
        const before = new Map(device.done)
        expect(await codeOf(put(disk, 4, small))).equal('DISK_FAILED')
        expect(await codeOf(get(disk, 1))).equal('DISK_FAILED')
        expect(device.done, 'a failed disk is not touched any more').deep.equal(before)
        await disk.close()
      })
    }

    it('of reads: each chunk is quarantined and told, the third place makes the disk suspect, and it serves on', async () => {
      const { device, disk, world } = await start()
      for (let id = 1; id <= 4; id++) await put(disk, id, large)
      const told: number[] = []
      const states: string[] = []
      disk.onCorrupt((id) => told.push(id))
      disk.onHealth(() => states.push(disk.status().state))
      device.fail('read', system('EIO'))
      for (let id = 1; id <= 3; id++) {
        expect(disk.status().state).equal('ok')
        expect(await codeOf(get(disk, id))).equal('CORRUPT')
      }
      device.fail('read', undefined)
      expect(told).deep.equal([1, 2, 3])
      expect(disk.status().state).equal('suspect')
      expect(disk.status().reason).match(/3 places could not be read/)
      expect(await get(disk, 4)).deep.equal(large)
      await put(disk, 5, small)
      await pass(world.clock, 10 * 60_000 + 1000)
      expect(disk.status()).include({ state: 'ok', reason: '' })
      expect(states).deep.equal(['suspect', 'ok'])
      await disk.close()
    })
  })

  it('ENOMEM of reads: no chunk is called corrupt, and all are served when there is memory again', async () => {
    const { device, disk } = await start()
    await put(disk, 1, large)
    const told: number[] = []
    disk.onCorrupt((id) => told.push(id))
    device.fail('read', system('ENOMEM'))
    expect(await codeOf(get(disk, 1))).equal('OVERLOADED')
    await disk.verify(1).then(
      () => expect.fail('it could not be read'),
      () => undefined,
    )
    device.fail('read', undefined)
    expect(await get(disk, 1)).deep.equal(large)
    expect(await disk.verify(1)).equal('intact')
    expect(told).deep.equal([])
    await disk.close()
  })

  describe('ENOSPC', () => {
    it('in the middle of a batch: it is taken back whole, the rest goes on, and puts are taken again when there is room', async () => {
      const { device, disk, world } = await start()
      await put(disk, 1, large)
      device.fail('write', full)
      const codes = await Promise.all([2, 3, 4, 5, 6].map((id) => codeOf(put(disk, id, id % 2 === 0 ? large : small))))
      expect(new Set(codes)).deep.equal(new Set(['NO_SPACE']))
      expect(disk.status()).include({ state: 'ok', chunks: 1 })
      expect(await get(disk, 1)).deep.equal(large)
      expect(await disk.missing([1, 2, 3, 4, 5, 6])).deep.equal([2, 3, 4, 5, 6])
      device.fail('write', undefined)
      for (let id = 2; id <= 6; id++) await put(disk, id, id % 2 === 0 ? large : small)
      await disk.delete([1])
      world.crash(() => 1)
      const again = await openDisk(world.deps, world.options)
      for (let id = 2; id <= 6; id++) expect(await get(again, id)).deep.equal(id % 2 === 0 ? large : small)
      expect(await again.missing([1])).deep.equal([1])
      await again.close()
    })

    it('after some groups of a batch were written: what they held is not believed after a crash, and not lost by a retry', async () => {
      for (const keep of [0, 0.99]) {
        const world = new DiskWorld(7)
        const { device, disk } = await start({}, world)
        await put(disk, 1, small)
        let count = 0
        device.fail('write', () => (++count > 1 ? full() : undefined))
        const codes = await Promise.all([2, 3, 4].map((id) => codeOf(put(disk, id, large))))
        expect(codes).deep.equal(['NO_SPACE', 'NO_SPACE', 'NO_SPACE'])
        device.fail('write', undefined)
        await put(disk, 3, small)
        world.crash(() => keep)
        const again = await openDisk(world.deps, world.options)
        expect(await get(again, 1)).deep.equal(small)
        expect(await get(again, 3)).deep.equal(small)
        expect(await again.missing([2, 4])).deep.equal([2, 4])
        await again.close()
      }
    })

    for (const operation of ['sync', 'index'] as const) {
      it(`of a ${operation}: the disk is read-only until it is opened again, and what it holds is served`, async () => {
        const { device, disk, world } = await start()
        await put(disk, 1, large)
        device.fail(operation, full)
        expect(await codeOf(put(disk, 2, small))).equal('DISK_FAILED')
        device.fail(operation, undefined)
        expect(disk.status().state).equal('read-only')
        expect(await codeOf(put(disk, 3, small))).equal('DISK_FAILED')
        expect(await codeOf(disk.delete([1]))).equal('DISK_FAILED')
        expect(await get(disk, 1)).deep.equal(large)
        await disk.close()
        const again = await openDisk(world.deps, world.options)
        expect(again.status().state).equal('ok')
        expect(await get(again, 1)).deep.equal(large)
        await put(again, 3, small)
        await again.close()
      })
    }
  })

  it('EROFS: read-only; puts and deletes are refused, reads and verifications go on, a corrupt chunk is still told', async () => {
    const { device, disk, world } = await start()
    await put(disk, 1, large)
    await put(disk, 2, large)
    const failed: Error[] = []
    disk.onFailed((reason) => failed.push(reason))
    device.fail('write', system('EROFS'))
    expect(await codeOf(put(disk, 3, small))).equal('DISK_FAILED')
    device.fail('write', undefined)
    expect(disk.status()).include({ state: 'read-only' })
    expect(disk.status().reason).match(/writing: EROFS/)
    expect(await codeOf(put(disk, 4, small))).equal('DISK_FAILED')
    expect(await codeOf(disk.delete([1]))).equal('DISK_FAILED')
    expect(await get(disk, 1)).deep.equal(large)
    expect(await disk.verify(2)).equal('intact')
    const told: number[] = []
    disk.onCorrupt((id) => told.push(id))
    world.extents.flip(1, 3 * 4096)
    const answers = [await disk.verify(1), await disk.verify(2)]
    expect(answers).include('corrupt')
    expect(told).length(1)
    expect(failed).deep.equal([])
    await disk.close()
  })

  describe('an I/O that never returns', () => {
    for (const operation of ['sync', 'write', 'index'] as const) {
      it(`a ${operation}: suspect after 5 s, failed after 30 s, all who wait are answered, a late return is not believed`, async () => {
        const { device, disk, world } = await start()
        await put(disk, 1, large)
        device.hang(operation)
        const ends = [2, 3, 4].map((id) => ending(put(disk, id, id === 3 ? small : large)))
        const codes = (): string[] => ends.map(({ code }) => code)
        await settle()
        await pass(world.clock, 4000)
        expect(disk.status().state).equal('ok')
        await pass(world.clock, 3000)
        expect(disk.status().state).equal('suspect')
        expect(codes()).deep.equal(['', '', ''])
        await pass(world.clock, 25_000)
        await settle()
        expect(disk.status().state).equal('failed')
        expect(disk.status().reason).match(/no answer within 3\d s/)
        expect(codes()).deep.equal(['DISK_FAILED', 'DISK_FAILED', 'DISK_FAILED'])
        device.release()
        await settle()
        expect(disk.status().state).equal('failed')
        expect(await codeOf(get(disk, 2))).equal('DISK_FAILED')
        await disk.close()
      })
    }

    it('a read: its caller is answered, the chunk is not called corrupt', async () => {
      const { device, disk, world } = await start()
      await put(disk, 1, large)
      const told: number[] = []
      disk.onCorrupt((id) => told.push(id))
      device.hang('read')
      const end = ending(get(disk, 1))
      await settle()
      await pass(world.clock, 33_000)
      await settle()
      expect(end.code).equal('DISK_FAILED')
      expect(told).deep.equal([])
      await disk.close()
    })

    it('is not what a process sees that was stopped for an hour', async () => {
      const { device, disk, world } = await start()
      device.hang('sync')
      const end = ending(put(disk, 1, small))
      await settle()
      for (let i = 0; i < 4; i++) {
        world.clock.advance(3_600_000)
        await settle()
      }
      expect(disk.status().state).not.equal('failed')
      device.release()
      await settle()
      expect(end.code).equal('none')
      expect(disk.status().state).not.equal('failed')
      await disk.close()
    })

    it('leaves other disks their threads: few I/Os of a disk are under way at once, and reads leave room for writes', async () => {
      const clock = new ManualClock()
      const gate = new DiskGate('/disk', { clock, metrics: silentMetrics })
      const watch = new IoWatch(gate, clock, 30_000, 4)
      const device = new Device()
      const world = new DiskWorld()
      const files = watchExtents(device.extents(world.deps.extents), watch)
      const file = await files.create(1, 1 << 20)
      device.hang('read')
      device.hang('sync')
      const codes = [...Array(20)].map(() => codeOf(file.read(new Uint8Array(4096), 0)))
      await settle()
      expect(device.hung).equal(2)
      await file.write(new Uint8Array(4096), 0)
      codes.push(...[...Array(20)].map(() => codeOf(file.sync())))
      await settle()
      expect(device.hung).equal(4)
      await pass(clock, 33_000)
      expect(new Set(await Promise.all(codes))).deep.equal(new Set(['DISK_FAILED']))
      expect(device.hung).equal(4)
    })

    it('is not begun on a failed disk, nor goes on waiting for its turn there', async () => {
      const clock = new ManualClock()
      const gate = new DiskGate('/disk', { clock, metrics: silentMetrics })
      const watch = new IoWatch(gate, clock, 30_000, 3)
      const device = new Device()
      const file = await watchExtents(device.extents(new DiskWorld().deps.extents), watch).create(1, 1 << 20)
      device.hang('write')
      const ends = Array.from({ length: 8 }, () => ending(file.write(new Uint8Array(4096), 0)))
      await settle()
      gate.fail('trying', 'for the test')
      await settle()
      expect(ends.map(({ code }) => code)).deep.equal(['', '', '', ...Array.from({ length: 5 }, () => 'DISK_FAILED')])
      const before = new Map(device.done)
      expect(await codeOf(file.sync())).equal('DISK_FAILED')
      expect(device.done).deep.equal(before)
    })

    it('keeps the descriptor of its file: it is closed when the I/O is back, not before', async () => {
      const clock = new ManualClock()
      const gate = new DiskGate('/disk', { clock, metrics: silentMetrics })
      const watch = new IoWatch(gate, clock, 30_000)
      const world = new DiskWorld()
      const device = new Device()
      let closed = 0
      const inner = device.extents(world.deps.extents)
      const file = await watchExtents(
        {
          ...inner,
          create: async (number, size) => ({ ...(await inner.create(number, size)), close: async () => void closed++ }),
        },
        watch,
      ).create(1, 1 << 20)
      device.hang('write')
      const write = codeOf(file.write(new Uint8Array(4096), 0))
      await pass(clock, 33_000)
      expect(await write).equal('DISK_FAILED')
      await file.close()
      expect(closed).equal(0)
      device.release()
      await settle()
      expect(closed).equal(1)
    })
  })

  describe('the probe', () => {
    it('finds a broken disk that nobody uses', async () => {
      const { device, disk, world } = await start()
      device.fail('sync', system('EIO'))
      expect(disk.status().state).equal('ok')
      await pass(world.clock, 11_000)
      await settle()
      expect(disk.status()).include({ state: 'failed', reason: 'syncing: EIO: it says so' })
      await disk.close()
    })

    it('finds a disk that gives back something else than it was given', async () => {
      const world = new DiskWorld()
      const { deps } = world
      const lying = (file: ExtentFile): ExtentFile => ({
        number: file.number,
        size: file.size,
        write: (bytes, offset) => file.write(bytes, offset),
        sync: () => file.sync(),
        close: () => file.close(),
        read: async (into, offset) => {
          const count = await file.read(into, offset)
          into[17] = (into[17] ?? 0) ^ 1
          return count
        },
      })
      const extents = {
        ...deps.extents,
        openProbe: async () => lying((await deps.extents.openProbe?.()) as ExtentFile),
      }
      const disk = await openDisk({ ...deps, extents }, world.options)
      await pass(world.clock, 11_000)
      await settle()
      expect(disk.status().state).equal('failed')
      expect(disk.status().reason).match(/reads back as something else/)
      await disk.close()
    })

    it('finds that the directory is not the disk any more', async () => {
      const { disk, world } = await start()
      await put(disk, 1, large)
      world.files.contents.delete('identity')
      await pass(world.clock, 11_000)
      await settle()
      expect(disk.status()).include({ state: 'failed', reason: 'looking for its identity file: it is gone' })
      await disk.close()
    })

    it('goes on when the filesystem is full, and measures the disk', async () => {
      const { device, disk, world } = await start()
      device.fail('write', full)
      await pass(world.clock, 25_000)
      await settle()
      expect(disk.status().state).equal('ok')
      device.fail('write', undefined)
      const syncs = device.done.get('sync') ?? 0
      await pass(world.clock, 25_000)
      await settle()
      expect(disk.status().state).equal('ok')
      expect(device.done.get('sync') ?? 0).above(syncs)
      await disk.close()
    })
  })
})
