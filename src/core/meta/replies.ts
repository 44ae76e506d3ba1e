/**
 * Replies as client sessions keep them. A reply that names objects keeps what the repeated command cannot tell, so its
 * size is bounded by the number of operations and not by the length of their names.
 */

import { assert } from '../../base/assert.ts'
import { decode, encode, list, oneOf, struct, text, type TypeOf, uint, union } from '../../base/schema.ts'
import { type ErrorCode, errorTable } from '../../model/errors.ts'
import type { Command, Operation, Reply } from './commands.ts'
import { outcomeObject } from './records.ts'
import { refuse } from './refuse.ts'

/** Codes by name, so that the table may grow and change its order. */
const code = text
/** A message quotes at most a bucket and a key; this is a bound, not a length that is met. */
const messageMax = 4096

const answer = union({
  done: { tag: 1, body: struct({}) },
  bucket: { tag: 2, body: struct({ name: text, createdMs: uint }) },
  lease: { tag: 3, body: struct({ id: uint, count: uint, expiresMs: uint }) },
  committed: { tag: 4, body: struct({ durable: uint, objects: list(outcomeObject) }) },
  refused: { tag: 5, body: struct({ code, message: text }) },
})

/** The kinds of commands that a client session may carry; only ever appended to. */
export const sessionKinds = [
  'createBucket',
  'deleteBucket',
  'grantLease',
  'renewLease',
  'expireLease',
  'stagePage',
  'commit',
  'commitChunks',
  'unpinChunk',
  'setMode',
  'setQuota',
  'resumeDeletes',
] as const
export type SessionKind = (typeof sessionKinds)[number]
export type SessionCommand = Extract<Command, { kind: SessionKind }>

export function isSessionCommand(command: Command): command is SessionCommand {
  return sessionKinds.some((kind) => kind === command.kind)
}

/** What a call of a session asked for and what it was answered. */
const keptReply = struct({ asked: oneOf(sessionKinds), answer })

export function encodeReply(asked: SessionCommand, reply: Reply): Uint8Array {
  return encode(keptReply, { asked: asked.kind, answer: kept(reply) })
}

function kept(reply: Reply): TypeOf<typeof answer> {
  if (!reply.ok) return { kind: 'refused', code: reply.code, message: reply.message.slice(0, messageMax) }
  assert(reply.kind !== 'registered' && reply.kind !== 'session', `a client session answers no ${reply.kind}`)
  return reply
}

/** The reply that `asked` got when it was carried out. CONFLICT when another call had its number. */
export function decodeReply(stored: Uint8Array, asked: SessionCommand): Reply {
  const known = decode(keptReply, stored)
  const { answer: reply } = known
  const operations = asked.kind === 'commit' ? asked.operations : []
  const same =
    known.asked === asked.kind &&
    (reply.kind !== 'committed' || asked.kind !== 'commit' || reply.objects.length === operations.length)
  if (!same) refuse('CONFLICT', `this call of the session was a ${known.asked} before: give every call its own number`)
  if (reply.kind === 'refused') return { ok: false, code: codeOf(reply.code), message: reply.message }
  if (reply.kind !== 'committed') return { ok: true, ...reply }
  const objects = reply.objects.map((object, i) => {
    const { bucket, key } = operations[i] as Operation
    return { bucket, key, ...object, etag: object.etag.slice() }
  })
  return { ok: true, kind: 'committed', durable: reply.durable, objects }
}

function codeOf(name: string): ErrorCode {
  assert(name in errorTable, `${name} is an error code`)
  return name as ErrorCode
}
