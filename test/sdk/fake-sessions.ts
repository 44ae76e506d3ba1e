/** Client sessions of the fake metadata leader: each call in one is carried out once, and its answer is kept. */

import { StoreError } from '../../src/model/errors.ts'
import type { holdfast } from '../../src/wire/messages.ts'

type Request = holdfast.v1.MetaRequest
type Reply = holdfast.v1.MetaReply.$Properties

interface FakeSession {
  readonly answers: Map<number, { reply?: Reply; error?: unknown }>
  lowest: number
}

export class FakeSessions {
  /** What the cluster is: of version 2, of version 1, a program that knows no sessions, or full. */
  mode: 'on' | 'version 1' | 'unknown' | 'full' = 'on'
  ttlMs = 900_000
  callsMax = 64
  readonly open = new Map<string, FakeSession>()
  /** Every session that was ever opened. */
  readonly opened: string[] = []
  keeps = 0
  /** Numbers of the calls that came in, repeated ones too. */
  readonly sent: number[] = []
  /** Kinds of the calls that were carried out. */
  readonly done: string[] = []
  /** Most answers that were kept at once. */
  kept = 0

  /** Forgets every session, as the time does. */
  expire(): void {
    this.open.clear()
  }

  /** Answers the calls on sessions themselves; undefined for any other call. */
  answer(request: Request): Reply | undefined {
    if (request.openSession) {
      this.#checkOpen()
      const { session } = request.openSession
      if (!this.open.has(session)) {
        this.open.set(session, { answers: new Map(), lowest: 1 })
        this.opened.push(session)
      }
      return { openSession: { ttlMs: this.ttlMs, callsMax: this.callsMax } }
    }
    if (request.keepSession) {
      this.keeps++
      this.#find(request.keepSession.session)
      return { keepSession: {} }
    }
    if (request.closeSession) {
      this.open.delete(request.closeSession.session)
      return { closeSession: {} }
    }
    return undefined
  }

  #checkOpen(): void {
    if (this.mode === 'version 1') throw new StoreError('INCOMPATIBLE_VERSION', 'sessions need cluster version 2')
    if (this.mode === 'unknown') throw new StoreError('INVALID_ARGUMENT', 'a session request without a known call')
    if (this.mode === 'full') throw new StoreError('OVERLOADED', 'the session table is full')
  }

  #find(id: string): FakeSession {
    const session = this.open.get(id)
    if (session === undefined) throw new StoreError('SESSION_EXPIRED', 'the session has expired')
    return session
  }

  /** Carries the call out, or answers what it answered before. */
  once(request: Request, carryOut: () => Reply): Reply {
    this.sent.push(request.sequence)
    const session = this.#find(request.session)
    session.lowest = Math.max(session.lowest, request.lowest)
    for (const sequence of session.answers.keys()) if (sequence < session.lowest) session.answers.delete(sequence)
    if (request.sequence < session.lowest) throw new StoreError('SESSION_EXPIRED', 'the answer was forgotten')
    let answer = session.answers.get(request.sequence)
    if (answer === undefined) {
      if (session.answers.size >= this.callsMax) throw new StoreError('INTERNAL', 'more calls than the session allows')
      this.done.push(request.body ?? '')
      try {
        answer = { reply: carryOut() }
      } catch (error) {
        answer = { error }
      }
      session.answers.set(request.sequence, answer)
      this.kept = Math.max(this.kept, session.answers.size)
    }
    if (answer.reply === undefined) throw answer.error
    return answer.reply
  }
}
