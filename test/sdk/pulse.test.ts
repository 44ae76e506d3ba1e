/** A meta node that hangs is told from one that is slow. */

import { expect } from 'chai'
import { Pulse } from '../../src/sdk/pulse.ts'
import type { Traffic } from '../../src/ports/net.ts'
import { ManualClock } from '../support/manual-clock.ts'

interface Rig {
  readonly clock: ManualClock
  readonly pulse: Pulse
  waiting: boolean
  asked: number
  silentMs: number | undefined
  traffic: Traffic
}

const still: Traffic = { receivedBytes: 0, queuedBytes: 0 }

/** A link whose first answer came after `firstMs`, with a call that waits from then on. */
function rig(firstMs: number | undefined): Rig {
  const clock = new ManualClock()
  const out = { clock, waiting: true, asked: 0, silentMs: undefined as number | undefined, traffic: still }
  const pulse = new Pulse(
    clock,
    () => out.waiting,
    () => {
      out.asked++
    },
    (silentMs) => {
      out.silentMs = silentMs
    },
    () => out.traffic,
  )
  if (firstMs !== undefined) {
    clock.advance(firstMs)
    pulse.heard()
  }
  pulse.waits()
  return Object.assign(out, { pulse })
}

/** Time passes in small steps. */
function pass(one: Rig, byMs: number): void {
  for (let passedMs = 0; passedMs < byMs; passedMs += 10) one.clock.advance(10)
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

  it('takes bytes of a message that is not whole for a sign of life', () => {
    const one = rig(5)
    for (let round = 1; round <= 100; round++) {
      one.clock.advance(50)
      one.traffic = { receivedBytes: round * 1000, queuedBytes: 0 }
    }
    expect(one.silentMs).equal(undefined)
    pass(one, 600)
    expect(one.silentMs).be.within(400, 600)
  })

  it('gives what waits to be sent its time, and an answer its own when it is sent', () => {
    const one = rig(5)
    one.traffic = { receivedBytes: 0, queuedBytes: 1024 * 1024 }
    pass(one, 5_000)
    expect(one.silentMs).equal(undefined)
    one.traffic = still
    pass(one, 390)
    expect(one.silentMs).equal(undefined)
    pass(one, 400)
    expect(one.silentMs).be.within(400, 800)
    // A line that takes nothing at all is given up.
    const stuck = rig(5)
    stuck.traffic = { receivedBytes: 0, queuedBytes: 64 * 1024 }
    pass(stuck, 2_000)
    expect(stuck.silentMs).be.within(900, 1_200)
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
