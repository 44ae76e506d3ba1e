/**
 * What the replicator needs of the durable Raft log, whichever way it is stored: in segment files (log-segments.ts), or
 * in LevelDB (log-store.ts) while the cluster is still at version 1 and a node may have to go back to Holdfast 0.1.
 *
 * Promises of both: one write is under way at most, and what is asked for later is written later; a truncation and the
 * entries that replace the tail are one write; a write that resolved (but for a `note` without `sync`) is on disk; after
 * a failed write nothing is written any more, and every call rejects with that failure.
 */

import { asStoreError, StoreError } from '../../model/errors.ts'
import type { ClusterConfig, ConfigAt, Entry, HardState, SnapshotMark } from '../../core/raft/types.ts'

/** What a log held when it was opened, verified: what the core starts from. */
export interface RecoveredLog {
  /** The second copy of term and vote. */
  readonly hardState: HardState
  readonly commit: number
  readonly base: SnapshotMark
  /** Chain value at the base. */
  readonly baseChain: number
  readonly termRuns: readonly { readonly first: number; readonly term: number }[]
  readonly lastIndex: number
  readonly configs: readonly ConfigAt[]
  readonly tail: readonly Entry[]
  /** A snapshot install that did not finish. */
  readonly installing: SnapshotMark | undefined
  /** Entries of a torn tail that were cut off. */
  readonly cut: number
}

export interface RaftLog {
  readonly lastIndex: number
  readonly baseIndex: number
  /** Bytes of all entries, as they count for compaction. */
  readonly bytes: number
  /** True when the last entries are synced but no stored watermark says so yet. */
  readonly watermarkBehind: boolean
  /** One atomic, synced write: replaces everything from `truncateFrom` on by `entries`, with hard state and commit hint. */
  append(
    truncateFrom: number | undefined,
    entries: readonly Entry[],
    hard: HardState | undefined,
    commit: number,
  ): Promise<void>
  /** Writes the second copy of a term and vote that the slots hold already. */
  note(hard: HardState, commit: number, sync?: boolean): Promise<void>
  /** Writes the watermark (and the commit hint) when nothing else is written, so that the last write is covered too. */
  closeWatermark(commit: number): Promise<void>
  /** Entries from `first` to at most `last` and about `bytesMax` bytes, at least one. CORRUPT when one is damaged. */
  read(first: number, last: number, bytesMax: number): Promise<Entry[]>
  /** Drops everything up to `index`, whose term and configuration become the base. */
  compact(index: number, term: number, config: ConfigAt): Promise<void>
  /** Notes durably that the state machine is about to be replaced. */
  beginInstall(mark: SnapshotMark): Promise<void>
  /** The install was given up before the state machine changed. */
  cancelInstall(): Promise<void>
  /** The state machine holds the snapshot: makes the log match it, in one synced write. */
  finishInstall(mark: SnapshotMark, keepSuffix: boolean): Promise<void>
  /** Resolves when nothing is in flight any more; then closes the log. */
  close(): Promise<void>
}

/** Where the log of one node lies. */
export interface LogPlace {
  /** True when nothing was ever written here. */
  isEmpty(): Promise<boolean>
  /**
   * Creates a log. `first` is entry 1 of a newly formed cluster; without it the log is empty and everything, also the
   * configuration that `config` stands for until then, comes from the leader.
   */
  create(config: ClusterConfig, first?: Entry): Promise<void>
  /**
   * Opens and verifies. `cacheBytes` bounds the tail that is returned. Throws DATA_LOST when acknowledged entries are
   * missing or damaged, CORRUPT when a record beside them is. A log that is open already is closed first.
   */
  open(cacheBytes: number): Promise<{ store: RaftLog; recovered: RecoveredLog }>
  /** Closes the log when it is open, and lets another process have the place. */
  close(): Promise<void>
}

export const lostAdvice = ': remove this member and add it again with an empty directory'

/** What a failed write means: the node stops, because the write may be there in part. */
export function writeFailure(error: unknown): StoreError {
  const cause = asStoreError(error, 'write')
  const advice = cause.code === 'NO_SPACE' ? 'free some space and start the node again' : 'the node stops'
  const code = cause.code === 'NO_SPACE' ? 'NO_SPACE' : 'IO'
  return new StoreError(code, `write the raft log: ${cause.message}: ${advice}`, { cause: error })
}
