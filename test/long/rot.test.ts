/**
 * Rot at length: bytes of a small store flipped one at a time, on the real drivers, after a stop in order and after a
 * crash: every byte of the identity, every third of the records' headers, every 11th of the index (`ROT_STRIDE=1` takes all
 * of these, which takes about an hour), and of large payloads, whose blocks are all protected alike, every 97th.
 */

import { expect } from 'chai'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { makeStore, rotAll, rotPlace, type SpotKind, spotsOf } from '../support/rot.ts'

const payloadStride = 97
const indexStride = Number(process.env['ROT_STRIDE'] ?? 11)
const headerStride = Number(process.env['ROT_STRIDE'] ?? 3)

describe('rot: bytes of a small store, one at a time', function () {
  this.timeout(7_200_000)
  let base = ''

  before(async () => {
    base = await mkdtemp(join(rotPlace, 'holdfast-rot-'))
  })

  after(async () => {
    await rm(base, { recursive: true, force: true })
  })

  for (const stop of ['clean', 'crash'] as const) {
    for (const kinds of [['index'], ['identity', 'header'], ['payload', 'blank']] as const) {
      it(`${kinds.join(' and ')}: ends as nothing, repaired, reported or refused (${stop})`, async () => {
        const store = join(base, `${stop}-${kinds[0]}`)
        await makeStore(store, stop)
        const spots = (await spotsOf(store)).filter(
          ({ kind, offset }) =>
            (kinds as readonly SpotKind[]).includes(kind) &&
            (kind !== 'payload' || offset % payloadStride === 0) &&
            (kind !== 'index' || offset % indexStride === 0) &&
            (kind !== 'header' || offset % headerStride === 0),
        )
        const { counts, broken } = await rotAll(store, join(base, 'work'), spots)
        console.log(`      ${[...counts].map(([end, count]) => `${end}: ${count}`).join(', ')}`)
        expect(broken, broken.slice(0, 20).join('\n')).to.deep.equal([])
      })
    }
  }
})
