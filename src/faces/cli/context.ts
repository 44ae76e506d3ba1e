/**
 * What every command runs in: the options all commands share, the store, Ctrl-C, output and the ways to fail.
 *
 * Invariants: stdout carries the result and nothing else; with --json that is one JSON document. An error is one line on
 * stderr, `holdfast: ...`, and the exit code of the error table. The store is closed however a command ends.
 */

import type { Command } from 'commander'
import { closest } from '../../base/suggest.ts'
import { asStoreError, errorTable, isStoreError, StoreError } from '../../model/errors.ts'
import { checkBucketName, quote } from '../../model/names.ts'
import type { CallLimits, Store } from '../../sdk/types.ts'
import { Progress, type Terminal } from './progress.ts'

/** The outside of the command line; tests put their own in. */
export interface Surroundings {
  /** Opens the store that --meta, the environment or --dir name. */
  connect(options: {
    meta?: string | undefined
    dir?: string | undefined
    retryMs?: number | undefined
    sessions?: boolean | undefined
  }): Promise<Store>
  readonly stdout: Terminal
  readonly stderr: Terminal
  readonly stdin: AsyncIterable<Uint8Array | string>
  /** Resolves when everything given to stdout was taken. */
  writeOut(bytes: Uint8Array): Promise<void>
  /** Calls back on Ctrl-C and SIGTERM with the exit code that stands for it; returns how to stop listening. */
  onInterrupt(handler: (exitCode: number) => void): () => void
}

export interface CommonOptions {
  readonly json?: boolean
  readonly timeout?: string
  readonly meta?: string
  readonly dir?: string
  readonly verbose?: boolean
}

/** What a command's body gets. */
export interface Run {
  readonly store: Store
  readonly json: boolean
  readonly surroundings: Surroundings
  /** Signal of Ctrl-C and --timeout, for every call of the SDK. */
  readonly limits: CallLimits & { readonly signal: AbortSignal }
  print(text: string): void
  /** The result: `value` as JSON with --json, else `text`. */
  result(value: unknown, text: string): void
  progress(label: string, totalBytes: number | undefined): Progress
}

/** Thrown to end with a code and without a message of its own. */
export class ExitWith extends Error {
  readonly exitCode: number

  constructor(exitCode: number) {
    super(`exit ${exitCode}`)
    this.exitCode = exitCode
  }
}

/** Adds the options that every command has. */
export function withCommon(command: Command): Command {
  return command
    .option('--json', 'print one JSON document on stdout')
    .option('--timeout <time>', 'most time for the whole command, for example 500ms, 30s or 5m')
    .option('--meta <host:port,...>', 'meta nodes (default: HOLDFAST_META, then cluster.json under --dir)')
    .option('--dir <dir>', 'directory of a cluster that "holdfast up" runs (default: ./.holdfast)')
    .option('--verbose', 'show what caused an error')
}

const timeUnits: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** `30s` in milliseconds. Throws USAGE. */
export function parseTime(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text)
  const value = match === null ? Number.NaN : Number(match[1]) * (timeUnits[match[2] ?? ''] ?? Number.NaN)
  if (!(value >= 1 && value <= 2 ** 31 - 1)) {
    throw new StoreError('USAGE', `${option} ${quote(text)} is not a time: write for example 500ms, 30s or 5m`)
  }
  return Math.round(value)
}

/** `bucket/key` in its parts; the key may be empty. Throws INVALID_ARGUMENT. */
export function parseTarget(text: string): { bucket: string; key: string } {
  const at = text.indexOf('/')
  const bucket = at < 0 ? text : text.slice(0, at)
  checkBucketName(bucket)
  return { bucket, key: at < 0 ? '' : text.slice(at + 1) }
}

/** The same, with a key that is needed. Throws USAGE. */
export function parseObject(text: string): { bucket: string; key: string } {
  const place = parseTarget(text)
  if (place.key === '') {
    throw new StoreError(
      'USAGE',
      `${quote(text)} names no object: write bucket/name, for example ${place.bucket}/file.txt`,
    )
  }
  return place
}

