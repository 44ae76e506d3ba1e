/** What the replicator tells of itself and its peers; read from the core, never stored. */

import type { MetaConfig } from '../../config/types.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Raft } from '../../core/raft/raft.ts'
import type { Member } from '../../core/raft/types.ts'
import type { PeerStatus, ReplicatorStatus } from './types.ts'

/** Status of a running node. `reachable` says whether a peer has taken our messages on its current stream. */
export function statusOf(core: Raft, config: MetaConfig, reachable: (id: NodeId) => boolean): ReplicatorStatus {
  const { id } = config
  const { role, term, commit, applied, leader } = core.view
  // Our own addresses are those of this start; what the cluster knows may be older.
  const addressesOf = (member: Member): readonly string[] => (member.id === id ? config.advertise : member.addresses)
  const { members } = core.config.config
  const peers = members.map(
    (member): PeerStatus => ({
      id: member.id,
      addresses: addressesOf(member),
      role: member.id === leader ? 'leader' : 'follower',
      reachable: member.id === id || reachable(member.id),
      match: core.matchOf(member.id),
      versionMax: 0,
      lowSpace: false,
    }),
  )
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
    solo: core.view.solo,
    diverged: [],
  }
}
