/** The raft log in segment files: what is verified at open, what is cut off, what is refused; space; the move from LevelDB. */

import { expect } from 'chai'
import { fromHex, toHex } from '../../../src/base/bytes.ts'
import { crc32c } from '../../../src/base/crc32c.ts'
import { encode } from '../../../src/base/schema.ts'
import { encodeConfig } from '../../../src/core/raft/messages.ts'
import { type ClusterConfig, type Entry, entryBytes } from '../../../src/core/raft/types.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../../../src/ports/extents.ts'
import { SegmentLog } from '../../../src/services/meta/log-disk.ts'
import {
  putFrameHeader,
  putSegmentHeader,
  readFrameHeader,
  readSegmentHeader,
  sectorBytes,
  segmentHeaderBytes,
  stateRecord,
} from '../../../src/services/meta/log-frames.ts'
import { Segments } from '../../../src/services/meta/log-segments.ts'
import type { RecoveredLog } from '../../../src/services/meta/log-types.ts'
import { MemoryExtents } from '../../support/memory-extents.ts'

const config: ClusterConfig = {
  members: [{ id: 'a', incarnation: '0'.repeat(32), addresses: ['a:1'], role: 'voter' }],
  outgoing: [],
}
const first: Entry = { index: 1, term: 1, type: 'config', payload: encodeConfig(config) }
const sizes = { first: 64 * 1024, max: 64 * 1024 }

function entry(index: number, term: number, size = 20): Entry {
  return { index, term, type: 'command', payload: new Uint8Array(size).fill(index) }
}

let drawn = 0
const entropy = {
  unit: () => 0.5,
  bytes: (length: number) => new Uint8Array(length).fill(++drawn),
}

async function opened(
  files: ExtentFiles,
  cacheBytes = 1 << 20,
): Promise<{ store: SegmentLog; recovered: RecoveredLog }> {
  return await SegmentLog.open(new Segments(files, entropy, sizes), cacheBytes, () => Promise.resolve())
}

async function reopened(files: ExtentFiles): Promise<RecoveredLog> {
  const { store, recovered } = await opened(files)
  await store.closeFiles()
  return recovered
}

/** A log with entries 1 to `last`, one write each, so that the watermark is `last - 1`. */
async function logOf(last: number, files = new MemoryExtents()): Promise<{ files: MemoryExtents; store: SegmentLog }> {
  const base = { index: 0, term: 0, config: { index: 0, config } }
  const start = { base, baseChain: 0, hard: { term: 1, vote: '' }, commit: 0 }
  const made = await SegmentLog.create(new Segments(files, entropy, sizes), start)
  await made.append(undefined, [first], undefined, 1)
  await made.closeFiles()
  const { store } = await opened(files)
  for (let i = 2; i <= last; i++) await store.append(undefined, [entry(i, 1)], { term: 1, vote: 'a' }, i - 1)
  return { files, store }
}

async function refusal(files: ExtentFiles): Promise<string> {
  try {
    await opened(files)
  } catch (error) {
    if (isStoreError(error)) return error.code
    throw error
  }
  return 'opened'
}

/** Offset of the frame that ends with entry `index`, in the first segment. */
function frameOf(files: MemoryExtents, index: number, kind = 'entries'): number {
  const bytes = files.files.get(1)?.current as Uint8Array
  const seed = readSegmentHeader(bytes, 1) as number
  for (let at = segmentHeaderBytes; at < bytes.length; at += sectorBytes) {
    const frame = readFrameHeader(bytes, at, seed)
    if (frame?.kind === kind && frame.last === index) return at
  }
  throw new Error(`no frame of entry ${index}`)
}

/** A copy of the files, with the bytes of the first one changed. */
async function changed(
  files: MemoryExtents,
  change: (bytes: Uint8Array) => void = () => undefined,
): Promise<MemoryExtents> {
  const copy = new MemoryExtents()
  for (const [number, { current }] of files.files) {
    await copy.create(number, current.length)
    const blocks = copy.files.get(number)
    blocks?.current.set(current)
    if (number === 1 && blocks !== undefined) change(blocks.current)
    blocks?.durable.set(blocks.current)
  }
  return copy
}

