/**
 * Golden bytes: what version 1 of every on-disk format of a storage node looks like, as literal bytes. A disk that was
 * written by any Holdfast of disk format 1 reads like this for ever; a change that breaks a line here needs a new version.
 */

import { expect } from 'chai'
import { readFile } from 'node:fs/promises'
import { fromHex, toHex, utf8 } from '../../../src/base/bytes.ts'
import { decodeExtentHeader, encodeExtentHeader, newerExtentVersion } from '../../../src/core/chunk/extent-header.ts'
import { decodeGroupHeader, encodeGroupHeader, frameSeed, type GroupHeader } from '../../../src/core/chunk/group.ts'
import { decodeIdentity, type DiskIdentity, encodeIdentity } from '../../../src/core/chunk/identity.ts'
import {
  decodeCheckpoint,
  decodeChunkRecord,
  decodeExtentRecord,
  decodeQuarantine,
  encodeCheckpoint,
  encodeChunkRecord,
  encodeExtentRecord,
  indexChanges,
} from '../../../src/core/chunk/index-record.ts'
import { indexKeys } from '../../../src/core/chunk/keyspace.ts'
import { encodeRecord, frameBytes, type LogRecord, readFrame, writeFrame } from '../../../src/core/chunk/record.ts'
import { blockSumsOf, chunkRoot, type Sum, sumOf } from '../../../src/core/chunk/sums.ts'
import type { KvFactory } from '../../../src/ports/kv.ts'
import { openDisk } from '../../../src/services/storage/engine/disk.ts'
import { content, DiskWorld, get, testHasher } from '../../support/disk-world.ts'

const sum: Sum = (bytes, out, at) => testHasher.sumInto(bytes, out, at)

function bytesOf(hex: string): Uint8Array {
  const bytes = fromHex(hex.replaceAll(/\s/g, ''))
  if (bytes === undefined) throw new Error(`not hex: ${hex}`)
  return bytes
}

const nonce = bytesOf('000102030405060708090a0b0c0d0e0f')
const abc = utf8('abc')
const abcSums = blockSumsOf(sum, abc)
const abcRoot = chunkRoot(sum, 3, abcSums)
const location = { extent: 6, group: 12_288, record: 96, payload: 12_417, span: 41 }

const extentHeader = bytesOf(
  '4846455854454e54 00000001 00000000 0000000000000007 0000000010000000 f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff' +
    '000102030405060708090a0b0c0d0e0f 1bc95aae5565bcdb',
)

const groupHeader = bytesOf(
  '48464752 00000001 0000000000000007 0000000000002000 0000000000000007 0000000000001000 cccccccccccccccc' +
    'aaaaaaaaaaaaaaaa 0000012c 00000003 0000000000000000 0000000000000006 0000000000100000 b37d093ecfd78f8f',
)
const groupFields: GroupHeader = {
  extent: 7,
  offset: 8192,
  watermark: { extent: 7, offset: 4096 },
  chain: new Uint8Array(8).fill(0xcc),
  salt: new Uint8Array(8).fill(0xaa),
  framesBytes: 300,
  frameCount: 3,
  payloadBytes: 0,
  before: { extent: 6, offset: 1_048_576 },
}

const frames: readonly { record: LogRecord; inline: Uint8Array; bytes: string }[] = [
  {
    record: {
      kind: 'put',
      id: 300,
      length: 3,
      lease: 5,
      root: abcRoot,
      blockSums: abcSums,
      frees: [{ extent: 6, payload: 20_480, span: 69_632, held: true }],
    },
    inline: abc,
    bytes:
      '0000001f 00000003 360449012dc8e6b5 01 ac02 03 05 788ced9ca3b8a943 08 990977adf52cbc44 01 06 80a001 80a004 01 616263',
  },
  {
    record: {
      kind: 'delete',
      id: 301,
      frees: [
        { extent: 5, payload: 8192, span: 1000, held: false },
        { extent: 6, payload: 16_384, span: 24_576, held: true },
      ],
    },
    inline: new Uint8Array(0),
    bytes: '00000012 00000000 5ec6caba1befabaa 02 ad02 02 05 8040 e807 00 06 808001 80c001 01',
  },
  {
    record: { kind: 'quarantine', id: 302, location, finding: 'block 0 does not match its checksum' },
    inline: new Uint8Array(0),
    bytes:
      '0000002e 00000000 83ffa55dac025d25 03 ae02 06 8060 60 8161 29' +
      '23 626c6f636b203020646f6573206e6f74206d617463682069747320636865636b73756d',
  },
]

