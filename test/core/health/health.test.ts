/** Health: what moves a node between up, suspected and down. */

import { expect } from 'chai'
import fc from 'fast-check'
import { type HealthEvent, HealthWatch } from '../../../src/core/health/health.ts'

const times = { suspectMs: 3000, downMs: 10_000 }
const node = 'a'

function attached(): HealthWatch {
  const watch = new HealthWatch(times)
  watch.feed({ kind: 'attached', node }, 0)
  return watch
}

describe('health', () => {
  it('suspects a silent node after suspectMs and calls it down after downMs', () => {
    const watch = attached()
    expect(watch.nextMs()).to.equal(3000)
    expect(watch.feed({ kind: 'time' }, 2999)).to.deep.equal([])
    expect(watch.feed({ kind: 'time' }, 3000).map((verdict) => verdict.kind)).to.deep.equal(['suspected', 'probe'])
    watch.feed({ kind: 'probed', node, outcome: 'silent' }, 3500)
    expect(watch.feed({ kind: 'time' }, 9999).map((verdict) => verdict.kind)).to.deep.equal(['probe'])
    expect(watch.feed({ kind: 'time' }, 10_000).map((verdict) => verdict.kind)).to.deep.equal(['down'])
    expect(watch.nextMs()).to.equal(undefined)
  })

  it('calls a node down within a second when its stream broke and nothing listens', () => {
    const watch = attached()
    expect(watch.feed({ kind: 'lost', node, orderly: false }, 100).map((verdict) => verdict.kind)).to.deep.equal([
      'suspected',
      'probe',
    ])
    let nowMs = 100
    for (let i = 0; i < 2; i++) {
      expect(watch.feed({ kind: 'probed', node, outcome: 'refused' }, nowMs)).to.deep.equal([])
      nowMs = watch.nextMs() ?? 0
      expect(watch.feed({ kind: 'time' }, nowMs)).to.deep.equal([{ kind: 'probe', node }])
    }
    expect(
      watch.feed({ kind: 'probed', node, outcome: 'refused' }, nowMs).map((verdict) => verdict.kind),
    ).to.deep.equal(['down'])
    expect(nowMs).to.be.below(1100)
  })

  it('keeps a node that answers probes suspected until its silence is too long', () => {
    const watch = attached()
    watch.feed({ kind: 'lost', node, orderly: false }, 0)
    let nowMs = 0
    while (nowMs < 10_000) {
      watch.feed({ kind: 'probed', node, outcome: nowMs % 2 === 0 ? 'alive' : 'refused' }, nowMs)
      expect(watch.health(node)).to.equal('suspected')
      nowMs = watch.nextMs() ?? 0
      watch.feed({ kind: 'time' }, nowMs)
    }
    expect(watch.health(node)).to.equal('down')
  })

  it('lets time pass when a node is suspected again while an earlier probe is under way', () => {
    const watch = attached()
    watch.feed({ kind: 'lost', node, orderly: false }, 100)
    watch.feed({ kind: 'attached', node }, 200)
    watch.feed({ kind: 'lost', node, orderly: false }, 300)
    expect(watch.feed({ kind: 'time' }, 300)).to.deep.equal([])
    expect(watch.nextMs()).to.be.above(300)
  })

  it('reaches every deadline it names, whatever fraction of a millisecond a node was heard at', () => {
    for (let i = 1; i <= 2000; i++) {
      const watch = new HealthWatch(times)
      watch.feed({ kind: 'attached', node }, i * 1234.567_891)
      for (let step = 0; step < 2; step++) {
        const dueMs = watch.nextMs() ?? Number.NaN
        expect(watch.feed({ kind: 'time' }, dueMs)).to.have.length.above(0)
        watch.feed({ kind: 'probed', node, outcome: 'silent' }, dueMs + 20_000)
      }
    }
  })

  it('does not probe a node that said goodbye', () => {
    const watch = attached()
    const verdicts = watch.feed({ kind: 'lost', node, orderly: true }, 0)
    expect(verdicts.map((verdict) => verdict.kind)).to.deep.equal(['suspected'])
    expect(watch.nextMs()).to.equal(10_000)
  })

  it('is up again when heard while suspected, but only by a registration when down', () => {
    const watch = attached()
    watch.feed({ kind: 'time' }, 3000)
    expect(watch.feed({ kind: 'heard', node }, 3100).map((verdict) => verdict.kind)).to.deep.equal(['up'])
    watch.feed({ kind: 'time' }, 13_100)
    expect(watch.health(node)).to.equal('down')
    expect(watch.feed({ kind: 'heard', node }, 13_200)).to.deep.equal([])
    expect(watch.feed({ kind: 'attached', node }, 13_300).map((verdict) => verdict.kind)).to.deep.equal(['up'])
  })

  it('always has a next time while a node is not down, and never two probes at once', () => {
    const event = fc.oneof(
      fc.constantFrom<HealthEvent>(
        { kind: 'attached', node },
        { kind: 'heard', node },
        { kind: 'lost', node, orderly: false },
        { kind: 'lost', node, orderly: true },
        { kind: 'time' },
      ),
      fc.constantFrom('alive' as const, 'refused' as const, 'silent' as const),
    )
    fc.assert(
      fc.property(fc.array(fc.tuple(event, fc.nat(4000))), (steps) => {
        const watch = new HealthWatch(times)
        watch.feed({ kind: 'known', node, health: 'up' }, 0)
        let nowMs = 0
        let probing = false
        for (const [step, delayMs] of steps) {
          nowMs += delayMs
          if (typeof step === 'string' && !probing) continue
          const fed: HealthEvent = typeof step === 'string' ? { kind: 'probed', node, outcome: step } : step
          if (fed.kind === 'probed') probing = false
          for (const verdict of watch.feed(fed, nowMs)) {
            if (verdict.kind !== 'probe') continue
            expect(probing).to.equal(false)
            probing = true
          }
          if (watch.health(node) !== 'down') expect(watch.nextMs()).to.be.a('number')
        }
      }),
    )
  })
})
