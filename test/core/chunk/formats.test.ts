/** The disk formats: round trips, damage is noticed, and the worked examples and vectors of docs/formats hold. */

import { expect } from 'chai'
import { readFile } from 'node:fs/promises'
import { fromHex, toHex, utf8 } from '../../../src/base/bytes.ts'
import { decodeExtentHeader, encodeExtentHeader } from '../../../src/core/chunk/extent-header.ts'
import {
  decodeGroupHeader,
  encodeGroupHeader,
  type FoundGroup,
  frameSeed,
  type GroupHeader,
  groupHeaderBytes,
  readFrames,
} from '../../../src/core/chunk/group.ts'
import { decodeIdentity, encodeIdentity } from '../../../src/core/chunk/identity.ts'
import { decodeChunkRecord, encodeChunkRecord } from '../../../src/core/chunk/index-record.ts'
import { encodeRecord, frameBytes, type LogRecord, writeFrame } from '../../../src/core/chunk/record.ts'
import { RecoveryWalk } from '../../../src/core/chunk/recovery.ts'
import { blockSumsOf, chunkRoot, firstBadBlock, type Sum, sumOf } from '../../../src/core/chunk/sums.ts'
import { content, testHasher } from '../../support/disk-world.ts'

const sum: Sum = (bytes, out, at) => testHasher.sumInto(bytes, out, at)
const nonce = Uint8Array.from({ length: 16 }, (_, i) => i)
const otherNonce = Uint8Array.from({ length: 16 }, (_, i) => i + 1)

/** The record of the worked example in docs/formats/extent-log.md: chunk 1, the three bytes "abc". */
const example = utf8('abc')
const exampleRecord: LogRecord = {
  kind: 'put',
  id: 1,
  length: 3,
  lease: 1,
  root: chunkRoot(sum, 3, blockSumsOf(sum, example)),
  blockSums: blockSumsOf(sum, example),
  frees: [],
}
const exampleHeader: GroupHeader = {
  extent: 1,
  offset: 4096,
  watermark: { extent: 0, offset: 4096 },
  chain: new Uint8Array(8),
  salt: new Uint8Array(8).fill(0xaa),
  framesBytes: frameBytes(encodeRecord(exampleRecord), 3),
  frameCount: 1,
  payloadBytes: 0,
  before: { extent: 0, offset: 4096 },
}

function exampleGroup(): Uint8Array {
  const out = new Uint8Array(4096)
  const checksum = encodeGroupHeader(exampleHeader, nonce, out, sum)
  writeFrame(out, groupHeaderBytes, encodeRecord(exampleRecord), example, frameSeed(nonce, checksum), sum)
  return out
}

async function documented(name: string): Promise<string> {
  return readFile(`docs/formats/${name}`, 'utf8')
}

