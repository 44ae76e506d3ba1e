/**
 * The replicas of a disk: finding one, holding its extent, checking it, and taking one that is not intact out of service.
 *
 * Invariants: what `find` gives is held, so its bytes are not recycled until it is released; a replica that is not intact
 * is kept, no longer served, and reported once; a place in an extent that is gone means "moved, look up again" unless the
 * file is gone too.
 */

import { equalBytes } from '../../../base/bytes.ts'
import { type ChunkRecord, encodeChunkRecord, freedBy } from '../../../core/chunk/index-record.ts'
import { indexKeys } from '../../../core/chunk/keyspace.ts'
import { blockSumsOf, type Sum } from '../../../core/chunk/sums.ts'
import { asStoreError, isStoreError, StoreError } from '../../../model/errors.ts'
import { type ChunkId, formatChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import type { Arena } from './arena.ts'
import { DamagedRecords } from './damaged.ts'
import type { HeldExtent } from './extent-table.ts'
import { readIdentity } from './identity-file.ts'
import type { KeyedLocks } from './keyed-locks.ts'
import { lostAt, type LostExtents, walkLost } from './lost-extents.ts'
import type { DiskParts } from './open.ts'
import type { DiskDeps, DiskGate } from './types.ts'
import { Verifier, verifyBufferBytes } from './verify.ts'
import type { Work } from './work.ts'

/** Findings kept until somebody listens; what is more shows in the full report that follows every start of a node. */
const findingsMax = 1024

/** True when the chunk has this root, or none is asked for. */
export function isRoot(record: ChunkRecord, root: Uint8Array | undefined): boolean {
  return root === undefined || root.length === 0 || equalBytes(record.root, root)
}

export interface Stored {
  readonly record: ChunkRecord
  readonly held: HeldExtent
}

export interface ReplicaParts {
  readonly path: string
  readonly deps: DiskDeps
  readonly parts: DiskParts
  readonly gate: DiskGate
  readonly sum: Sum
  readonly locks: KeyedLocks
  readonly arena: Arena
  readonly work: Work
}

export class Replicas {
  readonly #path: string
  readonly #deps: DiskDeps
  readonly #parts: DiskParts
  readonly #gate: DiskGate
  readonly #sum: Sum
  readonly #locks: KeyedLocks
  readonly #work: Work
  readonly verifier: Verifier
  readonly damaged: DamagedRecords
  /** Called when a reader or somebody's order met a replica that is not intact: what is near it is suspect. */
  onSuspect: ((extent: number) => void) | undefined
  #found = 0
  #healed = 0
  #corruptHandler: ((id: ChunkId, finding: string) => void) | undefined
  #findings: [ChunkId, string][] = []
  /** Extents whose loss was met while running; each is looked through once. */
  readonly #swept = new Set<number>()

  constructor({ path, deps, parts, gate, sum, locks, arena, work }: ReplicaParts) {
    this.#path = path
    this.#deps = deps
    this.#parts = parts
    this.#gate = gate
    this.#sum = sum
    this.#locks = locks
    this.#work = work
    this.verifier = new Verifier(deps.extents.arena(verifyBufferBytes), sum)
    const report = (id: ChunkId, finding: string): void => this.#report(id, finding)
    const healed = (id: ChunkId, finding: string): void => this.#noteHealed(id, finding)
    this.damaged = new DamagedRecords({ path, deps, parts, gate, sum, locks, arena, report, healed })
  }

  /** Replicas out of service for what was found here, since the start or kept since before. */
  get found(): number {
    return this.#found
  }

  /** Small chunks of which one of the two copies was bad, and chunks whose index record was, that were written again. */
  get healed(): number {
    return this.#healed
  }

  inlineIntact(record: ChunkRecord): boolean {
    return record.inline !== undefined && equalBytes(blockSumsOf(this.#sum, record.inline), record.blockSums)
  }

  /** The chunk's record with its extent held; `fresh`: as the index has it, whatever is remembered. A place in an extent that is gone means "moved": looked up again. */
  async find(id: ChunkId, fresh = false): Promise<Stored> {
    for (let attempt = 0; attempt < 10; attempt++) {
      const known = await this.#parts.index.get(id, fresh)
      if (known.kind === 'damaged') {
        if (await this.damaged.note(id)) throw new StoreError('CORRUPT', this.damaged.message(id))
        continue
      }
      if (known.kind === 'none')
        throw new StoreError('NOT_FOUND', `chunk ${formatChunkId(id)} is not on disk ${this.#path}`)
      const held = await this.#hold(id, known.record)
      if (held !== undefined) return { record: known.record, held }
    }
    throw this.#missingExtent(id)
  }

  #missingExtent(id: ChunkId): StoreError {
    const message = `chunk ${formatChunkId(id)}: the extent that disk ${this.#path} has it in is missing; use another replica`
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
    await this.#checkThere()
    const finding = `its extent ${extent} is missing`
    if (await this.#rescue(id, record, finding)) return undefined
    await this.bad(id, record, finding)
    throw this.#missingExtent(id)
  }

  /** Files are gone: that is a finding only while the directory is the disk's (unmounted, unplugged: nothing is lost yet). */
  async #checkThere(): Promise<void> {
    const identity = await readIdentity(this.#deps.files, this.#path, this.#sum)
    if (identity === undefined) throw this.#gate.fail('looking for its identity file', 'it is gone')
  }

  /** A small chunk that the index has intact is appended again instead of being given up. False: it is not so. */
  async #rescue(id: ChunkId, record: ChunkRecord, finding: string): Promise<boolean> {
    return this.#gate.refusal === undefined && (await this.healLog(id, record, finding))
  }

  /** A replica is not intact. When its file is gone or was cut off, the others in it are looked for too. */
  async bad(id: ChunkId, record: ChunkRecord, finding: string): Promise<void> {
    this.onSuspect?.(record.location.extent)
    await this.quarantine(id, record, finding)
    this.#work
      .run(() => this.#lookAtExtent(record.location.extent))
      .catch((error: unknown) => {
        if (this.#gate.closing) return
        const reason = asStoreError(error, 'look at an extent').message
        this.#deps.log.warn('an extent could not be looked through', { disk: this.#path, reason })
      })
  }

  async #lookAtExtent(extent: number): Promise<void> {
    if (this.#swept.has(extent)) return
    const size = (await this.#deps.extents.sizeOf(extent)) ?? 0
    const held = size === 0 ? undefined : await this.#parts.table.hold(extent)
    const wholeBytes = held === undefined ? Number.POSITIVE_INFINITY : (held.header?.size ?? held.file.size)
    held?.release()
    if (size >= wholeBytes || this.#swept.has(extent)) return
    if (size === 0) await this.#checkThere()
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
      async (id, record, finding) => {
        const kept = await this.#rescue(id, record, finding).catch((error: unknown) => {
          // Left as it is: whoever reads it tries again.
          if (isStoreError(error) && error.code === 'NO_SPACE') return true
          throw error
        })
        if (!kept) await this.quarantine(id, record, finding)
      },
      () => this.#gate.closing,
    )
    if (count === 0 && lost.size === 0) return
    const extents = [...lost.keys()].slice(0, 20).join(' ')
    this.#deps.log.error('extents are missing or cut off', { disk: this.#path, extents, chunks: count })
  }

  async verify(id: ChunkId, root?: Uint8Array): Promise<'intact' | 'corrupt' | 'missing'> {
    return await this.#work.run(async () => {
      const stored = await this.find(id, true).catch((error: unknown) => {
        const failure = asStoreError(error, 'verify')
        if (failure.code === 'NOT_FOUND') return 'missing'
        // Its extent is gone or its index record damaged: it was reported on the way.
        if (failure.code === 'CORRUPT') return 'corrupt'
        throw failure
      })
      if (typeof stored === 'string') return stored
      const { record, held } = stored
      try {
        if (!isRoot(record, root)) return 'missing'
        const finding = await this.verifier.check(id, record, held)
        if (finding === undefined) {
          await this.healIndex(id, record, () => this.verifier.content(record, held))
          return 'intact'
        }
        if (await this.healLog(id, record, finding)) return 'intact'
        await this.bad(id, record, finding)
        return 'corrupt'
      } finally {
        held.release()
      }
    })
  }

  /** True while the chunk is where `record` has it; only while its lock is held does it stay so. */
  async #isAt(id: ChunkId, { location }: ChunkRecord): Promise<ChunkRecord | undefined> {
    const known = await this.#parts.index.get(id, true)
    if (known.kind !== 'held') return undefined
    const { extent, payload } = known.record.location
    return extent === location.extent && payload === location.payload ? known.record : undefined
  }

  /**
   * A small chunk whose copy in the log is intact: when the one in the index is not, it is written again from `content`.
   * Not through the log, which has nothing new to say; lost in a crash, it is only found again.
   */
  async healIndex(id: ChunkId, record: ChunkRecord, content: () => Promise<Uint8Array | undefined>): Promise<void> {
    if (record.length > limits.inlineBytesMax || this.inlineIntact(record)) return
    const inline = await content()
    if (inline === undefined) return
    await this.#locks.run([id], async () => {
      const now = await this.#isAt(id, record)
      if (now === undefined) return
      const value = encodeChunkRecord(id, { ...now, inline }, this.#sum)
      await this.#parts.index.apply([{ type: 'put', key: indexKeys.chunk(id), value }])
      this.#noteHealed(id, 'its copy in the index does not match its checksum')
    })
  }

  /** A small chunk whose copy in the index is intact and the one in the log is not: it is appended again. False: it is not so. */
  async healLog(id: ChunkId, record: ChunkRecord, finding: string): Promise<boolean> {
    if (!this.inlineIntact(record)) return false
    return this.#locks.run([id], async () => {
      const now = await this.#isAt(id, record)
      const inline = now?.inline
      if (now === undefined || inline === undefined || !this.inlineIntact(now)) return false
      const { length, lease, root, blockSums, location } = now
      const frees = [freedBy(location, true)]
      const healed = { kind: 'put', id, length, lease, root, blockSums, frees } as const
      // Nothing else may be left of it: it may use a part of the reserve.
      await this.#parts.log.append({ record: healed, inline, move: true })
      this.#noteHealed(id, finding)
      return true
    })
  }

  #noteHealed(id: ChunkId, finding: string): void {
    this.#healed++
    this.#deps.log.warn('what was damaged of a chunk was written again from an intact copy', {
      disk: this.#path,
      chunk: formatChunkId(id),
      finding,
    })
  }

  /** At the start: what was taken out of service before and has not come back is told again; meta may not have heard it. */
  async recall(): Promise<void> {
    for (const { id, finding } of await this.#parts.index.quarantines(findingsMax)) {
      if (finding === undefined || (await this.#parts.index.has(id))) continue
      this.#found++
      this.#findings.push([id, finding])
    }
  }

  /** Takes the replica out of service, keeps its bytes, reports it. Nothing happens when it was replaced meanwhile. */
  async quarantine(id: ChunkId, record: ChunkRecord, finding: string): Promise<void> {
    await this.#locks.run([id], async () => {
      if ((await this.#isAt(id, record)) === undefined) return
      // A read-only disk cannot note it: every reader finds it anew, and meta is told, which is what heals it.
      if (this.#gate.refusal !== undefined && this.#gate.failure === undefined) return this.#report(id, finding)
      await this.#parts.log.append({ record: { kind: 'quarantine', id, location: record.location, finding } })
      this.#report(id, finding)
    })
  }

  #report(id: ChunkId, finding: string): void {
    this.#found++
    this.#deps.log.error('corrupt replica', { disk: this.#path, chunk: formatChunkId(id), finding })
    this.#deps.metrics.count('holdfast_disk_corruptions_total', 'Replicas found corrupt.')
    if (this.#corruptHandler !== undefined) this.#corruptHandler(id, finding)
    else if (this.#findings.length < findingsMax) this.#findings.push([id, finding])
  }

  onCorrupt(handler: (id: ChunkId, finding: string) => void): void {
    this.#corruptHandler = handler
    const findings = this.#findings
    this.#findings = []
    for (const [id, finding] of findings) handler(id, finding)
  }
}
