/**
 * Raft messages between meta nodes: one long-lived outgoing stream per peer, frames of batched messages.
 *
 * Messages may be lost, never reordered within a stream; Raft copes with both. Every frame names cluster, sender, its
 * incarnation and the receiver; a frame that does not fit ends the stream, so that a wiped or misplaced node cannot
 * take part. Queues are bounded: when one overflows it is emptied and the peer reported as unreachable, which makes the
 * leader start over from what is known.
 */

import { SchemaError } from '../../base/schema.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Duplex } from '../../ports/net.ts'
import { decodeMessage, encodeMessage, type Message } from '../../core/raft/messages.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'

const queueMessagesMax = 4096
const queueBytesMax = 8 * 1024 * 1024
const frameBytesMax = 1024 * 1024
const backoffMinMs = 50
const backoffMaxMs = 1000

/** Who this node is to its peers. */
export interface LinkIdentity {
  readonly node: NodeId
  readonly incarnation: string
  readonly clusterId: string
}

export interface TransportHandlers {
  /** Incarnation of a member, undefined for a stranger. */
  incarnationOf(id: NodeId): string | undefined
  /** Addresses of a member, to be tried in turn. */
  addressesOf(id: NodeId): readonly string[]
  onMessages(messages: readonly Message[]): void
  onUnreachable(id: NodeId): void
}

type OutStream = Duplex<holdfast.v1.RaftFrame.$Properties, holdfast.v1.RaftWelcome>
type InStream = Duplex<holdfast.v1.RaftWelcome.$Properties, holdfast.v1.RaftFrame>

interface Link {
  readonly id: NodeId
  queue: Uint8Array[]
  queueBytes: number
  stream: OutStream | undefined
  /** The peer has taken our first frame. */
  welcome: boolean
  blocked: boolean
  attempts: number
  retry: Timer | undefined
}

export class Transport {
  readonly #env: Env
  readonly #self: LinkIdentity
  readonly #handlers: TransportHandlers
  readonly #links = new Map<NodeId, Link>()
  readonly #incoming = new Set<InStream>()
  #stopped = false

  constructor(env: Env, self: LinkIdentity, handlers: TransportHandlers) {
    this.#env = env
    this.#self = self
    this.#handlers = handlers
  }

  reachable(id: NodeId): boolean {
    return this.#links.get(id)?.welcome === true
  }

  /** Queues messages; `flush` sends them. */
  queue(messages: readonly Message[]): void {
    for (const message of messages) {
      const link = this.#linkTo(message.to)
      const encoded = encodeMessage(message)
      if (link.queue.length >= queueMessagesMax || link.queueBytes + encoded.length > queueBytesMax) {
        link.queue = []
        link.queueBytes = 0
        this.#env.metrics.count('holdfast_raft_queue_overflows_total', 'Queues to a raft peer that were emptied')
        this.#handlers.onUnreachable(link.id)
      }
      link.queue.push(encoded)
      link.queueBytes += encoded.length
    }
  }

  /** Sends what is queued, in frames. */
  flush(): void {
    if (this.#stopped) return
    for (const link of this.#links.values()) this.#flushLink(link)
  }

  #linkTo(id: NodeId): Link {
    const known = this.#links.get(id)
    if (known !== undefined) return known
    const link: Link = {
      id,
      queue: [],
      queueBytes: 0,
      stream: undefined,
      welcome: false,
      blocked: false,
      attempts: 0,
      retry: undefined,
    }
    this.#links.set(id, link)
    return link
  }

  #flushLink(link: Link): void {
    if (link.queue.length === 0 || link.retry !== undefined) return
    link.stream ??= this.#open(link)
    const { node: from, incarnation, clusterId } = this.#self
    while (link.stream !== undefined && !link.blocked && link.queue.length > 0) {
      let count = 0
      let size = 0
      do {
        size += (link.queue[count] as Uint8Array).length
        count++
      } while (count < link.queue.length && size + (link.queue[count] as Uint8Array).length <= frameBytesMax)
      const messages = link.queue.splice(0, count)
      link.queueBytes -= size
      const more = link.stream.send({ clusterId, from, incarnation, to: link.id, messages })
      if (!more) link.blocked = true
    }
  }

