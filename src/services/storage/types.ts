/**
 * The seam inside a storage node: the disk engine below (extent log + index), the service above (streams, admission,
 * orders from meta). The engine knows no node, no meta and no network.
 */

import type { ChunkId } from '../../model/ids.ts'
import type { DiskState, ScrubState } from '../../model/words.ts'

export interface PutRequest {
  readonly id: ChunkId
  /** 1 to limits.chunkBytesMax. */
  readonly length: number
  /** Writer lease of the id, kept in the record for reports; 0 for a repair copy. */
  readonly lease: number
  /** 8 bytes a block. Absent: computed while the bytes come in. */
  readonly blockSums?: Uint8Array
  /** 8 bytes; present exactly when blockSums is. */
  readonly root?: Uint8Array
  /** Replace what is held under this id even if it is corrupt (repair). */
  readonly replace?: boolean
}

export interface PutResult {
  readonly root: Uint8Array
  readonly blockSums: Uint8Array
}

/** One chunk on its way in. Owns a slot of the arena until commit or abort settles. */
export interface ChunkWriter {
  /** Copies the next bytes in and hashes full blocks. Throws INVALID_ARGUMENT when more come than `length`. */
  write(bytes: Uint8Array): void
  /**
   * Checks the sums against the bytes, appends to the log, fdatasyncs (shared by all that wait), indexes; resolves then.
   * Rejects: CORRUPT (sums do not match what came; nothing stored), CONFLICT (held with another root), NO_SPACE,
   * DISK_FAILED. An id held with the same root resolves without writing again.
   */
  commit(): Promise<PutResult>
  abort(): void
}

/** One chunk on its way out. */
export interface ChunkReader {
  readonly length: number
  readonly root: Uint8Array
  readonly blockSums: Uint8Array
  /** Block-aligned offset of the first byte of the first piece. */
  readonly offset: number
  /** Bytes that `next` will give in all. */
  readonly bytes: number
  /** The next piece, at most limits.frameBytes, block-aligned except at the end; undefined after the last. */
  next(): Promise<Uint8Array | undefined>
  /** Must be called; lets the extent be recycled. */
  close(): void
}

/** How quick the disk was in the last minute: nine in ten took at most so long; 0 when there were none. */
export interface DiskSpeed {
  readonly syncMs: number
  readonly readMs: number
  /** I/O errors within the window that health looks at. */
  readonly errors: number
}

export interface DiskStatus {
  readonly state: DiskState
  /** Why it is in this state, one line; empty when it is ok. */
  readonly reason: string
  readonly speed: DiskSpeed
  /** Of the filesystem. */
  readonly capacityBytes: number
  readonly usedBytes: number
  /** Bytes that new chunks may still take, net of the reserve. */
  readonly freeForNewBytes: number
  /** Bytes of the log that hold chunks, those in quarantine included. */
  readonly liveBytes: number
  /** Bytes of deleted chunks in extents that are in use: compaction gives them back, unless a part of the extent is in quarantine. */
  readonly reclaimableBytes: number
  readonly chunks: number
  readonly chunkIdMax: number
}

/** How the scrub of a disk stands. Times are wall clock milliseconds, 0: never. */
export interface ScrubStatus {
  /** `off`: nothing is scrubbed unless asked for. `resting`: the pass is done and the next one not due. */
  readonly state: ScrubState
  /** Number of the pass, from 1; 0 before the first one. */
  readonly pass: number
  readonly scannedBytes: number
  /** Bytes of use that the pass covers. */
  readonly totalBytes: number
  /** Of about the last minute. */
  readonly rateBytesPerSecond: number
  /** By how much the pass will be older than the target period when it is done, as things go; 0 on target. */
  readonly debtSeconds: number
  readonly startedMs: number
  /** When the last full pass was done. */
  readonly finishedMs: number
  /** Replicas found not intact since the start, by anyone, and those kept in quarantine from before. */
  readonly findings: number
  /** Small chunks of which one of the two copies was renewed from the other one, and chunks whose index record was. */
  readonly healed: number
  /** Waiting to be looked at before the pass goes on. */
  readonly suspects: number
  /** Reads go past the page cache; false where the filesystem cannot, and damage on the disk may hide behind cached pages. */
  readonly direct: boolean
  /** Damaged extents, a line each; a few. */
  readonly notes: readonly string[]
}

export interface DiskEngine {
  /** 32 hex digits, from the identity file. */
  readonly id: string
  readonly path: string
  /** True when the last stop closed the disk in order. */
  readonly clean: boolean
  /** Cluster the disk belongs to; undefined until `adopt`. */
  readonly clusterId: string | undefined
  /** True when the index was lost and rebuilt from the log at this start: the disk must report in full. */
  readonly rebuilt: boolean
  /** Highest incarnation of the cluster that the disk was adopted under; from 1. */
  readonly clusterIncarnation: number
  /**
   * Writes cluster and node to the identity of a new disk, and a higher incarnation to that of any, durably. Throws
   * WRONG_CLUSTER when it has another cluster or node.
   */
  adopt(clusterId: string, nodeId: string, incarnation?: number): Promise<void>
  /** True while an I/O that was given up has not returned: the process cannot exit in order before it does. */
  readonly hung?: boolean
  status(): DiskStatus
  /** Waits for room in the arena (bounded; OVERLOADED when too many wait). NO_SPACE below the reserve. */
  beginPut(request: PutRequest, signal: AbortSignal): Promise<ChunkWriter>
  /** `length` 0: to the end. NOT_FOUND when not held or quarantined; INVALID_ARGUMENT for a range outside. */
  openRead(id: ChunkId, offset: number, length: number): Promise<ChunkReader>
  /**
   * Reads from the disk and checks every block. A corrupt chunk is quarantined (kept, no longer served) and told to
   * `onCorrupt`. With `root`: `missing` when other content is held under the id, which is left as it is.
   */
  verify(id: ChunkId, root?: Uint8Array): Promise<'intact' | 'corrupt' | 'missing'>
  /** Those of `ids` that are not held (or are quarantined). With `roots`, empty for any: or held with another root. */
  missing(ids: readonly ChunkId[], roots?: readonly Uint8Array[]): Promise<ChunkId[]>
  /** Held ids from `from` up to `to`, exclusive; every held id below `until` is listed. */
  list(from: ChunkId, to: ChunkId, limit: number): Promise<{ ids: ChunkId[]; until: ChunkId }>
  /** Durable when it resolves. Unknown ids are fine. */
  delete(ids: readonly ChunkId[]): Promise<void>
  scrub(): ScrubStatus
  /** Begins a pass now, as fast as is allowed; one that is under way begins again. Ends a pause. */
  startScrub(): void
  /** No scrub until `resumeScrub`, for a day at most. */
  pauseScrub(): void
  resumeScrub(): void
  /** The scrub looks at this chunk before anything else. */
  suspect(id: ChunkId): void
  /** Called when a replica was found corrupt, with one line that says what. */
  onCorrupt(handler: (id: ChunkId, finding: string) => void): void
  /** Called once when the disk refuses service (fsync failed, EIO): its replicas are lost. */
  onFailed(handler: (reason: Error) => void): void
  /** Called after each change of the state that `status` gives. */
  onHealth(handler: () => void): void
  /** Clean stop: waits for what runs, checkpoints, writes the closing watermark. */
  close(): Promise<void>
}
