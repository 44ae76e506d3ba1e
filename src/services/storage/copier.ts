/**
 * Pulls one chunk from another node, for repair: the target pulls, verifies, fsyncs, and only then says so.
 *
 * The source's root and length must be the order's, its block sums must hash to that root, and the engine checks every
 * block against those sums before it stores anything; so a source can delay a copy but never falsify it. A source that
 * fails, answers something else or goes quiet is left for the next one.
 */

import { equalBytes } from '../../base/bytes.ts'
import { asStoreError, StoreError } from '../../model/errors.ts'
import { blockCount } from '../../model/limits.ts'
import type { Timer } from '../../ports/clock.ts'
import type { Env } from '../../ports/env.ts'
import type { Duplex } from '../../ports/net.ts'
import { storageMethods } from '../../wire/methods.ts'
import type { holdfast } from '../../wire/messages.ts'
import type { ChunkWriter, DiskEngine } from './types.ts'

/** A source that sends nothing for this long is left. */
const quietMs = 5000

export interface CopyOrder {
  readonly chunk: number
  readonly length: number
  /** 8 bytes, own copy. */
  readonly root: Uint8Array
  readonly sources: readonly CopySource[]
  readonly replace: boolean
}

export interface CopySource {
  readonly disk: number
  readonly node: string
  readonly addresses: readonly string[]
}

type ChunkReply = holdfast.v1.ChunkReply

/** Throws CORRUPT unless the block sums are those of a chunk with this length and root. */
function checkSums(env: Env, order: CopyOrder, begin: holdfast.v1.GetBegin): void {
  const { length, root, blockSums, bytes, offset } = begin
  if (length !== order.length || !equalBytes(root, order.root)) {
    throw new StoreError('CORRUPT', `copy chunk ${order.chunk}: the source holds other bytes under this id`)
  }
  if (offset !== 0 || bytes !== order.length || blockSums.length !== blockCount(order.length) * 8) {
    throw new StoreError('CORRUPT', `copy chunk ${order.chunk}: the source's answer does not fit the chunk`)
  }
  const input = new Uint8Array(8 + blockSums.length)
  new DataView(input.buffer).setBigUint64(0, BigInt(length), true)
  input.set(blockSums, 8)
  const computed = new Uint8Array(8)
  env.hasher.sumInto(input, computed, 0)
  if (!equalBytes(computed, order.root)) {
    throw new StoreError('CORRUPT', `copy chunk ${order.chunk}: the source's block sums do not match its root`)
  }
}

/** One pull from one address. Resolves when the chunk is durable. */
class Pull {
  readonly #env: Env
  readonly #engine: DiskEngine
  readonly #order: CopyOrder
  readonly #doing: string
  readonly #stream: Duplex<holdfast.v1.ChunkRequest.$Properties, ChunkReply>
  readonly #stop = new AbortController()
  readonly #resolve: () => void
  readonly #reject: (error: StoreError) => void
  #timer: Timer
  #writer: ChunkWriter | undefined
  #received = 0
  #begun = false
  #over = false

