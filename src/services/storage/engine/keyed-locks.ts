/**
 * One change at a time per chunk id: what a log record frees depends on what the index holds for the id, so the look-up,
 * the append and the index change of one id must not mix with another's.
 *
 * Who needs several ids takes them in ascending order, so nobody waits in a circle.
 */

import { Mutex } from '../../../base/async/mutex.ts'

interface Entry {
  readonly mutex: Mutex
  users: number
}

export class KeyedLocks {
  readonly #entries = new Map<number, Entry>()

  /** Runs `work` while nobody else works on any of `ids` (distinct, ascending). */
  async run<T>(ids: readonly number[], work: () => Promise<T>): Promise<T> {
    const releases: (() => void)[] = []
    try {
      for (const id of ids) releases.push(await this.#acquire(id))
      return await work()
    } finally {
      for (const release of releases) release()
    }
  }

  async #acquire(id: number): Promise<() => void> {
    const entry = this.#entries.get(id) ?? { mutex: new Mutex(), users: 0 }
    this.#entries.set(id, entry)
    entry.users++
    const release = await entry.mutex.acquire()
    return () => {
      release()
      entry.users--
      if (entry.users === 0) this.#entries.delete(id)
    }
  }
}
