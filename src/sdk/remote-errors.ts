/**
 * Failures that arrive inside messages, as StoreErrors. A code that this program does not know (a newer node) is
 * INTERNAL with its name kept in the message: never trusted to be retryable.
 */

import { type ErrorCode, isErrorCode, StoreError } from '../model/errors.ts'
import type { holdfast } from '../wire/messages.ts'

function known(code: string, message: string): { code: ErrorCode; message: string } {
  if (isErrorCode(code)) return { code, message }
  return { code: 'INTERNAL', message: `${message} (unknown code ${JSON.stringify(code.slice(0, 40))})` }
}

/** The error of a failed call on the Session stream. */
export function errorOfDetail(detail: holdfast.v1.ErrorDetail): StoreError {
  const { code, message } = known(detail.code, detail.message)
  return new StoreError(code, message, {
    outcome: detail.definite ? 'definite' : 'unknown',
    details: {
      ...(detail.leader.length > 0 ? { leader: detail.leader } : {}),
      ...(detail.retryAfterMs > 0 ? { retryAfterMs: detail.retryAfterMs } : {}),
      ...(detail.suggestion === '' ? {} : { suggestion: detail.suggestion }),
    },
  })
}

/** The error of a failed operation on the Chunks stream. */
export function errorOfFailure(failure: holdfast.v1.Failure): StoreError {
  const { code, message } = known(failure.code, failure.message)
  return new StoreError(code, message, {
    details: failure.retryAfterMs > 0 ? { retryAfterMs: failure.retryAfterMs } : {},
  })
}
