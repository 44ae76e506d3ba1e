/**
 * What is on a disk that no process has open: identity, checkpoint, extents, records, checksums, and whether log and index
 * agree. Nothing is written.
 *
 * One walk through the log in order. A put whose place the index names is what is served: its payload is checked. What the
 * index names and the walk never met is looked for in a second pass, only when the counts differ. Memory: one window, some
 * figures per extent, and at most `openIdsMax` ids that are neither held nor deleted yet; beyond that the report says so.
 *
 * Damage is what was acknowledged and is not intact. A torn tail behind the end of the log, free files, dead records and
 * quarantined bytes are not.
 */

import { equalBytes } from '../../../base/bytes.ts'
import type { DiskIdentity } from '../../../core/chunk/identity.ts'
import { type FoundGroup, groupEnd } from '../../../core/chunk/group.ts'
import type { Checkpoint, ChunkRecord } from '../../../core/chunk/index-record.ts'
import { firstGroupOffset, isBefore, type Position, sectorBytes } from '../../../core/chunk/position.ts'
import type { Location } from '../../../core/chunk/record.ts'
import { blockSumsOf, firstBadBlock, type Sum } from '../../../core/chunk/sums.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { ExtentFile, ExtentFiles } from '../../../ports/extents.ts'
import type { Files } from '../../../ports/files.ts'
import type { Kv } from '../../../ports/kv.ts'
import { ChunkIndex } from './chunk-index.ts'
import { readExtentHeaders } from './inspect-header.ts'
import { type Content, ExtentWalk, walkBufferBytes } from './extent-walk.ts'
import type { HeldExtent } from './extent-table.ts'
import { readIdentity } from './identity-file.ts'
import { readMark } from './index-state.ts'

/** Ids followed at once that the log has and the index has not. */
const openIdsMax = 1_000_000
/** Findings that are listed; all are counted. */
const findingsMax = 100
const pageRecords = 512

export interface InspectWorld {
  readonly files: Files
  /** Only read. */
  readonly extents: ExtentFiles
  /** The index; undefined when it does not open, for `indexReason`. */
  readonly kv: Kv | undefined
  readonly indexReason: string
  readonly sum: Sum
}

export interface InspectOptions {
  readonly path: string
  /** Payloads are read and checked. */
  readonly payload: boolean
  /** Look at this one only. */
  readonly chunk?: ChunkId
}

export interface ExtentReport {
  readonly extent: number
  readonly bytes: number
  /** `free`: its header names another use of the file. */
  readonly state: 'in use' | 'active' | 'free'
  readonly header: 'ok' | 'one copy' | 'damaged' | 'none'
  groups: number
  puts: number
  deletes: number
  quarantines: number
  liveBytes: number
  quarantinedBytes: number
  deadBytes: number
  damage: number
  /** Valid groups behind the end of the log: never acknowledged. */
  torn: number
}

export interface DiskInspection {
  readonly path: string
  readonly identity: DiskIdentity
  readonly checkpoint: Checkpoint | undefined
  /** What the next start will do. */
  readonly start: 'nothing to do' | 'replay' | 'rebuild'
  readonly startReason: string
  readonly extents: readonly ExtentReport[]
  readonly chunks: {
    readonly inIndex: number
    readonly quarantined: number
    readonly verified: number
    readonly corrupt: number
    readonly inIndexNotInLog: number
    readonly inLogNotInIndex: number
    /** Groups behind the checkpoint: what the next start replays. */
    readonly toReplay: number
  }
  readonly findings: readonly string[]
  readonly findingsCount: number
  readonly notes: readonly string[]
  readonly sound: boolean
}

export interface ChunkInspection {
  readonly id: ChunkId
  readonly state: 'held' | 'quarantined' | 'not held' | 'damaged record'
  readonly record: ChunkRecord | undefined
  readonly finding: string | undefined
}

function same(a: Location, b: Location): boolean {
  return a.extent === b.extent && a.group === b.group && a.record === b.record && a.payload === b.payload
}

/** What is wrong with a large payload, or undefined. */
async function badPayload(file: ExtentFile, at: number, length: number, sums: Uint8Array, sum: Sum) {
  const into = new Uint8Array(Math.min(length, limits.frameBytes))
  for (let from = 0; from < length; from += limits.frameBytes) {
    const piece = into.subarray(0, Math.min(limits.frameBytes, length - from))
    if ((await file.read(piece, at + from)) < piece.length) return 'its extent ends early'
    const bad = firstBadBlock(sum, piece, from / limits.blockBytes, sums)
    if (bad !== undefined) return `block ${bad} does not match its checksum`
  }
  return undefined
}

