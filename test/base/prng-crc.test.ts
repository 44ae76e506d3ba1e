/** CRC32C against its published values; the generator against itself. */

import { expect } from 'chai'
import { utf8 } from '../../src/base/bytes.ts'
import { crc32c } from '../../src/base/crc32c.ts'
import { Prng } from '../../src/base/prng.ts'

describe('crc32c', () => {
  it('gives the published values (RFC 3720, appendix B.4)', () => {
    expect(crc32c(utf8('123456789'))).to.equal(0xe3069283)
    expect(crc32c(new Uint8Array(32))).to.equal(0x8a9136aa)
    expect(crc32c(new Uint8Array(32).fill(0xff))).to.equal(0x62a8ab43)
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).to.equal(0x46dd794e)
    expect(crc32c(new Uint8Array(0))).to.equal(0)
  })

  it('continues from the checksum of what came before, at any split', () => {
    const bytes = Uint8Array.from({ length: 61 }, (_, i) => (i * 37) & 0xff)
    const whole = crc32c(bytes)
    for (let at = 0; at <= bytes.length; at++) {
      expect(crc32c(bytes.subarray(at), crc32c(bytes.subarray(0, at)))).to.equal(whole)
      expect(crc32c(bytes, crc32c(bytes, 0, 0, at), at)).to.equal(whole)
    }
  })
})

describe('prng', () => {
  it('gives the same numbers for the same seed and others for another', () => {
    const draw = (seed: number): number[] =>
      Array.from(
        { length: 5 },
        (
          (random) => () =>
            random.next()
        )(new Prng(seed)),
      )
    expect(draw(1)).to.deep.equal(draw(1))
    expect(draw(1)).to.not.deep.equal(draw(2))
  })

  it('forks streams that do not depend on what was drawn before', () => {
    const a = new Prng(7)
    const b = new Prng(7)
    b.next()
    expect(a.fork('disk').next()).to.equal(b.fork('disk').next())
    expect(a.fork('disk').next()).to.not.equal(a.fork('net').next())
  })

  it('spreads evenly and stays in range', () => {
    const random = new Prng(3)
    const counts = Array.from({ length: 10 }, () => 0)
    for (let i = 0; i < 100_000; i++) {
      const value = random.below(10)
      counts[value] = (counts[value] ?? 0) + 1
      expect(random.unit()).to.be.within(0, 1)
    }
    for (const count of counts) expect(count).to.be.within(9500, 10_500)
  })
})
