/**
 * Structured events. `error` means a person must look; `warn` something was wrong and was dealt with; `info` a state
 * change an operator wants in a timeline; `debug` the rest. An event is a short lower-case phrase; facts are fields.
 */
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>

export interface Log {
  debug(event: string, fields?: LogFields): void
  info(event: string, fields?: LogFields): void
  warn(event: string, fields?: LogFields): void
  error(event: string, fields?: LogFields): void
  /** A log whose every event carries `fields` too. */
  with(fields: LogFields): Log
}
