/** A meta node that hangs is told from one that is slow. */

import { expect } from 'chai'
import { Pulse } from '../../src/sdk/pulse.ts'
import { ManualClock } from '../support/manual-clock.ts'

interface Rig {
  readonly clock: ManualClock
  readonly pulse: Pulse
  waiting: boolean
  asked: number
  silentMs: number | undefined
}

/** A link whose first answer came after `firstMs`, with a call that waits from then on. */
function rig(firstMs: number | undefined): Rig {
  const clock = new ManualClock()
  const out = { clock, waiting: true, asked: 0, silentMs: undefined as number | undefined }
  const pulse = new Pulse(
    clock,
    () => out.waiting,
    () => {
      out.asked++
    },
    (silentMs) => {
      out.silentMs = silentMs
    },
  )
  if (firstMs !== undefined) {
    clock.advance(firstMs)
    pulse.heard()
  }
  pulse.waits()
  return Object.assign(out, { pulse })
}

describe('pulse of a meta link', () => {
  it('asks after 200 ms of silence and gives the node up 200 ms later', () => {
    const one = rig(5)
    one.clock.advance(199)
    expect(one.asked).equal(0)
    one.clock.advance(1)
    expect([one.asked, one.silentMs]).deep.equal([1, undefined])
    one.clock.advance(199)
    expect(one.silentMs).equal(undefined)
    one.clock.advance(1)
    expect([one.asked, one.silentMs]).deep.equal([1, 400])
  })

  it('keeps a node that answers the question but not the call', () => {
    const one = rig(5)
    for (let round = 1; round <= 20; round++) {
      one.clock.advance(200)
      expect(one.asked).equal(round)
      one.pulse.heard()
    }
    expect(one.silentMs).equal(undefined)
  })

  it('is patient with a far node, and with one that was never heard', () => {
    const far = rig(300)
    far.clock.advance(599)
    expect(far.asked).equal(0)
    far.clock.advance(1)
    far.clock.advance(600)
    expect(far.silentMs).equal(1200)
    const fresh = rig(undefined)
    fresh.clock.advance(999)
    expect(fresh.asked).equal(0)
    fresh.clock.advance(1)
    fresh.clock.advance(1000)
    expect(fresh.silentMs).equal(2000)
  })

  it('says nothing while no call waits, nor after it was stopped, and counts anew from the next call', () => {
    const idle = rig(5)
    idle.waiting = false
    idle.clock.advance(5_000)
    expect([idle.asked, idle.silentMs]).deep.equal([0, undefined])
    idle.waiting = true
    idle.pulse.waits()
    idle.clock.advance(200)
    expect([idle.asked, idle.silentMs]).deep.equal([1, undefined])
    idle.pulse.stop()
    idle.clock.advance(5_000)
    expect([idle.asked, idle.silentMs]).deep.equal([1, undefined])
  })

  it('does not take a standstill of its own process for silence', () => {
    const frozen = rig(5)
    frozen.clock.advance(60_000)
    expect([frozen.asked, frozen.silentMs]).deep.equal([0, undefined])
    frozen.clock.advance(200)
    expect([frozen.asked, frozen.silentMs]).deep.equal([1, undefined])
  })
})
