/**
 * Disks as the state's records show them: what reads use on a node that does not lead. It knows no heartbeats, so a node
 * is up until the leader has declared it down; a reader that meets one that is not asks the next copy.
 */

import type { StoredReplicaState } from '../../core/meta/records.ts'
import type { DiskNumber } from '../../model/ids.ts'
import type { ReplicaState } from '../../model/words.ts'
import type { holdfast } from '../../wire/messages.ts'
import { shownReplicaState } from './control/topology.ts'
import type { MetaPoints } from './queries.ts'
import type { DiskView } from './reads.ts'

export function recordDisks(points: MetaPoints): DiskView {
  const addressOf = (number: DiskNumber): holdfast.v1.DiskAddress.$Properties[] => {
    const disk = points.disk(number)
    const node = disk === undefined ? undefined : points.node(disk.node)
    if (disk === undefined || node === undefined) return []
    const { addresses, zone, health } = node
    const { generation } = disk
    return [{ disk: number, node: disk.node, addresses: [...addresses], zone, health, generation }]
  }
  return {
    diskAddresses: (numbers) => numbers.flatMap(addressOf),
    replicaState: (number: DiskNumber, stored: StoredReplicaState): ReplicaState =>
      shownReplicaState(points.disk(number), stored),
  }
}
