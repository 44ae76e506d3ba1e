/** The invariants of the simulator notice when they are broken: each is broken here once. */

import { expect } from 'chai'
import { encode } from '../../src/base/schema.ts'
import { utf8 } from '../../src/base/bytes.ts'
import { appliedRecord } from '../../src/core/meta/records.ts'
import type { KvOperation } from '../../src/ports/kv.ts'
import { AgentDisk } from '../../src/sim/agent.ts'
import type { WriteRecord } from '../../src/sim/history.ts'
import { Invariants } from '../../src/sim/invariants.ts'

type Applied = Parameters<typeof appliedRecord.write>[1]

function applied(index: number, digest: number): KvOperation[] {
  const record = {
    index,
    term: 1,
    timeMs: 0,
    digest,
    objects: 0,
    bytes: 0,
    chunks: 0,
    findings: 0,
    outcomesFrom: 0,
    outcomesTo: 0,
  }
  return [{ type: 'put', key: utf8('A'), value: encode(appliedRecord, record as Applied) }]
}

function diskWith(...ids: number[]): AgentDisk {
  const disk = new AgentDisk('00'.repeat(16))
  for (const id of ids) disk.chunks.set(id, { length: 1, root: new Uint8Array(8), rotten: false, quarantined: false })
  return disk
}

describe('sim: invariants', () => {
  it('refuse a second leader of a term', () => {
    const invariants = new Invariants([], [])
    invariants.leads('m1', 4)
    invariants.leads('m1', 4)
    invariants.leads('m2', 5)
    expect(() => invariants.leads('m2', 4)).to.throw('two leaders in term 4')
  })

  it('refuse different digests at one applied index, and an applied index that goes back', () => {
    const invariants = new Invariants([], [])
    invariants.stateWritten('m1', applied(3, 77))
    invariants.stateWritten('m2', applied(3, 77))
    expect(() => invariants.stateWritten('m3', applied(3, 78))).to.throw('differ')
    expect(() => invariants.stateWritten('m1', applied(2, 1))).to.throw('went back')
  })

  it('refuse another entry at an index that was applied', () => {
    const invariants = new Invariants([], [])
    invariants.applied('m1', 9, 'term 1 command aa')
    expect(() => invariants.applied('m2', 9, 'term 2 command bb')).to.throw('committed entry 9 changed')
  })

  it('refuse the loss of the last copy of an acknowledged object, unless it may have been replaced', () => {
    const disk = diskWith(70_000)
    const writes: WriteRecord[] = []
    const invariants = new Invariants([disk], writes)
    invariants.acknowledged('k', 5, [{ id: 70_000, root: '' }])
    invariants.replicaGone(70_000)
    disk.chunks.clear()
    expect(() => invariants.replicaGone(70_000)).to.throw('lost its last copy')
    writes.push({ kind: 'delete', key: 'k', etag: '', startMs: 0, endMs: 1, outcome: 'acked', version: 5 })
    invariants.replicaGone(70_000)
  })
})
