/** The linearizability checkers: golden histories, and the search against the brute-force oracle on random ones. */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import { bruteForce } from '../../../src/sim/check/brute-force.ts'
import { checkExact } from '../../../src/sim/check/exact.ts'
import { checkLinearizable } from '../../../src/sim/check/linearizable.ts'
import {
  emptyRegister,
  type Operation,
  type RegisterOp,
  type RegisterResult,
  stepRegister,
} from '../../../src/sim/check/register.ts'
import { checkRegister } from '../../../src/sim/check/wgl.ts'

function done(call: number, end: number, op: RegisterOp, result: RegisterResult, key = 'k'): Operation {
  return { client: `c${call}`, key, op, call, return: end, result }
}

function unknown(call: number, op: RegisterOp, key = 'k'): Operation {
  return { client: `c${call}`, key, op, call, return: undefined, result: undefined }
}

const put = (value: string): RegisterOp => ({ kind: 'put', value })
const get: RegisterOp = { kind: 'get' }
const saw = (value: string | undefined, version?: number): RegisterResult => ({ ok: true, value, version })
const made = (version?: number): RegisterResult => ({ ok: true, version })

function verdict(history: readonly Operation[]): string {
  const { violations, undecided } = checkLinearizable(history)
  return violations[0] ?? undecided[0] ?? 'fine'
}

describe('sim: linearizability: golden histories', () => {
  it('accepts and refuses the pair of the Porcupine readme', () => {
    const start = [done(0, 0, put('0'), made())]
    const legal = [...start, done(1, 10, put('100'), made()), done(2, 8, get, saw('100')), done(3, 6, get, saw('0'))]
    const illegal = [...start, done(1, 10, put('200'), made()), done(2, 4, get, saw('200')), done(5, 8, get, saw('0'))]
    expect(verdict(legal)).to.equal('fine')
    expect(verdict(illegal)).to.contain('no order of its 4 operations makes sense')
  })

  for (const versions of [true, false]) {
    const at = (version: number): number | undefined => (versions ? version : undefined)
    const how = versions ? 'by versions' : 'by search'

    it(`finds a stale read, ${how}`, () => {
      const history = [done(0, 1, put('a'), made(at(3))), done(2, 3, put('b'), made(at(5)))]
      expect(verdict([...history, done(4, 6, get, saw('b', at(5)))])).to.equal('fine')
      expect(verdict([...history, done(4, 6, get, saw('a', at(3)))])).to.not.equal('fine')
    })

    it(`finds a lost update, ${how}`, () => {
      const first = done(0, 1, put('a'), made(at(1)))
      const cas = (value: string): RegisterOp => ({ kind: 'cas', onValue: 'a', value })
      expect(verdict([first, done(2, 9, cas('b'), made(at(2))), done(3, 9, cas('c'), { ok: false })])).to.equal('fine')
      expect(verdict([first, done(2, 9, cas('b'), made(at(2))), done(3, 9, cas('c'), made(at(3)))])).to.not.equal(
        'fine',
      )
    })

    it(`finds a write that was applied twice, ${how}`, () => {
      const history = [done(0, 1, put('a'), made(at(1))), done(2, 3, put('b'), made(at(2)))]
      expect(verdict([...history, done(4, 5, get, saw('a', versions ? 7 : undefined))])).to.not.equal('fine')
    })

    it(`finds a read of what is written later, ${how}`, () => {
      expect(verdict([done(0, 1, get, saw('a', at(1))), done(2, 3, put('a'), made(at(1)))])).to.not.equal('fine')
    })

    it(`finds a delete that comes undone, ${how}`, () => {
      const history = [done(0, 1, put('a'), made(at(1))), done(2, 3, { kind: 'delete' }, made(at(2)))]
      expect(verdict([...history, done(4, 5, get, saw(undefined, at(2)))])).to.equal('fine')
      expect(verdict([...history, done(4, 5, get, saw('a', at(1)))])).to.not.equal('fine')
    })
  }

  it('lets a write of unknown outcome happen late or never, and a read without an answer say nothing', () => {
    const history = [done(0, 1, put('a'), made(1)), unknown(2, put('b')), unknown(2, get)]
    expect(verdict([...history, done(5, 6, get, saw('a', 1)), done(8, 9, get, saw('b', 4))])).to.equal('fine')
    expect(verdict([...history, done(5, 6, get, saw('b', 4)), done(8, 9, get, saw('a', 1))])).to.not.equal('fine')
  })

  it('keeps keys apart, and conditions on versions honest', () => {
    const cas = (onVersion: number): RegisterOp => ({ kind: 'cas', onVersion, value: 'n' })
    expect(verdict([done(0, 1, cas(0), made(2)), done(0, 1, cas(0), made(3), 'other')])).to.equal('fine')
    expect(verdict([done(0, 1, cas(0), made(2)), done(2, 3, cas(1), made(3))])).to.not.equal('fine')
    expect(verdict([done(0, 1, cas(0), made(2)), done(2, 3, cas(2), { ok: false })])).to.not.equal('fine')
  })

  it('tells that the steps ran out instead of giving a verdict', () => {
    const history = [done(0, 1, put('a'), made()), done(2, 3, get, saw('a'))]
    expect(checkRegister(history, 1).outcome).to.equal('undecided')
  })

  it('checks a long history of few versions in linear time', () => {
    const history: Operation[] = []
    for (let i = 0; i < 20_000; i++) {
      const writes = i % 2 === 0
      const result = writes ? made(i + 1) : saw(`v${i - 1}`, i)
      history.push(done(2 * i, 2 * i + 3, writes ? put(`v${i}`) : get, result))
    }
    expect(verdict(history)).to.equal('fine')
  })
})

