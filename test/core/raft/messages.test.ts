/** The codec of raft messages: round trips, and refusal of what would break the core's assumptions. */

import { expect } from 'chai'
import { SchemaError } from '../../../src/base/schema.ts'
import { Prng } from '../../../src/base/prng.ts'
import {
  type AppendRequest,
  decodeConfig,
  decodeMessage,
  encodeConfig,
  encodeMessage,
  type Message,
  MessageEncoder,
} from '../../../src/core/raft/messages.ts'
import { decodeReceipt, receiptOf } from '../../../src/core/raft/receipts.ts'
import type { Entry } from '../../../src/core/raft/types.ts'
import { termMax } from '../../../src/model/fence.ts'
import { configOf } from './network.ts'

const ends = { from: 'a', to: 'b' } as const
const payload = Uint8Array.of(1, 2, 3)
const messages: Message[] = [
  { ...ends, kind: 'vote', term: 3, pre: true, forced: false, lastIndex: 7, lastTerm: 2 },
  { ...ends, kind: 'voteReply', term: 3, pre: false, granted: true },
  {
    ...ends,
    kind: 'append',
    term: 3,
    session: 1,
    prevIndex: 7,
    prevTerm: 2,
    commit: 6,
    entries: [
      { index: 8, term: 2, type: 'command', payload },
      { index: 9, term: 3, type: 'noop', payload: new Uint8Array(0) },
    ],
  },
  { ...ends, kind: 'appendReply', term: 3, session: 1, accepted: false, index: 7, hintIndex: 5, hintTerm: 1 },
  { ...ends, kind: 'heartbeat', term: 3, commit: 6, context: 12 },
  { ...ends, kind: 'heartbeatReply', term: 3, context: 12 },
  {
    ...ends,
    kind: 'snapshot',
    term: 3,
    session: 1,
    index: 7,
    indexTerm: 2,
    configIndex: 1,
    config: configOf(['a', 'b']),
  },
  { ...ends, kind: 'timeoutNow', term: 3, lastIndex: 7, lastTerm: 3 },
  { ...ends, kind: 'readIndex', term: 3, context: 2 ** 52 + 1 },
  { ...ends, kind: 'readIndexReply', term: 3, context: 2 ** 52 + 1, index: 7 },
]

function appendWith(prevIndex: number, prevTerm: number, term: number, entries: readonly [number, number][]): Message {
  return {
    ...ends,
    kind: 'append',
    term,
    session: 1,
    prevIndex,
    prevTerm,
    commit: 0,
    entries: entries.map(([index, entryTerm]) => ({ index, term: entryTerm, type: 'command', payload })),
  }
}