class Inspector {
  readonly #world: InspectWorld
  readonly #options: InspectOptions
  readonly #index: ChunkIndex | undefined
  readonly #buffer = new Uint8Array(walkBufferBytes)
  readonly #findings: string[] = []
  readonly #notes: string[] = []
  /** Ids that the log stores, the index does not hold, and no record has deleted yet. */
  readonly #openIds = new Set<ChunkId>()
  #overflow = false
  #count = 0
  #matched = 0
  #verified = 0
  #corrupt = 0
  #toReplay = 0

  constructor(world: InspectWorld, options: InspectOptions) {
    this.#world = world
    this.#options = options
    this.#index = world.kv === undefined ? undefined : new ChunkIndex(world.kv, world.sum)
  }

  #found(line: string): void {
    this.#count++
    if (this.#findings.length < findingsMax) this.#findings.push(line)
  }

  async run(identity: DiskIdentity): Promise<DiskInspection> {
    const { extents } = this.#world
    const numbers = await extents.list()
    const mark = await readMark(this.#world.files)
    const read = await this.#index?.checkpoint()
    const checkpoint = read === 'damaged' ? undefined : read
    if (read === 'damaged') this.#found('index: its checkpoint is damaged')
    const reason = this.#startReason(numbers, checkpoint, mark?.state === 'wanted' ? mark.reason : undefined)
    if (this.#index === undefined && numbers.length > 0) this.#found(`index: ${this.#world.indexReason}`)
    const end: Position = checkpoint ?? { extent: Number.MAX_SAFE_INTEGER, offset: 0 }
    const reports: ExtentReport[] = []
    let previous: { report: ExtentReport; last: number } | undefined
    for (const number of numbers) previous = await this.#extent(number, end, reports, previous)
    const inIndex = await this.#books(reports, new Set(numbers))
    const inIndexNotInLog = inIndex.chunks - this.#matched
    if (inIndexNotInLog > 0) await this.#findUnmet(reports)
    const inLogNotInIndex = this.#judgeOpen(checkpoint, inIndex.chunks)
    return {
      path: this.#options.path,
      identity,
      checkpoint,
      start: reason === '' ? (checkpoint?.clean === false ? 'replay' : 'nothing to do') : 'rebuild',
      startReason: reason,
      extents: reports,
      chunks: {
        inIndex: inIndex.chunks,
        quarantined: inIndex.quarantined,
        verified: this.#verified,
        corrupt: this.#corrupt,
        inIndexNotInLog: Math.max(0, inIndexNotInLog),
        inLogNotInIndex,
        toReplay: this.#toReplay,
      },
      findings: this.#findings,
      findingsCount: this.#count,
      notes: this.#notes,
      sound: this.#count === 0,
    }
  }

  #startReason(numbers: readonly number[], checkpoint: Checkpoint | undefined, wanted: string | undefined): string {
    if (wanted !== undefined) return wanted
    if (numbers.length === 0 || checkpoint !== undefined) return ''
    return this.#index === undefined ? this.#world.indexReason : 'the index has no valid checkpoint'
  }

  async #extent(
    number: number,
    end: Position,
    reports: ExtentReport[],
    previous: { report: ExtentReport; last: number } | undefined,
  ): Promise<{ report: ExtentReport; last: number } | undefined> {
    const { extents, sum } = this.#world
    const file = await extents.open(number)
    try {
      const { header, state } = await readExtentHeaders(file, sum)
      const free = state === 'none'
      const use = free ? 'free' : number === end.extent ? 'active' : 'in use'
      const report: ExtentReport = {
        extent: number,
        bytes: file.size,
        state: use,
        header: state,
        groups: 0,
        puts: 0,
        deletes: 0,
        quarantines: 0,
        liveBytes: 0,
        quarantinedBytes: 0,
        deadBytes: 0,
        damage: 0,
        torn: 0,
      }
      reports.push(report)
      if (free) return previous
      if (header === undefined) {
        if (number <= end.extent) this.#damaged(report, 'both headers are damaged')
        return previous
      }
      if (state === 'one copy') this.#notes.push(`extent ${number}: one of the two copies of its header is damaged`)
      if (header.size > file.size) this.#damaged(report, `it was cut from ${header.size} to ${file.size} bytes`)
      const last = await this.#walk({ sequence: number, file, header, release: () => undefined }, report, end, previous)
      return { report, last }
    } finally {
      await file.close()
    }
  }

