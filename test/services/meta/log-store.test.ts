/** The raft log on disk: what is verified at open, what is cut off, what is refused; hard-state slots. */

import { expect } from 'chai'
import { concatBytes, putU32, toHex } from '../../../src/base/bytes.ts'
import { crc32c } from '../../../src/base/crc32c.ts'
import { isStoreError, StoreError } from '../../../src/model/errors.ts'
import type { Files } from '../../../src/ports/files.ts'
import type { Kv, KvEntry, KvOperation, KvRange } from '../../../src/ports/kv.ts'
import { encodeConfig } from '../../../src/core/raft/messages.ts'
import { type ClusterConfig, type Entry, entryBytes } from '../../../src/core/raft/types.ts'
import { HardStateSlots } from '../../../src/services/meta/hard-state.ts'
import { encodeEntry, entryKey } from '../../../src/services/meta/log-format.ts'
import { LogStore } from '../../../src/services/meta/log-store.ts'

/** A store in memory whose content tests may damage. */
class MemoryKv implements Kv {
  readonly content = new Map<string, Uint8Array>()
  readonly batches: { sync: boolean; size: number }[] = []
  failure: Error | undefined

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    return this.getSync(key)
  }
  getSync(key: Uint8Array): Uint8Array | undefined {
    return this.content.get(toHex(key))?.slice()
  }
  async batch(operations: readonly KvOperation[], { sync }: { sync: boolean }): Promise<void> {
    if (this.failure !== undefined) throw this.failure
    this.batches.push({ sync, size: operations.length })
    for (const operation of operations) {
      if (operation.type === 'put') this.content.set(toHex(operation.key), operation.value.slice())
      else this.content.delete(toHex(operation.key))
    }
  }
  async *iterate(range: KvRange): AsyncIterable<KvEntry> {
    const low = range.gte === undefined ? '' : toHex(range.gte)
    const high = range.lt === undefined ? 'g' : toHex(range.lt)
    const keys = [...this.content.keys()].filter((key) => key >= low && key < high).sort()
    for (const key of keys.slice(0, range.limit ?? keys.length)) {
      yield { key: Uint8Array.from(Buffer.from(key, 'hex')), value: (this.content.get(key) as Uint8Array).slice() }
    }
  }
  snapshot(): never {
    throw new Error('not used')
  }
  async flush(): Promise<void> {}
  async close(): Promise<void> {}

  /** Damages one byte of an entry. */
  flip(index: number): void {
    const value = this.content.get(toHex(entryKey(index)))
    if (value === undefined) throw new Error('no such entry')
    value[12] = (value[12] as number) ^ 1
  }
  drop(index: number): void {
    this.content.delete(toHex(entryKey(index)))
  }
}

const config: ClusterConfig = {
  members: [{ id: 'a', incarnation: '0'.repeat(32), addresses: ['a:1'], role: 'voter' }],
  outgoing: [],
}
const first: Entry = { index: 1, term: 1, type: 'config', payload: encodeConfig(config) }

function entry(index: number, term: number, size = 20): Entry {
  return { index, term, type: 'command', payload: new Uint8Array(size).fill(index) }
}

async function opened(kv: MemoryKv, cacheBytes = 1 << 20): ReturnType<typeof LogStore.open> {
  return await LogStore.open(kv, cacheBytes)
}

/** A log with entries 1 to `last`, one batch each, so that the watermark is `last - 1`. */
async function logOf(last: number): Promise<{ kv: MemoryKv; store: LogStore }> {
  const kv = new MemoryKv()
  await LogStore.create(kv, config, first)
  const { store } = await opened(kv)
  for (let i = 2; i <= last; i++) await store.append(undefined, [entry(i, 1)], { term: 1, vote: 'a' }, i - 1)
  return { kv, store }
}

async function refusal(kv: MemoryKv): Promise<string> {
  try {
    await opened(kv)
  } catch (error) {
    if (isStoreError(error)) return error.code
    throw error
  }
  return 'opened'
}

