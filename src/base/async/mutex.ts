/**
 * One at a time: a semaphore of one permit with a form that cannot forget to release.
 *
 * Invariants: callers run in the order they asked; the next one runs whether the one before succeeded or threw.
 * Not re-entrant: a holder that asks again waits for itself.
 */

import { type Release, Semaphore } from './semaphore.ts'

export class Mutex {
  readonly #semaphore = new Semaphore(1)

  /** Resolves to the release function when the lock is free. */
  acquire(signal?: AbortSignal): Promise<Release> {
    return this.#semaphore.acquire(1, signal)
  }

  /** Runs `work` alone and passes on what it gives or throws. */
  async run<T>(work: () => Promise<T> | T, signal?: AbortSignal): Promise<T> {
    const release = await this.#semaphore.acquire(1, signal)
    try {
      return await work()
    } finally {
      release()
    }
  }
}
