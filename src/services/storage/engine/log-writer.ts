/**
 * Appends to the extent log with group commit.
 *
 * Three stages, each taking everything that waits when it gets round to it: write (one batch of groups at a time), sync
 * (one fdatasync for all that was written while the one before ran), index (one batch of changes at a time, in log order).
 * An append resolves when its record is synced and in the index.
 *
 * Invariants: groups are placed in the order of the chain; a batch lies in one extent; nothing is written below a place
 * that was synced; a failed write or sync fails the disk for good, except a full filesystem, which takes the batch back:
 * none of it was acknowledged, so its place is written again.
 */

import { assert } from '../../../base/assert.ts'
import {
  encodeGroupHeader,
  frameSeed,
  groupHeadBytesMax,
  groupHeaderBytes,
  headBytes,
} from '../../../core/chunk/group.ts'
import { indexChanges, type IndexChange } from '../../../core/chunk/index-record.ts'
import { alignUp, firstGroupOffset, type Position, sectorBytes } from '../../../core/chunk/position.ts'
import {
  encodeRecord,
  frameBytes,
  frameHeadBytes,
  type Location,
  type LogRecord,
  writeFrame,
} from '../../../core/chunk/record.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { emptyBytes } from '../../../base/bytes.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { Clock, Timer } from '../../../ports/clock.ts'
import type { Metrics } from '../../../ports/metrics.ts'
import type { ExtentFile } from '../../../ports/extents.ts'
import type { Checkpointer } from './checkpointer.ts'
import type { ChunkIndex } from './chunk-index.ts'
import type { ExtentTable, HeldExtent, Purpose } from './extent-table.ts'
import type { Ledger } from './ledger.ts'
import type { DiskGate } from './types.ts'

/** End of an extent that puts leave to deletes and quarantines, so that a full disk can still note them. */
export const urgentTailBytes = 64 * 1024

/** Groups written by one call. */
const runPiecesMax = 256
const runBytesMax = 2 * 1024 * 1024

/** What to append: a record, with its payload in the frame (`inline`) or after the head (`payload`). */
export interface LogItem {
  readonly record: LogRecord
  readonly inline?: Uint8Array
  /** An aligned slot: a free sector for the head, then the payload, zero up to its end. */
  readonly payload?: Uint8Array
  /** Compaction: makes room in the end, so it may use a part of the reserve. */
  readonly move?: boolean
}

interface Pending extends LogItem {
  readonly body: Uint8Array
  readonly resolve: (location: Location) => void
  readonly reject: (error: Error) => void
}

interface Placed {
  readonly item: Pending
  readonly location: Location
}

interface Batch {
  readonly placed: Placed[]
  readonly extent: HeldExtent
  readonly end: Position
  readonly chain: Uint8Array
  readonly headBytes: number
}

/** One write to make: a whole group. */
interface GroupWrite {
  readonly bytes: Uint8Array
  readonly offset: number
}

/**
 * Starts the writes. Groups lie one after another: small neighbours go in one call, which costs a tenth of a call for
 * each; large ones in several at once, which keeps the disk busy.
 */
function writeRuns(file: ExtentFile, writes: readonly GroupWrite[]): Promise<void>[] {
  const started: Promise<void>[] = []
  let run: GroupWrite[] = []
  let bytes = 0
  const start = (): void => {
    const [first] = run
    if (first === undefined) return
    const pieces = run.map((write) => write.bytes)
    if (run.length > 1 && file.writeAll !== undefined) started.push(file.writeAll(pieces, first.offset))
    else for (const write of run) started.push(file.write(write.bytes, write.offset))
    run = []
    bytes = 0
  }
  for (const write of writes) {
    if (run.length === runPiecesMax || bytes + write.bytes.length > runBytesMax) start()
    run.push(write)
    bytes += write.bytes.length
  }
  start()
  return started
}

export interface LogParts {
  readonly table: ExtentTable
  readonly index: ChunkIndex
  readonly ledger: Ledger
  readonly checkpointer: Checkpointer
  readonly gate: DiskGate
  readonly clock: Clock
  readonly metrics: Metrics
  readonly sum: Sum
  /** Aligned, `groupHeadBytesMax` bytes: small records are packed here. */
  readonly packing: Uint8Array
  readonly salt: Uint8Array
  /** Quiet time after which the closing watermark is written. */
  readonly idleMs: number
}

