/**
 * What a leader knows of one member's log, and how it sends to it.
 *
 * `probe`: one message at a time until the logs meet. `replicate`: pipelined, up to a window in messages and bytes.
 * `snapshot`: nothing but heartbeats until the snapshot is reported.
 * Invariants: 0 <= match < next; the window is empty outside `replicate`; match never goes back within a session.
 */

import { assert } from '../../base/assert.ts'

interface InFlight {
  readonly last: number
  readonly bytes: number
}

export class Progress {
  /** Replication session: replies that carry another one belong to an earlier life of this member and are ignored. */
  readonly session: number
  readonly #windowMessages: number
  readonly #windowBytes: number
  match = 0
  next: number
  state: 'probe' | 'replicate' | 'snapshot' = 'probe'
  /** Probe: a message is under way. */
  paused = false
  /** Entries are being read from the log store for this member. */
  fetching = false
  /** Heard of since the last quorum check. */
  active = false
  /** Ticks since it was heard of. */
  silence = 0
  /** Last entry that was ever sent to it or that it has: what is under way may still arrive, whatever `next` says. */
  furthest = 0
  /** It gets receipts, and entries only when a member that holds everything has them (witness.ts). */
  witness = false
  /** Index of the configuration entry that removed it, 0 for a member; and what was done to tell it (departures.ts). */
  departing = 0
  departingTicks = 0
  told = 0
  #inFlight: InFlight[] = []
  #inFlightBytes = 0

  constructor(next: number, session: number, windowMessages: number, windowBytes: number) {
    this.next = next
    this.session = session
    this.#windowMessages = windowMessages
    this.#windowBytes = windowBytes
  }

  /** It answered. */
  heard(): void {
    this.active = true
    this.silence = 0
  }

  /** True when entries may be sent now. */
  get maySend(): boolean {
    if (this.fetching) return false
    if (this.state === 'probe') return !this.paused
    if (this.state === 'snapshot') return false
    return this.#inFlight.length < this.#windowMessages && this.#inFlightBytes < this.#windowBytes
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes
  }

  /** Entries up to `last` were sent. */
  sent(last: number, bytes: number): void {
    this.furthest = Math.max(this.furthest, last)
    if (this.state === 'replicate') {
      if (bytes === 0) return
      this.#inFlight.push({ last, bytes })
      this.#inFlightBytes += bytes
      this.next = last + 1
      return
    }
    this.paused = true
  }

  /** The member has everything up to `index` on disk. Returns true when that is news. */
  acknowledged(index: number): boolean {
    let released = 0
    for (const item of this.#inFlight) {
      if (item.last > index) break
      this.#inFlightBytes -= item.bytes
      released++
    }
    if (released > 0) this.#inFlight.splice(0, released)
    if (index <= this.match) return false
    this.match = index
    this.furthest = Math.max(this.furthest, index)
    this.next = Math.max(this.next, index + 1)
    return true
  }

  #clear(): void {
    this.#inFlight = []
    this.#inFlightBytes = 0
    this.paused = false
    this.fetching = false
  }

  becomeProbe(next: number): void {
    this.#clear()
    this.state = 'probe'
    this.next = Math.max(this.match + 1, next)
  }

  becomeReplicate(): void {
    this.#clear()
    this.state = 'replicate'
    this.next = this.match + 1
  }

  becomeSnapshot(): void {
    this.#clear()
    this.state = 'snapshot'
  }

  /** Something sent may be lost: start over from what is known. */
  restart(): void {
    if (this.state === 'replicate') this.becomeProbe(this.match + 1)
    else if (this.state === 'probe') this.paused = false
    this.fetching = false
  }

  /**
   * The member refused entries after `rejected`; the logs may meet at `candidate`. Returns false for a stale refusal.
   */
  refused(rejected: number, candidate: number): boolean {
    if (this.state === 'replicate') {
      if (rejected <= this.match) return false
      this.becomeProbe(Math.min(candidate, rejected - 1) + 1)
      return true
    }
    if (this.state !== 'probe' || this.next - 1 !== rejected) return false
    this.paused = false
    this.next = Math.max(this.match + 1, Math.min(rejected, candidate + 1))
    return true
  }

  check(lastIndex: number): void {
    assert(this.match < this.next && this.match <= this.furthest, 'match is below next')
    assert(this.match <= lastIndex, 'no member has more than the leader')
    assert(this.#inFlightBytes >= 0 && (this.#inFlight.length > 0 || this.#inFlightBytes === 0), 'window adds up')
    assert(this.state === 'replicate' || this.#inFlight.length === 0, 'the window is only used when replicating')
  }
}
