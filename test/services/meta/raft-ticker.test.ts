/** Ticks by a clock that is late. */

import { expect } from 'chai'
import type { Clock } from '../../../src/ports/clock.ts'
import { Ticker } from '../../../src/services/meta/raft-ticker.ts'

/** A clock whose timers fire when the test says so, as late as it likes. */
class LateClock implements Clock {
  nowMs = 0
  #timers: { dueMs: number; run: () => void }[] = []

  monotonicMs(): number {
    return this.nowMs
  }
  wallMs(): number {
    return this.nowMs
  }
  after(delayMs: number, run: () => void): { cancel: () => void } {
    const timer = { dueMs: this.nowMs + delayMs, run }
    this.#timers.push(timer)
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((item) => item !== timer)
      },
    }
  }
  /** Fires what is due, once. */
  fire(): void {
    const due = this.#timers.filter((timer) => timer.dueMs <= this.nowMs)
    this.#timers = this.#timers.filter((timer) => timer.dueMs > this.nowMs)
    for (const timer of due) timer.run()
  }
}

function ticking(): { clock: LateClock; ticker: Ticker; ticks: () => number; lags: number[] } {
  const clock = new LateClock()
  let count = 0
  const lags: number[] = []
  const metrics = {
    count: () => undefined,
    observe: () => undefined,
    gauge: (_: string, __: string, value: number) => lags.push(value),
  }
  const ticker = new Ticker(clock, metrics, 25, () => {
    count++
  })
  ticker.start()
  return { clock, ticker, ticks: () => count, lags }
}

describe('raft ticker', () => {
  it('ticks by the clock: small delays do not add up', () => {
    const { clock, ticks } = ticking()
    for (let ms = 0; ms < 10_000; ms += 4) {
      clock.nowMs = ms
      clock.fire()
    }
    expect(ticks()).to.be.within(398, 400)
  })

  it('after a pause there is one tick, and what arrived meanwhile comes before it', () => {
    const { clock, ticks } = ticking()
    clock.nowMs = 25
    clock.fire()
    expect(ticks()).to.equal(1)
    clock.nowMs = 5000
    clock.fire()
    expect(ticks(), 'inbound first').to.equal(1)
    clock.fire()
    expect(ticks()).to.equal(2)
    clock.nowMs = 5020
    clock.fire()
    expect(ticks(), 'missed ticks are not made up for').to.equal(2)
    clock.nowMs = 5025
    clock.fire()
    expect(ticks()).to.equal(3)
  })

  it('tells how late the event loop was, and stops', () => {
    const { clock, ticker, ticks, lags } = ticking()
    for (let i = 1; i <= 80; i++) {
      clock.nowMs = i * 25 + (i === 10 ? 18 : 0)
      clock.fire()
    }
    expect(lags[0]).to.be.closeTo(0.018, 0.001)
    const before = ticks()
    ticker.stop()
    clock.nowMs += 1000
    clock.fire()
    expect(ticks()).to.equal(before)
  })
})
