/** Content for tests: bytes that are cheap to make, different everywhere, and known by their SHA-256. */

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join, relative } from 'node:path'

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer)
  return hash.digest('hex')
}

/** `length` bytes that depend on `seed`: xorshift, so that nothing compresses and nothing repeats. */
export function content(seed: number, length: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4))
  let at = (seed * 2654435761) >>> 0 || 1
  for (let i = 0; i < words.length; i++) {
    at ^= at << 13
    at ^= at >>> 17
    at ^= at << 5
    words[i] = at
  }
  return new Uint8Array(words.buffer, 0, length)
}

/** Relative path -> SHA-256 of every file below `directory`. */
export async function treeSums(directory: string): Promise<Map<string, string>> {
  const sums = new Map<string, string>()
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  for (const file of files.sort()) sums.set(relative(directory, file), await sha256File(file))
  return sums
}
