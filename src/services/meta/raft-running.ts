/**
 * Puts the parts of a running replicator together: verified log, core, transport, lanes, snapshots, members. The replicator
 * (raft-host.ts) owns their lives; this file only joins them.
 */

import { StoreError } from '../../model/errors.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Env } from '../../ports/env.ts'
import type { MetaConfig } from '../../config/types.ts'
import type { Message } from '../../core/raft/messages.ts'
import { Raft } from '../../core/raft/raft.ts'
import type { ClusterConfig, Member, RaftLimits } from '../../core/raft/types.ts'
import type { Formation } from './formation.ts'
import { type Identity, type LogFormat, logFormats } from './identity.ts'
import type { LinkIdentity } from './link-identity.ts'
import type { NodeStores } from './log-place.ts'
import type { RaftLog } from './log-types.ts'
import type { PeerNews } from './peer-book.ts'
import { bootRaft } from './raft-boot.ts'
import { Contact } from './raft-contact.ts'
import { type Checkpoint, Digests } from './raft-digests.ts'
import { Lanes } from './raft-lanes.ts'
import { Members } from './raft-members.ts'
import { Snapshots } from './raft-snapshots.ts'
import { Transport } from './transport.ts'
import type { AppliedEntry, AppliedReply, StateMachine } from './types.ts'
import { WitnessMachine } from './witness-machine.ts'

/** What exists only while the node runs. */
export interface Running {
  readonly core: Raft
  readonly store: RaftLog
  readonly transport: Transport
  readonly self: LinkIdentity
  readonly lanes: Lanes
  readonly snapshots: Snapshots
  readonly members: Members
  readonly contact: Contact
  readonly digests: Digests
  /** The member `id` of the configuration in force. */
  memberOf(id: NodeId): Member | undefined
  /** All members but this node. */
  others(): NodeId[]
  /** Members that hold the state and count. */
  fullMembers(): NodeId[]
}

/** What the parts need of the replicator. */
export interface LaunchHost {
  readonly env: Env
  readonly stores: NodeStores
  readonly machine: StateMachine | undefined
  readonly config: MetaConfig
  readonly limits: RaftLimits
  readonly formation: Formation
  readonly signal: AbortSignal
  version(): number
  news(): PeerNews
  notLeader(): StoreError
  use(step: (core: Raft) => void): void
  pump(): void
  receive(messages: readonly Message[]): void
  applied(entries: readonly AppliedEntry[], results: readonly AppliedReply[]): void
  /** The node cannot go on. */
  failed(): boolean
  /** The node cannot go on, or was stopped. */
  stopped(): boolean
  fatal(error: unknown): Error
}

/** Opens the log of a formed node and joins everything that runs on it; nothing moves yet. */
export async function launch(host: LaunchHost): Promise<Running> {
  const { env, stores, config, limits, formation } = host
  const identity = formedIdentity(formation)
  const { witness } = config
  const durable = witness ? undefined : host.machine?.durableIndex()
  if (durable === undefined && !witness) throw new StoreError('INTERNAL', 'start raft: a full member has a state')
  const format = logFormat(host, identity)
  const { store, slots, start, cut, moved } = await bootRaft(stores, formation, durable, limits.cacheBytes, format)
  if (moved) env.log.info('moved the raft log into segment files', { last: start.lastIndex })
  if (cut > 0) env.log.warn('cut a torn tail off the raft log', { entries: cut, last: start.lastIndex })
  const machine = witness || host.machine === undefined ? new WitnessMachine(start.applied) : host.machine
  machine.onFailure((error) => host.fatal(error))
  const { electionTicks, electionSpreadTicks, heartbeatTicks, leaseReads } = config.raft
  const seed = Math.floor(env.entropy.unit() * 0x1_0000_0000)
  const times = { electionTicks, electionSpreadTicks, heartbeatTicks, leaseReads }
  const newest = start.configs.at(-1)?.config ?? start.base.config.config
  const clusterVersion = Math.max(host.version(), isPlain(newest) ? 1 : 2)
  const { incarnation } = identity
  const core = new Raft({ ...start, ...times, id: config.id, incarnation, limits, seed, clusterVersion })
  return join(host, identity, { core, store, slots, machine })
}

function formedIdentity(formation: Formation): Identity {
  const { identity } = formation
  if (identity === undefined || identity.clusterId === '') throw new StoreError('INTERNAL', 'start raft: not formed')
  return identity
}

/**
 * How the log is to be stored: in LevelDB as long as a node may have to go back to Holdfast 0.1, which is until the cluster
 * version is 2, or, at its formation, when not every member was heard to know that version.
 */
