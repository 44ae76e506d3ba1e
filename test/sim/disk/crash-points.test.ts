/**
 * Every crash point of everything that the disk engine writes, with every subset of what was not synced (a sample where
 * there are too many), and again in the recovery from it: afterwards the disk opens, has everything that was acknowledged,
 * nothing that was deleted and nothing that was never put, and its books are right.
 */

import { expect } from 'chai'
import { crashEverywhere } from '../../support/crash-driver.ts'
import { procedures } from '../../support/crash-procedures.ts'

const depth = {
  seed: 1,
  pointsMax: Number.POSITIVE_INFINITY,
  exhaustiveMax: 5,
  each: true,
  samples: 8,
  againEvery: 40,
  againPart: 1,
  killEvery: 3,
}

describe('sim: the disk engine at every crash point', () => {
  for (const procedure of procedures) {
    it(procedure.name, async () => {
      const tally = await crashEverywhere(procedure, depth)
      expect(tally.states).to.be.greaterThan(5)
      if (process.env['CRASH_TALLY']) console.log(JSON.stringify(tally))
    })
  }
})
