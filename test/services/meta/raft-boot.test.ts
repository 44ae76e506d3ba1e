/** What log, hard state, identity and state must agree on before a node may start. */

import { expect } from 'chai'
import { isStoreError } from '../../../src/model/errors.ts'
import { bool, struct, text } from '../../../src/base/schema.ts'
import { clusterConfig, encodeConfig } from '../../../src/core/raft/messages.ts'
import type { Member } from '../../../src/core/raft/types.ts'
import { HardStateSlots } from '../../../src/services/meta/hard-state.ts'
import {
  type Identity,
  type LogFormat,
  logFormats,
  newIdentity,
  readIdentity,
  writeIdentity,
} from '../../../src/services/meta/identity.ts'
import { unseal } from '../../../src/services/meta/log-format.ts'
import { logName, openPlace } from '../../../src/services/meta/log-place.ts'
import { bootRaft } from '../../../src/services/meta/raft-boot.ts'
import { MemoryExtents, MemoryFiles } from '../../support/memory-extents.ts'
import { MemoryKvFactory } from '../../support/memory-kv.ts'
import { hexId as id } from './raft-cluster.ts'

const members: Member[] = [{ id: 'a', incarnation: id(7), addresses: ['a:1'], role: 'voter' }]
const config = { members, outgoing: [] }

function memoryStores() {
  const extents = new MemoryExtents()
  let drawn = 0
  const entropy = { unit: () => 0.5, bytes: (length: number) => new Uint8Array(length).fill(++drawn) }
  const segmentSizes = { first: 64 * 1024, max: 256 * 1024 }
  const kv = new MemoryKvFactory()
  return { files: new MemoryFiles(), kv, extents, segments: () => Promise.resolve(extents), entropy, segmentSizes }
}

/** A node that was formed, with entries 1 to `last` in its log, committed up to `commit`. */
async function formed(log: LogFormat, last: number, commit: number) {
  const stores = memoryStores()
  let identity: Identity = { ...newIdentity('a', id(7), false), clusterId: id(1), config, ready: true, log }
  const formation = {
    get identity() {
      return identity
    },
    markReady: async (format: LogFormat) => {
      identity = { ...identity, ready: true, log: format }
    },
  }
  const slots = await HardStateSlots.open(stores.files, identity)
  await slots.save({ term: 3, vote: 'a' })
  const place = await openPlace(stores, log)
  await place.create(config, { index: 1, term: 1, type: 'config', payload: encodeConfig(config) })
  const { store } = await place.open(1 << 20)
  for (let index = 2; index <= last; index++) {
    const entry = { index, term: 2, type: 'command', payload: new Uint8Array([index]) } as const
    await store.append(undefined, [entry], { term: 3, vote: 'a' }, Math.min(commit, index))
  }
  await store.closeWatermark(commit)
  return {
    stores,
    formation,
    store,
    slots,
    close: () => store.close(),
    boot: (durable: number | undefined, format = log) => bootRaft(stores, formation, durable, 1 << 20, format),
  }
}

async function refusal(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  if (!isStoreError(error)) throw new Error('not refused')
  return `${error.code} ${error.message}`
}

