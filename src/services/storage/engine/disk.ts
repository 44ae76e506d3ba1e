/**
 * The disk engine: chunks of one directory, kept in an extent log with a LevelDB index beside it (docs/ARCHITECTURE.md, "The disk").
 *
 * What it promises: a put that resolved is fdatasynced; what is read was checked against its sums; a replica that is not
 * intact is kept, no longer served, and reported once; a delete that resolved stays deleted; after a crash everything
 * acknowledged is there. What it does not: that a put that failed left nothing behind (meta's chunk report removes it).
 *
 * A change of an id holds the id's lock from the look-up to the end of the append, so each record in the log says exactly
 * what it frees.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { Semaphore } from '../../../base/async/semaphore.ts'
import { blockSumsOf, type Sum } from '../../../core/chunk/sums.ts'
import { type ChunkRecord, freedBy } from '../../../core/chunk/index-record.ts'
import type { Freed } from '../../../core/chunk/record.ts'
import type { DiskIdentity } from '../../../core/chunk/identity.ts'
import { asStoreError, isStoreError, StoreError } from '../../../model/errors.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import type { ChunkReader, ChunkWriter, DiskEngine, DiskStatus, PutRequest, PutResult } from '../types.ts'
import { Arena } from './arena.ts'
import type { HeldExtent } from './extent-table.ts'
import { adoptIdentity } from './identity-file.ts'
import { KeyedLocks } from './keyed-locks.ts'
import { lostAt, type LostExtents, walkLost } from './lost-extents.ts'
import type { LogItem } from './log-writer.ts'
import { assembleDisk, type DiskParts } from './open.ts'
import { checkPut, slotBytes, SlotWriter } from './put.ts'
import { blockRange, ExtentReader, InlineReader, type ReadParts } from './read.ts'
import { type DiskDeps, DiskGate, type DiskOptions } from './types.ts'
import { Verifier, verifyBufferBytes } from './verify.ts'

const arenaBytesDefault = 64 * 1024 * 1024
/** Reads of extents that run at once: they share the process's I/O threads with the log's writes. */
const readsMax = 8
/** Ids deleted by one batch of log records. */
const deleteBatch = 1024
/** What goes with an index record that does not check out: one chunk less, and no bytes that we know of. */
const placeUnknown: Freed = { extent: 0, payload: 0, span: 0, held: true }
/** Findings kept until somebody listens; what is more shows in the full report that follows every start of a node. */
const findingsMax = 1024

/** True when the chunk has this root, or none is asked for. */
function isRoot(record: ChunkRecord, root: Uint8Array | undefined): boolean {
  return root === undefined || root.length === 0 || equalBytes(record.root, root)
}

interface Stored {
  readonly record: ChunkRecord
  readonly held: HeldExtent
}

class Disk implements DiskEngine {
  readonly path: string
  readonly clean: boolean
  readonly rebuilt: boolean
  readonly #deps: DiskDeps
  readonly #options: DiskOptions
  readonly #parts: DiskParts
  readonly #gate: DiskGate
  readonly #sum: Sum
  readonly #arena: Arena
  readonly #locks = new KeyedLocks()
  readonly #permits = new Semaphore(readsMax)
  readonly #verifier: Verifier
  #identity: DiskIdentity
  #idMax: ChunkId
  #incoming = 0
  #working = 0
  #quiet: (() => void) | undefined
  #closed: Promise<void> | undefined
  #corruptHandler: ((id: ChunkId, finding: string) => void) | undefined
  #findings: [ChunkId, string][] = []
  /** Extents whose loss was met while running; each is looked through once. */
  readonly #swept = new Set<number>()

  constructor(deps: DiskDeps, options: DiskOptions, parts: DiskParts, gate: DiskGate, sum: Sum, idMax: ChunkId) {
    this.path = options.path
    this.clean = parts.clean
    this.rebuilt = parts.rebuilt
    this.#deps = deps
    this.#options = options
    this.#parts = parts
    this.#gate = gate
    this.#sum = sum
    this.#arena = new Arena(deps.extents.arena(options.arenaBytes ?? arenaBytesDefault))
    this.#verifier = new Verifier(deps.extents.arena(verifyBufferBytes), sum)
    this.#identity = parts.identity
    this.#idMax = idMax
    this.#countRead(0)
  }

