/**
 * Places in the extent log. The log is one line of bytes cut into extents; a place is an extent's sequence number and a
 * byte offset in it. Sequence numbers only grow and name one use of an extent file, never the file: a recycled file gets
 * a new one, so a place of an older use never points into a newer one.
 */

/** A byte of the log. The end of a group is expressed in the extent that holds the group. */
export interface Position {
  readonly extent: number
  readonly offset: number
}

/** Unit of writes; every group, every large payload and both extent headers start on one. */
export const sectorBytes = 4096

/** An extent begins with its header. */
const headerSectors = 1

/** Offset of the first group of an extent. */
export const firstGroupOffset = headerSectors * sectorBytes

/** `bytes` rounded up to whole sectors. */
export function alignUp(bytes: number): number {
  return Math.ceil(bytes / sectorBytes) * sectorBytes
}

/** Negative when `a` is before `b`, 0 when equal, else positive. */
export function comparePositions(a: Position, b: Position): number {
  return a.extent === b.extent ? a.offset - b.offset : a.extent - b.extent
}

export function isBefore(a: Position, b: Position): boolean {
  return comparePositions(a, b) < 0
}

/** The later of two places. */
export function laterOf(a: Position, b: Position): Position {
  return isBefore(a, b) ? b : a
}
