/**
 * How a command is refused inside apply: by a StoreError that `applyEntry` turns into a `Refusal` value.
 *
 * A refusal is deterministic: it depends on the state and the command only. Nothing of a refused command is written.
 */

import { type ErrorCode, StoreError } from '../../model/errors.ts'

/** Refuses the command; `message` says what failed, why, and what to do. */
export function refuse(code: ErrorCode, message: string): never {
  throw new StoreError(code, message, { outcome: 'definite' })
}

/** Refuses with INVALID_ARGUMENT unless `condition` holds. */
export function demand(condition: boolean, message: string): asserts condition {
  if (!condition) refuse('INVALID_ARGUMENT', message)
}
