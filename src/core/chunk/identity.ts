/**
 * The identity file of a disk: whose it is. One line of JSON, because people look at it; `check` is XXH64 over the other
 * values joined by spaces, so that a damaged file is not taken for another identity.
 *
 * `format` is read before anything else: a newer one is refused without looking at the rest.
 */

import { fromUtf8, toHex, utf8 } from '../../base/bytes.ts'
import { isHexId, isNodeId } from '../../model/ids.ts'
import { type Sum, sumOf } from './sums.ts'

/** Version of the whole disk: extent log, index and identity. */
export const diskFormat = 1

export interface DiskIdentity {
  readonly diskId: string
  /** Both are undefined until the disk is adopted. */
  readonly clusterId: string | undefined
  readonly nodeId: string | undefined
  /** Highest incarnation of the cluster that gave it orders (docs/RULES.md, rule 2); 1 until one is higher. */
  readonly clusterIncarnation: number
}

export type IdentityFinding =
  | { readonly kind: 'ok'; readonly identity: DiskIdentity }
  | { readonly kind: 'newer'; readonly format: number }
  | { readonly kind: 'damaged' }

/** A disk that never saw a recovery has the file that it always had. */
function laterFields({ clusterIncarnation }: DiskIdentity): { readonly clusterIncarnation?: number } {
  return clusterIncarnation > 1 ? { clusterIncarnation } : {}
}

function checkOf(identity: DiskIdentity, sum: Sum): string {
  const { diskId, clusterId, nodeId } = identity
  const values = [diskFormat, diskId, clusterId ?? '-', nodeId ?? '-', ...Object.values(laterFields(identity))]
  return toHex(sumOf(sum, [utf8(values.join(' '))]))
}

export function encodeIdentity(identity: DiskIdentity, sum: Sum): Uint8Array {
  const { diskId, clusterId, nodeId } = identity
  const fields = { format: diskFormat, diskId, clusterId, nodeId, ...laterFields(identity) }
  return utf8(`${JSON.stringify({ ...fields, check: checkOf(identity, sum) })}\n`)
}

function parse(content: Uint8Array): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(fromUtf8(content) ?? '')
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

export function decodeIdentity(content: Uint8Array, sum: Sum): IdentityFinding {
  const fields = parse(content)
  const format = fields?.['format']
  if (fields === undefined || typeof format !== 'number') return { kind: 'damaged' }
  if (format > diskFormat) return { kind: 'newer', format }
  const { diskId, clusterId, nodeId, clusterIncarnation = 1, check } = fields
  if (typeof diskId !== 'string' || !isHexId(diskId)) return { kind: 'damaged' }
  if (clusterId !== undefined && (typeof clusterId !== 'string' || !isHexId(clusterId))) return { kind: 'damaged' }
  if (nodeId !== undefined && (typeof nodeId !== 'string' || !isNodeId(nodeId))) return { kind: 'damaged' }
  if (typeof clusterIncarnation !== 'number' || !Number.isSafeInteger(clusterIncarnation)) return { kind: 'damaged' }
  const identity = { diskId, clusterId, nodeId, clusterIncarnation }
  return check === checkOf(identity, sum) ? { kind: 'ok', identity } : { kind: 'damaged' }
}
