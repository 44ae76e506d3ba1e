/** Frames between meta nodes: who is heard, what a broken stream means, what peers tell each other on the way. */

import { expect } from 'chai'
import { encodeMessage, type Message } from '../../../src/core/raft/messages.ts'
import { defaultRaftLimits } from '../../../src/core/raft/types.ts'
import { limits } from '../../../src/model/limits.ts'
import type { StoreError } from '../../../src/model/errors.ts'
import type { Checkpoint } from '../../../src/services/meta/raft-digests.ts'
import { type OwnNews, Transport } from '../../../src/services/meta/transport.ts'
import { SimProcess, simClock, World } from '../../../src/sim/clock.ts'
import { SimNet } from '../../../src/sim/net.ts'
import { Seeded } from '../../../src/sim/seed.ts'
import { simEntropy, simHasher, simLog, SimMetrics } from '../../../src/sim/sinks.ts'
import { raftMethods } from '../../../src/wire/methods.ts'
import type { holdfast } from '../../../src/wire/messages.ts'
import { hexId as id, turns } from './raft-cluster.ts'

const faults = { delayMinMs: 0.2, delayMeanMs: 0.1, lossRate: 0, duplicateRate: 0 }

class End {
  readonly process: SimProcess
  readonly transport: Transport
  readonly messages: Message[] = []
  readonly lost: string[] = []
  readonly unreachable: string[] = []
  readonly checkpoints: [string, Checkpoint][] = []
  news: OwnNews = { versionMax: 2, lowSpace: false, checkpoint: undefined }
  configIndex = 10
  /** Incarnations of the members as this end knows them. */
  members: Record<string, string> = { a: id(1), b: id(2) }
  addresses: Record<string, string[]> = { a: ['a:1'], b: ['b:1'] }

  constructor(world: World, net: SimNet, name: string, number: number, clusterIncarnation = 1) {
    this.process = new SimProcess(name)
    this.process.alive = true
    const env = {
      clock: simClock(world, this.process),
      entropy: simEntropy(new Seeded(number)),
      hasher: simHasher,
      net: net.client(this.process),
      log: simLog(world, name, () => undefined),
      metrics: new SimMetrics(),
    }
    const self = { node: name, incarnation: id(number), clusterId: id(99), clusterIncarnation }
    this.transport = new Transport(env, self, [`${name}:1`], {
      incarnationOf: (peer) => this.members[peer],
      addressesOf: (peer) => this.addresses[peer] ?? [],
      configIndex: () => this.configIndex,
      news: () => this.news,
      onMessages: (messages) => this.messages.push(...messages),
      onUnreachable: (peer) => this.unreachable.push(peer),
      onLost: (peer) => this.lost.push(peer),
      onCheckpoint: (peer, checkpoint) => this.checkpoints.push([peer, checkpoint]),
    })
    net.listen(this.process, [`${name}:1`]).stream(raftMethods.messages, (stream) => this.transport.accept(stream))
  }
}

class Pair {
  readonly world = new World({ turns })
  readonly net = new SimNet(this.world, new Seeded(3), faults)
  readonly a: End
  readonly b: End

  constructor(numberOfA = 1, incarnationOfA = 1) {
    this.a = new End(this.world, this.net, 'a', numberOfA, incarnationOfA)
    this.b = new End(this.world, this.net, 'b', 2)
  }

  async run(ms = 100): Promise<void> {
    await this.world.run(this.world.nowMs + ms, () => undefined)
  }

  async send(...messages: Message[]): Promise<void> {
    this.a.transport.queue(messages)
    this.a.transport.flush()
    await this.run()
  }
}

const to = { from: 'a', to: 'b', term: 3 } as const
const heartbeat: Message = { ...to, kind: 'heartbeat', commit: 1, context: 0 }
const answer: Message = { ...to, kind: 'heartbeatReply', context: 0 }
const grant: Message = { ...to, kind: 'voteReply', pre: false, granted: true }
const vote: Message = { ...to, kind: 'vote', pre: false, forced: false, lastIndex: 1, lastTerm: 1 }

