/**
 * Rules for bucket names and object keys, checked at both ends: in the SDK for a quick answer, in meta for truth.
 *
 * A key may be any valid Unicode of 1 to 1,024 UTF-8 bytes, except what would not survive a file system or a shell
 * unchanged: NUL, an empty path segment (`//`, a leading or trailing `/`), and the segments `.` and `..`.
 * Keys are compared by their UTF-8 bytes; no normalization is done, so two spellings of an accent are two keys.
 */

import { utf8Length } from '../base/bytes.ts'
import { StoreError } from './errors.ts'

export const keyBytesMax = 1024

/** Throws INVALID_ARGUMENT unless `name` is 3 to 63 of `a-z 0-9 . -`, starting and ending with a letter or digit. */
export function checkBucketName(name: string): void {
  const rule = 'use 3 to 63 of a-z, 0-9, "." and "-", starting and ending with a letter or digit'
  if (name === '') throw new StoreError('INVALID_ARGUMENT', `bucket name is empty: ${rule}`)
  if (!/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(name) || name.includes('..')) {
    throw new StoreError('INVALID_ARGUMENT', `bucket name ${quote(name)} is not valid: ${rule}`)
  }
}

/** Most keys: letters, digits and a few marks, in segments that do not begin with a dot. Nothing of it is against a rule. */
const plainKey = /^[\w=+@-][\w=+@.-]*(?:\/[\w=+@-][\w=+@.-]*)*$/

/** Throws INVALID_ARGUMENT unless `key` fits the rules above. */
export function checkKey(key: string): void {
  if (key.length <= keyBytesMax && plainKey.test(key)) return
  if (key === '') throw new StoreError('INVALID_ARGUMENT', 'object name is empty: give a name after the bucket')
  if (!key.isWellFormed()) {
    throw new StoreError('INVALID_ARGUMENT', `object name ${quote(key)} has half a surrogate pair: use valid Unicode`)
  }
  const length = utf8Length(key)
  if (length > keyBytesMax) {
    throw new StoreError('INVALID_ARGUMENT', `object name is ${length} bytes long: use at most ${keyBytesMax}`)
  }
  if (key.includes('\0')) {
    throw new StoreError('INVALID_ARGUMENT', `object name ${quote(key)} has a NUL character: remove it`)
  }
  for (const segment of key.split('/')) {
    if (segment === '') {
      throw new StoreError(
        'INVALID_ARGUMENT',
        `object name ${quote(key)} has an empty path segment: write single slashes`,
      )
    }
    if (segment === '.' || segment === '..') {
      throw new StoreError(
        'INVALID_ARGUMENT',
        `object name ${quote(key)} has the segment "${segment}": write it without`,
      )
    }
  }
}

/** The name in quotes with control characters escaped, cut to a readable length: safe in a one-line message. */
export function quote(name: string): string {
  const shown = name.length > 80 ? `${name.slice(0, 77)}...` : name
  return JSON.stringify(shown)
}
