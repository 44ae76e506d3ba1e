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
import type { Env } from '../../ports/env.ts'
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
function pull(env: Env, engine: DiskEngine, order: CopyOrder, source: CopySource, address: string, signal: AbortSignal) {
  return new Promise<void>((resolve, reject) => {
    const stream = env.net.open(address, storageMethods.chunks)
    const stop = new AbortController()
    let writer: ChunkWriter | undefined
    let received = 0
    let settled = false
    let timer = arm()

    function arm() {
      return env.clock.after(quietMs, () => fail(new StoreError('TIMEOUT', `copy chunk ${order.chunk}: ${address} went quiet`)))
    }
    function settle(): boolean {
      if (settled) return false
      settled = true
      timer.cancel()
      signal.removeEventListener('abort', onAbort)
      stream.destroy()
      return true
    }
    function fail(error: unknown): void {
      if (!settle()) return
      stop.abort()
      writer?.abort()
      reject(asStoreError(error, `copy chunk ${order.chunk} from ${address}`))
    }
    function onAbort(): void {
      fail(new StoreError('TIMEOUT', `copy chunk ${order.chunk}: not done before the order's deadline`))
    }
    function begin(message: holdfast.v1.GetBegin): void {
      checkSums(env, order, message)
      stream.pause()
      const request = {
        id: order.chunk,
        length: order.length,
        lease: 0,
        blockSums: message.blockSums.slice(),
        root: order.root,
        replace: order.replace,
      }
      engine.beginPut(request, stop.signal).then((admitted) => {
        if (settled) {
          admitted.abort()
          return
        }
        writer = admitted
        stream.resume()
      }, fail)
    }
    function take(bytes: Uint8Array): void {
      if (writer === undefined) throw new StoreError('CORRUPT', `copy chunk ${order.chunk}: bytes before the beginning`)
      writer.write(bytes)
      received += bytes.length
      if (received < order.length) return
      const complete = writer
      // From here on the engine owns it: an abort can no longer undo it.
      writer = undefined
      settle()
      complete.commit().then(() => resolve(), reject)
    }
    function receive(message: ChunkReply): void {
      timer.cancel()
      timer = arm()
      if (message.failure) {
        throw new StoreError('UNAVAILABLE', `${source.node} answered ${message.failure.code}: ${message.failure.message}`)
      }
      if (message.getBegin) begin(message.getBegin)
      else if (message.getData) take(message.getData.data)
    }

    signal.addEventListener('abort', onAbort)
    stream.onMessage((message) => {
      if (settled) return
      try {
        receive(message)
      } catch (error) {
        fail(error)
      }
    })
    stream.onClose((error) => fail(error ?? new StoreError('UNAVAILABLE', `${address} ended the stream early`)))
    if (signal.aborted) onAbort()
    else stream.send({ request: 1, get: { id: order.chunk, offset: 0, length: 0, disk: source.disk } })
  })
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
        env.log.info('copy source failed', { chunk: order.chunk, node: source.node, address, code: last.code, reason: last.message })
        if (signal.aborted || isOwnFault(last)) throw last
      }
    }
  }
  throw last
}
