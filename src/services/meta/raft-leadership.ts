/**
 * Who is told that this node leads: handlers hear of a term once the node has applied its own first entry in it, and of
 * the loss exactly once.
 */

import type { Log } from '../../ports/log.ts'
import type { RaftView } from '../../core/raft/raft.ts'

type Handler = (term: number | undefined) => void

export class Leadership {
  readonly #log: Log
  readonly #handlers: Handler[] = []
  /** Called after every look at the core; for those who wait for a change. */
  readonly #watchers = new Set<() => void>()
  #term: number | undefined
  #announced = false

  constructor(log: Log) {
    this.#log = log
  }

  onChange(handler: Handler): void {
    this.#handlers.push(handler)
  }

  watch(watcher: () => void): void {
    this.#watchers.add(watcher)
  }

  unwatch(watcher: () => void): void {
    this.#watchers.delete(watcher)
  }

  /** Compares with what was seen last; `lost` runs before the handlers hear of a loss. */
  notice(view: RaftView, lost: () => void): void {
    const term = view.role === 'leader' ? view.term : undefined
    if (this.#term !== undefined && term !== this.#term) {
      this.#log.info('lost leadership', { term: this.#term })
      lost()
      this.withdraw()
    }
    if (term !== undefined && term !== this.#term) this.#log.info('elected leader', { term })
    this.#term = term
    if (term !== undefined && !this.#announced && view.applied >= view.firstOwnIndex) {
      this.#announced = true
      for (const handler of this.#handlers) handler(term)
    }
    this.#tellWatchers()
  }

  /** Leadership ends here and now, whatever the core says. */
  withdraw(): void {
    this.#term = undefined
    if (this.#announced) {
      this.#announced = false
      for (const handler of this.#handlers) handler(undefined)
    }
    this.#tellWatchers()
  }

  /** Those of now: a watcher that is told may leave, and one that joins meanwhile waits for the next look. */
  #tellWatchers(): void {
    const watchers = Array.from(this.#watchers)
    for (const watcher of watchers) watcher()
  }
}
