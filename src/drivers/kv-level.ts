/**
 * The ordered key-value store port over LevelDB (package `level`).
 *
 * Facts this driver relies on, read in LevelDB's source and tested: a batch is one log record, so it is atomic; a write
 * with `sync` fsyncs the log file; `compactRange` flushes the memtable first whatever the range is (db_impl.cc,
 * CompactRange calls TEST_CompactMemTable), and its own failure is not returned but makes every later write fail, so
 * that a synced write after `flush` confirms it. LevelDB locks its directory; a second process gets LOCKED.
 * Read checksums are off in LevelDB as Node can open it: whoever stores a value here gives it its own checksum.
 */

import { mkdir, open as openFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'
import { emptyBytes } from '../base/bytes.ts'
import { StoreError } from '../model/errors.ts'
import { makeDirectory } from './files-node.ts'
import { checkLevel } from './level-check.ts'
import type { Kv, KvEntry, KvFactory, KvOperation, KvRange, KvSnapshot } from '../ports/kv.ts'

type Database = Level<Uint8Array, Uint8Array>
type LevelSnapshot = ReturnType<Database['snapshot']>
/** What the package's types leave out of what LevelDB offers. */
interface Compacting {
  compactRange(start: Uint8Array, end: Uint8Array, options: { keyEncoding: 'view' }): Promise<void>
}

/** Entries fetched from an iterator at once: amortizes the crossing into native code. */
const iterateBatch = 512
/** Bytes an iterator may hold: bounds the memory of a scan over large values. */
const iterateBytesMax = 256 * 1024
/**
 * Tables of a store that are open at once. LevelDB maps each into memory, and a scan touches all of it: this bounds what a
 * store of any size adds to resident memory to about 300 MiB (tables of 2 MiB).
 */
const openFilesMax = 160
/** Data of tables that `check` reads: a few seconds. Of larger stores only the frames of the other tables are checked. */
const checkedBytesMax = 1024 * 1024 * 1024
const corruptAdvice = 'restore the directory or replace it'
/** A key range that is empty in practice, for `flush`. */
const flushRange = [new Uint8Array(16).fill(0xff), new Uint8Array(17).fill(0xff)] as const

function rangeOptions(range: KvRange, snapshot: LevelSnapshot | undefined) {
  return {
    ...(range.gte === undefined ? {} : { gte: range.gte }),
    ...(range.lt === undefined ? {} : { lt: range.lt }),
    reverse: range.reverse ?? false,
    limit: range.limit ?? -1,
    highWaterMarkBytes: iterateBytesMax,
    ...(snapshot === undefined ? {} : { snapshot }),
  }
}

async function* iterateLevel(
  db: Database,
  range: KvRange,
  snapshot: LevelSnapshot | undefined,
  name: string,
): AsyncGenerator<KvEntry> {
  const iterator = db.iterator(rangeOptions(range, snapshot))
  try {
    for (;;) {
      const entries = await guard(`read store ${name}`, () => iterator.nextv(iterateBatch))
      if (entries.length === 0) return
      for (const [key, value] of entries) yield { key, value: value ?? emptyBytes }
    }
  } finally {
    await iterator.close()
  }
}

/** Runs `work`; any failure becomes an error that says what was being done: NO_SPACE on a full disk, CORRUPT on rot, else IO. */
async function guard<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const cause = error instanceof Error ? (error.cause ?? error) : error
    const reason = cause instanceof Error ? cause.message : String(cause)
    if (reason.startsWith('Corruption')) {
      throw new StoreError('CORRUPT', `${doing}: ${reason}; ${corruptAdvice}`, { cause: error })
    }
    const full = reason.includes('No space left') || reason.includes('Disk quota exceeded')
    throw new StoreError(full ? 'NO_SPACE' : 'IO', `${doing}: ${reason}`, { cause: error })
  }
}

/**
 * A chained batch takes a tenth of the main thread's time of an array batch, which clones every operation and then looks
 * up each of its fields by name from native code. Both are one atomic record of LevelDB.
 */
async function writeBatch(db: Database, operations: readonly KvOperation[], sync: boolean): Promise<void> {
  const batch = db.batch()
  for (const operation of operations) {
    if (operation.type === 'put') batch.put(operation.key, operation.value)
    else batch.del(operation.key)
  }
  await batch.write({ sync })
}