describe('golden bytes of disk format 1', () => {
  it('extent header', () => {
    const fields = { sequence: 7, size: 1 << 28, diskId: bytesOf('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff'), nonce }
    const sector = new Uint8Array(4096)
    encodeExtentHeader(fields, sector, sum)
    expect(toHex(sector.subarray(0, 72))).to.equal(toHex(extentHeader))
    expect(decodeExtentHeader(extentHeader, sum)).to.deep.equal(fields)
    const newer = extentHeader.slice()
    newer[11] = 2
    newer.set(sumOf(sum, [newer.subarray(0, 64)]), 64)
    expect([decodeExtentHeader(newer, sum), newerExtentVersion(newer, sum)]).to.deep.equal([undefined, 2])
    expect(newerExtentVersion(extentHeader, sum)).to.equal(undefined)
  })

  it('group header', () => {
    const out = new Uint8Array(96)
    encodeGroupHeader(groupFields, nonce, out, sum)
    expect(toHex(out)).to.equal(toHex(groupHeader))
    const found = decodeGroupHeader(groupHeader, { extent: 7, offset: 8192 }, nonce, sum)
    expect(found).to.deep.equal({ ...groupFields, checksum: groupHeader.slice(88) })
  })

  for (const { record, inline, bytes } of frames) {
    it(`frame of a ${record.kind} record`, () => {
      const seed = frameSeed(nonce, groupHeader.subarray(88))
      const body = encodeRecord(record)
      const out = new Uint8Array(frameBytes(body, inline.length))
      writeFrame(out, 0, body, inline, seed, sum)
      expect(toHex(out)).to.equal(toHex(bytesOf(bytes)))
      expect(readFrame(bytesOf(bytes), 0, seed, sum)).to.deep.include({ record, inline })
    })
  }

  it('index record of a chunk', () => {
    const golden = bytesOf(
      '00000023 01 03 05 788ced9ca3b8a943 08 990977adf52cbc44 06 8060 60 8161 29 a9a7eb6371fab160 616263',
    )
    const record = { length: 3, lease: 5, root: abcRoot, blockSums: abcSums, location, inline: abc }
    expect(toHex(indexKeys.chunk(300))).to.equal('63000000000000012c')
    expect(toHex(encodeChunkRecord(300, record, sum))).to.equal(toHex(golden))
    expect(decodeChunkRecord(300, golden, sum)).to.deep.equal(record)
  })

  it('index record of quarantined bytes', () => {
    const key = '71 000000000000012e 0000000000000006 0000000000003081'
    const value =
      '01 06 8060 60 8161 29 23 626c6f636b203020646f6573206e6f74206d617463682069747320636865636b73756d dc13b1130d71fc88'
    const changes = indexChanges(frames[2]?.record as LogRecord, location, undefined, sum)
    expect(changes).to.deep.equal([
      { type: 'del', key: bytesOf('63 000000000000012e') },
      { type: 'put', key: bytesOf(key), value: bytesOf(value) },
    ])
    expect(decodeQuarantine(bytesOf(key), bytesOf(value), sum)).to.deep.include({ location })
  })

  it('index record of an extent', () => {
    const golden = bytesOf('01 c0c407 43e3c9375ee1b198')
    expect(toHex(indexKeys.extent(7))).to.equal('650000000000000007')
    expect(toHex(encodeExtentRecord(7, 123_456, sum))).to.equal(toHex(golden))
    expect(decodeExtentRecord(7, golden, sum)).to.equal(123_456)
  })

  it('checkpoint', () => {
    const golden = bytesOf('01 07 8060 cccccccccccccccc 02 01 1e8bd5517d1f3fc2')
    const fields = { extent: 7, offset: 12_288, chain: new Uint8Array(8).fill(0xcc), chunks: 2, clean: true }
    expect(toHex(indexKeys.checkpoint())).to.equal('50')
    expect(toHex(encodeCheckpoint(fields, sum))).to.equal(toHex(golden))
    expect(decodeCheckpoint(golden, sum)).to.deep.include(fields)
  })

  it('identity: not adopted, adopted, after a recovery of the metadata', () => {
    const diskId = 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff'
    const clusterId = 'abababababababababababababababab'
    const lines: readonly [DiskIdentity, string][] = [
      [
        { diskId, clusterId: undefined, nodeId: undefined, clusterIncarnation: 1 },
        `{"format":1,"diskId":"${diskId}","check":"81bbe13e2fd2d338"}\n`,
      ],
      [
        { diskId, clusterId, nodeId: 's1', clusterIncarnation: 1 },
        `{"format":1,"diskId":"${diskId}","clusterId":"${clusterId}","nodeId":"s1","check":"c3a07664948841f2"}\n`,
      ],
      [
        { diskId, clusterId, nodeId: 's1', clusterIncarnation: 3 },
        `{"format":1,"diskId":"${diskId}","clusterId":"${clusterId}","nodeId":"s1","clusterIncarnation":3,"check":"ee3a5c0b5504b8cc"}\n`,
      ],
    ]
    for (const [identity, line] of lines) {
      expect(new TextDecoder().decode(encodeIdentity(identity, sum))).to.equal(line)
      expect(decodeIdentity(utf8(line), sum)).to.deep.equal({ kind: 'ok', identity })
    }
  })
})

