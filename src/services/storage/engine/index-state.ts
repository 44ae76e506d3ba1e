/**
 * The index at the start: is it there, is it whole, is it to be made again from the log.
 *
 * A rebuild is wanted durably before anything is removed, and is over only when a synced checkpoint stands behind it: the
 * file `index-rebuild` says `wanted` from before the first step to then, so an index that is half made is never believed,
 * whatever ends the process. After that it says `done` until meta has registered the disk (`adopt`): that the disk had to
 * rebuild is not forgotten by a second crash.
 *
 * LevelDB does not check what it reads, so its files are checked before it opens them (KvFactory.check): a damaged table or
 * MANIFEST makes keys vanish without a word otherwise, or ends the process in a compaction. The lock is LevelDB's: what was
 * found damaged is not opened, and removed only when the lock was seen to be free.
 */

import { Mutex } from '../../../base/async/mutex.ts'
import { fromUtf8, utf8 } from '../../../base/bytes.ts'
import type { Checkpoint } from '../../../core/chunk/index-record.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { Files } from '../../../ports/files.ts'
import type { Kv, KvEntry, KvRange } from '../../../ports/kv.ts'
import { ChunkIndex } from './chunk-index.ts'
import type { DiskDeps } from './types.ts'

export const indexName = 'index'
const markName = 'index-rebuild'

export interface IndexState {
  readonly index: ChunkIndex
  /** Undefined when there is nothing to go by: a new disk, or a lost index. */
  readonly checkpoint: Checkpoint | undefined
  readonly live: Map<number, number>
  /** The index was lost: it is empty, and is to be filled from the log. */
  readonly rebuilt: boolean
  /** It was rebuilt in an earlier life, and meta has not registered the disk since. */
  readonly unreported: boolean
  /** What a value of the index that LevelDB cannot give leads to. */
  readonly guard: IndexGuard
}

export interface RebuildMark {
  readonly state: 'wanted' | 'done'
  readonly reason: string
}

/** The mark of the disk; one that cannot be read asks for a rebuild, which harms nothing. */
export async function readMark(files: Files): Promise<RebuildMark | undefined> {
  const bytes = await files.read(markName)
  if (bytes === undefined) return undefined
  const [state, ...reason] = (fromUtf8(bytes) ?? '').trimEnd().split(' ')
  return { state: state === 'done' ? 'done' : 'wanted', reason: reason.join(' ') }
}

async function writeMark(files: Files, { state, reason }: RebuildMark): Promise<void> {
  await files.write(markName, utf8(`${state} ${reason.replaceAll('\n', ' ')}\n`))
}

/** The index is to be made anew at the next start. */
export function wantRebuild(files: Files, reason: string): Promise<void> {
  return writeMark(files, { state: 'wanted', reason })
}

/** A checkpoint stands behind the rebuilt index; meta is to hear of it. */
export function rebuildDone(files: Files): Promise<void> {
  return writeMark(files, { state: 'done', reason: 'meta has not registered the disk since' })
}

/** Meta has registered the disk. */
export function forgetRebuild(files: Files): Promise<void> {
  return files.remove(markName)
}

/** Passes a store through; reads that LevelDB calls corrupt are told to `onDamage`, whose error the reader gets. */
export class IndexGuard {
  onDamage: ((error: StoreError) => Error) | undefined
  /** Settles when it is on disk that the index is to be rebuilt. */
  marked: Promise<void> | undefined
  /** Held by who changes the mark: one that is written while an earlier one is taken away would be lost. */
  readonly marks = new Mutex()

