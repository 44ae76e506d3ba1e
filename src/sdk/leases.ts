/**
 * Writer leases of one client: the ranges its chunk ids come from.
 *
 * One lease serves all uploads of the client and is fetched ahead of need, so that none is on the path of a put. It is
 * renewed at a third of its life while it is used, and given back when it was idle for a life, when an upload under it
 * failed (so that what it left behind is collected), and on close.
 *
 * Invariants: an id is handed out once. A lease is not released while an upload under it is open. After a renewal is
 * refused, or a whole life without one, no id is taken from the lease; whether a commit under it counts, meta decides.
 */

import { asStoreError, StoreError } from '../model/errors.ts'
import type { Timer } from '../ports/clock.ts'
import type { Env } from '../ports/env.ts'
import type { MetaCaller } from './meta-calls.ts'
import { Scope, withSignal } from './scope.ts'

const ttlMs = 60_000
/** A lease with fewer ids left takes no new uploads: those that run draw at most a page each before they look again. */
const reserveIds = 8192
/** The next lease is fetched when fewer ids are left. */
const aheadIds = 2 * reserveIds

interface Held {
  readonly id: number
  next: number
  readonly end: number
  renewedMs: number
  lifeMs: number
  users: number
  used: boolean
  retired: boolean
  lost: boolean
  timer: Timer | undefined
}

/** The ids of one upload. */
export interface LeaseUse {
  /** Lease of the ids given since the last `turnPage`. */
  readonly lease: number
  /** The next chunk id. */
  take(): number
  /** Call between two manifest pages: the next page may come from another lease. */
  turnPage(signal: AbortSignal): Promise<void>
  /** `failed`: something may have been written and not committed. */
  close(failed: boolean): void
}

export class Leases {
  readonly #env: Env
  readonly #meta: MetaCaller
  readonly #held = new Set<Held>()
  readonly #lifetime: Scope
  readonly #releases = new Set<Promise<void>>()
  #current: Held | undefined
  #fetching: Promise<Held> | undefined

  constructor(env: Env, meta: MetaCaller) {
    this.#env = env
    this.#meta = meta
    this.#lifetime = new Scope(env.clock, {}, 'hold a writer lease')
  }

  /** Opens the ids of one upload. */
  async open(signal: AbortSignal): Promise<LeaseUse> {
    let held = await this.#acquire(signal)
    const all = [held]
    held.users++
    return {
      get lease() {
        return held.id
      },
      take: () => {
        // What was written under it could not be committed: better to know now than after the last byte.
        if (held.lost) {
          throw new StoreError('FENCED', 'the writer lease ran out before it was renewed: start the upload again', {
            outcome: 'definite',
          })
        }
        if (held.next >= held.end) {
          throw new StoreError('OVERLOADED', 'the writer lease ran out of chunk ids: start fewer uploads at once', {
            outcome: 'definite',
          })
        }
        held.used = true
        return held.next++
      },
      turnPage: async (pageSignal) => {
        if (this.#usable(held)) return
        const next = await this.#acquire(pageSignal)
        if (next === held) return
        held = next
        held.users++
        all.push(held)
      },
      close: (failed) => {
        for (const one of all.splice(0)) {
          one.users--
          if (failed) this.#retire(one)
          this.#releaseIfDone(one)
        }
      },
    }
  }

  #usable(held: Held): boolean {
    if (held.retired || held.lost || held.end - held.next < reserveIds) return false
    return this.#env.clock.monotonicMs() - held.renewedMs < held.lifeMs
  }

  async #acquire(signal: AbortSignal): Promise<Held> {
    const current = this.#current
    if (current !== undefined && this.#usable(current)) {
      if (current.end - current.next < aheadIds) this.#fetch().catch(() => undefined) // asked again when it is needed
      return current
    }
    if (current !== undefined) this.#retire(current)
    return withSignal(this.#fetch(), signal)
  }

