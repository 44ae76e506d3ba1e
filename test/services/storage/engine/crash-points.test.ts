/** The crash points of the disk engine with a few of their states: all of them are in test/sim/disk, and at length in test/long. */

import { expect } from 'chai'
import { crashEverywhere } from '../../../support/crash-driver.ts'
import { procedures } from '../../../support/crash-procedures.ts'

const depth = {
  seed: 2,
  pointsMax: 12,
  exhaustiveMax: 1,
  each: false,
  samples: 2,
  againEvery: 1000,
  againPart: 0.5,
  killEvery: 4,
}

describe('disk engine, a crash in the middle of', () => {
  for (const procedure of procedures) {
    it(procedure.name, async () => {
      expect((await crashEverywhere(procedure, depth)).states).to.be.greaterThan(5)
    })
  }
})
