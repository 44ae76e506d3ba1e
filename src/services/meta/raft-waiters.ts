/**
 * Callers that wait: for their proposal to be applied, for a linearizable read to be safe, or for the end of a transfer of
 * leadership before they propose.
 *
 * Invariants: every waiter is settled exactly once; a proposal succeeds only when its own (term, index) was applied;
 * when leadership is lost its outcome is unknown, never "failed"; a read is given up after a while, because a follower's
 * leader may be gone. Both tables are bounded by the core's limits.
 */

import { StoreError } from '../../model/errors.ts'
import type { Reply } from '../../core/meta/commands.ts'
import type { AppliedEntry, AppliedReply } from './types.ts'

interface Proposal {
  readonly term: number
  readonly resolve: (reply: Reply) => void
  readonly reject: (error: StoreError) => void
}

interface Held {
  readonly resolve: () => void
  readonly reject: (error: StoreError) => void
  /** Tick at which it is let go. */
  readonly expires: number
}

interface Read {
  readonly resolve: () => void
  readonly reject: (error: StoreError) => void
  /** Tick at which it is given up. */
  readonly expires: number
}

export class Waiters {
  readonly #proposals = new Map<number, Proposal>()
  readonly #reads = new Map<number, Read>()
  /** Reads whose index is confirmed, in the order of their indexes. */
  #confirmed: { readonly index: number; readonly read: Read }[] = []
  /** Callers that have proposed nothing yet, because leadership is being handed over. */
  #held: Held[] = []
  #tokens = 0
  #ticks = 0

  get size(): number {
    return this.#proposals.size + this.#held.length
  }

  get holds(): boolean {
    return this.#held.length > 0
  }

  /** Resolves when it is known who leads after the transfer, or after `ticks`. */
  hold(ticks: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#held.push({ resolve, reject, expires: this.#ticks + ticks })
    })
  }

  /** Lets everybody propose who was held, or learn where the leader is. */
  release(): void {
    const held = this.#held
    this.#held = []
    for (const { resolve } of held) resolve()
  }

  proposal(term: number, index: number): Promise<Reply> {
    return new Promise((resolve, reject) => {
      this.#proposals.get(index)?.reject(unknownOutcome())
      this.#proposals.set(index, { term, resolve, reject })
    })
  }

  /** A new read, for at most `ticks`; `begin` gets its token and throws when the core refuses it. */
  read(ticks: number, begin: (token: number) => void): Promise<void> {
    const token = ++this.#tokens
    return new Promise((resolve, reject) => {
      this.#reads.set(token, { resolve, reject, expires: this.#ticks + ticks })
      try {
        begin(token)
      } catch (error) {
        this.#reads.delete(token)
        reject(error)
      }
    })
  }

  /** The read `token` may be served once `index` is applied. */
  confirmRead(token: number, index: number, applied: number): void {
    const read = this.#reads.get(token)
    if (read === undefined) return
    this.#reads.delete(token)
    if (index <= applied) read.resolve()
    else this.#confirmed.push({ index, read })
  }

  dropRead(token: number, error: StoreError): void {
    this.#reads.get(token)?.reject(error)
    this.#reads.delete(token)
  }

  /** Gives up reads whose time is over, and lets go who was held too long. */
  tick(expired: () => StoreError): void {
    this.#ticks++
    // The first one that was held waits longest.
    if ((this.#held[0]?.expires ?? Number.POSITIVE_INFINITY) <= this.#ticks) this.release()
    // Reads are in the order in which they came, and all wait equally long.
    for (const [token, read] of this.#reads) {
      if (read.expires > this.#ticks) break
      this.#reads.delete(token)
      read.reject(expired())
    }
    const late = this.#confirmed.filter(({ read }) => read.expires <= this.#ticks)
    if (late.length === 0) return
    this.#confirmed = this.#confirmed.filter(({ read }) => read.expires > this.#ticks)
    for (const { read } of late) read.reject(expired())
  }

  /** Entries were applied: answers their proposers, and the reads that waited for them. */
  applied(entries: readonly AppliedEntry[], replies: readonly AppliedReply[]): void {
    for (const [position, entry] of entries.entries()) {
      const proposal = this.#proposals.get(entry.index)
      if (proposal === undefined) continue
      this.#proposals.delete(entry.index)
      const reply = replies[position]
      if (proposal.term === entry.term && reply !== undefined) proposal.resolve(reply.reply)
      else proposal.reject(unknownOutcome())
    }
    this.serveReads(entries.at(-1)?.index ?? 0)
  }

  serveReads(applied: number): void {
    let served = 0
    for (const { index, read } of this.#confirmed) {
      if (index > applied) break
      read.resolve()
      served++
    }
    this.#confirmed.splice(0, served)
  }

  /** Leadership is lost: what was proposed may still take effect. The core gives up reads by itself. */
  failProposals(error: () => StoreError): void {
    const proposals = [...this.#proposals.values()]
    this.#proposals.clear()
    for (const proposal of proposals) proposal.reject(error())
  }

  /** The node stops: nobody is left waiting. */
  failAll(proposalError: () => StoreError, readError: () => StoreError): void {
    const reads = [...this.#reads.values(), ...this.#confirmed.map((item) => item.read)]
    this.#reads.clear()
    this.#confirmed = []
    const held = this.#held
    this.#held = []
    this.failProposals(proposalError)
    for (const waiting of [...reads, ...held]) waiting.reject(readError())
  }
}

export function unknownOutcome(): StoreError {
  return new StoreError(
    'UNAVAILABLE',
    'replicate a command: this meta node stopped leading before it was decided: it may still take effect',
    { outcome: 'unknown' },
  )
}