  #fetch(): Promise<Held> {
    this.#fetching ??= this.#grant().finally(() => {
      this.#fetching = undefined
    })
    return this.#fetching
  }

  async #grant(): Promise<Held> {
    const askedMs = this.#env.clock.monotonicMs()
    const lease = await this.#meta.call('grantLease', { ttlMs }, { signal: this.#lifetime.signal })
    if (!Number.isSafeInteger(lease.id + lease.count) || lease.id <= 0 || lease.count < 2 * aheadIds) {
      throw new StoreError(
        'INTERNAL',
        `meta granted a writer lease of ${lease.count} ids: want at least ${2 * aheadIds}`,
      )
    }
    const held: Held = {
      id: lease.id,
      next: lease.id,
      end: lease.id + lease.count,
      renewedMs: askedMs,
      lifeMs: lease.ttlMs,
      users: 0,
      used: true,
      retired: false,
      lost: false,
      timer: undefined,
    }
    if (this.#current !== undefined) this.#retire(this.#current)
    this.#current = held
    this.#held.add(held)
    this.#renewLater(held, lease.ttlMs / 3)
    return held
  }

  #renewLater(held: Held, delayMs: number): void {
    held.timer = this.#env.clock.after(delayMs, () => {
      this.#renew(held).catch(() => undefined) // `renew` deals with its failures
    })
  }

  async #renew(held: Held): Promise<void> {
    if (held.users === 0 && !held.used) this.#retire(held)
    if (this.#releaseIfDone(held)) return
    held.used = false
    const askedMs = this.#env.clock.monotonicMs()
    try {
      const lease = await this.#meta.call('renewLease', { id: held.id, ttlMs }, { signal: this.#lifetime.signal })
      held.renewedMs = askedMs
      held.lifeMs = lease.ttlMs
      if (this.#held.has(held)) this.#renewLater(held, lease.ttlMs / 3)
    } catch (error) {
      const failure = asStoreError(error, 'renew the writer lease')
      if (failure.code === 'CANCELLED') return
      this.#env.log.warn('writer lease not renewed', { lease: held.id, code: failure.code, reason: failure.message })
      const lateMs = this.#env.clock.monotonicMs() - held.renewedMs
      if (failure.code === 'FENCED' || failure.code === 'NOT_FOUND' || lateMs >= held.lifeMs) {
        held.lost = true
        this.#retire(held)
        this.#releaseIfDone(held)
      } else if (this.#held.has(held)) {
        this.#renewLater(held, held.lifeMs / 20)
      }
    }
  }

  #retire(held: Held): void {
    held.retired = true
    if (this.#current === held) this.#current = undefined
    this.#releaseIfDone(held)
  }

  /** True when the lease is (being) given back. */
  #releaseIfDone(held: Held): boolean {
    if (!held.retired || held.users > 0) return false
    if (!this.#held.delete(held)) return true
    held.timer?.cancel()
    if (!held.lost) {
      const release = this.#meta.call('releaseLease', { id: held.id }, { signal: this.#lifetime.signal }).then(
        () => undefined,
        () => undefined, // it expires by itself
      )
      this.#releases.add(release)
      release.finally(() => this.#releases.delete(release)).catch(() => undefined)
    }
    return true
  }

  /** Gives everything back, waiting at most `waitMs` for the answers. */
  async close(waitMs: number): Promise<void> {
    for (const held of this.#held) {
      held.users = 0
      this.#retire(held)
    }
    const timer = this.#env.clock.after(waitMs, () => {
      this.#lifetime.abort(
        new StoreError('CANCELLED', 'closed before the writer lease was given back: it expires by itself'),
      )
    })
    if (this.#fetching !== undefined)
      this.#lifetime.abort(new StoreError('CANCELLED', 'the connection was closed by the caller'))
    await Promise.all(this.#releases)
    timer.cancel()
    this.#lifetime.abort(new StoreError('CANCELLED', 'the connection was closed by the caller'))
    this.#lifetime.close()
  }
}
