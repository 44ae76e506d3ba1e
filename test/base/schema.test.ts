/** Bytes and codecs where the fast paths meet: lengths around a varint's boundaries, text that is not ASCII, slabs, nesting. */

import { expect } from 'chai'
import { allocateBytes, fromHex, fromUtf8, putHex, toHex, utf8, utf8Length } from '../../src/base/bytes.ts'
import {
  decode,
  encode,
  extended,
  hex,
  list,
  type Schema,
  SchemaError,
  struct,
  text,
  uint,
} from '../../src/base/schema.ts'

const plain = new TextEncoder()

describe('bytes', () => {
  it('new ones are zero and nobody else has them, whatever their size', () => {
    const sizes = Array.from({ length: 500 }, (_, i) => (i * 37) % 5000)
    const all = sizes.map((size) => allocateBytes(size))
    for (const [i, bytes] of all.entries()) {
      expect(bytes.length).equal(sizes[i])
      expect(bytes.every((byte) => byte === 0)).equal(true)
      bytes.fill((i % 255) + 1)
    }
    for (const [i, bytes] of all.entries()) expect(bytes.every((byte) => byte === (i % 255) + 1)).equal(true)
  })

  it('of text are those of TextEncoder, long and short', () => {
    for (const value of ['', 'a', 'é', '€', '😀', '\ud800', 'x'.repeat(5461), 'é'.repeat(3000), '😀'.repeat(9000)]) {
      expect(Buffer.from(utf8(value)).equals(Buffer.from(plain.encode(value)))).equal(true)
      expect(utf8Length(value)).equal(plain.encode(value).length)
    }
  })

  it('of hex digits go there and back, and anything else is refused', () => {
    const every = Uint8Array.from({ length: 256 }, (_, i) => i)
    expect(toHex(every)).equal(Buffer.from(every).toString('hex'))
    expect(fromHex(toHex(every).toUpperCase())).deep.equal(every)
    for (const bad of ['a', 'gg', '0g', 'a ', '\u0141\u0141', '0x']) expect(fromHex(bad), bad).equal(undefined)
    expect(putHex(new Uint8Array(1), 0, 'zz')).equal(false)
  })
})

describe('schemas', () => {
  it('text keeps its bytes at every length where its count grows, in any alphabet', () => {
    for (const unit of ['a', 'é', '€', '😀']) {
      for (const count of [0, 1, 31, 32, 42, 43, 63, 64, 127, 128, 129, 5461, 5462, 8191, 8192, 16383, 16384, 50_000]) {
        const value = unit.repeat(count)
        const bytes = encode(text, value)
        expect(decode(text, bytes)).equal(value)
        const body = plain.encode(value)
        expect(fromUtf8(bytes.subarray(bytes.length - body.length))).equal(value)
        expect(bytes.length - body.length, `bytes of the count of ${body.length}`).equal(
          body.length < 128 ? 1 : body.length < 16_384 ? 2 : 3,
        )
      }
    }
  })

  it('numbers go there and back up to the largest', () => {
    const most = Number.MAX_SAFE_INTEGER
    for (const value of [0, 1, 127, 128, 16_383, 16_384, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 35 + 1, most - 1, most]) {
      expect(decode(uint, encode(uint, value))).equal(value)
    }
    for (const bad of [-1, 0.5, 2 ** 53, Number.NaN]) expect(() => encode(uint, bad)).throw(SchemaError)
  })

  it('hex ids have their length and nothing else', () => {
    const id = hex(16)
    expect(decode(id, encode(id, 'ab'.repeat(16)))).equal('ab'.repeat(16))
    for (const bad of ['', 'ab', 'ab'.repeat(17), 'xy'.repeat(16)]) expect(() => encode(id, bad)).throw(SchemaError)
  })

  it('a value that encodes another one while it is written keeps both', () => {
    const inner = struct({ name: text, numbers: list(uint) })
    const wrapped: Schema<{ name: string; numbers: readonly number[] }> = {
      write: (writer, value) => {
        writer.text('before')
        const bytes = encode(inner, value)
        writer.varint(bytes.length)
        writer.raw(bytes)
      },
      read: (reader) => {
        reader.text()
        return decode(inner, reader.raw(reader.varint()))
      },
    }
    const value = { name: 'n'.repeat(300), numbers: [1, 2, 3] }
    expect(decode(list(wrapped), encode(list(wrapped), [value, value]))).deep.equal([value, value])
  })

  it('a failed encoding leaves nothing behind for the next', () => {
    const record = struct({ name: text, id: hex(4) })
    expect(() => encode(record, { name: 'left over', id: 'bad' })).throw(SchemaError)
    expect(encode(text, 'x')).deep.equal(Uint8Array.from([1, 0x78]))
  })

  it('a record that grew keeps its old bytes while the new fields are unused', () => {
    const first = struct({ name: text })
    const grown = extended(first, struct({ size: uint, unit: text }), { size: 0, unit: '' })
    const old = encode(first, { name: 'n' })
    expect(encode(grown, { name: 'n', size: 0, unit: '' })).deep.equal(old)
    expect(decode(grown, old)).deep.equal({ name: 'n', size: 0, unit: '' })
    const value = { name: 'n', size: 7, unit: 'm' }
    expect(decode(grown, encode(grown, value))).deep.equal(value)
  })
})
