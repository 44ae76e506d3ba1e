/**
 * The replicated state machine over a key-value store: carries out committed entries, makes images, installs them.
 *
 * Invariants: one synced batch per apply group, with the applied record in it, so that after a crash the state is that of
 * one index. An image is installed into a fresh store beside the old one; a small pointer file, replaced atomically,
 * says which one is the state. One call of `apply` or `install` at a time (the replicator's promise, asserted here).
 */

import { assert } from '../../base/assert.ts'
import { fromUtf8, utf8 } from '../../base/bytes.ts'
import { type Applied, applyEntry, applyNothing } from '../../core/meta/apply.ts'
import { decodeCommand } from '../../core/meta/commands.ts'
import { keys } from '../../core/meta/keys.ts'
import type { AppliedRecord } from '../../core/meta/records.ts'
import { nothingApplied, readApplied, StateView } from '../../core/meta/view.ts'
import { StoreError } from '../../model/errors.ts'
import type { Kv, KvOperation } from '../../ports/kv.ts'
import { damaged, imagePieces, unpackPiece } from './image.ts'
import { createQueries, type MetaQueries, type MetaSnapshot } from './queries.ts'
import type { MetaStores } from './raft-host.ts'
import type { AppliedEntry, AppliedReply, StateMachine } from './types.ts'

/** Newest version of commands and formats that this program applies. */
export const commandVersion = 1

/** The file that names the store that holds the state. */
const pointerFile = 'state-current'

/** The state machine of one meta node, with reads of its state. */
export interface MetaMachine extends StateMachine {
  /** Opens the state. Throws LOCKED, CORRUPT or INCOMPATIBLE_VERSION; nothing else may be called before. */
  open(): Promise<void>
  readonly queries: MetaQueries
  /** Committed chunks as of the applied index, from memory. */
  chunks(): number
  /** Queries on the state as of now; close it soon, it holds back the store's space. */
  snapshotQueries(): MetaSnapshot
  close(): Promise<void>
}

/** The state machine of one meta node; nothing is touched before `open`. */
export function createMachine(stores: MetaStores): MetaMachine {
  return new Machine(stores)
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

class Machine implements MetaMachine {
  readonly queries: MetaQueries
  readonly #stores: MetaStores
  #number = 0
  #open: Kv | undefined
  #applied: AppliedRecord = nothingApplied
  #busy = false

  constructor(stores: MetaStores) {
    this.#stores = stores
    this.queries = createQueries(() => this.#kv)
  }

  get #kv(): Kv {
    assert(this.#open !== undefined, 'the state is open before it is used')
    return this.#open
  }

  async open(): Promise<void> {
    assert(this.#open === undefined, 'the state is opened once')
    this.#number = await readPointer(this.#stores)
    // What an install left behind that was interrupted after its switch.
    if (this.#number > 0) await this.#stores.kv.destroy(storeName(this.#number - 1))
    const kv = await this.#stores.kv.open(storeName(this.#number))
    this.#open = kv
    this.#applied = readApplied(kv)
    const version = (await this.queries.cluster())?.version ?? 0
    if (version > commandVersion) {
      throw new StoreError(
        'INCOMPATIBLE_VERSION',
        `open the metadata state: the cluster runs version ${version}, this program knows ${commandVersion}; upgrade it`,
      )
    }
  }

  appliedIndex(): number {
    return this.#applied.index
  }

  digest(): number {
    return this.#applied.digest
  }

  chunks(): number {
    return this.#applied.chunks
  }

  async apply(entries: readonly AppliedEntry[]): Promise<readonly AppliedReply[]> {
    return this.#alone(async () => {
      const view = new StateView(this.#kv, this.#applied)
      const replies: Applied[] = []
      for (const entry of entries) {
        assert(entry.index === view.applied.index + 1, `entry ${entry.index} follows applied ${view.applied.index}`)
        replies.push(
          entry.payload.length === 0
            ? applyNothing(view, entry)
            : applyEntry(view, entry, decodeCommand(entry.payload)),
        )
      }
      await this.#kv.batch(view.finish(), { sync: true })
      this.#applied = view.applied
      return replies
    })
  }

  snapshot(): { readonly index: number; readonly term: number; readonly pieces: AsyncIterable<Uint8Array> } {
    assert(!this.#busy, 'a snapshot is not taken while entries are applied')
    return { index: this.#applied.index, term: this.#applied.term, pieces: imagePieces(this.#kv.snapshot()) }
  }

  async install(index: number, term: number, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#alone(async () => {
      const number = this.#number + 1
      const name = storeName(number)
      await this.#stores.kv.destroy(name)
      const kv = await this.#stores.kv.open(name)
      let applied: AppliedRecord
      try {
        applied = await fill(kv, pieces)
        if (applied.index !== index || applied.term !== term) throw damaged('it is not the one that was announced')
      } catch (error) {
        await kv.close()
        await this.#stores.kv.destroy(name)
        throw error
      }
      await this.#stores.files.write(pointerFile, utf8(name))
      const old = this.#kv
      this.#open = kv
      this.#applied = applied
      this.#number = number
      await old.close()
      await this.#stores.kv.destroy(storeName(number - 1))
    })
  }

  snapshotQueries(): MetaSnapshot {
    const view = this.#kv.snapshot()
    return { ...createQueries(() => view), close: () => view.close() }
  }

  async close(): Promise<void> {
    await this.#open?.close()
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

/** Writes an image into an empty store, durably; answers its applied record. */
async function fill(kv: Kv, pieces: AsyncIterable<Uint8Array>): Promise<AppliedRecord> {
  let last: Uint8Array | undefined
  for await (const piece of pieces) {
    const operations: KvOperation[] = unpackPiece(piece, last)
    last = operations.at(-1)?.key ?? last
    await kv.batch(operations, { sync: false })
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
