/** The lanes of a real meta node, alone: what the log may lose is what the state machine has on disk, not what it has applied. */

import { expect } from 'chai'
import { type LaneHost, Lanes } from '../../../src/services/meta/raft-lanes.ts'

describe('sim: lanes of a meta node', () => {
  it('compact the log only below what the state has on disk', () => {
    const compacted: number[] = []
    let durable = 3
    const host = {
      core: {
        view: { applied: 100 },
        log: { baseIndex: 0, term: () => 1, configAt: () => ({ index: 1 }) },
        slowestMatch: () => 100,
        compacted: (index: number) => compacted.push(index),
      },
      store: { bytes: 0, watermarkBehind: false, compact: async () => {} },
      machine: { durableIndex: () => durable },
      limits: { compactEntries: 10, compactBytes: 1000, trailingEntries: 0 },
      installing: () => false,
      snapshotsReached: () => 100,
    }
    const lanes = new Lanes(host as unknown as LaneHost)
    lanes.tick()
    expect(compacted).to.deep.equal([])
    durable = 60
    lanes.tick()
    expect(compacted).to.deep.equal([60])
  })
})