/** Runs one command's body with a store. */
export async function runWithStore(
  surroundings: Surroundings,
  options: CommonOptions,
  body: (run: Run) => Promise<void>,
): Promise<void> {
  const timeoutMs = options.timeout === undefined ? undefined : parseTime(options.timeout, '--timeout')
  const controller = new AbortController()
  let interruptedWith: number | undefined
  const stopListening = surroundings.onInterrupt((exitCode) => {
    interruptedWith = exitCode
    controller.abort(new StoreError('CANCELLED', 'interrupted'))
  })
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => {
          controller.abort(
            new StoreError(
              'TIMEOUT',
              `not done within --timeout ${options.timeout}: allow more time or look at "holdfast status"`,
            ),
          )
        }, timeoutMs)
  let store: Store | undefined
  try {
    const { meta, dir } = options
    // One command makes few calls and ends: a session would cost it two more.
    store = await surroundings.connect({ meta, dir, retryMs: timeoutMs, sessions: false })
    await body(createRun(surroundings, store, options.json === true, controller.signal))
  } catch (error) {
    if (interruptedWith !== undefined) throw new ExitWith(interruptedWith)
    throw error
  } finally {
    clearTimeout(timer)
    await store?.close()
    stopListening()
  }
  if (interruptedWith !== undefined) throw new ExitWith(interruptedWith)
}

function createRun(surroundings: Surroundings, store: Store, json: boolean, signal: AbortSignal): Run {
  const print = (text: string): void => {
    surroundings.stdout.write(`${text}\n`)
  }
  return {
    store,
    json,
    surroundings,
    limits: { signal },
    print,
    result: (value, text) => print(json ? JSON.stringify(value) : text),
    progress: (label, totalBytes) => new Progress(surroundings.stderr, label, totalBytes),
  }
}

/** Adds the closest bucket to a NOT_FOUND of a bucket that does not exist. Anything else is passed on as it is. */
export async function suggestBucket<T>(run: Run, bucket: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!isStoreError(error) || error.code !== 'NOT_FOUND' || error.details.suggestion !== undefined) throw error
    const buckets = await run.store.buckets.list({ ...run.limits, timeoutMs: 2000 }).catch(() => [])
    const names = buckets.map((entry) => entry.name)
    if (names.includes(bucket)) throw error
    const suggestion = closest(bucket, names)
    throw new StoreError('NOT_FOUND', error.message, {
      cause: error.cause,
      details: suggestion === undefined ? error.details : { ...error.details, suggestion },
    })
  }
}

function oneLine(text: string): string {
  return text.replace(/\s*[\r\n]+\s*/g, ' ').trim()
}

/** The line for stderr, with the cause chain below it when asked for. */
export function describeError(error: StoreError, verbose: boolean): string {
  const { suggestion } = error.details
  const hint =
    suggestion === undefined || error.message.includes(suggestion) ? '' : ` (did you mean ${quote(suggestion)}?)`
  const lines = [`holdfast: ${oneLine(error.message)}${hint}`]
  if (verbose) {
    lines[0] += ` [${error.code}, outcome ${error.outcome}]`
    let cause: unknown = error.cause
    for (let depth = 0; cause instanceof Error && depth < 10; depth++) {
      const code = isStoreError(cause) ? ` [${cause.code}]` : ''
      lines.push(`  caused by: ${oneLine(cause.message)}${code}`)
      if (error.code === 'INTERNAL' && cause.stack !== undefined) lines.push(cause.stack)
      cause = cause.cause
    }
  }
  return lines.join('\n')
}

/** Prints an error and gives its exit code. */
export function reportError(surroundings: Pick<Surroundings, 'stderr'>, error: unknown, verbose: boolean): number {
  if (error instanceof ExitWith) return error.exitCode
  const failure = asStoreError(error, 'internal error')
  surroundings.stderr.write(`${describeError(failure, verbose)}\n`)
  return errorTable[failure.code].exit
}