describe('raft messages', () => {
  for (const message of messages) {
    it(`${message.kind} comes back as it was sent`, () => {
      expect(decodeMessage(encodeMessage(message), 'a', 'b')).to.deep.equal(message)
    })
  }

  it('payloads of a large message are copies, so that none pins all of it', () => {
    const append = messages[2] as AppendRequest
    const first = append.entries[0] as Entry
    const large = { ...first, payload: new Uint8Array(100_000).fill(7) }
    const second = { ...first, index: first.index + 1, payload: Uint8Array.of(1, 2, 3) }
    const encoded = encodeMessage({ ...append, entries: [large, second] })
    const decoded = decodeMessage(encoded, 'a', 'b') as AppendRequest
    for (const entry of decoded.entries) expect(entry.payload.buffer).not.equal(encoded.buffer)
    encoded.fill(0)
    expect(decoded.entries[1]?.payload).deep.equal(Uint8Array.of(1, 2, 3))
  })

  it('an encoder gives every receiver the bytes of the message alone, whatever it encoded before', () => {
    const append = messages[2] as AppendRequest
    const first = append.entries[0] as Entry
    const run = [0, 1, 2].map((i) => ({ ...first, index: first.index + i, payload: Uint8Array.of(i) }))
    const other = { ...(run[2] as Entry), payload: Uint8Array.of(9) }
    const encoder = new MessageEncoder()
    const middle = [run[0] as Entry, { ...(run[1] as Entry), payload: Uint8Array.of(8) }, run[2] as Entry]
    const lists = [run, [...run], middle, run.slice(0, 2), run.slice(1), [...run.slice(0, 2), other], [], run]
    for (const [i, entries] of lists.entries()) {
      const message: AppendRequest = { ...append, to: `m${i}`, session: i, commit: i, entries }
      expect(encoder.encode(message)).deep.equal(encodeMessage(message))
      if (i === 4) encoder.forget()
    }
    for (const message of messages) expect(encoder.encode(message)).deep.equal(encodeMessage(message))
  })

  it('entries with gaps, falling terms or terms above the message are refused', () => {
    for (const bad of [
      appendWith(7, 2, 3, [[9, 3]]),
      appendWith(7, 2, 3, [[8, 1]]),
      appendWith(7, 2, 3, [[8, 4]]),
      appendWith(7, 2, 3, [
        [8, 3],
        [9, 2],
      ]),
    ]) {
      expect(() => decodeMessage(encodeMessage(bad), 'a', 'b')).to.throw(SchemaError)
    }
  })

  it('a configuration of voters alone has the bytes of version 1, any other begins with a zero byte', () => {
    const plain = encodeConfig(configOf(['a']))
    const incarnation = [...new Uint8Array(15), 0x10]
    expect([...plain]).to.deep.equal([1, 1, 97, ...incarnation.with(14, 0x06), 1, 3, 97, 58, 49])
    for (const config of [
      configOf(['a', 'b:learner']),
      configOf(['a', 'b', 'w:witness']),
      configOf(['a', 'b:leaving'], ['a', 'b']),
      configOf(['a', 'b', 'w:leaving-witness'], ['a', 'b', 'w']),
      configOf(['a', 'b'], ['a']),
    ]) {
      const encoded = encodeConfig(config)
      expect(encoded[0]).to.equal(0)
      expect(decodeConfig(encoded)).to.deep.equal(config)
    }
  })

  it('a receipt says what was in its place, and nothing else takes its place', () => {
    const whole = { index: 8, term: 3, type: 'command', payload } as const
    const receipt = receiptOf(whole)
    expect(receipt).to.include({ index: 8, term: 3, type: 'receipt' })
    expect(decodeReceipt(receipt.payload)).to.deep.equal({ type: 'command', length: 3, crc: 0xf130f21e })
    const other = { ...whole, type: 'noop' } as const
    expect(receiptOf(other)).to.equal(other)
    const bad = appendWith(7, 2, 3, [[8, 3]]) as Message & { kind: 'append' }
    const entries = bad.entries.map((item) => ({ ...item, type: 'receipt' as const, payload: new Uint8Array(1) }))
    expect(() => decodeMessage(encodeMessage({ ...bad, entries }), 'a', 'b')).to.throw(SchemaError)
  })

  it('any damage gives a message or a SchemaError, never another failure', () => {
    const random = new Prng(9)
    for (let round = 0; round < 3000; round++) {
      const encoded = encodeMessage(messages[random.below(messages.length)] as Message)
      for (let i = 0; i <= random.below(3); i++) encoded[random.below(encoded.length)] = random.below(256)
      const cut = encoded.subarray(0, random.chance(0.5) ? encoded.length : random.below(encoded.length + 1))
      try {
        decodeMessage(cut, 'a', 'b')
      } catch (error) {
        expect(error).to.be.instanceOf(SchemaError)
      }
    }
  })

  it('a term that fences have no room for is refused', () => {
    const fine = encodeMessage({ ...ends, kind: 'heartbeat', term: termMax, commit: 0, context: 0 })
    expect(decodeMessage(fine, 'a', 'b').term).to.equal(termMax)
    for (const term of [termMax + 1, Number.MAX_SAFE_INTEGER]) {
      for (const message of messages) {
        expect(() => decodeMessage(encodeMessage({ ...message, term }), 'a', 'b'), message.kind).to.throw(SchemaError)
      }
    }
  })
})
