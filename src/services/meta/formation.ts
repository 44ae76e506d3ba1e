/**
 * Who this node is, and how a cluster comes into being (docs/RULES.md, rule 9).
 *
 * An empty directory never votes. Formation happens once: every listed peer is reached, all are empty and were started
 * with the same list; then the lowest id draws the cluster id and tells the others, with every member's incarnation (a
 * random number of its directory). A node whose directory is empty and that meets a formed cluster which does not list
 * its incarnation is refused: it may have voted in an earlier life.
 * Phases of the identity file, each durable before the next: `new` -> `formed` -> `ready` (log and hard state exist).
 */

import { bool, struct, text } from '../../base/schema.ts'
import { toHex } from '../../base/bytes.ts'
import { StoreError } from '../../model/errors.ts'
import { isHexId, type NodeId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { Files } from '../../ports/files.ts'
import type { MetaConfig, PeerAddress } from '../../config/types.ts'
import { type ClusterConfig, type Member, memberRoles } from '../../core/raft/types.ts'
import { clusterConfig } from '../../core/raft/messages.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import { seal, unseal } from './log-format.ts'

const identityName = 'raft-identity'
const helloTimeoutMs = 2000
const retryMs = 200

const identityRecord = struct({
  node: text,
  incarnation: text,
  /** Empty until formed. */
  clusterId: text,
  config: clusterConfig,
  /** The log and the hard state were created; if they are missing now, they were lost. */
  ready: bool,
})

export interface Identity {
  readonly node: NodeId
  readonly incarnation: string
  readonly clusterId: string
  readonly config: ClusterConfig
  readonly ready: boolean
}

type Hello = holdfast.v1.HelloReply

export class Formation {
  readonly #env: Env
  readonly #files: Files
  readonly #config: MetaConfig
  readonly #peers: readonly PeerAddress[]
  #identity: Identity | undefined
  #saving: Promise<void> = Promise.resolve()
  #wake: () => void = () => {}
  #stopped = false
  #lastSaid = ''

  constructor(env: Env, files: Files, config: MetaConfig) {
    this.#env = env
    this.#files = files
    this.#config = config
    const self = { id: config.id, address: config.advertise[0] ?? config.listen }
    const listed = config.peers.length === 0 ? [self] : config.peers
    this.#peers = listed.toSorted((a, b) => (a.id < b.id ? -1 : 1))
  }

  get identity(): Identity | undefined {
    return this.#identity
  }

  /** Reads the identity, or draws a new one and makes it durable. */
  async load(): Promise<Identity> {
    const ids = this.#peers.map((peer) => peer.id)
    if (new Set(ids).size !== ids.length || !ids.includes(this.#config.id)) {
      throw new StoreError(
        'USAGE',
        `start meta node ${this.#config.id}: --peers must list every meta node once, this one too`,
      )
    }
    const stored = await this.#files.read(identityName)
    if (stored === undefined) {
      const incarnation = toHex(this.#env.entropy.bytes(16))
      await this.#save({
        node: this.#config.id,
        incarnation,
        clusterId: '',
        config: { members: [], outgoing: [] },
        ready: false,
      })
    } else {
      const identity = unseal(identityRecord, stored)
      if (identity === undefined) {
        throw new StoreError(
          'CORRUPT',
          `start meta node ${this.#config.id}: ${identityName} is damaged: remove this member and add it again with an empty directory`,
        )
      }
      if (identity.node !== this.#config.id) {
        throw new StoreError(
          'WRONG_CLUSTER',
          `start meta node ${this.#config.id}: the directory belongs to node ${identity.node}: give each node its own`,
        )
      }
      this.#identity = identity
    }
    return this.#current()
  }

  #current(): Identity {
    const identity = this.#identity
    if (identity === undefined) {
      throw new StoreError('UNAVAILABLE', `meta node ${this.#config.id} is starting: try again`, {
        outcome: 'definite',
      })
    }
    return identity
  }

  async #save(identity: Identity): Promise<void> {
    await this.#files.write(identityName, seal(identityRecord, identity))
    this.#identity = identity
  }

  async markReady(): Promise<void> {
    await this.#save({ ...this.#current(), ready: true })
  }

  stop(): void {
    this.#stopped = true
    this.#wake()
  }

  /** Resolves once this node belongs to a formed cluster. Rejects with WRONG_CLUSTER when it was refused. */
  async form(): Promise<Identity> {
    while (this.#current().clusterId === '') {
      if (this.#stopped) throw new StoreError('SHUTTING_DOWN', 'form the cluster: the node is stopping')
      const others = this.#peers.filter((peer) => peer.id !== this.#config.id)
      const replies = await Promise.all(others.map((peer) => this.#hello(peer)))
      if (this.#current().clusterId !== '') break
      const formed = replies.find((reply) => reply !== undefined && reply.clusterId !== '')
      if (formed !== undefined) await this.#join(formed)
      else if (this.#mayFound(others, replies)) await this.#found(others, replies)
      else await this.#pause()
    }
    return this.#current()
  }

  async #hello(peer: PeerAddress): Promise<Hello | undefined> {
    const { node: from, incarnation, clusterId } = this.#current()
    try {
      const request = { from, incarnation, clusterId, peers: this.#peerList() }
      const reply = await this.#env.net.call(peer.address, raftMethods.hello, request, { timeoutMs: helloTimeoutMs })
      if (reply.node === peer.id && isHexId(reply.incarnation)) return reply
      this.#say('warn', 'another node answers at the address of a peer', { peer: peer.id, found: reply.node })
    } catch (error) {
      this.#env.log.debug('peer does not answer', { peer: peer.id, reason: reasonOf(error) })
    }
    return undefined
  }

  #peerList(): string[] {
    return this.#peers.map((peer) => `${peer.id}=${peer.address}`)
  }

  /** True when this node has the lowest id, all others answered, are empty, and have the same list. */
  #mayFound(others: readonly PeerAddress[], replies: readonly (Hello | undefined)[]): boolean {
    const silent = others.filter((_, i) => replies[i] === undefined).map((peer) => peer.id)
    const mine = this.#peerList().join(',')
    const different = others.filter((_, i) => replies[i] !== undefined && replies[i]?.peers.join(',') !== mine)
    if (different.length > 0) {
      this.#say('warn', 'peers were started with another list of peers', {
        peers: different.map((p) => p.id).join(','),
      })
    } else if (silent.length > 0)
      this.#say('info', 'waiting for peers to form a cluster', { missing: silent.join(',') })
    return silent.length === 0 && different.length === 0 && this.#peers[0]?.id === this.#config.id
  }

  async #found(others: readonly PeerAddress[], replies: readonly (Hello | undefined)[]): Promise<void> {
    const { id, advertise: addresses } = this.#config
    const self: Member = { id, incarnation: this.#current().incarnation, addresses, role: 'voter' }
    const members: Member[] = [self]
    for (const [i, peer] of others.entries()) {
      const reply = replies[i]
      if (reply === undefined) return
      const own = reply.members.find((member) => member.id === peer.id)?.addresses ?? []
      members.push({
        id: peer.id,
        incarnation: reply.incarnation,
        addresses: own.length > 0 ? own : [peer.address],
        role: 'voter',
      })
    }
    members.sort((a, b) => (a.id < b.id ? -1 : 1))
    const clusterId = toHex(this.#env.entropy.bytes(16))
    await this.#adopt(clusterId, members)
    this.#env.log.info('cluster formed', { cluster: clusterId, members: members.map((member) => member.id).join(',') })
    const request = { from: this.#config.id, clusterId, members: members.map(toWire) }
    // A peer that misses this learns it from anybody's Hello.
    await Promise.all(
      others.map((peer) =>
        this.#env.net
          .call(peer.address, raftMethods.form, request, { timeoutMs: helloTimeoutMs })
          .catch((error: unknown) => {
            this.#env.log.warn('peer was not told of the new cluster', { peer: peer.id, reason: reasonOf(error) })
          }),
      ),
    )
  }

  /** A peer belongs to a cluster already: so do we if it lists this very directory, else we must not take part. */
  async #join(formed: Hello): Promise<void> {
    const { incarnation } = this.#current()
    const members = formed.members.map(fromWire)
    if (!isHexId(formed.clusterId) || !members.some((m) => m.id === this.#config.id && m.incarnation === incarnation)) {
      const { id } = this.#config
      const address = this.#config.advertise[0] ?? this.#config.listen
      throw new StoreError(
        'WRONG_CLUSTER',
        `start meta node ${id}: its directory is empty, but ${formed.node} belongs to cluster ${formed.clusterId} which does not list it: run "holdfast meta remove ${id}" and then "holdfast meta add ${id}=${address}"`,
      )
    }
    await this.#adopt(formed.clusterId, members)
  }

  /** Makes membership durable, once. */
  #adopt(clusterId: string, members: readonly Member[]): Promise<void> {
    const run = this.#saving.then(async () => {
      const identity = this.#current()
      if (identity.clusterId === clusterId) return
      if (identity.clusterId !== '') {
        throw new StoreError(
          'WRONG_CLUSTER',
          `meta node ${identity.node} belongs to cluster ${identity.clusterId} already`,
        )
      }
      await this.#save({ ...identity, clusterId, config: { members, outgoing: [] } })
      this.#wake()
    })
    this.#saving = run.catch(() => undefined)
    return run
  }

  /** Answers Hello. `members`: those in force when formed, else this node alone with its addresses. */
  onHello(members: readonly Member[] | undefined): holdfast.v1.HelloReply.$Properties {
    const { node, incarnation, clusterId, config } = this.#current()
    const self: Member = { id: node, incarnation, addresses: this.#config.advertise, role: 'voter' }
    const listed = clusterId === '' ? [self] : (members ?? config.members)
    return { node, incarnation, clusterId, peers: this.#peerList(), members: listed.map(toWire) }
  }

  /** Answers Form: accepted when this very directory is a member and the founder is the one that may found. */
  async onForm(request: holdfast.v1.FormRequest): Promise<{ accepted: boolean }> {
    const identity = this.#current()
    const members = request.members.map(fromWire)
    const ids = members.map((member) => member.id)
    const expected = this.#peers.map((peer) => peer.id)
    const fits =
      isHexId(request.clusterId) &&
      ids.join(',') === expected.join(',') &&
      request.from === expected[0] &&
      members.every((member) => isHexId(member.incarnation)) &&
      members.some((member) => member.id === identity.node && member.incarnation === identity.incarnation)
    if (!fits) return { accepted: false }
    await this.#adopt(request.clusterId, members)
    return { accepted: true }
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#env.clock.after(retryMs, () => resolve())
      this.#wake = () => {
        timer.cancel()
        resolve()
      }
    })
  }

  /** Logs a change of what formation waits for, not every round. */
  #say(level: 'info' | 'warn', event: string, fields: Record<string, string>): void {
    const said = `${event} ${Object.values(fields).join(' ')}`
    if (said === this.#lastSaid) return
    this.#lastSaid = said
    this.#env.log[level](event, fields)
  }
}

function toWire(member: Member): holdfast.v1.Member.$Properties {
  return { id: member.id, incarnation: member.incarnation, addresses: [...member.addresses], role: member.role }
}

function fromWire(member: holdfast.v1.Member): Member {
  const role = memberRoles.find((one) => one === member.role) ?? 'voter'
  return { id: member.id, incarnation: member.incarnation, addresses: [...member.addresses], role }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
