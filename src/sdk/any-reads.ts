/**
 * Reads over all meta nodes instead of the leader alone: `connect({ reads: 'any' })`.
 *
 * They are as linearizable as the leader's: a follower asks it for the index that everything acknowledged is below, and
 * answers when it has applied that. Of two nodes at random the one with fewer calls in flight is asked, once. Whatever it
 * says against it (it knows no leader to ask, it is silent, it stops) the leader is asked instead, and the node is left
 * alone for a while.
 *
 * Invariant: one stream for each address at most, opened when it is first chosen.
 */

import { asStoreError, type StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import type { SessionCall } from '../wire/methods.ts'
import type { MetaCaller, MetaCallOptions, MetaReplyOf, MetaRequestOf } from './meta-calls.ts'
import { askLink, type Link } from './meta-link.ts'
import { type MetaClient, worthRetry } from './meta-session.ts'
import { abortReason } from './scope.ts'

/** A node that is slower than this costs more than the leader does. */
const patienceMs = 1_000
const restMs = 5_000

interface Reader {
  readonly address: string
  link: Link | undefined
  restUntilMs: number
}

export class AnyReads implements MetaCaller {
  readonly #env: Env
  readonly #leader: MetaClient
  readonly #readers: readonly Reader[]
  #closed = false

  constructor(env: Env, leader: MetaClient, addresses: readonly string[]) {
    this.#env = env
    this.#leader = leader
    this.#readers = [...new Set(addresses)].map((address) => ({
      address,
      link: undefined,
      restUntilMs: Number.NEGATIVE_INFINITY,
    }))
  }

  async call<K extends SessionCall>(
    kind: K,
    request: MetaRequestOf<K>,
    options: MetaCallOptions<K>,
  ): Promise<MetaReplyOf<K>> {
    const { signal } = options
    await this.#leader.checked(signal)
    const reader = this.#choose()
    if (reader === undefined || this.#leader.refusal() !== undefined) return this.#leader.call(kind, request, options)
    try {
      const reply = await askLink(this.#linkOf(reader), kind, request, { signal, timeoutMs: patienceMs })
      const refusal = this.#leader.refusal()
      if (refusal !== undefined) throw refusal
      return reply
    } catch (error) {
      if (signal.aborted) throw abortReason(signal)
      const failure = asStoreError(error, kind)
      if (!worthRetry(failure.code)) throw failure
      this.#rest(reader, failure)
      return this.#leader.call(kind, request, options)
    }
  }

  #choose(): Reader | undefined {
    if (this.#closed) return undefined
    const nowMs = this.#env.clock.monotonicMs()
    const rested = this.#readers.filter((reader) => reader.restUntilMs <= nowMs)
    const first = Math.floor(this.#env.entropy.unit() * rested.length)
    const second = (first + 1 + Math.floor(this.#env.entropy.unit() * (rested.length - 1))) % rested.length
    const [one, other] = [rested[first], rested[second]]
    if (one === undefined || other === undefined) return one
    return (other.link?.waiting ?? 0) < (one.link?.waiting ?? 0) ? other : one
  }

  #linkOf(reader: Reader): Link {
    if (reader.link?.closed === true) reader.link = undefined
    reader.link ??= this.#leader.openLink(reader.address)
    return reader.link
  }

  #rest(reader: Reader, why: StoreError): void {
    reader.restUntilMs = this.#env.clock.monotonicMs() + restMs
    if (why.code === 'TIMEOUT' || why.code === 'UNAVAILABLE') {
      reader.link?.retire()
      reader.link = undefined
    }
    this.#env.log.debug('reads leave a meta node alone for a while', { address: reader.address, code: why.code })
  }

  close(): void {
    this.#closed = true
    for (const { link } of this.#readers) link?.destroy()
  }
}
