/**
 * From a body to chunks on disks and a manifest that a commit can name.
 *
 * Chunks are hashed and sent while the body is still being read, as many at once as the client's byte budget allows; a
 * chunk leaves the budget when all its targets are done with its bytes. Manifests above 512 chunks are staged page by
 * page as the upload goes, so that neither the client nor one Raft entry ever holds a large manifest.
 *
 * Invariants: memory is the shared budget plus one chunk per upload. After `close`, no write of this upload runs. Nothing
 * is visible before the commit that the caller makes with `operation` fields; a failed upload leaves bytes that belong
 * to its lease and are collected with it.
 */

import { toHex } from '../base/bytes.ts'
import { chunkRoot, EtagBuilder, sumBlocks } from '../core/object/sums.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { WriteConcern } from '../model/words.ts'
import type { holdfast } from '../wire/messages.ts'
import { type BufferPool, type ChunkSource, openBody, type Piece, sizeOfBody } from './body.ts'
import type { ByteBudget } from './byte-budget.ts'
import { ChunkWrite, neededAcks, stragglerMs, type WriteDeps } from './chunk-write.ts'
import type { Leases, LeaseUse } from './leases.ts'
import type { MetaCaller } from './meta-calls.ts'
import { replaceLostCopies } from './recopy.ts'
import { Scope, sleep, throwIfAborted, withSignal } from './scope.ts'
import type { Body } from './types.ts'

/** Times a refused page or commit is sent, each time with the acknowledgements that came in meanwhile. */
const fencedTries = 3
/** The same while new copies are made: more disks may be lost meanwhile. */
const recopyTries = 6
/** New copies for a refused page or commit are made within this time. */
const fencedMs = 30_000

export interface UploadDeps extends WriteDeps {
  readonly meta: MetaCaller
  readonly leases: Leases
  /** Bytes of chunks on their way, of all uploads. */
  readonly budget: ByteBudget
  /** Bytes of chunks that wait for stragglers only, of all uploads. */
  readonly stragglers: ByteBudget
  readonly pool: BufferPool
  /** Size that bodies are cut into. */
  readonly chunkBytes: number
  /** Takes over work that goes on after the answer; `Store.close` waits for it. */
  readonly background: (work: Promise<void>) => void
}

export interface UploadOptions {
  readonly commitId: string
  readonly copies: number
  readonly concern: WriteConcern
  readonly size: number | undefined
  readonly signal: AbortSignal
  readonly onProgress: ((bytes: number) => void) | undefined
}

/** What the commit says of the content. */
export interface UploadedContent {
  readonly lease: number
  readonly size: number
  /** 16 hex digits. */
  readonly etag: string
  readonly stagedPages: number
  readonly chunks: holdfast.v1.ChunkRef.$Properties[]
}

export class Upload {
  readonly #deps: UploadDeps
  readonly #options: UploadOptions
  readonly #scope: Scope
  readonly #lease: LeaseUse
  readonly #etag = new EtagBuilder()
  readonly #running = new Set<ChunkWrite>()
  readonly #startMs: number
  #page: ChunkWrite[] = []
  #staged = 0
  #staging: Promise<void> = Promise.resolve()
  #stored = 0

  private constructor(deps: UploadDeps, options: UploadOptions, lease: LeaseUse) {
    this.#deps = deps
    this.#options = options
    this.#lease = lease
    this.#scope = new Scope(deps.env.clock, { signal: options.signal }, 'put')
    this.#startMs = deps.env.clock.monotonicMs()
  }

  /** Stores the whole body; resolves when every chunk meets its concern. Call `close` in any case afterwards. */
  static async run(deps: UploadDeps, body: Body, options: UploadOptions, lease: LeaseUse): Promise<Upload> {
    const upload = new Upload(deps, options, lease)
    try {
      await upload.#store(body)
      return upload
    } catch (error) {
      const failure = asStoreError(error, 'put')
      await upload.close(failure)
      throw failure
    }
  }

