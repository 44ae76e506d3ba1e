/**
 * The exact check of what clients saw, per key and in linear time.
 *
 * Every write brings a value of its own, and every answer carries the Raft index of the version (`version`). So no search
 * is needed: acknowledged writes, ordered by index, must respect real time; a read must see at least what was
 * acknowledged before it began, nothing that was never written, and nothing that an earlier read had seen replaced.
 * A write whose outcome is unknown may appear at any later time or never; a read that failed says nothing.
 *
 * What that check cannot place (deletes, writes without an answer) is left to the search of check/linearizable.ts.
 */

import { checkLinearizable } from './check/linearizable.ts'
import type { Operation } from './check/register.ts'

/** A put or delete as a client saw it. `endMs` is infinite while the outcome is unknown. */
export interface WriteRecord {
  readonly kind: 'put' | 'delete'
  readonly key: string
  /** The value: unique over the run. Empty for deletes. */
  readonly etag: string
  readonly startMs: number
  endMs: number
  outcome: 'acked' | 'failed' | 'unknown'
  /** Index of the version that was put; for a delete: of the version it removed. 0: not known. */
  version: number
  /** The put was made on the condition that this version was in place; 0: that there was none. */
  readonly onVersion?: number | undefined
}

/** What a reader saw of one key. */
export interface ReadRecord {
  readonly key: string
  readonly startMs: number
  readonly endMs: number
  readonly seen: { readonly etag: string; readonly version: number } | undefined
}

/** What one list showed, at one index: every key of `versions`, with 0 for those that were not there. */
interface ListRecord {
  readonly versions: ReadonlyMap<string, number>
}

/** All operations of a run. */
export class History {
  readonly writes: WriteRecord[] = []
  readonly reads: ReadRecord[] = []
  readonly lists: ListRecord[] = []
  /** Writes of one commit, which become visible together. */
  readonly commits: (readonly WriteRecord[])[] = []
  readonly #byKey = new Map<string, WriteRecord[]>()

  /** A write that begins now, with its outcome still open. */
  begin(write: Pick<WriteRecord, 'kind' | 'key' | 'etag' | 'startMs' | 'onVersion'>): WriteRecord {
    const record: WriteRecord = { ...write, endMs: Number.POSITIVE_INFINITY, outcome: 'unknown', version: 0 }
    this.writes.push(record)
    const known = this.#byKey.get(write.key)
    if (known === undefined) this.#byKey.set(write.key, [record])
    else known.push(record)
    return record
  }

  writesOf(key: string): readonly WriteRecord[] {
    return this.#byKey.get(key) ?? []
  }

  /** One list of all `keys`: a read of each of them, at once. */
  list(startMs: number, endMs: number, keys: readonly string[], seen: ReadonlyMap<string, ReadRecord['seen']>): void {
    for (const key of keys) this.reads.push({ key, startMs, endMs, seen: seen.get(key) })
    this.lists.push({ versions: new Map(keys.map((key) => [key, seen.get(key)?.version ?? 0])) })
  }
}

function fail(key: string, what: string): never {
  throw new Error(`history of ${key}: ${what}`)
}

/** Gives every put that a read has seen its version, and checks that what was seen was written. */
function matchReads(key: string, puts: Map<string, WriteRecord>, reads: readonly ReadRecord[]): void {
  for (const { seen, endMs } of reads) {
    if (seen === undefined) continue
    const put = puts.get(seen.etag)
    if (put === undefined) fail(key, `a read saw ${seen.etag}, which nobody wrote`)
    if (put.outcome === 'failed') fail(key, `a read saw ${seen.etag}, whose put failed for certain`)
    if (put.startMs > endMs) fail(key, `a read saw ${seen.etag} before its put began`)
    if (put.version === 0) put.version = seen.version
    if (put.version !== seen.version) fail(key, `${seen.etag} has version ${put.version} and ${seen.version}`)
  }
}

/** Acknowledged puts in the order of their versions must not contradict real time. */
function checkOrder(key: string, puts: readonly WriteRecord[]): void {
  const ordered = puts.filter((put) => put.version > 0).sort((a, b) => a.version - b.version)
  let latest: WriteRecord | undefined
  for (const [i, put] of ordered.entries()) {
    if (i > 0 && ordered[i - 1]?.version === put.version) fail(key, `two puts have version ${put.version}`)
    if (latest !== undefined && put.endMs < latest.startMs) {
      fail(key, `version ${put.version} was acknowledged before version ${latest.version} began`)
    }
    if (latest === undefined || put.startMs > latest.startMs) latest = put
    const { onVersion } = put
    if (onVersion === undefined) continue
    if (onVersion > put.version) fail(key, `version ${put.version} was put on the later version ${onVersion}`)
    const between = ordered.find((other) => other.version > onVersion && other.version < put.version)
    if (onVersion > 0 && between !== undefined) {
      fail(key, `version ${put.version} replaced ${between.version} although it was put on ${onVersion}`)
    }
  }
}

interface KeyHistory {
  readonly puts: readonly WriteRecord[]
  readonly deletes: readonly WriteRecord[]
  readonly reads: readonly ReadRecord[]
}

