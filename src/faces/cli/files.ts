/**
 * Local files as sources and targets.
 *
 * A source is read by position and checked at its end: a file that shrank, grew, was written to or was replaced while it
 * was read is an IO error, and since the put fails, nothing of it becomes visible. A target is written beside itself and
 * renamed when it is whole: no reader ever sees a half-written file, and none is left after a failure.
 */

import { randomBytes } from 'node:crypto'
import { open, rename, rm, stat, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Stats } from 'node:fs'
import { quote } from '../../model/names.ts'
import { type ErrorCode, isStoreError, StoreError } from '../../model/errors.ts'
import type { FillSource } from '../../sdk/types.ts'

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  ENOSPC: 'the disk is full: free some space',
  EDQUOT: 'the disk quota is used up: free some space',
  ENAMETOOLONG: 'the name is too long for this filesystem',
  EROFS: 'the filesystem is read-only',
  EFBIG: 'the file is too large for this filesystem',
  EMFILE: 'too many files are open: raise the limit (ulimit -n)',
  EPIPE: 'the reader went away',
}

/** A failed file operation as a StoreError: NO_SPACE for a full disk, else IO. */
export function fileError(error: unknown, doing: string): StoreError {
  if (isStoreError(error)) return error
  const { code, message } = error as { code?: string; message?: string }
  const kind: ErrorCode = code === 'ENOSPC' || code === 'EDQUOT' ? 'NO_SPACE' : 'IO'
  const reason = (code === undefined ? undefined : reasons[code]) ?? message ?? String(error)
  return new StoreError(kind, `${doing}: ${reason}`, { cause: error, outcome: 'definite' })
}

/** An opened source file. */
export interface SourceFile {
  readonly path: string
  /** Undefined for pipes and devices. */
  readonly size: number | undefined
  /** A fresh reading from the start; pipes can be read once. */
  body(): FillSource
  close(): Promise<void>
}

/** Opens a file to be put. Throws IO. */
export async function openSource(path: string): Promise<SourceFile> {
  const doing = `read ${quote(path)}`
  let handle: FileHandle
  try {
    handle = await open(path, 'r')
  } catch (error) {
    throw fileError(error, doing)
  }
  try {
    const first = await handle.stat()
    if (first.isDirectory())
      throw new StoreError('IO', `${doing}: it is a directory: use put -r`, { outcome: 'definite' })
    const regular = first.isFile()
    return {
      path,
      size: regular ? first.size : undefined,
      body: () => (regular ? readRegular(path, handle, first) : readPipe(path, handle)),
      close: () => handle.close(),
    }
  } catch (error) {
    await handle.close()
    throw fileError(error, doing)
  }
}

function readPipe(path: string, handle: FileHandle): FillSource {
  return {
    fill: async (into) => {
      try {
        return (await handle.read(into, 0, into.length, null)).bytesRead
      } catch (error) {
        throw fileError(error, `read ${quote(path)}`)
      }
    },
  }
}

function readRegular(path: string, handle: FileHandle, first: Stats): FillSource {
  const doing = `read ${quote(path)}`
  let at = 0
  const changed = (how: string): StoreError =>
    new StoreError('IO', `${doing}: the file ${how} while it was read: nothing was stored, put it again`, {
      outcome: 'definite',
    })
  const checkEnd = async (): Promise<void> => {
    const now = await handle.stat()
    if (now.size > first.size) throw changed('grew')
    if (now.size < first.size) throw changed('shrank')
    if (now.mtimeMs !== first.mtimeMs) throw changed('was written to')
    const named = await stat(path).catch(() => undefined)
    if (named === undefined) throw changed('vanished')
    if (named.ino !== now.ino || named.dev !== now.dev) throw changed('was replaced')
  }
  return {
    fill: async (into) => {
      try {
        if (at >= first.size) {
          await checkEnd()
          return 0
        }
        const { bytesRead } = await handle.read(into, 0, Math.min(into.length, first.size - at), at)
        if (bytesRead === 0) throw changed('shrank')
        at += bytesRead
        return bytesRead
      } catch (error) {
        throw fileError(error, doing)
      }
    },
  }
}

/** `FILE.part-<random>` in the same directory, with a name that the filesystem takes. */
function partPath(path: string): string {
  const suffix = `.part-${randomBytes(6).toString('hex')}`
  let name = basename(path)
  while (Buffer.byteLength(name) + suffix.length > 255) name = name.slice(0, -1)
  return join(dirname(path), name + suffix)
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  let at = 0
  while (at < bytes.length) at += (await handle.write(bytes, at)).bytesWritten
}

/**
 * Writes `pieces` to `path`: all of them or nothing. A device or a pipe that is there already is written in place.
 * Throws NO_SPACE, IO, or what `pieces` throws; no temporary file is left then.
 */
export async function writeTarget(path: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  const doing = `write ${quote(path)}`
  const there = await stat(path).catch(() => undefined)
  if (there?.isDirectory() === true)
    throw new StoreError('IO', `${doing}: it is a directory: name a file`, { outcome: 'definite' })
  const inPlace = there !== undefined && !there.isFile()
  const part = inPlace ? path : partPath(path)
  let handle: FileHandle | undefined
  let whole = false
  try {
    handle = await open(part, inPlace ? 'w' : 'wx', there === undefined || inPlace ? 0o666 : there.mode & 0o777)
    for await (const piece of pieces) await writeAll(handle, piece)
    const written = handle
    handle = undefined
    await written.close()
    if (!inPlace) await rename(part, path)
    whole = true
  } catch (error) {
    throw fileError(error, doing)
  } finally {
    await handle?.close().catch(() => undefined) // the failure that led here is the one to tell
    if (!whole && !inPlace) await rm(part, { force: true }).catch(() => undefined)
  }
}
