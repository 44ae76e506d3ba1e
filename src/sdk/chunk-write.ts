/**
 * The write of one chunk to all its disks in parallel, until its write concern is met and beyond.
 *
 * A target that fails before the concern is met is replaced by another disk within the write. Once the concern is met the
 * rest are stragglers: they get two more seconds, then they are given up and named as `copying` in the commit, for meta
 * to finish (docs/RULES.md, rule 10).
 *
 * Invariants: a disk is counted once. An acknowledgement counts only for the disk and root that were asked for.
 * `settled` resolves exactly when no target holds on to the chunk's bytes any more.
 */

import { emptyBytes, equalBytes } from '../base/bytes.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { majority } from '../model/limits.ts'
import type { WriteConcern } from '../model/words.ts'
import type { Timer } from '../ports/clock.ts'
import type { Env } from '../ports/env.ts'
import type { holdfast } from '../wire/messages.ts'
import type { ChunkStreams, PutFields, Target } from './chunk-streams.ts'
import type { Placements } from './placements.ts'
import { Scope, sleep } from './scope.ts'

/** Time that stragglers get after the concern is met. */
export const stragglerMs = 2_000

/** How long a write to all looks for another disk: with none for so long, the cluster lacks disks. */
const allPatienceMs = 5_000

export interface WriteDeps {
  readonly env: Env
  readonly streams: ChunkStreams
  readonly placements: Placements
  /** How long a write looks for targets before it fails. */
  readonly retryMs: number
}

export interface ChunkToWrite {
  readonly id: number
  readonly lease: number
  readonly bytes: Uint8Array
  readonly root: Uint8Array
  readonly blockSums: Uint8Array
}

/** A disk said that the chunk is durable on it. */
export interface Ack {
  readonly target: Target
  readonly generation: number
}

/** Acknowledgements that a chunk needs before its write counts. */
export function neededAcks(concern: WriteConcern, copies: number): number {
  if (concern === 'all') return copies
  return concern === 'quorum' ? majority(copies) : 1
}

export class ChunkWrite {
  readonly #deps: WriteDeps
  readonly #chunk: Omit<ChunkToWrite, 'bytes'>
  readonly #length: number
  /** Let go of when settled: the write itself is kept for the manifest page. */
  #bytes: Uint8Array
  readonly #copies: number
  readonly #concern: WriteConcern
  readonly #needed: number
  readonly #scope: Scope
  readonly #startMs: number
  readonly #acks: Ack[] = []
  /** Disks asked and not answered, the given up stragglers included. */
  readonly #open = new Set<number>()
  readonly #failed = new Set<number>()
  #firstFailureMs: number | undefined
  #running = 0
  #isMet = false
  #timer: Timer | undefined
  #resolveMet: () => void = () => undefined
  #rejectMet: (error: StoreError) => void = () => undefined
  #resolveSettled: () => void = () => undefined
  /** The concern is met; rejects when it cannot be. */
  readonly met: Promise<void>
  /** Every target answered or was given up. Never rejects. */
  readonly settled: Promise<void>
  /** True when a target ended without an answer: its stream may still read the bytes. */
  tainted = false

  constructor(
    deps: WriteDeps,
    chunk: ChunkToWrite,
    options: { targets: readonly Target[]; copies: number; concern: WriteConcern; signal: AbortSignal },
  ) {
    this.#deps = deps
    const { bytes, ...fields } = chunk
    this.#chunk = fields
    this.#bytes = bytes
    this.#length = bytes.length
    this.#copies = options.copies
    this.#concern = options.concern
    this.#needed = neededAcks(options.concern, options.copies)
    this.#scope = new Scope(deps.env.clock, { signal: options.signal }, 'store a chunk')
    this.#startMs = deps.env.clock.monotonicMs()
    this.met = new Promise((resolve, reject) => {
      this.#resolveMet = resolve
      this.#rejectMet = reject
    })
    this.met.catch(() => undefined) // whoever awaits it sees the failure; nobody may be waiting yet
    this.settled = new Promise((resolve) => {
      this.#resolveSettled = resolve
    })
    for (const target of options.targets) this.#start(this.#send(target))
  }

  get isMet(): boolean {
    return this.#isMet
  }

