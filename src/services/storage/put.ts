/**
 * One chunk on its way in, whatever it came by (stream or unary): checks of the message, admission, the acknowledgement.
 *
 * Invariant: a PutDone is made only after the engine's commit resolved, with the disk's generation of that moment, and
 * only while the node is in contact with meta.
 */

import { StoreError } from '../../model/errors.ts'
import { blockCount, limits } from '../../model/limits.ts'
import { exactBytes, safeCounter } from '../../wire/checks.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { Disks, DiskSlot } from './disks.ts'
import type { ChunkWriter, PutRequest } from './types.ts'

type PutBegin = holdfast.v1.PutBegin
/** PutDone as it is sent. */
export type PutDoneOut = holdfast.v1.PutDone.$Properties

export interface PutPlan {
  readonly slot: DiskSlot
  readonly request: PutRequest
  /** The sums came with the put, so they need not be sent back. */
  readonly withSums: boolean
}

/** Checks a PutBegin and picks its disk. Throws INVALID_ARGUMENT, or what `checkWritable` and `forPut` throw. */
export function planPut(disks: Disks, begin: PutBegin): PutPlan {
  const id = safeCounter(begin.id, 'id')
  if (id === 0) throw new StoreError('INVALID_ARGUMENT', 'store a chunk: 0 is not a chunk id')
  const length = safeCounter(begin.length, 'length', limits.chunkBytesMax)
  if (length === 0) throw new StoreError('INVALID_ARGUMENT', 'store a chunk: a chunk has at least one byte')
  const lease = safeCounter(begin.lease, 'lease')
  const withSums = begin.blockSums.length > 0
  if (withSums) {
    exactBytes(begin.blockSums, 'block_sums', blockCount(length) * 8)
    exactBytes(begin.root, 'root', 8)
  } else if (begin.root.length > 0) {
    throw new StoreError('INVALID_ARGUMENT', 'store a chunk: root without block_sums; send both or none')
  }
  disks.checkWritable()
  const slot = disks.forPut(safeCounter(begin.disk, 'disk'))
  // Copies: the fields are views on a receive buffer that may be a thousand times larger.
  const sums = withSums ? { blockSums: begin.blockSums.slice(), root: begin.root.slice() } : {}
  return { slot, request: { id, length, lease, ...sums }, withSums }
}

/** Makes the chunk durable and gives the acknowledgement. */
export async function finishPut(disks: Disks, plan: PutPlan, writer: ChunkWriter): Promise<PutDoneOut> {
  const result = await writer.commit()
  // Contact may have been lost while it was written: then the disk may be fenced by now, and nobody must count on it.
  disks.checkContact()
  if (plan.slot.failed) throw new StoreError('DISK_FAILED', 'store a chunk: its disk failed meanwhile; use another one')
  return {
    id: plan.request.id,
    disk: plan.slot.number ?? 0,
    generation: plan.slot.generation,
    root: result.root,
    ...(plan.withSums ? {} : { blockSums: result.blockSums }),
  }
}
