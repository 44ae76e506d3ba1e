/** The window of chain values and sizes against arrays. */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import { LogWindow } from '../../../src/services/meta/log-window.ts'

describe('raft log window', () => {
  it('behaves as arrays that are spliced', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Prng(seed)
      let first = 1 + random.below(5)
      let model: { chain: number; size: number }[] = []
      const window = new LogWindow(first)
      for (let step = 0; step < 400; step++) {
        const choice = random.below(10)
        if (choice < 5) {
          for (let i = random.below(60); i > 0; i--) {
            const item = { chain: random.below(0xffffffff), size: random.below(5_000_000) }
            model.push(item)
            window.push(item.chain, item.size)
          }
        } else if (choice < 7) {
          const keep = random.below(model.length + 1)
          model.length = keep
          window.truncate(first + keep)
        } else if (choice < 9) {
          const count = random.below(model.length + 1)
          model.splice(0, count)
          window.drop(first + count - 1)
          first += count
        } else if (random.below(10) === 0) {
          first = 1 + random.below(1000)
          model = []
          window.reset(first)
        }
        expect(window.first).to.equal(first)
        expect(window.last).to.equal(first + model.length - 1)
        expect(window.bytes).to.equal(model.reduce((sum, item) => sum + item.size, 0))
        for (let i = 0; i < 5 && model.length > 0; i++) {
          const at = random.below(model.length)
          expect(window.chainAt(first + at)).to.equal(model[at]?.chain)
        }
        expect(window.chainAt(first - 1)).to.equal(undefined)
        expect(window.chainAt(first + model.length)).to.equal(undefined)
      }
    }
  })

  it('drops a long prefix without moving what stays', () => {
    const window = new LogWindow(1)
    for (let i = 1; i <= 200_000; i++) window.push(i, 100)
    for (let dropped = 1000; dropped < 200_000; dropped += 1000) window.drop(dropped)
    expect(window.first).to.equal(199_001)
    expect(window.bytes).to.equal(100_000)
    expect(window.chainAt(199_500)).to.equal(199_500)
  })
})