function logFormat({ version, formation }: LaunchHost, identity: Identity): LogFormat {
  const noWayBack = version() >= 2 || identity.witness || identity.joined
  return noWayBack || (!identity.ready && formation.allSupport(2)) ? logFormats.segments : logFormats.level
}

/** Version 1 knows voters alone. */
function isPlain(config: ClusterConfig): boolean {
  return config.outgoing.length === 0 && config.members.every((member) => member.role === 'voter')
}

type Opened = Pick<Running, 'core' | 'store'> &
  Pick<Awaited<ReturnType<typeof bootRaft>>, 'slots'> & { readonly machine: StateMachine }

function join(host: LaunchHost, identity: Identity, opened: Opened): Running {
  const { env, config, limits, formation, signal } = host
  const { core, store, slots, machine } = opened
  const { node, incarnation, clusterId, clusterIncarnation } = identity
  const self: LinkIdentity = { node, incarnation, clusterId, clusterIncarnation }
  const digests = new Digests()
  const membersNow = (): readonly Member[] => core.config.config.members
  const memberOf = (id: NodeId): Member | undefined => membersNow().find((member) => member.id === id)
  const others = (): NodeId[] => membersNow().flatMap((member) => (member.id === node ? [] : [member.id]))
  const fullMembers = (): NodeId[] => membersNow().flatMap((member) => (member.role === 'voter' ? [member.id] : []))
  // The configured address of a peer first: it is the one the operator gave for traffic between meta nodes.
  const addressesOf = (id: NodeId): readonly string[] => {
    const configured = config.peers.filter((peer) => peer.id === id).map((peer) => peer.address)
    return [...new Set([...configured, ...(memberOf(id)?.addresses ?? [])])]
  }
  const judge = (): void => {
    const outvoted = digests.outvoted(fullMembers())
    if (outvoted !== undefined) host.fatal(divergedError(node, outvoted.index, outvoted.by))
  }
  const transport = new Transport(env, self, config.advertise, {
    incarnationOf: (id) => memberOf(id)?.incarnation,
    addressesOf,
    configIndex: () => core.config.index,
    news: () => ({ ...host.news(), checkpoint: digests.newest }),
    onMessages: (messages) => host.receive(messages),
    onUnreachable: (id) => host.use((raft) => raft.unreachable(id)),
    onLost: (id) => host.use((raft) => raft.leaderLost(id)),
    onCheckpoint: (id, checkpoint: Checkpoint) => {
      digests.heard(id, checkpoint)
      judge()
    },
  })
  const shared = { env, machine, core, store, use: host.use, pump: host.pump }
  const lanes = new Lanes({
    ...shared,
    slots,
    transport,
    limits,
    tickMs: config.raft.tickMs,
    installing: () => snapshots.installing,
    snapshotsReached: () => snapshots.reached,
    checkpoint: (index, digest) => {
      if (config.witness) return
      digests.reached(index, digest)
      judge()
    },
    applied: host.applied,
    failed: host.failed,
    fatal: host.fatal,
  })
  const snapshots = new Snapshots({
    ...shared,
    self,
    signal,
    addressOf: (id) => transport.addressOf(id),
    onMachine: (task) => lanes.onMachine(task),
    progress: () => lanes.progress(),
    replaced: () => digests.replaced(),
    failed: host.stopped,
    fatal: host.fatal,
  })
  const heard = {
    reachable: (id: NodeId) => transport.reachable(id),
    heardVersion: (id: NodeId, versionMax: number) => transport.heardVersion(id, versionMax),
  }
  const { use, notLeader, version } = host
  const members = new Members({ env, core, self, config, use, notLeader, version, ...heard })
  const contact = new Contact({
    env,
    core,
    config,
    identity,
    addressesOf,
    hello: (peer) => formation.hello(peer),
    versionOf: (id) => transport.newsOf(id)?.versionMax ?? 0,
    heardVersion: heard.heardVersion,
    move: (id, addresses) => members.move(id, addresses),
    fatal: host.fatal,
  })
  const parts = { core, store, transport, self, lanes, snapshots, members, contact, digests }
  return { ...parts, memberOf, others, fullMembers }
}

function divergedError(node: NodeId, index: number, by: readonly NodeId[]): StoreError {
  return new StoreError(
    'CORRUPT',
    `meta node ${node}: its state differs at entry ${index} from that of ${by.join(', ')}, which agree: it stops; remove this member and add it again with an empty directory`,
  )
}
