/** Which of a node's addresses a client tries first. */

import { expect } from 'chai'
import { hostOf, preferHosts } from '../../src/sdk/addresses.ts'

describe('sdk/addresses', () => {
  for (const [given, seeds, expected] of [
    [['s1:7411', '127.0.0.1:7411'], ['127.0.0.1:7401'], ['127.0.0.1:7411', 's1:7411']],
    [['s1:7411', '127.0.0.1:7411'], ['m1:7401'], ['s1:7411', '127.0.0.1:7411']],
    [['s1:7411', '[::1]:7411'], ['[::1]:7401'], ['[::1]:7411', 's1:7411']],
    [['a:1', 'a:2'], ['a:9'], ['a:1', 'a:2']],
  ] as const) {
    it(`orders ${given.join(', ')} as ${expected.join(', ')} for a client of ${seeds.join(', ')}`, () => {
      expect(preferHosts(given, new Set(seeds.map(hostOf)))).to.deep.equal(expected)
    })
  }
})
