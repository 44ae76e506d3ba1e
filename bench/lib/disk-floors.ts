/**
 * The floors of one disk: what a small Node program reaches with bare files in the same directory, grouped as the engine
 * grouped its own writes in the same run.
 *
 * `recycled` space was written before and is written again, which is how the engine lives; a growing file costs a journal
 * commit for each sync. Writes are O_DIRECT where the filesystem takes it.
 */

import { constants } from 'node:fs'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { join } from 'node:path'

/** One measured span of work. */
export interface Work {
  readonly seconds: number
  readonly cpuSeconds: number
}

/** Time and CPU of this process, its thread pool included. */
export async function timed(work: () => Promise<void>): Promise<Work> {
  const cpu = process.cpuUsage()
  const start = performance.now()
  await work()
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(cpu)
  return { seconds, cpuSeconds: (user + system) / 1e6 }
}

/** A file whose space was written once, in turn overwritten by `append` from its beginning on. */
export class BareFile {
  readonly #file: FileHandle
  readonly #path: string
  readonly #size: number
  #at = 0

  private constructor(file: FileHandle, path: string, size: number) {
    this.#file = file
    this.#path = path
    this.#size = size
  }

  /** `filler` is aligned memory; the file is `size` bytes, all of them written. */
  static async make(directory: string, name: string, size: number, filler: Uint8Array, direct: boolean) {
    const path = join(directory, name)
    const file = await open(path, constants.O_RDWR | constants.O_CREAT | (direct ? constants.O_DIRECT : 0))
    const whole = Math.floor(size / filler.length) * filler.length
    for (let at = 0; at < whole; at += filler.length) await file.write(filler, 0, filler.length, at)
    await file.sync()
    return new BareFile(file, path, whole)
  }

  /** Writes the pieces one after another in one go, then fdatasync. */
  async append(pieces: readonly Uint8Array[]): Promise<void> {
    const bytes = pieces.reduce((sum, piece) => sum + piece.length, 0)
    if (this.#at + bytes > this.#size) this.#at = 0
    if (pieces.length === 1) await this.#file.write(pieces[0] as Uint8Array, 0, bytes, this.#at)
    else await this.#file.writev([...pieces], this.#at)
    this.#at += bytes
    await this.#file.datasync()
  }

  async close(): Promise<void> {
    await this.#file.close()
    await rm(this.#path, { force: true })
  }
}

/** Reads `length` bytes at each of `offsets`, `width` at once, into memory of the reader's own. */
export async function bareReads(
  path: string,
  length: number,
  offsets: readonly number[],
  width: number,
): Promise<Work> {
  const file = await open(path, 'r')
  try {
    let next = 0
    const lane = async (): Promise<void> => {
      while (next < offsets.length) await file.read(new Uint8Array(length), 0, length, offsets[next++] as number)
    }
    return await timed(async () => {
      await Promise.all(Array.from({ length: width }, lane))
    })
  } finally {
    await file.close()
  }
}
