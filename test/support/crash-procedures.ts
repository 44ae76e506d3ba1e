/**
 * What the disk engine does to its disk, as procedures for the crash driver: each is short, so that most states that a
 * crash may leave are tried, and named after the rule of docs/RULES.md that it is there for.
 */

import { expect } from 'chai'
import { toHex } from '../../src/base/bytes.ts'
import type { Procedure } from './crash-driver.ts'
import { contentOf, type Life, quarantinesIn } from './disk-life.ts'

/** Just too large for the index, so that a chunk is a head and five sectors of payload. */
const large = 17_000
const small = 900
const cluster = 'c'.repeat(32)

/** Fills what is left of the extent that is written with large chunks from `id` on; gives the next id. */
async function fill(life: Life, id: number, count: number, length = large): Promise<number> {
  for (let i = 0; i < count; i++) await life.put(id + i, length)
  return id + count
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i)

/** Makes the engine recycle what is empty: its delay passes. */
async function recycle(life: Life): Promise<void> {
  await life.advance(1100)
}

/** What seeds the checksums of an extent. */
function nonceOf(life: Life, extent: number): string {
  return toHex(life.journal.live.read(extent, 48, 16))
}

/** Lets compaction do what there is to do. */
async function compact(life: Life): Promise<void> {
  for (let i = 0; i < 3; i++) await life.advance(5100)
}

/** The bytes of what is in quarantine are where they were, as they were. */
async function quarantineKept(life: Life): Promise<void> {
  for (const { id, location } of quarantinesIn(life.journal.live)) {
    const expected = contentOf(id, large).slice()
    expected[5] = (expected[5] as number) ^ 0x40
    const found = life.journal.live.read(location.extent, location.payload, large)
    expect(Buffer.compare(found, expected), `quarantined bytes of chunk ${id} are kept`).to.equal(0)
  }
}

