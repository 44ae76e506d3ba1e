/**
 * The read of a part of one chunk: which replica, what when it fails, and when to give up.
 *
 * Replicas on nodes that are up come first, among them the less busy of two picked at random; a node that just failed a
 * read comes after the others, because what the manifest says of its health is as old as the manifest. A replica that gives wrong
 * bytes, none, or goes silent is left where it stopped: the next one goes on at the same offset, and meta is told of the
 * bad one. When a round over all replicas failed, meta is asked where the chunk is now, and the round is repeated while
 * there is hope (a replica that may come back).
 *
 * Invariant: a byte is given out once, in order, and only after it was verified.
 */

import type { SumInto } from '../core/object/sums.ts'
import { asStoreError, StoreError } from '../model/errors.ts'
import { formatChunkId } from '../model/ids.ts'
import type { Env } from '../ports/env.ts'
import type { holdfast } from '../wire/messages.ts'
import { BlockCheck, type KnownChunk } from './block-check.ts'
import type { ChunkStreams, Target } from './chunk-streams.ts'
import type { MetaCaller } from './meta-calls.ts'
import { targetsOf } from './placements.ts'
import { RetryPace } from './retry.ts'
import { abortReason, Scope, sleep } from './scope.ts'
import { SilenceWatch } from './silence.ts'

/** A replica that sends nothing for this long is left for the next one. */
const silentMs = 2_000

export interface ReadDeps {
  readonly env: Env
  readonly meta: MetaCaller
  readonly streams: ChunkStreams
  /** How long a read waits for replicas that may come back. */
  readonly retryMs: number
}

/** One place a chunk may be read from. */
export interface Candidate {
  readonly target: Target
  readonly state: string
}

/** A chunk and where it may be. */
export interface LocatedChunk extends KnownChunk {
  readonly candidates: readonly Candidate[]
}

/** A chunk of an answer from meta, with its replicas joined to their nodes; small fields copied out of the message. */
export function locate(ref: holdfast.v1.ChunkRef, targets: ReadonlyMap<number, Target>): LocatedChunk {
  const candidates: Candidate[] = []
  for (const { disk, state } of ref.replicas) {
    const target = targets.get(disk)
    if (target !== undefined) candidates.push({ target, state })
  }
  return { id: ref.id, length: ref.length, root: new Uint8Array(ref.root), candidates }
}

function rank({ target, state }: Candidate): number {
  if (state === 'current') return target.health === 'up' ? 0 : target.health === 'suspected' ? 1 : 2
  return state === 'stale' || state === 'copying' ? 3 : 4
}

/**
 * The order in which replicas are asked. `unit` gives numbers in [0, 1), `inFlight` how busy a node is, `failedLately`
 * whether it failed a read a moment ago: then it comes after the other current ones.
 */
export function orderCandidates(
  candidates: readonly Candidate[],
  unit: () => number,
  inFlight: (target: Target) => number,
  failedLately: (target: Target) => boolean = () => false,
): Candidate[] {
  const readable = candidates.filter(({ state }) => state !== 'corrupt' && state !== 'deleting')
  const keyed = readable.map((candidate) => ({
    candidate,
    rank: failedLately(candidate.target) ? Math.max(rank(candidate), 2.5) : rank(candidate),
    draw: unit(),
    busy: inFlight(candidate.target),
  }))
  keyed.sort((a, b) => a.rank - b.rank || a.draw - b.draw)
  // Power of two choices: of the first two by chance, the less busy one goes first.
  const [first, second] = keyed
  if (first !== undefined && second !== undefined && first.rank === second.rank && second.busy < first.busy) {
    keyed[0] = second
    keyed[1] = first
  }
  return keyed.map(({ candidate }) => candidate)
}

/** True for failures of a replica that waiting may cure. */
function mayComeBack(error: StoreError): boolean {
  return (
    error.code === 'UNAVAILABLE' ||
    error.code === 'TIMEOUT' ||
    error.code === 'OVERLOADED' ||
    error.code === 'SHUTTING_DOWN'
  )
}

/** Reads bytes [from, to) of `chunk` into `give`. Rejects with DATA_LOST, CHANGED, UNAVAILABLE or the signal's reason. */
export async function readChunk(
  deps: ReadDeps,
  chunk: LocatedChunk,
  from: number,
  to: number,
  give: (bytes: Uint8Array) => void,
  signal: AbortSignal,
): Promise<void> {
  const { env } = deps
  const startMs = env.clock.monotonicMs()
  const pace = new RetryPace(env.entropy)
  const reported = new Set<string>()
  /** Why each node did not give the chunk, the last reason of each. */
  const reasons = new Map<string, string>()
  let at = from
  let { candidates } = chunk
  for (let round = 1; ; round++) {
    let hope = false
    let last: StoreError | undefined
    for (const candidate of orderCandidates(
      candidates,
      () => env.entropy.unit(),
      (target) => deps.streams.inFlight(target),
      (target) => deps.streams.failedLately(target),
    )) {
      try {
        const counted = (bytes: Uint8Array): void => {
          at += bytes.length
          give(bytes)
        }
        await readReplica(deps, candidate.target, chunk, at, to, counted, signal)
        deps.streams.worked(candidate.target)
        return
      } catch (error) {
        const { node } = candidate.target
        if (signal.aborted) {
          if (!reasons.has(node)) reasons.set(node, 'no answer yet')
          throw gaveUp(chunk, reasons, signal)
        }
        if (at >= to) return
        last = asStoreError(error, `read from ${node}`)
        reasons.set(node, last.message)
        if (mayComeBack(last)) hope = true
        if (mayComeBack(last) && last.code !== 'OVERLOADED') deps.streams.failed(candidate.target)
        report(deps, chunk.id, candidate.target, last, reported)
      }
    }
    const elapsedMs = env.clock.monotonicMs() - startMs
    if ((!hope && round >= 2) || elapsedMs >= deps.retryMs) throw lostError(chunk, candidates, hope, last, reasons)
    try {
      await sleep(env.clock, pace.delayMs(round + 2, last?.details.retryAfterMs), signal)
      candidates = await whereNow(deps, chunk, signal)
    } catch (error) {
      if (signal.aborted) throw gaveUp(chunk, reasons, signal)
      throw error
    }
  }
}

