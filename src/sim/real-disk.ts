/**
 * A simulated disk under the real disk engine, and the books that the oracles keep of what the engine has promised.
 *
 * The books are kept outside of the engine: an id enters when its commit resolved and leaves when its delete was begun.
 * After each start the engine must still have what they say (docs/ARCHITECTURE.md, invariant I5), intact, and must not
 * have what it said it had deleted.
 */

import { decodeChunkRecord } from '../core/chunk/index-record.ts'
import { indexKeys } from '../core/chunk/keyspace.ts'
import type { Sum } from '../core/chunk/sums.ts'
import type { ChunkId } from '../model/ids.ts'
import { openDisk } from '../services/storage/engine/disk.ts'
import type {
  ChunkReader,
  ChunkWriter,
  DiskEngine,
  DiskStatus,
  PutRequest,
  PutResult,
  ScrubStatus,
} from '../services/storage/types.ts'
import type { ReplicaDisk, SimContext } from './context.ts'
import type { SimProcess } from './clock.ts'
import type { SimDevice } from './disk.ts'
import { SimExtentDisk } from './extents.ts'
import { SimFilesDisk } from './files.ts'
import { SimKvDisk } from './kv.ts'
import type { Seeded } from './seed.ts'
import { simHasher } from './sinks.ts'

const indexName = 'index'
/** Small, so that a run of seconds fills, rolls and recycles some. */
const extentBytes = 512 * 1024
const arenaBytes = 1024 * 1024
const reserveBytes = 1024 * 1024
/** Deletes that are looked for after a start. */
const deletedKept = 512
/** More chunks than a run stores. */
const idsMax = 100_000

interface Promised {
  /** Its bytes rotted; nobody may know yet. */
  rotten: boolean
  /** The engine found it corrupt and does not serve it. */
  quarantined: boolean
}

const sum: Sum = (bytes, out, at) => simHasher.sumInto(bytes, out, at)

/** One disk: outlives the processes that open it. */
export class RealDisk implements ReplicaDisk {
  readonly device: SimDevice
  readonly #path: string
  readonly #node: string
  readonly #random: Seeded
  readonly #context: SimContext
  readonly #kv: SimKvDisk
  readonly #files: SimFilesDisk
  readonly #extents: SimExtentDisk
  readonly #promised = new Map<ChunkId, Promised>()
  readonly #deleted = new Set<ChunkId>()
  readonly #ever = new Set<ChunkId>()
  /** Something on it rotted, so that what the engine then logs is right. */
  #damaged = false

  constructor(context: SimContext, path: string, node: string, random: Seeded, device: SimDevice) {
    this.#context = context
    this.#path = path
    this.#node = node
    this.#random = random
    this.device = device
    this.#kv = new SimKvDisk(random.fork('kv'), device)
    this.#files = new SimFilesDisk(random.fork('files'), device)
    this.#extents = new SimExtentDisk(random.fork('extents'), device)
  }

  intact(id: ChunkId): boolean {
    const promised = this.#promised.get(id)
    return promised !== undefined && !promised.rotten && !promised.quarantined
  }

  everHad(id: ChunkId): boolean {
    return this.#ever.has(id)
  }

  intactIds(): ChunkId[] {
    return [...this.#promised.keys()].filter((id) => this.intact(id)).sort((a, b) => a - b)
  }

  /** Flips a bit of the chunk's bytes: in the log, or of a small one's copy in the index. */
  rot(id: ChunkId): boolean {
    const key = indexKeys.chunk(id)
    const value = this.#kv.peek(indexName, key)
    const record = value === undefined ? undefined : decodeChunkRecord(id, value, sum)
    const promised = this.#promised.get(id)
    if (record === undefined || promised === undefined) return false
    if (record.inline !== undefined && this.#random.chance(0.5)) {
      this.#kv.tamper(indexName, key, (bytes) => {
        const at = bytes.length - 1 - this.#random.below(record.length)
        bytes[at] = (bytes[at] as number) ^ 0x08
        return bytes
      })
    } else {
      const { extent, payload } = record.location
      if (!this.#extents.flip(extent, payload + this.#random.below(record.length))) return false
    }
    promised.rotten = true
    this.#damaged = true
    this.#context.world.note(this.#node, `rot of chunk ${id}`)
    return true
  }

  crash(): void {
    this.#kv.crash()
    this.#files.crash()
    this.#extents.crash()
    this.device.faulted = false
  }

  /** Another, empty disk is in its place. */
  replace(): void {
    this.#kv.wipe()
    this.#files.wipe()
    this.#extents.wipe()
    this.#promised.clear()
    this.#deleted.clear()
    this.#damaged = false
  }

