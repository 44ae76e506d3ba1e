/**
 * The closed table of everything that can go wrong, and the one class that carries it.
 *
 * A row says whether trying again can help and how (`retry`), whether the operation may have happened (`outcome`), the
 * gRPC status it travels as, and the exit code of the command line. Nothing outside this table reaches a user.
 *
 * `outcome: 'definite'` promises that nothing was changed. A write whose outcome is `unknown` may be repeated only with
 * the same commit id.
 */

export type Retry = 'no' | 'now-elsewhere' | 'after-refresh' | 'after-delay'
export type Outcome = 'definite' | 'unknown'

export interface ErrorRow {
  readonly retry: Retry
  readonly outcome: Outcome
  /** gRPC status code, https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
  readonly grpc: number
  /** Exit code of the command line: a contract with scripts. */
  readonly exit: number
  /** What the code means, for the reference page. */
  readonly meaning: string
}

const row = (retry: Retry, outcome: Outcome, grpc: number, exit: number, meaning: string): ErrorRow => ({
  retry,
  outcome,
  grpc,
  exit,
  meaning,
})

export const errorTable = {
  USAGE: row('no', 'definite', 3, 2, 'the command line or configuration is wrong'),
  INVALID_ARGUMENT: row('no', 'definite', 3, 2, 'a name, range, size or message does not fit its rules'),
  NOT_FOUND: row('no', 'definite', 5, 3, 'no such bucket, object, chunk or node'),
  ALREADY_EXISTS: row('no', 'definite', 6, 4, 'the thing to create exists'),
  CONDITION_FAILED: row('no', 'definite', 9, 4, 'a condition (if-absent, if-match, not empty) does not hold'),
  CONFLICT: row('no', 'definite', 10, 4, 'the same id is held with other content'),
  CHANGED: row('no', 'definite', 10, 4, 'the version that was being read is gone; open the object again'),
  FENCED: row('after-refresh', 'definite', 10, 4, 'the lease, disk generation or term is no longer valid'),
  NOT_LEADER: row('now-elsewhere', 'definite', 14, 5, 'this meta node does not lead'),
  OVERLOADED: row('after-delay', 'definite', 8, 5, 'a bound is reached; try again later'),
  NO_SPACE: row('now-elsewhere', 'definite', 8, 6, 'not enough space on the disks that may hold it'),
  QUOTA_EXCEEDED: row('no', 'definite', 8, 6, 'a quota of the bucket or the cluster would be exceeded'),
  SESSION_EXPIRED: row('no', 'unknown', 9, 4, 'the client session is gone; what it asked last may have happened'),
  NO_PLACEMENT: row('after-delay', 'definite', 9, 5, 'not enough eligible disks for the wanted copies'),
  NO_QUORUM: row('after-delay', 'unknown', 14, 5, 'no majority of meta nodes answers'),
  UNAVAILABLE: row('now-elsewhere', 'unknown', 14, 5, 'the other side does not answer'),
  TIMEOUT: row('after-delay', 'unknown', 4, 5, 'not done within the time allowed'),
  CANCELLED: row('no', 'unknown', 1, 1, 'the caller gave up'),
  CORRUPT: row('now-elsewhere', 'definite', 15, 6, 'stored bytes do not match their checksum'),
  DATA_LOST: row('no', 'definite', 15, 6, 'no intact copy can be reached'),
  DISK_FAILED: row('now-elsewhere', 'definite', 14, 6, 'the disk refused an operation and is out of service'),
  LOCKED: row('no', 'definite', 9, 1, 'another process has the directory'),
  WRONG_CLUSTER: row('no', 'definite', 9, 1, 'this node or directory belongs to another cluster'),
  INCOMPATIBLE_VERSION: row('no', 'definite', 9, 1, 'a format or protocol is newer than this program'),
  PORT_IN_USE: row('no', 'definite', 9, 1, 'the address is taken'),
  SHUTTING_DOWN: row('now-elsewhere', 'definite', 14, 5, 'the node is stopping'),
  IO: row('no', 'unknown', 13, 1, 'a local file could not be read or written'),
  INTERNAL: row('no', 'unknown', 13, 70, 'a bug in Holdfast'),
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof errorTable

/** Facts a caller may act on. All optional; a code's documentation says which it sets. */
export interface ErrorDetails {
  /** NOT_LEADER: where the leader is, as `host:port` addresses to try in order. */
  readonly leader?: readonly string[]
  /** OVERLOADED: wait this long before the next try. */
  readonly retryAfterMs?: number
  /** NOT_FOUND: a name close to the one that was asked for. */
  readonly suggestion?: string
}

export interface StoreErrorOptions {
  readonly cause?: unknown
  readonly details?: ErrorDetails
  /** Overrides the table's outcome, when the thrower knows better (a timeout before anything was sent). */
  readonly outcome?: Outcome
}

const brand: unique symbol = Symbol.for('holdfast.error') as never

/** The only error that leaves the SDK. `message` is one line: what failed, why, what to do. */
export class StoreError extends Error {
  override readonly name = 'StoreError'
  readonly [brand] = true
  readonly code: ErrorCode
  readonly details: ErrorDetails
  readonly outcome: Outcome

  constructor(code: ErrorCode, message: string, options: StoreErrorOptions = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause })
    this.code = code
    this.details = options.details ?? {}
    this.outcome = options.outcome ?? errorTable[code].outcome
  }

  /** True when the same call may succeed later or elsewhere. */
  get retryable(): boolean {
    return errorTable[this.code].retry !== 'no'
  }
}

/** Total test: true for a StoreError of any loaded copy of this package. */
export function isStoreError(value: unknown): value is StoreError {
  return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[brand] === true
}

/** `value` itself if it is a StoreError, else an INTERNAL one (or CANCELLED for an abort) that wraps it. */
export function asStoreError(value: unknown, doing: string): StoreError {
  if (isStoreError(value)) return value
  if (value instanceof Error && value.name === 'AbortError') {
    return new StoreError('CANCELLED', `${doing}: cancelled`, { cause: value })
  }
  const reason = value instanceof Error ? value.message : String(value)
  return new StoreError('INTERNAL', `${doing}: ${reason}`, { cause: value })
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorTable, code)
}
