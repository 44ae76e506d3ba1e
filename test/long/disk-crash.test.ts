/** The crash points of test/sim/disk with many more of their states, and with other orders of what overlaps. */

import { crashEverywhere } from '../support/crash-driver.ts'
import { procedures } from '../support/crash-procedures.ts'

const seeds = 2

describe('the disk engine at every crash point, at length', () => {
  for (const procedure of procedures) {
    it(procedure.name, async () => {
      for (let seed = 100; seed < 100 + seeds; seed++) {
        await crashEverywhere(procedure, {
          seed,
          pointsMax: Number.POSITIVE_INFINITY,
          exhaustiveMax: 9,
          each: true,
          samples: 100,
          againEvery: 15,
          againPart: 1,
          killEvery: 1,
        })
      }
    })
  }
})