describe('raft log store', () => {
  it('finds everything again: entries, terms, configuration, hard state, commit', async () => {
    const { kv, store } = await logOf(5)
    await store.append(undefined, [entry(6, 3), entry(7, 3)], { term: 3, vote: '' }, 5)
    const { recovered } = await opened(kv)
    expect(recovered).to.deep.include({ lastIndex: 7, commit: 5, cut: 0, installing: undefined })
    expect(recovered.hardState).to.deep.equal({ term: 3, vote: '' })
    expect(recovered.termRuns).to.deep.equal([
      { first: 1, term: 1 },
      { first: 6, term: 3 },
    ])
    expect(recovered.configs).to.deep.equal([{ index: 1, config }])
    expect(recovered.tail).to.have.length(7)
    expect(recovered.tail[6]).to.deep.equal(entry(7, 3))
  })

  it('gives back only as much tail as the cache may hold', async () => {
    const { kv } = await logOf(50)
    const { recovered } = await opened(kv, 400)
    expect(recovered.lastIndex).to.equal(50)
    expect(recovered.tail.length).to.be.within(2, 4)
    expect(recovered.tail.at(-1)?.index).to.equal(50)
  })

  it('scenario 78: every batch that appends is synced, and carries truncation and entries together', async () => {
    const { kv, store } = await logOf(8)
    kv.batches.length = 0
    await store.append(4, [entry(4, 2), entry(5, 2)], { term: 2, vote: '' }, 3)
    expect(kv.batches).to.have.length(1)
    expect(kv.batches[0]?.sync).to.equal(true)
    const { recovered } = await opened(kv)
    expect(recovered.lastIndex).to.equal(5)
    expect(recovered.tail.map((item) => item.term)).to.deep.equal([1, 1, 1, 2, 2])
  })

  it('scenario 75: cuts off a torn tail beyond the watermark, also when later entries are whole', async () => {
    const { kv, store } = await logOf(4)
    await store.append(undefined, [entry(5, 1), entry(6, 1), entry(7, 1)], undefined, 4)
    kv.flip(5)
    const { recovered } = await opened(kv)
    expect(recovered).to.include({ lastIndex: 4, cut: 3 })
    const again = await opened(kv)
    expect(again.recovered).to.include({ lastIndex: 4, cut: 0 })
  })

  it('scenario 73: refuses a log that lost entries at or below the watermark', async () => {
    const missing = await logOf(6)
    missing.kv.drop(6)
    missing.kv.drop(5)
    expect(await refusal(missing.kv)).to.equal('DATA_LOST')
    const damaged = await logOf(6)
    damaged.kv.flip(3)
    expect(await refusal(damaged.kv)).to.equal('DATA_LOST')
    const hole = await logOf(6)
    hole.kv.drop(4)
    expect(await refusal(hole.kv)).to.equal('DATA_LOST')
  })

  it('scenario 76: refuses when the watermark that was closed in idle time covers the lost last entry', async () => {
    const { kv, store } = await logOf(6)
    expect(store.watermarkBehind).to.equal(true)
    await store.closeWatermark(6)
    expect(store.watermarkBehind).to.equal(false)
    kv.drop(6)
    expect(await refusal(kv)).to.equal('DATA_LOST')
  })

  it('scenario 74: refuses a stale but whole entry where an overwrite was lost: the chain does not continue', async () => {
    const { kv, store } = await logOf(6)
    const stale = kv.getSync(entryKey(4)) as Uint8Array
    await store.append(4, [entry(4, 2, 30)], { term: 2, vote: '' }, 3)
    await store.append(undefined, [entry(5, 2)], undefined, 3)
    await store.closeWatermark(3)
    kv.content.set(toHex(entryKey(4)), stale)
    expect(await refusal(kv)).to.equal('DATA_LOST')
  })

  it('a truncation lowers the watermark, so that a crash right after it is no loss', async () => {
    const { kv, store } = await logOf(8)
    await store.append(5, [entry(5, 2)], { term: 2, vote: '' }, 4)
    kv.drop(5)
    const { recovered } = await opened(kv)
    expect(recovered.lastIndex).to.equal(4)
  })

  it('refuses damaged records beside the entries', async () => {
    const { kv } = await logOf(3)
    for (const [key, value] of kv.content) {
      if (key.startsWith('65')) continue
      value[value.length - 1] = (value[value.length - 1] as number) ^ 1
      expect(await refusal(kv)).to.equal('CORRUPT')
      value[value.length - 1] = (value[value.length - 1] as number) ^ 1
    }
    expect(await refusal(kv)).to.equal('opened')
  })

  it('reads a bounded batch from the middle, at least one entry, and refuses rot', async () => {
    const { kv, store } = await logOf(20)
    expect((await store.read(5, 9, 1 << 20)).map((item) => item.index)).to.deep.equal([5, 6, 7, 8, 9])
    expect(await store.read(5, 20, 1)).to.have.length(1)
    kv.flip(6)
    const error = await store.read(5, 9, 1 << 20).catch((thrown: unknown) => thrown)
    expect(isStoreError(error) && error.code).to.equal('CORRUPT')
  })

  it('compacts a prefix: the base moves first, the rest is verified from there', async () => {
    const { kv, store } = await logOf(30)
    await store.compact(20, 1, { index: 1, config })
    expect(store.baseIndex).to.equal(20)
    expect(kv.content.size).to.equal(10 + 2)
    await store.append(undefined, [entry(31, 2)], { term: 2, vote: '' }, 30)
    const { recovered } = await opened(kv)
    expect(recovered.base).to.deep.equal({ index: 20, term: 1, config: { index: 1, config } })
    expect(recovered.lastIndex).to.equal(31)
    expect(recovered.configs).to.deep.equal([])
  })

  it('a compaction that did not finish is finished at the next open', async () => {
    const { kv, store } = await logOf(30)
    const old = new Map([...kv.content].filter(([key]) => key.startsWith('65')))
    await store.compact(20, 1, { index: 1, config })
    for (const [key, value] of old) kv.content.set(key, value)
    const { recovered } = await opened(kv)
    expect(recovered.tail[0]?.index).to.equal(21)
    expect(kv.content.size).to.equal(10 + 2)
  })

  it('an install replaces the log, or keeps what continues it', async () => {
    const replaced = await logOf(10)
    const mark = { index: 50, term: 3, config: { index: 1, config } }
    await replaced.store.beginInstall(mark)
    expect((await opened(replaced.kv)).recovered.installing).to.deep.equal(mark)
    await replaced.store.finishInstall(mark, false)
    const after = await opened(replaced.kv)
    expect(after.recovered).to.deep.include({ base: mark, lastIndex: 50, installing: undefined })
    await after.store.append(undefined, [entry(51, 3)], { term: 3, vote: '' }, 50)
    expect((await opened(replaced.kv)).recovered.lastIndex).to.equal(51)
    const kept = await logOf(10)
    await kept.store.finishInstall({ index: 7, term: 1, config: { index: 1, config } }, true)
    const { recovered } = await opened(kept.kv)
    expect(recovered.base.index).to.equal(7)
    expect(recovered.lastIndex).to.equal(10)
  })

  it('scenario 69: after a failed write nothing is written any more', async () => {
    const { kv, store } = await logOf(3)
    kv.failure = new Error('EIO')
    const failed = await store.append(undefined, [entry(4, 1)], undefined, 3).catch((error: unknown) => error)
    expect(isStoreError(failed) && failed.code).to.equal('IO')
    kv.failure = undefined
    const later = await store.append(undefined, [entry(4, 1)], undefined, 3).catch((error: unknown) => error)
    expect(later).to.equal(failed)
    expect((await opened(kv)).recovered.lastIndex).to.equal(3)
  })

  it('scenario 80: a full disk in the middle of an append after a truncation is fatal, and says what to do', async () => {
    const { kv, store } = await logOf(8)
    kv.failure = new StoreError('NO_SPACE', 'write store raft-log: No space left on device')
    const failed = await store.append(5, [entry(5, 2)], { term: 2, vote: '' }, 4).catch((error: unknown) => error)
    expect(isStoreError(failed) && failed.code).to.equal('NO_SPACE')
    expect(isStoreError(failed) && failed.message).to.contain('free some space and start the node again')
    kv.failure = undefined
    // Whatever of the batch is on disk, a start finds one log or the other, never a mixture.
    expect((await opened(kv)).recovered.lastIndex).to.equal(8)
  })

  it('an empty log is a log: it takes entry 1 from a leader', async () => {
    const kv = new MemoryKv()
    await LogStore.create(kv, config)
    const { store, recovered } = await opened(kv)
    expect(recovered).to.deep.include({ lastIndex: 0, commit: 0, hardState: { term: 0, vote: '' } })
    expect(recovered.base.config).to.deep.equal({ index: 0, config })
    await store.append(undefined, [first, entry(2, 4)], { term: 4, vote: '' }, 1)
    const again = await opened(kv)
    expect(again.recovered.configs).to.deep.equal([{ index: 1, config }])
    expect(again.recovered.lastIndex).to.equal(2)
  })

  it('counts the bytes of what it holds, through appends, truncation, compaction and installs', async () => {
    const { store } = await logOf(10)
    const one = entryBytes(entry(5, 1))
    const before = store.bytes
    await store.append(undefined, [entry(11, 1), entry(12, 1)], undefined, 10)
    expect(store.bytes).to.equal(before + 2 * one)
    await store.append(9, [entry(9, 2)], { term: 2, vote: '' }, 8)
    expect(store.bytes).to.equal(before - one)
    await store.compact(5, 1, { index: 1, config })
    expect(store.bytes).to.equal(4 * one)
    const mark = { index: 40, term: 2, config: { index: 1, config } }
    await store.beginInstall(mark)
    await store.finishInstall(mark, false)
    expect(store.bytes).to.equal(0)
    expect(store.lastIndex).to.equal(40)
  })

  it('an entry has the documented bytes', () => {
    const { value, chain } = encodeEntry({ index: 258, term: 3, type: 'command', payload: Uint8Array.of(9, 8) }, 7)
    const head = '0101' + '0000000000000102' + '0000000000000003' + '00000007' + '00000002' + '0908'
    const body = Uint8Array.from(Buffer.from(head, 'hex'))
    const sum = new Uint8Array(4)
    putU32(sum, 0, crc32c(body))
    expect(toHex(value)).to.equal(toHex(concatBytes([body, sum])))
    expect(chain).to.equal(crc32c(body))
  })
})