  /** Opens the disk for one incarnation of its node, and holds the engine to what it has promised before. */
  async open(host: SimProcess): Promise<DiskEngine> {
    const env = this.#context.env(host, () => this.#damaged || this.device.faulted)
    const engine = await openDisk(
      { ...env, files: this.#files.port(host), extents: this.#extents.port(host), kv: this.#kv.factory(host) },
      { path: this.#path, nodeId: this.#node, extentBytes, reserveBytes, arenaBytes },
    )
    await this.#checkPromises(engine)
    return new WatchedEngine(engine, this)
  }

  async #checkPromises(engine: DiskEngine): Promise<void> {
    const ids = this.intactIds()
    const missing = await engine.missing(ids)
    if (missing.length > 0) this.#broken(`has lost chunk ${missing.join(', ')}, which it had acknowledged`)
    for (const id of ids) {
      const found = await engine.verify(id)
      if (found !== 'intact')
        this.#broken(`has chunk ${id} ${found}, which it had acknowledged and nothing has damaged`)
    }
    const deleted = [...this.#deleted]
    const still = new Set(await engine.missing(deleted))
    const back = deleted.filter((id) => !still.has(id))
    if (back.length > 0) this.#broken(`has chunk ${back.join(', ')} again, which it had deleted`)
    // What was on its way when the node ended may be there: from now on it is reported, and so it counts.
    for (const id of (await engine.list(0, Number.MAX_SAFE_INTEGER, idsMax)).ids) this.#enter(id)
  }

  #broken(what: string): void {
    if (this.device.faulted) return
    this.#context.fail(new Error(`disk of ${this.#node} ${what}`))
  }

  foundCorrupt(id: ChunkId): void {
    const promised = this.#promised.get(id)
    if (promised === undefined) return
    if (!promised.rotten && !this.device.faulted) {
      this.#context.fail(new Error(`disk of ${this.#node} calls chunk ${id} corrupt, which nothing has damaged`))
    }
    promised.quarantined = true
  }

  /** A commit of the chunk resolved. */
  committed(request: PutRequest): void {
    const before = this.#promised.get(request.id)
    this.#deleted.delete(request.id)
    // Bytes that are held already are not written again: what rots there goes on rotting.
    const kept = before !== undefined && !before.quarantined && request.replace !== true
    if (!kept) this.#promised.delete(request.id)
    this.#enter(request.id)
  }

  #enter(id: ChunkId): void {
    if (!this.#promised.has(id)) this.#promised.set(id, { rotten: false, quarantined: false })
    this.#ever.add(id)
  }

  /** Its delete was begun: from here on nothing may rest on it. */
  deleting(ids: readonly ChunkId[], diskId: string): void {
    for (const id of ids) {
      if (!this.#promised.delete(id)) continue
      this.#context.world.note(this.#node, `deletes chunk ${id}`)
      this.#context.watch(() => this.#context.invariants.replicaDeleted(id, diskId))
    }
  }

  deletedAll(ids: readonly ChunkId[]): void {
    for (const id of ids) this.#deleted.add(id)
    for (const id of this.#deleted) {
      if (this.#deleted.size <= deletedKept) break
      this.#deleted.delete(id)
    }
  }
}

/** The engine, with each promise that it makes entered in the books of its disk. */
class WatchedEngine implements DiskEngine {
  readonly #engine: DiskEngine
  readonly #disk: RealDisk

  constructor(engine: DiskEngine, disk: RealDisk) {
    this.#engine = engine
    this.#disk = disk
  }

  get id(): string {
    return this.#engine.id
  }
  get path(): string {
    return this.#engine.path
  }
  get clean(): boolean {
    return this.#engine.clean
  }
  get clusterId(): string | undefined {
    return this.#engine.clusterId
  }
  get rebuilt(): boolean {
    return this.#engine.rebuilt
  }

  get clusterIncarnation(): number {
    return this.#engine.clusterIncarnation
  }

  adopt(clusterId: string, nodeId: string, incarnation?: number): Promise<void> {
    return this.#engine.adopt(clusterId, nodeId, incarnation)
  }

  status(): DiskStatus {
    return this.#engine.status()
  }

  async beginPut(request: PutRequest, signal: AbortSignal): Promise<ChunkWriter> {
    const writer = await this.#engine.beginPut(request, signal)
    return {
      write: (bytes) => writer.write(bytes),
      commit: async (): Promise<PutResult> => {
        const result = await writer.commit()
        this.#disk.committed(request)
        return result
      },
      abort: () => writer.abort(),
    }
  }

  openRead(id: ChunkId, offset: number, length: number): Promise<ChunkReader> {
    return this.#engine.openRead(id, offset, length)
  }

  verify(id: ChunkId, root?: Uint8Array): Promise<'intact' | 'corrupt' | 'missing'> {
    return this.#engine.verify(id, root)
  }

  missing(ids: readonly ChunkId[], roots?: readonly Uint8Array[]): Promise<ChunkId[]> {
    return this.#engine.missing(ids, roots)
  }

  list(from: ChunkId, to: ChunkId, limit: number): Promise<{ ids: ChunkId[]; until: ChunkId }> {
    return this.#engine.list(from, to, limit)
  }

  async delete(ids: readonly ChunkId[]): Promise<void> {
    this.#disk.deleting(ids, this.#engine.id)
    await this.#engine.delete(ids)
    this.#disk.deletedAll(ids)
  }

  onCorrupt(handler: (id: ChunkId, finding: string) => void): void {
    this.#engine.onCorrupt((id, finding) => {
      this.#disk.foundCorrupt(id)
      handler(id, finding)
    })
  }

  scrub(): ScrubStatus {
    return this.#engine.scrub()
  }

  startScrub(): void {
    this.#engine.startScrub()
  }

  pauseScrub(): void {
    this.#engine.pauseScrub()
  }

  resumeScrub(): void {
    this.#engine.resumeScrub()
  }

  suspect(id: ChunkId): void {
    this.#engine.suspect(id)
  }

  onFailed(handler: (reason: Error) => void): void {
    this.#engine.onFailed(handler)
  }

  onHealth(handler: () => void): void {
    this.#engine.onHealth(handler)
  }

  close(): Promise<void> {
    return this.#engine.close()
  }
}