/** Most characters of one node's reason in a message. */
const reasonChars = 120

function told(reason: string | undefined): string {
  return reason === undefined ? '' : `: ${reason.slice(0, reasonChars)}`
}

/** The caller's time is over, or it cancelled: a timeout says what stood in the way, where anything did. */
function gaveUp(chunk: KnownChunk, reasons: ReadonlyMap<string, string>, signal: AbortSignal): StoreError {
  const reason = abortReason(signal)
  if (reason.code !== 'TIMEOUT' || reasons.size === 0) return reason
  const why = [...reasons].map(([node, text]) => node + told(text)).join(', ')
  return new StoreError(
    'UNAVAILABLE',
    `chunk ${formatChunkId(chunk.id)}: no node that holds a copy answers in time (${why}): allow more time or bring the nodes back`,
    { cause: reason, outcome: 'definite' },
  )
}

function lostError(
  chunk: KnownChunk,
  candidates: readonly Candidate[],
  hope: boolean,
  last: StoreError | undefined,
  reasons: ReadonlyMap<string, string>,
): StoreError {
  const known =
    candidates.map(({ target, state }) => `${target.node} ${state}${told(reasons.get(target.node))}`).join(', ') ||
    'none known'
  const id = formatChunkId(chunk.id)
  // A replica that meta still counts and that does not answer is away; without one, the bytes are gone for now.
  const away = hope && candidates.some(({ state }) => state === 'current')
  return new StoreError(
    away ? 'UNAVAILABLE' : 'DATA_LOST',
    away
      ? `chunk ${id}: no node that holds a copy answers (${known}): try again when the nodes are back`
      : `chunk ${id}: no intact copy can be reached (${known}): bring a node that held it back`,
    last === undefined ? {} : { cause: last },
  )
}

/** Asks meta for the replicas of today. CHANGED when the chunk is gone: its object was overwritten or deleted. */
async function whereNow(deps: ReadDeps, chunk: KnownChunk, signal: AbortSignal): Promise<readonly Candidate[]> {
  try {
    const reply = await deps.meta.call('statChunk', { id: chunk.id }, { signal })
    const { chunk: ref } = reply
    return ref === null || ref === undefined ? [] : locate(ref, targetsOf(reply.disks)).candidates
  } catch (error) {
    const failure = asStoreError(error, 'find a chunk')
    if (failure.code !== 'NOT_FOUND') throw failure
    throw new StoreError('CHANGED', 'the version that was being read is gone: open the object again', {
      cause: failure,
    })
  }
}

function report(deps: ReadDeps, chunk: number, target: Target, error: StoreError, reported: Set<string>): void {
  const code = error.code === 'CORRUPT' || error.code === 'NOT_FOUND' ? error.code : 'UNAVAILABLE'
  const key = `${target.disk} ${code}`
  if (reported.has(key) || error.code === 'OVERLOADED') return
  reported.add(key)
  const scope = new Scope(deps.env.clock, { timeoutMs: 5_000 }, 'report a replica')
  deps.env.log.debug('replica failed a read', {
    chunk,
    node: target.node,
    disk: target.disk,
    code: error.code,
    reason: error.message,
  })
  deps.meta
    .call('reportReplica', { chunk, disk: target.disk, code }, { signal: scope.signal })
    .then(
      () => undefined,
      () => undefined, // the scrub finds it too; the read does not depend on it
    )
    .finally(() => scope.close())
    .catch(() => undefined)
}

/** One attempt on one replica. */
async function readReplica(
  deps: ReadDeps,
  target: Target,
  chunk: KnownChunk,
  at: number,
  to: number,
  give: (bytes: Uint8Array) => void,
  signal: AbortSignal,
): Promise<void> {
  const { clock, hasher } = deps.env
  const scope = new Scope(clock, { signal }, `read from ${target.node}`)
  const sumInto: SumInto = hasher.sumInto.bind(hasher)
  const check = new BlockCheck(chunk, at, to, sumInto, give)
  const silence = new SilenceWatch(clock, silentMs, () =>
    scope.abort(
      new StoreError('TIMEOUT', `storage node ${target.node} sent nothing for ${silentMs} ms: another replica is used`),
    ),
  )
  const handlers = {
    begin: (begin: holdfast.v1.GetBegin) => {
      silence.heard()
      check.begin(begin)
    },
    piece: (bytes: Uint8Array) => {
      silence.heard()
      return check.frame(bytes)
    },
  }
  silence.start()
  try {
    await deps.streams.get(target, { id: chunk.id, offset: at, length: to - at }, handlers, scope.signal)
  } finally {
    silence.stop()
    scope.close()
  }
}
