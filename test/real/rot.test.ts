/**
 * Rot, a sample: some hundred bytes of a small store flipped one at a time, on the real drivers. test/long flips all of them.
 * The choice is seeded: a failure names the byte, which is the same in the next run (ROT_SEED for another choice).
 */

import { expect } from 'chai'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { seeded } from '../support/disk-world.ts'
import { makeStore, rotAll, rotPlace, type Spot, type SpotKind, spotsOf } from '../support/rot.ts'

const seed = Number(process.env['ROT_SEED'] ?? '1')
/** Bytes of each kind: those that are read in different ways most. */
const sample: Record<SpotKind, number> = { index: 60, identity: 5, header: 25, payload: 8, blank: 2 }

function choose(spots: readonly Spot[]): Spot[] {
  const random = seeded(seed)
  const chosen: Spot[] = []
  for (const kind of Object.keys(sample) as SpotKind[]) {
    const all = spots.filter((spot) => spot.kind === kind)
    for (let i = 0; i < sample[kind]; i++) chosen.push(all[Math.floor(random() * all.length)] as Spot)
  }
  return chosen
}

describe('real files: rot', function () {
  this.timeout(120_000)
  let base = ''

  before(async () => {
    base = await mkdtemp(join(rotPlace, 'holdfast-rot-'))
  })

  after(async () => {
    await rm(base, { recursive: true, force: true })
  })

  for (const stop of ['clean', 'crash'] as const) {
    it(`no reader gets a wrong byte, and nothing is gone without a word (${stop})`, async () => {
      const store = join(base, stop)
      await makeStore(store, stop)
      const { counts, broken } = await rotAll(store, join(base, 'work'), choose(await spotsOf(store)))
      expect(broken, broken.join('\n')).to.deep.equal([])
      expect(counts.get('index repaired')).to.be.greaterThan(10)
      expect(counts.get('payload reported')).to.be.greaterThan(2)
    })
  }
})
