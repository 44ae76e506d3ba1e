/**
 * The port for small whole files over node:fs, one directory.
 *
 * `write` is the four steps in order: temporary file, fsync, rename, fsync of the directory. Leftover temporary files of a
 * crash are not listed and are overwritten by the next write of the same name.
 */

import { constants } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { StoreError } from '../model/errors.ts'
import type { Files } from '../ports/files.ts'

const temporarySuffix = '.tmp'

/** Makes what happened to the names in `directory` durable. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/**
 * Makes `directory` and what is missing above it. One level at a time: with `recursive`, Node tries for ever on a
 * filesystem that answers ENOENT to a mkdir below a directory that exists (/proc).
 */
export async function makeDirectory(directory: string): Promise<void> {
  const missing: string[] = []
  for (let at = resolve(directory); !(await isThere(at)); at = dirname(at)) missing.push(at)
  for (const path of missing.reverse()) {
    await mkdir(path).catch((error: unknown) => {
      // Somebody else made it meanwhile.
      if (systemCode(error) !== 'EEXIST') throw error
    })
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false
    throw error
  }
}

/** The `code` of a system error, or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  return typeof code === 'string' ? code : undefined
}

/** What a system error means in our table: NO_SPACE for a full filesystem or quota, else IO. */
export function fileError(error: unknown, doing: string): StoreError {
  const code = systemCode(error)
  const full = code === 'ENOSPC' || code === 'EDQUOT'
  const reason = error instanceof Error ? error.message : String(error)
  const advice = full ? 'free some space or use another disk' : 'look at the directory and its permissions'
  return new StoreError(full ? 'NO_SPACE' : 'IO', `${doing}: ${reason}; ${advice}`, { cause: error })
}

async function guard<T>(doing: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw fileError(error, doing)
  }
}

async function writeNew(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, 'w')
  try {
    let at = 0
    while (at < bytes.length) at += (await handle.write(bytes, at, bytes.length - at, at)).bytesWritten
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const inPlace = constants.O_RDWR | constants.O_DSYNC

/** Each write is durable when it returns; nobody waits for the close: an election waits for the vote. */
async function overwriteWhole(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, inPlace)
  try {
    let at = 0
    while (at < bytes.length) at += (await handle.write(bytes, at, bytes.length - at, at)).bytesWritten
  } finally {
    handle.close().catch(() => undefined)
  }
}

/** The files of `directory`, which is made when first written to. */
export function createFiles(directory: string): Files {
  return {
    read: (name) =>
      guard(`read ${join(directory, name)}`, async () => {
        try {
          return await readFile(join(directory, name))
        } catch (error) {
          if (systemCode(error) === 'ENOENT') return undefined
          throw error
        }
      }),
    write: (name, bytes) =>
      guard(`write ${join(directory, name)}`, async () => {
        await makeDirectory(directory)
        const path = join(directory, name)
        await writeNew(path + temporarySuffix, bytes)
        await rename(path + temporarySuffix, path)
        await syncDirectory(directory)
      }),
    overwrite: (name, bytes) =>
      guard(`write ${join(directory, name)}`, async () => {
        const path = join(directory, name)
        try {
          await overwriteWhole(path, bytes)
        } catch (error) {
          if (systemCode(error) !== 'ENOENT') throw error
          await makeDirectory(directory)
          await writeNew(path, bytes)
          await syncDirectory(directory)
        }
      }),
    remove: (name) =>
      guard(`remove ${join(directory, name)}`, async () => {
        await rm(join(directory, name), { force: true })
        await syncDirectory(directory)
      }),
    list: () =>
      guard(`list ${directory}`, async () => {
        try {
          const entries = await readdir(directory, { withFileTypes: true })
          return entries
            .filter((e) => e.isFile() && !e.name.endsWith(temporarySuffix))
            .map((e) => e.name)
            .sort()
        } catch (error) {
          if (systemCode(error) === 'ENOENT') return []
          throw error
        }
      }),
    freeBytes: () =>
      guard(`read the free space of ${directory}`, async () => {
        await makeDirectory(directory)
        const { bavail, bsize } = await statfs(directory)
        return bavail * bsize
      }),
  }
}