  #judge(error: unknown): unknown {
    return isStoreError(error) && error.code === 'CORRUPT' && this.onDamage !== undefined ? this.onDamage(error) : error
  }

  wrap(kv: Kv): Kv {
    const guarded = <T>(work: Promise<T>): Promise<T> =>
      work.catch((error: unknown) => {
        throw this.#judge(error)
      })
    return {
      get: (key) => guarded(kv.get(key)),
      getSync: (key) => kv.getSync(key),
      batch: (operations, options) => guarded(kv.batch(operations, options)),
      iterate: (range) => this.#iterate(kv, range),
      snapshot: () => kv.snapshot(),
      flush: () => guarded(kv.flush()),
      close: () => kv.close(),
    }
  }

  async *#iterate(kv: Kv, range: KvRange): AsyncGenerator<KvEntry> {
    try {
      for await (const entry of kv.iterate(range)) yield entry
    } catch (error) {
      throw this.#judge(error)
    }
  }
}

/** Opens the store, whatever state it is in. LOCKED; anything else is given as what is wrong with it. */
async function tryOpen(
  deps: DiskDeps,
  path: string,
  damaged: boolean,
): Promise<{ kv: Kv } | { kv: undefined; error: unknown }> {
  try {
    if (!damaged || deps.kv.probeLock === undefined) return { kv: await deps.kv.open(indexName) }
    await deps.kv.probeLock(indexName)
    return { kv: undefined, error: undefined }
  } catch (error) {
    if (!isStoreError(error) || error.code !== 'LOCKED') return { kv: undefined, error }
    const message = `disk ${path} is in use by another process: stop that one or use another directory`
    throw new StoreError('LOCKED', message, { cause: error })
  }
}

interface Loaded {
  readonly checkpoint: Checkpoint | undefined
  readonly live: Map<number, number>
}

/** What the index says of itself, or one line that says why it is not believed. */
async function readBooks(index: ChunkIndex, used: boolean): Promise<Loaded | string> {
  try {
    const checkpoint = await index.checkpoint()
    const live = await index.liveBytes()
    if (checkpoint === undefined && !used) return { checkpoint, live: new Map() }
    if (checkpoint === undefined) return 'it has no checkpoint'
    if (checkpoint === 'damaged') return 'its checkpoint is damaged'
    return live === undefined ? 'a figure of an extent is damaged' : { checkpoint, live }
  } catch (error) {
    if (isStoreError(error) && error.code === 'CORRUPT') return error.message
    throw error
  }
}

/**
 * Opens the index. One that is damaged, or has no checkpoint although the disk is `used`, is removed and comes back empty, as
 * `rebuilt`: the caller fills it from the log, and calls `rebuildDone` when a checkpoint stands behind it. `distrust` says
 * that this is known already, and why.
 */
export async function loadIndex(
  deps: DiskDeps,
  path: string,
  sum: Sum,
  used: boolean,
  distrust?: string,
): Promise<IndexState> {
  const mark = await readMark(deps.files)
  let reason = distrust ?? (mark?.state === 'wanted' ? mark.reason : await deps.kv.check?.(indexName))
  const opened = await tryOpen(deps, path, reason !== undefined)
  const guard = new IndexGuard()
  if (opened.kv === undefined) {
    const { error } = opened
    if (reason === undefined && (!isStoreError(error) || error.code !== 'CORRUPT')) throw error
    reason ??= error instanceof Error ? error.message : String(error)
  } else if (reason === undefined) {
    const index = new ChunkIndex(guard.wrap(opened.kv), sum)
    const books = await readBooks(index, used).catch(async (error: unknown) => {
      await index.close().catch(() => undefined)
      throw error
    })
    if (typeof books !== 'string') return { index, ...books, rebuilt: false, unreported: mark?.state === 'done', guard }
    reason = books
  }
  const [level, what] =
    distrust === undefined ? (['error', 'the index is damaged, '] as const) : (['info', ''] as const)
  deps.log[level](`${what}rebuilding it from the log`, { disk: path, reason })
  await wantRebuild(deps.files, reason)
  await opened.kv?.close()
  await deps.kv.destroy(indexName)
  const index = new ChunkIndex(guard.wrap(await deps.kv.open(indexName)), sum)
  return { index, checkpoint: undefined, live: new Map(), rebuilt: true, unreported: false, guard }
}
