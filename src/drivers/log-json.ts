/**
 * The log port as one JSON object per line on a stream, stderr by default: `{"time","level","event",...fields}`.
 *
 * Lines are written whole, so that lines of several processes on one terminal do not mix. Writing never throws and
 * never waits: a broken pipe must not stop a storage node. Reserved names win over fields of the same name.
 */

import type { Log, LogFields } from '../ports/log.ts'

export const logLevels = ['debug', 'info', 'warn', 'error'] as const
export type LogLevel = (typeof logLevels)[number]

export interface JsonLogOptions {
  /** Events below this level are dropped. */
  readonly level: LogLevel
  /** Fields of every event, for example the node's id. */
  readonly fields?: LogFields
  /** Where lines go. */
  readonly write?: (line: string) => void
}

function writeStderr(line: string): void {
  process.stderr.write(line)
}

function create(threshold: number, fields: LogFields, write: (line: string) => void): Log {
  function emit(level: LogLevel, event: string, more: LogFields | undefined): void {
    if (logLevels.indexOf(level) < threshold) return
    const own = { time: new Date().toISOString(), level, event }
    write(`${JSON.stringify({ ...own, ...fields, ...more, ...own })}\n`)
  }
  return {
    debug: (event, more) => emit('debug', event, more),
    info: (event, more) => emit('info', event, more),
    warn: (event, more) => emit('warn', event, more),
    error: (event, more) => emit('error', event, more),
    with: (more) => create(threshold, { ...fields, ...more }, write),
  }
}

/** A log that writes JSON lines. */
export function createJsonLog(options: JsonLogOptions): Log {
  return create(logLevels.indexOf(options.level), options.fields ?? {}, options.write ?? writeStderr)
}
