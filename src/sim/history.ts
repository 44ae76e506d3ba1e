/**
 * The exact check of what clients saw, per key and in linear time.
 *
 * Every write brings a value of its own, and every answer carries the Raft index of the version (`version`). So no search
 * is needed: acknowledged writes, ordered by index, must respect real time; a read must see at least what was
 * acknowledged before it began, nothing that was never written, and nothing that an earlier read had seen replaced.
 * A write whose outcome is unknown may appear at any later time or never; a read that failed says nothing.
 */

/** A put or delete as a client saw it. `endMs` is infinite while the outcome is unknown. */
export interface WriteRecord {
  readonly kind: 'put' | 'delete'
  readonly key: string
  /** The value: unique over the run. Empty for deletes. */
  readonly etag: string
  readonly startMs: number
  endMs: number
  outcome: 'acked' | 'failed' | 'unknown'
  /** Index of the version that was put; for a delete: of the version it removed. */
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

/** All operations of a run. */
export class History {
  readonly writes: WriteRecord[] = []
  readonly reads: ReadRecord[] = []
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
}
