/** Ring: bounded and first in, first out. */

import { expect } from 'chai'
import { Ring } from '../../src/base/ring.ts'

describe('Ring', () => {
  it('gives items back in order across its wrap and refuses more than its capacity', () => {
    const ring = new Ring<number>(3)
    let next = 0
    let wanted = 0
    for (let round = 0; round < 10; round++) {
      while (ring.push(next)) next++
      expect(ring.length).to.equal(3)
      expect(ring.full).to.equal(true)
      expect(ring.peek()).to.equal(wanted)
      expect(ring.shift()).to.equal(wanted++)
      expect(ring.shift()).to.equal(wanted++)
    }
    expect(ring.shift()).to.equal(wanted)
    expect(ring.shift()).to.equal(undefined)
    expect(ring.peek()).to.equal(undefined)
  })
})