  get id(): string {
    return this.#identity.diskId
  }

  get clusterId(): string | undefined {
    return this.#identity.clusterId
  }

  get clusterIncarnation(): number {
    return this.#identity.clusterIncarnation
  }

  async adopt(clusterId: string, nodeId: string, incarnation = 1): Promise<void> {
    const owner = { clusterId, nodeId, incarnation }
    this.#gate.check()
    try {
      this.#identity = await adoptIdentity(this.#deps.files, this.path, this.#identity, owner, this.#sum)
    } catch (error) {
      if (isStoreError(error) && error.code === 'WRONG_CLUSTER') throw error
      throw this.#gate.fail('writing its identity', error)
    }
  }

  status(): DiskStatus {
    const { space, ledger } = this.#parts
    if (space.stale && !this.#gate.closing) space.refresh().catch(() => undefined)
    const roomBytes = this.#room()
    return {
      state: this.#gate.failure === undefined ? 'ok' : 'failed',
      capacityBytes: space.totalBytes,
      usedBytes: Math.max(0, space.totalBytes - roomBytes),
      freeForNewBytes: Math.max(0, roomBytes - this.#incoming - this.#options.reserveBytes),
      chunks: ledger.chunks,
      chunkIdMax: this.#idMax,
    }
  }

  /** Bytes that can still be written: the filesystem's and those of extents made ahead. */
  #room(): number {
    const { space, table, log } = this.#parts
    return space.freeBytes + table.freeBytes + log.roomBytes
  }

  async beginPut(request: PutRequest, signal: AbortSignal): Promise<ChunkWriter> {
    this.#gate.check()
    checkPut(request)
    const slot = slotBytes(request.length)
    if (slot > this.#options.extentBytes / 2) {
      throw new StoreError('INVALID_ARGUMENT', `put chunk: ${request.length} bytes do not fit this disk's extents`)
    }
    await this.#admit(slot)
    try {
      const memory = await this.#arena.take(slot, signal)
      return new SlotWriter(request, memory, {
        sum: this.#sum,
        store: (put, result, item) => this.#work(() => this.#store(put, result, item)),
        settled: () => {
          this.#incoming -= slot
        },
      })
    } catch (error) {
      this.#incoming -= slot
      throw asStoreError(error, `put chunk ${formatChunkId(request.id)}`)
    }
  }

  /** Counts `bytes` as on their way in. Throws NO_SPACE when the reserve would be touched. */
  async #admit(bytes: number): Promise<void> {
    const { space } = this.#parts
    const fits = (): boolean => this.#room() - this.#incoming - bytes >= this.#options.reserveBytes
    if (space.stale || !fits()) await space.refresh()
    if (!fits()) {
      const message = `disk ${this.path} has no room above its reserve: free some space, add a disk, or write elsewhere`
      throw new StoreError('NO_SPACE', message)
    }
    this.#incoming += bytes
  }

  /** Runs `work` so that `close` waits for it. */
  async #work<T>(work: () => Promise<T>): Promise<T> {
    this.#gate.check()
    this.#working++
    try {
      return await work()
    } finally {
      this.#working--
      if (this.#working === 0) this.#quiet?.()
    }
  }

