/** Chunk sizes, ranges and sums: the pure pieces of objects. */

import { expect } from 'chai'
import fc from 'fast-check'
import { nextChunkBytes } from '../../../src/core/object/chunker.ts'
import { sliceOfChunk, spanOfRange } from '../../../src/core/object/range.ts'
import { chunkRoot, EtagBuilder, sumBlocks, sumsMatchRoot, type SumInto } from '../../../src/core/object/sums.ts'
import { createXxHasher } from '../../../src/drivers/hasher-xxhash.ts'
import { toHex } from '../../../src/base/bytes.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import { limits } from '../../../src/model/limits.ts'

describe('chunker', () => {
  it('cuts an object into full chunks and one rest, none empty', () => {
    const cuts = (size: number): number[] => {
      const lengths: number[] = []
      for (let at = 0; at < size; at += lengths.at(-1) ?? size) lengths.push(nextChunkBytes(at, size, 100))
      return lengths
    }
    expect(cuts(0)).to.deep.equal([])
    expect(cuts(1)).to.deep.equal([1])
    expect(cuts(100)).to.deep.equal([100])
    expect(cuts(101)).to.deep.equal([100, 1])
    expect(cuts(230)).to.deep.equal([100, 100, 30])
  })

  it('gathers full chunks when the size is not known, and beyond a size that was promised', () => {
    expect(nextChunkBytes(0, undefined, 100)).to.equal(100)
    expect(nextChunkBytes(300, undefined, 100)).to.equal(100)
    expect(nextChunkBytes(130, 130, 100)).to.equal(100)
  })
})

describe('range', () => {
  it('is inclusive, ends with the object, and is refused when it starts beyond it', () => {
    expect(spanOfRange(10, undefined)).to.deep.equal({ start: 0, end: 10 })
    expect(spanOfRange(10, [0, 0])).to.deep.equal({ start: 0, end: 1 })
    expect(spanOfRange(10, [5, 100])).to.deep.equal({ start: 5, end: 10 })
    for (const range of [
      [10, 10],
      [3, 2],
      [-1, 2],
      [0.5, 2],
      [0, Number.NaN],
    ] as const) {
      expect(() => spanOfRange(10, range), String(range))
        .to.throw()
        .that.satisfies(isStoreError)
    }
    expect(() => spanOfRange(0, [0, 0])).to.throw('starts beyond the end')
  })

  it('splits over chunks into slices that add up to the span', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), fc.nat(), fc.nat(), (lengths, a, b) => {
        const size = lengths.reduce((sum, length) => sum + length, 0)
        const start = Math.min(a % size, b % size)
        const end = Math.max(a % size, b % size) + 1
        let offset = 0
        let next = start
        for (const length of lengths) {
          const slice = sliceOfChunk({ start, end }, offset, length)
          if (slice !== undefined) {
            expect(offset + slice.from).to.equal(next)
            next = offset + slice.to
          }
          offset += length
        }
        expect(next).to.equal(end)
      }),
    )
  })
})

describe('sums', () => {
  let sumInto: SumInto

  before(async () => {
    const hasher = await createXxHasher()
    sumInto = hasher.sumInto.bind(hasher)
  })

  it('has one sum a block, and a root over length and sums', () => {
    const chunk = new Uint8Array(limits.blockBytes + 1).fill(1)
    const sums = sumBlocks(chunk, sumInto)
    expect(sums.length).to.equal(16)
    const root = chunkRoot(chunk.length, sums, sumInto)
    expect(sumsMatchRoot(chunk.length, sums, root, sumInto)).to.equal(true)
    expect(sumsMatchRoot(chunk.length - 1, sums, root, sumInto)).to.equal(false)
    expect(sumsMatchRoot(chunk.length, sums.subarray(8), root, sumInto)).to.equal(false)
    sums[3] = (sums[3] ?? 0) ^ 1
    expect(sumsMatchRoot(chunk.length, sums, root, sumInto)).to.equal(false)
  })

  it('hashes the size alone for the etag of a zero-byte object', () => {
    const expected = new Uint8Array(8)
    sumInto(new Uint8Array(8), expected, 0)
    expect(toHex(new EtagBuilder().finish(sumInto))).to.equal(toHex(expected))
  })

  it('depends on the order of the chunks', () => {
    const one = new Uint8Array(8).fill(1)
    const two = new Uint8Array(8).fill(2)
    const forward = new EtagBuilder()
    forward.add(5, one)
    forward.add(5, two)
    const backward = new EtagBuilder()
    backward.add(5, two)
    backward.add(5, one)
    expect(toHex(forward.finish(sumInto))).not.to.equal(toHex(backward.finish(sumInto)))
    expect(forward.size).to.equal(10)
  })
})
