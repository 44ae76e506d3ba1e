/**
 * Where the log of a node lies: in segment files, or still in LevelDB; and the move from one to the other.
 *
 * The identity says which it is. A log is moved at a start at which the cluster version does not allow anybody to go back
 * to Holdfast 0.1 any more: written whole into segment files, synced, then the identity is changed by one atomic write, and
 * only then the old store goes. A crash before that write leaves the old log in force, and the files are made anew.
 * Invariant: one process has the place at a time: LevelDB locks its directory, and a log in segments has a store for that.
 */

import { StoreError } from '../../model/errors.ts'
import type { Entropy } from '../../ports/entropy.ts'
import type { ExtentFiles } from '../../ports/extents.ts'
import type { Kv } from '../../ports/kv.ts'
import type { ClusterConfig, Entry } from '../../core/raft/types.ts'
import { SegmentLog } from './log-disk.ts'
import { LogStore } from './log-store.ts'
import { defaultSegmentSizes, Segments, type SegmentSizes } from './log-segments.ts'
import type { LogPlace, RaftLog, RecoveredLog } from './log-types.ts'
import { type LogFormat, logFormats } from './identity.ts'
import type { MetaStores } from './raft-host.ts'

/** Where a meta node keeps all that must survive, its log too. */
export interface NodeStores extends MetaStores {
  /** The files of the log, whose directory is made when missing. */
  readonly segments: () => Promise<ExtentFiles>
  readonly entropy: Entropy
  readonly segmentSizes?: SegmentSizes
}

/** The store that holds a log in LevelDB, and the one whose lock stands for a log in segments. */
export const logName = 'raft-log'
export const lockName = 'raft-lock'
/** The directory of the segment files, below that of the node. */
export const segmentsName = 'raft-segments'

/** Entries that are moved at a time. */
const moveBytes = 1024 * 1024

/** Takes the log of a node, for this process alone. Rejects with LOCKED when another one has it. */
export async function openPlace(stores: NodeStores, format: LogFormat): Promise<LogPlace> {
  if (format === logFormats.level) return new KvPlace(await stores.kv.open(logName))
  const lock = await stores.kv.open(lockName)
  try {
    return new SegmentPlace(stores, await stores.segments(), lock)
  } catch (error) {
    await lock.close()
    throw error
  }
}

class KvPlace implements LogPlace {
  readonly #kv: Kv

  constructor(kv: Kv) {
    this.#kv = kv
  }

  isEmpty(): Promise<boolean> {
    return LogStore.isEmpty(this.#kv)
  }

  create(config: ClusterConfig, first?: Entry): Promise<void> {
    return LogStore.create(this.#kv, config, first)
  }

  open(cacheBytes: number): Promise<{ store: RaftLog; recovered: RecoveredLog }> {
    return LogStore.open(this.#kv, cacheBytes)
  }

  close(): Promise<void> {
    return this.#kv.close()
  }
}

class SegmentPlace implements LogPlace {
  readonly #stores: NodeStores
  readonly #files: ExtentFiles
  readonly #lock: Kv
  #open: SegmentLog | undefined

  constructor(stores: NodeStores, files: ExtentFiles, lock: Kv) {
    this.#stores = stores
    this.#files = files
    this.#lock = lock
  }

  #segments(): Segments {
    const { entropy, segmentSizes } = this.#stores
    return new Segments(this.#files, entropy, segmentSizes ?? defaultSegmentSizes)
  }

  async isEmpty(): Promise<boolean> {
    return (await this.#files.list()).length === 0
  }

  async create(config: ClusterConfig, first?: Entry): Promise<void> {
    const base = { index: 0, term: 0, config: { index: 0, config } }
    const hard = { term: first?.term ?? 0, vote: '' }
    const log = await SegmentLog.create(this.#segments(), { base, baseChain: 0, hard, commit: 0 })
    if (first !== undefined) await log.append(undefined, [first], undefined, first.index)
    await log.closeFiles()
  }

  async open(cacheBytes: number): Promise<{ store: RaftLog; recovered: RecoveredLog }> {
    await this.#closeFiles()
    const opened = await SegmentLog.open(this.#segments(), cacheBytes, () => this.#lock.close())
    this.#open = opened.store
    return opened
  }

  async #closeFiles(): Promise<void> {
    const open = this.#open
    this.#open = undefined
    await open?.closeFiles()
  }

  async close(): Promise<void> {
    await this.#closeFiles()
    await this.#lock.close()
  }

  /** Makes the log what `recovered` says, with its entries out of `from`; on disk when it resolves. */
  async take(from: RaftLog, recovered: RecoveredLog): Promise<void> {
    const { base, baseChain, hardState, commit, lastIndex, installing } = recovered
    if (installing !== undefined) throw new StoreError('INTERNAL', 'move the raft log: an install is under way')
    const log = await SegmentLog.create(this.#segments(), { base, baseChain, hard: hardState, commit })
    while (log.lastIndex < lastIndex) {
      const entries = await from.read(log.lastIndex + 1, lastIndex, moveBytes)
      if (entries.length === 0)
        throw new StoreError('DATA_LOST', `move the raft log: entry ${log.lastIndex + 1} is gone`)
      await log.append(undefined, entries, undefined, commit)
    }
    await log.closeWatermark(commit)
    await log.closeFiles()
  }
}

/**
 * Moves a verified log from LevelDB into segment files. `from` is closed when it resolves, and the returned place holds the
 * same log; the old store may still be there.
 */
export async function moveLog(
  stores: NodeStores,
  from: LogPlace,
  log: { readonly store: RaftLog; readonly recovered: RecoveredLog },
  settle: () => Promise<void>,
): Promise<LogPlace> {
  const lock = await stores.kv.open(lockName)
  try {
    const place = new SegmentPlace(stores, await stores.segments(), lock)
    await place.take(log.store, log.recovered)
    await settle()
    await from.close()
    return place
  } catch (error) {
    await lock.close()
    throw error
  }
}
