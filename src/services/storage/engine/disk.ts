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
import type { Sum } from '../../../core/chunk/sums.ts'
import { diskHealthTimes } from '../../../core/health/disk.ts'
import { freedBy } from '../../../core/chunk/index-record.ts'
import type { Freed } from '../../../core/chunk/record.ts'
import type { DiskIdentity } from '../../../core/chunk/identity.ts'
import { asStoreError, isStoreError, StoreError } from '../../../model/errors.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import type { ChunkReader, ChunkWriter, DiskEngine, DiskStatus, PutRequest, PutResult, ScrubStatus } from '../types.ts'
import type { Room } from '../../../core/chunk/compaction.ts'
import { Arena } from './arena.ts'
import { compactionDefaults, Compactor } from './compactor.ts'
import { placeUnknown } from './damaged.ts'
import { keptOfReserve } from './extent-table.ts'
import { adoptIdentity } from './identity-file.ts'
import { forgetRebuild, readMark, wantRebuild } from './index-state.ts'
import { KeyedLocks } from './keyed-locks.ts'
import type { LogItem } from './log-writer.ts'
import { assembleDisk, type DiskParts } from './open.ts'
import { IoWatch, watchExtents, watchFiles, watchKv } from './health-io.ts'
import { Probe } from './health-probe.ts'
import { checkPut, slotBytes, SlotWriter } from './put.ts'
import { blockRange, ExtentReader, InlineReader, type ReadParts } from './read.ts'
import { isRoot, Replicas } from './replicas.ts'
import { Scrubber } from './scrubber.ts'
import { type DiskDeps, DiskGate, type DiskOptions } from './types.ts'
import { Work } from './work.ts'

