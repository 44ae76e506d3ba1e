/** The codec of raft messages: round trips, and refusal of what would break the core's assumptions. */

import { expect } from 'chai'
import { SchemaError } from '../../../src/base/schema.ts'
import { Prng } from '../../../src/base/prng.ts'
import {
  decodeConfig,
  decodeMessage,
  encodeConfig,
  encodeMessage,
  type Message,
} from '../../../src/core/raft/messages.ts'
import { decodeReceipt, receiptOf } from '../../../src/core/raft/receipts.ts'
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

  it('payloads are copies, not views on the frame', () => {
    const encoded = encodeMessage(messages[2] as Message)
    const decoded = decodeMessage(encoded, 'a', 'b')
    encoded.fill(0)
    expect(decoded.kind === 'append' && decoded.entries[0]?.payload).to.deep.equal(payload)
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
