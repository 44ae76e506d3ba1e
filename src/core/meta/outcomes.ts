/**
 * What commits answered, kept for a while under their commit ids, so that a repeated commit answers the same and changes
 * nothing (docs/RULES.md, rule 14), even when the key was overwritten in between.
 *
 * Bounded by age and number: each new outcome makes room by forgetting up to two old ones, by the committed time alone.
 */

import { assert } from '../../base/assert.ts'
import { encode, fixed, list, oneOf, struct, text, uint } from '../../base/schema.ts'
import { crc32c } from '../../base/crc32c.ts'
import type { ChunkId, CommitId } from '../../model/ids.ts'
import type { CommittedObject, Operation } from './commands.ts'
import { keys } from './keys.ts'
import { type OutcomeRecord, outcomeOrderRecord, outcomeRecord } from './records.ts'
import { refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

/** A commit id is known at least this long after its commit. */
const outcomeKeptMs = 15 * 60_000
/** Most outcomes kept, whatever their age: about 200 MB of state. */
export const outcomesMax = 1_000_000

const identity = list(
  struct({ kind: oneOf(['put', 'delete', 'copy'] as const), bucket: text, key: text, size: uint, etag: fixed(8) }),
)
/** What `identity` wants of an operation that brings no content. */
const noContent = { size: 0, etag: new Uint8Array(8) }

/** What makes two commands the same commit. Acknowledgements do not: a writer may know of more by the second try. */
export function fingerprintOf(operations: readonly Operation[]): number {
  return crc32c(encode(identity, operations.map(identityOf)))
}

function identityOf(one: Operation) {
  return one.kind === 'put' ? one : { ...one, ...noContent }
}

/** The same for a commit of chunks that belong to no object. */
export function fingerprintOfChunks(chunks: readonly { readonly id: ChunkId }[]): number {
  return crc32c(
    encode(
      list(uint),
      chunks.map((chunk) => chunk.id),
    ),
  )
}

/** The outcome of an earlier commit with this id; CONFLICT when that was another one. */
export function knownOutcome(tx: Transaction, commitId: CommitId, fingerprint: number): OutcomeRecord | undefined {
  const outcome = tx.get(keys.outcome(commitId), outcomeRecord)
  if (outcome !== undefined && outcome.fingerprint !== fingerprint) {
    refuse('CONFLICT', `commit id ${commitId} was used for another commit: draw a new one`)
  }
  return outcome
}

/** Keeps what a commit answered, and forgets what is too old. */
export function keepOutcome(
  tx: Transaction,
  commitId: CommitId,
  fingerprint: number,
  durable: number,
  objects: readonly CommittedObject[],
): void {
  forgetOld(tx, 2)
  const sequence = tx.counters.outcomesTo
  tx.put(keys.outcome(commitId), outcomeRecord, {
    durable,
    fingerprint,
    objects,
  })
  tx.put(keys.outcomeOrder(sequence), outcomeOrderRecord, { commitId, timeMs: tx.nowMs })
  tx.count({ outcomesTo: sequence + 1 })
}

function forgetOld(tx: Transaction, most: number): void {
  for (let i = 0; i < most; i++) {
    const { outcomesFrom, outcomesTo } = tx.counters
    if (outcomesFrom === outcomesTo) return
    const oldest = tx.get(keys.outcomeOrder(outcomesFrom), outcomeOrderRecord)
    assert(oldest !== undefined, `outcome ${outcomesFrom} is listed`)
    if (oldest.timeMs + outcomeKeptMs > tx.nowMs && outcomesTo - outcomesFrom < outcomesMax) return
    tx.del(keys.outcome(oldest.commitId))
    tx.del(keys.outcomeOrder(outcomesFrom))
    tx.count({ outcomesFrom: outcomesFrom + 1 })
  }
}
