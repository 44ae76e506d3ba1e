/**
 * Who speaks: the head that every frame and every snapshot carries, and whom this node listens to (docs/RULES.md, rule 9).
 *
 * Another cluster, another incarnation of it (after a recovery), another receiver, or a member's id with another
 * incarnation of its directory is refused. A sender that this node does not know as a member is heard: this node may be
 * behind, and the sender added since, or the sender was removed and is told so. A member's id with another incarnation is
 * a `newcomer` when the sender knows a newer configuration: the member was removed and came back with an empty directory.
 * It may lead and ask for votes, but its answers count for nothing here: the questions were meant for another.
 */

import { StoreError } from '../../model/errors.ts'
import { isHexId, type NodeId } from '../../model/ids.ts'

/** Who this node is to its peers. */
export interface LinkIdentity {
  readonly node: NodeId
  readonly incarnation: string
  readonly clusterId: string
  readonly clusterIncarnation: number
}

/** The head of a frame or of a piece of a snapshot. */
export interface LinkHead {
  readonly clusterId: string
  /** 0 means 1. */
  readonly clusterIncarnation: number
  readonly from: string
  readonly incarnation: string
  readonly to: string
  readonly configIndex: number
}

export type Standing = 'member' | 'stranger' | 'newcomer'

/** The field of a head that names the incarnation of the cluster; absent while it is the first, as version 1 sends it. */
export function incarnationOnWire(self: LinkIdentity): { clusterIncarnation?: number } {
  return self.clusterIncarnation === 1 ? {} : { clusterIncarnation: self.clusterIncarnation }
}

/**
 * How what comes under `head` is to be taken, or why it is refused. `expected` is the incarnation of the member of that
 * name; `configIndex` is that of this node's newest configuration.
 */
export function standingOf(
  self: LinkIdentity,
  head: LinkHead,
  expected: string | undefined,
  configIndex: number,
): Standing | StoreError {
  const refuse = (why: string): StoreError => new StoreError('WRONG_CLUSTER', `meta node ${self.node}: ${why}`)
  if (head.clusterId !== self.clusterId) return refuse('the sender belongs to another cluster: check --peers')
  const incarnation = head.clusterIncarnation || 1
  if (incarnation < self.clusterIncarnation) {
    return refuse('the cluster was recovered without the sender: empty its directory and add it again')
  }
  if (incarnation > self.clusterIncarnation) {
    return refuse('the cluster was recovered without this node: empty its directory and add it again')
  }
  if (head.to !== self.node) return refuse('the frame is for another node: check the addresses of --peers')
  if (!isHexId(head.incarnation)) return refuse('the sender does not name its incarnation')
  if (expected === undefined) return 'stranger'
  if (head.incarnation === expected) return 'member'
  if (head.configIndex > configIndex) return 'newcomer'
  return refuse('the sender has another incarnation than the member of that name: its directory was replaced')
}
