/**
 * What Raft nodes say to each other, and its bytes (docs/formats/raft.md).
 *
 * `from` and `to` are not encoded: the frame that carries messages names both and is checked before its messages are
 * looked at. Decoding is total: bytes that are no message give SchemaError. A tag never changes meaning.
 * Invariants of received messages that the core relies on are checked here (`decodeMessage`), so that no peer can break
 * an assertion of ours: entries are contiguous, terms do not decrease and do not exceed the message's term, which is
 * within the bound that fences rest on.
 */

import {
  bool,
  bytes,
  decode,
  encode,
  fixed,
  list,
  oneOf,
  type Schema,
  SchemaError,
  struct,
  text,
  uint,
  union,
} from '../../base/schema.ts'
import { concatBytes, copyBytes, fromHex, toHex } from '../../base/bytes.ts'
import { termMax } from '../../model/fence.ts'
import type { NodeId } from '../../model/ids.ts'
import { decodeReceipt } from './receipts.ts'
import { type ClusterConfig, type Entry, entryTypes, memberRoles } from './types.ts'

interface Envelope {
  readonly from: NodeId
  readonly to: NodeId
  /** Sender's term; for a pre-vote and its grant, the term the candidate would have. */
  readonly term: number
}

export interface VoteRequest extends Envelope {
  readonly kind: 'vote'
  /** Asks whether a vote would be given; changes nothing at the receiver. */
  readonly pre: boolean
  /** Sent on the leader's request (transfer): a live leader is no reason to refuse. */
  readonly forced: boolean
  readonly lastIndex: number
  readonly lastTerm: number
}

export interface VoteReply extends Envelope {
  readonly kind: 'voteReply'
  readonly pre: boolean
  readonly granted: boolean
}

export interface AppendRequest extends Envelope {
  readonly kind: 'append'
  /** Replication session of the receiver at this leader; echoed in the reply. */
  readonly session: number
  readonly prevIndex: number
  readonly prevTerm: number
  readonly commit: number
  readonly entries: readonly Entry[]
}

export interface AppendReply extends Envelope {
  readonly kind: 'appendReply'
  readonly session: number
  readonly accepted: boolean
  /** Accepted: everything up to here is durable at the sender. Rejected: the `prevIndex` that did not match. */
  readonly index: number
  /** Rejected: the largest index where the logs may still agree, and the sender's term there. */
  readonly hintIndex: number
  readonly hintTerm: number
}

export interface Heartbeat extends Envelope {
  readonly kind: 'heartbeat'
  readonly commit: number
  /** Newest read batch; the reply confirms it and all older ones. */
  readonly context: number
}

export interface HeartbeatReply extends Envelope {
  readonly kind: 'heartbeatReply'
  readonly context: number
}

export interface SnapshotOffer extends Envelope {
  readonly kind: 'snapshot'
  readonly session: number
  readonly index: number
  readonly indexTerm: number
  readonly configIndex: number
  readonly config: ClusterConfig
}

export interface TimeoutNow extends Envelope {
  readonly kind: 'timeoutNow'
  /** The leader's last entry: the receiver starts an election only if it has it. */
  readonly lastIndex: number
  readonly lastTerm: number
}

/**
 * A follower asks the leader for a read index. Cluster version 2. `context` is the follower's own, unique and rising;
 * a lost request is sent again with the same one.
 */
export interface ReadIndexRequest extends Envelope {
  readonly kind: 'readIndex'
  readonly context: number
}

/** Everything committed before the request arrived is at or below `index`. */
export interface ReadIndexReply extends Envelope {
  readonly kind: 'readIndexReply'
  readonly context: number
  readonly index: number
}

export type Message =
  | VoteRequest
  | VoteReply
  | AppendRequest
  | AppendReply
  | Heartbeat
  | HeartbeatReply
  | SnapshotOffer
  | TimeoutNow
  | ReadIndexRequest
  | ReadIndexReply

const incarnation: Schema<string> = {
  write: (writer, value) => fixed(16).write(writer, fromHex(value) ?? new Uint8Array(0)),
  read: (reader) => toHex(reader.raw(16)),
}

/** A configuration of voters alone, as cluster version 1 knows it. */
const plainConfig = struct({ members: list(struct({ id: text, incarnation, addresses: list(text) })) })
const fullConfig = struct({
  members: list(struct({ id: text, incarnation, addresses: list(text), role: oneOf(memberRoles) })),
  outgoing: list(text),
})

/**
 * Members as they are stored in configuration entries, snapshots and identities. A configuration of voters alone is stored
 * as version 1 knows it, so that a cluster that was not raised can go back to version 1. Any other starts with a zero
 * byte, which is no member count of version 1.
 */
