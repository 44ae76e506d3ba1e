/**
 * Errors across gRPC: a StoreError becomes a status and an ErrorDetail in the binary trailer `holdfast-error-bin`; the
 * other end makes the same StoreError of it.
 *
 * A status without our trailer (written by grpc-js itself, by a proxy or by a foreign server) is mapped by its code.
 * Invariants: both directions are total, never throw, and what they put into a header is bounded and well-formed.
 */

import { type Metadata, Metadata as GrpcMetadata, status as Status } from '@grpc/grpc-js'
import { type ErrorCode, errorTable, isErrorCode, StoreError, type StoreErrorOptions } from '../model/errors.ts'
import { v1 } from '../wire/messages.ts'

const trailerName = 'holdfast-error-bin'
/** Keeps trailers far below every HTTP/2 header limit. */
const messageCharactersMax = 1024

/** What grpc-js sends as the end of a failed call. */
export interface FailedStatus {
  readonly code: number
  readonly details: string
  readonly metadata: Metadata
}

/** What grpc-js reports of a failed call. */
export interface ReceivedStatus {
  readonly code?: number
  readonly details?: string
  readonly metadata?: Metadata
}

/** The status and trailer that carry `error`. */
export function statusOf(error: StoreError): FailedStatus {
  const message = error.message.toWellFormed().slice(0, messageCharactersMax).toWellFormed()
  const metadata = new GrpcMetadata()
  const detail = v1.ErrorDetail.encode({
    code: error.code,
    message,
    definite: error.outcome === 'definite',
    leader: [...(error.details.leader ?? [])],
    retryAfterMs: error.details.retryAfterMs ?? 0,
    suggestion: (error.details.suggestion ?? '').toWellFormed().slice(0, messageCharactersMax),
  }).finish()
  metadata.set(trailerName, Buffer.from(detail.buffer, detail.byteOffset, detail.byteLength))
  return { code: errorTable[error.code].grpc, details: message, metadata }
}

function fromTrailer(metadata: Metadata | undefined): StoreError | undefined {
  const value = metadata?.get(trailerName)[0]
  if (value === undefined || typeof value === 'string') return undefined
  try {
    const detail = v1.ErrorDetail.decode(value)
    if (!isErrorCode(detail.code)) return undefined
    return new StoreError(detail.code, detail.message, {
      outcome: detail.definite ? 'definite' : 'unknown',
      details: {
        ...(detail.leader.length > 0 ? { leader: [...detail.leader] } : {}),
        ...(detail.retryAfterMs > 0 ? { retryAfterMs: detail.retryAfterMs } : {}),
        ...(detail.suggestion !== '' ? { suggestion: detail.suggestion } : {}),
      },
    })
  } catch {
    return undefined
  }
}

const codeOfStatus: Readonly<Record<number, ErrorCode>> = {
  [Status.CANCELLED]: 'CANCELLED',
  [Status.INVALID_ARGUMENT]: 'INVALID_ARGUMENT',
  [Status.DEADLINE_EXCEEDED]: 'TIMEOUT',
  [Status.NOT_FOUND]: 'NOT_FOUND',
  [Status.ALREADY_EXISTS]: 'ALREADY_EXISTS',
  [Status.RESOURCE_EXHAUSTED]: 'OVERLOADED',
  [Status.FAILED_PRECONDITION]: 'CONDITION_FAILED',
  [Status.ABORTED]: 'CONFLICT',
  [Status.OUT_OF_RANGE]: 'INVALID_ARGUMENT',
  [Status.UNIMPLEMENTED]: 'INCOMPATIBLE_VERSION',
  [Status.UNAVAILABLE]: 'UNAVAILABLE',
  [Status.DATA_LOSS]: 'CORRUPT',
}

const connectReasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EHOSTUNREACH: 'host unreachable',
  ENETUNREACH: 'network unreachable',
  ETIMEDOUT: 'connection timed out',
  ENOTFOUND: 'host name not found',
}

/** The words for a connection that was never made; any other reason as it is. */
function plainReason(reason: string): string {
  if (reason.startsWith('Name resolution failed')) return 'host name not found'
  const code = /^No connection established\b.*\b(E[A-Z]+)\b/.exec(reason)?.[1]
  return (code === undefined ? undefined : connectReasons[code]) ?? reason
}

/** The StoreError that a failed call stands for; `doing` starts its message when the other side gave none. */
export function errorOfStatus(status: ReceivedStatus, doing: string): StoreError {
  const own = fromTrailer(status.metadata)
  if (own !== undefined) return own
  const reason = ((status.details ?? 'no details').split('\n')[0] ?? '').replace(/ Resolution note: *$/, '')
  let code: ErrorCode = codeOfStatus[status.code ?? Status.UNKNOWN] ?? 'INTERNAL'
  const options: { -readonly [K in keyof StoreErrorOptions]: StoreErrorOptions[K] } = {}
  if (status.code === Status.RESOURCE_EXHAUSTED && reason.includes('larger than')) code = 'INVALID_ARGUMENT'
  // grpc-js reports a connection that broke in the middle of a call as INTERNAL with the RST_STREAM code in its text.
  if (status.code === Status.INTERNAL && /RST_STREAM|ECONNRESET|EPIPE/.test(reason)) code = 'UNAVAILABLE'
  // Nothing was sent, so nothing can have changed.
  if (code === 'UNAVAILABLE' && /^(No connection established|Name resolution failed)/.test(reason)) {
    options.outcome = 'definite'
  }
  return new StoreError(code, `${doing}: ${plainReason(reason)}`, options)
}
