/**
 * Who this node is, and how it comes into a cluster (docs/RULES.md, rule 9).
 *
 * An empty directory never votes. Formation happens once: every listed peer is reached, all are empty and were started
 * with the same list; then the founder (the lowest id that is no witness) draws the cluster id and tells the others, with
 * every member's incarnation (a random number of its directory). A node with an empty directory that meets a formed
 * cluster waits to be added when the cluster does not know its id, and is refused when the cluster knows the id with
 * another incarnation: it may have voted in an earlier life.
 * A founder's log and those of its peers begin with the same entry; a node that is added later begins with an empty log.
 */

import { toHex } from '../../base/bytes.ts'
import { isAddress } from '../../model/address.ts'
import { StoreError } from '../../model/errors.ts'
import { isHexId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { Files } from '../../ports/files.ts'
import type { MetaConfig, PeerAddress } from '../../config/types.ts'
import { type Member, memberRoles } from '../../core/raft/types.ts'
import { raftMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import { type Identity, type LogFormat, newIdentity, readIdentity, writeIdentity } from './identity.ts'

const helloTimeoutMs = 2000
const retryMs = 200
/** Between questions of a node that waits to be added. */
const waitingMs = 1000
/** A configuration with a witness is of this version. */
const witnessVersion = 2

type Hello = holdfast.v1.HelloReply

/** What a running node adds to its Hello. */
export interface RunningHello {
  /** Members of the newest committed configuration, and the index of its entry. */
  readonly members: readonly Member[]
  readonly configIndex: number
  /** Nothing is in the log yet. */
  readonly empty: boolean
}

export class Formation {
  readonly #env: Env
  readonly #files: Files
  readonly #config: MetaConfig
  readonly #versionMax: number
  readonly #peers: readonly PeerAddress[]
  /** Highest version that the program of each peer was heard to support. */
  readonly #heard = new Map<string, number>()
  #identity: Identity | undefined
  #saving: Promise<void> = Promise.resolve()
  #wake: () => void = () => {}
  #stopped = false
  #lastSaid = ''

  constructor(env: Env, files: Files, config: MetaConfig, versionMax: number) {
    this.#env = env
    this.#files = files
    this.#config = config
    this.#versionMax = versionMax
    const self = { id: config.id, address: config.advertise[0] ?? config.listen }
    const listed = config.peers.length === 0 ? [self] : config.peers
    this.#peers = listed.toSorted((a, b) => (a.id < b.id ? -1 : 1))
  }

  get identity(): Identity | undefined {
    return this.#identity
  }

  /** Reads the identity, or draws a new one and makes it durable. */
  async load(): Promise<Identity> {
    const { id, witness } = this.#config
    const doing = `start meta node ${id}`
    const stored = await readIdentity(this.#files, doing)
    if (stored === undefined) {
      this.#checkPeers()
      const incarnation = toHex(this.#env.entropy.bytes(16))
      await this.#save(newIdentity(id, incarnation, witness))
      return this.#current()
    }
    if (stored.node !== id) {
      throw new StoreError(
        'WRONG_CLUSTER',
        `${doing}: the directory belongs to node ${stored.node}: give each node its own`,
      )
    }
    if (stored.witness !== witness) {
      const command = stored.witness ? 'holdfast witness' : 'holdfast meta'
      throw new StoreError('USAGE', `${doing}: the directory was made by "${command}": start it with that`)
    }
    if (stored.recoveryTerm > 0) {
      throw new StoreError('CONDITION_FAILED', `${doing}: "holdfast meta recover" did not finish here: run it again`)
    }
    if (stored.clusterId === '') this.#checkPeers()
    this.#identity = stored
    return stored
  }

  /** Needed to form a cluster; later the cluster's own configuration counts. */
  #checkPeers(): void {
    const ids = this.#peers.map((peer) => peer.id)
    if (new Set(ids).size === ids.length && ids.includes(this.#config.id)) return
    throw new StoreError(
      'USAGE',
      `start meta node ${this.#config.id}: --peers must list every meta node once, this one too`,
    )
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
    await writeIdentity(this.#files, identity)
    this.#identity = identity
  }

  /** Log and hard state exist; the log is stored as `log`. */
  async markReady(log: LogFormat): Promise<void> {
    await this.#save({ ...this.#current(), ready: true, log })
  }

  /** True when every listed peer was heard to support `version`. */
  allSupport(version: number): boolean {
    const others = this.#peers.filter((peer) => peer.id !== this.#config.id)
    return this.#versionMax >= version && others.every((peer) => (this.#heard.get(peer.id) ?? 0) >= version)
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
      const replies = await Promise.all(others.map((peer) => this.hello(peer)))
      if (this.#current().clusterId !== '') break
      const formed = newestOf(replies)
      if (formed !== undefined) await this.#meet(formed, foundersOf(formed, replies))
      else if (this.#mayFound(others, replies)) await this.#found(others, replies)
      else await this.#pause(retryMs)
    }
    // How the log is stored depends on all of them, also when this node was told of the cluster before it had asked.
    const unheard = this.#peers.filter((peer) => peer.id !== this.#config.id && !this.#heard.has(peer.id))
    await Promise.all(unheard.map((peer) => this.hello(peer)))
    return this.#current()
  }

  /** Asks a peer who it is; undefined when it does not answer or another one does. */
  async hello(peer: PeerAddress): Promise<Hello | undefined> {
    const { node: from, incarnation, clusterId, clusterIncarnation } = this.#current()
    const request = { from, incarnation, clusterId, clusterIncarnation, peers: this.#peerList() }
    const whole = { ...request, addresses: [...this.#config.advertise] }
    try {
      const reply = await this.#env.net.call(peer.address, raftMethods.hello, whole, { timeoutMs: helloTimeoutMs })
      const usable = [...reply.members, ...reply.founders].every(isUsable)
      if (reply.node === peer.id && isHexId(reply.incarnation) && usable) {
        this.#heard.set(peer.id, reply.versionMax || 1)
        return reply
      }
      this.#say('warn', 'another node answers at the address of a peer', { peer: peer.id, found: reply.node })
    } catch (error) {
      this.#env.log.debug('peer does not answer', { peer: peer.id, reason: reasonOf(error) })
    }
    return undefined
  }

  #peerList(): string[] {
    return this.#peers.map((peer) => `${peer.id}=${peer.address}`)
  }

  /** True when this node is the founder, all others answered, are empty, and have the same list. */
  #mayFound(others: readonly PeerAddress[], replies: readonly (Hello | undefined)[]): boolean {
    const silent = others.filter((_, i) => replies[i] === undefined).map((peer) => peer.id)
    const mine = this.#peerList().join(',')
    const different = others.filter((_, i) => replies[i] !== undefined && replies[i]?.peers.join(',') !== mine)
    if (different.length > 0) {
      this.#say('warn', 'peers were started with another list of peers', {
        peers: different.map((p) => p.id).join(','),
      })
    } else if (silent.length > 0) {
      this.#say('info', 'waiting for peers to form a cluster', { missing: silent.join(',') })
    }
    if (silent.length > 0 || different.length > 0) return false
    const witnesses = others.filter((_, i) => replies[i]?.witness === true).map((peer) => peer.id)
    if (this.#config.witness) witnesses.push(this.#config.id)
    if (!this.#witnessesFit(witnesses, replies)) return false
    return this.#peers.find((peer) => !witnesses.includes(peer.id))?.id === this.#config.id
  }

  #witnessesFit(witnesses: readonly string[], replies: readonly (Hello | undefined)[]): boolean {
    if (witnesses.length === 0) return true
    const listed = witnesses.join(',')
    if (witnesses.length > 1 || this.#peers.length !== 3) {
      this.#say('warn', 'a witness needs exactly two other meta nodes beside it', { witnesses: listed })
      return false
    }
    const old = replies.some((reply) => reply !== undefined && (reply.versionMax || 1) < witnessVersion)
    if (old) this.#say('warn', 'a peer runs a program that knows no witness: upgrade it', { witnesses: listed })
    return !old
  }

  async #found(others: readonly PeerAddress[], replies: readonly (Hello | undefined)[]): Promise<void> {
    const members: Member[] = [this.#selfMember()]
    for (const [i, peer] of others.entries()) {
      const reply = replies[i]
      if (reply === undefined) return
      const own = reply.members.find((member) => member.id === peer.id)?.addresses ?? []
      members.push({
        id: peer.id,
        incarnation: reply.incarnation,
        addresses: own.length > 0 ? own : [peer.address],
        role: reply.witness ? 'witness' : 'voter',
      })
    }
    members.sort((a, b) => (a.id < b.id ? -1 : 1))
    const clusterId = toHex(this.#env.entropy.bytes(16))
    await this.#adopt({ clusterId, clusterIncarnation: 1, members, joinIndex: undefined })
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

  /** A peer belongs to a cluster: so do we if it lists this very directory; else we wait to be added, or are refused. */
  async #meet(formed: Hello, founders: readonly Member[]): Promise<void> {
    const { node: id, incarnation } = this.#current()
    const { clusterId } = formed
    const clusterIncarnation = formed.clusterIncarnation || 1
    const members = formed.members.map(fromWire)
    const isSelf = (member: Member): boolean => member.id === id && member.incarnation === incarnation
    const address = this.#config.advertise[0] ?? this.#config.listen
    const add = `holdfast meta add ${id}=${address}`
    if (!isHexId(clusterId)) {
      await this.#pause(retryMs)
    } else if (members.some(isSelf) && clusterIncarnation === 1 && founders.length === 0) {
      // Its log begins with the founders' entry, or with nothing: only a founder can tell.
      this.#say('info', 'waiting for a founder of the cluster to answer', { cluster: clusterId })
      await this.#pause(waitingMs)
    } else if (members.some(isSelf)) {
      const founded = clusterIncarnation === 1 && founders.some(isSelf)
      const joinIndex = founded ? undefined : formed.configIndex
      await this.#adopt({ clusterId, clusterIncarnation, members: founded ? founders : members, joinIndex })
    } else if (members.some((member) => member.id === id)) {
      throw new StoreError(
        'WRONG_CLUSTER',
        `start meta node ${id}: its directory is empty, but ${formed.node} belongs to cluster ${clusterId} which knows ${id} with another one: run "holdfast meta remove ${id}" and then "${add}"`,
      )
    } else {
      this.#say('info', 'this node is no member of the cluster: it waits to be added', {
        cluster: clusterId,
        run: add,
      })
      await this.#pause(waitingMs)
    }
  }

  /** Makes membership durable, once. `joinIndex` is undefined for a founder, whose log begins with entry 1. */
  #adopt(cluster: {
    clusterId: string
    clusterIncarnation: number
    members: readonly Member[]
    joinIndex: number | undefined
  }): Promise<void> {
    const run = this.#saving.then(async () => {
      const identity = this.#current()
      const { clusterId, clusterIncarnation, members, joinIndex } = cluster
      if (identity.clusterId === clusterId && identity.clusterIncarnation === clusterIncarnation) return
      if (identity.clusterId !== '') {
        throw new StoreError(
          'WRONG_CLUSTER',
          `meta node ${identity.node} belongs to cluster ${identity.clusterId} already`,
        )
      }
      const joined = { joined: joinIndex !== undefined, joinIndex: joinIndex ?? 0 }
      const config = { members, outgoing: [] }
      await this.#save({ ...identity, clusterId, clusterIncarnation, config, ...joined })
      this.#wake()
    })
    this.#saving = run.catch(() => undefined)
    return run
  }

  /** This node as it presents itself. */
  #selfMember(): Member {
    const { advertise: addresses, witness, id } = this.#config
    return { id, incarnation: this.#current().incarnation, addresses, role: witness ? 'witness' : 'voter' }
  }

  /** Answers Hello. */
  onHello(running: RunningHello | undefined): holdfast.v1.HelloReply.$Properties {
    const { node, incarnation, clusterId, clusterIncarnation, config, witness, joined, ready } = this.#current()
    const formed = clusterId !== ''
    return {
      node,
      incarnation,
      clusterId,
      clusterIncarnation,
      peers: this.#peerList(),
      members: (formed ? (running?.members ?? config.members) : [this.#selfMember()]).map(toWire),
      founders: formed && !joined ? config.members.map(toWire) : [],
      configIndex: running?.configIndex ?? (formed && !joined ? 1 : 0),
      joining: formed && joined && (running?.empty ?? !ready),
      witness,
      versionMax: this.#versionMax,
    }
  }

  /** Answers Form: accepted when this very directory is a member, and who asks is one that may. */
  async onForm(request: holdfast.v1.FormRequest): Promise<{ accepted: boolean }> {
    const { node, incarnation, witness } = this.#current()
    const members = request.members.map(fromWire)
    const self = members.find((member) => member.id === node)
    const whole = isHexId(request.clusterId) && request.members.every(isUsable)
    if (!whole || self?.incarnation !== incarnation || (self.role === 'witness') !== witness) return { accepted: false }
    const { clusterId, from } = request
    const clusterIncarnation = request.clusterIncarnation || 1
    if (request.join) {
      const fits = self.role !== 'voter' && members.some((member) => member.id === from && member.role === 'voter')
      if (fits) await this.#adopt({ clusterId, clusterIncarnation, members, joinIndex: request.joinIndex })
      return { accepted: fits }
    }
    const founder = members.find((member) => member.role !== 'witness')?.id
    const listed = members.map((member) => member.id).join(',') === this.#peers.map((peer) => peer.id).join(',')
    const fits = listed && from === founder && clusterIncarnation === 1
    if (fits) await this.#adopt({ clusterId, clusterIncarnation, members, joinIndex: undefined })
    return { accepted: fits }
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#env.clock.after(delayMs, () => resolve())
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

/** The answer of the peer that knows most of its cluster; undefined when none belongs to one. */
function newestOf(replies: readonly (Hello | undefined)[]): Hello | undefined {
  const formed = replies.filter((reply) => reply !== undefined && reply.clusterId !== '')
  return formed.toSorted(
    (a, b) =>
      (b?.clusterIncarnation || 1) - (a?.clusterIncarnation || 1) || (b?.configIndex ?? 0) - (a?.configIndex ?? 0),
  )[0]
}

/**
 * The members that the cluster of `formed` was founded with; none when nobody who answered knows. Only founders know; at
 * version 1 every member is one.
 */
function foundersOf(formed: Hello, replies: readonly (Hello | undefined)[]): readonly Member[] {
  const told = replies.flatMap((reply) => {
    if (reply?.clusterId !== formed.clusterId) return []
    if (reply.founders.length > 0) return [reply.founders]
    return (reply.versionMax || 1) === 1 ? [reply.members] : []
  })
  return (told[0] ?? []).map(fromWire)
}

function isUsable({ incarnation, addresses }: holdfast.v1.Member): boolean {
  return isHexId(incarnation) && addresses.every(isAddress)
}

export function toWire(member: Member): holdfast.v1.Member.$Properties {
  return { id: member.id, incarnation: member.incarnation, addresses: [...member.addresses], role: member.role }
}

function fromWire(member: holdfast.v1.Member): Member {
  const role = memberRoles.find((one) => one === member.role) ?? 'voter'
  return { id: member.id, incarnation: member.incarnation, addresses: [...member.addresses], role }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
