/**
 * Requests and replies of the Session stream, laid and read by hand around the generated code of their bodies. The bytes
 * are those that the generated code would write, and what is read is what it would read (a test compares both).
 *
 * Why: the generated code of a message with a `oneof` of forty bodies asks for every one of them before it writes the one
 * that is there, and deletes every other one when it reads it: several times the cost of the body. Only bodies on the hot
 * path are listed; whatever else comes or goes, a message with unknown fields among them, is left to the generated code.
 */

import protobuf from 'protobufjs/minimal.js'
import { type holdfast, v1 } from './messages.ts'

type MetaRequest = holdfast.v1.MetaRequest
type MetaReply = holdfast.v1.MetaReply

interface Codec {
  encode(message: never, writer: protobuf.Writer): protobuf.Writer
  decode(reader: protobuf.Reader, length: number): unknown
}

interface Body {
  readonly name: 'place' | 'commit' | 'openObject'
  /** Number of the body's field: the same in request and reply. */
  readonly field: number
  readonly request: Codec
  readonly reply: Codec
}

const listed: readonly Body[] = [
  { name: 'place', field: 8, request: v1.PlaceRequest, reply: v1.PlaceReply },
  { name: 'commit', field: 10, request: v1.CommitRequest, reply: v1.CommitReply },
  { name: 'openObject', field: 11, request: v1.OpenObjectRequest, reply: v1.OpenObjectReply },
]
const byName: ReadonlyMap<string, Body> = new Map(listed.map((body) => [body.name, body]))

const varint = 0
const lengthDelimited = 2
const tagOf = (field: number, wireType: number): number => field * 8 + wireType
const byTag: ReadonlyMap<number, Body> = new Map(listed.map((body) => [tagOf(body.field, lengthDelimited), body]))

/** Field 1 (`call`) of both. */
const tagCall = tagOf(1, varint)
/** Field 20 of MetaReply (`cluster_id`). */
const tagClusterId = tagOf(20, lengthDelimited)
/** Fields 40 to 42 of MetaRequest: the ticket. */
const tagSession = tagOf(40, lengthDelimited)
const tagSequence = tagOf(41, varint)
const tagLowest = tagOf(42, varint)

/** Fields of a request beside the body. */
const besideBody: ReadonlySet<string> = new Set(['call', 'session', 'sequence', 'lowest'])

/** Writes a request whose body is listed; undefined, with nothing written, when it is another one. */
export function layRequest(
  message: holdfast.v1.MetaRequest.$Properties,
  writer: protobuf.Writer,
): protobuf.Writer | undefined {
  let body: Body | undefined
  for (const name in message) {
    if (besideBody.has(name)) continue
    const found = byName.get(name)
    if (found === undefined || body !== undefined) return undefined
    body = found
  }
  const value: unknown = body === undefined ? undefined : message[body.name]
  if (body === undefined || value === null || value === undefined) return undefined
  lay(message.call, body, body.request, value, writer)
  const { session, sequence, lowest } = message
  if (session) writer.uint32(tagSession).string(session)
  if (sequence) writer.uint32(tagSequence).uint64(sequence)
  if (lowest) writer.uint32(tagLowest).uint64(lowest)
  return writer
}

/** Writes a reply whose `body` is listed; undefined, with nothing written, when it is another one. */
export function layReply(
  message: holdfast.v1.MetaReply.$Properties,
  writer: protobuf.Writer,
): protobuf.Writer | undefined {
  const body = byName.get(message.body ?? '')
  const value: unknown = body === undefined ? undefined : message[body.name]
  if (body === undefined || value === null || value === undefined) return undefined
  lay(message.call, body, body.reply, value, writer)
  if (message.clusterId) writer.uint32(tagClusterId).string(message.clusterId)
  return writer
}

function lay(call: number | null | undefined, body: Body, codec: Codec, value: unknown, writer: protobuf.Writer): void {
  if (call) writer.uint32(tagCall).uint64(call)
  codec.encode(value as never, writer.uint32(tagOf(body.field, lengthDelimited)).fork()).ldelim()
}

/**
 * What was read: fields of its own for what is on the hot path, so that they are not those that the generated classes
 * guard with accessors; every other field is that of an empty message.
 */
class ReadRequest {
  call = 0
  body: Body['name'] | undefined = undefined
  session = ''
  sequence = 0
  lowest = 0
}
Object.setPrototypeOf(ReadRequest.prototype, v1.MetaRequest.prototype)

class ReadReply {
  call = 0
  body: Body['name'] | undefined = undefined
  clusterId = ''
}
Object.setPrototypeOf(ReadReply.prototype, v1.MetaReply.prototype)

/** Reads a request whose body is listed; undefined when there is anything else in it. Throws when it is damaged. */
export function readRequest(bytes: Uint8Array): MetaRequest | undefined {
  const reader = protobuf.Reader.create(bytes)
  const out = new ReadRequest()
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if (tag === tagCall) out.call = counter(reader)
    else if (tag === tagSession) out.session = reader.stringVerify()
    else if (tag === tagSequence) out.sequence = counter(reader)
    else if (tag === tagLowest) out.lowest = counter(reader)
    else if (!readBody(out, byTag.get(tag), 'request', reader)) return undefined
  }
  return out.body === undefined ? undefined : (out as unknown as MetaRequest)
}

/** The same for a reply. */
export function readReply(bytes: Uint8Array): MetaReply | undefined {
  const reader = protobuf.Reader.create(bytes)
  const out = new ReadReply()
  while (reader.pos < reader.len) {
    const tag = reader.uint32()
    if (tag === tagCall) out.call = counter(reader)
    else if (tag === tagClusterId) out.clusterId = reader.stringVerify()
    else if (!readBody(out, byTag.get(tag), 'reply', reader)) return undefined
  }
  return out.body === undefined ? undefined : (out as unknown as MetaReply)
}

/** A number, because there is no Long here (setup.ts), whatever the types say. */
function counter(reader: protobuf.Reader): number {
  return reader.uint64() as unknown as number
}

/** False when it is no listed body, or a second one, which would have to be merged with the first or take its place. */
function readBody(
  out: ReadRequest | ReadReply,
  body: Body | undefined,
  side: 'request' | 'reply',
  reader: protobuf.Reader,
): boolean {
  if (body === undefined || out.body !== undefined) return false
  out.body = body.name
  const bodies = out as unknown as Record<Body['name'], unknown>
  bodies[body.name] = body[side].decode(reader, reader.uint32())
  return true
}
