/** Repair classes and waits: the table of docs/ARCHITECTURE.md, "Failure and repair". */

import { expect } from 'chai'
import { classify, type CountedCopy, surplusCopy, waitMs } from '../../../src/core/repair/class.ts'

/** `a1 b2?`: disk 1 in zone a, disk 2 in zone b on a node that is not firm. */
function copies(text: string): CountedCopy[] {
  return text
    .split(' ')
    .filter((word) => word !== '')
    .map((word) => ({ zone: word.slice(0, 1), disk: Number.parseInt(word.slice(1), 10), firm: !word.endsWith('?') }))
}

describe('repair class', () => {
  const table: [string, number, string, number, string][] = [
    ['nothing refers to it', 0, '', 2, 'none'],
    ['no copy counts', 3, '', 2, 'lost'],
    ['one of three is left', 3, 'a1', 2, 'last-copy'],
    ['the only one wanted is there', 1, 'a1', 2, 'none'],
    ['two are left, both on nodes that may go', 3, 'a1? b2?', 2, 'last-copy'],
    ['two of five are left', 5, 'a1 b2', 2, 'at-risk'],
    ['all that is left is in one zone', 3, 'a1 a2', 2, 'at-risk'],
    ['there is only one zone', 3, 'a1 a2', 1, 'degraded'],
    ['two of three are left in two zones', 3, 'a1 b2', 2, 'degraded'],
    ['all are there, in one zone of two', 3, 'a1 a2 a3', 2, 'misplaced'],
    ['all are there, in two zones of three', 3, 'a1 a2 b3', 3, 'misplaced'],
    ['all are there', 3, 'a1 a2 b3', 2, 'none'],
    ['one too many', 3, 'a1 a2 b3 b4', 2, 'surplus'],
  ]
  for (const [what, wanted, counted, zones, need] of table) {
    it(`is ${need} when ${what}`, () => {
      expect(classify(wanted, copies(counted), zones)).to.equal(need)
    })
  }

  it('waits only for what a returning node would heal', () => {
    const waits = { waitDegradedMs: 300_000, waitAtRiskMs: 15_000 }
    expect(waitMs('last-copy', 3, 1, 2, waits)).to.equal(0)
    expect(waitMs('at-risk', 3, 2, 1, waits)).to.equal(15_000)
    expect(waitMs('degraded', 3, 2, 1, waits)).to.equal(300_000)
    expect(waitMs('degraded', 3, 2, 0, waits)).to.equal(0)
  })

  it('gives up the copy whose zone has most, then the one on the fullest disk', () => {
    const full = new Map([
      [1, 0.1],
      [2, 0.9],
      [3, 0.95],
    ])
    expect(surplusCopy(copies('a1 a2 b3'), (disk) => full.get(disk) ?? 0)).to.equal(2)
    expect(surplusCopy([], () => 0)).to.equal(undefined)
  })
})
