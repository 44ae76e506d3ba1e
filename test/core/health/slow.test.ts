/** Slow disks against their peers: how many windows it takes, in and out, and that load is not taken for a slow disk. */

import { expect } from 'chai'
import fc from 'fast-check'
import {
  floorMs,
  slowLimit,
  SlowWatch,
  type SpeedFigures,
  windowsKept,
  windowsSlow,
} from '../../../src/core/health/slow.ts'

function figures(...syncMs: readonly number[]): Map<number, SpeedFigures> {
  return new Map(syncMs.map((ms, i) => [i + 1, { syncMs: ms, readMs: 0 }]))
}

/** What is slow after each window. */
function run(watch: SlowWatch, windows: readonly ReadonlyMap<number, SpeedFigures>[]): string[] {
  return windows.map((one) => [...watch.window(one).keys()].join())
}

const slowOne = figures(2, 3, 2, 900, 3)
const alike = figures(2, 3, 2, 3, 3)

describe('slow disks', () => {
  it('takes four windows to call a disk slow, and six normal ones to take it back', () => {
    const watch = new SlowWatch()
    expect(
      run(
        watch,
        Array.from({ length: windowsSlow }, () => slowOne),
      ),
    ).deep.equal(['', '', '', '4'])
    expect(watch.window(slowOne).get(4)).match(/slow against its peers: .* up to 900 ms, theirs 3 ms/)
    expect(
      run(
        watch,
        Array.from({ length: windowsKept }, () => alike),
      ),
    ).deep.equal(['4', '4', '4', '4', '4', ''])
  })

  it('does not call one slow for a few bad windows', () => {
    const watch = new SlowWatch()
    const now = [slowOne, slowOne, slowOne, alike, alike, alike]
    expect(run(watch, [...now, ...now, ...now]).join('')).equal('')
  })

  it('stays slow while it is between normal and slow', () => {
    const watch = new SlowWatch()
    for (let i = 0; i < windowsSlow; i++) watch.window(slowOne)
    const between = figures(2, 3, 2, floorMs * 0.8, 3)
    expect(
      new Set(
        run(
          watch,
          Array.from({ length: 20 }, () => between),
        ),
      ),
    ).deep.equal(new Set(['4']))
  })

  it('needs four disks with figures', () => {
    const watch = new SlowWatch()
    expect(
      run(
        watch,
        Array.from({ length: 10 }, () => figures(2, 2, 900)),
      ).join(''),
    ).equal('')
    expect(
      run(
        watch,
        Array.from({ length: 10 }, () => figures(2, 2, 900, 0)),
      ).join(''),
    ).equal('')
    expect(
      run(
        watch,
        Array.from({ length: 10 }, () => figures(2, 2, 900, 2)),
      ).at(-1),
    ).equal('3')
  })

  it('looks at reads like at syncs', () => {
    const watch = new SlowWatch()
    const reads = new Map([1, 2, 3, 4].map((disk) => [disk, { syncMs: 1, readMs: disk === 2 ? 800 : 5 }]))
    expect(
      run(
        watch,
        Array.from({ length: windowsSlow }, () => reads),
      ).at(-1),
    ).equal('2')
  })

  it('takes what all disks suffer for load: never more than a quarter is slow', () => {
    const watch = new SlowWatch()
    const half = figures(1, 1, 1, 1, 1, 900, 900, 900)
    const seen = run(
      watch,
      Array.from({ length: 20 }, () => half),
    )
    expect(seen.every((slow) => slow.split(',').length <= 2)).equal(true)
    expect(
      run(
        new SlowWatch(),
        Array.from({ length: 20 }, () => figures(900, 900, 900, 900)),
      ).join(''),
    ).equal('')
  })

  it('sets a limit that grows with the spread of the others, and a floor under it', () => {
    expect(slowLimit([1, 1, 1, 1])).deep.equal({ median: 1, limit: floorMs })
    expect(slowLimit([100, 110, 90, 105]).limit).within(300, 320)
    expect(slowLimit([50, 200, 400, 600]).limit).above(1500)
  })

  it('does not flap on constant figures, and never calls the median slow', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 4, maxLength: 12 }), (syncMs) => {
        const watch = new SlowWatch()
        const seen = run(
          watch,
          Array.from({ length: 30 }, () => figures(...syncMs)),
        )
        const settled = seen.slice(windowsSlow)
        expect(new Set(settled).size).equal(1)
        const middle = [...syncMs].sort((a, b) => a - b)[syncMs.length >> 1] ?? 0
        for (const disk of (settled[0] ?? '').split(',').filter((one) => one !== '')) {
          expect(syncMs[Number(disk) - 1]).above(middle)
        }
      }),
      { numRuns: 200 },
    )
  })
})
