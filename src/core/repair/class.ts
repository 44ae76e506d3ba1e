/**
 * How urgent a chunk is, from the copies that count now (docs/ARCHITECTURE.md, "Failure and repair"), how long it may wait, and which copy goes
 * first when there are too many.
 *
 * The wait gives a node that restarts the time to come back, so only a shortfall that such a return would heal waits:
 * a corrupt or missing replica never heals by itself. All pure functions.
 */

import type { DiskNumber, ZoneId } from '../../model/ids.ts'
import { majority } from '../../model/limits.ts'
import type { RepairClass } from '../../model/words.ts'

/** A copy that counts now. */
export interface CountedCopy {
  readonly disk: DiskNumber
  readonly zone: ZoneId
  /** False on a suspected or draining node: it counts, but may be gone soon. */
  readonly firm: boolean
}

/** `none`: as wanted. `lost`: no copy counts now; it heals when a disk returns. */
export type RepairNeed = RepairClass | 'lost' | 'none'

/** `zones`: failure domains with a disk that may hold copies. `wanted` 0 (nothing refers to the chunk) needs nothing. */
export function classify(wanted: number, counted: readonly CountedCopy[], zones: number): RepairNeed {
  if (wanted === 0) return 'none'
  if (counted.length === 0) return 'lost'
  const zonesUsed = new Set(counted.map((copy) => copy.zone)).size
  if (counted.length < wanted) {
    if (counted.length === 1 || !counted.some((copy) => copy.firm)) return 'last-copy'
    if (counted.length < majority(wanted) || (zonesUsed === 1 && zones > 1)) return 'at-risk'
    return 'degraded'
  }
  if (zonesUsed < Math.min(wanted, zones)) return 'misplaced'
  return counted.length > wanted ? 'surplus' : 'none'
}

export interface RepairWaits {
  readonly waitDegradedMs: number
  readonly waitAtRiskMs: number
}

/**
 * How long after the shortfall began the repair starts. `returnable`: copies on disks that are away and may come back.
 */
export function waitMs(
  need: RepairClass,
  wanted: number,
  counted: number,
  returnable: number,
  waits: RepairWaits,
): number {
  if (need === 'misplaced') return waits.waitDegradedMs
  if (need === 'last-copy' || need === 'surplus' || counted + returnable < wanted) return 0
  return need === 'at-risk' ? waits.waitAtRiskMs : waits.waitDegradedMs
}

/**
 * The copy to give up when more than wanted count: one whose zone keeps another copy if there is such a one, from the
 * zone with the most copies, from the fullest disk; ties by the highest number. Undefined when there is no copy.
 */
export function surplusCopy(
  counted: readonly CountedCopy[],
  fullness: (disk: DiskNumber) => number,
): DiskNumber | undefined {
  const inZone = new Map<ZoneId, number>()
  for (const copy of counted) inZone.set(copy.zone, (inZone.get(copy.zone) ?? 0) + 1)
  let best: { copy: CountedCopy; zoneCopies: number; full: number } | undefined
  for (const copy of counted) {
    const zoneCopies = inZone.get(copy.zone) ?? 0
    const candidate = { copy, zoneCopies, full: fullness(copy.disk) }
    if (best === undefined || goesBefore(candidate, best)) best = candidate
  }
  return best?.copy.disk
}

interface Candidate {
  readonly copy: CountedCopy
  readonly zoneCopies: number
  readonly full: number
}

function goesBefore(a: Candidate, b: Candidate): boolean {
  if (a.zoneCopies !== b.zoneCopies) return a.zoneCopies > b.zoneCopies
  if (a.full !== b.full) return a.full > b.full
  return a.copy.disk > b.copy.disk
}
