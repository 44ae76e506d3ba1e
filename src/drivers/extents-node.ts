/**
 * Extent files over node:fs.
 *
 * Writes go past the page cache (O_DIRECT) where the filesystem takes it, found out once by a trial write; reads go through
 * a second, buffered descriptor, so hot chunks stay in the page cache. The memory of a `WebAssembly.Memory` is page-aligned,
 * which is what O_DIRECT wants, without any native code.
 *
 * Node cannot preallocate: util-linux `fallocate` does it when it is installed, else the file grows as it is written. It is
 * never filled with zeros. Numbers in names are decimal, padded so that a listing sorts.
 */

import { execFile } from 'node:child_process'
import { close, constants, fdatasync, open, read, write, writev } from 'node:fs'
import { open as openHandle, readdir, rename, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { StoreError } from '../model/errors.ts'
import type { ExtentFile, ExtentFiles } from '../ports/extents.ts'
import { fileError, makeDirectory, syncDirectory, systemCode } from './files-node.ts'

const alignment = 4096
const pageBytes = 64 * 1024
const namePattern = /^extent-(\d{10,16})\.log$/
const probeName = 'probe'

/** The part of the global that the compiler's library leaves out. */
declare const WebAssembly: {
  Memory: new (size: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer }
}

const openFd = promisify(open)
const closeFd = promisify(close)
const syncFd = promisify(fdatasync)
const run = promisify(execFile)

function nameOf(number: number): string {
  return `extent-${String(number).padStart(10, '0')}.log`
}

/** Path of the extent file with this number. */
export function extentPathOf(directory: string, number: number): string {
  return join(directory, nameOf(number))
}

/** The number in an extent file's name; undefined for any other name. */
export function extentNumberOf(name: string): number | undefined {
  const [, digits] = namePattern.exec(name) ?? []
  return digits === undefined ? undefined : Number(digits)
}

function arena(size: number): Uint8Array {
  const pages = Math.ceil(size / pageBytes)
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
  return new Uint8Array(memory.buffer, 0, size)
}

type Transfer = (
  fd: number,
  bytes: Uint8Array,
  at: number,
  length: number,
  position: number,
  done: (error: NodeJS.ErrnoException | null, count: number) => void,
) => void

function transfer(operation: Transfer, fd: number, bytes: Uint8Array, offset: number, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    operation(fd, bytes, at, bytes.length - at, offset + at, (error, count) => (error ? reject(error) : resolve(count)))
  })
}

async function readAt(fd: number, into: Uint8Array, offset: number): Promise<number> {
  let at = 0
  while (at < into.length) {
    const count = await transfer(read, fd, into, offset, at)
    if (count === 0) break
    at += count
    // A direct read that stops inside a sector has met the end of the file; going on there is not allowed.
    if (at % alignment !== 0) break
  }
  return at
}

async function writeAt(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  let at = 0
  while (at < bytes.length) {
    const count = await transfer(write, fd, bytes, offset, at)
    if (count === 0) throw new Error('the system wrote nothing')
    at += count
  }
}

/** Writes the pieces with one system call. Gives the bytes it took. */
function writePieces(fd: number, pieces: readonly Uint8Array[], offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(fd, pieces as Uint8Array[], offset, (error, count) => (error ? reject(error) : resolve(count)))
  })
}

class NodeExtentFile implements ExtentFile {
  readonly number: number
  readonly size: number
  readonly durable: boolean
  readonly readDirect?: (into: Uint8Array, offset: number) => Promise<number>
  readonly #writeFd: number
  readonly #readFd: number

  constructor(number: number, size: number, writeFd: number, readFd: number, direct: boolean, durable: boolean) {
    this.number = number
    this.size = size
    this.durable = durable
    this.#writeFd = writeFd
    this.#readFd = readFd
    if (direct) this.readDirect = (into, offset) => readAt(writeFd, into, offset)
  }

