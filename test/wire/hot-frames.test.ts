/** Session and Raft frames laid by hand are what the generated protobuf code writes and reads. */

import { expect } from 'chai'
import { StoreError } from '../../src/model/errors.ts'
import { metaMethods, raftMethods } from '../../src/wire/methods.ts'
import { type holdfast, v1 } from '../../src/wire/messages.ts'

type Request = holdfast.v1.MetaRequest.$Properties
type Reply = holdfast.v1.MetaReply.$Properties

const counters = [0, 1, 127, 128, 2 ** 32, 2 ** 53 - 1]
const id = '0123456789abcdef'.repeat(2)
const ticket = { session: id, sequence: 300, lowest: 7 }
const put = { bucket: 'b', key: 'ключ', size: 5, etag: '0'.repeat(16), metadata: { value: 'x'.repeat(1024) } }

const requests: Request[] = [
  {},
  { commit: {} },
  { commit: { commitId: id, lease: 9, operations: [{ put }, { delete: { bucket: 'b', key: 'k' } }] } },
  { commit: { commitId: id, operations: [{ put }] }, ...ticket },
  { commit: null, place: { copies: 3 } },
  { place: { copies: 3 } },
  { openObject: { bucket: 'b', key: 'k', withChunks: true } },
  { grantLease: { ttlMs: 1000 }, ...ticket },
  { status: {} },
]

const object = {
  key: 'k',
  size: 5,
  etag: '0'.repeat(16),
  version: 3,
  modifiedMs: 1_700_000_000_000,
  metadata: { a: 'b' },
}
const replies: Reply[] = [
  {},
  { body: 'commit', commit: {} },
  { body: 'commit', commit: { objects: [object], durable: 3 }, clusterId: id },
  { body: 'commit' },
  { body: 'openObject', openObject: { object, manifest: id, pages: 1, first: { chunks: [{ id: 7 }] } }, clusterId: id },
  { body: 'status', status: {}, clusterId: id },
  { body: 'error', error: { code: 'NOT_LEADER', message: 'no', leader: ['a:1'] }, clusterId: '' },
]

function same(a: Uint8Array, b: Uint8Array, what: string): void {
  expect(Buffer.from(a).toString('hex'), what).equal(Buffer.from(b).toString('hex'))
}

describe('wire/session-frames', () => {
  it('gives the bytes of protobufjs for every request and reply, on the hot path or not', () => {
    for (const call of counters) {
      for (const body of requests) {
        const request = { ...body, call }
        same(metaMethods.session.encodeRequest(request), v1.MetaRequest.encode(request).finish(), JSON.stringify(body))
      }
      for (const body of replies) {
        const reply = { ...body, call }
        same(metaMethods.session.encodeReply(reply), v1.MetaReply.encode(reply).finish(), JSON.stringify(body))
      }
    }
  })
})

describe('wire/session-frames: reading', () => {
  const requestFields = [
    'call',
    'body',
    'session',
    'sequence',
    'lowest',
    'commit',
    'place',
    'openObject',
    'grantLease',
  ] as const
  const replyFields = ['call', 'body', 'clusterId', 'commit', 'place', 'openObject', 'status', 'error'] as const
  const picked = <T extends object>(message: T, names: readonly (keyof T)[]): object =>
    Object.fromEntries(names.map((name) => [name, message[name]]))

  function sameRequest(bytes: Uint8Array): void {
    const wanted = picked(v1.MetaRequest.decode(bytes), requestFields)
    expect(picked(metaMethods.session.decodeRequest(bytes), requestFields)).deep.equal(wanted)
  }

  it('gives what protobufjs reads, on the hot path or not', () => {
    for (const call of counters) {
      for (const body of requests) sameRequest(v1.MetaRequest.encode({ ...body, call }).finish())
      for (const body of replies) {
        const bytes = v1.MetaReply.encode({ ...body, call }).finish()
        const wanted = picked(v1.MetaReply.decode(bytes), replyFields)
        expect(picked(metaMethods.session.decodeReply(bytes), replyFields)).deep.equal(wanted)
      }
    }
  })

  it('leaves two bodies, unknown fields and other wire types to protobufjs', () => {
    const parts = requests.map((request) => v1.MetaRequest.encode(request).finish())
    const unknown = [Uint8Array.of(0xb8, 0x3e, 5), Uint8Array.of(0x0a, 1, 7), Uint8Array.of(0x0d, 1, 2, 3, 4)]
    for (const first of [...parts, ...unknown]) for (const second of parts) sameRequest(Buffer.concat([first, second]))
  })

  it('refuses damaged bytes like protobufjs', () => {
    const whole = v1.MetaRequest.encode({
      call: 300,
      commit: { commitId: id, operations: [{ put }] },
      ...ticket,
    }).finish()
    for (let length = 0; length < whole.length; length++) {
      const cut = whole.subarray(0, length)
      let wanted: object | undefined
      try {
        wanted = picked(v1.MetaRequest.decode(cut), requestFields)
      } catch {
        expect(() => metaMethods.session.decodeRequest(cut), `cut at ${length}`).throw(StoreError)
        continue
      }
      expect(picked(metaMethods.session.decodeRequest(cut), requestFields), `cut at ${length}`).deep.equal(wanted)
    }
  })
})

describe('wire/raft-frames', () => {
  const head = { clusterId: id, from: 'm1', incarnation: id, to: 'm2', versionMax: 2, configIndex: 12 }
  const lengths = [[], [0], [1, 0, 127], [128, 16_383, 16_384], [2 ** 21 - 1, 2 ** 21]]

  it('give protobufjs the messages and the head that went in', () => {
    for (const list of lengths) {
      for (const extra of [{}, { lowSpace: true, addresses: ['a:1', 'b:2'], digestIndex: 9, digest: 77 }]) {
        const messages = list.map((length) => new Uint8Array(length).fill(length % 251))
        const laid = v1.RaftFrame.decode(raftMethods.messages.encodeRequest({ ...head, ...extra, messages }))
        const wanted = v1.RaftFrame.decode(v1.RaftFrame.encode({ ...head, ...extra, messages }).finish())
        expect(laid.messages.length).equal(wanted.messages.length)
        for (const [i, message] of laid.messages.entries()) {
          expect(Buffer.compare(message, wanted.messages[i] as Uint8Array), `message ${i}`).equal(0)
        }
        for (const frame of [laid, wanted]) frame.messages = []
        expect(laid).deep.equal(wanted)
      }
    }
  })
})
