/**
 * Raft messages between meta nodes: one long-lived outgoing stream per peer, frames of batched messages.
 *
 * Messages may be lost, never reordered within a stream; Raft copes with both. Every frame names cluster, its incarnation,
 * sender, sender's incarnation and receiver; a frame that does not fit ends the stream, so that a wiped or misplaced node
 * cannot take part (link-identity.ts). Streams to all members are kept open, so that an election finds them open, and a
 * connection that breaks is a sign of a dead leader at once. Queues are bounded: when one overflows it is emptied and the
 * peer reported as unreachable, which makes the leader start over from what is known.
 */

import { SchemaError } from '../../base/schema.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Duplex } from '../../ports/net.ts'
import { decodeMessage, type Message, MessageEncoder } from '../../core/raft/messages.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import { incarnationOnWire, type LinkIdentity, type Standing, standingOf } from './link-identity.ts'
import { PeerBook, type PeerNews } from './peer-book.ts'
import type { Checkpoint } from './raft-digests.ts'

const queueMessagesMax = 4096
const queueBytesMax = 8 * 1024 * 1024
const frameBytesMax = 1024 * 1024
const backoffMinMs = 10
const backoffMaxMs = 1000

/** What this node tells every peer beside messages. */
export interface OwnNews {
  readonly versionMax: number
  readonly lowSpace: boolean
  readonly checkpoint: Checkpoint | undefined
}

export interface TransportHandlers {
  /** Incarnation of a member, undefined for a stranger. */
  incarnationOf(id: NodeId): string | undefined
  /** Addresses of a member, to be tried in turn. */
  addressesOf(id: NodeId): readonly string[]
  /** Index of the newest configuration here. */
  configIndex(): number
  news(): OwnNews
  onMessages(messages: readonly Message[]): void
  onUnreachable(id: NodeId): void
  /** The connection from or to `id` was reset or refused, not ended in order. */
  onLost(id: NodeId): void
  onCheckpoint(id: NodeId, checkpoint: Checkpoint): void
}

type OutStream = Duplex<holdfast.v1.RaftFrame.$Properties, holdfast.v1.RaftWelcome>
type InStream = Duplex<holdfast.v1.RaftWelcome.$Properties, holdfast.v1.RaftFrame>

interface Link {
  readonly id: NodeId
  queue: Uint8Array[]
  queueBytes: number
  stream: OutStream | undefined
  /** The first frame of the stream was sent. */
  begun: boolean
  /** The peer has taken our first frame. */
  welcome: boolean
  blocked: boolean
  attempts: number
  retry: Timer | undefined
  /** Index of the newest checkpoint that was sent on this stream. */
  told: number
}

export class Transport {
  readonly #env: Env
  readonly #self: LinkIdentity
  readonly #advertise: readonly string[]
  readonly #handlers: TransportHandlers
  readonly #links = new Map<NodeId, Link>()
  readonly #incoming = new Set<InStream>()
  /** The newest incoming stream of each sender. */
  readonly #senders = new Map<NodeId, InStream>()
  readonly #book: PeerBook
  readonly #encoder = new MessageEncoder()
  #stopped = false

  constructor(env: Env, self: LinkIdentity, advertise: readonly string[], handlers: TransportHandlers) {
    this.#env = env
    this.#self = self
    this.#advertise = advertise
    this.#handlers = handlers
    this.#book = new PeerBook(env.clock, (id) => handlers.incarnationOf(id) !== undefined)
  }

  /** The peer has taken our messages on the current stream, and has been heard of lately. */
  reachable(id: NodeId): boolean {
    return this.#links.get(id)?.welcome === true && this.#book.lively(id)
  }

  newsOf(id: NodeId): PeerNews | undefined {
    return this.#book.newsOf(id)
  }

  /** The program of `id` was heard to support `versionMax`, otherwise than through frames. */
  heardVersion(id: NodeId, versionMax: number): void {
    this.#book.heardVersion(id, versionMax)
  }

  /** Queues messages; `flush` sends them. */
  queue(messages: readonly Message[]): void {
    for (const message of messages) {
      const link = this.#linkTo(message.to)
      const encoded = this.#encoder.encode(message)
      if (link.queue.length >= queueMessagesMax || link.queueBytes + encoded.length > queueBytesMax) {
        link.queue = []
        link.queueBytes = 0
        this.#env.metrics.count('holdfast_raft_queue_overflows_total', 'Queues to a raft peer that were emptied')
        this.#handlers.onUnreachable(link.id)
      }
      link.queue.push(encoded)
      link.queueBytes += encoded.length
    }
    this.#encoder.forget()
  }

