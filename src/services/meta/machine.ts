/**
 * The replicated state machine over a key-value store: carries out committed entries, makes images, installs them.
 *
 * Apply works in memory, over what the store holds (pending.ts): it never waits for the store's sync, so the state on disk
 * is that of an older index, and the log brings it forward after a crash. An image is installed into a fresh store beside
 * the old one; a small pointer file, replaced atomically, says which one is the state.
 * Invariants: on disk the state is always that of one index; one call of `apply`, `snapshot` or `install` at a time (the
 * replicator's promise, asserted here); no command of a version that this program does not know is applied.
 */

import { assert } from '../../base/assert.ts'
import { fromUtf8, utf8 } from '../../base/bytes.ts'
import { type Applied, applyEntry, applyNothing } from '../../core/meta/apply.ts'
import { type Command, decodeCommand } from '../../core/meta/commands.ts'
import { keys } from '../../core/meta/keys.ts'
import type { AppliedRecord, ClusterRecord } from '../../core/meta/records.ts'
import { HotRecords, nothingApplied, readApplied, StateView } from '../../core/meta/view.ts'
import { StoreError } from '../../model/errors.ts'
import { newestVersion } from '../../model/version.ts'
import type { Clock } from '../../ports/clock.ts'
import type { Kv } from '../../ports/kv.ts'
import { damaged, imagePieces, ImageReader } from './image.ts'
import { Pending } from './pending.ts'
import { createPoints, createQueries, type MetaPoints, type MetaQueries, type MetaSnapshot } from './queries.ts'
import type { MetaStores } from './raft-host.ts'
import type { AppliedEntry, AppliedReply, StateImage, StateMachine } from './types.ts'

/** Newest version of commands and formats that this program applies. */
export const commandVersion: number = newestVersion

/** The file that names the store that holds the state. */
const pointerFile = 'state-current'

/** The part of the cluster record that seldom changes. */
export type ClusterFacts = Pick<
  ClusterRecord,
  'clusterId' | 'incarnation' | 'version' | 'bytesMax' | 'objectsMax' | 'deletesHeld'
>

/** The state machine of one meta node, with reads of its state. */
export interface MetaMachine extends StateMachine {
  /** Opens the state. Throws LOCKED, CORRUPT or INCOMPATIBLE_VERSION; nothing else may be called before. */
  open(): Promise<void>
  readonly queries: MetaQueries
  /** Single records as applied, at once. */
  readonly points: MetaPoints
  /** Totals as applied, from memory. */
  applied(): AppliedRecord
  /** What is in force in the cluster, as applied, from memory; undefined before the cluster is founded. */
  cluster(): ClusterFacts | undefined
  /** Called after these facts changed, also by an installed image. */
  onCluster(handler: (cluster: ClusterFacts) => void): void
  /** The stored value of a key as applied. */
  peek(key: Uint8Array): Uint8Array | undefined
  /** Queries on one image of the state, not older than the call; close it soon, it holds back the store's space. */
  snapshotQueries(): Promise<MetaSnapshot>
  close(): Promise<void>
}

/**
 * The state machine of one meta node; nothing is touched before `open`. Without a clock every group is written to the
 * store at once.
 */
export function createMachine(stores: MetaStores, clock?: Pick<Clock, 'after'>): MetaMachine {
  return new Machine(stores, clock)
}

function storeName(number: number): string {
  return number === 0 ? 'state' : `state-${number}`
}

async function readPointer(stores: MetaStores): Promise<number> {
  const bytes = await stores.files.read(pointerFile)
  if (bytes === undefined) return 0
  const match = /^state-([1-9][0-9]{0,8})$/.exec(fromUtf8(bytes) ?? '')
  if (match === null) {
    throw new StoreError('CORRUPT', `open the metadata state: file ${pointerFile} is damaged; replace this meta node`)
  }
  return Number(match[1])
}

/** The store that holds the state, and what is not in it yet. */
interface Opened {
  readonly kv: Kv
  readonly pending: Pending
  readonly hot: HotRecords
}

class Machine implements MetaMachine {
  readonly queries: MetaQueries
  readonly points: MetaPoints
  readonly #stores: MetaStores
  readonly #clock: Pick<Clock, 'after'> | undefined
  readonly #clusterHandlers: ((cluster: ClusterFacts) => void)[] = []
  readonly #failureHandlers: ((error: unknown) => void)[] = []
  #number = 0
  #open: Opened | undefined
  #applied: AppliedRecord = nothingApplied
  #cluster: ClusterFacts | undefined
  #busy = false
  /** Resolves when the store that an install replaced is gone. */
  #leaving: Promise<void> = Promise.resolve()

