/**
 * One disk through many kills under mixed load (puts of many sizes, deletes, overwrites, reads, compaction, scrub). Each life
 * is held to what all before it have acknowledged. The moment of a kill is a number of acknowledgements, never a time; some
 * lives end in order, so that checkpoints and closing watermarks come in between.
 */

import { expect } from 'chai'
import { seeded } from './disk-world.ts'
import { EngineRuns } from './engine-runs.ts'

const extentBytes = 2 << 20
/** The extent that is written, the one made ahead, and two that are free. */
const fixedExtents = 4

export async function killRun(kills: number, seed: number): Promise<void> {
  const random = seeded(seed)
  const runs = await EngineRuns.inTemporary({ lanes: 6, ids: 300, largestBytes: 400_000, extentBytes, scrub: true })
  try {
    for (let life = 0; life < kills; life++) {
      const killAfter = 1 + Math.floor(random() ** 2 * 400)
      const end = await runs.live({ seed: seed * 10_000 + life, steps: 1_000_000 }, { killAfter })
      expect(end.signal, `life ${life}: ${end.lines.slice(-3).join(', ')} ${end.stderr}`).to.equal('SIGKILL')
      if (random() < 0.15) {
        const inOrder = await runs.live({ seed: seed * 10_000 + 5000 + life, steps: 50 })
        expect(inOrder.code, inOrder.stderr).to.equal(0)
      }
    }
    const last = await runs.live({ seed, steps: 0, settle: true })
    expect(last.code, last.stderr).to.equal(0)
    const live = Number(/settled (\d+)/.exec(last.lines.join('\n'))?.[1])
    expect(live, 'live bytes').to.be.greaterThan(extentBytes)
    const used = await runs.extentBytes()
    expect(used - fixedExtents * extentBytes, `${used} bytes of extents for ${live} live bytes`).to.be.at.most(
      live * 1.1,
    )
  } finally {
    await runs.remove()
  }
}