describe('raft log in segments', () => {
  it('finds everything again: entries, terms, configuration, hard state, commit', async () => {
    const { files, store } = await logOf(5)
    await store.append(undefined, [entry(6, 3), entry(7, 3)], { term: 3, vote: '' }, 5)
    const recovered = await reopened(files)
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

  it('gives back only as much tail as the cache may hold, and reads the rest from the files', async () => {
    const { files, store } = await logOf(120)
    await store.closeFiles()
    const again = await opened(files, 5 * entryBytes(entry(1, 1)))
    expect(again.recovered.tail.map((item) => item.index)).to.deep.equal([116, 117, 118, 119, 120])
    const all = await again.store.read(1, 120, Number.POSITIVE_INFINITY)
    expect(all.map((item) => item.index)).to.deep.equal(Array.from({ length: 120 }, (_, i) => i + 1))
    expect(await again.store.read(5, 120, 1)).to.have.length(1)
    expect((await again.store.read(40, 120, 3 * entryBytes(entry(1, 1)))).map((item) => item.index)).to.deep.equal([
      40, 41, 42,
    ])
  })

  it('a truncation and what replaces the tail are one frame; later frames follow it', async () => {
    const { files, store } = await logOf(8)
    await store.append(4, [entry(4, 2), entry(5, 2)], { term: 2, vote: '' }, 3)
    await store.append(undefined, [entry(6, 2)], undefined, 4)
    await store.append(6, [], { term: 3, vote: '' }, 4)
    const recovered = await reopened(files)
    expect(recovered.tail.map((item) => item.term)).to.deep.equal([1, 1, 1, 2, 2])
    expect(recovered.hardState.term).to.equal(3)
  })

  it('a torn frame beyond the watermark is cut off whole, is never seen again, and later ones are no proof against it', async () => {
    const { files, store } = await logOf(4)
    await store.append(undefined, [entry(5, 1), entry(6, 1), entry(7, 1)], undefined, 4)
    const torn = await changed(files, (bytes) => {
      bytes[frameOf(files, 7) + 200] = 0xff
    })
    const { store: cut, recovered } = await opened(torn)
    expect(recovered).to.include({ lastIndex: 4, cut: 3 })
    const bytes = torn.files.get(1)?.current as Uint8Array
    expect(readFrameHeader(bytes, frameOf(files, 7), readSegmentHeader(bytes, 1) as number)).to.equal(undefined)
    await cut.append(undefined, [entry(5, 1)], undefined, 4)
    await cut.closeFiles()
    expect(await reopened(torn)).to.include({ lastIndex: 5, cut: 0 })
  })

  it('what a roll that was torn left in the next segment is never seen again', async () => {
    const { files, store } = await logOf(9)
    const begun = (): boolean => {
      const bytes = files.files.get(2)?.current
      const seed = bytes === undefined ? undefined : readSegmentHeader(bytes, 2)
      return seed !== undefined && readFrameHeader(bytes as Uint8Array, segmentHeaderBytes, seed) !== undefined
    }
    let last = 9
    while (!begun()) await store.append(undefined, [entry(++last, 1)], undefined, 4)
    await store.closeFiles()
    const next = files.files.get(2)
    // The frame with the entry is there, the one that the segment begins with is not.
    for (const side of [next?.current, next?.durable])
      side?.fill(0, segmentHeaderBytes, segmentHeaderBytes + sectorBytes)
    const { store: cut, recovered } = await opened(files)
    expect(recovered).to.include({ lastIndex: last - 1, cut: 1 })
    for (let index = last; index <= 40; index++) await cut.append(undefined, [entry(index, 2)], undefined, 4)
    await cut.closeFiles()
    const recovered2 = await reopened(files)
    expect(recovered2.lastIndex).to.equal(40)
    expect(recovered2.tail.at(-1)?.term).to.equal(2)
  })

  it('refuses every byte that rots at or below the watermark, and starts with the same log when it is of no matter', async () => {
    const { files, store } = await logOf(6)
    await store.note({ term: 2, vote: 'a' }, 5, true)
    await store.closeWatermark(5)
    await store.closeFiles()
    const whole = await reopened(files)
    const used = frameOf(files, 6, 'note') + sectorBytes
    const third = frameOf(files, 3)
    const kept = await changed(files)
    const outcomes = { refused: 0, same: 0 }
    for (let at = 0; at < used; at += 1) {
      // Every byte of one frame of each kind and of the segment's header; of the others, and of the zeros behind, some.
      const inSector = at % sectorBytes
      const sector = at - inSector
      const chosen = [0, segmentHeaderBytes, third, used - 2 * sectorBytes].includes(sector)
      if (inSector > 150 ? at % 1997 !== 0 : !chosen && at % 41 !== 0) continue
      files.flip(1, at)
      const code = await refusal(files)
      if (code !== 'opened') files.flip(1, at)
      if (code === 'opened') {
        // A start changes what is there: the next byte rots in the files as they were.
        const recovered = await reopened(files)
        for (const [number, { current, durable }] of kept.files) {
          files.files.get(number)?.current.set(current)
          files.files.get(number)?.durable.set(durable)
        }
        expect({ ...recovered, cut: 0 }, `byte ${at}`).to.deep.equal({ ...whole, cut: 0 })
        outcomes.same++
      } else {
        expect(code, `byte ${at}`).to.be.oneOf(['DATA_LOST', 'CORRUPT'])
        outcomes.refused++
      }
    }
    expect(outcomes.refused).to.be.above(300)
    expect(outcomes.same).to.be.above(30)
  })

  it('refuses when the watermark that was closed in idle time covers the lost last entry', async () => {
    const { files, store } = await logOf(6)
    expect(store.watermarkBehind).to.equal(true)
    const lost = (bytes: Uint8Array): void => {
      bytes.fill(0, frameOf(files, 6), frameOf(files, 6) + sectorBytes)
    }
    expect(await refusal(await changed(files, lost))).to.equal('opened')
    await store.closeWatermark(6)
    expect(store.watermarkBehind).to.equal(false)
    expect(await refusal(await changed(files, lost))).to.equal('DATA_LOST')
  })

  it('refuses a log whose middle or first segment is gone', async () => {
    const { files, store } = await logOf(60)
    await store.closeFiles()
    expect(files.files.size).to.be.above(4)
    for (const number of [1, 2, 3]) {
      const copy = await changed(files)
      copy.files.delete(number)
      expect(await refusal(copy), `segment ${number}`).to.equal('DATA_LOST')
    }
    const headless = await changed(files)
    for (const side of ['current', 'durable'] as const) headless.files.get(1)?.[side].fill(0, 0, segmentHeaderBytes)
    expect(await refusal(headless)).to.equal('CORRUPT')
  })

  it('refuses rot when it reads old entries', async () => {
    const { files, store } = await logOf(20)
    files.flip(1, frameOf(files, 6) + 130)
    const error = await store.read(5, 9, 1 << 20).catch((thrown: unknown) => thrown)
    expect(isStoreError(error) && error.code).to.equal('CORRUPT')
  })

  it('compacts: old segments become later ones, with a new nonce, and nothing old in them is believed', async () => {
    const { files, store } = await logOf(2)
    let most = 0
    const seeds = new Set<number>()
    for (let i = 3; i <= 400; i++) {
      await store.append(undefined, [entry(i, 1)], undefined, i - 1)
      if (i % 20 === 0) await store.compact(i - 5, 1, { index: 1, config })
      most = Math.max(most, files.files.size)
      for (const [number, { current }] of files.files) seeds.add(readSegmentHeader(current, number) ?? 0)
    }
    expect(most).to.be.below(10)
    expect(seeds.size).to.be.above(25)
    await store.closeFiles()
    const recovered = await reopened(files)
    expect(recovered.base).to.deep.equal({ index: 395, term: 1, config: { index: 1, config } })
    expect(recovered).to.include({ lastIndex: 400, cut: 0 })
    expect(recovered.configs).to.deep.equal([])
    expect(recovered.tail.map((item) => item.index)).to.deep.equal([396, 397, 398, 399, 400])
  })

  it('an entry larger than a segment gets one of its size', async () => {
    const { files, store } = await logOf(2)
    const large = entry(3, 1, 300_000)
    await store.append(undefined, [large, entry(4, 1), entry(5, 1, 1_100_000), entry(6, 1)], undefined, 2)
    expect((await store.read(3, 3, 1))[0]).to.deep.equal(large)
    await store.closeFiles()
    const recovered = await reopened(files)
    expect(recovered.lastIndex).to.equal(6)
  })

  it('an install replaces the log, or keeps what continues it', async () => {
    const replaced = await logOf(10)
    const mark = { index: 50, term: 3, config: { index: 1, config } }
    await replaced.store.beginInstall(mark)
    expect((await reopened(await changed(replaced.files))).installing).to.deep.equal(mark)
    await replaced.store.finishInstall(mark, false)
    await replaced.store.append(undefined, [entry(51, 3)], { term: 3, vote: '' }, 50)
    await replaced.store.closeFiles()
    const after = await reopened(replaced.files)
    expect(after).to.deep.include({ base: mark, lastIndex: 51, installing: undefined })
    const kept = await logOf(10)
    await kept.store.finishInstall({ index: 7, term: 1, config: { index: 1, config } }, true)
    await kept.store.closeFiles()
    const recovered = await reopened(kept.files)
    expect(recovered.base.index).to.equal(7)
    expect(recovered.tail.map((item) => item.index)).to.deep.equal([8, 9, 10])
    const given = await logOf(10)
    await given.store.beginInstall(mark)
    await given.store.cancelInstall()
    await given.store.closeFiles()
    expect(await reopened(given.files)).to.deep.include({ lastIndex: 10, installing: undefined })
  })

  it('scenario 69: after a failed write or sync nothing is written any more', async () => {
    for (const fault of ['failWrite', 'failSync'] as const) {
      const { files, store } = await logOf(3)
      files.faults[fault] = true
      const failed = await store.append(undefined, [entry(4, 1)], undefined, 3).catch((error: unknown) => error)
      expect(isStoreError(failed) && failed.code).to.equal('IO')
      files.faults[fault] = false
      const later = await store.append(undefined, [entry(4, 1)], undefined, 3).catch((error: unknown) => error)
      expect(later).to.equal(failed)
    }
  })

  it('scenario 80: a full disk stops appends only when prepared space is used up, is fatal then, and says what to do', async () => {
    const { files, store } = await logOf(3)
    await store.closeFiles()
    const { store: again } = await opened(files)
    await again.append(undefined, [entry(4, 1)], undefined, 3)
    files.othersBytes = files.capacityBytes
    let failed: unknown
    let last = 4
    while (failed === undefined && last < 200) {
      await again.append(undefined, [entry(last + 1, 1)], undefined, 3).then(
        () => last++,
        (error: unknown) => (failed = error),
      )
    }
    expect(isStoreError(failed) && failed.code).to.equal('NO_SPACE')
    expect(isStoreError(failed) && failed.message).to.contain('free some space and start the node again')
    expect(last).to.be.above(10)
    await again.closeFiles()
    files.othersBytes = 0
    expect((await reopened(files)).lastIndex).to.equal(last)
  })

  it('a segment that is being read is not given back before', async () => {
    const files = new MemoryExtents()
    const reads = { held: Promise.resolve() }
    const slow: ExtentFiles = Object.assign(Object.create(files) as MemoryExtents, {
      open: async (number: number): Promise<ExtentFile> => {
        const file = await files.open(number)
        const read: ExtentFile['read'] = async (into, offset) => {
          await reads.held
          return await file.read(into, offset)
        }
        return { ...file, read }
      },
    })
    const { store: made } = await logOf(60, files)
    await made.closeFiles()
    const { store } = await opened(slow)
    let go = (): void => undefined
    reads.held = new Promise((resolve) => {
      go = resolve
    })
    const reading = store.read(2, 5, 1 << 20)
    const compacted = store.compact(55, 1, { index: 1, config })
    await store.append(undefined, [entry(61, 1)], undefined, 60)
    expect(files.files.has(1), 'the segment is still there').to.equal(true)
    go()
    expect((await reading).map((item) => item.index)).to.deep.equal([2, 3, 4, 5])
    await compacted
    expect(files.files.has(1)).to.equal(false)
    expect(await store.read(2, 5, 1 << 20)).to.deep.equal([])
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
})

describe('raft log frames', () => {
  it('have the documented bytes', () => {
    const header = new Uint8Array(segmentHeaderBytes)
    const nonce = fromHex('000102030405060708090a0b0c0d0e0f') as Uint8Array
    putSegmentHeader(header, 7, nonce)
    const fields = '4846727301000000' + '0000000000000007' + toHex(nonce)
    const sum = crc32c(fromHex(fields) as Uint8Array)
      .toString(16)
      .padStart(8, '0')
    for (const at of [0, sectorBytes]) expect(toHex(header.subarray(at, at + 36))).to.equal(fields + sum)
    const seed = crc32c(fromHex(`0000000000000007${toHex(nonce)}`) as Uint8Array)
    expect(readSegmentHeader(header, 7)).to.equal(seed)
    expect(readSegmentHeader(header, 8)).to.equal(undefined)
    const out = new Uint8Array(3 * sectorBytes).fill(0xee)
    const frame = {
      kind: 'entries' as const,
      sequence: 9,
      synced: 8,
      previous: 0x11223344,
      hard: { term: 5, vote: 'm1' },
      commit: 257,
      watermark: 258,
      first: 259,
      last: 260,
      count: 2,
      length: 5,
      sum: 0xa1b2c3d4,
    }
    const chain = putFrameHeader(out, sectorBytes, frame, seed, 2 * sectorBytes)
    const bytes =
      '48467266' +
      '01010200' +
      '0000000000000009' +
      '0000000000000008' +
      '11223344' +
      '00002000' +
      '0000000000000005' +
      '0000000000000101' +
      '0000000000000102' +
      '0000000000000103' +
      '0000000000000104' +
      '00000002' +
      '00000005' +
      'a1b2c3d4' +
      '6d31'
    expect(chain).to.equal(crc32c(fromHex(bytes) as Uint8Array, seed))
    expect(toHex(out.subarray(sectorBytes, sectorBytes + 90))).to.equal(bytes + chain.toString(16).padStart(8, '0'))
    // The body is left alone; what follows it in its sector is zero; nothing else is touched.
    expect(toHex(out.subarray(sectorBytes + 90, sectorBytes + 96))).to.equal('eeeeeeeeee00')
    expect(out[2 * sectorBytes - 1]).to.equal(0)
    expect(out[2 * sectorBytes]).to.equal(0xee)
    const read = readFrameHeader(out.subarray(sectorBytes), 0, seed, 2 * sectorBytes)
    expect(read).to.deep.include({ ...frame, body: 90, end: sectorBytes, chain })
  })

  it('a state has the documented bytes', () => {
    const one = { index: 3, term: 2, configIndex: 1, config: { members: [], outgoing: [] } }
    const state = { base: { ...one, chain: 300 }, lastChain: 5, installs: true, install: { ...one, index: 9 } }
    expect(toHex(encode(stateRecord, state))).to.equal('0302ac020100' + '05' + '01' + '09020100')
  })
})
