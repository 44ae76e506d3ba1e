/**
 * Whole trees: `put -r`, `get -r` and `rm -r`, many objects at once with one progress line.
 *
 * Invariants: a tree with a name that cannot be a key is refused before anything is stored, with the file's name. `get -r`
 * writes below its directory only, also when links lie in its way. The first failure stops the rest and is the answer.
 */

import { lstat, mkdir, readdir, realpath, stat } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { fromUtf8 } from '../../base/bytes.ts'
import { asStoreError, isStoreError, StoreError } from '../../model/errors.ts'
import { checkKey, quote } from '../../model/names.ts'
import type { PutOptions } from '../../sdk/types.ts'
import { parseTarget, type Run, suggestBucket } from './context.ts'
import { fileError, openSource, writeTarget } from './files.ts'
import { plural, showBytes } from './format.ts'

const transfersAtOnce = 16
const removalsAtOnce = 32

/** Runs `work` on every item, `atOnce` at a time; the first failure aborts the others and is thrown. */
export async function forEachBounded<T>(
  items: AsyncIterable<T>,
  atOnce: number,
  outer: AbortSignal,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const controller = new AbortController()
  const onOuter = (): void => controller.abort(outer.reason)
  if (outer.aborted) onOuter()
  else outer.addEventListener('abort', onOuter, { once: true })
  const running = new Set<Promise<void>>()
  let failure: StoreError | undefined
  const fail = (error: unknown): void => {
    failure ??= asStoreError(error, 'transfer')
    controller.abort(failure)
  }
  try {
    for await (const item of items) {
      if (controller.signal.aborted) break
      const one: Promise<void> = work(item, controller.signal)
        .catch(fail)
        .finally(() => running.delete(one))
      running.add(one)
      if (running.size >= atOnce) await Promise.race(running)
    }
  } catch (error) {
    fail(error)
  }
  await Promise.all(running)
  outer.removeEventListener('abort', onOuter)
  if (failure !== undefined) throw failure
  if (outer.aborted) throw asStoreError(outer.reason, 'transfer')
}

export interface TreeFile {
  /** Below the directory, with "/" between the parts. */
  readonly name: string
  readonly path: string
  readonly size: number
}

/**
 * The regular files below `dir`, sorted by name within each directory. Links to files count as files; links to
 * directories, sockets, pipes and devices are passed to `skipped`. Throws INVALID_ARGUMENT for a name that is not UTF-8.
 */
export async function* walkFiles(
  dir: string,
  skipped: (path: string, why: string) => void,
  prefix = '',
): AsyncGenerator<TreeFile, void, void> {
  const entries = await readdir(dir, { withFileTypes: true, encoding: 'buffer' })
  entries.sort((a, b) => Buffer.compare(a.name, b.name))
  for (const entry of entries) {
    const name = fromUtf8(entry.name)
    if (name === undefined) {
      const shown = quote(`${dir}/${entry.name.toString('latin1')}`)
      throw new StoreError('INVALID_ARGUMENT', `the file name ${shown} is not UTF-8: rename it, nothing was stored`)
    }
    const path = join(dir, name)
    const inner = prefix === '' ? name : `${prefix}/${name}`
    if (entry.isDirectory()) {
      yield* walkFiles(path, skipped, inner)
      continue
    }
    const found = await stat(path).catch((error: unknown) => fileError(error, `read ${quote(path)}`))
    if (found instanceof StoreError) throw found
    if (found.isFile()) yield { name: inner, path, size: found.size }
    else skipped(path, found.isDirectory() ? 'a link to a directory' : 'not a regular file')
  }
}

function joinKey(prefix: string, name: string): string {
  return prefix === '' ? name : `${prefix.replace(/\/$/, '')}/${name}`
}

/** Stores every file below `dir` as `target`/name. */
export async function putTree(run: Run, dir: string, target: string, options: PutOptions): Promise<void> {
  const { bucket, key: prefix } = parseTarget(target)
  let bytes = 0
  let files = 0
  try {
    for await (const file of walkFiles(dir, (path, why) =>
      run.surroundings.stderr.write(`holdfast: ${quote(path)} is skipped: ${why}\n`),
    )) {
      checkFileKey(joinKey(prefix, file.name), file.path)
      bytes += file.size
      files++
    }
  } catch (error) {
    throw fileError(error, `read ${quote(dir)}`)
  }
  const progress = run.progress('put', bytes)
  let stored = 0
  let durable = Number.POSITIVE_INFINITY
  try {
    await suggestBucket(run, bucket, () =>
      forEachBounded(
        walkFiles(dir, () => undefined),
        transfersAtOnce,
        run.limits.signal,
        async (file, signal) => {
          const source = await openSource(file.path)
          try {
            const body = source.size === undefined ? source.body() : () => source.body()
            const key = joinKey(prefix, file.name)
            const result = await run.store.put(bucket, key, body, { ...options, signal, size: source.size })
            if (result.durable !== undefined) durable = Math.min(durable, result.durable)
          } finally {
            await source.close()
          }
          stored++
          progress.add(file.size, `${stored} of ${plural(files, 'file')}`)
        },
      ),
    )
  } finally {
    progress.end()
  }
  const result = { bucket, prefix, files: stored, bytes, ...(Number.isFinite(durable) ? { durable } : {}) }
  run.result(result, `stored ${plural(stored, 'file')}, ${showBytes(bytes)}, in ${bucket}/${prefix}`)
}

