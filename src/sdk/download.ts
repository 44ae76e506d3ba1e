/**
 * From a manifest to the verified bytes of an object, in order and in bounded memory.
 *
 * Several chunks are read at once, ahead of the consumer, as far as the client's byte budget allows; the chunk that the
 * consumer is at never waits for the budget, so that idle readers cannot starve each other. Manifest pages are fetched
 * one ahead.
 *
 * Invariants: memory is the budget plus one chunk per open read. A read that ends, by the consumer or by a failure, ends
 * everything it started.
 */

import { sliceOfChunk, type Span } from '../core/object/range.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import type { holdfast } from '../wire/messages.ts'
import type { ByteBudget } from './byte-budget.ts'
import { type LocatedChunk, locate, readChunk, type ReadDeps } from './chunk-read.ts'
import { targetsOf } from './placements.ts'
import { abortReason, Scope, withSignal } from './scope.ts'
import type { CallLimits } from './types.ts'

/** Chunks of one read that are on their way at once. */
const aheadChunks = 6

export interface DownloadDeps extends ReadDeps {
  readonly budget: ByteBudget
}

export interface OpenedManifest {
  readonly manifest: string
  readonly pages: number
  readonly first: readonly LocatedChunk[]
}

/** The chunks of a manifest page. */
export function chunksOfPage(page: holdfast.v1.ManifestPageReply | null | undefined): LocatedChunk[] {
  if (page === null || page === undefined) return []
  const targets = targetsOf(page.disks)
  return page.chunks.map((chunk) => locate(chunk, targets))
}

/** All chunks in order; the next page is asked for while the current one is used. Rejects with CHANGED. */
export async function* manifestChunks(
  deps: Pick<ReadDeps, 'meta'>,
  opened: OpenedManifest,
  signal: AbortSignal,
): AsyncGenerator<LocatedChunk, void, void> {
  const fetchPage = async (page: number): Promise<LocatedChunk[]> => {
    try {
      return chunksOfPage(await deps.meta.call('manifestPage', { manifest: opened.manifest, page }, { signal }))
    } catch (error) {
      const failure = asStoreError(error, 'read the manifest')
      if (failure.code !== 'NOT_FOUND') throw failure
      throw new StoreError('CHANGED', 'the version that was being read is gone: open the object again', {
        cause: failure,
      })
    }
  }
  let current: readonly LocatedChunk[] = opened.first
  for (let page = 0; page < opened.pages; page++) {
    const next = page + 1 < opened.pages ? fetchPage(page + 1) : undefined
    next?.catch(() => undefined) // thrown where it is awaited
    yield* current
    if (next !== undefined) current = await next
  }
}

/** The verified bytes of one slice on their way to the consumer. */
class Slice {
  readonly #pieces: Uint8Array[] = []
  readonly #budget: ByteBudget
  /** Bytes of the budget still held: given back as pieces are taken. */
  #held: number
  #done = false
  #error: StoreError | undefined
  #wake: (() => void) | undefined

  constructor(budget: ByteBudget, held: number) {
    this.#budget = budget
    this.#held = held
  }

  push(bytes: Uint8Array): void {
    this.#pieces.push(bytes)
    this.#wake?.()
  }

  finish(error: StoreError | undefined): void {
    this.#done = true
    this.#error = error
    this.#wake?.()
  }

  #giveBack(bytes: number): void {
    const back = Math.min(bytes, this.#held)
    this.#held -= back
    if (back > 0) this.#budget.release(back)
  }

  async *read(): AsyncGenerator<Uint8Array, void, void> {
    for (;;) {
      const piece = this.#pieces.shift()
      if (piece !== undefined) {
        this.#giveBack(piece.length)
        yield piece
      } else if (this.#done) {
        if (this.#error !== undefined) throw this.#error
        return
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
        this.#wake = undefined
      }
    }
  }

  /** Drops what was not read. */
  close(): void {
    this.#pieces.length = 0
    this.#giveBack(this.#held)
  }
}

/** The bytes of `span` of an opened object. */
export async function* download(
  deps: DownloadDeps,
  opened: OpenedManifest,
  span: Span,
  callLimits: CallLimits,
): AsyncGenerator<Uint8Array, void, void> {
  const scope = new Scope(deps.env.clock, callLimits, 'get')
  const slices: Slice[] = []
  const wanted = slicesOf(manifestChunks(deps, opened, scope.signal), span)
  /** Taken from the manifest, but the budget had no room for it yet. */
  let waiting: WantedSlice | undefined
  let more = true
  let given = 0
  try {
    for (;;) {
      while (more && slices.length < aheadChunks) {
        waiting ??= (await withSignal(wanted.next(), scope.signal)).value ?? undefined
        if (waiting === undefined) {
          more = false
          break
        }
        const bytes = waiting.to - waiting.from
        const admitted = deps.budget.tryTake(bytes)
        if (!admitted && slices.length > 0) break
        slices.push(startSlice(deps, waiting, admitted ? bytes : 0, scope.signal))
        waiting = undefined
      }
      const head = slices[0]
      if (head === undefined) break
      for await (const piece of head.read()) {
        given += piece.length
        yield piece
      }
      slices.shift()
      head.close()
    }
    if (scope.signal.aborted) throw abortReason(scope.signal)
    if (given !== span.end - span.start) {
      throw new StoreError(
        'CORRUPT',
        `get: the manifest holds ${given} bytes where ${span.end - span.start} were promised`,
      )
    }
  } finally {
    scope.abort(new StoreError('CANCELLED', 'get: the reader left'))
    for (const slice of slices) slice.close()
    scope.close()
  }
}

interface WantedSlice {
  readonly chunk: LocatedChunk
  readonly from: number
  readonly to: number
}

async function* slicesOf(chunks: AsyncIterable<LocatedChunk>, span: Span): AsyncGenerator<WantedSlice, void, void> {
  let offset = 0
  if (span.start >= span.end) return
  for await (const chunk of chunks) {
    const slice = sliceOfChunk(span, offset, chunk.length)
    offset += chunk.length
    if (slice !== undefined) yield { chunk, ...slice }
    if (offset >= span.end) return
  }
}

/** Starts to read one slice; `held` bytes of the budget go with it. */
function startSlice(deps: DownloadDeps, wanted: WantedSlice, held: number, signal: AbortSignal): Slice {
  const slice = new Slice(deps.budget, held)
  readChunk(deps, wanted.chunk, wanted.from, wanted.to, (piece) => slice.push(piece), signal).then(
    () => slice.finish(undefined),
    (error: unknown) => slice.finish(asStoreError(error, 'get')),
  )
  return slice
}
