/**
 * Checks of decoded fields, so that no number, id or hash from outside is believed before it was looked at.
 */

import { StoreError } from '../model/errors.ts'
import { isHexId } from '../model/ids.ts'

/** A counter or id: a safe unsigned integer of at most `max`. */
export function safeCounter(value: number, field: string, max: number = Number.MAX_SAFE_INTEGER): number {
  if (!Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new StoreError('INVALID_ARGUMENT', `field ${field} is out of range: want an integer from 0 to ${max}`)
  }
  return value
}

/** Bytes of exactly `length`. */
export function exactBytes(value: Uint8Array, field: string, length: number): Uint8Array {
  if (value.length !== length) {
    throw new StoreError('INVALID_ARGUMENT', `field ${field} has ${value.length} bytes: want ${length}`)
  }
  return value
}

/** An id of 32 hex digits. */
export function hexId(value: string, field: string): string {
  if (!isHexId(value)) throw new StoreError('INVALID_ARGUMENT', `field ${field} is not an id of 32 hex digits`)
  return value
}

/** One of a closed list of names. */
export function nameOf<const Names extends readonly string[]>(
  value: string,
  names: Names,
  field: string,
): Names[number] {
  const found = names.find((name) => name === value)
  if (found === undefined) {
    throw new StoreError('INVALID_ARGUMENT', `field ${field} is not one of ${names.join(', ')}`)
  }
  return found
}