export const procedures: readonly Procedure[] = [
  {
    name: 'a new disk: identity and index (rule 3)',
    run: async (life) => {
      await life.open()
      await life.adopt(cluster, 1)
    },
  },
  {
    name: 'a disk that learns of a new incarnation of its cluster (rule 3)',
    prepare: async (life) => {
      await life.adopt(cluster, 1)
      await life.put(1, small)
    },
    run: async (life) => {
      await life.adopt(cluster, 4)
      await life.put(2, small)
      await life.close()
      await life.open()
      await life.adopt(cluster, 5)
    },
  },
  {
    name: 'the first chunk of a disk: an extent is made (rule 18)',
    prepare: async () => undefined,
    run: async (life) => {
      await life.put(1, small)
      await life.put(2, large)
    },
  },
  {
    name: 'small chunks in one group (rule 6)',
    prepare: async (life) => await life.put(1, small),
    run: async (life) => {
      await Promise.all(range(2, 6).map((id) => life.put(id, 100 * id)))
      await Promise.all([life.put(6, 16_384), life.put(7, 1)])
      await life.delete([2, 6])
    },
  },
  {
    name: 'an append batch of small and large chunks (rule 7)',
    prepare: async (life) => await life.put(1, large),
    run: async (life) => {
      await Promise.all([life.put(2, large), life.put(3, small), life.put(4, large)])
      await life.put(5, large)
    },
  },
  {
    name: 'writes, quiet, the closing watermark, more writes (rule 7)',
    prepare: async (life) => await life.put(1, small),
    run: async (life) => {
      await life.put(2, large)
      await life.advance(1100)
      await life.put(3, small)
      await life.advance(1100)
      await life.put(4, small)
    },
  },
  {
    name: 'a chunk that looks like the log of this disk (rule 7)',
    prepare: async (life) => {
      await life.put(1, large)
      await life.putBytes(2, life.journal.live.read(1, 0, 60_000))
    },
    run: async (life) => {
      await life.putBytes(3, life.journal.live.read(1, 4096, 40_000))
      await life.put(4, small)
      await life.delete([1])
    },
  },
  {
    name: 'rot below the watermark: what was written behind it stays (rule 7)',
    prepare: async (life) => {
      await life.put(1, large)
      await life.put(2, small)
      life.rot(1)
    },
    run: async (life) => {
      await life.put(3, large)
      await life.put(4, small)
      await life.delete([2])
    },
  },
  {
    name: 'deletes, and chunks written again under the same id (rule 4)',
    prepare: async (life) => {
      await Promise.all(range(1, 5).map((id) => life.put(id, id % 2 === 0 ? large : small)))
    },
    run: async (life) => {
      await life.delete([1, 2])
      await life.put(1, large, 77)
      await Promise.all([life.delete([3]), life.put(5, small)])
      await life.put(4, small, 88, true)
      await life.delete([1, 4])
    },
  },
  {
    name: 'quarantine, then its extent is emptied of all else (rule 4)',
    prepare: async (life) => {
      await fill(life, 1, 5)
      life.rot(3)
    },
    run: async (life) => {
      expect(await life.verify(3)).to.equal('corrupt')
      await life.delete([1, 2, 4])
      await recycle(life)
      await life.put(20, large)
      await life.advance(1100)
    },
    after: quarantineKept,
  },
  {
    name: 'a quarantined chunk is replaced, and deleted (rule 4)',
    prepare: async (life) => {
      await fill(life, 1, 2)
      life.rot(1)
      await life.verify(1)
    },
    run: async (life) => {
      await life.put(1, large, 1, true)
      await life.delete([1])
      await life.put(3, small)
    },
    after: quarantineKept,
  },
  {
    name: 'the log rolls into the next extent (rules 7, 18)',
    prepare: async (life) => {
      await fill(life, 1, 3)
    },
    run: async (life) => {
      await fill(life, 4, 3)
      await life.put(30, small)
    },
  },
  {
    name: 'an extent is emptied, checkpointed, recycled and written again (rule 5)',
    prepare: async (life) => {
      await fill(life, 1, 5)
    },
    run: async (life) => {
      const nonces = [1, 2].map((extent) => nonceOf(life, extent))
      await life.delete(range(1, 5))
      await recycle(life)
      await fill(life, 20, 5)
      const latest = Math.max(...life.journal.live.names.keys())
      expect(latest, 'the extent has a new number').to.be.greaterThan(2)
      expect(nonces, 'the nonces of its header').not.to.include(nonceOf(life, latest))
    },
  },
  {
    name: 'compaction moves what is left of an extent, which is recycled and written again (rule 5)',
    options: { compaction: { liveRatio: 0.9, bytesPerSecond: 64 << 20, idleMs: 1000 } },
    prepare: async (life) => {
      await life.put(1, small)
      await fill(life, 2, 5)
      await life.delete([2, 4])
    },
    run: async (life) => {
      const before = life.placeOf(3).extent
      await compact(life)
      expect(life.placeOf(3).extent, 'chunk 3 was moved').to.be.greaterThan(before)
      await fill(life, 20, 4)
    },
  },
  {
    name: 'chunks are deleted, replaced and put while compaction moves them (rule 5)',
    options: { compaction: { liveRatio: 0.9, bytesPerSecond: 64 << 20, idleMs: 1000 } },
    prepare: async (life) => {
      await life.put(1, small)
      await fill(life, 2, 5)
      await life.delete([2])
    },
    run: async (life) => {
      // Compaction starts while these hold the locks of what it is about to move.
      const work = [life.delete([3]), life.put(4, small, 44, true), life.put(30, small)]
      life.clock.advance(5100)
      await Promise.all(work)
      await life.delete([1])
      await compact(life)
    },
  },
  {
    name: 'compaction leaves what is in quarantine where it is (rules 4, 5)',
    options: { compaction: { liveRatio: 0.9, bytesPerSecond: 64 << 20, idleMs: 1000 } },
    prepare: async (life) => {
      await fill(life, 1, 5)
      life.rot(3)
      await life.delete([1])
    },
    run: async (life) => {
      await life.verify(3)
      await compact(life)
      await life.delete([2])
      await compact(life)
    },
    after: quarantineKept,
  },
  {
    name: 'checkpoints between writes (rule 5)',
    prepare: async (life) => {
      await fill(life, 1, 6)
    },
    run: async (life) => {
      const deleted = life.delete([1, 5])
      await Promise.all([deleted, life.put(30, small)])
      await life.delete([2, 3, 4])
      life.clock.advance(1100)
      await Promise.all([life.put(31, small), life.put(32, large)])
      await life.delete([31])
      await life.settle()
    },
  },
  {
    name: 'a stop in order, a start, work, a stop (rule 5)',
    prepare: async (life) => {
      await life.put(1, small)
      await life.put(2, large)
    },
    run: async (life) => {
      await life.close()
      await life.open()
      await life.put(3, small)
      await life.delete([2])
      await life.close()
    },
  },
  {
    name: 'an index that is lost is rebuilt from the log (rule 6)',
    prepare: async (life) => {
      await Promise.all(range(1, 7).map((id) => life.put(id, id % 2 === 0 ? large : small)))
      await life.delete([1, 2])
      await life.put(1, small, 91)
    },
    run: async (life) => {
      await life.close()
      life.loseIndex()
      await life.open()
      await life.put(9, small)
      await life.delete([3])
    },
  },
  {
    name: 'an index that is lost after compaction: what was deleted stays deleted (rules 4, 6)',
    options: { compaction: { liveRatio: 0.9, bytesPerSecond: 64 << 20, idleMs: 1000 } },
    prepare: async (life) => {
      await fill(life, 1, 5)
      await life.delete([1, 2])
      await life.put(30, small)
      await life.put(3, small, 33, true)
      await compact(life)
      await fill(life, 20, 4)
      await life.delete([5, 20, 30])
    },
    run: async (life) => {
      await compact(life)
      await life.close()
      life.loseIndex()
      await life.open()
      await life.put(40, small)
      await compact(life)
      await life.close()
      life.loseIndex()
      await life.open()
    },
  },
]
