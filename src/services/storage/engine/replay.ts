/**
 * Brings the index up to the log at the start: everything after the last checkpoint is repeated, because unsynced index
 * changes do not survive a crash as a prefix. With a lost index the same is done from the log's beginning.
 *
 * Two passes over the heads of groups: the first finds the highest watermark, the second walks the log by the rules of
 * core/chunk/recovery.ts and repeats what counts. Payloads are read only beyond the watermark, where a torn write is
 * possible. Memory does not grow with the log.
 */

import { type FoundGroup, groupEnd } from '../../../core/chunk/group.ts'
import { freedBy, indexChanges, type IndexChange, quarantineChange } from '../../../core/chunk/index-record.ts'
import { firstGroupOffset, laterOf, type Position, sectorBytes } from '../../../core/chunk/position.ts'
import { type Damage, RecoveryWalk } from '../../../core/chunk/recovery.ts'
import type { Location, LogRecord, PutRecord, QuarantineLogRecord } from '../../../core/chunk/record.ts'
import { blockSumsOf, firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { equalBytes } from '../../../base/bytes.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { ChunkIndex } from './chunk-index.ts'
import type { ExtentTable, HeldExtent } from './extent-table.ts'
import { type Content, ExtentWalk, walkBufferBytes } from './extent-walk.ts'
import type { Ledger } from './ledger.ts'

export interface ReplayParts {
  readonly table: ExtentTable
  readonly index: ChunkIndex
  readonly ledger: Ledger
  readonly sum: Sum
}

export interface ReplayStart {
  readonly from: Position
  /** Undefined when the index is rebuilt from nothing. */
  readonly chain: Uint8Array | undefined
  /** Sequence numbers of the extents that may hold groups from there on, ascending. */
  readonly extents: readonly number[]
}

export interface ReplayResult {
  /** Where the next group goes. */
  readonly end: Position
  readonly chain: Uint8Array
  readonly groups: number
  readonly damage: readonly Damage[]
  /** Held chunks whose bytes in the log do not check out: to be verified, which quarantines and reports them. */
  readonly suspects: readonly ChunkId[]
  /** True when something that was never acknowledged was dropped from the tail. */
  readonly torn: boolean
}

async function readExactly(held: HeldExtent, offset: number, length: number): Promise<Uint8Array> {
  const into = new Uint8Array(length)
  const read = await held.file.read(into, offset)
  return read < length ? into.subarray(0, read) : into
}

function inlineIntact(record: PutRecord, inline: Uint8Array, sum: Sum): boolean {
  return inline.length === record.length && equalBytes(blockSumsOf(sum, inline), record.blockSums)
}

/** Reads all that an unacknowledged group should have put on disk. */
async function isComplete(held: HeldExtent, contents: readonly Content[], sum: Sum): Promise<boolean> {
  for (const { record, location, inline } of contents) {
    if (record.kind !== 'put') continue
    if (inline !== undefined) {
      if (!inlineIntact(record, inline, sum)) return false
      continue
    }
    for (let at = 0; at < record.length; at += limits.frameBytes) {
      const length = Math.min(limits.frameBytes, record.length - at)
      const piece = await readExactly(held, location.payload + at, length)
      if (piece.length < length) return false
      if (firstBadBlock(sum, piece, at / limits.blockBytes, record.blockSums) !== undefined) return false
    }
  }
  return true
}

/** Repeats records in the index and the books. */
class Repeater {
  readonly #parts: ReplayParts
  readonly #rebuilding: boolean
  readonly suspects = new Set<ChunkId>()

  constructor(parts: ReplayParts, rebuilding: boolean) {
    this.#parts = parts
    this.#rebuilding = rebuilding
  }

  async repeat(contents: readonly Content[]): Promise<void> {
    const changes: IndexChange[] = []
    for (const content of contents) {
      if (this.#rebuilding && content.record.kind === 'quarantine') {
        changes.push(...(await this.#quarantine(content.record, content.location)))
        continue
      }
      const record = this.#rebuilding ? await this.#fromIndex(content) : content.record
      changes.push(...indexChanges(record, content.location, await this.#inlineOf(content), this.#parts.sum))
      this.#parts.ledger.apply(record, content.location)
      if (record.kind !== 'put') this.suspects.delete(record.id)
    }
    if (changes.length > 0) await this.#parts.index.apply(changes)
  }

  /** The bytes to keep in the index; bytes that do not check out stay in the log only, and the chunk is suspect. */
  async #inlineOf({ record, inline }: Content): Promise<Uint8Array | undefined> {
    if (record.kind !== 'put') return undefined
    this.suspects.delete(record.id)
    if (inline === undefined || inlineIntact(record, inline, this.#parts.sum)) return inline
    this.suspects.add(record.id)
    const known = await this.#parts.index.get(record.id)
    const kept = known.kind === 'held' ? known.record.inline : undefined
    return kept !== undefined && inlineIntact(record, kept, this.#parts.sum) ? kept : undefined
  }

  /** The record with what it frees taken from the index as rebuilt so far: records it once freed may be recycled. */
  async #fromIndex({ record }: Content): Promise<LogRecord> {
    if (record.kind === 'quarantine') return record
    const { index } = this.#parts
    const held = await this.#placeOf(record.id)
    const frees = held === undefined ? [] : [freedBy(held, true)]
    if (record.kind === 'delete') frees.push(...(await index.quarantinesOf(record.id)))
    return { ...record, frees }
  }

  async #placeOf(id: ChunkId): Promise<Location | undefined> {
    const known = await this.#parts.index.get(id)
    return known.kind === 'held' ? known.record.location : undefined
  }

  /**
   * A quarantine in a rebuild, be it the first record of it or one that compaction carried on. Where the chunk has another
   * place by now, or its record is damaged, only the bytes are kept.
   */
  async #quarantine(record: QuarantineLogRecord, at: Location): Promise<IndexChange[]> {
    const { index, ledger, table, sum } = this.#parts
    const { id, location } = record
    const held = await this.#placeOf(id)
    if (held?.extent === location.extent && held.payload === location.payload) {
      const first = { ...record, location: held }
      ledger.apply(first, at)
      this.suspects.delete(id)
      return indexChanges(first, at, undefined, sum)
    }
    const { extent, payload } = location
    if (!table.has(extent) || (await index.isQuarantined(id, extent, payload))) return []
    ledger.keep(record, at)
    return [quarantineChange(record, sum)]
  }
}

interface Survey {
  readonly watermark: Position
  /**
   * Where to stop in each extent that has valid groups: after the last of them, or where the next extent says that the log
   * left it. Groups beyond that are what was cut off there before, and were never acknowledged.
   */
  readonly ends: ReadonlyMap<number, number>
}

async function survey(parts: ReplayParts, start: ReplayStart, buffer: Uint8Array): Promise<Survey> {
  let watermark = start.from
  const ends = new Map<number, number>()
  for (const extent of start.extents) {
    const held = await parts.table.hold(extent)
    if (held === undefined) continue
    try {
      const from = extent === start.from.extent ? start.from.offset : firstGroupOffset
      for await (const group of new ExtentWalk(held, parts.sum, buffer).groups(from, held.file.size - sectorBytes)) {
        watermark = laterOf(watermark, group.watermark)
        ends.set(extent, groupEnd(group).offset)
        const before = ends.get(group.before.extent)
        if (before !== undefined) ends.set(group.before.extent, Math.min(before, group.before.offset))
      }
    } finally {
      held.release()
    }
  }
  return { watermark, ends }
}

/** Repeats the log from `start`. Writes nothing but the index; syncs what it believes. */
export async function replay(parts: ReplayParts, start: ReplayStart): Promise<ReplayResult> {
  const buffer = new Uint8Array(walkBufferBytes)
  const { watermark, ends } = await survey(parts, start, buffer)
  const walk = new RecoveryWalk({ from: start.from, chain: start.chain, watermark })
  const repeater = new Repeater(parts, start.chain === undefined)
  let groups = 0
  let torn = false
  let synced = 0
  const damage: Damage[] = []

  const step = async (held: HeldExtent, extentWalk: ExtentWalk, group: FoundGroup): Promise<boolean> => {
    const verdict = walk.judge(group)
    if (verdict === 'stop') return false
    const { contents, whole } = await extentWalk.contents(group)
    if (verdict === 'check') {
      if (!whole || !(await isComplete(held, contents, parts.sum))) return false
      walk.accept(group)
      // What was read may be in the page cache only (the process died, the machine did not). The index must never be ahead
      // of the log, so it has to be on the disk before it is repeated: one sync is for all that the extent has.
      if (synced !== group.extent) await held.file.sync()
      synced = group.extent
    } else if (!whole) {
      damage.push({ from: { extent: group.extent, offset: group.offset }, to: groupEnd(group) })
    }
    await repeater.repeat(contents)
    groups++
    return true
  }

  for (const [extent, until] of ends) {
    const held: HeldExtent | undefined = torn ? undefined : await parts.table.hold(extent)
    if (held === undefined) continue
    try {
      const from = extent === start.from.extent ? start.from.offset : firstGroupOffset
      const extentWalk = new ExtentWalk(held, parts.sum, buffer)
      for await (const group of extentWalk.groups(from, until)) {
        torn = !(await step(held, extentWalk, group))
        if (torn) break
      }
    } finally {
      held.release()
    }
  }
  walk.finish()
  damage.push(...walk.damage)
  const suspects = [...repeater.suspects].sort((a, b) => a - b)
  return { end: walk.end, chain: walk.chain ?? new Uint8Array(8), groups, damage, suspects, torn }
}
