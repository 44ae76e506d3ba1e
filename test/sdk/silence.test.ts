/** Silence of the other side, told from our own standstill. */

import { expect } from 'chai'
import { SilenceWatch } from '../../src/sdk/silence.ts'
import { ManualClock } from '../support/manual-clock.ts'

describe('silence watch', () => {
  it('calls once when nothing was heard for the time, and not before', () => {
    const clock = new ManualClock()
    let calls = 0
    const watch = new SilenceWatch(clock, 2000, () => calls++)
    watch.start()
    clock.advance(1500)
    watch.heard()
    clock.advance(1500)
    expect(calls).to.equal(0)
    clock.advance(500)
    expect(calls).to.equal(1)
    clock.advance(5000)
    expect(calls).to.equal(1)
  })

  it('does not take our own standstill for silence', () => {
    const clock = new ManualClock()
    let calls = 0
    const watch = new SilenceWatch(clock, 2000, () => calls++)
    watch.start()
    clock.advance(30_000)
    expect(calls).to.equal(0)
    clock.advance(2000)
    expect(calls).to.equal(1)
  })

  it('says nothing after it was stopped', () => {
    const clock = new ManualClock()
    let calls = 0
    const watch = new SilenceWatch(clock, 2000, () => calls++)
    watch.start()
    watch.stop()
    clock.advance(2000)
    expect(calls).to.equal(0)
  })
})