export const clusterConfig: Schema<ClusterConfig> = {
  write: (writer, value) => {
    if (value.outgoing.length === 0 && value.members.every((member) => member.role === 'voter')) {
      plainConfig.write(writer, value)
      return
    }
    writer.byte(0)
    fullConfig.write(writer, value)
  },
  read: (reader) => {
    if (reader.peek() === 0) {
      reader.byte()
      // Nobody, which version 1 writes as a count of zero; it is followed by nothing or by a zero.
      if (reader.remaining === 0 || reader.peek() === 0) return { members: [], outgoing: [] }
      return fullConfig.read(reader)
    }
    const { members } = plainConfig.read(reader)
    return { members: members.map((member) => ({ ...member, role: 'voter' })), outgoing: [] }
  },
}

const entry: Schema<Entry> = struct({ index: uint, term: uint, type: oneOf(entryTypes), payload: bytes })
const entriesList = list(entry)

/** What stands before the entries of an append. */
const appendHead = { term: uint, session: uint, prevIndex: uint, prevTerm: uint, commit: uint }

const body = union({
  vote: { tag: 1, body: struct({ term: uint, pre: bool, forced: bool, lastIndex: uint, lastTerm: uint }) },
  voteReply: { tag: 2, body: struct({ term: uint, pre: bool, granted: bool }) },
  append: { tag: 3, body: struct({ ...appendHead, entries: entriesList }) },
  appendReply: {
    tag: 4,
    body: struct({ term: uint, session: uint, accepted: bool, index: uint, hintIndex: uint, hintTerm: uint }),
  },
  heartbeat: { tag: 5, body: struct({ term: uint, commit: uint, context: uint }) },
  heartbeatReply: { tag: 6, body: struct({ term: uint, context: uint }) },
  snapshot: {
    tag: 7,
    body: struct({
      term: uint,
      session: uint,
      index: uint,
      indexTerm: uint,
      configIndex: uint,
      config: clusterConfig,
    }),
  },
  timeoutNow: { tag: 8, body: struct({ term: uint, lastIndex: uint, lastTerm: uint }) },
  readIndex: { tag: 9, body: struct({ term: uint, context: uint }) },
  readIndexReply: { tag: 10, body: struct({ term: uint, context: uint, index: uint }) },
})

export function encodeMessage(message: Message): Uint8Array {
  return encode(body, message)
}

/** An append without its entries: what differs from one receiver to another. */
const bareAppend = union({ append: { tag: 3, body: struct(appendHead) } })

/** Encodes messages, the entries of an append once for all that are sent the same ones. */
export class MessageEncoder {
  #entries: readonly Entry[] = []
  #encoded: Uint8Array = encode(entriesList, [])

  encode(message: Message): Uint8Array {
    if (message.kind !== 'append' || message.entries.length === 0) return encodeMessage(message)
    if (!sameRun(message.entries, this.#entries)) {
      this.#entries = message.entries
      this.#encoded = encode(entriesList, message.entries)
    }
    return concatBytes([encode(bareAppend, message), this.#encoded])
  }

  /** Forgets what it holds: the same entries are not sent again soon. */
  forget(): void {
    this.#entries = []
  }
}

function sameRun(a: readonly Entry[], b: readonly Entry[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i])
}

/** Payloads of a message up to this size are views on it: they are nearly all of it, and go together. */
const viewBytesMax = 64 * 1024

/** Throws SchemaError unless `encoded` is one well-formed message. Payloads are views on it, or copies when it is large. */
export function decodeMessage(encoded: Uint8Array, from: NodeId, to: NodeId): Message {
  const value = decode(body, encoded)
  if (value.term > termMax) throw new SchemaError('the term is out of bounds')
  if (value.kind === 'append') {
    checkEntries(value.prevIndex, value.prevTerm, value.term, value.entries)
    if (encoded.length <= viewBytesMax) return { ...value, from, to }
    const entries = value.entries.map((item) => ({ ...item, payload: copyBytes(item.payload) }))
    return { ...value, entries, from, to }
  }
  if (value.kind === 'snapshot' && (value.indexTerm > value.term || value.configIndex > value.index)) {
    throw new SchemaError('snapshot is newer than its message')
  }
  return { ...value, from, to }
}

function checkEntries(prevIndex: number, prevTerm: number, term: number, entries: readonly Entry[]): void {
  if (prevTerm > term) throw new SchemaError('terms of entries are out of order')
  let index = prevIndex
  let last = prevTerm
  for (const item of entries) {
    if (item.index !== index + 1) throw new SchemaError('entries are not contiguous')
    if (item.term < last || item.term > term) throw new SchemaError('terms of entries are out of order')
    if (item.type === 'config') decodeConfig(item.payload)
    if (item.type === 'receipt') decodeReceipt(item.payload)
    index = item.index
    last = item.term
  }
}

export function encodeConfig(config: ClusterConfig): Uint8Array {
  return encode(clusterConfig, config)
}

/** Throws SchemaError. */
export function decodeConfig(encoded: Uint8Array): ClusterConfig {
  return decode(clusterConfig, encoded)
}
