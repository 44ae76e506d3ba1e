/** Whole simulated runs: fixed seeds hold every invariant, a seed gives the same run twice, and no loop goes unnoticed. */

import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { expect } from 'chai'
import { simulate, SimFailure } from '../../src/sim/cluster.ts'
import type { FaultKind } from '../../src/sim/nemesis.ts'
import type { SwarmOverrides } from '../../src/sim/swarm.ts'
import { slowTurns, turns } from '../../tools/turns.ts'

/** One run that once failed; a change of what a seed draws takes the reason away, not the run. */
interface Pinned extends SwarmOverrides {
  readonly seed: number
  readonly faults?: readonly FaultKind[]
  readonly chaosMs: number
  /** What it found. */
  readonly why: string
}

const pinned = JSON.parse(readFileSync(resolve('test/sim/seeds.json'), 'utf8')) as readonly Pinned[]

const healMs = 120_000

describe('sim: cluster', function () {
  this.timeout(120_000)

  for (const storage of ['real', 'model'] as const) {
    it(`holds every invariant and comes back to health, with ${storage} storage nodes`, async () => {
      const result = await simulate({ seed: 1, turns, chaosMs: 5000, healMs, storage })
      // Chaos of five seconds stops clients for most of it; with none at all the run would have shown nothing.
      expect(result.operations).to.be.at.least(10)
    })
  }

  for (const { why, ...options } of pinned) {
    it(`still holds seed ${options.seed}, which once failed: ${why}`, async () => {
      await simulate({ ...options, turns, healMs })
    })
  }

  for (const storage of ['real', 'model'] as const) {
    it(`gives the same run for the same seed and another one for another, with ${storage} storage nodes`, async () => {
      const options = { chaosMs: 2000, healMs, storage }
      const first = await simulate({ ...options, seed: 11, turns })
      const second = await simulate({ ...options, seed: 11, turns })
      const slow = await simulate({ ...options, seed: 11, turns: slowTurns })
      const other = await simulate({ ...options, seed: 12, turns })
      expect(second.hash).to.equal(first.hash)
      expect(second.events).to.equal(first.events)
      expect(slow.hash).to.equal(first.hash)
      expect(other.hash).not.to.equal(first.hash)
    })
  }

  it('says of a run that failed what it was a run of, so that it can be repeated', async () => {
    const drawn: unknown = await simulate({ seed: 6, turns, chaosMs: 500, healMs: 1 }).catch((error: unknown) => error)
    expect(drawn).to.be.instanceOf(SimFailure)
    const { message, faults, clients, storage } = drawn as SimFailure
    expect(message).to.match(/not done within 1 ms of virtual time/)
    const first = await simulate({ seed: 6, turns, chaosMs: 500, healMs })
    const again = await simulate({ seed: 6, turns, chaosMs: 500, healMs, faults, clients, storage })
    expect(again.hash).to.equal(first.hash)
  })
})
