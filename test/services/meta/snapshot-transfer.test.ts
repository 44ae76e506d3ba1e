/** One snapshot on its way: what a receiver takes, and what it refuses, over the simulated network. */

import { expect } from 'chai'
import { concatBytes } from '../../../src/base/bytes.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import { encodeMessage, type SnapshotOffer } from '../../../src/core/raft/messages.ts'
import type { Duplex } from '../../../src/ports/net.ts'
import type { Env } from '../../../src/ports/env.ts'
import { receiveSnapshot, sendSnapshot } from '../../../src/services/meta/snapshot-transfer.ts'
import { SimProcess, simClock, World } from '../../../src/sim/clock.ts'
import { SimNet } from '../../../src/sim/net.ts'
import { Seeded } from '../../../src/sim/seed.ts'
import { simEntropy, simHasher, simLog, SimMetrics } from '../../../src/sim/sinks.ts'
import { raftMethods } from '../../../src/wire/methods.ts'
import { type holdfast, v1 } from '../../../src/wire/messages.ts'
import { turns } from './raft-cluster.ts'

type Piece = holdfast.v1.SnapshotPiece.$Properties
type Out = Duplex<Piece, holdfast.v1.SnapshotDone>

const clusterId = 'c'.repeat(32)
const [leader, follower] = [
  { node: 'a', incarnation: '1'.repeat(32), clusterId, clusterIncarnation: 1 },
  { node: 'b', incarnation: '2'.repeat(32), clusterId, clusterIncarnation: 1 },
]
const member = { id: 'a', incarnation: leader.incarnation, addresses: ['a:1'], role: 'voter' } as const
const offer: SnapshotOffer = {
  kind: 'snapshot',
  from: 'a',
  to: 'b',
  term: 4,
  session: 1,
  index: 90,
  indexTerm: 3,
  configIndex: 1,
  config: { members: [member], outgoing: [] },
}

function sum(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(8)
  simHasher.sumInto(bytes, out, 0)
  return out
}

/** The pieces of a good transfer. */
function goodPieces(contents: readonly Uint8Array[]): Piece[] {
  const head = { clusterId, from: 'a', incarnation: leader.incarnation, to: 'b', term: 4, index: 90, indexTerm: 3 }
  const pieces = contents.map((data, piece): Piece => {
    const message = piece === 0 ? encodeMessage(offer) : new Uint8Array(0)
    return { ...head, piece, data, sum: sum(data), last: false, message }
  })
  const total = sum(concatBytes(contents.map(sum)))
  const message = contents.length === 0 ? encodeMessage(offer) : new Uint8Array(0)
  return [...pieces, { ...head, piece: contents.length, data: total, sum: sum(total), last: true, message }]
}

/** A receiver that keeps what it installs, and somebody who sends it what the test says. */
class Transfer {
  readonly world = new World({ turns })
  readonly net = new SimNet(this.world, new Seeded(7), {
    delayMinMs: 0.2,
    delayMeanMs: 0.2,
    lossRate: 0,
    duplicateRate: 0,
  })
  readonly sender = new SimProcess('a')
  readonly receiver = new SimProcess('b')
  installed: Uint8Array | undefined
  offered: SnapshotOffer | undefined
  failure: unknown
  answers: holdfast.v1.SnapshotDone[] = []
  closed: unknown = 'open'

  constructor() {
    this.sender.alive = true
    this.receiver.alive = true
    this.net.listen(this.receiver, ['b:1']).stream(raftMethods.snapshot, (stream) => {
      const target = {
        self: follower,
        incarnationOf: (id: string) => (id === 'a' ? leader.incarnation : undefined),
        configIndex: () => 1,
        install: (announced: SnapshotOffer, pieces: AsyncIterable<Uint8Array>) => this.#install(announced, pieces),
      }
      receiveSnapshot(this.env(this.receiver), target, stream, new AbortController().signal)
    })
  }