describe('chunk formats', () => {
  it('has the XXH64 vectors that docs/formats/checksums.md lists', async () => {
    const rows = [...(await documented('checksums.md')).matchAll(/^\| `([^`]*)` \| `([0-9a-f]{16})` \|$/gm)]
    expect(rows.length).to.be.greaterThan(3)
    for (const [, input, stored] of rows) {
      const [, fill, count] = /^(..) x (\d+)$/.exec(input ?? '') ?? []
      const bytes =
        fill === undefined
          ? utf8(input === 'empty' ? '' : (input ?? ''))
          : new Uint8Array(Number(count)).fill(Number.parseInt(fill, 16))
      expect(toHex(sumOf(sum, [bytes])), input).to.equal(stored)
    }
  })

  it('has the roots that docs/formats/checksums.md lists', async () => {
    const rows = [
      ...(await documented('checksums.md')).matchAll(
        /^\| `([^`]*)` \| (\d+) \| `([0-9a-f]+)` \| `([0-9a-f]{16})` \|$/gm,
      ),
    ]
    expect(rows.length).to.be.greaterThan(1)
    for (const [, input, length, sums, root] of rows) {
      const [, fill, count] = /^(..) x (\d+)$/.exec(input ?? '') ?? []
      const bytes =
        fill === undefined ? utf8(input ?? '') : new Uint8Array(Number(count)).fill(Number.parseInt(fill, 16))
      expect(bytes.length).to.equal(Number(length))
      expect(toHex(blockSumsOf(sum, bytes))).to.equal(sums)
      expect(toHex(chunkRoot(sum, bytes.length, blockSumsOf(sum, bytes)))).to.equal(root)
    }
  })

  it('writes the group of the worked example in docs/formats/extent-log.md', async () => {
    const group = exampleGroup()
    const shown = [...(await documented('extent-log.md')).matchAll(/^[0-9a-f]{4}: ((?:[0-9a-f]{2} ?)+)$/gm)]
    const bytes = fromHex(shown.map((match) => match[1]?.replaceAll(' ', '') ?? '').join('')) ?? new Uint8Array(0)
    expect(bytes.length).to.equal(groupHeaderBytes + exampleHeader.framesBytes)
    expect(toHex(group.subarray(0, bytes.length))).to.equal(toHex(bytes))
  })

  it('reads an extent header back, and no byte of it can change unnoticed', () => {
    const sector = new Uint8Array(4096)
    const header = { sequence: 7, size: 1 << 28, diskId: new Uint8Array(16).fill(3), nonce }
    encodeExtentHeader(header, sector, sum)
    expect(decodeExtentHeader(sector, sum)).to.deep.equal(header)
    for (let at = 0; at < 72; at++) {
      const bad = sector.slice()
      bad[at] = (bad[at] ?? 0) ^ 0x10
      expect(decodeExtentHeader(bad, sum), `byte ${at}`).to.equal(undefined)
    }
  })

  it('believes a group only in its place and its use of the extent', () => {
    const group = exampleGroup()
    const found = decodeGroupHeader(group, { extent: 1, offset: 4096 }, nonce, sum)
    expect(found).to.deep.include({ ...exampleHeader })
    expect(decodeGroupHeader(group, { extent: 1, offset: 8192 }, nonce, sum)).to.equal(undefined)
    expect(decodeGroupHeader(group, { extent: 2, offset: 4096 }, nonce, sum)).to.equal(undefined)
    expect(decodeGroupHeader(group, { extent: 1, offset: 4096 }, otherNonce, sum)).to.equal(undefined)
    for (let at = 0; at < groupHeaderBytes; at++) {
      const bad = group.slice()
      bad[at] = (bad[at] ?? 0) ^ 1
      expect(decodeGroupHeader(bad, { extent: 1, offset: 4096 }, nonce, sum), `byte ${at}`).to.equal(undefined)
    }
  })

  it('believes a record only in the group it was written for', () => {
    const group = exampleGroup()
    const found = decodeGroupHeader(group, { extent: 1, offset: 4096 }, nonce, sum) as FoundGroup
    const read = readFrames(group, found, nonce, sum)
    expect(read.whole).to.equal(true)
    expect(read.frames[0]).to.deep.include({ record: exampleRecord, inline: example })
    const other = { ...found, checksum: new Uint8Array(8).fill(1) }
    expect(readFrames(group, other, nonce, sum)).to.deep.equal({ frames: [], whole: false })
    for (let at = groupHeaderBytes; at < groupHeaderBytes + exampleHeader.framesBytes - 3; at++) {
      const bad = group.slice()
      bad[at] = (bad[at] ?? 0) ^ 1
      expect(readFrames(bad, found, nonce, sum).whole, `byte ${at}`).to.equal(false)
    }
  })

  it('notices a damaged index record, and one under another id', () => {
    const location = { extent: 1, group: 4096, record: 96, payload: 5000, span: 100 }
    const { length, lease, root, blockSums } = exampleRecord
    const record = { length, lease, root, blockSums, location, inline: example }
    const value = encodeChunkRecord(1, record, sum)
    expect(decodeChunkRecord(1, value, sum)).to.deep.equal(record)
    expect(decodeChunkRecord(2, value, sum)).to.equal(undefined)
    for (let at = 0; at < value.length - 3; at++) {
      const bad = value.slice()
      bad[at] = (bad[at] ?? 0) ^ 1
      expect(decodeChunkRecord(1, bad, sum), `byte ${at}`).to.equal(undefined)
    }
  })

  it('names the first block that does not match', () => {
    const bytes = content(1, 200_000)
    const sums = blockSumsOf(sum, bytes)
    expect(firstBadBlock(sum, bytes, 0, sums)).to.equal(undefined)
    bytes[140_000] = (bytes[140_000] ?? 0) ^ 1
    expect(firstBadBlock(sum, bytes, 0, sums)).to.equal(2)
    expect(firstBadBlock(sum, bytes.subarray(65_536), 1, sums)).to.equal(2)
  })

  it('tells a damaged identity from a newer one', () => {
    const identity = { diskId: 'a'.repeat(32), clusterId: 'b'.repeat(32), nodeId: 'n1', clusterIncarnation: 1 }
    const bytes = encodeIdentity(identity, sum)
    const recovered = { ...identity, clusterIncarnation: 3 }
    expect(decodeIdentity(encodeIdentity(recovered, sum), sum)).to.deep.equal({ kind: 'ok', identity: recovered })
    expect(new TextDecoder().decode(bytes)).not.to.contain('clusterIncarnation')
    expect(decodeIdentity(bytes, sum)).to.deep.equal({ kind: 'ok', identity })
    const edited = utf8(new TextDecoder().decode(bytes).replace('n1', 'n2'))
    expect(decodeIdentity(edited, sum)).to.deep.equal({ kind: 'damaged' })
    expect(decodeIdentity(utf8('{"format":9,"what":1}'), sum)).to.deep.equal({ kind: 'newer', format: 9 })
    for (const junk of ['', '[]', 'null', '{', '{"format":1}', '\u0000']) {
      expect(decodeIdentity(utf8(junk), sum)).to.deep.equal({ kind: 'damaged' })
    }
  })
})

