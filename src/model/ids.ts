/**
 * Identifiers: what each looks like in code, on the wire and in text.
 *
 * | id | in code | in text |
 * | --- | --- | --- |
 * | cluster, disk (as on its identity file), commit, manifest | 16 random bytes as 32 hex digits | the same |
 * | node | operator's name, `[a-z0-9][a-z0-9._-]{0,62}` | the same |
 * | disk number | small integer given by meta at first registration | decimal |
 * | chunk | safe integer from a writer lease | 16 hex digits |
 * | lease | first chunk id of its range | 16 hex digits |
 *
 * Random ids are never taken from the wire unchecked: the `is*` functions are the only door.
 */

/** Safe integer, unique for ever: ranges are handed out by committed writer leases and never twice. */
export type ChunkId = number
/** Small positive integer that meta gives to a disk at its first registration. */
export type DiskNumber = number
/** Write fence of a disk: bumped by every registration and every time the disk is declared down. */
export type Generation = number
/** First chunk id of the lease's range. */
export type LeaseId = number
export type NodeId = string
export type ZoneId = string
/** 32 hex digits. */
export type ClusterId = string
/** 32 hex digits; also names the manifest that the commit creates. */
export type CommitId = string

/** A writer lease covers this many chunk ids, so that a lease is never on the path of one put. */
export const leaseSpan: number = 1 << 16

export function isNodeId(value: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,62}$/.test(value)
}

export function isHexId(value: string): boolean {
  return /^[0-9a-f]{32}$/.test(value)
}

export function formatChunkId(id: ChunkId): string {
  return id.toString(16).padStart(16, '0')
}

/** The chunk id in `text` (1 to 16 hex digits below 2^53), or undefined. */
export function parseChunkId(text: string): ChunkId | undefined {
  if (!/^[0-9a-fA-F]{1,16}$/.test(text)) return undefined
  const id = Number.parseInt(text, 16)
  return Number.isSafeInteger(id) && id > 0 ? id : undefined
}
