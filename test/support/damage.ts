/** Damage to the files of a node that does not run: flipped bits, cut tails, other copies, full filesystems. */

import { cp, mkdtemp, open, readdir, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runCommand } from './processes.ts'

const stepBytes = 4 << 20
const sectorBytes = 4096

/** Finds `marker` in the files below `directory` and flips one bit of its first byte; true when it was there. */
export async function flipByte(directory: string, marker: Uint8Array): Promise<boolean> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  for (const entry of entries.filter((candidate) => candidate.isFile())) {
    const file = await open(join(entry.parentPath, entry.name), 'r+')
    try {
      const piece = Buffer.alloc(stepBytes + marker.length)
      const { size } = await file.stat()
      for (let at = 0; at < size; at += stepBytes) {
        const { bytesRead } = await file.read(piece, 0, piece.length, at)
        const found = piece.subarray(0, bytesRead).indexOf(marker)
        if (found < 0) continue
        const flipped = Buffer.from([(marker[0] as number) ^ 1])
        await file.write(flipped, 0, 1, at + found)
        await file.sync()
        return true
      }
    } finally {
      await file.close()
    }
  }
  return false
}

/** The file of `directory` that a log was written to last, and where what was written ends. */
async function lastWritten(directory: string): Promise<{ path: string; end: number }> {
  for (const name of (await readdir(directory)).sort().reverse()) {
    const bytes = await readFile(join(directory, name))
    let end = bytes.length
    while (end > 0 && bytes[end - 1] === 0) end--
    // Beyond its header a segment that waits for its turn is empty.
    if (end > 2 * sectorBytes) return { path: join(directory, name), end }
  }
  throw new Error(`nothing was written in ${directory}`)
}

async function overwrite(path: string, bytes: Uint8Array, offset: number): Promise<void> {
  const file = await open(path, 'r+')
  await file.write(bytes, 0, bytes.length, offset)
  await file.sync()
  await file.close()
}

/** Loses the last part (0 to 1) of a log in segment files: what a disk does that lied about fsync. */
export async function cutTail(directory: string, part: number): Promise<void> {
  const { path, end } = await lastWritten(directory)
  const from = Math.ceil((end * (1 - part)) / sectorBytes) * sectorBytes
  await overwrite(path, Buffer.alloc(end - from), from)
}

/** Overwrites bytes in the middle of a log in segment files. */
export async function rotLog(directory: string): Promise<void> {
  const { path, end } = await lastWritten(directory)
  await overwrite(path, Buffer.alloc(16, 0x5a), Math.floor(end / 3 / sectorBytes) * sectorBytes)
}

/** The largest file of `directory` whose name ends in `extension`. */
async function largest(directory: string, extension: string): Promise<{ path: string; size: number }> {
  let found = { path: '', size: -1 }
  for (const name of await readdir(directory)) {
    if (!name.endsWith(extension)) continue
    const path = join(directory, name)
    const { size } = await stat(path)
    if (size > found.size) found = { path, size }
  }
  if (found.size < 0) throw new Error(`no ${extension} file in ${directory}`)
  return found
}

/** Overwrites bytes in the middle of the largest table file of LevelDB in `directory`. */
export async function rotTable(directory: string): Promise<void> {
  const { path, size } = await largest(directory, '.ldb')
  const file = await open(path, 'r+')
  await file.write(Buffer.alloc(16, 0x5a), 0, 16, Math.floor(size / 3))
  await file.close()
}

/** Replaces `to` and all below it by a copy of `from`. */
export async function replaceBy(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true })
  await cp(from, to, { recursive: true })
}

/** A mounted filesystem for a test. */
export interface SmallFilesystem {
  readonly directory: string
  /** Removes everything in it. */
  readonly clear: () => Promise<void>
  /** Unmounts it. */
  readonly remove: () => Promise<void>
}

/** A filesystem of its own of so many MiB in memory; undefined where the user may not mount one. */
export async function smallFilesystem(sizeMiB: number): Promise<SmallFilesystem | undefined> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-small-'))
  const remove = async (): Promise<void> => {
    await runCommand('umount', [directory])
    await rm(directory, { recursive: true, force: true })
  }
  const mounted = await runCommand('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m`, 'tmpfs', directory])
  if (mounted.code !== 0) {
    await rm(directory, { recursive: true, force: true })
    return undefined
  }
  const clear = async (): Promise<void> => {
    for (const name of await readdir(directory)) await rm(join(directory, name), { recursive: true, force: true })
  }
  return { directory, clear, remove }
}

/** Fills the filesystem of `directory` with one file until `leftBytes` are free; resolves to the file's path. */
export async function fillUntil(directory: string, leftBytes: number): Promise<string> {
  const path = join(directory, 'ballast')
  const { bavail, bsize } = await statfs(directory)
  await writeFile(path, Buffer.alloc(Math.max(0, bavail * bsize - leftBytes)))
  return path
}