export class LogWriter {
  readonly #parts: LogParts
  #active: HeldExtent | undefined
  #tail: Position
  #chain: Uint8Array
  #synced: Position
  #before: Position = { extent: 0, offset: 0 }
  #queue: Pending[] = []
  #written: Batch[] = []
  #syncedBatches: Batch[] = []
  #writing: Promise<void> | undefined
  #syncing: Promise<void> | undefined
  #indexing: Promise<void> | undefined
  /** Up to where the log is in the books, and the size of that extent; undefined before the first batch of a new one. */
  #booked: { readonly end: Position; readonly size: number } | undefined
  #markWanted = false
  #unmarked = false
  #finished = false
  #idle: Timer | undefined

  /** `active` holds the extent of `tail`; undefined when the next append starts a new extent. */
  constructor(parts: LogParts, active: HeldExtent | undefined, tail: Position, chain: Uint8Array) {
    this.#parts = parts
    this.#active = active
    this.#booked = active === undefined ? undefined : { end: tail, size: active.header?.size ?? active.file.size }
    this.#tail = tail
    this.#chain = chain
    this.#synced = tail
  }

  /** Bytes left in the extent that is being written. */
  get roomBytes(): number {
    return this.#active === undefined ? 0 : Math.max(0, this.#endOf(this.#active) - this.#tail.offset)
  }

  /** Resolves to the record's place when it is durable and in the index. NO_SPACE, DISK_FAILED. */
  append(item: LogItem): Promise<Location> {
    const { gate } = this.#parts
    if (gate.refusal !== undefined) return Promise.reject(gate.refusal)
    if (this.#finished) return Promise.reject(new StoreError('SHUTTING_DOWN', 'the log of this disk is closed'))
    return new Promise((resolve, reject) => {
      this.#queue.push({ ...item, body: encodeRecord(item.record), resolve, reject })
      this.#unmarked = true
      this.#kickWrite()
    })
  }

  /** Waits for everything, then closes the log: the watermark covers all of it. What a late reader still finds is not noted. */
  async finish(): Promise<void> {
    this.#finished = true
    await this.#settle()
    if (this.#unmarked && this.#parts.gate.refusal === undefined) {
      this.#markWanted = true
      this.#kickWrite()
      await this.#settle()
    }
    this.#idle?.cancel()
    this.#active?.release()
    this.#active = undefined
  }

  async #settle(): Promise<void> {
    for (;;) {
      const work = this.#writing ?? this.#syncing ?? this.#indexing
      if (work === undefined) return
      await work
    }
  }

