/** The invariants of the simulator notice when they are broken: each is broken here once. */

import { expect } from 'chai'
import { fromHex, utf8 } from '../../src/base/bytes.ts'
import { encode, uint } from '../../src/base/schema.ts'
import { encodeCommand } from '../../src/core/meta/commands.ts'
import { keys } from '../../src/core/meta/keys.ts'
import { chunkRecord, type StoredReplicaState, userMetadataOf } from '../../src/core/meta/records.ts'
import type { Entry } from '../../src/core/raft/types.ts'
import { AgentDisk } from '../../src/sim/agent.ts'
import { History } from '../../src/sim/history.ts'
import { Invariants } from '../../src/sim/invariants.ts'

const diskId = '00'.repeat(16)
const etag = '0011223344556677'
const chunk = 70_000

function diskWith(...ids: number[]): AgentDisk {
  const disk = new AgentDisk(diskId)
  for (const id of ids) disk.keep(id, { length: 1, root: new Uint8Array(8), rotten: false, quarantined: false })
  return disk
}

function entry(index: number, text: string, term = 1): Entry {
  return { index, term, type: 'noop', payload: utf8(text) }
}

/** The commit that brought the chunk. */
function committed(): Entry {
  const put = {
    kind: 'put' as const,
    bucket: 'bucket',
    key: 'k',
    size: 1,
    etag: fromHex(etag) ?? new Uint8Array(8),
    chunks: [{ id: chunk, length: 1, root: new Uint8Array(8), acks: [], copying: [] }],
    stagedPages: 0,
    copies: 3,
    concern: 'quorum' as const,
    contentType: '',
    metadata: userMetadataOf([]),
    condition: { ifAbsent: false, ifMatch: '' },
  }
  const payload = encodeCommand({ kind: 'commit', nowMs: 1, commitId: '11'.repeat(16), lease: 1, operations: [put] })
  return { index: 5, term: 1, type: 'command', payload }
}

describe('sim: invariants', () => {
  it('refuse a second leader of a term', () => {
    const invariants = new Invariants([], new History())
    invariants.leads('m1', 4)
    invariants.leads('m1', 4)
    invariants.leads('m2', 5)
    expect(() => invariants.leads('m2', 4)).to.throw('two leaders in term 4')
  })

  it('refuse different digests at one applied index', () => {
    const invariants = new Invariants([], new History())
    invariants.digest('m1', 3, 77)
    invariants.digest('m2', 3, 77)
    expect(() => invariants.digest('m3', 3, 78)).to.throw('differ')
  })

  it('refuse another entry at an index that was applied', () => {
    const invariants = new Invariants([], new History())
    invariants.applied('m1', entry(9, 'aa'))
    invariants.applied('m2', entry(9, 'aa'))
    expect(() => invariants.applied('m2', entry(9, 'bb'))).to.throw('committed entry 9 changed')
    expect(() => invariants.applied('m3', entry(9, 'aa', 2))).to.throw('committed entry 9 changed')
  })

  it('refuse the loss of the last copy of an acknowledged object, unless it may have been replaced', () => {
    const disk = diskWith(chunk)
    const history = new History()
    const invariants = new Invariants([disk], history)
    invariants.applied('m1', committed())
    invariants.acknowledged('k', 5, etag)
    invariants.replicaGone(chunk)
    invariants.checkWhole()
    disk.chunks.clear()
    expect(() => invariants.replicaGone(chunk)).to.throw('lost its last copy')
    expect(() => invariants.checkWhole()).to.throw('a chunk without a copy')
    history.begin({ kind: 'delete', key: 'k', etag: '', startMs: 0 }).version = 5
    invariants.replicaGone(chunk)
  })

  it('refuse a delete of a replica that the metadata has not given up', () => {
    const state = (replica: StoredReplicaState) => (key: Uint8Array) => {
      if (key[0] === keys.diskById(diskId)[0]) return encode(uint, 3)
      const replicas = [{ disk: 3, generation: 1, state: replica }]
      const shown = { length: 1, root: new Uint8Array(8), copies: 3, references: 1, pinned: false }
      return encode(chunkRecord, { ...shown, commitId: '11'.repeat(16), committedMs: 0, garbageMs: 0, replicas })
    }
    let seen: StoredReplicaState = 'deleting'
    const invariants = new Invariants([diskWith(chunk)], new History(), () => state(seen))
    invariants.replicaDeleted(chunk, diskId)
    seen = 'current'
    expect(() => invariants.replicaDeleted(chunk, diskId)).to.throw('has there as current')
  })
})
