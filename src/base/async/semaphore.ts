/**
 * Counted permits, given out first come first served: bounds how much of something runs at once.
 *
 * A waiter that asks for many permits is not overtaken by one that asks for few, so nobody starves.
 * Invariants: permits out plus permits left equals the count; a release function acts once.
 * Waiting may be aborted by a signal: the promise rejects with an `AbortError` and the waiter leaves the queue.
 */

import { assert } from '../assert.ts'

/** Gives the permits back; further calls do nothing. */
export type Release = () => void

interface Waiter {
  readonly count: number
  readonly grant: (release: Release) => void
}

/** The error of an aborted wait; its name is `AbortError`. */
export function abortError(doing: string): Error {
  const error = new Error(`${doing} was aborted`)
  error.name = 'AbortError'
  return error
}

export class Semaphore {
  readonly #total: number
  #left: number
  #waiters: Waiter[] = []

  constructor(permits: number) {
    assert(Number.isSafeInteger(permits) && permits > 0, 'a semaphore has permits')
    this.#total = permits
    this.#left = permits
  }

  /** Waiters in the queue. */
  get waiting(): number {
    return this.#waiters.length
  }

  /** Resolves to the release function when `count` (at most the total) permits are free. */
  acquire(count = 1, signal?: AbortSignal): Promise<Release> {
    assert(count > 0 && count <= this.#total, 'permits asked for are between 1 and the total')
    if (signal?.aborted) return Promise.reject(abortError('waiting for a permit'))
    if (this.#waiters.length === 0 && count <= this.#left) return Promise.resolve(this.#take(count))
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter)
        this.#serve()
        reject(abortError('waiting for a permit'))
      }
      const waiter: Waiter = {
        count,
        grant: (release) => {
          signal?.removeEventListener('abort', onAbort)
          resolve(release)
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiters.push(waiter)
    })
  }

  #take(count: number): Release {
    this.#left -= count
    let held = true
    return () => {
      if (!held) return
      held = false
      this.#left += count
      this.#serve()
    }
  }

  #serve(): void {
    for (;;) {
      const first = this.#waiters[0]
      if (first === undefined || first.count > this.#left) return
      this.#waiters.shift()
      first.grant(this.#take(first.count))
    }
  }
}
