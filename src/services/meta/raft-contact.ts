/**
 * Questions to the other members outside of Raft's messages: who are you (their version, for the rule of upgrades), do you
 * know that I am reached elsewhere now, and, when no leader is heard of, am I still a member?
 *
 * A member that was removed usually learns it from its log, and stops. If it was down then, nobody talks to it any more:
 * it asks, and stops when a committed configuration newer than its own does not list it, or when the cluster was
 * recovered without it.
 */

import { StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { Identity } from './identity.ts'

/** Between two rounds of questions while there is something to ask. */
const askMs = 1000
/** The same answer so often in a row is believed. */
const agreeing = 3

type Hello = holdfast.v1.HelloReply

/** What contact needs of the replicator. */
export interface ContactHost {
  readonly env: Env
  readonly core: Raft
  readonly config: MetaConfig
  readonly identity: Identity
  addressesOf(id: NodeId): readonly string[]
  hello(peer: { readonly id: NodeId; readonly address: string }): Promise<Hello | undefined>
  /** Highest version that the program of `id` supports; 0 when it was not heard of. */
  versionOf(id: NodeId): number
  heardVersion(id: NodeId, versionMax: number): void
  /** Moves a member; for a leader that is reached elsewhere itself. */
  move(id: NodeId, addresses: readonly string[]): void
  fatal(error: unknown): void
}

export class Contact {
  readonly #host: ContactHost
  #lastMs = Number.NEGATIVE_INFINITY
  #leaderMs = 0
  #asking = false
  #removedSigns = 0

  constructor(host: ContactHost) {
    this.#host = host
    this.#leaderMs = host.env.clock.monotonicMs()
  }

  tick(): void {
    const { env, core, config } = this.#host
    const nowMs = env.clock.monotonicMs()
    if (core.view.leader !== '') {
      this.#leaderMs = nowMs
      this.#removedSigns = 0
    }
    if (core.view.role !== 'leader' && core.membership(this.#host.identity.incarnation) === 'removed') {
      this.#host.fatal(leftBehind(config.id, 'it was removed from its cluster'))
      return
    }
    if (this.#asking || nowMs - this.#lastMs < askMs) return
    const { tickMs, electionTicks } = config.raft
    const leaderless = nowMs - this.#leaderMs > 4 * tickMs * electionTicks
    if (!leaderless && !this.#moved && this.#strangeVersions.length === 0) return
    this.#lastMs = nowMs
    if (core.view.leader === config.id && this.#moved) this.#host.move(config.id, config.advertise)
    this.#asking = true
    this.#ask(leaderless || this.#moved ? this.#others : this.#strangeVersions)
      .catch((error: unknown) => this.#host.fatal(error))
      .finally(() => {
        this.#asking = false
      })
  }

  get #others(): NodeId[] {
    const { core, config } = this.#host
    return core.config.config.members.map((member) => member.id).filter((id) => id !== config.id)
  }

  /** The cluster knows other addresses of this node than those of this start. */
  get #moved(): boolean {
    const { core, config } = this.#host
    const own = core.config.config.members.find((member) => member.id === config.id)
    const here = config.advertise.join(' ')
    return own !== undefined && here !== '' && own.addresses.join(' ') !== here
  }

  get #strangeVersions(): NodeId[] {
    return this.#others.filter((id) => this.#host.versionOf(id) === 0)
  }

  async #ask(ids: readonly NodeId[]): Promise<void> {
    const peers = ids.flatMap((id) =>
      this.#host
        .addressesOf(id)
        .slice(0, 1)
        .map((address) => ({ id, address })),
    )
    const replies = await Promise.all(peers.map((peer) => this.#host.hello(peer)))
    const known = replies.filter((reply) => reply !== undefined)
    for (const reply of known) this.#host.heardVersion(reply.node, reply.versionMax || 1)
    if (this.#host.core.view.leader !== '') return
    const { clusterId, clusterIncarnation, node } = this.#host.identity
    const ours = known.filter((reply) => reply.clusterId === clusterId)
    if (ours.some((reply) => (reply.clusterIncarnation || 1) > clusterIncarnation)) {
      this.#host.fatal(leftBehind(node, 'the cluster was recovered without it'))
      return
    }
    this.#removedSigns = ours.some((reply) => this.#isRemoved(reply)) ? this.#removedSigns + 1 : 0
    if (this.#removedSigns >= agreeing) this.#host.fatal(leftBehind(node, 'it was removed from its cluster'))
  }

  /** A committed configuration, newer than all that this node knows, does not list it. */
  #isRemoved(reply: Hello): boolean {
    const { core, identity } = this.#host
    if (core.log.lastIndex === 0) return false
    const { config, index } = core.config
    const listedHere = config.members.some((member) => member.id === identity.node)
    const newer = listedHere ? reply.configIndex > index : reply.configIndex >= index
    const listed = reply.members.some(
      (member) => member.id === identity.node && member.incarnation === identity.incarnation,
    )
    return newer && reply.configIndex > identity.joinIndex && !listed
  }
}

function leftBehind(node: NodeId, why: string): StoreError {
  return new StoreError(
    'WRONG_CLUSTER',
    `meta node ${node}: ${why}: to use it again, empty its directory, start it and run "holdfast meta add"`,
  )
}
