/**
 * Changes of the members as an operator asks for them, and leadership handed over on request.
 *
 * Adding: the leader asks the node who it is, tells it what it joins (it begins with an empty log), and proposes it as a
 * learner (a witness counts at once). Any leader makes a learner a voter by itself when a round of replication took less
 * than an election timeout, so that a change of leaders in between stops nothing. Removing refuses what would leave the
 * cluster without an answering majority.
 * Invariants: the core decides what is legal, this file only when; whoever waits is answered, at the latest when this node
 * no longer leads or stops.
 */

import { isAddress } from '../../model/address.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import { isHexId, type NodeId } from '../../model/ids.ts'
import { quote } from '../../model/names.ts'
import type { Env } from '../../ports/env.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { ClusterConfig, Member, MemberChange } from '../../core/raft/types.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import { toWire } from './formation.ts'
import type { LinkIdentity } from './link-identity.ts'
import { unknownOutcome } from './raft-waiters.ts'

const callTimeoutMs = 2000
/** A node that is to be added may take so long to answer; it is asked again in between. */
const startingMs = 5000
const helloRetryMs = 200
/** How long a caller waits for the node it adds to catch up. The catching up itself goes on after that. */
const catchUpMs = 60_000
/** How long a change waits for another one that is under way. */
const turnMs = 10_000
/** A member this many entries behind would hold up all writes while leadership is handed to it. */
const transferLagMax = 4096
/** Addresses of one member. */
const addressesMax = 8
/** Changes of members need this cluster version (docs/RULES.md, rule 15). */
const membershipVersion = 2

/** What membership needs of the replicator. */
export interface MemberHost {
  readonly env: Env
  readonly core: Raft
  readonly self: LinkIdentity
  readonly config: MetaConfig
  /** Uses the core, then carries out what it asks for. */
  use(step: (core: Raft) => void): void
  reachable(id: NodeId): boolean
  /** Cluster version in force. */
  version(): number
  /** The program of `id` supports `versionMax`. */
  heardVersion(id: NodeId, versionMax: number): void
  notLeader(): StoreError
}

/** Somebody who waits until `look` gives a value or throws. */
interface Watch {
  look(): void
  lost(): void
}

/** A round of replication to a learner: it ends when the learner has what there was at its start. */
interface Round {
  readonly target: number
  readonly startedMs: number
}

type Hello = holdfast.v1.HelloReply
type AskHello = (address: string) => Promise<Hello | undefined>

export class Members {
  readonly #host: MemberHost
  readonly #watches = new Set<Watch>()
  readonly #rounds = new Map<NodeId, Round>()
  #claiming = false

  constructor(host: MemberHost) {
    this.#host = host
  }