  /** The chunk as a commit names it, with what has answered by now. */
  ref(): holdfast.v1.ChunkRef.$Properties {
    return {
      id: this.#chunk.id,
      length: this.#length,
      root: this.#chunk.root,
      replicas: this.#acks.map(({ target, generation }) => ({ disk: target.disk, generation })),
      copying: [...this.#open].sort((a, b) => a - b),
    }
  }

  /** What has acknowledged by now. */
  get acks(): readonly Ack[] {
    return this.#acks
  }

  /** Acknowledgements that the concern needs. */
  get needed(): number {
    return this.#needed
  }

  get length(): number {
    return this.#length
  }

  /** The chunk as a put names it. */
  get fields(): PutFields {
    return this.#chunk
  }

  /** A copy that was made after the write settled; it takes the place of an earlier acknowledgement of the disk. */
  addCopy(target: Target, done: holdfast.v1.PutDone): void {
    this.#check(target, done)
    const before = this.#acks.findIndex((ack) => ack.target.disk === target.disk)
    if (before >= 0) this.#acks.splice(before, 1)
    this.#open.delete(target.disk)
    this.#acks.push({ target, generation: done.generation })
  }

  /** Gives up everything that still runs. */
  cancel(reason: StoreError): void {
    this.#scope.abort(reason)
  }

  #start(work: Promise<void>): void {
    this.#running++
    work
      .catch((error: unknown) => this.#fail(asStoreError(error, 'store a chunk')))
      .finally(() => {
        this.#running--
        if (this.#running === 0) this.#settle()
      })
      .catch((error: unknown) => this.#deps.env.log.error('chunk write bookkeeping failed', { reason: String(error) }))
  }

  #settle(): void {
    this.#timer?.cancel()
    this.#scope.close()
    if (!this.#isMet) {
      this.#fail(
        new StoreError('NO_PLACEMENT', `only ${this.#acks.length} of ${this.#needed} needed copies could be stored`),
      )
    }
    this.#bytes = emptyBytes
    this.#resolveSettled()
  }

  #fail(error: StoreError): void {
    if (this.#isMet) return
    this.#rejectMet(error)
    this.#scope.abort(error)
  }

  async #send(target: Target): Promise<void> {
    const { disk } = target
    this.#open.add(disk)
    for (let attempt = 1; ; attempt++) {
      try {
        const done = await this.#deps.streams.put(target, this.#chunk, this.#bytes, this.#scope.signal)
        this.#onAck(target, done)
        return
      } catch (error) {
        const failure = asStoreError(error, `store a chunk on ${target.node}`)
        this.tainted = true
        if (this.#scope.signal.aborted) return // given up: stays named as open
        if (failure.code === 'CONFLICT' || failure.code === 'INVALID_ARGUMENT' || failure.code === 'INTERNAL') {
          this.#open.delete(disk)
          if (failure.code !== 'INTERNAL') throw failure
        }
        // An overloaded node asks for patience, not for another node: the others are likely as busy.
        if (failure.code === 'OVERLOADED' && attempt <= 5) {
          const delayMs = (failure.details.retryAfterMs ?? 50) * (0.5 + this.#deps.env.entropy.unit())
          await sleep(this.#deps.env.clock, delayMs * attempt, this.#scope.signal)
          continue
        }
        this.#open.delete(disk)
        this.#failed.add(disk)
        this.#deps.placements.avoid(disk)
        this.#deps.env.log.debug('chunk target failed', {
          node: target.node,
          disk,
          code: failure.code,
          reason: failure.message,
        })
        if (!this.#isMet) await this.#replace(target, failure)
        return
      }
    }
  }

  #check(target: Target, done: holdfast.v1.PutDone): void {
    if (done.id !== this.#chunk.id || done.disk !== target.disk || !equalBytes(done.root, this.#chunk.root)) {
      throw new StoreError('INTERNAL', `storage node ${target.node} acknowledged another chunk than it was sent`)
    }
  }

  #onAck(target: Target, done: holdfast.v1.PutDone): void {
    this.#check(target, done)
    this.#open.delete(target.disk)
    this.#acks.push({ target, generation: done.generation })
    if (this.#isMet || this.#acks.length < this.#needed) return
    this.#isMet = true
    this.#resolveMet()
    this.#timer = this.#deps.env.clock.after(stragglerMs, () => this.giveUpStragglers())
  }

  /** Ends what has not answered, once the concern is met. The disks are avoided for a while. */
  giveUpStragglers(): void {
    if (!this.#isMet) return
    for (const disk of this.#open) this.#deps.placements.avoid(disk)
    this.#scope.abort(
      new StoreError('TIMEOUT', `a copy was not done ${stragglerMs} ms after the write counted: repair takes over`),
    )
  }

  /** Finds another disk for a target that failed, and writes there. */
  async #replace(failed: Target, reason: StoreError): Promise<void> {
    const { clock } = this.#deps.env
    const { signal } = this.#scope
    this.#firstFailureMs ??= clock.monotonicMs()
    const sinceMs = this.#concern === 'all' ? this.#firstFailureMs : this.#startMs
    for (let round = 1; ; round++) {
      const have = [...this.#acks.map((ack) => ack.target.disk), ...this.#open].sort((a, b) => a - b)
      if (have.length >= this.#copies || this.#isMet) return
      // After a first round without success, a disk that failed once is better than none.
      const exclude = round === 1 ? [...this.#failed] : [failed.disk]
      const target = await this.#deps.placements.replacement(have, exclude, signal)
      if (signal.aborted) return
      if (target !== undefined) {
        // Another replacement of this chunk may have been given the same disk meanwhile: then ask again.
        if (this.#open.has(target.disk) || this.#acks.some((ack) => ack.target.disk === target.disk)) continue
        await this.#send(target)
        return
      }
      if (have.length >= this.#needed) return
      const patienceMs = this.#concern === 'all' ? Math.min(allPatienceMs, this.#deps.retryMs) : this.#deps.retryMs
      if (clock.monotonicMs() - sinceMs >= patienceMs) throw this.#noPlacement(failed, reason)
      await sleep(clock, 100 + this.#deps.env.entropy.unit() * 200 * round, signal)
      // The disk that failed may be back: with nothing else left it is tried again.
      if (round >= 2) this.#failed.clear()
    }
  }
  #noPlacement(failed: Target, reason: StoreError): StoreError {
    const fewer = this.#concern === 'all' ? 'write with quorum, ask for fewer copies' : 'ask for fewer copies'
    return new StoreError(
      'NO_PLACEMENT',
      `store a chunk with ${this.#copies} copies, write ${this.#concern}: ${this.#acks.length} stored and no disk is ` +
        `left to replace ${failed.node} (${reason.code}: ${reason.message}): ${fewer} or bring nodes back`,
      { cause: reason },
    )
  }
}
