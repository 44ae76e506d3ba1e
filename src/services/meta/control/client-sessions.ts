/**
 * Client sessions whose time is over, forgotten by entries (docs/RULES.md, rule 14).
 *
 * A call puts its session's end off without a word to this file: a session is looked at when the end that was known last
 * has come, and then either forgotten or looked at later. So a call costs nothing here.
 */

import { IndexedHeap } from '../../../base/heap.ts'
import { sessionsForgottenMax } from '../../../core/meta/sessions.ts'
import { Alarm, Pump, type Term } from './term.ts'

const pageSessions = 1024
const firstId = '0'.repeat(32)
/** A session that was to be forgotten and is still there is asked for again after this time. */
const lookAgainMs = 1000

export class ClientSessions {
  readonly #term: Term
  /** By the end that was known last (wall). */
  readonly #ends = new IndexedHeap<string, number>((a, b) => a - b)
  readonly #pump: Pump
  readonly #alarm: Alarm

  constructor(term: Term) {
    this.#term = term
    this.#pump = new Pump(term, 'forget client sessions', () => this.#forget())
    this.#alarm = new Alarm(term, () => this.#pump.kick())
  }

  async load(): Promise<void> {
    let from: string | undefined = firstId
    while (from !== undefined) {
      const page = await this.#term.queries.sessions(from, pageSessions)
      for (const { id, record } of page) if (!this.#ends.has(id)) this.#ends.set(id, record.expiresMs)
      const last = page.at(-1)
      if (last === undefined || page.length < pageSessions) break
      from = after(last.id)
    }
    this.#schedule()
  }

  /** A committed entry opened or ended the session. */
  changed(id: string, open: boolean, expiresMs: number): void {
    if (open) this.#ends.set(id, expiresMs)
    else this.#ends.delete(id)
    this.#schedule()
  }

  #schedule(): void {
    const first = this.#ends.peek()
    this.#alarm.set(first === undefined ? undefined : this.#term.fromWallMs(first.value) + 1)
  }

  async #forget(): Promise<void> {
    for (;;) {
      const over = await this.#due()
      if (over.length === 0) break
      await this.#term.propose({ kind: 'expireSessions', sessions: over })
      this.#term.log.debug('client sessions forgotten', { sessions: over.length })
    }
    this.#schedule()
  }

  /** Some sessions whose time is over by what is applied; moves those that were used since to their new end. */
  async #due(): Promise<string[]> {
    const nowMs = this.#term.env.clock.wallMs()
    const over: string[] = []
    while (over.length < sessionsForgottenMax) {
      const first = this.#ends.peek()
      if (first === undefined || first.value > nowMs) break
      const record = await this.#term.queries.session(first.key)
      if (record === undefined) this.#ends.delete(first.key)
      else if (record.expiresMs > nowMs) this.#ends.set(first.key, record.expiresMs)
      else {
        // It may be used at the last moment; forgotten here when the entry says so.
        this.#ends.set(first.key, nowMs + lookAgainMs)
        over.push(first.key)
      }
    }
    return over
  }
}

/** The id that follows; undefined after the last there can be. */
function after(id: string): string | undefined {
  const next = (BigInt(`0x${id}`) + 1n).toString(16).padStart(32, '0')
  return next.length > 32 ? undefined : next
}