  constructor(stores: MetaStores, clock: Pick<Clock, 'after'> | undefined) {
    this.#stores = stores
    this.#clock = clock
    this.queries = createQueries(() => this.#pending)
    this.points = createPoints((key) => this.#pending.getSync(key))
  }

  get #opened(): Opened {
    assert(this.#open !== undefined, 'the state is open before it is used')
    return this.#open
  }

  get #pending(): Pending {
    return this.#opened.pending
  }

  async open(): Promise<void> {
    assert(this.#open === undefined, 'the state is opened once')
    this.#number = await readPointer(this.#stores)
    // What an install left behind that was interrupted after its switch.
    if (this.#number > 0) await this.#stores.kv.destroy(storeName(this.#number - 1))
    this.#use(await this.#stores.kv.open(storeName(this.#number)))
    checkVersion(this.#cluster?.version ?? 0, 'open the metadata state')
  }

  #use(kv: Kv): void {
    this.#applied = readApplied(kv)
    const pending = new Pending(kv, this.#applied, this.#clock, (error) => this.#fail(error))
    this.#open = { kv, pending, hot: new HotRecords() }
    this.#cluster = this.points.cluster()
  }

  appliedIndex(): number {
    return this.#applied.index
  }

  durableIndex(): number {
    return this.#pending.durableIndex
  }

  digest(): number {
    return this.#applied.digest
  }

  applied(): AppliedRecord {
    return this.#applied
  }

  cluster(): ClusterFacts | undefined {
    return this.#cluster
  }

  onCluster(handler: (cluster: ClusterFacts) => void): void {
    this.#clusterHandlers.push(handler)
  }

  onFailure(handler: (error: unknown) => void): void {
    this.#failureHandlers.push(handler)
  }

  peek(key: Uint8Array): Uint8Array | undefined {
    return this.#pending.getSync(key)
  }

  async apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]> {
    return this.#alone(async () => {
      const { pending, hot } = this.#opened
      await pending.room()
      const view = new StateView(pending, this.#applied, hot)
      const replies: Applied[] = []
      for (const entry of entries) {
        assert(entry.index === view.applied.index + 1, `entry ${entry.index} follows applied ${view.applied.index}`)
        replies.push(
          entry.payload.length === 0 ? applyNothing(view, entry) : applyEntry(view, entry, knownCommand(entry.payload)),
        )
      }
      pending.add(view.finish(), view.applied.index)
      this.#applied = view.applied
      if (replies.some(({ effects }) => effects.some(({ kind }) => kind === 'cluster'))) this.#tellCluster()
      return replies
    })
  }

  #tellCluster(): void {
    const cluster = this.points.cluster()
    this.#cluster = cluster
    if (cluster === undefined) return
    for (const handler of this.#clusterHandlers) handler(cluster)
  }

  async snapshot(): Promise<StateImage> {
    return this.#alone(async () => {
      const { index, term } = this.#applied
      return { index, term, pieces: imagePieces(await this.#pending.snapshot()) }
    })
  }

  async install(
    index: number,
    term: number,
    pieces: AsyncIterable<Uint8Array>,
    ready?: () => Promise<void>,
  ): Promise<void> {
    await this.#alone(async () => {
      await this.#leaving
      const old = this.#opened
      await old.pending.flushed()
      const number = this.#number + 1
      const name = storeName(number)
      await this.#stores.kv.destroy(name)
      const kv = await this.#stores.kv.open(name)
      try {
        const applied = await fill(kv, pieces)
        if (applied.index !== index || applied.term !== term) throw damaged('it is not the one that was announced')
        await ready?.()
      } catch (error) {
        await kv.close()
        await this.#stores.kv.destroy(name)
        throw error
      }
      await this.#stores.files.write(pointerFile, utf8(name))
      this.#use(kv)
      this.#number = number
      checkVersion(this.#cluster?.version ?? 0, 'install a snapshot of the metadata state')
      this.#tellCluster()
      // Who waits for the new state does not wait for the end of the old one.
      this.#leaving = this.#discard(old, storeName(number - 1))
    })
  }

  /** Never rejects: when it fails the node stops, and the next start clears away what is left. */
  async #discard({ kv, pending }: Opened, name: string): Promise<void> {
    try {
      await pending.stop()
      await kv.close()
      await this.#stores.kv.destroy(name)
    } catch (error) {
      this.#fail(error)
    }
  }

  #fail(error: unknown): void {
    for (const handler of this.#failureHandlers) handler(error)
  }

  async snapshotQueries(): Promise<MetaSnapshot> {
    const view = await this.#pending.snapshot()
    return { ...createQueries(() => view), close: () => view.close() }
  }

  async close(): Promise<void> {
    const opened = this.#open
    if (opened === undefined) return
    // What could not be written is in the log.
    await opened.pending.flushed().catch(() => undefined)
    await opened.pending.stop()
    await this.#leaving
    await opened.kv.close()
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    assert(!this.#busy, 'one change of the state at a time')
    this.#busy = true
    try {
      return await work()
    } finally {
      this.#busy = false
    }
  }
}

function checkVersion(version: number, doing: string): void {
  if (version <= commandVersion) return
  throw new StoreError(
    'INCOMPATIBLE_VERSION',
    `${doing}: the cluster runs version ${version}, this program knows ${commandVersion}; upgrade it`,
  )
}

/** A node that is left behind by a raise must stop: what comes after it means something to newer programs only. */
function knownCommand(payload: Uint8Array): Command {
  const command = decodeCommand(payload)
  if (command.kind === 'raiseVersion' || command.kind === 'found') {
    checkVersion(command.version, 'apply a command to the metadata state')
  }
  return command
}

/** Writes an image into an empty store, durably; answers its applied record. */
async function fill(kv: Kv, pieces: AsyncIterable<Uint8Array>): Promise<AppliedRecord> {
  const reader = new ImageReader()
  for await (const piece of pieces) {
    for (const writes of reader.writes(piece)) await kv.batch(writes, { sync: false })
  }
  const applied = readApplied(kv)
  if (applied.index === 0) throw damaged('it has no applied record')
  await kv.flush()
  // `flush` may swallow its own failure; a synced write after it does not.
  const value = kv.getSync(keys.applied())
  if (value === undefined) throw damaged('it has no applied record')
  await kv.batch([{ type: 'put', key: keys.applied(), value }], { sync: true })
  return applied
}
