/** Delays between attempts: how they grow, where they stop, when they start again. */

import { expect } from 'chai'
import { Backoff } from '../../src/base/backoff.ts'

describe('backoff', () => {
  it('doubles up to its bound, between half and all of it', () => {
    const backoff = new Backoff({ firstMs: 100, maxMs: 500 })
    expect([0, 0, 0, 0, 0].map((unit) => backoff.next(unit))).deep.equal([50, 100, 200, 250, 250])
    expect(backoff.next(0.999)).within(499, 500)
  })

  it('starts again after something worked', () => {
    const backoff = new Backoff({ firstMs: 100, maxMs: 10_000 })
    for (let i = 0; i < 100; i++) backoff.next(0.5)
    backoff.reset()
    expect(backoff.next(0)).equal(50)
  })
})
