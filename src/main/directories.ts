/**
 * Makes directories one by one. Node's own recursive mkdir spins for ever where the file system answers ENOENT to a mkdir
 * in a directory that is there, as /proc does.
 */

import { mkdirSync, statSync } from 'node:fs'
import { dirname } from 'node:path'
import { StoreError } from '../model/errors.ts'
import { quote } from '../model/names.ts'

function isDirectory(path: string): boolean | undefined {
  try {
    return statSync(path).isDirectory()
  } catch {
    return undefined
  }
}

function failure(path: string, reason: string, cause?: unknown): StoreError {
  return new StoreError('IO', `make the directory ${quote(path)}: ${reason}: name another one`, {
    cause,
    outcome: 'definite',
  })
}

/** Makes `path` (absolute) and what is missing above it. Throws IO. */
export function makeDirectory(path: string): void {
  const missing: string[] = []
  for (let at = path; ; at = dirname(at)) {
    const found = isDirectory(at)
    if (found === true) break
    if (found === false) throw failure(path, `${quote(at)} is a file`)
    if (at === dirname(at)) break
    missing.unshift(at)
  }
  for (const one of missing) {
    try {
      mkdirSync(one)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST' && isDirectory(one) === true) continue
      throw failure(path, `${quote(dirname(one))} takes no new directory (${code ?? String(error)})`, error)
    }
  }
}