describe('what of the log is believed', () => {
  const group = (extent: number, offset: number, chain: number, checksum: number): FoundGroup => ({
    ...exampleHeader,
    extent,
    offset,
    framesBytes: 100,
    chain: new Uint8Array(8).fill(chain),
    checksum: new Uint8Array(8).fill(checksum),
  })
  const walkTo = (extent: number, offset: number): RecoveryWalk =>
    new RecoveryWalk({
      from: { extent: 1, offset: 4096 },
      chain: new Uint8Array(8).fill(1),
      watermark: { extent, offset },
    })

  it('takes groups below the watermark, checks the ones beyond, and ends at the first that does not follow', () => {
    const walk = walkTo(1, 8192)
    expect(walk.judge(group(1, 4096, 1, 2))).to.equal('apply')
    expect(walk.judge(group(1, 8192, 2, 3))).to.equal('check')
    walk.accept(group(1, 8192, 2, 3))
    expect(walk.judge(group(1, 12_288, 9, 4))).to.equal('stop')
    expect(walk.end).to.deep.equal({ extent: 1, offset: 12_288 })
    expect(walk.damage).to.deep.equal([])
  })

  it('calls a hole below the watermark damage and goes on behind it', () => {
    const walk = walkTo(1, 16_384)
    expect(walk.judge(group(1, 8192, 7, 8))).to.equal('apply')
    expect(walk.damage).to.deep.equal([{ from: { extent: 1, offset: 4096 }, to: { extent: 1, offset: 8192 } }])
    walk.finish()
    expect(walk.end).to.deep.equal({ extent: 1, offset: 16_384 })
    expect(walk.damage).to.have.length(2)
  })

  it('drops what follows a torn group without calling it damage', () => {
    const walk = walkTo(1, 4096)
    expect(walk.judge(group(1, 8192, 7, 8))).to.equal('stop')
    walk.finish()
    expect([walk.end, walk.damage]).to.deep.equal([{ extent: 1, offset: 4096 }, []])
  })

  it('follows the chain into the next extent', () => {
    const walk = walkTo(1, 4096)
    expect(walk.judge(group(3, 4096, 1, 2))).to.equal('check')
    expect(walkTo(1, 4096).judge(group(3, 4096, 2, 2))).to.equal('stop')
  })
})
