/**
 * Every bound of the system, with its reason. A bound that is a matter of taste is configuration; these are not.
 */

const KiB = 1024
const MiB = 1024 * KiB

export const limits = {
  /** Largest chunk. One chunk fits twice in a default stream window and is one disk write. */
  chunkBytesMax: 8 * MiB,
  /** Chunk size of an object put by the SDK. */
  chunkBytesDefault: 4 * MiB,
  /** Unit of checksum and of ranged reads. */
  blockBytes: 64 * KiB,
  /** Chunks up to this size are packed in a group record and kept in LevelDB too. */
  inlineBytesMax: 16 * KiB,
  /** Payload of one data frame: measured, throughput is flat from 256 KiB to 1 MiB, and smaller cancels sooner. */
  frameBytes: 512 * KiB,
  /** Unary PutChunk and GetChunk, for clients without streams. */
  unaryChunkBytesMax: 1 * MiB,
  /** gRPC message bound on every server: a frame and its header fit, a whole chunk does not. */
  messageBytesMax: 4 * MiB,
  /** Chunks in one manifest page: one Raft entry of at most about 4,096 touched records. */
  pageChunksMax: 512,
  /** Replicas listed for one chunk, dead ones included. */
  replicasMax: 8,
  /** User metadata of one object, keys and values. */
  userMetadataBytesMax: 8 * KiB,
  /** Entries in one page of a list. */
  listPageMax: 1000,
  /** Objects in one atomic commit. */
  commitObjectsMax: 128,
  /** Chunk ids in one report page of a storage node. */
  reportPageMax: 4096,
  /** Stragglers of a quorum write the SDK keeps in memory (docs/RULES.md, rule 10). */
  stragglerBytesMax: 32 * MiB,
  /** Sum of advertised receive windows of one process (docs/RULES.md, rule 16). */
  windowBytesMax: 192 * MiB,
} as const

/** Blocks of a chunk of `length` bytes; a zero-byte chunk has none. */
export function blockCount(length: number): number {
  return Math.ceil(length / limits.blockBytes)
}

/** Majority of `wanted` copies, the write concern `quorum`. */
export function majority(wanted: number): number {
  return Math.floor(wanted / 2) + 1
}