  /** Sends what is queued, in frames. */
  flush(): void {
    if (this.#stopped) return
    for (const link of this.#links.values()) if (link.queue.length > 0) this.#flushLink(link)
  }

  /** Keeps streams to `peers` open and tells them what is new; ends those to anybody else. Called now and then. */
  keep(peers: readonly NodeId[]): void {
    if (this.#stopped) return
    for (const id of peers) {
      const link = this.#linkTo(id)
      if (link.retry !== undefined || link.blocked) continue
      link.stream ??= this.#open(link)
      if (link.stream !== undefined && link.queue.length === 0) this.#sendFrame(link, link.stream, [])
    }
    for (const [id, link] of this.#links) {
      if (peers.includes(id) || link.queue.length > 0 || this.#senders.has(id)) continue
      link.retry?.cancel()
      const { stream } = link
      link.stream = undefined
      stream?.end()
      this.#links.delete(id)
    }
  }

  #linkTo(id: NodeId): Link {
    const known = this.#links.get(id)
    if (known !== undefined) return known
    const link: Link = {
      id,
      queue: [],
      queueBytes: 0,
      stream: undefined,
      begun: false,
      welcome: false,
      blocked: false,
      attempts: 0,
      retry: undefined,
      told: 0,
    }
    this.#links.set(id, link)
    return link
  }

  #flushLink(link: Link): void {
    if (link.retry !== undefined) return
    link.stream ??= this.#open(link)
    while (link.stream !== undefined && !link.blocked && link.queue.length > 0) {
      let count = 0
      let size = 0
      do {
        size += (link.queue[count] as Uint8Array).length
        count++
      } while (count < link.queue.length && size + (link.queue[count] as Uint8Array).length <= frameBytesMax)
      const messages = link.queue.splice(0, count)
      link.queueBytes -= size
      this.#sendFrame(link, link.stream, messages)
    }
  }

  #sendFrame(link: Link, stream: OutStream, messages: Uint8Array[]): void {
    const { node: from, incarnation, clusterId } = this.#self
    const { versionMax, lowSpace, checkpoint } = this.#handlers.news()
    const head = { clusterId, from, incarnation, to: link.id, ...incarnationOnWire(this.#self) }
    const frame: holdfast.v1.RaftFrame.$Properties = { ...head, messages, versionMax }
    frame.configIndex = this.#handlers.configIndex()
    if (lowSpace) frame.lowSpace = true
    if (!link.begun) frame.addresses = [...this.#advertise]
    if (checkpoint !== undefined && checkpoint.index !== link.told) {
      link.told = checkpoint.index
      frame.digestIndex = checkpoint.index
      frame.digest = checkpoint.digest
    }
    link.begun = true
    if (!stream.send(frame)) link.blocked = true
  }

  /** The best known address of `id`; empty when there is none. */
  addressOf(id: NodeId): string {
    return this.#book.ordered(id, this.#handlers.addressesOf(id))[0] ?? ''
  }

  #open(link: Link): OutStream | undefined {
    const addresses = this.#book.ordered(link.id, this.#handlers.addressesOf(link.id))
    const address = addresses[link.attempts % Math.max(1, addresses.length)]
    if (address === undefined) {
      link.queue = []
      link.queueBytes = 0
      return undefined
    }
    const stream = this.#env.net.open(address, raftMethods.messages)
    link.blocked = false
    link.begun = false
    link.told = 0
    stream.onMessage((welcome) => {
      if (link.stream !== stream || welcome.node !== link.id) return
      if (!link.welcome) this.#env.log.info('raft peer connected', { peer: link.id, address })
      link.welcome = true
      link.attempts = 0
      this.#book.worked(link.id, address)
      this.#book.heardVersion(link.id, welcome.versionMax || 1)
    })
    stream.onDrain(() => {
      if (link.stream !== stream) return
      link.blocked = false
      this.#flushLink(link)
    })
    stream.onEnd(() => stream.end())
    stream.onClose((error) => this.#closed(link, stream, address, error))
    return stream
  }

  #closed(link: Link, stream: OutStream, address: string, error: StoreError | undefined): void {
    if (link.stream !== stream || this.#stopped) return
    const refused = isRefusal(error)
    if (refused && link.attempts === 0) {
      const reason = error?.message ?? ''
      this.#env.log.warn('raft peer refused this node', { peer: link.id, address, reason })
    } else if (link.welcome) {
      this.#env.log.info('raft peer disconnected', { peer: link.id, address, reason: error?.message ?? 'closed' })
    }
    // A peer that cannot be reached from here, but speaks to us, is not dead.
    const lost = error !== undefined && !refused && (link.welcome || !this.#senders.has(link.id))
    link.stream = undefined
    link.welcome = false
    link.blocked = false
    link.queue = []
    link.queueBytes = 0
    const backoffMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(link.attempts, 10))
    link.attempts++
    link.retry = this.#env.clock.after(backoffMs * (0.5 + this.#env.entropy.unit() / 2), () => {
      link.retry = undefined
      if (link.queue.length > 0) this.#flushLink(link)
    })
    this.#handlers.onUnreachable(link.id)
    if (lost) this.#handlers.onLost(link.id)
  }

  /** Serves one incoming stream. */
  accept(stream: InStream): void {
    if (this.#stopped) {
      stream.destroy(new StoreError('SHUTTING_DOWN', `meta node ${this.#self.node} is stopping`))
      return
    }
    this.#incoming.add(stream)
    let sender: NodeId | undefined
    let refused = false
    stream.onMessage((frame) => {
      if (refused) return
      const read = this.#read(frame)
      if (read instanceof StoreError) {
        this.#env.metrics.count(
          'holdfast_raft_frames_refused_total',
          'Raft frames of strangers or with damaged messages',
        )
        refused = true
        stream.destroy(read)
        return
      }
      if (sender === undefined) {
        sender = frame.from
        this.#senders.set(sender, stream)
        this.#book.learned(sender, frame.addresses)
        stream.send({ node: this.#self.node, versionMax: this.#handlers.news().versionMax })
      }
      const { messages, standing } = read
      // What others tell is theirs: it says nothing of the member whose name they may have.
      if (standing === 'member') this.#heard(frame)
      if (messages.length > 0) this.#handlers.onMessages(messages)
    })
    stream.onEnd(() => stream.end())
    stream.onClose((error) => {
      this.#incoming.delete(stream)
      if (sender === undefined || this.#senders.get(sender) !== stream) return
      this.#senders.delete(sender)
      if (error !== undefined && !refused && !this.#stopped) this.#handlers.onLost(sender)
    })
  }

  #heard(frame: holdfast.v1.RaftFrame): void {
    this.#book.heard(frame.from, { versionMax: frame.versionMax || 1, lowSpace: frame.lowSpace })
    const { digestIndex: index, digest } = frame
    if (index > 0) this.#handlers.onCheckpoint(frame.from, { index, digest })
  }

  #read(frame: holdfast.v1.RaftFrame): { messages: Message[]; standing: Standing } | StoreError {
    const { incarnationOf, configIndex } = this.#handlers
    const standing = standingOf(this.#self, frame, incarnationOf(frame.from), configIndex())
    if (standing instanceof StoreError) return standing
    try {
      const messages = frame.messages.map((encoded) => decodeMessage(encoded, frame.from, frame.to))
      return { messages: messages.filter((message) => mayCome(message, standing)), standing }
    } catch (error) {
      if (!(error instanceof SchemaError)) return asStoreError(error, 'read a raft frame')
      return new StoreError('INVALID_ARGUMENT', `read a raft frame from ${frame.from}: ${error.message}`)
    }
  }

  stop(): void {
    this.#stopped = true
    for (const link of this.#links.values()) {
      link.retry?.cancel()
      link.stream?.destroy()
      link.stream = undefined
      link.welcome = false
    }
    for (const stream of this.#incoming) stream.destroy()
    this.#incoming.clear()
    this.#senders.clear()
  }
}

/** The peer answered, and does not want this node. */
function isRefusal(error: StoreError | undefined): boolean {
  return error?.code === 'WRONG_CLUSTER' || error?.code === 'INVALID_ARGUMENT'
}

/** Snapshots are announced on their own stream only; a newcomer is not heard as the member whose name it has. */
function mayCome({ kind }: Message, standing: Standing): boolean {
  if (kind === 'snapshot') return false
  if (standing !== 'newcomer') return true
  return kind === 'append' || kind === 'heartbeat' || kind === 'vote' || kind === 'timeoutNow'
}