function wrap(db: Database, name: string): Kv {
  const snapshotOf = (snapshot: LevelSnapshot): KvSnapshot => ({
    get: (key) => guard(`read store ${name}`, () => db.get<Uint8Array, Uint8Array>(key, { snapshot })),
    iterate: (range) => iterateLevel(db, range, snapshot, name),
    close: () => snapshot.close(),
  })
  return {
    get: (key) => guard(`read store ${name}`, () => db.get(key)),
    getSync: (key) => db.getSync(key),
    batch: (operations, options) => guard(`write store ${name}`, () => writeBatch(db, operations, options.sync)),
    iterate: (range) => iterateLevel(db, range, undefined, name),
    snapshot: () => snapshotOf(db.snapshot()),
    flush: () =>
      guard(`flush store ${name}`, () =>
        (db as unknown as Compacting).compactRange(flushRange[0], flushRange[1], { keyEncoding: 'view' }),
      ),
    close: () => guard(`close store ${name}`, () => db.close()),
  }
}

function openError(error: unknown, name: string, location: string): StoreError {
  const cause = error instanceof Error ? error.cause : undefined
  const code = (cause as { code?: unknown } | undefined)?.code
  const reason = cause instanceof Error ? cause.message : String(error)
  if (code === 'LEVEL_LOCKED') {
    return new StoreError(
      'LOCKED',
      `open ${location}: another process has it; stop that one or use another directory`,
      {
        cause: error,
      },
    )
  }
  if (code === 'LEVEL_CORRUPTION') {
    return new StoreError('CORRUPT', `open store ${name} in ${location}: ${reason}; ${corruptAdvice}`, {
      cause: error,
    })
  }
  return new StoreError('IO', `open store ${name} in ${location}: ${reason}`, { cause: error })
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await openFile(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** What differs between stores of different use. */
export interface LevelOptions {
  /**
   * Bytes that are gathered in memory before they become a table; up to twice as many are held. More means less to merge:
   * a key that is overwritten meanwhile is never written to a table, and fewer tables are merged less often.
   */
  readonly writeBufferBytes?: number
}

const writeBufferBytesDefault = 8 * 1024 * 1024

/**
 * Opens an empty store whose LOCK is a link to that of `name`: LevelDB has no other way to its lock, and opening a damaged
 * store may end the process (an assertion of its compaction, on keys out of order).
 */
async function probeLock(directory: string, name: string): Promise<void> {
  const lock = join(directory, name, 'LOCK')
  if (!(await stat(lock).then(Boolean, () => false))) return
  const location = join(directory, `${name}.probe`)
  await rm(location, { recursive: true, force: true })
  try {
    await mkdir(location)
    await symlink(lock, join(location, 'LOCK'))
    const db = new Level(location)
    await db.open()
    await db.close()
  } catch (error) {
    throw openError(error, name, join(directory, name))
  } finally {
    await rm(location, { recursive: true, force: true })
  }
}

/** Stores below `directory`, one subdirectory each. */
export function createLevelFactory(directory: string, options: LevelOptions = {}): KvFactory {
  return {
    open: async (name) => {
      const location = join(directory, name)
      try {
        await makeDirectory(location)
        await syncDirectory(directory)
      } catch (error) {
        throw openError(error, name, location)
      }
      const db: Database = new Level(location, {
        keyEncoding: 'view',
        valueEncoding: 'view',
        cacheSize: 16 * 1024 * 1024,
        writeBufferSize: options.writeBufferBytes ?? writeBufferBytesDefault,
        maxOpenFiles: openFilesMax,
      })
      try {
        await db.open()
      } catch (error) {
        throw openError(error, name, location)
      }
      return wrap(db, name)
    },
    destroy: (name) =>
      guard(`remove store ${name}`, async () => {
        // Out of the way first: a store of which a crash left some files could open as another, older or empty one.
        const doomed = join(directory, `${name}.removed`)
        await rm(doomed, { recursive: true, force: true })
        try {
          await rename(join(directory, name), doomed)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
        }
        await syncDirectory(directory)
        await rm(doomed, { recursive: true, force: true })
      }),
    probeLock: (name) => probeLock(directory, name),
    check: (name) =>
      guard(`check store ${name}`, async () => (await checkLevel(join(directory, name), checkedBytesMax)).damage),
  }
}
