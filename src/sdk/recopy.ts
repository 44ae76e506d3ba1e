/**
 * New copies of chunks whose acknowledgements were lost before the commit.
 *
 * A disk that acknowledged a chunk may be fenced before the commit names it: its node died, or came back as another
 * generation. The bytes of the chunk are gone from the client by then and a stream cannot be read again, but the other
 * copies hold them: the chunk is read back from one of these, verified as every read is, and put on another disk under
 * the same id. The lease of the upload is still open, so that the new copy is no orphan.
 *
 * Invariants: one chunk at a time is in memory, within the budget of uploads. An acknowledgement that is not known to be
 * lost stays: what counts is decided by meta alone, at the commit.
 */

import { asStoreError } from '../model/errors.ts'
import type { Env } from '../ports/env.ts'
import type { holdfast } from '../wire/messages.ts'
import type { ByteBudget } from './byte-budget.ts'
import { type Candidate, type LocatedChunk, readChunk, type ReadDeps } from './chunk-read.ts'
import type { ChunkStreams, Target } from './chunk-streams.ts'
import type { Ack, ChunkWrite } from './chunk-write.ts'
import type { MetaCaller } from './meta-calls.ts'
import type { Placements } from './placements.ts'
import { throwIfAborted } from './scope.ts'

export interface RecopyDeps {
  readonly env: Env
  readonly meta: MetaCaller
  readonly streams: ChunkStreams
  readonly placements: Placements
  readonly budget: ByteBudget
}

/** A read of a copy fails over within this time; longer waits are for the next round. */
const readMs = 3_000
/** Disks that one chunk is tried on in one round. */
const targetTries = 4

/** The generation in force of each disk that may hold copies that count. */
function generationsOf(status: holdfast.v1.StatusReply): Map<number, number> {
  const out = new Map<number, number>()
  for (const { health, disks } of status.nodes) {
    for (const { number, state, generation } of disks) {
      if (health !== 'down' && state !== 'failed') out.set(number, generation)
    }
  }
  return out
}

/**
 * Makes up for lost acknowledgements of `writes`, as far as their concern needs it. Resolves to the copies that were
 * made; what could not be done now is left for the next try. Rejects only with the signal's reason or when meta fails.
 */
export async function replaceLostCopies(
  deps: RecopyDeps,
  writes: readonly ChunkWrite[],
  signal: AbortSignal,
): Promise<number> {
  const generations = generationsOf(await deps.meta.call('status', {}, { signal }))
  const inForce = (ack: Ack): boolean => generations.get(ack.target.disk) === ack.generation
  let made = 0
  for (const write of writes) {
    const kept = write.acks.filter(inForce)
    if (kept.length >= write.needed) continue
    const lost = write.acks.filter((ack) => !inForce(ack)).map((ack) => ack.target)
    try {
      made += await recopy(deps, write, kept, lost, signal)
    } catch (error) {
      throwIfAborted(signal)
      const { code, message } = asStoreError(error, 'copy a chunk again')
      deps.env.log.debug('lost copy not replaced', { chunk: write.fields.id, code, reason: message })
    }
  }
  return made
}

/** Reads the chunk back and puts it on as many other disks as its concern lacks. */
async function recopy(
  deps: RecopyDeps,
  write: ChunkWrite,
  kept: readonly Ack[],
  lost: readonly Target[],
  signal: AbortSignal,
): Promise<number> {
  await deps.budget.take(write.length, signal)
  try {
    // Disks that lost their say come last; they may still give the bytes.
    const candidates = [
      ...kept.map(({ target }) => ({ target, state: 'current' })),
      ...lost.map((target) => ({ target, state: 'stale' })),
    ]
    const bytes = await readBack(deps, write, candidates, signal)
    const have = kept.map((ack) => ack.target.disk)
    const failed: number[] = []
    let made = 0
    while (have.length < write.needed && failed.length < targetTries) {
      const target = await deps.placements.replacement(have, failed, signal)
      if (target === undefined) break
      try {
        const done = await deps.streams.put(target, write.fields, bytes, signal)
        write.addCopy(target, done)
        have.push(target.disk)
        made++
      } catch (error) {
        throwIfAborted(signal)
        failed.push(target.disk)
        deps.placements.avoid(target.disk)
        const { code, message } = asStoreError(error, 'copy a chunk again')
        deps.env.log.debug('chunk target failed', { node: target.node, disk: target.disk, code, reason: message })
      }
    }
    return made
  } finally {
    deps.budget.release(write.length)
  }
}

async function readBack(
  deps: RecopyDeps,
  write: ChunkWrite,
  candidates: readonly Candidate[],
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { id, root } = write.fields
  const chunk: LocatedChunk = { id, length: write.length, root, candidates }
  const reading: ReadDeps = { ...deps, retryMs: readMs }
  const bytes = new Uint8Array(write.length)
  let at = 0
  const give = (piece: Uint8Array): void => {
    bytes.set(piece, at)
    at += piece.length
  }
  await readChunk(reading, chunk, 0, write.length, give, signal)
  return bytes
}