  #store(request: PutRequest, result: PutResult, item: Omit<LogItem, 'record'>): Promise<void> {
    const { id, length, lease } = request
    return this.#locks.run([id], async () => {
      const { index, log } = this.#parts
      const known = await index.get(id)
      if (known.kind === 'held' && request.replace !== true) {
        if (equalBytes(known.record.root, result.root)) return
        const message = `put chunk ${formatChunkId(id)}: disk ${this.path} holds other content under this id`
        throw new StoreError('CONFLICT', message)
      }
      const frees: Freed[] = known.kind === 'held' ? [freedBy(known.record.location, true)] : []
      if (known.kind === 'damaged') frees.push(placeUnknown)
      await log.append({ record: { kind: 'put', id, length, lease, ...result, frees }, ...item })
      this.#idMax = Math.max(this.#idMax, id)
      this.#deps.metrics.count('holdfast_disk_written_bytes_total', 'Payload bytes stored.', length)
    })
  }

  async openRead(id: ChunkId, offset: number, length: number): Promise<ChunkReader> {
    this.#gate.check()
    const { record, held } = await this.#find(id)
    try {
      const range = blockRange(id, record.length, offset, length)
      if (record.inline !== undefined) {
        if (this.#inlineIntact(record)) {
          held.release()
          this.#countRead(record.inline.length)
          return new InlineReader(record, record.inline)
        }
        // The log has the bytes too: what it says decides.
        this.#deps.log.warn('a small chunk is damaged in the index, reading it from the log', {
          disk: this.path,
          chunk: id,
        })
      }
      return new ExtentReader(id, record, range, held, this.#readParts())
    } catch (error) {
      held.release()
      throw error
    }
  }

  #countRead(bytes: number): void {
    this.#deps.metrics.count('holdfast_disk_read_bytes_total', 'Payload bytes read for clients and copies.', bytes)
  }

  #readParts(): ReadParts {
    return {
      sum: this.#sum,
      gate: this.#gate,
      permits: this.#permits,
      onRead: (bytes) => this.#countRead(bytes),
      onBad: (id, record, finding) => this.#bad(id, record, finding),
    }
  }

  #inlineIntact(record: ChunkRecord): boolean {
    return record.inline !== undefined && equalBytes(blockSumsOf(this.#sum, record.inline), record.blockSums)
  }

  /** The chunk's record with its extent held. A place in an extent that is gone means "moved": looked up again. */
  async #find(id: ChunkId): Promise<Stored> {
    for (let attempt = 0; attempt < 10; attempt++) {
      const known = await this.#parts.index.get(id)
      if (known.kind === 'damaged') {
        await this.#dropDamaged(id)
        continue
      }
      if (known.kind === 'none')
        throw new StoreError('NOT_FOUND', `chunk ${formatChunkId(id)} is not on disk ${this.path}`)
      const held = await this.#hold(id, known.record)
      if (held !== undefined) return { record: known.record, held }
    }
    throw this.#missingExtent(id)
  }

  #missingExtent(id: ChunkId): StoreError {
    const message = `chunk ${formatChunkId(id)}: the extent that disk ${this.path} has it in is missing; use another replica`
    return new StoreError('CORRUPT', message)
  }

  /** The extent of a chunk, held; undefined when it moved. A file that is gone takes the chunk out of service: CORRUPT. */
  async #hold(id: ChunkId, record: ChunkRecord): Promise<HeldExtent | undefined> {
    const { extent } = record.location
    const { table } = this.#parts
    try {
      const held = await table.hold(extent)
      // Not known and without a file: gone, not recycled under another number.
      if (held !== undefined || table.has(extent)) return held
      if ((await this.#deps.extents.sizeOf(extent)) !== undefined) return undefined
      const known = await this.#parts.index.get(id)
      if (known.kind !== 'held' || known.record.location.extent !== extent) return undefined
    } catch (error) {
      if ((await this.#deps.extents.sizeOf(extent)) !== undefined) throw error
    }
    await this.#bad(id, record, `its extent ${extent} is missing`)
    throw this.#missingExtent(id)
  }

  /** A replica is not intact. When its file is gone or was cut off, the others in it are looked for too. */
  async #bad(id: ChunkId, record: ChunkRecord, finding: string): Promise<void> {
    await this.#quarantine(id, record, finding)
    this.#work(() => this.#lookAtExtent(record.location.extent)).catch((error: unknown) => {
      if (this.#gate.closing) return
      const reason = asStoreError(error, 'look at an extent').message
      this.#deps.log.warn('an extent could not be looked through', { disk: this.path, reason })
    })
  }

  async #lookAtExtent(extent: number): Promise<void> {
    if (this.#swept.has(extent)) return
    const size = (await this.#deps.extents.sizeOf(extent)) ?? 0
    const held = size === 0 ? undefined : await this.#parts.table.hold(extent)
    const wholeBytes = held === undefined ? Number.POSITIVE_INFINITY : (held.header?.size ?? held.file.size)
    held?.release()
    if (size >= wholeBytes || this.#swept.has(extent)) return
    this.#swept.add(extent)
    const lost = new Map([[extent, size]])
    await this.#sweep(lost, ({ location, length }) => lostAt(lost, location, length))
  }

  /** At the start: looks through the index for places that are not there. */
  async sweepAll(): Promise<void> {
    const { lost, table } = this.#parts
    await this.#sweep(lost, ({ location, length }) =>
      table.has(location.extent) ? lostAt(lost, location, length) : `its extent ${location.extent} is missing`,
    )
  }

  /** Takes every chunk with a finding out of service and reports it. */
  async #sweep(lost: LostExtents, findingOf: (record: ChunkRecord) => string | undefined): Promise<void> {
    const count = await walkLost(
      this.#parts.index,
      findingOf,
      (id, record, finding) => this.#quarantine(id, record, finding),
      () => this.#gate.closing,
    )
    if (count === 0 && lost.size === 0) return
    const extents = [...lost.keys()].slice(0, 20).join(' ')
    this.#deps.log.error('extents are missing or cut off', { disk: this.path, extents, chunks: count })
  }

  async verify(id: ChunkId, root?: Uint8Array): Promise<'intact' | 'corrupt' | 'missing'> {
    return await this.#work(async () => {
      const stored = await this.#find(id).catch((error: unknown) => {
        const failure = asStoreError(error, 'verify')
        if (failure.code === 'NOT_FOUND') return 'missing'
        // Its extent is gone: it was quarantined on the way.
        if (failure.code === 'CORRUPT') return 'corrupt'
        throw failure
      })
      if (typeof stored === 'string') return stored
      const { record, held } = stored
      try {
        if (!isRoot(record, root)) return 'missing'
        const finding = await this.#verifier.check(id, record, held)
        if (finding === undefined && record.inline !== undefined && !this.#inlineIntact(record)) {
          await this.#bad(id, record, 'its copy in the index does not match its checksum')
          return 'corrupt'
        }
        if (finding === undefined) return 'intact'
        await this.#bad(id, record, finding)
        return 'corrupt'
      } finally {
        held.release()
      }
    })
  }

  /** Takes the replica out of service, keeps its bytes, reports it. Nothing happens when it was replaced meanwhile. */
  async #quarantine(id: ChunkId, record: ChunkRecord, finding: string): Promise<void> {
    await this.#locks.run([id], async () => {
      const known = await this.#parts.index.get(id)
      const { extent, payload } = record.location
      if (known.kind !== 'held' || known.record.location.extent !== extent || known.record.location.payload !== payload)
        return
      await this.#parts.log.append({ record: { kind: 'quarantine', id, location: record.location, finding } })
      this.#report(id, finding)
    })
  }

  /** An index record that does not check out names no place to keep: it is forgotten and reported. */
  async #dropDamaged(id: ChunkId): Promise<void> {
    await this.#locks.run([id], async () => {
      if ((await this.#parts.index.get(id)).kind !== 'damaged') return
      await this.#parts.log.append({
        record: { kind: 'delete', id, frees: [placeUnknown] },
      })
      this.#report(id, 'its record in the index is damaged')
    })
  }

  #report(id: ChunkId, finding: string): void {
    this.#deps.log.error('corrupt replica', { disk: this.path, chunk: formatChunkId(id), finding })
    this.#deps.metrics.count('holdfast_disk_corruptions_total', 'Replicas found corrupt.')
    if (this.#corruptHandler !== undefined) this.#corruptHandler(id, finding)
    else if (this.#findings.length < findingsMax) this.#findings.push([id, finding])
  }

  async missing(ids: readonly ChunkId[], roots: readonly Uint8Array[] = []): Promise<ChunkId[]> {
    this.#gate.check()
    const out: ChunkId[] = []
    for (const [i, id] of ids.entries()) if (!(await this.#holds(id, roots[i]))) out.push(id)
    return out
  }

  async #holds(id: ChunkId, root: Uint8Array | undefined): Promise<boolean> {
    const { index } = this.#parts
    if (root === undefined || root.length === 0) return index.has(id)
    const known = await index.get(id)
    // A damaged record shows in a verification, which reports it.
    return known.kind === 'damaged' || (known.kind === 'held' && isRoot(known.record, root))
  }

  async list(from: ChunkId, to: ChunkId, limit: number): Promise<{ ids: ChunkId[]; until: ChunkId }> {
    this.#gate.check()
    if (from >= to) return { ids: [], until: to }
    const ids = await this.#parts.index.list(from, to, limit)
    const last = ids.at(-1)
    return { ids, until: ids.length < limit || last === undefined ? to : last + 1 }
  }

  async delete(ids: readonly ChunkId[]): Promise<void> {
    const sorted = [...new Set(ids)].sort((a, b) => a - b)
    for (let at = 0; at < sorted.length; at += deleteBatch) {
      await this.#work(() => this.#deleteBatch(sorted.slice(at, at + deleteBatch)))
    }
  }

  #deleteBatch(ids: readonly ChunkId[]): Promise<void> {
    return this.#locks.run(ids, async () => {
      const { index, log } = this.#parts
      const appends: Promise<unknown>[] = []
      for (const id of ids) {
        const known = await index.get(id)
        const frees = await index.quarantinesOf(id)
        if (known.kind === 'none' && frees.length === 0) continue
        if (known.kind === 'held') frees.push(freedBy(known.record.location, true))
        if (known.kind === 'damaged') frees.push(placeUnknown)
        const append = log.append({ record: { kind: 'delete', id, frees } })
        append.catch(() => undefined)
        appends.push(append)
      }
      // All of them: an id whose record is still on its way must not be unlocked because another one's failed.
      const ends = await Promise.allSettled(appends)
      for (const end of ends) if (end.status === 'rejected') throw end.reason
    })
  }

  onCorrupt(handler: (id: ChunkId, finding: string) => void): void {
    this.#corruptHandler = handler
    const findings = this.#findings
    this.#findings = []
    for (const [id, finding] of findings) handler(id, finding)
  }

  onFailed(handler: (reason: Error) => void): void {
    this.#gate.onFailed(handler)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const { log, checkpointer, table, index } = this.#parts
    this.#gate.startClosing()
    if (this.#working > 0) {
      await new Promise<void>((resolve) => {
        this.#quiet = resolve
      })
    }
    await log.finish()
    checkpointer.stop()
    if (this.#gate.failure === undefined) {
      await checkpointer.save(true).catch((error: unknown) => this.#gate.fail('saving the index', error))
    }
    await this.#permits.acquire(readsMax)
    await table.close()
    await index.close()
  }
}