interface GoldenIndex {
  readonly entries: readonly (readonly [string, string])[]
}

/** The disk in test/fixtures/disk-1: real files of a storage node, the index as pairs of hex. */
async function goldenWorld(withIndex: boolean): Promise<DiskWorld> {
  const world = new DiskWorld(1, { extentBytes: 98_304 })
  const log = await readFile('test/fixtures/disk-1/extent-0000000001.log')
  await world.extents.create(1, log.length)
  await (await world.extents.open(1)).write(log, 0)
  await (await world.extents.open(1)).sync()
  await world.files.write('identity', await readFile('test/fixtures/disk-1/identity'))
  if (!withIndex) return world
  const { entries } = JSON.parse(await readFile('test/fixtures/disk-1/index.json', 'utf8')) as GoldenIndex
  const kv = await (world.kv as KvFactory).open('index')
  const operations = entries.map(([key, value]) => ({ type: 'put' as const, key: bytesOf(key), value: bytesOf(value) }))
  await kv.batch(operations, { sync: true })
  await kv.close()
  return world
}

describe('the golden disk of format 1', () => {
  for (const withIndex of [true, false]) {
    it(`opens and reads, ${withIndex ? 'with its index' : 'with the index rebuilt from the log'}`, async () => {
      const world = await goldenWorld(withIndex)
      const disk = await openDisk(world.deps, world.options)
      expect([disk.clean, disk.rebuilt]).to.deep.equal(withIndex ? [true, false] : [false, true])
      expect(disk.id).to.equal('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff')
      expect((await disk.list(0, 100, 100)).ids).to.deep.equal([1, 2, 5])
      expect(new TextDecoder().decode(await get(disk, 1))).to.equal('abc')
      expect(await get(disk, 2)).to.deep.equal(new Uint8Array(16_385).fill(0x5a))
      expect(await get(disk, 5)).to.deep.equal(content(5, 10_000))
      for (const id of [1, 2, 5]) expect(await disk.verify(id)).to.equal('intact')
      await disk.close()
    })
  }

  it('is refused in one sentence when it is of a newer format', async () => {
    const world = await goldenWorld(true)
    await world.files.write('identity', utf8('{"format":2}'))
    await expectRefusal(world, /has format 2, this program knows up to 1: use a newer Holdfast/)
  })

  it('is refused in one sentence when an extent is of a newer version', async () => {
    const world = await goldenWorld(false)
    const file = await world.extents.open(1)
    const sector = new Uint8Array(4096)
    for (const at of [0, file.size - 4096]) {
      await file.read(sector, at)
      sector[11] = 2
      sector.set(sumOf(sum, [sector.subarray(0, 64)]), 64)
      await file.write(sector, at)
    }
    await expectRefusal(world, /extent 1 has format version 2, this program knows up to 1: use a newer Holdfast/)
  })
})

async function expectRefusal(world: DiskWorld, message: RegExp): Promise<void> {
  const refusal = await openDisk(world.deps, world.options).then(
    () => undefined,
    (error: unknown) => error as Error & { code: string },
  )
  expect(refusal?.code).to.equal('INCOMPATIBLE_VERSION')
  expect(refusal?.message).to.match(message)
}
