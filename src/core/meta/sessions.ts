/**
 * Client sessions: a call that carries its session and number is carried out once, however often it is repeated
 * (docs/RULES.md, rule 14).
 *
 * Invariants: a session lives until an entry forgets it, which only its client or the committed time brings about; a
 * full table refuses new sessions and never drops one; a call whose number is known gets the reply that is kept, one
 * below `lowest` or of a session that is gone is never carried out (again); a refusal is a reply like any other, unless it
 * passes by itself (apply.ts): then the call is carried out when it comes again; a session keeps at most
 * `sessionCallsMax` replies.
 */

import { assert } from '../../base/assert.ts'
import type { Schema } from '../../base/schema.ts'
import type { Command, Reply } from './commands.ts'
import { keys } from './keys.ts'
import { type SessionRecord, sessionRecord } from './records.ts'
import { demand, refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** Sessions of a cluster, with those that were closed lately. */
export const sessionsMax = 16_384
/** Calls of one session that may be unanswered, as far as the cluster knows. */
export const sessionCallsMax = 256
/** Sessions that one command may forget: with their replies less than 4,096 records. */
export const sessionsForgottenMax = 15
/** Life of a session without a call. */
export const sessionTtlMs: number = 15 * 60_000
/** `lowest` of a session that was closed: every call lies below. */
const closedLowest: number = Number.MAX_SAFE_INTEGER
const ttlMinMs = 1_000
const ttlMaxMs: number = 24 * 3_600_000

/** Kept as it is encoded. */
const raw: Schema<Uint8Array> = {
  write: (writer, value) => writer.raw(value),
  read: (reader) => reader.raw(reader.remaining),
}

export function openSession(tx: Transaction, id: string, wantedMs: number): Reply {
  const known = tx.get(keys.session(id), sessionRecord)
  if (known?.lowest === closedLowest) gone(id)
  if (known === undefined && tx.counters.sessions >= sessionsMax) {
    refuse('OVERLOADED', `the cluster has ${sessionsMax} client sessions: try again later, or go on without one`)
  }
  const ttlMs = known?.ttlMs ?? Math.min(Math.max(wantedMs, ttlMinMs), ttlMaxMs)
  const expiresMs = tx.nowMs + ttlMs
  if (known === undefined) tx.count({ sessions: tx.counters.sessions + 1 })
  tx.put(keys.session(id), sessionRecord, { ...(known ?? { lowest: 1, kept: [] }), ttlMs, expiresMs })
  tx.effect({ kind: 'session', session: id, open: true, expiresMs })
  return { ok: true, kind: 'session', ttlMs, callsMax: sessionCallsMax }
}

export function keepSession(tx: Transaction, id: string): void {
  const session = mustSession(tx, id)
  tx.put(keys.session(id), sessionRecord, { ...session, expiresMs: tx.nowMs + session.ttlMs })
}

function mustSession(tx: Transaction, id: string): SessionRecord {
  const session = tx.get(keys.session(id), sessionRecord)
  if (session === undefined || session.lowest === closedLowest) gone(id)
  return session
}

function gone(id: string): never {
  refuse('SESSION_EXPIRED', `session ${id} is gone: this call was not carried out; open a new session`)
}

/**
 * Ends the session and forgets its replies. Nothing happens when it is gone. Its id is kept for as long as it would have
 * lived without a call, so that an `openSession` that comes late does not begin it anew, with calls that were carried out.
 */
export function closeSession(tx: Transaction, id: string): void {
  const session = tx.get(keys.session(id), sessionRecord)
  if (session === undefined || session.lowest === closedLowest) return
  // In a full table the room is worth more than safety from an open that was sent before the close and arrives after it.
  if (tx.counters.sessions >= sessionsMax) {
    forgetSession(tx, id, session)
    return
  }
  for (const sequence of session.kept) tx.del(keys.keptReply(id, sequence))
  const expiresMs = tx.nowMs + session.ttlMs
  tx.put(keys.session(id), sessionRecord, { ...session, lowest: closedLowest, kept: [], expiresMs })
  tx.effect({ kind: 'session', session: id, open: true, expiresMs })
}

function forgetSession(tx: Transaction, id: string, session: SessionRecord): void {
  for (const sequence of session.kept) tx.del(keys.keptReply(id, sequence))
  tx.del(keys.session(id))
  tx.count({ sessions: tx.counters.sessions - 1 })
  tx.effect({ kind: 'session', session: id, open: false, expiresMs: session.expiresMs })
}

/** Forgets those of the sessions whose time is over by the committed time. */
export function expireSessions(tx: Transaction, ids: readonly string[]): void {
  demand(ids.length <= sessionsForgottenMax, `${ids.length} sessions at once: name at most ${sessionsForgottenMax}`)
  for (const id of ids) {
    const session = tx.get(keys.session(id), sessionRecord)
    if (session !== undefined && session.expiresMs <= tx.nowMs) forgetSession(tx, id, session)
  }
}

type CallBody = Extract<Command, { kind: 'inSession' }>

/** A call on its way through its session. */
export interface SessionCall {
  readonly session: SessionRecord
  /** The reply that is kept; undefined: the call is to be carried out now. */
  readonly known: Uint8Array | undefined
}

/** Looks a call up. Refuses what must not be carried out. Writes nothing. */
export function findCall(tx: Transaction, body: CallBody): SessionCall {
  const { session: id, sequence, lowest } = body
  demand(
    sequence >= 1 && lowest >= 1 && lowest <= sequence,
    `call ${sequence} of session ${id} has lowest ${lowest}: number calls from 1, and give the lowest that is not answered`,
  )
  const session = mustSession(tx, id)
  if (sequence < session.lowest) {
    refuse('SESSION_EXPIRED', `call ${sequence} of session ${id} was answered before: its reply is forgotten`)
  }
  const left = session.kept.filter((kept) => kept >= lowest)
  if (session.kept.includes(sequence)) {
    const known = tx.get(keys.keptReply(id, sequence), raw)
    assert(known !== undefined, `reply ${sequence} of session ${id} is kept`)
    return { session, known }
  }
  if (left.length >= sessionCallsMax) {
    refuse('OVERLOADED', `session ${id} has ${sessionCallsMax} calls that are not settled: settle some first`)
  }
  return { session, known: undefined }
}

/** Notes that the call was answered: puts off the session's end, forgets what is settled, keeps the reply if it is new. */
export function settleCall(tx: Transaction, body: CallBody, session: SessionRecord, reply?: Uint8Array): void {
  const { session: id, sequence } = body
  const lowest = Math.max(session.lowest, body.lowest)
  const kept: number[] = []
  for (const one of session.kept) {
    if (one >= lowest) kept.push(one)
    else tx.del(keys.keptReply(id, one))
  }
  if (reply !== undefined) {
    tx.put(keys.keptReply(id, sequence), raw, reply)
    kept.push(sequence)
    kept.sort((a, b) => a - b)
  }
  tx.put(keys.session(id), sessionRecord, { ...session, lowest, kept, expiresMs: tx.nowMs + session.ttlMs })
}
