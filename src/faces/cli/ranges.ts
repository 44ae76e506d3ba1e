/**
 * Byte ranges as users write them.
 */

import { StoreError } from '../../model/errors.ts'
import { quote } from '../../model/names.ts'
import type { ByteRange } from '../../sdk/types.ts'

/** `0-99` is the first 100 bytes, `100-` everything after them. Throws USAGE. */
export function checkedRange(text: string): ByteRange {
  const match = /^(\d{1,16})-(\d{0,16})$/.exec(text)
  const first = Number(match?.[1] ?? Number.NaN)
  const last = match?.[2] === '' ? Number.MAX_SAFE_INTEGER - 1 : Number(match?.[2] ?? Number.NaN)
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last) || last < first) {
    throw new StoreError('USAGE', `--range ${quote(text)} is not a range: write first-last, for example 0-1023`)
  }
  return [first, last]
}
