/** The arithmetic of the scrub: rates, pauses, debt, and the cursor's bytes. */

import { expect } from 'chai'
import {
  debtMs,
  decodeScrubCursor,
  encodeScrubCursor,
  neededRate,
  pauseMs,
  RateMeter,
  restMs,
  scrubRate,
} from '../../../src/core/chunk/scrub.ts'
import { testHasher } from '../../support/disk-world.ts'

const dayMs = 24 * 60 * 60 * 1000
const week = { periodMs: 7 * dayMs, rateMin: 1 << 20, rateMax: 128 << 20 }
const tib = 1024 ** 4

describe('scrub policy', () => {
  it('reads what the period needs, and more when the pass is late', () => {
    const needed = (remainingBytes: number, nowMs: number): number =>
      neededRate({ startedMs: 0, remainingBytes }, nowMs, week.periodMs)
    expect(needed(10 * tib, 0)).to.be.within((10 * tib) / (7 * 86_400), (1.2 * 10 * tib) / (7 * 86_400))
    expect(needed(5 * tib, 3.15 * dayMs)).to.be.closeTo(needed(10 * tib, 0), 1000)
    expect(needed(5 * tib, 6 * dayMs)).to.be.greaterThan(3 * needed(10 * tib, 0))
    // A late pass is caught up over a part of the period, not at once; a clock that jumped back changes nothing.
    expect(needed(tib, 30 * dayMs)).to.be.closeTo(tib / (0.35 * 86_400), 1000)
    expect(needed(tib, -dayMs)).to.equal(needed(tib, 0))
  })

  it('runs ahead on an idle disk, keeps to what is needed on a busy one, never above the cap', () => {
    const rate = (needed: number, busy: boolean, hurried = false): number => scrubRate(week, needed, { busy, hurried })
    expect(rate(10 << 20, false)).to.equal(40 << 20)
    expect(rate(10 << 20, true)).to.equal(10 << 20)
    expect(rate(10, false)).to.equal(week.rateMin)
    expect(rate(10, true)).to.equal(10)
    expect(rate(200 << 20, true)).to.equal(week.rateMax)
    expect(rate(0, true, true)).to.equal(week.rateMax)
  })

  it('leaves a disk with clients alone for longer than it used it, whatever the rate', () => {
    expect(pauseMs(1 << 20, 10, 1 << 20, false)).to.equal(990)
    expect(pauseMs(1 << 20, 1000, 100 << 20, false)).to.equal(0)
    expect(pauseMs(1 << 20, 1000, 100 << 20, true)).to.equal(3000)
    expect(pauseMs(1 << 20, 10, 1 << 20, true)).to.equal(990)
  })

  it('is in debt by what the pass will be too old, and by nothing on target', () => {
    const debt = (remainingBytes: number, days: number, rate: number): number =>
      debtMs({ startedMs: 0, remainingBytes }, days * dayMs, rate, week.periodMs)
    expect(debt(tib, 0, tib / 86_400)).to.equal(0)
    expect(debt(tib, 6.5, tib / 86_400)).to.be.closeTo(dayMs / 2, 10)
    expect(debt(0, 9, 1)).to.equal(2 * dayMs)
    // At the rate that is needed there is none.
    const needed = neededRate({ startedMs: 0, remainingBytes: tib }, 2 * dayMs, week.periodMs)
    expect(debt(tib, 2, needed)).to.equal(0)
  })

  it('rests between the passes of a small disk', () => {
    expect(restMs(0, 60_000, week.periodMs)).to.equal(dayMs - 60_000)
    expect(restMs(0, 2 * dayMs, week.periodMs)).to.equal(0)
  })

  it('measures a rate of the last minute', () => {
    const meter = new RateMeter(60_000)
    expect(meter.rate).to.equal(undefined)
    for (let at = 0; at <= 60_000; at += 1000) meter.add(2000, at)
    expect(meter.rate).to.be.closeTo(2000, 1)
    for (let at = 61_000; at <= 400_000; at += 1000) meter.add(500, at)
    expect(meter.rate).to.be.closeTo(500, 20)
    meter.reset()
    expect(meter.rate).to.equal(undefined)
  })

  it('keeps its cursor in bytes that check themselves', () => {
    const sum = (bytes: Uint8Array, out: Uint8Array, at: number): void => testHasher.sumInto(bytes, out, at)
    const cursor = {
      pass: 3,
      startedMs: 1_700_000_000_000,
      finishedMs: 1_600_000_000_000,
      running: true,
      hurried: false,
      extent: 77,
      until: 90,
      scannedBytes: 123_456,
      totalBytes: 987_654,
    }
    const bytes = encodeScrubCursor(cursor, sum)
    expect(decodeScrubCursor(bytes, sum)).to.deep.equal(cursor)
    for (let at = 0; at < bytes.length; at++) {
      const bad = bytes.slice()
      bad[at] = (bad[at] ?? 0) ^ 0x40
      expect(decodeScrubCursor(bad, sum), `byte ${at}`).to.equal(undefined)
    }
    expect(decodeScrubCursor(new Uint8Array(3), sum)).to.equal(undefined)
  })
})
