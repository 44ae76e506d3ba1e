/**
 * "Did you mean": the close name for one that was not found. Computed where the answer is made, never in apply.
 */

import { StoreError } from '../../model/errors.ts'
import { quote } from '../../model/names.ts'
import type { MetaQueries } from './queries.ts'

/** Buckets that are looked at; more would cost more than the hint is worth. */
const lookedAtMax = 1_000
/** Most changed letters between a name and its suggestion. */
const changesMax = 2

/** The NOT_FOUND of a bucket, with the closest existing name in its message and details when there is one. */
export async function bucketNotFound(queries: MetaQueries, name: string): Promise<StoreError> {
  const buckets = await queries.buckets('', lookedAtMax)
  let best: string | undefined
  let bestChanges = changesMax + 1
  for (const bucket of buckets) {
    const changes = changedLetters(name, bucket.name)
    if (changes >= bestChanges) continue
    best = bucket.name
    bestChanges = changes
  }
  const hint = best === undefined ? 'make it with "mb", or see "ls" for what there is' : `did you mean ${quote(best)}?`
  return new StoreError('NOT_FOUND', `bucket ${quote(name)} does not exist: ${hint}`, {
    details: best === undefined ? {} : { suggestion: best },
  })
}

/** Letters to insert, remove or replace to turn `a` into `b` (Levenshtein). Names are at most 63 letters long. */
export function changedLetters(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const replaced = (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(replaced, (above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1))
    }
    above = row
  }
  return above[b.length] ?? 0
}
