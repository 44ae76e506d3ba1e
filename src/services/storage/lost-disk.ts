/**
 * A disk of this node that could not be opened, in the place of its engine: it is reported as failed and does nothing.
 *
 * Only for disks whose identity was read: meta knows them by it, and their replicas are lost at once instead of away.
 */

import { StoreError } from '../../model/errors.ts'
import type { DiskEngine, ScrubStatus } from './types.ts'

export interface LostDisk {
  readonly id: string
  readonly path: string
  readonly clusterId: string | undefined
  readonly clusterIncarnation: number
  /** Why it does not open, one line. */
  readonly reason: string
}

const noScrub: ScrubStatus = {
  state: 'off',
  pass: 0,
  scannedBytes: 0,
  totalBytes: 0,
  rateBytesPerSecond: 0,
  debtSeconds: 0,
  startedMs: 0,
  finishedMs: 0,
  findings: 0,
  healed: 0,
  suspects: 0,
  direct: true,
  notes: [],
}

/** An engine that is failed from the start. */
export function lostDisk({ reason, ...identity }: LostDisk): DiskEngine {
  const failure = new StoreError('DISK_FAILED', `disk ${identity.path} failed: ${reason}; replace the disk`)
  const refuse = (): Promise<never> => Promise.reject(failure)
  const nothing = (): void => undefined
  return {
    ...identity,
    clean: false,
    rebuilt: false,
    adopt: refuse,
    status: () => ({
      state: 'failed',
      reason,
      speed: { syncMs: 0, readMs: 0, errors: 0 },
      capacityBytes: 0,
      usedBytes: 0,
      freeForNewBytes: 0,
      chunks: 0,
      chunkIdMax: 0,
      liveBytes: 0,
      reclaimableBytes: 0,
    }),
    beginPut: refuse,
    openRead: refuse,
    verify: refuse,
    missing: refuse,
    list: refuse,
    delete: refuse,
    scrub: () => noScrub,
    startScrub: nothing,
    pauseScrub: nothing,
    resumeScrub: nothing,
    suspect: nothing,
    onCorrupt: nothing,
    onFailed: (handler) => handler(failure),
    onHealth: nothing,
    close: () => Promise.resolve(),
  }
}
