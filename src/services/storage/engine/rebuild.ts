/**
 * Makes the index of a disk anew from its log, while no node runs on it.
 *
 * It is what a start does with a damaged index, asked for by hand: durably wanted before anything is removed, and over when
 * a checkpoint stands behind it, so that an end in between is finished by the next run or start (index-state.ts).
 */

import type { Damage } from '../../../core/chunk/recovery.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { StoreError } from '../../../model/errors.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { openDisk } from './disk.ts'
import { readIdentity } from './identity-file.ts'
import type { DiskDeps, DiskOptions } from './types.ts'

export interface RebuildReport {
  readonly diskId: string
  /** Groups of the log that were repeated. */
  readonly groups: number
  readonly chunks: number
  /** Parts of the log that could not be read. */
  readonly damage: readonly Damage[]
  /** Chunks whose bytes do not match: quarantined, and reported when the node starts. */
  readonly corrupt: readonly { readonly id: ChunkId; readonly finding: string }[]
}

/** Throws NOT_FOUND for a directory that holds no disk, LOCKED, CORRUPT, INCOMPATIBLE_VERSION, IO. */
export async function rebuildIndex(deps: DiskDeps, options: DiskOptions): Promise<RebuildReport> {
  const sum: Sum = (bytes, out, at) => deps.hasher.sumInto(bytes, out, at)
  const identity = await readIdentity(deps.files, options.path, sum)
  if (identity === undefined) {
    throw new StoreError('NOT_FOUND', `rebuild the index: ${options.path} holds no disk; give the directory of a disk`)
  }
  let groups = 0
  let damage: readonly Damage[] = []
  const disk = await openDisk(deps, {
    ...options,
    rebuildIndex: true,
    onReplayed: (found) => {
      groups = found.groups
      damage = found.damage
    },
  })
  const corrupt: { id: ChunkId; finding: string }[] = []
  disk.onCorrupt((id, finding) => corrupt.push({ id, finding }))
  const { chunks } = disk.status()
  await disk.close()
  return { diskId: disk.id, groups, chunks, damage, corrupt }
}