describe('raft transport', () => {
  it('carries messages in order, and what nodes tell each other beside them', async () => {
    const pair = new Pair()
    pair.a.news = { versionMax: 2, lowSpace: true, checkpoint: { index: 512, digest: 77 } }
    await pair.send(heartbeat, vote, answer)
    expect(pair.b.messages.map((message) => message.kind)).to.deep.equal(['heartbeat', 'vote', 'heartbeatReply'])
    expect(pair.b.transport.newsOf('a')).to.deep.equal({ versionMax: 2, lowSpace: true })
    expect(pair.a.transport.newsOf('b')?.versionMax).to.equal(2)
    expect(pair.a.transport.reachable('b')).to.equal(true)
    await pair.send(heartbeat)
    // A checkpoint is told once.
    expect(pair.b.checkpoints).to.deep.equal([['a', { index: 512, digest: 77 }]])
  })

  it('scenario 91: another cluster incarnation, another incarnation of the sender, another receiver are refused', async () => {
    for (const pair of [new Pair(1, 2), new Pair(8)]) {
      await pair.send(heartbeat)
      expect(pair.b.messages).to.deep.equal([])
      expect(pair.a.unreachable).to.include('b')
      // A refusal is no sign of a dead leader.
      expect(pair.a.lost).to.deep.equal([])
    }
    const stray = new Pair()
    stray.a.addresses['c'] = ['b:1']
    await stray.send({ ...heartbeat, to: 'c' })
    expect(stray.b.messages).to.deep.equal([])
  })

  it('a sender that this node does not know is heard, and found under the address it names', async () => {
    const pair = new Pair()
    delete pair.b.members['a']
    delete pair.b.addresses['a']
    await pair.send(heartbeat, vote)
    expect(pair.b.messages.map((message) => message.kind)).to.deep.equal(['heartbeat', 'vote'])
    pair.b.transport.queue([{ kind: 'heartbeatReply', from: 'b', to: 'a', term: 3, context: 0 }])
    pair.b.transport.flush()
    await pair.run()
    expect(pair.a.messages.map((message) => message.kind)).to.deep.equal(['heartbeatReply'])
  })

  it('a member that came back with an empty directory may lead before this node knows, but its answers do not count', async () => {
    const pair = new Pair(8)
    pair.a.configIndex = 11
    await pair.send(heartbeat, grant, answer, vote)
    expect(pair.b.messages.map((message) => message.kind)).to.deep.equal(['heartbeat', 'vote'])
  })

  it('a connection that breaks is reported on both sides at once; an orderly end is not', async () => {
    const pair = new Pair()
    await pair.send(heartbeat)
    pair.net.reset(pair.a.process, pair.b.process)
    await pair.run(5)
    expect(pair.a.lost).to.deep.equal(['b'])
    expect(pair.b.lost).to.deep.equal(['a'])
    await pair.send(heartbeat)
    expect(pair.b.messages).to.have.length(2)
    // a keeps no stream to who is no peer any more.
    pair.a.transport.keep([])
    await pair.run()
    expect(pair.b.lost).to.deep.equal(['a'])
  })

  it('a refused connection is no death while the peer is still heard', async () => {
    const pair = new Pair()
    pair.b.transport.keep(['a'])
    await pair.run()
    pair.a.addresses['b'] = ['nowhere:1']
    await pair.send(heartbeat)
    expect(pair.a.unreachable).to.include('b')
    expect(pair.a.lost).to.deep.equal([])
  })

  it('tries again quickly, then more slowly', async () => {
    const pair = new Pair()
    pair.net.crash(pair.b.process)
    await pair.send(heartbeat)
    const quick = pair.a.unreachable.length
    expect(quick).to.be.at.least(1)
    for (let i = 0; i < 100; i++) {
      pair.a.transport.queue([heartbeat])
      pair.a.transport.flush()
      await pair.run(50)
    }
    expect(pair.a.unreachable.length).to.be.within(quick + 5, 20)
  })

  it('a peer that falls silent without a broken connection is not called reachable', async () => {
    const pair = new Pair()
    pair.a.transport.keep(['b'])
    pair.b.transport.keep(['a'])
    await pair.run()
    expect(pair.a.transport.reachable('b')).to.equal(true)
    await pair.run(2500)
    expect(pair.a.transport.reachable('b')).to.equal(false)
    pair.b.transport.keep(['a'])
    await pair.run()
    expect(pair.a.transport.reachable('b')).to.equal(true)
  })

  it('the largest entry fits into one frame', () => {
    const payload = new Uint8Array(defaultRaftLimits.entryBytes)
    const entries = [{ index: 2 ** 40, term: 2 ** 40, type: 'command', payload }] as const
    const message = encodeMessage({
      ...to,
      kind: 'append',
      session: 1,
      prevIndex: 2 ** 40 - 1,
      prevTerm: 1,
      commit: 1,
      entries,
    })
    const addresses = Array.from({ length: 20 }, (_, i) => `a-rather-long-host-name-${i}.example.org:7400`)
    const head = { clusterId: id(99), from: 'a'.repeat(60), incarnation: id(1), to: 'b'.repeat(60), addresses }
    expect(raftMethods.messages.encodeRequest({ ...head, messages: [message] }).length).to.be.below(
      limits.messageBytesMax,
    )
  })

  it('damaged messages end their stream; an announced snapshot does not come this way', async () => {
    const pair = new Pair()
    const client = pair.net.client(pair.a.process)
    const head = { clusterId: id(99), from: 'a', incarnation: id(1), to: 'b' }
    const attempts: [holdfast.v1.RaftFrame.$Properties, boolean][] = [
      [{ ...head, messages: [new Uint8Array([3, 255])] }, true],
      [
        {
          ...head,
          messages: [
            encodeMessage({
              ...heartbeat,
              kind: 'snapshot',
              session: 1,
              index: 1,
              indexTerm: 1,
              configIndex: 1,
              config: { members: [], outgoing: [] },
            }),
          ],
        },
        false,
      ],
    ]
    for (const [frame, broken] of attempts) {
      const stream = client.open('b:1', raftMethods.messages)
      let closed: StoreError | undefined
      stream.onClose((error) => {
        closed = error
      })
      stream.send(frame)
      await pair.run()
      expect(closed?.code).to.equal(broken ? 'INVALID_ARGUMENT' : undefined)
    }
    expect(pair.b.messages).to.deep.equal([])
  })

  it('addresses in frames that are none are not used, and those that strangers tell of themselves bring nobody down', async () => {
    const pair = new Pair()
    const { a, b } = pair
    const client = pair.net.client(a.process)
    const stream = client.open('b:1', raftMethods.messages)
    stream.onClose(() => undefined)
    const head = { clusterId: id(99), from: 'zz', incarnation: id(7), to: 'b', versionMax: 2 }
    const checkpoint = { digestIndex: 256, digest: 1 }
    stream.send({ ...head, ...checkpoint, messages: [], addresses: ['not an address', 'h:99999', '', 'a:1'] })
    await pair.run()
    expect(b.transport.addressOf('zz')).to.equal('a:1')
    // What it says of its state and its program is no member's word.
    expect(b.checkpoints).to.deep.equal([])
    expect(b.transport.newsOf('zz')?.versionMax).to.equal(0)
    for (let i = 0; i < 100; i++) {
      const other = client.open('b:1', raftMethods.messages)
      other.onClose(() => undefined)
      other.send({ ...head, from: `zz${i}`, messages: [], addresses: ['a:1'] })
    }
    await pair.send(heartbeat)
    expect(b.transport.newsOf('a')?.versionMax, 'members are remembered').to.equal(2)
  })
})