  async #store(body: Body): Promise<void> {
    const size = this.#options.size ?? sizeOfBody(body)
    const source = openBody(body, this.#deps.pool, this.#deps.chunkBytes, size)
    let failure: Error | undefined
    try {
      await this.#storeAll(source)
      if (this.#options.size !== undefined && this.#options.size !== this.#etag.size) {
        throw new StoreError(
          'INVALID_ARGUMENT',
          `put: the body gave ${this.#etag.size} bytes but ${this.#options.size} were announced: nothing was stored`,
        )
      }
    } catch (error) {
      failure = error as Error
      throw error
    } finally {
      // A source that does not let go must not hold up the answer.
      source
        .close(failure)
        .catch((error: unknown) => this.#deps.env.log.debug('body not closed', { reason: String(error) }))
    }
  }

  async #storeAll(source: ChunkSource): Promise<void> {
    for (;;) {
      const piece = await withSignal(source.next(), this.#scope.signal)
      if (piece === undefined) break
      if (this.#page.length === limits.pageChunksMax) await this.#turnPage()
      await this.#send(piece)
    }
    if (this.#staged > 0 && this.#page.length > 0) this.#stagePage()
    await this.#staging
    for (const write of this.#running) await withSignal(write.met, this.#scope.signal)
    await this.#waitForStragglers()
    throwIfAborted(this.#scope.signal)
  }

  async #send(piece: Piece): Promise<void> {
    const { bytes } = piece
    const { env, budget, stragglers } = this.#deps
    const sumInto = env.hasher.sumInto.bind(env.hasher)
    const blockSums = sumBlocks(bytes, sumInto)
    const root = chunkRoot(bytes.length, blockSums, sumInto)
    this.#etag.add(bytes.length, root)
    const { copies, concern } = this.#options
    await budget.take(bytes.length, this.#scope.signal)
    let write: ChunkWrite
    try {
      const targets = await this.#deps.placements.take(copies, neededAcks(concern, copies), this.#scope.signal)
      const chunk = { id: this.#lease.take(), lease: this.#lease.lease, bytes, root, blockSums }
      write = new ChunkWrite(this.#deps, chunk, { targets, copies, concern, signal: this.#scope.signal })
    } catch (error) {
      budget.release(bytes.length)
      throw error
    }
    this.#page.push(write)
    this.#running.add(write)
    this.#follow(write, piece, stragglers)
  }

  /** Accounts for one chunk until its last target is done with it. */
  #follow(write: ChunkWrite, piece: Piece, stragglers: ByteBudget): void {
    const length = piece.bytes.length
    let straggling = false
    let settled = false
    write.met.then(
      () => {
        this.#stored += length
        this.#options.onProgress?.(this.#stored)
        if (settled) return
        straggling = stragglers.tryTake(length)
        // No room for more stragglers: repair takes this chunk's late copies over.
        if (!straggling) write.giveUpStragglers()
      },
      (error: unknown) => this.#scope.abort(asStoreError(error, 'put')),
    )
    write.settled
      .then(() => {
        settled = true
        if (straggling) stragglers.release(length)
        this.#deps.budget.release(length)
        if (!write.tainted) piece.recycle()
        this.#running.delete(write)
      })
      .catch((error: unknown) => this.#scope.abort(asStoreError(error, 'put')))
  }

  async #turnPage(): Promise<void> {
    await this.#staging // at most one page waits to be staged while the next one fills
    this.#stagePage()
    await this.#lease.turnPage(this.#scope.signal)
  }

  #stagePage(): void {
    const writes = this.#page
    const page = this.#staged++
    const { lease } = this.#lease
    this.#page = []
    this.#staging = this.#stage(writes, page, lease)
    this.#staging.catch((error: unknown) => this.#scope.abort(asStoreError(error, 'put')))
  }

  async #stage(writes: readonly ChunkWrite[], page: number, lease: number): Promise<void> {
    for (const write of writes) await withSignal(write.met, this.#scope.signal)
    const { commitId, copies, concern } = this.#options
    await this.retryFenced(writes, () =>
      this.#deps.meta.call(
        'stagePage',
        { commitId, lease, page, chunks: writes.map((write) => write.ref()), copies, write: concern },
        { signal: this.#scope.signal },
      ),
    )
  }

  /**
   * A page or commit is refused with FENCED when a disk that acknowledged was fenced meanwhile and too few copies remain.
   * Late copies may make up for it, else new copies are made from those that are left, and it is tried again.
   */
  async retryFenced<T>(writes: readonly ChunkWrite[], commit: () => Promise<T>): Promise<T> {
    const { clock } = this.#deps.env
    let endMs: number | undefined
    let copies = 0
    for (let attempt = 1; ; attempt++) {
      try {
        return await commit()
      } catch (error) {
        const failure = asStoreError(error, 'commit')
        if (failure.code !== 'FENCED' || attempt >= (copies > 0 ? recopyTries : fencedTries)) throw failure
        const nowMs = clock.monotonicMs()
        endMs ??= nowMs + fencedMs
        if (nowMs >= endMs) throw failure
        const { signal } = this.#scope
        await withSignal(Promise.all(writes.map((write) => write.settled)), signal)
        await sleep(clock, 100 * attempt, signal)
        copies = await this.#recopy(writes, endMs - clock.monotonicMs(), failure)
      }
    }
  }

  async #recopy(writes: readonly ChunkWrite[], limitMs: number, refused: StoreError): Promise<number> {
    const { clock, log } = this.#deps.env
    const scope = new Scope(clock, { signal: this.#scope.signal, timeoutMs: Math.max(1, limitMs) }, 'copy chunks again')
    try {
      const copies = await replaceLostCopies(this.#deps, writes, scope.signal)
      if (copies > 0) log.info('lost copies replaced before the commit', { copies, reason: refused.message })
      return copies
    } catch (error) {
      throwIfAborted(this.#scope.signal)
      if (scope.signal.aborted) throw refused
      log.debug('lost copies not replaced', { reason: asStoreError(error, 'copy chunks again').message })
      return 0
    } finally {
      scope.close()
    }
  }

  /** The chunks that the commit itself names; those of staged pages it does not. */
  get named(): readonly ChunkWrite[] {
    return this.#staged > 0 ? [] : this.#page
  }

  /**
   * Lets late copies arrive before the commit, so that it names them and no repair is planned: as long again as the
   * upload took, at most two seconds. A hung disk thus costs a small put 50 ms and not two seconds.
   */
  async #waitForStragglers(): Promise<void> {
    if (this.#running.size === 0) return
    const elapsedMs = this.#deps.env.clock.monotonicMs() - this.#startMs
    const timer = new Scope(this.#deps.env.clock, { signal: this.#scope.signal }, 'wait for late copies')
    const waitMs = Math.min(stragglerMs, Math.max(50, elapsedMs))
    const over = sleep(this.#deps.env.clock, waitMs, timer.signal).catch(() => undefined)
    await Promise.race([over, Promise.all([...this.#running].map((write) => write.settled))])
    timer.abort(new StoreError('CANCELLED', 'late copies are in'))
    timer.close()
  }

  /** The content as of now; call it again for each try of a commit, late acknowledgements come in. */
  content(): UploadedContent {
    return {
      lease: this.#lease.lease,
      size: this.#etag.size,
      etag: toHex(this.#etag.finish(this.#deps.env.hasher.sumInto.bind(this.#deps.env.hasher))),
      stagedPages: this.#staged,
      chunks: this.#staged > 0 ? [] : this.#page.map((write) => write.ref()),
    }
  }

  /** Resolves when the late copies are in or given up, at most two seconds after their chunk counted. */
  async drain(): Promise<void> {
    await Promise.all([...this.#running].map((write) => write.settled))
  }

  /** Ends the upload. With a failure everything that still runs is given up at once. */
  async close(failure: StoreError | undefined): Promise<void> {
    if (failure !== undefined) this.#scope.abort(failure)
    await this.drain()
    await this.#staging.catch(() => undefined) // reported where it was awaited
    this.#scope.close()
  }
}