  #kickWrite(): void {
    this.#writing ??= this.#writeAll().finally(() => {
      this.#writing = undefined
      if (this.#queue.length > 0 || this.#markWanted) this.#kickWrite()
      else this.#watchIdle()
    })
  }

  async #writeAll(): Promise<void> {
    // Lets everything that is appended in this turn into one batch.
    await Promise.resolve()
    while (this.#queue.length > 0 || this.#markWanted) {
      const { refusal } = this.#parts.gate
      if (refusal !== undefined) return this.#rejectQueue(refusal)
      try {
        await this.#writeBatch()
      } catch (error) {
        this.#failDisk('writing', error)
      }
    }
  }

  async #writeBatch(): Promise<void> {
    const first = this.#queue[0]
    const needed = first === undefined ? sectorBytes : this.#sizeAlone(first)
    const purpose = first?.move === true ? 'move' : first?.record.kind === 'put' ? 'chunk' : 'note'
    if (this.#active === undefined || !this.#fits(needed, purpose === 'note')) {
      try {
        await this.#roll(needed, purpose)
      } catch (error) {
        if (!isStoreError(error) || error.code !== 'NO_SPACE') throw error
        if (first === undefined) this.#markWanted = false
        else this.#queue.shift()?.reject(error)
        return
      }
    }
    const active = this.#active
    assert(active !== undefined, 'a batch has an extent')
    const before = { tail: this.#tail, chain: this.#chain }
    const { placed, writes, heads } = this.#pack(active)
    const held = await this.#parts.table.hold(active.sequence)
    assert(held !== undefined, 'the active extent is in use')
    const results = await Promise.allSettled(writeRuns(active.file, writes))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed === undefined) {
      this.#written.push({ placed, extent: held, end: this.#tail, chain: this.#chain, headBytes: heads })
      if (this.#tail.offset > this.#endOf(active) / 2) this.#parts.table.prepareAhead()
      this.#kickSync()
      return
    }
    held.release()
    const full = results.every(
      (r) => r.status === 'fulfilled' || (isStoreError(r.reason) && r.reason.code === 'NO_SPACE'),
    )
    this.#tail = before.tail
    this.#chain = before.chain
    // A closing mark among it is due again, as after any append.
    this.#unmarked = true
    const error: Error = full ? (failed.reason as Error) : this.#parts.gate.stop('writing', failed.reason)
    for (const { item } of placed) item.reject(error)
  }

  #endOf(extent: HeldExtent): number {
    return (extent.header?.size ?? extent.file.size) - sectorBytes
  }

  #fits(bytes: number, urgent: boolean): boolean {
    const room = this.roomBytes
    const tail =
      urgent || this.#active === undefined ? 0 : Math.min(urgentTailBytes, alignUp(this.#endOf(this.#active) / 16))
    return bytes + tail <= room
  }

  #sizeAlone(item: Pending): number {
    return (
      headBytes(frameBytes(item.body, item.inline?.length ?? 0)) + (item.payload?.length ?? sectorBytes) - sectorBytes
    )
  }

  async #roll(needed: number, purpose: Purpose): Promise<void> {
    const tail = purpose === 'note' ? 0 : urgentTailBytes
    const next = await this.#parts.table.next(needed + tail, purpose)
    this.#active?.release()
    this.#active = next
    this.#before = this.#tail
    this.#tail = { extent: next.sequence, offset: firstGroupOffset }
  }

  /** Takes from the queue what fits the extent: small records in one group, each large one in its own. */
  #pack(active: HeldExtent): { placed: Placed[]; writes: GroupWrite[]; heads: number } {
    const nonce = active.header?.nonce
    assert(nonce !== undefined, 'the extent that is written has its header')
    const small: Pending[] = []
    const large: Pending[] = []
    let framesBytes = 0
    let largeBytes = 0
    while (this.#queue.length > 0) {
      const item = this.#queue[0]
      assert(item !== undefined, 'the queue is not empty')
      const frames = framesBytes + (item.payload === undefined ? frameBytes(item.body, item.inline?.length ?? 0) : 0)
      const larges = largeBytes + (item.payload?.length ?? 0)
      if (groupHeaderBytes + frames > groupHeadBytesMax) break
      if (!this.#fits((frames > 0 ? headBytes(frames) : 0) + larges, item.record.kind !== 'put')) break
      this.#queue.shift()
      framesBytes = frames
      largeBytes = larges
      if (item.payload === undefined) small.push(item)
      else large.push(item)
    }
    const placed: Placed[] = []
    const writes: GroupWrite[] = []
    if (small.length > 0 || this.#markWanted) {
      this.#markWanted = false
      if (small.length === 0 && large.length === 0) this.#unmarked = false
      writes.push(this.#packSmall(small, framesBytes, nonce, placed))
    }
    for (const item of large) writes.push(this.#packLarge(item, nonce, placed))
    assert(writes.length > 0, 'a batch writes something')
    return { placed, writes, heads: headBytes(framesBytes) + large.length * sectorBytes }
  }

  #packSmall(items: readonly Pending[], framesBytes: number, nonce: Uint8Array, placed: Placed[]): GroupWrite {
    const group = this.#parts.packing.subarray(0, headBytes(framesBytes))
    const { extent, offset } = this.#tail
    const seed = frameSeed(nonce, this.#header(group, framesBytes, items.length, 0, nonce))
    let at = groupHeaderBytes
    for (const item of items) {
      const inline = item.inline ?? emptyBytes
      const payload = offset + at + frameHeadBytes + item.body.length
      const span = frameBytes(item.body, inline.length)
      placed.push({ item, location: { extent, group: offset, record: at, payload, span } })
      at = writeFrame(group, at, item.body, inline, seed, this.#parts.sum)
    }
    group.fill(0, at)
    return { bytes: group, offset }
  }

  #packLarge(item: Pending, nonce: Uint8Array, placed: Placed[]): GroupWrite {
    const group = item.payload
    assert(group !== undefined, 'a large record has its slot')
    const { extent, offset } = this.#tail
    const framesBytes = frameBytes(item.body, 0)
    assert(headBytes(framesBytes) === sectorBytes, 'the head of a large record is one sector')
    const seed = frameSeed(nonce, this.#header(group, framesBytes, 1, group.length - sectorBytes, nonce))
    const end = writeFrame(group, groupHeaderBytes, item.body, emptyBytes, seed, this.#parts.sum)
    group.fill(0, end, sectorBytes)
    const location = {
      extent,
      group: offset,
      record: groupHeaderBytes,
      payload: offset + sectorBytes,
      span: group.length,
    }
    placed.push({ item, location })
    return { bytes: group, offset }
  }

  /** Writes the header of the next group and moves the tail and the chain past it. */
  #header(
    out: Uint8Array,
    framesBytes: number,
    frameCount: number,
    payloadBytes: number,
    nonce: Uint8Array,
  ): Uint8Array {
    const { extent, offset } = this.#tail
    const header = {
      extent,
      offset,
      watermark: this.#synced,
      chain: this.#chain,
      salt: this.#parts.salt,
      framesBytes,
      frameCount,
      payloadBytes,
      before: this.#before,
    }
    this.#chain = encodeGroupHeader(header, nonce, out, this.#parts.sum)
    this.#tail = { extent, offset: offset + headBytes(framesBytes) + payloadBytes }
    return this.#chain
  }

  #kickSync(): void {
    this.#syncing ??= this.#syncAll().finally(() => {
      this.#syncing = undefined
      if (this.#written.length > 0) this.#kickSync()
      else this.#watchIdle()
    })
  }

  async #syncAll(): Promise<void> {
    while (this.#written.length > 0) {
      const batches = this.#written
      this.#written = []
      const { clock, metrics, gate } = this.#parts
      const startMs = clock.monotonicMs()
      try {
        if (gate.refusal !== undefined) throw gate.refusal
        const files = new Map(batches.map((batch) => [batch.extent.sequence, batch.extent.file]))
        await Promise.all([...files.values()].map((file) => file.sync()))
      } catch (error) {
        this.#rejectBatches(batches, gate.stop('syncing', error))
        continue
      }
      metrics.observe(
        'holdfast_disk_sync_seconds',
        'Time of one fdatasync of the extent log.',
        (clock.monotonicMs() - startMs) / 1000,
      )
      const last = batches.at(-1)
      if (last !== undefined) this.#synced = last.end
      this.#syncedBatches.push(...batches)
      this.#kickIndex()
    }
  }

  #kickIndex(): void {
    this.#indexing ??= this.#indexAll().finally(() => {
      this.#indexing = undefined
      if (this.#syncedBatches.length > 0) this.#kickIndex()
      else this.#watchIdle()
    })
  }

  async #indexAll(): Promise<void> {
    while (this.#syncedBatches.length > 0) {
      const batches = this.#syncedBatches
      this.#syncedBatches = []
      const { index, checkpointer, gate, sum } = this.#parts
      const changes: IndexChange[] = []
      for (const { placed } of batches) {
        for (const { item, location } of placed) changes.push(...indexChanges(item.record, location, item.inline, sum))
      }
      checkpointer.applying()
      try {
        if (gate.refusal !== undefined) throw gate.refusal
        if (changes.length > 0) await index.apply(changes)
      } catch (error) {
        this.#rejectBatches(batches, gate.stop('writing the index', error))
        continue
      }
      this.#account(batches)
    }
  }

  #account(batches: readonly Batch[]): void {
    const { ledger, checkpointer } = this.#parts
    const emptied: number[] = []
    let heads = 0
    for (const batch of batches) {
      heads += batch.headBytes
      if (this.#booked !== undefined && this.#booked.end.extent !== batch.end.extent) {
        const { end, size } = this.#booked
        ledger.seal(end.extent, size, end.offset)
        emptied.push(end.extent)
      }
      this.#booked = { end: batch.end, size: batch.extent.header?.size ?? batch.extent.file.size }
      for (const { item, location } of batch.placed) emptied.push(...ledger.apply(item.record, location))
    }
    const last = batches.at(-1)
    if (last !== undefined) checkpointer.applied(last.end, last.chain, heads)
    for (const extent of emptied) checkpointer.emptied(extent)
    for (const batch of batches) {
      batch.extent.release()
      for (const { item, location } of batch.placed) item.resolve(location)
    }
    ledger.booked()
  }

  #watchIdle(): void {
    if (this.#writing !== undefined || this.#syncing !== undefined || this.#indexing !== undefined) return
    if (!this.#unmarked || this.#idle !== undefined || this.#parts.gate.closing) return
    this.#idle = this.#parts.clock.after(this.#parts.idleMs, () => {
      this.#idle = undefined
      if (this.#parts.gate.refusal !== undefined || this.#parts.gate.closing) return
      if (this.#writing === undefined && this.#queue.length === 0) {
        this.#markWanted = true
        this.#kickWrite()
      }
    })
  }

  #failDisk(doing: 'writing', error: unknown): void {
    this.#rejectQueue(this.#parts.gate.stop(doing, error))
  }

  #rejectQueue(error: Error): void {
    const items = this.#queue
    this.#queue = []
    this.#markWanted = false
    for (const item of items) item.reject(error)
  }

  #rejectBatches(batches: readonly Batch[], error: Error): void {
    for (const batch of batches) {
      batch.extent.release()
      for (const { item } of batch.placed) item.reject(error)
    }
  }
}