  #open(link: Link): OutStream | undefined {
    const addresses = this.#handlers.addressesOf(link.id)
    const address = addresses[link.attempts % Math.max(1, addresses.length)]
    if (address === undefined) {
      link.queue = []
      link.queueBytes = 0
      return undefined
    }
    const stream = this.#env.net.open(address, raftMethods.messages)
    link.blocked = false
    stream.onMessage((welcome) => {
      if (link.stream !== stream || welcome.node !== link.id) return
      if (!link.welcome) this.#env.log.info('raft peer connected', { peer: link.id, address })
      link.welcome = true
      link.attempts = 0
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
    const refused = error !== undefined && (error.code === 'WRONG_CLUSTER' || error.code === 'INVALID_ARGUMENT')
    if (refused && link.attempts === 0) {
      this.#env.log.warn('raft peer refused this node', { peer: link.id, address, reason: error.message })
    } else if (link.welcome) {
      this.#env.log.info('raft peer disconnected', { peer: link.id, address, reason: error?.message ?? 'closed' })
    }
    link.stream = undefined
    link.welcome = false
    link.blocked = false
    link.queue = []
    link.queueBytes = 0
    const backoffMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(link.attempts, 10))
    link.attempts++
    link.retry = this.#env.clock.after(backoffMs * (0.5 + this.#env.entropy.unit() / 2), () => {
      link.retry = undefined
      this.#flushLink(link)
    })
    this.#handlers.onUnreachable(link.id)
  }

  /** Serves one incoming stream. */
  accept(stream: InStream): void {
    if (this.#stopped) {
      stream.destroy(new StoreError('SHUTTING_DOWN', `meta node ${this.#self.node} is stopping`))
      return
    }
    this.#incoming.add(stream)
    let welcomed = false
    stream.onMessage((frame) => {
      const messages = this.#read(frame)
      if (!Array.isArray(messages)) {
        this.#env.metrics.count(
          'holdfast_raft_frames_refused_total',
          'Raft frames of strangers or with damaged messages',
        )
        stream.destroy(messages)
        return
      }
      if (!welcomed) stream.send({ node: this.#self.node })
      welcomed = true
      this.#handlers.onMessages(messages)
    })
    stream.onEnd(() => stream.end())
    stream.onClose(() => this.#incoming.delete(stream))
  }

  #read(frame: holdfast.v1.RaftFrame): Message[] | StoreError {
    const stranger = strangerError(this.#self, frame, this.#handlers.incarnationOf(frame.from))
    if (stranger !== undefined) return stranger
    try {
      const messages = frame.messages.map((encoded) => decodeMessage(encoded, frame.from, frame.to))
      // Snapshots are announced on their own stream only.
      return messages.filter((message) => message.kind !== 'snapshot')
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
  }
}

/** Why a frame (or the head of a snapshot) is refused: another cluster, another receiver, an unknown incarnation. */
export function strangerError(
  self: LinkIdentity,
  frame: { readonly clusterId: string; readonly from: string; readonly incarnation: string; readonly to: string },
  expectedIncarnation: string | undefined,
): StoreError | undefined {
  const refuse = (why: string): StoreError => new StoreError('WRONG_CLUSTER', `meta node ${self.node}: ${why}`)
  if (frame.clusterId !== self.clusterId) return refuse('the sender belongs to another cluster: check --peers')
  if (frame.to !== self.node) return refuse('the frame is for another node: check the addresses of --peers')
  if (expectedIncarnation === undefined) return refuse('the sender is not a member of this cluster')
  if (frame.incarnation !== expectedIncarnation) {
    return refuse('the sender has another incarnation than the member of that name: its directory was replaced')
  }
  return undefined
}
