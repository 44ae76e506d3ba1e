/** The filter before the store's outcomes: it may say "maybe" too often, and never rules out one that is there. */

import { expect } from 'chai'
import { Prng } from '../../../src/base/prng.ts'
import { keys } from '../../../src/core/meta/keys.ts'
import { outcomesMax } from '../../../src/core/meta/outcomes.ts'
import { KnownOutcomes } from '../../../src/services/meta/known-outcomes.ts'

/** Key number `n`, random and always the same. */
function keyOf(n: number): Uint8Array {
  const random = new Prng(n)
  const key = keys.outcome('0'.repeat(32))
  for (let i = 1; i < key.length; i++) key[i] = random.below(256)
  return key
}

function unexpected(error: unknown): never {
  throw error
}

async function* nothing(): AsyncGenerator<{ key: Uint8Array }> {
  yield* []
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** A filter over a store that holds keys `from` to `to`, and how often it was read. */
function over(from: number, to: number) {
  const store = { reads: 0, held: Promise.resolve() }
  const read = async function* (): AsyncGenerator<{ key: Uint8Array }> {
    store.reads++
    await store.held
    for (let n = from; n < to; n++) {
      if (n % 100 === 0) await settle()
      yield { key: keyOf(n) }
    }
  }
  return { store, known: new KnownOutcomes(read, false, unexpected) }
}

describe('known outcomes', () => {
  it('are never ruled out, and nearly all others are', () => {
    const known = new KnownOutcomes(nothing, true, unexpected)
    for (let n = 0; n < 20_000; n++) {
      expect(known.mayHold(keyOf(n))).to.equal(false)
      known.wrote(keyOf(n))
    }
    for (let n = 0; n < 20_000; n++) expect(known.mayHold(keyOf(n))).to.equal(true)
    let maybe = 0
    for (let n = 20_000; n < 40_000; n++) if (known.mayHold(keyOf(n))) maybe++
    expect(maybe).to.be.below(20)
  })

  it('rule nothing out before those of earlier were read, which begins when it pays', async () => {
    const { store, known } = over(0, 500)
    let go: (() => void) | undefined
    store.held = new Promise((resolve) => {
      go = resolve
    })
    for (let n = 0; n < 999; n++) expect(known.mayHold(keyOf(1000))).to.equal(true)
    expect(store.reads).to.equal(0)
    known.mayHold(keyOf(1000))
    known.wrote(keyOf(2000))
    for (let n = 0; n < 2000; n++) expect(known.mayHold(keyOf(1000))).to.equal(true)
    expect(store.reads).to.equal(1)
    go?.()
    while (known.mayHold(keyOf(1000))) await settle()
    for (let n = 0; n < 500; n++) expect(known.mayHold(keyOf(n))).to.equal(true)
    expect(known.mayHold(keyOf(2000))).to.equal(true)
    await known.stop()
  })

  it('are kept until so many came after them that the state has forgotten them', async () => {
    const { known } = over(0, 100)
    for (let n = 0; n < 1000; n++) known.mayHold(keyOf(0))
    while (known.mayHold(keyOf(-1))) await settle()
    known.wrote(keyOf(100))
    // Of the many that follow only the number counts: the same key sets no further bits.
    const filler = keyOf(101)
    for (let n = 0; n < outcomesMax - 1; n++) known.wrote(filler)
    for (let n = 0; n <= 100; n++) expect(known.mayHold(keyOf(n)), `key ${n}`).to.equal(true)
    for (let n = 0; n < 2 * outcomesMax; n++) known.wrote(filler)
    for (let n = 0; n <= 100; n++) expect(known.mayHold(keyOf(n)), `key ${n}`).to.equal(false)
  })

  it('stop reading when they are told to', async () => {
    const { known } = over(0, Number.MAX_SAFE_INTEGER)
    for (let n = 0; n < 1000; n++) known.mayHold(keyOf(0))
    await settle()
    await known.stop()
    expect(known.mayHold(keyOf(-1))).to.equal(true)
  })
})