/** A delete that may have removed `version` and may have been carried out before `beforeMs`. */
function maybeDeleted(history: KeyHistory, put: WriteRecord, beforeMs: number): boolean {
  return history.deletes.some(
    (del) =>
      del.outcome !== 'failed' &&
      del.startMs < beforeMs &&
      del.endMs > put.startMs &&
      (del.version === 0 || del.version >= put.version),
  )
}

/** What read `read` must have seen, given what was over when it began. */
function checkRead(key: string, history: KeyHistory, read: ReadRecord): void {
  for (const put of history.puts) {
    if (put.outcome !== 'acked' || put.endMs >= read.startMs) continue
    if (read.seen === undefined && !maybeDeleted(history, put, read.endMs)) {
      fail(key, `version ${put.version} was acknowledged at ${put.endMs} and not there at ${read.startMs}`)
    }
    if (read.seen !== undefined && read.seen.version < put.version) {
      fail(key, `a read at ${read.startMs} saw version ${read.seen.version} after ${put.version} was acknowledged`)
    }
  }
  for (const del of history.deletes) {
    if (del.outcome !== 'acked' || del.version === 0 || del.endMs >= read.startMs) continue
    if (read.seen !== undefined && read.seen.version <= del.version) {
      fail(key, `a read at ${read.startMs} saw version ${read.seen.version} after its delete was acknowledged`)
    }
  }
}

/** Reads that follow each other never go back. */
function checkReadsAmong(key: string, history: KeyHistory): void {
  const byEnd = [...history.reads].sort((a, b) => a.endMs - b.endMs)
  const byStart = [...history.reads].sort((a, b) => a.startMs - b.startMs)
  let at = 0
  let highest = 0
  for (const read of byStart) {
    for (; at < byEnd.length && (byEnd[at] as ReadRecord).endMs < read.startMs; at++) {
      highest = Math.max(highest, byEnd[at]?.seen?.version ?? 0)
    }
    if (read.seen !== undefined && read.seen.version < highest) {
      fail(key, `a read at ${read.startMs} saw version ${read.seen.version} after another had seen ${highest}`)
    }
    if (read.seen !== undefined || highest === 0) continue
    const put = history.puts.find((candidate) => candidate.version === highest)
    if (put !== undefined && !maybeDeleted(history, put, read.endMs)) {
      fail(key, `version ${highest} was seen and was gone at ${read.startMs} without a delete`)
    }
  }
}

/** A list that shows one write of a commit shows all of them, or what came after. */
function checkTogether(history: History): void {
  for (const commit of history.commits) {
    const version = commit.find((write) => write.version > 0 && write.kind === 'put')?.version
    if (version === undefined) continue
    for (const { versions } of history.lists) {
      if (!commit.some((write) => write.kind === 'put' && versions.get(write.key) === version)) continue
      for (const { key, kind } of commit) {
        const seen = versions.get(key)
        if (seen === undefined || seen >= version || (seen === 0 && history.writesOf(key).some(isDelete))) continue
        fail(key, `a list shows version ${version} of another key and not the ${kind} that was committed with it`)
      }
    }
  }
}

function isDelete(write: WriteRecord): boolean {
  return write.kind === 'delete'
}

/** The records as operations on registers, one for each key, for the search (check/linearizable.ts). */
export function operationsOf(history: History): Operation[] {
  const writes = history.writes
    .filter((write) => write.outcome !== 'failed')
    .map((write, i): Operation => {
      const { kind, etag, onVersion, version, key } = write
      const acked = write.outcome === 'acked'
      const op: Operation['op'] =
        kind === 'delete'
          ? { kind }
          : onVersion === undefined
            ? { kind, value: etag }
            : { kind: 'cas', value: etag, onVersion }
      // A delete that does not say what it removed may have come second, to a key that was gone.
      const told = acked && (kind === 'put' || version > 0)
      const result = told ? { ok: true, ...(kind === 'put' ? { version } : {}) } : undefined
      return { client: `w${i}`, key, op, call: write.startMs, return: acked ? write.endMs : undefined, result }
    })
  const reads = history.reads.map(({ key, startMs, endMs, seen }, i): Operation => {
    const result = { ok: true, ...(seen === undefined ? {} : { value: seen.etag, version: seen.version }) }
    return { client: `r${i}`, key, op: { kind: 'get' }, call: startMs, return: endMs, result }
  })
  return [...writes, ...reads]
}

/** Steps of the search for one key; what needs more has too many unknown outcomes to be decided. */
const searchSteps = 100_000

/** Throws with one line on the first contradiction in `history`. */
export function checkHistory(history: History): void {
  const keys = [...new Set([...history.writes, ...history.reads].map((record) => record.key))].sort()
  for (const key of keys) {
    const puts = history.writes.filter((write) => write.key === key && write.kind === 'put')
    const deletes = history.writes.filter((write) => write.key === key && write.kind === 'delete')
    const reads = history.reads.filter((read) => read.key === key)
    matchReads(key, new Map(puts.map((put) => [put.etag, put])), reads)
    checkOrder(key, puts)
    for (const read of reads) checkRead(key, { puts, deletes, reads }, read)
    checkReadsAmong(key, { puts, deletes, reads })
  }
  checkTogether(history)
  const [violation] = checkLinearizable(operationsOf(history), searchSteps).violations
  if (violation !== undefined) throw new Error(`history is not linearizable: ${violation}`)
}