const arenaBytesDefault = 64 * 1024 * 1024
/** Reads of extents that run at once: they share the process's I/O threads with the log's writes. */
const readsMax = 8
const probeMsDefault = 10_000
/** A disk that clients used so lately is busy. */
const busyMs = 1000
/** Ids deleted by one batch of log records. */
const deleteBatch = 1024

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
  readonly #work: Work
  readonly #replicas: Replicas
  readonly #probe: Probe
  readonly #scrubber: Scrubber
  readonly #compactor: Compactor
  #usedMs = Number.NEGATIVE_INFINITY
  #identity: DiskIdentity
  #idMax: ChunkId
  #incoming = 0
  #closed: Promise<void> | undefined

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
    this.#work = new Work(gate)
    const { path } = options
    const shared = { locks: this.#locks, arena: this.#arena, work: this.#work }
    this.#replicas = new Replicas({ path, deps, parts, gate, sum, ...shared })
    const { clock } = deps
    this.#scrubber = new Scrubber({
      path,
      deps,
      parts,
      gate,
      sum,
      work: this.#work,
      replicas: this.#replicas,
      options: options.scrub,
      busy: () => clock.monotonicMs() - this.#usedMs < busyMs,
    })
    this.#compactor = this.#newCompactor()
    this.#identity = parts.identity
    this.#idMax = idMax
    const { diskId } = parts.identity
    const everyMs = options.probeMs ?? probeMsDefault
    this.#probe = new Probe({ deps, gate, work: this.#work, sum, path, diskId, everyMs })
    this.#countRead(0)
  }

  /** At the start: looks through the index for places that are not there. */
  sweepAll(): Promise<void> {
    return this.#replicas.sweepAll()
  }

  /** At the start: what was found before and is still out of service is told again. */
  recall(): Promise<void> {
    return this.#replicas.recall()
  }

  /** At the end of the start: background work. */
  async begin(): Promise<void> {
    await this.#scrubber.start()
    this.#compactor.look()
  }

  /** Clients use the disk: background work stands back. */
  #used(): void {
    this.#usedMs = this.#deps.clock.monotonicMs()
    this.#compactor.client()
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
      if (this.rebuilt) await this.#rebuildTold()
    } catch (error) {
      if (isStoreError(error) && error.code === 'WRONG_CLUSTER') throw error
      throw this.#gate.fail('writing its identity', error)
    }
  }

  /** Meta has registered the disk with `rebuilt`; a rebuild that has become due since stays due. */
  async #rebuildTold(): Promise<void> {
    const { files } = this.#deps
    await this.#parts.guard.marks.run(async () => {
      if ((await readMark(files))?.state === 'done') await forgetRebuild(files)
    })
  }

  get hung(): boolean {
    return this.#gate.hung()
  }

  status(): DiskStatus {
    const { space, ledger } = this.#parts
    this.#gate.look()
    if (space.stale && !this.#gate.closing && this.#gate.failure === undefined) space.refresh().catch(() => undefined)
    const roomBytes = this.#room()
    return {
      state: this.#gate.state,
      reason: this.#gate.reason,
      speed: this.#gate.figures,
      capacityBytes: space.totalBytes,
      usedBytes: Math.max(0, space.totalBytes - roomBytes),
      freeForNewBytes: Math.max(0, roomBytes - this.#incoming - this.#options.reserveBytes),
      liveBytes: ledger.totalLiveBytes,
      reclaimableBytes: ledger.ranking.deadBytes,
      chunks: ledger.chunks,
      chunkIdMax: this.#idMax,
    }
  }

  #newCompactor(): Compactor {
    return new Compactor({
      path: this.path,
      options: this.#options.compaction ?? compactionDefaults,
      deps: this.#deps,
      disk: this.#parts,
      gate: this.#gate,
      sum: this.#sum,
      locks: this.#locks,
      work: this.#work,
      arena: this.#arena,
      replicas: this.#replicas,
      room: () => this.#roomForMoves(),
    })
  }

  /** Moves free space in the end, so they may take what chunks may not; a part is left for the index and for deletes. */
  #roomForMoves(): Room {
    const { space } = this.#parts
    const free = this.#room() - this.#incoming
    const reserve = this.#options.reserveBytes
    return { free, writable: free - reserve * keptOfReserve.move, total: space.totalBytes, reserve }
  }

  /** Bytes that can still be written: the filesystem's and those of extents made ahead. */
  #room(): number {
    const { space, table, log } = this.#parts
    return space.freeBytes + table.freeBytes + log.roomBytes
  }

  async beginPut(request: PutRequest, signal: AbortSignal): Promise<ChunkWriter> {
    this.#gate.checkWritable()
    this.#used()
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
        store: (put, result, item) => this.#work.run(() => this.#store(put, result, item)),
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
      const { clock } = this.#deps
      const startMs = clock.monotonicMs()
      await log.append({ record: { kind: 'put', id, length, lease, ...result, frees }, ...item })
      if (known.kind === 'damaged') this.#replicas.damaged.forget(id)
      this.#compactor.client(clock.monotonicMs() - startMs)
      this.#idMax = Math.max(this.#idMax, id)
      this.#deps.metrics.count('holdfast_disk_written_bytes_total', 'Payload bytes stored.', length)
    })
  }

  async openRead(id: ChunkId, offset: number, length: number): Promise<ChunkReader> {
    this.#gate.check()
    this.#used()
    const { record, held } = await this.#replicas.find(id)
    try {
      const range = blockRange(id, record.length, offset, length)
      if (record.inline !== undefined) {
        if (this.#replicas.inlineIntact(record)) {
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
      onRead: (bytes) => {
        this.#used()
        this.#countRead(bytes)
      },
      onBad: (id, record, finding) => this.#replicas.bad(id, record, finding),
    }
  }

  verify(id: ChunkId, root?: Uint8Array): Promise<'intact' | 'corrupt' | 'missing'> {
    return this.#replicas.verify(id, root)
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
      await this.#work.run(() => this.#deleteBatch(sorted.slice(at, at + deleteBatch)))
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
        if (known.kind === 'damaged') {
          frees.push(placeUnknown)
          this.#replicas.damaged.forget(id)
        }
        const append = log.append({ record: { kind: 'delete', id, frees } })
        append.catch(() => undefined)
        appends.push(append)
      }
      // All of them: an id whose record is still on its way must not be unlocked because another one's failed.
      const ends = await Promise.allSettled(appends)
      for (const end of ends) if (end.status === 'rejected') throw end.reason
    })
  }

  scrub(): ScrubStatus {
    return this.#scrubber.status()
  }

  startScrub(): void {
    this.#gate.check()
    this.#scrubber.startPass()
  }

  pauseScrub(): void {
    this.#scrubber.pause()
  }

  resumeScrub(): void {
    this.#scrubber.resume()
  }

  suspect(id: ChunkId): void {
    this.#scrubber.suspect(id)
  }

  onCorrupt(handler: (id: ChunkId, finding: string) => void): void {
    this.#replicas.onCorrupt(handler)
  }

  onFailed(handler: (reason: Error) => void): void {
    this.#gate.onFailed(handler)
  }

  onHealth(handler: () => void): void {
    this.#gate.onHealth(handler)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const { log, checkpointer, table, index } = this.#parts
    this.#scrubber.stop()
    this.#gate.startClosing()
    this.#probe.stop()
    this.#compactor.stop()
    this.#replicas.damaged.stop()
    await this.#work.quiet()
    await this.#replicas.damaged.marked()
    if (this.#gate.refusal === undefined) await this.#scrubber.save().catch(() => undefined)
    await log.finish()
    checkpointer.stop()
    if (this.#gate.refusal === undefined) {
      await checkpointer.save(true).catch((error: unknown) => this.#gate.stop('saving the index', error))
    }
    const release = await this.#permits.acquire(readsMax)
    await table.close()
    await this.#parts.guard.marked
    await index.close()
    // Who waited for its turn meanwhile is told that the disk is closed.
    release()
  }
}

/** The disk's world with every I/O watched, and the gate that hears of it. */
function watched(world: DiskDeps, options: DiskOptions): { deps: DiskDeps; gate: DiskGate } {
  const { clock, metrics, log } = world
  const times = options.health ?? diskHealthTimes
  const gate = new DiskGate(options.path, { clock, metrics, times })
  gate.onFailed((reason) => log.error('disk failed', { disk: options.path, reason: reason.message }))
  gate.onHealth((state, reason) => {
    if (state !== 'failed') log.warn('disk state changed', { disk: options.path, state, reason })
  })
  const watch = new IoWatch(gate, clock, times.failMs, options.ioAtOnce)
  const files = watchFiles(world.files, watch)
  const deps = { ...world, files, extents: watchExtents(world.extents, watch), kv: watchKv(world.kv, watch) }
  return { deps, gate }
}

/**
 * Opens the disk in a directory, or makes a new one in an empty directory.
 * Rejects: LOCKED, INCOMPATIBLE_VERSION, CORRUPT (identity), NO_SPACE, IO; each says in one line what to do.
 */
export async function openDisk(world: DiskDeps, options: DiskOptions): Promise<DiskEngine> {
  const sum: Sum = (bytes, out, at) => world.hasher.sumInto(bytes, out, at)
  const { deps, gate } = watched(world, options)
  const parts = await assembleDisk(deps, options, gate, sum)
  const { clean, rebuilt, replayed } = parts
  options.onReplayed?.(replayed)
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
  parts.guard.onDamage = (error) => {
    // Past the gate, which is about to close.
    const mark = (): Promise<void> => wantRebuild(world.files, error.message)
    parts.guard.marked = parts.guard.marks.run(mark).catch(() => undefined)
    return gate.fail('reading its index', error)
  }
  const disk = new Disk(deps, options, parts, gate, sum, parts.idMax)
  try {
    await disk.recall()
    if (parts.suspicious) await disk.sweepAll()
    for (const suspect of replayed.suspects) await disk.verify(suspect)
    await disk.begin()
  } catch (error) {
    // Whoever tries again must not find the lock taken.
    await disk.close().catch(() => undefined)
    throw error
  }
  return disk
}