/** A history that a real register could have given: operations take effect at one moment between call and return. */
function legalHistory(prng: Prng): Operation[] {
  let state = emptyRegister
  const count = 2 + prng.below(6)
  const history: Operation[] = []
  for (let i = 0; i < count; i++) {
    const moment = i * 10
    const op = drawOp(prng, i)
    const result = resultOf(state, op, i + 1)
    const next = stepRegister(state, op, result)
    if (next === undefined) throw new Error('the register answers itself')
    const lost = prng.chance(0.15)
    if (!lost || prng.chance(0.5)) state = next
    const call = moment - prng.below(25)
    const told = prng.chance(0.6) ? result : { ...result, version: undefined }
    history.push(lost ? { ...unknown(call, op), client: `c${i}` } : done(call, moment + prng.below(25), op, told))
  }
  return history
}

function drawOp(prng: Prng, i: number): RegisterOp {
  const value = `v${prng.chance(0.8) ? i : prng.below(3)}`
  const kind = prng.below(5)
  if (kind === 0) return { kind: 'delete' }
  if (kind === 1) return { kind: 'cas', onValue: `v${prng.below(4)}`, value }
  if (kind === 2) return { kind: 'cas', onVersion: prng.below(4), value }
  return kind === 3 ? get : { kind: 'put', value }
}

function resultOf(state: typeof emptyRegister, op: RegisterOp, version: number): RegisterResult {
  if (op.kind === 'get') return saw(state.value, state.version)
  const result = { ok: true, version }
  return stepRegister(state, op, result) === undefined ? { ok: false } : result
}

/** One answer is changed, or one operation moved in time. */
function mutate(prng: Prng, history: readonly Operation[]): Operation[] {
  const position = prng.below(history.length)
  return history.map((operation, i) => {
    if (i !== position || operation.result === undefined || operation.return === undefined) return operation
    const { result } = operation
    const change = prng.below(4)
    if (change === 0) return { ...operation, result: { ...result, ok: !result.ok } }
    if (change === 1) return { ...operation, result: { ...result, version: prng.below(8) } }
    if (change === 2) return { ...operation, result: { ...result, value: `v${prng.below(4)}` } }
    const by = prng.below(60) - 30
    return { ...operation, call: operation.call + by, return: operation.return + by }
  })
}

describe('sim: linearizability: search against brute force', () => {
  it('agrees on 20,000 random small histories, legal and changed; the exact check never finds fault with a good one', () => {
    const prng = new Prng(20260101)
    const counts = { good: 0, bad: 0, exact: 0 }
    for (let round = 0; round < 20_000; round++) {
      const legal = legalHistory(prng)
      const history = round % 2 === 0 ? legal : mutate(prng, legal)
      const expected = bruteForce(history)
      const found = checkRegister(history).outcome === 'linearizable'
      if (found !== expected) expect.fail(`round ${round}: brute force says ${expected}: ${JSON.stringify(history)}`)
      if (expected) counts.good++
      else counts.bad++
      if (checkExact(history) === undefined) continue
      counts.exact++
      if (expected) expect.fail(`round ${round}: the exact check is wrong: ${JSON.stringify(history)}`)
    }
    expect(counts.good).to.be.greaterThan(8000)
    expect(counts.bad).to.be.greaterThan(2000)
    expect(counts.exact).to.be.greaterThan(500)
  })
})