  async write(bytes: Uint8Array, offset: number): Promise<void> {
    try {
      await writeAt(this.#writeFd, bytes, offset)
    } catch (error) {
      throw fileError(error, `write ${this.number === 0 ? probeName : nameOf(this.number)}`)
    }
  }

  async writeAll(pieces: readonly Uint8Array[], offset: number): Promise<void> {
    try {
      const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0)
      const done = await writePieces(this.#writeFd, pieces, offset)
      if (done < bytes) await this.#writeRest(pieces, offset, done)
    } catch (error) {
      throw fileError(error, `write ${nameOf(this.number)}`)
    }
  }

  /** The system stopped after `done` bytes: what is left goes piece by piece. */
  async #writeRest(pieces: readonly Uint8Array[], offset: number, done: number): Promise<void> {
    let at = 0
    for (const piece of pieces) {
      const skip = Math.min(piece.length, Math.max(0, done - at))
      // A part of a sector is written again whole: O_DIRECT knows nothing smaller.
      const from = skip - (skip % alignment)
      if (from < piece.length) await writeAt(this.#writeFd, piece.subarray(from), offset + at + from)
      at += piece.length
    }
  }

  sync(): Promise<void> {
    return syncFd(this.#writeFd)
  }

  read(into: Uint8Array, offset: number): Promise<number> {
    return readAt(this.#readFd, into, offset)
  }

  async close(): Promise<void> {
    await closeFd(this.#writeFd)
    await closeFd(this.#readFd)
  }
}

/** True when a write with O_DIRECT from the arena works in `directory`. */
async function takesDirect(directory: string): Promise<boolean> {
  const path = join(directory, 'direct-trial.tmp')
  let fd: number | undefined
  try {
    fd = await openFd(path, constants.O_RDWR | constants.O_CREAT | constants.O_DIRECT, 0o644)
    await writeAt(fd, arena(alignment), 0)
    return true
  } catch (error) {
    const code = systemCode(error)
    if (code === 'EINVAL' || code === 'ENOTSUP' || code === 'EOPNOTSUPP') return false
    throw fileError(error, `open ${directory}`)
  } finally {
    if (fd !== undefined) await closeFd(fd)
    await rm(path, { force: true })
  }
}

let fallocateFound: Promise<boolean> | undefined

/** Looks for util-linux `fallocate` once per process. */
function hasFallocate(): Promise<boolean> {
  fallocateFound ??= run('fallocate', ['--version']).then(
    () => true,
    () => false,
  )
  return fallocateFound
}

/** Gives the file its blocks. Where that cannot be done it only gets its size, and grows into it as it is written. */
async function preallocate(path: string, size: number): Promise<void> {
  if (await hasFallocate()) {
    try {
      await run('fallocate', ['--length', String(size), path])
      return
    } catch (error) {
      const reason = String((error as { stderr?: unknown }).stderr ?? error)
      if (/No space left|Disk quota/i.test(reason)) {
        throw new StoreError('NO_SPACE', `make an extent of ${size} bytes: the filesystem is full; free some space`, {
          cause: error,
        })
      }
    }
  }
  const handle = await openHandle(path, 'r+')
  try {
    await handle.truncate(size)
  } finally {
    await handle.close()
  }
}

/** The extent files of `directory`, which is made when missing. */
export async function openExtentFiles(directory: string): Promise<ExtentFiles> {
  await makeDirectory(directory).catch((error: unknown) => {
    throw fileError(error, `make ${directory}`)
  })
  const direct = await takesDirect(directory)
  const pathOf = (number: number): string => join(directory, nameOf(number))

  const openFile = async (number: number, durable = false): Promise<ExtentFile> => {
    const path = pathOf(number)
    let writeFd: number | undefined
    try {
      const { size } = await stat(path)
      const flags = (direct ? constants.O_DIRECT : 0) | (durable ? constants.O_DSYNC : 0)
      writeFd = await openFd(path, constants.O_RDWR | flags)
      return new NodeExtentFile(number, size, writeFd, await openFd(path, constants.O_RDONLY), direct, durable)
    } catch (error) {
      if (writeFd !== undefined) await closeFd(writeFd)
      throw fileError(error, `open ${path}`)
    }
  }

  return {
    alignment,
    mode: direct ? 'direct' : 'buffered',
    arena,
    list: async () => {
      const names = await readdir(directory)
      return names
        .flatMap((name) => namePattern.exec(name)?.[1] ?? [])
        .map(Number)
        .sort((a, b) => a - b)
    },
    sizeOf: async (number) => {
      try {
        return (await stat(pathOf(number))).size
      } catch (error) {
        if (systemCode(error) === 'ENOENT') return undefined
        throw fileError(error, `look at ${pathOf(number)}`)
      }
    },
    create: async (number, size) => {
      const path = pathOf(number)
      try {
        await closeFd(await openFd(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o644))
        await preallocate(path, size)
        const handle = await openHandle(path, 'r+')
        try {
          await handle.sync()
        } finally {
          await handle.close()
        }
        await syncDirectory(directory)
      } catch (error) {
        await rm(path, { force: true })
        throw error instanceof StoreError ? error : fileError(error, `make ${path}`)
      }
      return openFile(number)
    },
    open: openFile,
    openProbe: async () => {
      const path = join(directory, probeName)
      let writeFd: number | undefined
      try {
        writeFd = await openFd(path, constants.O_RDWR | constants.O_CREAT | (direct ? constants.O_DIRECT : 0), 0o644)
        return new NodeExtentFile(0, alignment, writeFd, await openFd(path, constants.O_RDONLY), direct, false)
      } catch (error) {
        if (writeFd !== undefined) await closeFd(writeFd)
        throw fileError(error, `open ${path}`)
      }
    },
    rename: async (from, to) => {
      await rename(pathOf(from), pathOf(to))
      await syncDirectory(directory)
    },
    remove: async (number) => {
      await rm(pathOf(number), { force: true })
      await syncDirectory(directory)
    },
    space: async () => {
      // What is kept back for root is neither free nor used, as in the percentage of `df`.
      const { bsize, bfree, bavail, blocks } = await statfs(directory)
      return { free: bsize * bavail, total: bsize * (blocks - bfree + bavail) }
    },
  }
}
