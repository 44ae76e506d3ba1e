/**
 * A storage node's disk, read without changing one byte of it: for looking at a disk that no process has open.
 *
 * Opening LevelDB writes (a new MANIFEST, a table for what its log holds, its LOG), so it is opened on a shadow: a temporary
 * directory with links to the tables, which never change, and copies of the few small files. Its lock is the disk's own:
 * the shadow's LOCK is a link to it, so a node cannot start on the disk meanwhile, and one that runs is met as LOCKED.
 */

import { copyFile, mkdir, mkdtemp, open, readdir, rm, stat, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isStoreError, StoreError } from '../model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../ports/extents.ts'
import type { Kv } from '../ports/kv.ts'
import { extentNumberOf, extentPathOf } from './extents-node.ts'
import { fileError, systemCode } from './files-node.ts'
import { createLevelFactory } from './kv-level.ts'
import { checkLevel, type LevelCheck } from './level-check.ts'

function refuse(): Promise<never> {
  return Promise.reject(new StoreError('IO', 'the disk is only looked at'))
}

/** The extent files of `directory`, to read. */
export function readExtentFiles(directory: string): ExtentFiles {
  const sizeOf = async (number: number): Promise<number | undefined> => {
    try {
      return (await stat(extentPathOf(directory, number))).size
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined
      throw fileError(error, `look at ${directory}`)
    }
  }
  const openFile = async (number: number): Promise<ExtentFile> => {
    const path = extentPathOf(directory, number)
    try {
      const handle = await open(path, 'r')
      const { size } = await handle.stat()
      const read = async (into: Uint8Array, offset: number): Promise<number> => {
        let at = 0
        while (at < into.length) {
          const { bytesRead } = await handle.read(into, at, into.length - at, offset + at)
          if (bytesRead === 0) break
          at += bytesRead
        }
        return at
      }
      return { number, size, write: refuse, sync: refuse, read, close: () => handle.close() }
    } catch (error) {
      throw fileError(error, `open ${path}`)
    }
  }
  return {
    alignment: 4096,
    mode: 'buffered',
    list: async () => {
      const names = await readdir(directory)
      return names.flatMap((name) => extentNumberOf(name) ?? []).sort((a, b) => a - b)
    },
    sizeOf,
    open: openFile,
    create: refuse,
    rename: refuse,
    remove: refuse,
    arena: (size) => new Uint8Array(size),
    space: refuse,
  }
}

/** The index of a disk, locked and looked at. */
export interface IndexShadow {
  /** What its files say; all of their data is read. */
  readonly check: LevelCheck
  /** Undefined when it is missing, damaged, or does not open. */
  readonly kv: Kv | undefined
  /** Why there is no `kv`. */
  readonly reason: string
  close(): Promise<void>
}

/** Makes `shadow` a view of the LevelDB in `source`. */
async function link(source: string, shadow: string): Promise<void> {
  await mkdir(shadow)
  for (const name of await readdir(source)) {
    if (/^\d+\.(ldb|sst)$/.test(name)) await symlink(join(source, name), join(shadow, name))
    else if (/^(CURRENT|MANIFEST-\d+|\d+\.log)$/.test(name)) await copyFile(join(source, name), join(shadow, name))
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** Takes the lock of the LevelDB in `source` from an empty one in `place`. */
async function takeLock(directory: string, source: string, place: string): Promise<Kv | undefined> {
  if (!(await exists(join(source, 'LOCK')))) return undefined
  await mkdir(join(place, 'lock'))
  await symlink(join(source, 'LOCK'), join(place, 'lock', 'LOCK'))
  try {
    return await createLevelFactory(place).open('lock')
  } catch (error) {
    if (!isStoreError(error) || error.code !== 'LOCKED') throw error
    throw new StoreError('LOCKED', `disk ${directory} is in use by another process: stop its node first`, {
      cause: error,
    })
  }
}

/** Locks and opens the index of the disk in `directory`. LOCKED, IO. */
export async function openIndexShadow(directory: string, name: string): Promise<IndexShadow> {
  const source = join(directory, name)
  const place = await mkdtemp(join(tmpdir(), 'holdfast-inspect-'))
  let lock: Kv | undefined
  try {
    lock = await takeLock(directory, source, place)
    const check = await checkLevel(source, Number.POSITIVE_INFINITY)
    let kv: Kv | undefined
    let reason = check.damage ?? ''
    if (!(await exists(join(source, 'CURRENT')))) reason = check.damage ?? 'there is none'
    else if (check.damage === undefined) {
      await link(source, join(place, name))
      kv = await createLevelFactory(place)
        .open(name)
        .catch((error: unknown) => {
          reason = error instanceof Error ? error.message : String(error)
          return undefined
        })
    }
    const close = async (): Promise<void> => {
      await kv?.close()
      await lock?.close()
      await rm(place, { recursive: true, force: true })
    }
    return { check, kv, reason, close }
  } catch (error) {
    await lock?.close()
    await rm(place, { recursive: true, force: true })
    throw error
  }
}
