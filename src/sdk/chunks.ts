/**
 * The chunk level, for systems that keep their own manifests: store bytes under an id, get them back verified.
 *
 * `put` commits a pin, so that the chunk is no orphan; `rm` drops it. Everything else is what objects do.
 */

import { toHex } from '../base/bytes.ts'
import { chunkRoot, sumBlocks } from '../core/object/sums.ts'
import { spanOfRange } from '../core/object/range.ts'
import { StoreError } from '../model/errors.ts'
import { formatChunkId, parseChunkId } from '../model/ids.ts'
import { limits } from '../model/limits.ts'
import { v1 } from '../wire/messages.ts'
import { locate, readChunk } from './chunk-read.ts'
import { ChunkWrite, neededAcks } from './chunk-write.ts'
import { chunkOf, present } from './entries.ts'
import type { ObjectDeps } from './objects.ts'
import { checkedWrite, checkText } from './operations.ts'
import { targetsOf } from './placements.ts'
import { within, withSignal } from './scope.ts'
import type { CallLimits, ChunkDetails, ChunkPutOptions, Chunks, GetOptions } from './types.ts'

/** The id in `text`. Throws INVALID_ARGUMENT. */
export function chunkIdOf(text: string): number {
  checkText(text, 'the chunk id')
  const id = parseChunkId(text)
  if (id === undefined) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `chunk id ${JSON.stringify(text.slice(0, 40))} is not valid: give up to 16 hex digits`,
    )
  }
  return id
}

async function putChunk(deps: ObjectDeps, bytes: Uint8Array, options: ChunkPutOptions): Promise<string> {
  if (!((bytes as unknown) instanceof Uint8Array)) {
    throw new StoreError('INVALID_ARGUMENT', 'a chunk is stored from bytes: give a Uint8Array')
  }
  if (bytes.length < 1 || bytes.length > limits.chunkBytesMax) {
    throw new StoreError(
      'INVALID_ARGUMENT',
      `a chunk has 1 to ${limits.chunkBytesMax} bytes, not ${bytes.length}: use put for larger data`,
    )
  }
  const { copies, concern } = checkedWrite(options)
  const { env, meta } = deps.upload
  return within(env.clock, options, 'chunk put', async (signal) => {
    const sumInto = env.hasher.sumInto.bind(env.hasher)
    const blockSums = sumBlocks(bytes, sumInto)
    const root = chunkRoot(bytes.length, blockSums, sumInto)
    const lease = await deps.upload.leases.open(signal)
    let failed = true
    try {
      await deps.upload.budget.take(bytes.length, signal)
      try {
        const targets = await deps.upload.placements.take(copies, neededAcks(concern, copies), signal)
        const id = lease.take()
        const chunk = { id, lease: lease.lease, bytes, root, blockSums }
        const write = new ChunkWrite(deps.upload, chunk, { targets, copies, concern, signal })
        await write.met
        await withSignal(write.settled, signal)
        const commitId = toHex(env.entropy.bytes(16))
        const request = { commitId, lease: lease.lease, chunks: [write.ref()], copies, write: concern }
        await meta.call('commitChunks', request, { signal })
        failed = false
        return formatChunkId(id)
      } finally {
        deps.upload.budget.release(bytes.length)
      }
    } finally {
      lease.close(failed)
    }
  })
}

/** The chunk calls of a Store. */
export function createChunks(deps: ObjectDeps): Chunks {
  const { env, meta } = deps.upload

  async function get(text: string, options: GetOptions = {}): Promise<Uint8Array> {
    const id = chunkIdOf(text)
    return within(env.clock, options, `chunk get ${text}`, async (signal) => {
      const reply = await meta.call('statChunk', { id }, { signal })
      const chunk = locate(present(reply.chunk, 'chunk'), targetsOf(reply.disks))
      const span = spanOfRange(chunk.length, options.range)
      const out = new Uint8Array(span.end - span.start)
      let at = 0
      await readChunk(
        deps.download,
        chunk,
        span.start,
        span.end,
        (piece) => {
          out.set(piece, at)
          at += piece.length
        },
        signal,
      )
      return out
    })
  }

  async function stat(text: string, options: CallLimits = {}): Promise<ChunkDetails> {
    const id = chunkIdOf(text)
    return within(env.clock, options, `chunk stat ${text}`, async (signal) => {
      const reply = await meta.call('statChunk', { id }, { signal })
      const entry = chunkOf(present(reply.chunk, 'chunk'), targetsOf(reply.disks))
      return { ...entry, copies: reply.copies, references: reply.references, pinned: reply.pinned }
    })
  }

  async function rm(text: string, options: CallLimits = {}): Promise<void> {
    const id = chunkIdOf(text)
    await within(env.clock, options, `chunk rm ${text}`, (signal) =>
      meta.call(
        'unpinChunk',
        { id },
        { signal, afterUnknown: (error) => (error.code === 'NOT_FOUND' ? new v1.Empty() : undefined) },
      ),
    )
  }

  return { put: (bytes, options = {}) => putChunk(deps, bytes, options), get, stat, rm }
}
