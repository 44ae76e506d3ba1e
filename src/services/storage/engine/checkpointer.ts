/**
 * When the index is made durable, and what becomes free by it (docs/RULES.md, rule 5).
 *
 * The position of a checkpoint is taken between two index batches, together with the books of that moment: everything
 * before it is in the index, whatever comes after is replayed. One checkpoint runs at a time; appends go on meanwhile.
 * An extent is retired when it lies before the checkpoint, nothing in it is of use, and what emptied it lies before the
 * checkpoint too.
 */

import { comparePositions, type Position } from '../../../core/chunk/position.ts'
import type { Clock, Timer } from '../../../ports/clock.ts'
import type { ChunkIndex } from './chunk-index.ts'
import type { ExtentTable } from './extent-table.ts'
import type { Ledger } from './ledger.ts'
import type { DiskGate } from './types.ts'

/** Replay reads the heads of groups: this many bytes of them since the last checkpoint call for another. */
const headBytesMax = 16 * 1024 * 1024
/** Log bytes since the last checkpoint that call for another: bounds how far a damaged header makes replay scan. */
const logBytesMax = 1024 * 1024 * 1024
/** An emptied extent is given back within about this time. */
const reclaimMs = 1000

export interface CheckpointerParts {
  readonly index: ChunkIndex
  readonly ledger: Ledger
  readonly table: ExtentTable
  readonly gate: DiskGate
  readonly clock: Clock
}

export class Checkpointer {
  readonly #parts: CheckpointerParts
  #position: Position
  #chain: Uint8Array
  #applying = false
  #headBytes = 0
  #logBytes = 0
  #running: Promise<void> | undefined
  #reclaim: Timer | undefined
  #reclaimDue = false
  readonly #emptied = new Map<number, Position>()
  readonly #unsettled = new Set<number>()

  constructor(parts: CheckpointerParts, position: Position, chain: Uint8Array) {
    this.#parts = parts
    this.#position = position
    this.#chain = chain
  }

  /** Everything before it is synced and in the index. */
  get position(): Position {
    return this.#position
  }

  /** An index batch is about to be written: no position can be taken until `applied`. */
  applying(): void {
    this.#applying = true
  }

  /** Everything before `position` is in the index. */
  applied(position: Position, chain: Uint8Array, headBytes: number): void {
    this.#applying = false
    const before = this.#position
    this.#logBytes += position.extent === before.extent ? position.offset - before.offset : position.offset
    this.#headBytes += headBytes
    this.#position = position
    this.#chain = chain
    if (this.#headBytes >= headBytesMax || this.#logBytes >= logBytesMax || this.#reclaimDue) this.#start()
  }

  /** Nothing in the extent may be of use any more; it is looked at with each checkpoint from here on. */
  emptied(extent: number): void {
    if (!this.#parts.ledger.isEmpty(extent)) return
    this.#emptied.set(extent, this.#position)
    if (extent >= this.#position.extent) return
    this.#reclaim ??= this.#parts.clock.after(reclaimMs, () => {
      this.#reclaim = undefined
      this.#reclaimDue = true
      if (!this.#applying) this.#start()
    })
  }

  #start(): void {
    if (this.#running !== undefined || this.#parts.gate.refusal !== undefined || this.#parts.gate.closing) return
    this.#running = this.#save(false)
      .catch((error: unknown) => {
        this.#parts.gate.stop('saving the index', error)
      })
      .finally(() => {
        this.#running = undefined
        // It came due meanwhile, and on a quiet disk nothing else would ask again.
        if (this.#reclaimDue && !this.#applying) this.#start()
      })
  }

  /** Saves a checkpoint now; the caller has made sure that no index batch is in flight. */
  async save(clean: boolean): Promise<void> {
    if (this.#running !== undefined) await this.#running
    await this.#save(clean)
  }

  async #save(clean: boolean): Promise<void> {
    const { index, ledger, table } = this.#parts
    const position = this.#position
    this.#headBytes = 0
    this.#logBytes = 0
    this.#reclaimDue = false
    const figures = ledger.takeDirty()
    const { extent, offset } = position
    await index.saveCheckpoint({ extent, offset, chain: this.#chain.slice(), chunks: ledger.chunks, clean }, figures)
    for (const [emptied, at] of this.#emptied) {
      if (emptied >= extent || comparePositions(at, position) > 0) continue
      if (!ledger.isEmpty(emptied)) this.#emptied.delete(emptied)
      else if (ledger.tombstones.settled(emptied, (other) => table.has(other))) this.#retire(emptied)
      else this.#unsettled.add(emptied)
    }
    if (this.#unsettled.size > 0) ledger.booked()
  }

  #retire(extent: number): void {
    this.#emptied.delete(extent)
    this.#unsettled.delete(extent)
    this.#parts.ledger.retired(extent)
    this.#parts.table.retire(extent)
  }

  /** An empty extent that may hide older copies of chunks: it has to be looked through before it is retired. */
  get unsettled(): number | undefined {
    for (const extent of this.#unsettled) return extent
    return undefined
  }

  /** What the empty extent hides has been said again, before now: the next checkpoint retires it. */
  settled(extent: number): void {
    this.#unsettled.delete(extent)
    this.#parts.ledger.tombstones.forget(extent)
    this.emptied(extent)
  }

  stop(): void {
    this.#reclaim?.cancel()
    this.#reclaim = undefined
  }
}