function checkFileKey(key: string, path: string): void {
  try {
    checkKey(key)
  } catch (error) {
    const reason = isStoreError(error) ? error.message : String(error)
    throw new StoreError('INVALID_ARGUMENT', `the file ${quote(path)} cannot be stored: ${reason}`, { cause: error })
  }
}

/** Makes the directories of one key below `root`, refusing every link on the way. */
async function makeParents(root: string, name: string, made: Set<string>): Promise<string> {
  const parts = name.split('/')
  const file = parts.pop() ?? ''
  let at = root
  for (const part of parts) {
    at = join(at, part)
    if (made.has(at)) continue
    try {
      await mkdir(at)
    } catch (error) {
      if ((error as { code?: string }).code !== 'EEXIST') throw fileError(error, `make the directory ${quote(at)}`)
      const found = await lstat(at)
      if (!found.isDirectory()) {
        throw new StoreError(
          'IO',
          `write ${quote(name)}: ${quote(at)} is a ${found.isSymbolicLink() ? 'link' : 'file'}, not a directory: move it away`,
          {
            outcome: 'definite',
          },
        )
      }
    }
    made.add(at)
    if (made.size > 100_000) made.clear()
  }
  const path = join(at, file)
  if (!path.startsWith(root.endsWith(sep) ? root : root + sep)) {
    throw new StoreError('INVALID_ARGUMENT', `the name ${quote(name)} would be written outside of ${quote(root)}`)
  }
  const there = await lstat(path).catch(() => undefined)
  if (there !== undefined && !there.isFile()) {
    throw new StoreError('IO', `write ${quote(path)}: something that is not a file is there: move it away`, {
      outcome: 'definite',
    })
  }
  return path
}

/** Reads everything below `source` into `dir`, which is made when it is not there. */
export async function getTree(run: Run, source: string, dir: string): Promise<void> {
  const { bucket, key } = parseTarget(source)
  const prefix = key === '' || key.endsWith('/') ? key : `${key}/`
  let root: string
  try {
    await mkdir(dir, { recursive: true })
    root = await realpath(dir)
  } catch (error) {
    throw fileError(error, `make the directory ${quote(dir)}`)
  }
  const made = new Set<string>()
  const progress = run.progress('get', 0)
  let files = 0
  let bytes = 0
  try {
    await suggestBucket(run, bucket, () =>
      forEachBounded(
        run.store.list(bucket, { ...run.limits, prefix }),
        transfersAtOnce,
        run.limits.signal,
        async (entry, signal) => {
          const path = await makeParents(root, entry.key.slice(prefix.length), made)
          progress.grow(entry.size)
          const object = await run.store.get(bucket, entry.key, { signal })
          await writeTarget(path, object.stream())
          files++
          bytes += object.size
          progress.add(object.size, plural(files, 'file'))
        },
      ),
    )
  } finally {
    progress.end()
  }
  if (files === 0)
    throw new StoreError('NOT_FOUND', `nothing is stored below ${bucket}/${prefix}: look with "holdfast ls ${bucket}"`)
  run.result({ bucket, prefix, files, bytes, dir }, `read ${plural(files, 'file')}, ${showBytes(bytes)}, into ${dir}`)
}

/** Removes everything below `target`. */
export async function removeTree(run: Run, target: string): Promise<void> {
  const { bucket, key } = parseTarget(target)
  const prefix = key === '' || key.endsWith('/') ? key : `${key}/`
  let removed = 0
  await suggestBucket(run, bucket, () =>
    forEachBounded(
      run.store.list(bucket, { ...run.limits, prefix }),
      removalsAtOnce,
      run.limits.signal,
      async (entry, signal) => {
        await run.store.delete(bucket, entry.key, { signal }).catch((error: unknown) => {
          // Somebody else removed it meanwhile: that is what was asked for.
          if (!isStoreError(error) || error.code !== 'NOT_FOUND') throw error
        })
        removed++
      },
    ),
  )
  if (removed === 0)
    throw new StoreError('NOT_FOUND', `nothing is stored below ${bucket}/${prefix}: look with "holdfast ls ${bucket}"`)
  run.result({ bucket, prefix, removed }, `removed ${plural(removed, 'object')} below ${bucket}/${prefix}`)
}