  async #install(announced: SnapshotOffer, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    this.offered = announced
    const parts: Uint8Array[] = []
    try {
      for await (const piece of pieces) parts.push(piece.slice())
    } catch (error) {
      this.failure = error
      throw error
    }
    this.installed = concatBytes(parts)
  }

  env(process: SimProcess): Env {
    return {
      clock: simClock(this.world, process),
      entropy: simEntropy(new Seeded(1)),
      hasher: simHasher,
      net: this.net.client(process),
      log: simLog(this.world, process.id, () => undefined),
      metrics: new SimMetrics(),
    }
  }

  open(): Out {
    const stream: Out = this.net.client(this.sender).open('b:1', raftMethods.snapshot)
    stream.onMessage((answer) => this.answers.push(answer))
    stream.onEnd(() => undefined)
    stream.onClose((error) => {
      this.closed = error
    })
    return stream
  }

  async run(ms = 1000): Promise<void> {
    await this.world.run(this.world.nowMs + ms, () => undefined)
  }

  async give(pieces: readonly Piece[], end = true): Promise<void> {
    const stream = this.open()
    for (const piece of pieces) stream.send(piece)
    if (end) stream.end()
    await this.run()
  }
}

const contents = [1, 2, 3, 4].map((fill) => new Uint8Array(100 + fill).fill(fill))

