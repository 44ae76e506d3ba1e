/** What the replicator tells of itself and its peers; read from the core, never stored. */

import type { MetaConfig } from '../../config/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { Member, MemberRole } from '../../core/raft/types.ts'
import type { PeerNews } from './peer-book.ts'
import type { PeerStatus, ReplicatorStatus } from './types.ts'

/** What status takes from elsewhere than the core. */
export interface StatusSource {
  readonly core: Raft
  readonly config: MetaConfig
  /** What this node says of itself. */
  readonly own: PeerNews
  /** A peer has taken our messages on its current stream, and speaks. */
  reachable(id: NodeId): boolean
  newsOf(id: NodeId): PeerNews | undefined
  readonly diverged: readonly NodeId[]
}

/** Status of a running node. */
export function statusOf(source: StatusSource): ReplicatorStatus {
  const { core, config, own, diverged } = source
  const { id } = config
  const { role, term, commit, applied, leader, solo } = core.view
  // Our own addresses are those of this start; what the cluster knows may be older.
  const addressesOf = (member: Member): readonly string[] => (member.id === id ? config.advertise : member.addresses)
  const { members } = core.config.config
  const peers = members.map((member): PeerStatus => {
    const news = member.id === id ? own : source.newsOf(member.id)
    return {
      id: member.id,
      addresses: addressesOf(member),
      role: member.id === leader ? 'leader' : shownRole(member.role),
      reachable: member.id === id || source.reachable(member.id),
      match: core.matchOf(member.id),
      versionMax: news?.versionMax ?? 0,
      lowSpace: news?.lowSpace ?? false,
    }
  })
  const leading = members.find((member) => member.id === leader)
  return {
    id,
    role: role === 'pre-candidate' ? 'candidate' : role,
    term,
    commit,
    applied,
    leader: leader === '' ? undefined : leader,
    leaderAddresses: leading === undefined ? [] : addressesOf(leading),
    peers,
    solo,
    diverged,
  }
}

/** A member on its way out still replicates. */
function shownRole(role: MemberRole): PeerStatus['role'] {
  if (role === 'learner') return 'learner'
  return role === 'witness' || role === 'leaving-witness' ? 'witness' : 'follower'
}