/**
 * Opens the disk in a directory, or makes a new one in an empty directory.
 * Rejects: LOCKED, INCOMPATIBLE_VERSION, CORRUPT (identity), NO_SPACE, IO; each says in one line what to do.
 */
export async function openDisk(deps: DiskDeps, options: DiskOptions): Promise<DiskEngine> {
  const sum: Sum = (bytes, out, at) => deps.hasher.sumInto(bytes, out, at)
  const gate = new DiskGate(options.path)
  gate.onFailed((reason) => deps.log.error('disk failed', { disk: options.path, reason: reason.message }))
  const parts = await assembleDisk(deps, options, gate, sum)
  const { clean, rebuilt, replayed } = parts
  const fields = {
    disk: options.path,
    clean,
    rebuilt,
    mode: deps.extents.mode,
    groups: replayed.groups,
    torn: replayed.torn,
  }
  deps.log.info('disk opened', { ...fields, chunks: parts.ledger.chunks })
  for (const { from, to } of replayed.damage) {
    deps.log.error('the log is damaged below what was synced: what is missing will show in the report to meta', {
      disk: options.path,
      from: `${from.extent}:${from.offset}`,
      to: `${to.extent}:${to.offset}`,
    })
  }
  const disk = new Disk(deps, options, parts, gate, sum, await parts.index.highest())
  if (parts.suspicious) await disk.sweepAll()
  for (const suspect of replayed.suspects) await disk.verify(suspect)
  return disk
}