  constructor(env: Env, engine: DiskEngine, order: CopyOrder, address: string, settle: Settle) {
    this.#env = env
    this.#engine = engine
    this.#order = order
    this.#doing = `copy chunk ${order.chunk} from ${address}`
    this.#resolve = settle.resolve
    this.#reject = settle.reject
    this.#timer = this.#arm()
    this.#stream = env.net.open(address, storageMethods.chunks)
    this.#stream.onMessage((message) => this.#receive(message))
    this.#stream.onClose((error) =>
      this.fail(error ?? new StoreError('UNAVAILABLE', `${this.#doing}: the stream ended early`)),
    )
  }

  start(disk: number): void {
    if (!this.#over) this.#stream.send({ request: 1, get: { id: this.#order.chunk, disk } })
  }

  fail(error: unknown): void {
    if (this.#over) return
    this.#finish()
    this.#stop.abort()
    this.#writer?.abort()
    this.#reject(asStoreError(error, this.#doing))
  }

  #arm(): Timer {
    return this.#env.clock.after(quietMs, () =>
      this.fail(new StoreError('TIMEOUT', `${this.#doing}: nothing came for ${quietMs} ms`)),
    )
  }

  #finish(): void {
    this.#over = true
    this.#timer.cancel()
    this.#stream.destroy()
  }

  #receive(message: ChunkReply): void {
    if (this.#over) return
    this.#timer.cancel()
    this.#timer = this.#arm()
    try {
      if (message.failure) {
        const { code, message: reason } = message.failure
        throw new StoreError('UNAVAILABLE', `${this.#doing}: the source answered ${code}: ${reason}`)
      }
      if (message.getBegin) this.#begin(message.getBegin)
      else if (message.getData) this.#take(message.getData.data)
    } catch (error) {
      this.fail(error)
    }
  }

  #begin(message: holdfast.v1.GetBegin): void {
    const order = this.#order
    if (this.#begun) throw new StoreError('CORRUPT', `${this.#doing}: the source began twice`)
    this.#begun = true
    checkSums(this.#env, order, message)
    const blockSums = message.blockSums.slice()
    const request = {
      id: order.chunk,
      length: order.length,
      lease: 0,
      blockSums,
      root: order.root,
      replace: order.replace,
    }
    // Room for the chunk is waited for here; the source is no longer the one that is quiet.
    this.#stream.pause()
    this.#timer.cancel()
    this.#engine.beginPut(request, this.#stop.signal).then(
      (writer) => {
        if (this.#over) {
          writer.abort()
          return
        }
        this.#writer = writer
        this.#timer = this.#arm()
        this.#stream.resume()
      },
      (error: unknown) => this.fail(error),
    )
  }

  #take(bytes: Uint8Array): void {
    const writer = this.#writer
    if (writer === undefined) throw new StoreError('CORRUPT', `${this.#doing}: bytes came before the beginning`)
    writer.write(bytes)
    this.#received += bytes.length
    if (this.#received < this.#order.length) return
    // From here on the engine owns the writer: an abort can no longer undo it.
    this.#writer = undefined
    this.#finish()
    writer.commit().then(
      () => this.#resolve(),
      (error: unknown) => this.#reject(asStoreError(error, this.#doing)),
    )
  }
}

interface Settle {
  readonly resolve: () => void
  readonly reject: (error: StoreError) => void
}

async function pull(
  env: Env,
  engine: DiskEngine,
  order: CopyOrder,
  source: CopySource,
  address: string,
  signal: AbortSignal,
): Promise<void> {
  const late = (): StoreError =>
    new StoreError('TIMEOUT', `copy chunk ${order.chunk}: not done before the order's deadline`)
  if (signal.aborted) throw late()
  let onAbort = (): void => undefined
  try {
    await new Promise<void>((resolve, reject) => {
      const running = new Pull(env, engine, order, address, { resolve, reject })
      onAbort = () => running.fail(late())
      signal.addEventListener('abort', onAbort)
      running.start(source.disk)
    })
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** Errors of this disk, for which another source is no remedy. */
function isOwnFault(error: StoreError): boolean {
  return error.code === 'NO_SPACE' || error.code === 'DISK_FAILED' || error.code === 'CONFLICT'
}

/**
 * Copies the chunk from the first source that can give it; resolves to the bytes copied. Rejects with what the last
 * source failed with, or at once with NO_SPACE, DISK_FAILED, CONFLICT, or TIMEOUT when `signal` aborts.
 */
export async function copyChunk(env: Env, engine: DiskEngine, order: CopyOrder, signal: AbortSignal): Promise<number> {
  let last = new StoreError('UNAVAILABLE', `copy chunk ${order.chunk}: the order names no source`)
  for (const source of order.sources) {
    for (const address of source.addresses) {
      try {
        await pull(env, engine, order, source, address, signal)
        return order.length
      } catch (error) {
        last = asStoreError(error, `copy chunk ${order.chunk}`)
        env.log.info('copy source failed', {
          chunk: order.chunk,
          node: source.node,
          address,
          code: last.code,
          reason: last.message,
        })
        if (signal.aborted || isOwnFault(last)) throw last
      }
    }
  }
  throw last
}