describe('raft hard state', () => {
  const owner = { clusterId: '1'.repeat(32), incarnation: '2'.repeat(32), clusterIncarnation: 1 }

  function memoryFiles(): { files: Files; content: Map<string, Uint8Array> } {
    const content = new Map<string, Uint8Array>()
    const put = async (name: string, bytes: Uint8Array): Promise<void> => {
      content.set(name, bytes.slice())
    }
    const files: Files = {
      read: async (name) => content.get(name)?.slice(),
      write: put,
      overwrite: put,
      remove: async (name) => {
        content.delete(name)
      },
      list: async () => [...content.keys()],
      freeBytes: async () => 1024 ** 4,
    }
    return { files, content }
  }

  it('keeps the newest of two slots of one sector each', async () => {
    const { files, content } = memoryFiles()
    const slots = await HardStateSlots.open(files, owner)
    expect(slots.value).to.equal(undefined)
    for (let term = 1; term <= 5; term++) await slots.save({ term, vote: `node-${term}` })
    expect([...content.values()].map((slot) => slot.length)).to.deep.equal([512, 512])
    expect((await HardStateSlots.open(files, owner)).value).to.deep.equal({ term: 5, vote: 'node-5' })
  })

  it('a torn slot leaves the one before; two damaged slots are refused', async () => {
    const { files, content } = memoryFiles()
    const slots = await HardStateSlots.open(files, owner)
    await slots.save({ term: 1, vote: '' })
    await slots.save({ term: 2, vote: 'a' })
    const newest = content.get('raft-hard-0') as Uint8Array
    newest[20] = (newest[20] as number) ^ 1
    expect((await HardStateSlots.open(files, owner)).value).to.deep.equal({ term: 1, vote: '' })
    const oldest = content.get('raft-hard-1') as Uint8Array
    oldest[20] = (oldest[20] as number) ^ 1
    const error = await HardStateSlots.open(files, owner).catch((thrown: unknown) => thrown)
    expect(isStoreError(error) && error.code).to.equal('CORRUPT')
  })

  it('slots of another cluster or another life of the directory are refused', async () => {
    const { files } = memoryFiles()
    await (await HardStateSlots.open(files, owner)).save({ term: 1, vote: '' })
    const later = { ...owner, clusterIncarnation: 2 }
    for (const other of [{ ...owner, clusterId: '3'.repeat(32) }, { ...owner, incarnation: '3'.repeat(32) }, later]) {
      const error = await HardStateSlots.open(files, other).catch((thrown: unknown) => thrown)
      expect(isStoreError(error) && error.code).to.equal('WRONG_CLUSTER')
    }
    // A recovery takes them over; from then on the older incarnation is refused.
    const recovering = await HardStateSlots.open(files, later, true)
    expect(recovering.value).to.deep.equal({ term: 1, vote: '' })
    await recovering.save({ term: 2, vote: '' })
    expect((await HardStateSlots.open(files, later)).value).to.deep.equal({ term: 2, vote: '' })
    const old = await HardStateSlots.open(files, owner).catch((thrown: unknown) => thrown)
    expect(isStoreError(old) && old.code).to.equal('WRONG_CLUSTER')
  })

  it('a slot of the first incarnation has the bytes that version 1 reads', async () => {
    const { files, content } = memoryFiles()
    await (await HardStateSlots.open(files, owner)).save({ term: 5, vote: 'm1' })
    const slot = content.get('raft-hard-1') as Uint8Array
    const record = `01${'01'}${'05'}${'02' + '6d31'}${'1'.repeat(32)}${'2'.repeat(32)}`
    expect(toHex(slot.slice(0, 4))).to.equal('0000002a')
    expect(toHex(slot.slice(4, 4 + 38))).to.equal(record)
  })
})
