/** The history check finds what must not happen: each contradiction is made here once, beside a history that is fine. */

import { expect } from 'chai'
import { checkHistory, History, type ReadRecord, type WriteRecord } from '../../src/sim/history.ts'

function put(
  etag: string,
  startMs: number,
  endMs: number,
  version: number,
  more: Partial<WriteRecord> = {},
): WriteRecord {
  return { kind: 'put', key: 'k', etag, startMs, endMs, outcome: 'acked', version, ...more }
}

function del(startMs: number, endMs: number, removed: number): WriteRecord {
  return { kind: 'delete', key: 'k', etag: '', startMs, endMs, outcome: 'acked', version: removed }
}

function read(startMs: number, endMs: number, etag?: string, version = 0): ReadRecord {
  return { key: 'k', startMs, endMs, seen: etag === undefined ? undefined : { etag, version } }
}

function verdict(writes: WriteRecord[], reads: ReadRecord[]): string {
  const history = new History()
  for (const write of writes) Object.assign(history.begin(write), write)
  history.reads.push(...reads)
  try {
    checkHistory(history)
    return 'fine'
  } catch (error) {
    return (error as Error).message
  }
}

const lost = { outcome: 'unknown', endMs: Number.POSITIVE_INFINITY } as const

describe('sim: history check', () => {
  it('accepts sequential and overlapping operations', () => {
    const writes = [put('a', 0, 10, 5), put('b', 5, 20, 7), del(30, 40, 7)]
    expect(verdict(writes, [read(11, 12, 'a', 5), read(15, 18, 'b', 7), read(35, 36), read(41, 42)])).to.equal('fine')
  })

  it('accepts an unknown write that appears late or never', () => {
    expect(verdict([put('a', 0, 1, 3), put('b', 2, 0, 0, lost)], [read(5, 6, 'a', 3), read(9, 10, 'b', 8)])).to.equal(
      'fine',
    )
    expect(verdict([put('a', 0, 1, 3), put('b', 2, 0, 0, lost)], [read(5, 6, 'a', 3)])).to.equal('fine')
  })

  it('finds a stale read', () => {
    expect(verdict([put('a', 0, 1, 3), put('b', 2, 3, 4)], [read(5, 6, 'a', 3)])).to.contain('after 4 was acknowledged')
  })

  it('finds a lost acknowledged write', () => {
    expect(verdict([put('a', 0, 1, 3)], [read(5, 6)])).to.contain('not there')
  })

  it('finds a value that nobody wrote, or whose put failed for certain', () => {
    expect(verdict([], [read(5, 6, 'z', 9)])).to.contain('nobody wrote')
    expect(verdict([put('a', 0, 1, 0, { outcome: 'failed' })], [read(5, 6, 'a', 3)])).to.contain('failed for certain')
  })

  it('finds versions that contradict real time', () => {
    expect(verdict([put('a', 0, 1, 9), put('b', 5, 6, 4)], [])).to.contain('before version')
  })

  it('finds a read that goes back, also over an unknown write', () => {
    const writes = [put('a', 0, 1, 3), put('b', 2, 0, 0, lost)]
    expect(verdict(writes, [read(5, 6, 'b', 8), read(7, 8, 'a', 3)])).to.contain('after another had seen 8')
  })

  it('finds a deleted version that comes back', () => {
    expect(verdict([put('a', 0, 1, 3), del(2, 3, 3)], [read(5, 6, 'a', 3)])).to.contain('after its delete')
  })

  it('finds a conditional put that replaced another version than it named', () => {
    const writes = [put('a', 0, 1, 3), put('b', 2, 9, 5), put('c', 3, 8, 6, { onVersion: 3 })]
    expect(verdict(writes, [])).to.contain('although it was put on 3')
  })

  it('finds a write applied twice under two versions', () => {
    expect(verdict([put('a', 0, 1, 3)], [read(5, 6, 'a', 8)])).to.contain('has version 3 and 8')
  })

  it('leaves to the search what has no version: a delete that took back a later put', () => {
    const unplaced: WriteRecord = { ...del(20, 21, 0), version: 0 }
    const writes = [put('a', 0, 1, 3), unplaced]
    expect(verdict(writes, [read(30, 31)])).to.equal('fine')
    expect(verdict(writes, [read(30, 31, 'a', 3)])).to.contain('not linearizable')
  })

  it('finds a list that shows half of a commit', () => {
    const history = new History()
    const commit = ['k', 'l'].map((key) => {
      const write = history.begin({ kind: 'put', key, etag: key, startMs: 0 })
      return Object.assign(write, { endMs: 10, outcome: 'acked', version: 7 } satisfies Partial<WriteRecord>)
    })
    history.commits.push(commit)
    const both = new Map(['k', 'l'].map((key) => [key, { etag: key, version: 7 }]))
    history.list(1, 2, ['k', 'l'], both)
    checkHistory(history)
    history.list(1, 2, ['k', 'l'], new Map([['k', { etag: 'k', version: 7 }]]))
    expect(() => checkHistory(history)).to.throw('committed with it')
  })
})
