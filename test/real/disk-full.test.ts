/**
 * The engine on a filesystem that is full, really: puts are refused, all else goes on, space comes back by itself, and
 * nothing acknowledged is lost, over a restart too.
 */

import { expect } from 'chai'
import { rm } from 'node:fs/promises'
import { isStoreError } from '../../src/model/errors.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import { fillUntil, type SmallFilesystem, smallFilesystem } from '../support/damage.ts'
import { codeOf, content, get, put } from '../support/disk-world.ts'
import { until } from '../support/processes.ts'
import { openRealDisk } from '../support/real-engine.ts'

const MiB = 1 << 20
const chunkBytes = 300_000
const options = {
  extentBytes: 4 * MiB,
  reserveBytes: 6 * MiB,
  compaction: { liveRatio: 0.8, bytesPerSecond: 256 * MiB, idleMs: 200 },
}

const tried = await smallFilesystem(1)
await tried?.remove()
if (tried === undefined) {
  process.stdout.write('no filesystem can be mounted here (not root): full disks of the engine are simulated only\n')
}

if (tried !== undefined) {
  describe('real disk: a full filesystem', function () {
    this.timeout(90_000)
    let small: SmallFilesystem
    let disk: DiskEngine
    const held = new Set<number>()

    before(async () => {
      small = (await smallFilesystem(64)) as SmallFilesystem
      disk = await openRealDisk(small.directory, options)
    })

    after(async () => {
      await disk?.close()
      await small?.remove()
    })

    /** Puts until there is no room; gives how many were taken. */
    async function fill(from: number): Promise<number> {
      for (let id = from; ; id++) {
        const code = await codeOf(put(disk, id, content(id, chunkBytes)))
        if (code === 'NO_SPACE') return id - from
        expect(code).to.equal('none')
        held.add(id)
      }
    }

    async function expectHeld(): Promise<void> {
      const { ids } = await disk.list(0, 1_000_000, 100_000)
      expect(ids).to.deep.equal([...held].sort((a, b) => a - b))
      for (const id of ids)
        expect(Buffer.compare(await get(disk, id), content(id, chunkBytes)), `chunk ${id}`).to.equal(0)
    }

    async function deleteEverySecond(): Promise<void> {
      const victims = [...held].filter((_, i) => i % 2 === 0)
      for (const id of victims) {
        await disk.delete([id])
        held.delete(id)
      }
    }

    it('refuses puts with NO_SPACE, goes on reading, and starts again as full as it is', async () => {
      expect(await fill(1)).to.be.greaterThan(100)
      await expectHeld()
      await disk.close()
      disk = await openRealDisk(small.directory, options)
      expect(await codeOf(put(disk, 9000, content(1, chunkBytes)))).to.equal('NO_SPACE')
      await expectHeld()
    })

    it('takes deletes, compacts, and takes puts again by itself', async () => {
      await deleteEverySecond()
      await until(
        'a put is taken again',
        async () => (await codeOf(put(disk, 5000, content(5000, chunkBytes)))) === 'none',
      )
      held.add(5000)
      const usable = (): boolean => disk.status().freeForNewBytes > 16 * MiB
      await until('what was deleted can be used again', usable, 60_000)
      expect(await fill(6000)).to.be.greaterThan(30)
      await expectHeld()
    })

    it('survives others who take the last byte: a typed refusal, and all is there when they are gone', async () => {
      const ballast = await fillUntil(small.directory, 0)
      await expectHeld()
      // When the index met the end of the space the disk takes no more until it is opened again; else it is only full.
      const refused = ['NO_SPACE', 'DISK_FAILED']
      expect(await codeOf(put(disk, 9001, content(1, chunkBytes)))).to.be.oneOf(refused)
      await expectHeld()
      const victim = [...held][0] as number
      const code = await codeOf(disk.delete([victim]))
      if (code === 'none') held.delete(victim)
      else expect(code).to.be.oneOf(refused)
      await disk.close()
      const opened = await openRealDisk(small.directory, options).catch((error: unknown) => {
        expect(isStoreError(error), String(error)).to.equal(true)
        return undefined
      })
      await opened?.close()
      await rm(ballast)
      disk = await openRealDisk(small.directory, options)
      if (code !== 'none' && (await disk.missing([victim])).length > 0) held.delete(victim)
      await expectHeld()
      expect(disk.status().state).to.equal('ok')
    })
  })
}
