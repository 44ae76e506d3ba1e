/**
 * A leader's sending: entries to whoever has not got them, within the window of each, and to a witness only what a full
 * member has (witness.ts) and as receipts.
 *
 * Invariants: what is sent is contiguous and follows a known term; a window bounds what is under way to each member in
 * messages and bytes; a member whose next entry is compacted away is offered a snapshot, once it has answered.
 */

import { assert } from '../../base/assert.ts'
import type { NodeId } from '../../model/ids.ts'
import type { Progress } from './progress.ts'
import { receiptOf } from './receipts.ts'
import type { RaftState } from './state.ts'
import { type Entry, entryBytes } from './types.ts'
import { witnessEnd } from './witness.ts'

/** Entries in one append message, whatever their size. */
const messageEntriesMax = 1024

/** Sends what may be sent to everybody. */
export function replicate(state: RaftState): void {
  for (const [to, progress] of state.progress) {
    const end = endFor(state, progress)
    while (progress.maySend && (progress.state === 'probe' || progress.next <= end)) {
      if (!sendAppend(state, to, progress, end)) break
    }
  }
}

/** Last entry that this member may have now. */
function endFor(state: RaftState, progress: Progress): number {
  return progress.witness ? witnessEnd(state) : state.log.lastIndex
}

/** Sends the next entries (or an empty probe) to one member; false when it has to wait for something. */
function sendAppend(state: RaftState, to: NodeId, progress: Progress, end: number): boolean {
  const { log, limits } = state
  const prevIndex = progress.next - 1
  if (log.term(prevIndex) === undefined) {
    if (!progress.active || progress.departing > 0) return false
    progress.becomeSnapshot()
    state.snapshots.push({ to, term: state.term })
    return false
  }
  if (progress.next > end) {
    emitAppend(state, to, progress, prevIndex, [])
    return true
  }
  const last = log.batchEnd(progress.next, end, limits.messageBytes, messageEntriesMax)
  const entries = log.cached(progress.next, last)
  if (entries === undefined) {
    progress.fetching = true
    state.fetches.push({ to, first: progress.next, last, bytes: limits.messageBytes })
    return false
  }
  emitAppend(state, to, progress, prevIndex, entries)
  return true
}

/** A member has answered, so it can be reached: what was sent to it may be lost, and this finds out. */
export function probeAgain(state: RaftState, to: NodeId, progress: Progress): void {
  if (progress.state === 'snapshot' || progress.fetching) return
  progress.paused = false
  const end = endFor(state, progress)
  if (progress.match >= end) return
  const prevIndex = progress.next - 1
  // At the end of what was sent: it is refused when something before it is missing.
  if (progress.state === 'replicate' && state.log.term(prevIndex) !== undefined) {
    emitAppend(state, to, progress, prevIndex, [])
  } else sendAppend(state, to, progress, end)
}

function emitAppend(
  state: RaftState,
  to: NodeId,
  progress: Progress,
  prevIndex: number,
  whole: readonly Entry[],
): void {
  const { log, term } = state
  const prevTerm = log.term(prevIndex)
  assert(prevTerm !== undefined, 'the entry before a sent one is known')
  const first = whole[0]
  const follows = first === undefined || (first.index === prevIndex + 1 && first.term >= prevTerm)
  assert(follows, 'what is sent follows the entry before it')
  const { session } = progress
  const entries = progress.witness ? whole.map(receiptOf) : whole
  state.emit({ kind: 'append', to, term, session, prevIndex, prevTerm, commit: log.commit, entries }, false)
  let bytes = 0
  for (const entry of entries) bytes += entryBytes(entry)
  progress.sent(prevIndex + entries.length, bytes)
}

/** Entries that were asked for with a fetch task have been read. A witness may have less than when they were asked for. */
export function fetched(state: RaftState, to: NodeId, read: readonly Entry[]): void {
  const progress = state.progress.get(to)
  if (progress === undefined || !progress.fetching) return
  progress.fetching = false
  const end = endFor(state, progress)
  const entries = read.filter(({ index }) => index <= end)
  const first = entries[0]
  const usable =
    first !== undefined &&
    first.index === progress.next &&
    progress.maySend &&
    state.log.term(first.index - 1) !== undefined &&
    entries.every((entry) => state.log.matches(entry.index, entry.term))
  if (usable) emitAppend(state, to, progress, first.index - 1, entries)
}

/** The host finished (or failed) streaming a snapshot that ends at `index`. */
export function snapshotSent(state: RaftState, to: NodeId, installed: boolean, index: number): void {
  const progress = state.progress.get(to)
  if (progress === undefined || progress.state !== 'snapshot') return
  if (installed) progress.furthest = Math.max(progress.furthest, index)
  progress.becomeProbe(installed ? Math.min(index, state.log.lastIndex) + 1 : progress.match + 1)
  // After a failure, wait for a sign of life before the next try.
  if (!installed) {
    progress.paused = true
    progress.active = false
  }
}
