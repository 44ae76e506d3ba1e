/**
 * The identity file of a disk: made once, then only ever given a cluster and a node.
 *
 * It is read before the index is opened, so that a disk of a newer format is refused without touching it, and written only
 * after the index is open, because the index's lock is what keeps a second process out.
 */

import { toHex } from '../../../base/bytes.ts'
import { decodeIdentity, diskFormat, type DiskIdentity, encodeIdentity } from '../../../core/chunk/identity.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { StoreError } from '../../../model/errors.ts'
import type { Entropy } from '../../../ports/entropy.ts'
import type { Files } from '../../../ports/files.ts'

const fileName = 'identity'

/** The identity in the directory, or undefined when it has none. INCOMPATIBLE_VERSION, CORRUPT. */
export async function readIdentity(files: Files, path: string, sum: Sum): Promise<DiskIdentity | undefined> {
  const content = await files.read(fileName)
  if (content === undefined) return undefined
  const finding = decodeIdentity(content, sum)
  if (finding.kind === 'ok') return finding.identity
  if (finding.kind === 'newer') {
    const message = `disk ${path} has format ${finding.format}, this program knows up to ${diskFormat}: use a newer Holdfast`
    throw new StoreError('INCOMPATIBLE_VERSION', message)
  }
  throw new StoreError(
    'CORRUPT',
    `disk ${path}: its identity file is damaged; restore ${path}/${fileName} or give a new directory`,
  )
}

/** Throws WRONG_CLUSTER for a disk that is another node's. One that belongs to nobody yet is anybody's. */
export function checkOwner(path: string, identity: DiskIdentity, nodeId: string): void {
  if (identity.nodeId === undefined || identity.nodeId === nodeId) return
  const message = `disk ${path} belongs to node ${identity.nodeId}, not ${nodeId}: start it with --id ${identity.nodeId} or use another directory`
  throw new StoreError('WRONG_CLUSTER', message)
}

/** Gives the directory a new identity, durably. */
export async function createIdentity(files: Files, entropy: Entropy, sum: Sum): Promise<DiskIdentity> {
  const identity = { diskId: toHex(entropy.bytes(16)), clusterId: undefined, nodeId: undefined, clusterIncarnation: 1 }
  await files.write(fileName, encodeIdentity(identity, sum))
  return identity
}

/** The identity with cluster, node and incarnation in it, durably. WRONG_CLUSTER when it has others. */
export async function adoptIdentity(
  files: Files,
  path: string,
  identity: DiskIdentity,
  owner: { readonly clusterId: string; readonly nodeId: string; readonly incarnation: number },
  sum: Sum,
): Promise<DiskIdentity> {
  if (identity.clusterId !== undefined && identity.clusterId !== owner.clusterId) {
    const message = `disk ${path} belongs to cluster ${identity.clusterId}, not ${owner.clusterId}: use another directory or the right cluster`
    throw new StoreError('WRONG_CLUSTER', message)
  }
  checkOwner(path, identity, owner.nodeId)
  const { clusterId, nodeId, incarnation } = owner
  const known = identity.clusterId !== undefined && identity.nodeId !== undefined
  if (known && identity.clusterIncarnation >= incarnation) return identity
  const clusterIncarnation = Math.max(identity.clusterIncarnation, incarnation)
  const adopted = { diskId: identity.diskId, clusterId, nodeId, clusterIncarnation }
  await files.write(fileName, encodeIdentity(adopted, sum))
  return adopted
}
