/**
 * What a disk remembers of its index is what the index has, however reads and changes overlap: driven against a store
 * whose calls take effect and return in any order that the port allows.
 */

import { expect } from 'chai'
import type { IndexChange } from '../../../../src/core/chunk/index-record.ts'
import { encodeChunkRecord } from '../../../../src/core/chunk/index-record.ts'
import { indexKeys } from '../../../../src/core/chunk/keyspace.ts'
import type { Sum } from '../../../../src/core/chunk/sums.ts'
import type { Kv, KvEntry, KvOperation, KvRange } from '../../../../src/ports/kv.ts'
import { ChunkIndex } from '../../../../src/services/storage/engine/chunk-index.ts'
import { seeded, testHasher } from '../../../support/disk-world.ts'

const sum: Sum = (bytes, out, at) => testHasher.sumInto(bytes, out, at)
const hex = (key: Uint8Array): string => Buffer.from(key).toString('hex')

/** A store whose calls wait, take effect at a drawn moment, and return at a later one. */
class SlowKv implements Kv {
  readonly content = new Map<string, KvEntry>()
  gets = 0
  readonly #steps: (() => void)[] = []

  /** Lets one waiting step happen; false when there is none. */
  step(chance: number): boolean {
    const [step] = this.#steps.splice(Math.floor(chance * this.#steps.length), 1)
    step?.()
    return step !== undefined
  }

  #call<T>(effect: () => T): Promise<T> {
    return new Promise((resolve) => {
      this.#steps.push(() => {
        const result = effect()
        this.#steps.push(() => resolve(result))
      })
    })
  }

  get(key: Uint8Array): Promise<Uint8Array | undefined> {
    this.gets++
    return this.#call(() => this.content.get(hex(key))?.value)
  }

  batch(operations: readonly KvOperation[]): Promise<void> {
    return this.#call(() => {
      for (const operation of operations) {
        if (operation.type === 'put') this.content.set(hex(operation.key), operation)
        else this.content.delete(hex(operation.key))
      }
    })
  }

  async *iterate(range: KvRange): AsyncIterable<KvEntry> {
    const found = await this.#call(() => {
      const keys = [...this.content.keys()].sort().filter((key) => {
        return key >= hex(range.gte ?? new Uint8Array(0)) && (range.lt === undefined || key < hex(range.lt))
      })
      if (range.reverse === true) keys.reverse()
      return keys.slice(0, range.limit).map((key) => this.content.get(key) as KvEntry)
    })
    yield* found
  }

  getSync(): undefined {
    throw new Error('not used by a disk')
  }

  snapshot(): never {
    throw new Error('not used by a disk')
  }

  flush(): Promise<void> {
    return Promise.resolve()
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}

/** A record that says in its length which version of the id it is. */
function putOf(id: number, version: number): IndexChange {
  const location = { extent: 1, group: 0, record: 0, payload: 4096 * version, span: 4096 }
  const record = {
    length: version,
    lease: 0,
    root: new Uint8Array(8),
    blockSums: new Uint8Array(8),
    location,
    inline: undefined,
  }
  return { type: 'put', key: indexKeys.chunk(id), value: encodeChunkRecord(id, record, sum) }
}

describe('what a disk remembers of its index', () => {
  it('is what the index has, in 300 random interleavings', async () => {
    let remembered = 0
    for (let seed = 1; seed <= 300; seed++) {
      const chance = seeded(seed)
      const kv = new SlowKv()
      const index = new ChunkIndex(kv, sum)
      const truth = new Map<number, number>()
      let writing = false
      let version = 0
      let reads = 0
      const work: Promise<unknown>[] = []
      for (let round = 0; round < 60; round++) {
        const id = 1 + Math.floor(chance() * 4)
        if (chance() < 0.4 && !writing) {
          writing = true
          const gone = chance() < 0.4
          const change: IndexChange = gone ? { type: 'del', key: indexKeys.chunk(id) } : putOf(id, ++version)
          const wrote = version
          work.push(
            index.apply([change]).then(() => {
              writing = false
              if (gone) truth.delete(id)
              else truth.set(id, wrote)
            }),
          )
        } else {
          reads++
          work.push(index.get(id))
        }
        while (chance() < 0.6 && kv.step(chance())) await Promise.resolve()
        await new Promise((resolve) => setImmediate(resolve))
      }
      let done = false
      const all = Promise.all(work).then(() => {
        done = true
      })
      while (!done) {
        kv.step(chance())
        await new Promise((resolve) => setImmediate(resolve))
      }
      await all
      remembered += reads - kv.gets
      for (const id of [1, 2, 3, 4, 5]) {
        const answer = index.get(id)
        while (kv.step(0)) await new Promise((resolve) => setImmediate(resolve))
        const held = await answer
        const found = held.kind === 'held' ? held.record.length : undefined
        expect(found, `seed ${seed}: id ${id}`).to.equal(truth.get(id))
      }
    }
    expect(remembered, 'looks that were saved').to.be.above(1000)
  })
})
