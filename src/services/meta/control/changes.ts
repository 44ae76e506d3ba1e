/**
 * What was learned of replicas, on its way into the log: changes gather while one proposal is in flight and go out
 * together with the next (group commit), so that a thousand finished copies are a few entries.
 */

import type { ReplicaChange } from '../../../core/meta/commands.ts'
import { StoreError } from '../../../model/errors.ts'
import { Pump, type Term } from './term.ts'

interface Waiting {
  readonly change: ReplicaChange
  done(): void
  failed(error: unknown): void
}

const batchMax = 256
const waitingMax = 65_536

export class Changes {
  readonly #term: Term
  readonly #pump: Pump
  #waiting: Waiting[] = []

  constructor(term: Term) {
    this.#term = term
    this.#pump = new Pump(term, 'propose replica changes', () => this.#pass())
  }

  /** Resolves when the changes are applied (which may mean dropped: apply checks the generation of each). */
  async add(changes: readonly ReplicaChange[]): Promise<void> {
    this.#term.check()
    if (changes.length === 0) return
    if (this.#waiting.length + changes.length > waitingMax) {
      throw new StoreError('OVERLOADED', 'too many replica changes wait for the log')
    }
    await Promise.all(changes.map((change) => this.#one(change)))
  }

  #one(change: ReplicaChange): Promise<void> {
    return new Promise((done, failed) => {
      this.#waiting.push({ change, done, failed })
      this.#pump.kick()
    })
  }

  async #pass(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, batchMax)
      this.#waiting = this.#waiting.slice(batchMax)
      try {
        const reply = await this.#term.propose({ kind: 'replicas', changes: batch.map((waiting) => waiting.change) })
        if (!reply.ok) throw new StoreError(reply.code, reply.message)
        for (const waiting of batch) waiting.done()
      } catch (error) {
        for (const waiting of batch) waiting.failed(error)
      }
    }
  }
}
