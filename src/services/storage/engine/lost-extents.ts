/**
 * Extent files that are gone or shorter than they were made, and the chunks that went with them.
 *
 * Somebody removed or cut a file while the disk was closed (or open): no checksum tells, because nothing is read. So the
 * files are compared with what the index refers to at the start, by name and size; a header is read only from a file of
 * an unusual size. The index is walked only when something is wrong, a page at a time.
 * Does not see: the very last file of a disk that crashed, begun after its last checkpoint and gone (nothing that survived
 * names it); its chunks show when they are read.
 */

import type { ChunkRecord } from '../../../core/chunk/index-record.ts'
import type { Location } from '../../../core/chunk/record.ts'
import type { ChunkId } from '../../../model/ids.ts'
import type { ExtentFiles } from '../../../ports/extents.ts'
import type { ChunkIndex } from './chunk-index.ts'
import type { ExtentTable } from './extent-table.ts'

/** Records looked at, and quarantined at once. */
const pageRecords = 256

/** Sizes in bytes of extents that are shorter than they were made, by sequence number; 0 when the file is gone. */
export type LostExtents = ReadonlyMap<number, number>

/**
 * Compares the extents that are `wanted` with their files. `sizeUsual`: what new extents get; a file of that size is taken
 * as whole.
 */
export async function findLostExtents(
  files: ExtentFiles,
  table: ExtentTable,
  wanted: Iterable<number>,
  sizeUsual: number,
): Promise<LostExtents> {
  const lost = new Map<number, number>()
  for (const sequence of [...wanted].sort((a, b) => a - b)) {
    const size = await files.sizeOf(sequence)
    if (size === sizeUsual) continue
    if (size === undefined || (await isShort(table, sequence))) lost.set(sequence, size ?? 0)
  }
  return lost
}

/** True when the file is smaller than its header says, or no header is left that could say it. */
async function isShort(table: ExtentTable, sequence: number): Promise<boolean> {
  const held = await table.hold(sequence)
  if (held === undefined) return true
  const short = held.header === undefined || held.header.size > held.file.size
  held.release()
  return short
}

/** What is wrong with a place in these extents, or undefined: its file is gone, or ends before the chunk does. */
export function lostAt(lost: LostExtents, location: Location, length: number): string | undefined {
  const size = lost.get(location.extent)
  if (size === undefined) return undefined
  if (size === 0) return `its extent ${location.extent} is missing`
  return location.payload + length > size ? `its extent ${location.extent} was cut to ${size} bytes` : undefined
}

/** Calls `found` for every held chunk that is in what is lost, a page at a time, until `stopped`. Gives how many. */
export async function walkLost(
  index: ChunkIndex,
  findingOf: (record: ChunkRecord) => string | undefined,
  found: (id: ChunkId, record: ChunkRecord, finding: string) => Promise<void>,
  stopped: () => boolean,
): Promise<number> {
  let count = 0
  for (let from = 0; ; ) {
    const page = await index.records(from, pageRecords)
    const hits: Promise<void>[] = []
    for (const { id, record } of page) {
      const finding = record === undefined ? undefined : findingOf(record)
      if (record !== undefined && finding !== undefined) hits.push(found(id, record, finding))
    }
    count += hits.length
    // All of them: one that fails must not leave others unattended.
    for (const end of await Promise.allSettled(hits)) if (end.status === 'rejected') throw end.reason
    const last = page.at(-1)
    if (last === undefined || page.length < pageRecords || stopped()) return count
    from = last.id + 1
  }
}