  #damaged(report: ExtentReport, line: string): void {
    report.damage++
    this.#found(`extent ${report.extent}: ${line}`)
  }

  /** Walks the groups of an extent. Gives where the last of them ends. */
  async #walk(
    held: HeldExtent,
    report: ExtentReport,
    end: Position,
    previous: { report: ExtentReport; last: number } | undefined,
  ): Promise<number> {
    const walk = new ExtentWalk(held, this.#world.sum, this.#buffer)
    let expected = firstGroupOffset
    let first = true
    for await (const group of walk.groups(firstGroupOffset, held.file.size - sectorBytes)) {
      if (first) this.#join(group, previous)
      first = false
      const acknowledged = isBefore(group, end)
      if (!acknowledged) this.#toReplay++
      // A gap is certain damage only where something synced lies behind it.
      if (group.offset !== expected && isBefore({ extent: group.extent, offset: expected }, group.watermark)) {
        this.#damaged(report, `bytes ${expected} to ${group.offset} of the log are damaged`)
      }
      expected = groupEnd(group).offset
      report.groups++
      const { contents, whole } = await walk.contents(group)
      if (!whole && acknowledged) this.#damaged(report, `a record of the group at ${group.offset} is damaged`)
      for (const content of contents) await this.#content(held.file, content, report, acknowledged)
    }
    if (end.extent === report.extent && expected < end.offset) {
      this.#damaged(report, `bytes ${expected} to ${end.offset} of the log are damaged`)
    }
    return expected
  }

  /** Where the extent before says it was left; what it has behind that was dropped at a crash, what it lacks is damage. */
  #join(group: FoundGroup, previous: { report: ExtentReport; last: number } | undefined): void {
    if (previous === undefined || group.before.extent !== previous.report.extent) return
    if (previous.last > group.before.offset) previous.report.torn++
    if (previous.last < group.before.offset) {
      this.#damaged(previous.report, `bytes ${previous.last} to ${group.before.offset} of the log are damaged`)
    }
  }

  async #content(file: ExtentFile, content: Content, report: ExtentReport, acknowledged: boolean): Promise<void> {
    const { record, location, inline } = content
    if (record.kind !== 'put') {
      report[record.kind === 'delete' ? 'deletes' : 'quarantines']++
      this.#openIds.delete(record.id)
      return
    }
    report.puts++
    const known = await this.#index?.get(record.id)
    if (known?.kind !== 'held' || !same(known.record.location, location)) {
      if (known?.kind === 'none' && acknowledged) this.#follow(record.id)
      return
    }
    this.#matched++
    const name = `chunk ${formatChunkId(record.id)}`
    if (!equalBytes(known.record.root, record.root)) this.#found(`${name}: log and index name different content`)
    if (inline !== undefined) {
      const logged = equalBytes(blockSumsOf(this.#world.sum, inline), record.blockSums)
      const kept = known.record.inline
      const indexed = kept !== undefined && equalBytes(blockSumsOf(this.#world.sum, kept), record.blockSums)
      if (logged && indexed) this.#verified++
      else this.#bad(`${name}: its copy in the ${logged ? 'index' : 'log'} does not match its checksum`)
      return
    }
    if (!this.#options.payload) return
    const finding = await badPayload(file, location.payload, record.length, record.blockSums, this.#world.sum)
    if (finding === undefined) this.#verified++
    else this.#bad(`${name}: ${finding}`)
  }

  #bad(line: string): void {
    this.#corrupt++
    this.#found(line)
  }

  #follow(id: ChunkId): void {
    if (this.#openIds.size < openIdsMax) this.#openIds.add(id)
    else this.#overflow = true
  }

  /** What the index holds, and the figures of the extents that follow from it. */
  async #books(reports: readonly ExtentReport[], files: ReadonlySet<number>) {
    if (this.#index === undefined) return { chunks: 0, quarantined: 0 }
    const byExtent = new Map(reports.map((report) => [report.extent, report]))
    let chunks = 0
    let missing = 0
    for await (const { id, record } of this.#records()) {
      chunks++
      if (record === undefined) this.#found(`chunk ${formatChunkId(id)}: its record in the index is damaged`)
      else if (!files.has(record.location.extent)) missing++
      else (byExtent.get(record.location.extent) as ExtentReport).liveBytes += record.location.span
    }
    if (missing > 0) this.#found(`index: ${missing} chunks are in extents that are missing`)
    const quarantined = await this.#index.quarantinedBytes()
    for (const [extent, bytes] of quarantined) {
      const report = byExtent.get(extent)
      if (report !== undefined) report.quarantinedBytes += bytes
    }
    for (const report of reports) {
      if (report.state === 'free' || report.groups === 0) continue
      report.deadBytes = Math.max(0, report.bytes - 2 * sectorBytes - report.liveBytes - report.quarantinedBytes)
    }
    let bytes = 0
    for (const count of quarantined.values()) bytes += count
    return { chunks, quarantined: bytes }
  }

  async *#records() {
    for (let from = 0; this.#index !== undefined; ) {
      const page = await this.#index.records(from, pageRecords)
      yield* page
      const last = page.at(-1)
      if (last === undefined || page.length < pageRecords) return
      from = last.id + 1
    }
  }

  /** Chunks of the index whose record the walk did not meet: named one by one. */
  async #findUnmet(reports: readonly ExtentReport[]): Promise<void> {
    const used = new Set(reports.flatMap(({ extent, state }) => (state === 'free' ? [] : [extent])))
    let shown = 0
    for await (const { id, record } of this.#records()) {
      if (record === undefined || shown >= findingsMax) continue
      if (used.has(record.location.extent) && (await this.#isInLog(id, record))) continue
      shown++
      this.#found(`chunk ${formatChunkId(id)}: the index names a place in the log that does not hold it`)
    }
  }

  async #isInLog(id: ChunkId, { location }: ChunkRecord): Promise<boolean> {
    const file = await this.#world.extents.open(location.extent)
    try {
      const { header } = await readExtentHeaders(file, this.#world.sum)
      const held: HeldExtent = { sequence: location.extent, file, header, release: () => undefined }
      const walk = new ExtentWalk(held, this.#world.sum, this.#buffer)
      for await (const group of walk.groups(location.group, location.group + 1)) {
        const { contents } = await walk.contents(group)
        return contents.some(
          ({ record, location: at }) => record.kind === 'put' && record.id === id && same(at, location),
        )
      }
      return false
    } finally {
      await file.close()
    }
  }

  /**
   * Ids that the log stores and the index lacks. Some belong there: their delete was in an extent that is recycled by now.
   * The checkpoint's count of chunks tells whether any are lost.
   */
  #judgeOpen(checkpoint: Checkpoint | undefined, inIndex: number): number {
    if (this.#overflow) this.#notes.push(`more than ${openIdsMax} deleted chunks are in the log: not all were followed`)
    const short = (checkpoint?.chunks ?? 0) - inIndex
    if (checkpoint?.clean !== true || short <= 0) return this.#openIds.size
    const ids = [...this.#openIds].slice(0, 20).map(formatChunkId).join(' ')
    this.#found(`index: it lacks ${short} of ${checkpoint.chunks} chunks${ids === '' ? '' : `; the log has ${ids}`}`)
    return this.#openIds.size
  }

  async chunk(id: ChunkId): Promise<ChunkInspection> {
    const known = (await this.#index?.get(id)) ?? { kind: 'none' as const }
    if (known.kind === 'damaged') return { id, state: 'damaged record', record: undefined, finding: undefined }
    if (known.kind === 'none') {
      const quarantined = ((await this.#index?.quarantinesOf(id)) ?? []).length > 0
      return { id, state: quarantined ? 'quarantined' : 'not held', record: undefined, finding: undefined }
    }
    const { record } = known
    if ((await this.#world.extents.sizeOf(record.location.extent)) === undefined) {
      return { id, state: 'held', record, finding: `its extent ${record.location.extent} is missing` }
    }
    if (!(await this.#isInLog(id, record)))
      return { id, state: 'held', record, finding: 'its record in the log is damaged' }
    const file = await this.#world.extents.open(record.location.extent)
    try {
      const { location, length, blockSums } = record
      return {
        id,
        state: 'held',
        record,
        finding: await badPayload(file, location.payload, length, blockSums, this.#world.sum),
      }
    } finally {
      await file.close()
    }
  }
}

/** Looks through the whole disk. INCOMPATIBLE_VERSION and CORRUPT for its identity. */
export async function inspectDisk(world: InspectWorld, options: InspectOptions): Promise<DiskInspection | undefined> {
  const identity = await readIdentity(world.files, options.path, world.sum)
  return identity === undefined ? undefined : new Inspector(world, options).run(identity)
}

/** Looks at one chunk. */
export function inspectChunk(world: InspectWorld, options: InspectOptions, id: ChunkId): Promise<ChunkInspection> {
  return new Inspector(world, options).chunk(id)
}
