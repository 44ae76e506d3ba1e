/**
 * Quotas: most bytes and objects of a bucket and of the whole cluster, one copy of each object counted.
 *
 * Invariant: no commit leaves a bucket or the cluster above a quota unless it was above it before and the commit adds
 * nothing of that kind; so what only removes or shrinks is always allowed. Staged pages count when they are committed.
 */

import { checkBucketName } from '../../model/names.ts'
import { putCluster } from './cluster.ts'
import type { Command } from './commands.ts'
import { keys } from './keys.ts'
import { type BucketRecord, bucketRecord } from './records.ts'
import { refuse } from './refuse.ts'
import type { Transaction } from './view.ts'

export function setQuota(tx: Transaction, body: Extract<Command, { kind: 'setQuota' }>): void {
  const { bucket: name, bytesMax, objectsMax } = body
  if (name === '') {
    putCluster(tx, { ...tx.cluster(), bytesMax, objectsMax })
    return
  }
  checkBucketName(name)
  const bucket = tx.get(keys.bucket(name), bucketRecord)
  if (bucket === undefined) refuse('NOT_FOUND', `bucket ${name} does not exist: make it first`)
  tx.put(keys.bucket(name), bucketRecord, { ...bucket, bytesMax, objectsMax })
}

interface Totals {
  readonly objects: number
  readonly bytes: number
}

interface Bounds {
  readonly bytesMax: number
  readonly objectsMax: number
}

/** Totals before a commit, to compare with those after it. */
export interface Before {
  readonly cluster: Totals
  readonly buckets: ReadonlyMap<string, BucketRecord>
}

/** Refuses the commit when it added more than there is room for. */
export function checkQuotas(tx: Transaction, before: Before): void {
  check('the cluster', before.cluster, tx.counters, tx.cluster())
  for (const [name, was] of before.buckets) {
    const bucket = tx.get(keys.bucket(name), bucketRecord)
    if (bucket !== undefined) check(`bucket ${name}`, was, bucket, bucket)
  }
}

function check(what: string, before: Totals, after: Totals, { bytesMax, objectsMax }: Bounds): void {
  if (bytesMax > 0 && after.bytes > bytesMax && after.bytes > before.bytes) {
    refuse(
      'QUOTA_EXCEEDED',
      `${what} would hold ${after.bytes} bytes, its quota is ${bytesMax}: remove objects or raise the quota`,
    )
  }
  if (objectsMax > 0 && after.objects > objectsMax && after.objects > before.objects) {
    refuse(
      'QUOTA_EXCEEDED',
      `${what} would hold ${after.objects} objects, its quota is ${objectsMax}: remove objects or raise the quota`,
    )
  }
}
