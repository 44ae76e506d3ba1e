/**
 * The lanes of a real meta node, alone: messages wait for the disk, and the log loses only what the state machine has on
 * disk. (The simulator of the Raft core has lanes of its own, in the same order.)
 */

import { expect } from 'chai'
import type { AppendTask, Entry, HardState } from '../../../src/core/raft/types.ts'
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

  /** Carries out one append task on disks that finish when they are told to; what happened, in order. */
  async function order(entries: readonly Entry[], hardState: HardState | undefined): Promise<string[]> {
    const seen: string[] = []
    const disk = async (what: string): Promise<void> => {
      seen.push(`${what} begins`)
      for (let turn = 0; turn < 5; turn++) await Promise.resolve()
      seen.push(`${what} ends`)
    }
    const host = {
      slots: { save: () => disk('slot') },
      store: { append: () => disk('batch'), note: () => disk('note'), watermarkBehind: false },
      core: { appendDone: () => seen.push('done') },
      transport: { queue: () => seen.push('sent') },
      failed: () => false,
      pump: () => {},
      fatal: (error: unknown) => seen.push(String(error)),
    }
    const lanes = new Lanes(host as unknown as LaneHost)
    const task = { seq: 1, truncateFrom: undefined, entries, hardState, commit: 0, mustSync: true, sendAfter: [] }
    const append: AppendTask = task
    lanes.carryOut({ send: [], append, apply: undefined, fetches: [], snapshots: [], reads: [], droppedReads: [] })
    await lanes.drain()
    return seen
  }

  it('tell of an append after its batch, which begins after the slot', async () => {
    const entries: Entry[] = [{ index: 2, term: 3, type: 'noop', payload: new Uint8Array(0) }]
    const batch = ['batch begins', 'batch ends', 'done', 'sent']
    expect(await order(entries, undefined)).to.deep.equal(batch)
    expect(await order(entries, { term: 3, vote: '' })).to.deep.equal(['slot begins', 'slot ends', ...batch])
  })

  it('tell of a vote after its slot, and not before', async () => {
    const seen = await order([], { term: 3, vote: 'b' })
    expect(seen.slice(0, 2)).to.deep.equal(['slot begins', 'slot ends'])
    expect(seen.filter((what) => what === 'done' || what === 'sent')).to.deep.equal(['done', 'sent'])
  })
})
