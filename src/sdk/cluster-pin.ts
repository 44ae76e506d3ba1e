/**
 * Keeps one client on one cluster: a list of meta nodes that mixes two would read and write whichever answered first.
 *
 * The first cluster id that any reply names is the client's for good; a node that names another one makes every call fail
 * with WRONG_CLUSTER. With several seeds each is asked once, before the first call is sent, so that a mixed list is found
 * before anything is changed. A seed that is not there refuses at once; one that is silent holds the first call up for
 * `patienceMs` and is refused when it answers later.
 *
 * Invariants: at most one question to each seed, none with a single seed; every question is over after `askMs`.
 */

import { StoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import { metaMethods } from '../wire/methods.ts'

/** The first call waits so long for the seeds. */
const patienceMs = 500
const askMs = 1_500

export class ClusterPin {
  readonly #env: Env
  readonly #seeds: readonly string[]
  readonly #onForeign: (error: StoreError) => void
  /** The cluster, and the node that named it first. */
  #pinned: { readonly clusterId: string; readonly address: string } | undefined
  #foreign: string | undefined
  #asked = false
  #waiting: Promise<void> | undefined
  readonly #giveUp = new Set<() => void>()

  /** `onForeign`: called once, when a node turns out to belong to another cluster, with the error for calls in progress. */
  constructor(env: Env, seeds: readonly string[], onForeign: (error: StoreError) => void) {
    this.#env = env
    this.#seeds = [...new Set(seeds)]
    this.#onForeign = onForeign
  }

  /** Notes what a reply of the node at `address` said; '' (a node before its cluster is formed) says nothing. */
  see(address: string, clusterId: string): void {
    if (clusterId === '' || this.#foreign !== undefined) return
    this.#pinned ??= { clusterId, address }
    if (this.#pinned.clusterId === clusterId) return
    this.#foreign = `meta node ${address} belongs to cluster ${clusterId}, but ${this.#pinned.address} belongs to ${this.#pinned.clusterId}: name nodes of one cluster`
    // What was sent already may have been carried out, by the wrong cluster.
    this.#onForeign(new StoreError('WRONG_CLUSTER', this.#foreign, { outcome: 'unknown' }))
  }

  /** Why nothing may be sent any more; undefined while all nodes are of one cluster. */
  refusal(): StoreError | undefined {
    return this.#foreign === undefined ? undefined : new StoreError('WRONG_CLUSTER', this.#foreign)
  }

  /** Asks the seeds, the first time; what a call must wait for before it is sent, or undefined. Never rejects. */
  checked(): Promise<void> | undefined {
    if (!this.#asked) {
      this.#asked = true
      if (this.#seeds.length > 1) this.#waiting = this.#askAll()
    }
    return this.#waiting
  }

  /** Ends what is still being asked. */
  close(): void {
    for (const giveUp of this.#giveUp) giveUp()
  }

  async #askAll(): Promise<void> {
    const answers = Promise.all(this.#seeds.map((address) => this.#ask(address)))
    await new Promise<void>((resolve) => {
      const timer = this.#env.clock.after(patienceMs, resolve)
      const finish = (): void => {
        timer.cancel()
        resolve()
      }
      answers.then(finish, finish)
    })
    this.#waiting = undefined
  }

  /** Resolves when the node has answered, is not there, or was silent for too long. */
  #ask(address: string): Promise<void> {
    return new Promise((resolve) => {
      const stream = this.#env.net.open(address, metaMethods.session)
      const finish = (): void => {
        if (!this.#giveUp.delete(finish)) return
        timer.cancel()
        stream.destroy(new StoreError('CANCELLED', `meta node ${address} needs not be asked any more`))
        resolve()
      }
      const timer = this.#env.clock.after(askMs, finish)
      this.#giveUp.add(finish)
      stream.onMessage((reply) => {
        this.see(address, reply.clusterId)
        finish()
      })
      stream.onEnd(finish)
      stream.onClose(finish)
      // A request without a body: any node refuses it at once, leading or not, and its reply names the cluster.
      stream.send({ call: 1 })
    })
  }
}
