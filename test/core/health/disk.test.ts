/** Health of one disk: what each error ends as, when it is suspect, and that it does not flap. */

import { expect } from 'chai'
import fc from 'fast-check'
import {
  calmMs,
  DiskHealth,
  diskHealthTimes,
  errorsSuspect,
  errorWindowMs,
  type IoErrorClass,
  type IoKind,
  ioErrorClass,
} from '../../../src/core/health/disk.ts'
import { StoreError } from '../../../src/model/errors.ts'

const { suspectMs, failMs } = diskHealthTimes

/** A system error as node:fs gives it. */
function system(code: string): Error {
  return Object.assign(new Error(`${code}: something`), { code })
}

describe('health of a disk', () => {
  describe('what one I/O error ends as', () => {
    const table: readonly (readonly [IoKind, IoErrorClass, string])[] = [
      ['read', 'io', 'ok'],
      ['lookup', 'io', 'ok'],
      ['read', 'other', 'ok'],
      ['write', 'io', 'failed'],
      ['write', 'full', 'ok'],
      ['write', 'other', 'ok'],
      ['write', 'read-only', 'read-only'],
      ['sync', 'io', 'failed'],
      ['sync', 'other', 'failed'],
      ['sync', 'full', 'read-only'],
      ['sync', 'read-only', 'read-only'],
      ['index', 'io', 'failed'],
      ['index', 'other', 'failed'],
      ['index', 'full', 'read-only'],
      ['index', 'read-only', 'read-only'],
    ]
    for (const [kind, error, state] of table) {
      it(`${kind}, ${error}: ${state}`, () => {
        const health = new DiskHealth()
        health.error(kind, error, 'EX: words', 'here', 0)
        const verdict = health.verdict(0)
        expect(verdict.state).equal(state)
        if (state !== 'ok') expect(verdict.reason).match(/(writing|syncing).*EX: words/)
      })
    }
  })

  it('reads what the system calls an error through its causes, and by words where there is no code', () => {
    expect(ioErrorClass(system('EIO'))).equal('io')
    expect(ioErrorClass(system('ENOSPC'))).equal('full')
    expect(ioErrorClass(system('EDQUOT'))).equal('full')
    expect(ioErrorClass(system('EROFS'))).equal('read-only')
    expect(ioErrorClass(system('EMFILE'))).equal('other')
    expect(ioErrorClass(new StoreError('NO_SPACE', 'full'))).equal('full')
    expect(ioErrorClass(new StoreError('IO', 'write', { cause: system('EROFS') }))).equal('read-only')
    expect(ioErrorClass(new Error('IO error: 000007.log: Read-only file system'))).equal('read-only')
    expect(ioErrorClass('EIO')).equal('io')
  })

  it('is suspect at the third place that cannot be read, and ok when the window holds none of them any more', () => {
    const health = new DiskHealth()
    for (let i = 0; i < errorsSuspect; i++) {
      expect(health.verdict(i).state).equal('ok')
      health.error('read', 'io', 'EIO', `1:${i}`, i)
    }
    expect(health.verdict(10)).deep.equal({ state: 'suspect', reason: '3 places could not be read within 10 minutes' })
    // One of three is forgotten: below the threshold it came in by, and still not ok.
    expect(health.verdict(errorWindowMs).state).equal('suspect')
    expect(health.verdict(errorWindowMs + errorsSuspect).state).equal('ok')
  })

  it('counts a place once, however often it is read', () => {
    const health = new DiskHealth()
    for (let i = 0; i < 50; i++) health.error('read', 'io', 'EIO', `1:${i % (errorsSuspect - 1)}`, i)
    expect(health.verdict(50).state).equal('ok')
  })

  it('never fails for what it cannot read: it may hold the last copy of something', () => {
    const health = new DiskHealth()
    for (let i = 0; i < 10_000; i++) health.error('read', 'io', 'EIO', `1:${i}`, i)
    expect(health.verdict(10_000).state).equal('suspect')
  })

  it('is suspect after a slow I/O, ok again a while later, and failed when one does not return', () => {
    const health = new DiskHealth()
    health.waiting('sync', suspectMs, 1000)
    expect(health.verdict(1000).state).equal('ok')
    health.waiting('sync', suspectMs + 1, 2000)
    expect(health.verdict(2000)).deep.equal({ state: 'suspect', reason: 'syncing took 5.0 s' })
    health.done('sync', suspectMs + 500, 2500)
    expect(health.verdict(2500 + calmMs - 1).state).equal('suspect')
    expect(health.verdict(2500 + calmMs).state).equal('ok')
    health.waiting('write', failMs, 100_000)
    expect(health.verdict(100_000)).deep.equal({ state: 'failed', reason: 'writing: no answer within 30 s' })
  })

  it('comes out of read-only and failed by nothing', () => {
    const health = new DiskHealth()
    health.error('write', 'read-only', 'EROFS', '', 0)
    for (let at = 0; at < 1e9; at += 1e8) expect(health.verdict(at).state).equal('read-only')
    health.error('write', 'io', 'EIO', '', 1e9)
    expect(health.verdict(1e9).state).equal('failed')
    health.error('write', 'read-only', 'EROFS', '', 1e9)
    health.done('sync', 1, 1e9)
    expect(health.verdict(2e9)).deep.equal({ state: 'failed', reason: 'writing: EIO' })
  })

  it('tells nine in ten of the last minute', () => {
    const health = new DiskHealth()
    expect(health.figures(0)).deep.equal({ syncMs: 0, readMs: 0, errors: 0 })
    for (let i = 0; i < 100; i++) health.done('sync', i < 80 ? 1 : 200, i)
    expect(health.figures(100).syncMs).within(100, 250)
    for (let i = 0; i < 100; i++) health.done('sync', 1, 50_000)
    expect(health.figures(69_000).syncMs).at.most(1)
    expect(health.figures(111_000).syncMs).equal(0)
  })

  it('does not flap on constant input, whatever it is', () => {
    const input = fc.record({
      readError: fc.boolean(),
      places: fc.integer({ min: 1, max: 8 }),
      everyMs: fc.integer({ min: 500, max: 400_000 }),
      tookMs: fc.integer({ min: 0, max: 12_000 }),
    })
    fc.assert(
      fc.property(input, ({ readError, places, everyMs, tookMs }) => {
        const health = new DiskHealth()
        let changes = 0
        let before = 'ok'
        for (let i = 1; i <= 200; i++) {
          const nowMs = i * everyMs
          if (readError) health.error('read', 'io', 'EIO', `1:${i % places}`, nowMs)
          health.done('read', tookMs, nowMs)
          // Looked at between the inputs too: what a heartbeat does.
          for (const atMs of [nowMs, nowMs + everyMs / 2]) {
            const { state } = health.verdict(atMs)
            if (state !== before) changes++
            before = state
          }
        }
        // Slow ones further apart than the calm time are separate events, not one that flaps.
        expect(changes).at.most(everyMs / 2 >= calmMs && tookMs > suspectMs ? 400 : 1)
      }),
      { numRuns: 200 },
    )
  })
})
