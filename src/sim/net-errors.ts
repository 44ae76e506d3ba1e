/**
 * Errors on the simulated wire: encoded as the real driver sends them (ErrorDetail), so that nothing crosses between two
 * simulated processes except bytes.
 */

import { asStoreError, isErrorCode, StoreError } from '../model/errors.ts'
import { v1 } from '../wire/messages.ts'

/** Bytes of whatever a handler threw. */
export function encodeError(thrown: unknown, doing: string): Uint8Array {
  const error = asStoreError(thrown, doing)
  return v1.ErrorDetail.encode({
    code: error.code,
    message: error.message,
    definite: error.outcome === 'definite',
    leader: [...(error.details.leader ?? [])],
    retryAfterMs: error.details.retryAfterMs ?? 0,
    suggestion: error.details.suggestion ?? '',
  }).finish()
}

/** The error that `encodeError` made bytes of. */
export function decodeError(bytes: Uint8Array): StoreError {
  const detail = v1.ErrorDetail.decode(bytes)
  const code = isErrorCode(detail.code) ? detail.code : 'INTERNAL'
  return new StoreError(code, detail.message, {
    outcome: detail.definite ? 'definite' : 'unknown',
    details: {
      ...(detail.leader.length > 0 ? { leader: detail.leader } : {}),
      ...(detail.retryAfterMs > 0 ? { retryAfterMs: detail.retryAfterMs } : {}),
      ...(detail.suggestion !== '' ? { suggestion: detail.suggestion } : {}),
    },
  })
}
