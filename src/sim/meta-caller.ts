/** Unary calls to the metadata leader, going where it points and repeating what can be repeated, as any client may. */

import { isStoreError, StoreError } from '../model/errors.ts'
import type { Clock } from '../ports/clock.ts'
import type { Method, NetClient } from '../ports/net.ts'
import type { Seeded } from './seed.ts'

export interface MetaCallerOptions {
  readonly clock: Clock
  readonly net: NetClient
  readonly random: Seeded
  /** Addresses of meta nodes to ask. */
  readonly meta: readonly string[]
}

export interface Answer<T> {
  readonly reply: T | undefined
  readonly error: StoreError | undefined
  /** Some attempt may have been carried out although no answer came. */
  readonly unsure: boolean
}

export class MetaCaller {
  readonly #options: MetaCallerOptions
  #leader: string
  /** The last thing that did not work, for the trace. */
  trouble = ''

  constructor(options: MetaCallerOptions) {
    this.#options = options
    this.#leader = options.random.pick(options.meta)
  }

  /** The next call goes to any node, so that one who no longer leads gets the chance to be wrong. */
  wander(): void {
    this.#leader = this.#options.random.pick(this.#options.meta)
  }

  wait(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(delayMs, resolve)
    })
  }

  /** Asks for at most `patienceMs`, each attempt for at most `attemptMs`. */
  async ask<QIn, RIn, QOut, ROut>(
    method: Method<QIn, RIn, QOut, ROut>,
    request: QOut,
    patienceMs = 6000,
    attemptMs = 1500,
  ): Promise<Answer<RIn>> {
    const { clock, random, meta, net } = this.#options
    const endMs = clock.monotonicMs() + patienceMs
    let unsure = false
    for (;;) {
      try {
        const reply = await net.call(this.#leader, method, request, { timeoutMs: attemptMs })
        return { reply, error: undefined, unsure }
      } catch (thrown) {
        const error = isStoreError(thrown) ? thrown : new StoreError('INTERNAL', String(thrown))
        if (error.outcome === 'unknown') unsure = true
        this.trouble = `${method.path} at ${this.#leader}: ${error.code} ${error.message}`
        const hint = error.details.leader?.[0]
        this.#leader = hint ?? random.pick(meta)
        if (!error.retryable || clock.monotonicMs() > endMs) return { reply: undefined, error, unsure }
        await this.wait(hint === undefined ? random.between(20, 200) : 1)
      }
    }
  }
}