describe('raft snapshot transfer', () => {
  it('takes every piece in order and answers when it is installed', async () => {
    const transfer = new Transfer()
    await transfer.give(goodPieces(contents))
    expect(transfer.installed).to.deep.equal(concatBytes(contents))
    expect(transfer.offered).to.deep.include({ index: 90, indexTerm: 3, term: 4, configIndex: 1 })
    expect(transfer.answers).to.deep.include({ installed: true, reason: '' })
  })

  it('takes a mark without pieces, as a witness is sent', async () => {
    const transfer = new Transfer()
    await transfer.give(goodPieces([]))
    expect(transfer.installed).to.deep.equal(new Uint8Array(0))
    expect(transfer.answers[0]?.installed).to.equal(true)
  })

  it('scenario 62: a piece that is lost, doubled, out of order or damaged ends the transfer, nothing is installed', async () => {
    const good = goodPieces(contents)
    const at = (i: number): Piece => good[i] as Piece
    const flipped = { ...at(2), data: Uint8Array.from(at(2).data ?? [], (byte, i) => (i === 5 ? byte ^ 1 : byte)) }
    const wrongTotal = { ...at(4), data: new Uint8Array(8), sum: sum(new Uint8Array(8)) }
    const broken: Record<string, Piece[]> = {
      lost: [at(0), at(1), at(3), at(4)],
      doubled: [at(0), at(1), at(1), at(2), at(3), at(4)],
      reordered: [at(0), at(2), at(1), at(3), at(4)],
      flipped: [at(0), at(1), flipped, at(3), at(4)],
      'lost before the end': [at(0), at(1), at(2), at(4)],
      'wrong total': [at(0), at(1), at(2), at(3), wrongTotal],
    }
    for (const [name, pieces] of Object.entries(broken)) {
      const transfer = new Transfer()
      await transfer.give(pieces)
      expect(transfer.installed, name).to.equal(undefined)
      expect(transfer.answers[0]?.installed, name).to.equal(false)
      expect(isStoreError(transfer.failure) && transfer.failure.code, name).to.equal('CORRUPT')
      // A clean restart works.
      await transfer.give(goodPieces(contents))
      expect(transfer.installed, name).to.deep.equal(concatBytes(contents))
    }
  })

  it('scenario 62: the head must be that of a member of this cluster, and fit its announcement', async () => {
    const [first] = goodPieces(contents)
    const wrong: Record<string, Piece> = {
      'another cluster': { ...first, clusterId: 'd'.repeat(32) },
      'another incarnation of the cluster': { ...first, clusterIncarnation: 2 },
      'another incarnation of the sender': { ...first, incarnation: '9'.repeat(32) },
      'another receiver': { ...first, to: 'c' },
      'another term': { ...first, term: 5 },
      'another index': { ...first, index: 91 },
      'no announcement': { ...first, message: new Uint8Array(0) },
      garbage: { ...first, message: new Uint8Array([255, 1, 2]) },
    }
    for (const [name, piece] of Object.entries(wrong)) {
      const transfer = new Transfer()
      await transfer.give([piece], false)
      expect(transfer.offered, name).to.equal(undefined)
      expect(isStoreError(transfer.closed), name).to.equal(true)
    }
  })

  it('keeps nothing of a piece that was taken in: its memory is used again', async () => {
    const transfer = new Transfer()
    let deliver: (piece: holdfast.v1.SnapshotPiece) => void = () => undefined
    const answers: holdfast.v1.SnapshotDone.$Properties[] = []
    const nothing = (): void => undefined
    const stream: Parameters<typeof receiveSnapshot>[2] = {
      send: (answer) => answers.push(answer) > 0,
      end: nothing,
      destroy: nothing,
      pause: nothing,
      resume: nothing,
      traffic: () => transfer.open().traffic(),
      onMessage: (handler) => {
        deliver = handler
      },
      onDrain: nothing,
      onEnd: nothing,
      onClose: nothing,
    }
    const target = {
      self: follower,
      incarnationOf: () => leader.incarnation,
      configIndex: () => 1,
      install: async (_offer: SnapshotOffer, pieces: AsyncIterable<Uint8Array>): Promise<void> => {
        // As over a real network, a piece and its sum are slices of one Buffer.
        for await (const piece of pieces) new Uint8Array(piece.buffer).fill(0)
      },
    }
    receiveSnapshot(transfer.env(transfer.receiver), target, stream, new AbortController().signal)
    for (const piece of goodPieces(contents)) {
      const { data = new Uint8Array(0), sum: sent = new Uint8Array(0) } = piece
      const message = Buffer.from(new Uint8Array(data.length + sent.length).buffer)
      message.set(data)
      message.set(sent, data.length)
      const slices = { data: message.subarray(0, data.length), sum: message.subarray(data.length) }
      deliver(new v1.SnapshotPiece({ ...piece, ...slices }) as holdfast.v1.SnapshotPiece)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await transfer.run()
    expect(answers).to.deep.equal([{ installed: true, reason: '' }])
  })

  it('goes on as long as pieces come, however slowly they are read', async () => {
    const transfer = new Transfer()
    async function* slow(): AsyncGenerator<Uint8Array> {
      for (const piece of contents) {
        await new Promise<void>((resolve) => void transfer.world.after(12_000, 'read', undefined, resolve))
        yield piece
      }
    }
    const head = { ...leader, configIndex: 1 }
    const signal = new AbortController().signal
    let outcome: unknown = 'under way'
    sendSnapshot(transfer.env(transfer.sender), head, 'b:1', offer, slow(), signal).then(
      () => {
        outcome = 'sent'
      },
      (error: unknown) => {
        outcome = error
      },
    )
    await transfer.run(60_000)
    expect(outcome).to.equal('sent')
    expect(transfer.installed).to.deep.equal(concatBytes(contents))
  })

  it('scenario 63: a sender that ends early, or breaks off, is never taken for complete', async () => {
    for (let count = 1; count <= contents.length; count++) {
      const ended = new Transfer()
      await ended.give(goodPieces(contents).slice(0, count))
      expect(ended.installed).to.equal(undefined)
      expect(ended.failure).to.not.equal(undefined)
      const reset = new Transfer()
      await reset.give(goodPieces(contents).slice(0, count), false)
      reset.net.reset(reset.sender, reset.receiver)
      await reset.run()
      expect(reset.installed).to.equal(undefined)
      expect(reset.failure).to.not.equal(undefined)
    }
  })

  it('a sender that goes silent is given up', async () => {
    const transfer = new Transfer()
    await transfer.give(goodPieces(contents).slice(0, 2), false)
    expect(transfer.failure).to.equal(undefined)
    await transfer.run(31_000)
    expect(isStoreError(transfer.failure) && transfer.failure.code).to.equal('TIMEOUT')
  })

  it('the sender cuts large pieces, and hears why it was refused', async () => {
    const large = new Uint8Array(2_500_000).map((_, i) => i % 251)
    async function* one(): AsyncGenerator<Uint8Array> {
      yield large
    }
    const transfer = new Transfer()
    const env = transfer.env(transfer.sender)
    const { signal } = new AbortController()
    let outcome: unknown = 'pending'
    sendSnapshot(env, { ...leader, configIndex: 1 }, 'b:1', offer, one(), signal).then(
      () => {
        outcome = 'installed'
      },
      (error: unknown) => {
        outcome = error
      },
    )
    await transfer.run(5000)
    expect(outcome).to.equal('installed')
    expect(transfer.installed).to.deep.equal(large)
    const refused = new Transfer()
    let refusal: unknown
    const other = { ...leader, clusterIncarnation: 2, configIndex: 1 }
    sendSnapshot(refused.env(refused.sender), other, 'b:1', offer, one(), signal).catch((error: unknown) => {
      refusal = error
    })
    await refused.run(5000)
    expect(isStoreError(refusal) && refusal.code).to.equal('WRONG_CLUSTER')
  })
})