for (const [name, log] of Object.entries(logFormats))
  describe(`raft boot, log in ${name}`, () => {
    it('the second copy of a vote is written before anything is said: one lost slot then gives no second vote', async () => {
      const node = await formed(log, 3, 3)
      // The power went between the slot and the log.
      await node.slots.save({ term: 4, vote: 'b' })
      await node.close()
      const { store, start } = await node.boot(3)
      expect(start.hardState).to.deep.equal({ term: 4, vote: 'b' })
      await store.close()
      const { contents } = node.stores.files
      for (const name of ['raft-hard-0', 'raft-hard-1']) {
        const slot = contents.get(name)
        const sequence = (await HardStateSlots.open(node.stores.files, node.formation.identity)).value
        if (slot === undefined || sequence?.term !== 4) continue
        const kept = slot.slice()
        slot.fill(0xff)
        const left = (await HardStateSlots.open(node.stores.files, node.formation.identity)).value
        if (left?.term === 4) slot.set(kept)
      }
      expect(await refusal(node.boot(3))).to.match(/the log knows of term 4 and the hard state only of term 3/)
    })

    it('a state that is behind the log is brought forward: replay begins after what it has on disk', async () => {
      const { boot, close } = await formed(log, 20, 15)
      await close()
      const booted = await boot(10)
      expect(booted.start).to.include({ applied: 10, commit: 15, lastIndex: 20 })
      expect(booted.start.tail.map((entry) => entry.index)).to.include(11)
    })

    it('a state that is ahead of the commit hint says what was committed', async () => {
      const { boot, close } = await formed(log, 20, 12)
      await close()
      expect((await boot(17)).start).to.include({ applied: 17, commit: 17 })
    })

    it('a state that is ahead of the log is refused, and so is one that is behind its base', async () => {
      const ahead = await formed(log, 20, 20)
      await ahead.close()
      expect(await refusal(ahead.boot(21))).to.match(/^DATA_LOST .*the state is at entry 21 and the log ends at 20/)
      const behind = await formed(log, 20, 20)
      await behind.store.compact(12, 2, { index: 1, config })
      await behind.close()
      expect(await refusal(behind.boot(9))).to.match(/^DATA_LOST .*the state is at entry 9 and the log begins after 12/)
      expect((await behind.boot(12)).start.base.index).to.equal(12)
    })

    it('scenario 82: a commit hint beyond the end of the log is refused in words', async () => {
      const { boot, close, store } = await formed(log, 20, 20)
      await store.closeWatermark(25)
      await close()
      expect(await refusal(boot(10))).to.match(/^DATA_LOST .*entries 21 to 25 were committed and are gone/)
    })

    it('a log that knows of a newer term or another vote than the hard state is refused', async () => {
      const newer = await formed(log, 5, 5)
      await newer.store.append(undefined, [], { term: 4, vote: '' }, 5)
      await newer.close()
      expect(await refusal(newer.boot(5))).to.contain('the log knows of term 4')
      const other = await formed(log, 5, 5)
      await other.store.append(undefined, [], { term: 3, vote: 'b' }, 5)
      await other.close()
      expect(await refusal(other.boot(5))).to.match(/^DATA_LOST/)
    })

    it('a witness has no state: what its log knows to be committed counts as applied', async () => {
      const { boot, close } = await formed(log, 20, 15)
      await close()
      expect((await boot(undefined)).start).to.include({ applied: 15, commit: 15 })
    })

    it('a node that joins begins with an empty log and no term; a founder with the first entry', async () => {
      for (const joined of [true, false]) {
        const stores = memoryStores()
        const identity: Identity = { ...newIdentity('a', id(7), false), clusterId: id(1), config, joined, joinIndex: 9 }
        let ready = false
        const markReady = async (): Promise<void> => {
          ready = true
        }
        const { start } = await bootRaft(stores, { identity, markReady }, 0, 1 << 20, log)
        expect(ready).to.equal(true)
        const expected = joined ? { lastIndex: 0, commit: 0 } : { lastIndex: 1, commit: 1 }
        expect(start).to.include(expected)
        expect(start.hardState).to.deep.equal({ term: joined ? 0 : 1, vote: '' })
      }
    })

    it('a node that was ready and finds no log has lost it', async () => {
      const { stores, close, boot } = await formed(log, 3, 3)
      await close()
      await stores.kv.destroy(logName)
      stores.extents.files.clear()
      expect(await refusal(boot(0))).to.contain('the raft log of this node is gone')
    })

    it('slots of another incarnation of the cluster are refused', async () => {
      const { stores, formation, close } = await formed(log, 3, 3)
      await close()
      const later = { identity: { ...formation.identity, clusterIncarnation: 2 }, markReady: formation.markReady }
      expect(await refusal(bootRaft(stores, later, 0, 1 << 20, log))).to.match(/^WRONG_CLUSTER .*incarnation/)
    })
  })

describe('raft identity', () => {
  /** The record of version 1. */
  const first = struct({ node: text, incarnation: text, clusterId: text, config: clusterConfig, ready: bool })

  it('of a member that uses nothing new has the bytes that version 1 reads, and reads those', async () => {
    for (const members of [[], config.members]) {
      const files = new MemoryFiles()
      const identity = { ...newIdentity('a', id(7), false), clusterId: id(1), config: { members, outgoing: [] } }
      await writeIdentity(files, identity)
      const stored = files.contents.get('raft-identity') ?? new Uint8Array(0)
      const old = unseal(first, stored)
      expect(old).to.deep.include({ node: 'a', clusterId: id(1), ready: false, config: identity.config })
      expect(await readIdentity(files, 'test')).to.deep.equal(identity)
    }
  })

  it('keeps what is new, and refuses damage', async () => {
    const files = new MemoryFiles()
    const later = {
      clusterIncarnation: 3,
      witness: true,
      joined: true,
      joinIndex: 7,
      recoveryTerm: 8,
      recoveryIndex: 9,
    }
    const identity = { ...newIdentity('a', id(7), true), ...later }
    await writeIdentity(files, identity)
    expect(await readIdentity(files, 'test')).to.deep.equal(identity)
    const inSegments = { ...newIdentity('a', id(7), false), log: logFormats.segments }
    await writeIdentity(files, inSegments)
    expect(await readIdentity(files, 'test')).to.deep.equal(inSegments)
    const stored = files.contents.get('raft-identity') as Uint8Array
    stored[10] = (stored[10] as number) ^ 1
    expect(await refusal(readIdentity(files, 'start'))).to.match(/^CORRUPT start: raft-identity is damaged/)
    await writeIdentity(files, { ...inSegments, log: 2 })
    expect(await refusal(readIdentity(files, 'start'))).to.match(/^INCOMPATIBLE_VERSION start: .*run the newer program/)
  })
})