  get #config(): ClusterConfig {
    return this.#host.core.config.config
  }

  #member(id: NodeId): Member | undefined {
    return this.#config.members.find((member) => member.id === id)
  }

  /** True when the configuration in force is committed and no change is under way. */
  get #settled(): boolean {
    const { core } = this.#host
    return this.#config.outgoing.length === 0 && core.view.commit >= core.config.index
  }

  #mustLead(): void {
    const { role, transferring } = this.#host.core.view
    if (role !== 'leader' || transferring) throw this.#host.notLeader()
  }

  /** See `Replicator.addMember`. */
  async add(id: NodeId, address: string): Promise<boolean> {
    this.#mustLead()
    const doing = `add meta node ${id}`
    if (!isAddress(address)) throw new StoreError('INVALID_ARGUMENT', `${doing}: ${quote(address)} is not host:port`)
    if (this.#host.version() < membershipVersion) throw needsVersion(doing)
    const hello = await this.#hello(doing, address)
    this.#mustLead()
    const member = this.#candidate(doing, id, address, hello)
    this.#host.heardVersion(id, hello.versionMax || 1)
    if (this.#member(id) === undefined) {
      await this.#invite(doing, member, address)
      await this.#change(doing, { kind: 'add', member })
    }
    const counts = (): true | undefined => {
      const role = this.#member(id)?.role
      return this.#settled && (role === 'voter' || role === 'witness') ? true : undefined
    }
    return await this.#until<boolean>(counts, catchUpMs, () => false)
  }

  async #hello(doing: string, address: string): Promise<Hello> {
    const { env, self, config } = this.#host
    const { node: from, incarnation, clusterId, clusterIncarnation } = self
    const request = { from, incarnation, clusterId, clusterIncarnation, addresses: [...config.advertise], peers: [] }
    // Who adds a node has often started it just now.
    const deadlineMs = env.clock.monotonicMs() + startingMs
    for (;;) {
      try {
        return await env.net.call(address, raftMethods.hello, request, { timeoutMs: callTimeoutMs })
      } catch (error) {
        if (env.clock.monotonicMs() >= deadlineMs) {
          const why = asStoreError(error, 'hello').message
          const message = `${doing}: no meta node answers at ${address}: start it first (${why})`
          throw new StoreError('CONDITION_FAILED', message, { cause: error })
        }
      }
      await new Promise<void>((resolve) => {
        env.clock.after(helloRetryMs, resolve)
      })
      this.#mustLead()
    }
  }

  /** The member that answered, after all that can be said against it. */
  #candidate(doing: string, id: NodeId, address: string, hello: Hello): Member {
    const { self } = this.#host
    const refuse = (why: string): StoreError => new StoreError('CONDITION_FAILED', `${doing}: ${why}`)
    if (hello.node !== id || !isHexId(hello.incarnation)) {
      throw new StoreError('INVALID_ARGUMENT', `${doing}: node ${hello.node} answers at ${address}: give its own id`)
    }
    const known = this.#member(id)
    if (known !== undefined && known.incarnation !== hello.incarnation) {
      throw refuse(`the cluster knows ${id} with another directory: run "holdfast meta remove ${id}" first`)
    }
    const ours = hello.clusterId === self.clusterId && (hello.clusterIncarnation || 1) === self.clusterIncarnation
    if (hello.clusterId !== '' && !ours) {
      throw refuse(`${address} belongs to another cluster: start it with an empty directory`)
    }
    if (known === undefined && ours && !hello.joining) {
      throw refuse(`its directory is that of an earlier member: start it with an empty one`)
    }
    if ((hello.versionMax || 1) < this.#host.version()) {
      throw refuse(
        `its program supports version ${hello.versionMax || 1}, the cluster runs ${this.#host.version()}: upgrade it`,
      )
    }
    const voters = this.#config.members.filter((member) => member.role === 'voter')
    const witness = this.#config.members.find((member) => member.role === 'witness' && member.id !== id)
    if (known === undefined && hello.witness && (voters.length !== 2 || this.#config.members.length !== 2)) {
      throw refuse(`a witness needs exactly two other meta nodes beside it, there are ${this.#config.members.length}`)
    }
    if (known === undefined && witness !== undefined) {
      throw refuse(`beside witness ${witness.id} there are two meta nodes and no more: remove the witness first`)
    }
    const own = hello.members.find((member) => member.id === id)?.addresses.filter(isAddress) ?? []
    const addresses = own.length > 0 ? own : [address]
    return { id, incarnation: hello.incarnation, addresses, role: hello.witness ? 'witness' : 'learner' }
  }

  /** Tells the node what it joins; it makes that durable. */
  async #invite(doing: string, member: Member, address: string): Promise<void> {
    const { env, self, core } = this.#host
    const members = [...this.#config.members, member].toSorted((a, b) => (a.id < b.id ? -1 : 1)).map(toWire)
    const { node: from, clusterId, clusterIncarnation } = self
    const request = { from, clusterId, clusterIncarnation, members, join: true, joinIndex: core.view.lastIndex }
    const accepted = await env.net.call(address, raftMethods.form, request, { timeoutMs: callTimeoutMs }).then(
      (reply) => reply.accepted,
      () => false,
    )
    if (!accepted) {
      throw new StoreError(
        'CONDITION_FAILED',
        `${doing}: the node at ${address} did not join: look at its log, try again`,
      )
    }
    this.#mustLead()
  }

  /** See `Replicator.removeMember`. */
  async remove(id: NodeId): Promise<void> {
    this.#mustLead()
    const doing = `remove meta node ${id}`
    const { self } = this.#host
    if (this.#host.version() < membershipVersion) throw needsVersion(doing)
    if (this.#member(id) === undefined) {
      throw new StoreError('CONDITION_FAILED', `${doing}: it is no member: "holdfast meta ls" lists them`)
    }
    const rest = this.#config.members.filter((one) => one.id !== id && (one.role === 'voter' || one.role === 'witness'))
    const answering = rest.filter((one) => one.id === self.node || this.#host.reachable(one.id))
    if (answering.length < Math.floor(rest.length / 2) + 1) {
      throw new StoreError(
        'CONDITION_FAILED',
        `${doing}: only ${answering.length} of the ${rest.length} that remain would answer, and the cluster would stop: start the others first`,
      )
    }
    await this.#change(doing, { kind: 'remove', id })
    const gone = (): true | undefined => (this.#settled && this.#member(id) === undefined ? true : undefined)
    await this.#until(gone, catchUpMs, () => {
      throw new StoreError(
        'TIMEOUT',
        `${doing}: not decided in ${catchUpMs / 1000} s: "holdfast meta ls" shows how it stands`,
      )
    })
  }

  /** This node is reached elsewhere: replicates it. Does nothing when another change is under way; the caller comes again. */
  move(id: NodeId, addresses: readonly string[]): void {
    if (this.#mayMove(id, addresses)) this.#host.use((core) => core.change({ kind: 'move', id, addresses }))
  }

  /**
   * Anybody can say that member `id` is reached elsewhere: replicated only when that very member answers `hello` at the
   * first address. `hello` never rejects. One at a time: the member says it again.
   */
  async claim(id: NodeId, addresses: readonly string[], hello: AskHello): Promise<void> {
    const address = addresses[0]
    if (this.#claiming || address === undefined || !this.#mayMove(id, addresses)) return
    this.#claiming = true
    const found = await hello(address)
    this.#claiming = false
    const own = found !== undefined && found.incarnation === this.#member(id)?.incarnation
    if (own && found.clusterId === this.#host.self.clusterId) this.move(id, addresses)
  }

  #mayMove(id: NodeId, addresses: readonly string[]): boolean {
    const member = this.#member(id)
    const news = member !== undefined && member.addresses.join(' ') !== addresses.join(' ')
    const usable = addresses.length > 0 && addresses.length <= addressesMax && addresses.every(isAddress)
    return this.#host.core.view.role === 'leader' && news && usable && this.#settled
  }

  /** Proposes a change, as soon as no other one is under way. */
  async #change(doing: string, change: MemberChange): Promise<void> {
    const attempt = (): true | undefined => {
      // Straight at the core: a refusal changes nothing, and must not be a reason to look once more.
      const result = this.#host.core.change(change)
      if (result.ok) {
        this.#host.use(() => undefined)
        return true
      }
      if (result.reason === 'not-leader') throw this.#host.notLeader()
      if (result.reason === 'invalid') throw new StoreError('CONDITION_FAILED', `${doing}: ${result.why}`)
      if (result.reason === 'version') throw needsVersion(doing)
      return undefined
    }
    await this.#until(attempt, turnMs, () => {
      throw new StoreError('CONDITION_FAILED', `${doing}: another change of the members is under way: try again later`)
    })
  }

  /** See `Replicator.transfer`. */
  async transfer(to: NodeId | undefined): Promise<NodeId> {
    this.#mustLead()
    const { core, self, config } = this.#host
    const target = to ?? this.#best()
    if (target === self.node) return target
    const refuse = (why: string): StoreError => new StoreError('CONDITION_FAILED', `hand leadership over: ${why}`)
    if (target === undefined) throw refuse('no other member that may lead answers')
    if (this.#member(target)?.role !== 'voter')
      throw refuse(`${target} is no voting member: "holdfast meta ls" lists them`)
    if (!this.#host.reachable(target)) throw refuse(`${target} does not answer`)
    const behind = core.view.commit - core.matchOf(target)
    if (behind > transferLagMax) throw refuse(`${target} is ${behind} entries behind: wait until it has caught up`)
    const { term } = core.view
    let started = false
    this.#host.use((raft) => {
      started = raft.transfer(target)
    })
    if (!started) throw refuse(`${target} cannot take it now: try again`)
    const late = (): never => {
      throw new StoreError('TIMEOUT', `hand leadership over: ${target} did not take it in time: try again`, {
        outcome: 'definite',
      })
    }
    const taken = (): NodeId | undefined => {
      const { view } = core
      if (view.role === 'leader' && view.term === term) return view.transferring ? undefined : late()
      return view.leader === '' ? undefined : view.leader
    }
    const { tickMs, electionTicks, electionSpreadTicks } = config.raft
    return await this.#until(taken, 3 * tickMs * (electionTicks + electionSpreadTicks), late, 'outlive leadership')
  }

  /** The member that has most of those that may lead and answer. */
  #best(): NodeId | undefined {
    const { core, self } = this.#host
    const able = this.#config.members.filter((one) => one.role === 'voter' && one.id !== self.node)
    const answering = able.filter((one) => this.#host.reachable(one.id))
    return answering.toSorted((a, b) => core.matchOf(b.id) - core.matchOf(a.id))[0]?.id
  }

  /** For an orderly stop: another one leads when it resolves, if there is one that can. Never rejects. */
  async handOver(): Promise<void> {
    if (this.#host.core.view.role !== 'leader' || this.#best() === undefined) return
    await this.transfer(undefined).catch((error: unknown) => {
      const { message: reason } = asStoreError(error, 'hand leadership over')
      this.#host.env.log.warn('leadership was not handed over', { reason })
    })
  }

  /** Resolves with what `look` gives, or with what `late` gives or throws after `limitMs`. */
  #until<T>(look: () => T | undefined, limitMs: number, late: () => T, outlives?: 'outlive leadership'): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const settle = (give: () => T): void => {
        timer.cancel()
        this.#watches.delete(watch)
        try {
          resolve(give())
        } catch (error) {
          reject(error)
        }
      }
      const watch: Watch = {
        look: () => {
          let value: T | undefined
          try {
            value = look()
          } catch (error) {
            settle(() => {
              throw error
            })
            return
          }
          if (value !== undefined) settle(() => value)
        },
        lost: () => {
          if (outlives !== undefined) return
          settle(() => {
            throw unknownOutcome()
          })
        },
      }
      this.#watches.add(watch)
      const timer = this.#host.env.clock.after(limitMs, () => settle(late))
      watch.look()
    })
  }

  /** Looks again for everybody who waits: called after whatever the core did. */
  notice(): void {
    for (const watch of Array.from(this.#watches)) watch.look()
  }

  /** This node leads no more, or stops: nobody is left waiting. */
  lost(): void {
    this.#rounds.clear()
    for (const watch of Array.from(this.#watches)) watch.lost()
  }

  /** Leader: makes learners that have caught up voters. */
  tick(): void {
    const { core, config, env } = this.#host
    if (core.view.role !== 'leader' || this.#host.version() < membershipVersion) return
    for (const { id, role } of this.#config.members) {
      if (role !== 'learner' || !this.#settled) continue
      const nowMs = env.clock.monotonicMs()
      const round = this.#rounds.get(id)
      if (round !== undefined && core.matchOf(id) < round.target) continue
      const limitMs = config.raft.tickMs * config.raft.electionTicks
      if (round !== undefined && nowMs - round.startedMs <= limitMs && this.#host.reachable(id)) {
        this.#rounds.delete(id)
        this.#host.use((raft) => {
          if (raft.change({ kind: 'promote', id }).ok)
            env.log.info('a learner has caught up and becomes a voter', { id })
        })
        return
      }
      this.#rounds.set(id, { target: core.view.lastIndex, startedMs: nowMs })
    }
  }
}

function needsVersion(doing: string): StoreError {
  return new StoreError(
    'CONDITION_FAILED',
    `${doing}: the cluster runs version 1, which cannot change its members: upgrade all nodes and raise the version first`,
  )
}
