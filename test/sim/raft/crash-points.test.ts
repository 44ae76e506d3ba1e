/**
 * Every crash point of everything that the log store and the hard-state slots write, with every subset of what was not
 * synced: the next start finds the state before the step that was under way, or the one after it, never a third one, and
 * never less than what had returned. A crash in the middle of that start changes nothing either.
 */

import { expect } from 'chai'
import { toHex, utf8 } from '../../../src/base/bytes.ts'
import { crc32c } from '../../../src/base/crc32c.ts'
import { encodeConfig } from '../../../src/core/raft/messages.ts'
import type { ClusterConfig, Entry, SnapshotMark } from '../../../src/core/raft/types.ts'
import { isStoreError } from '../../../src/model/errors.ts'
import { HardStateSlots } from '../../../src/services/meta/hard-state.ts'
import {
  type LogFormat,
  logFormats,
  newIdentity,
  readIdentity,
  writeIdentity,
} from '../../../src/services/meta/identity.ts'
import { encodeEntry, entryKey } from '../../../src/services/meta/log-format.ts'
import { type NodeStores, openPlace } from '../../../src/services/meta/log-place.ts'
import type { RaftLog } from '../../../src/services/meta/log-types.ts'
import { bootRaft, openVerified } from '../../../src/services/meta/raft-boot.ts'
import { type Content, emptyContent, Journal } from './journal.ts'

const cacheBytes = 1 << 20
const owner = { clusterId: 'c'.repeat(32), incarnation: 'a'.repeat(32), clusterIncarnation: 1 }
const config: ClusterConfig = {
  members: ['a', 'b', 'c'].map((id) => ({ id, incarnation: id.repeat(32), addresses: [`${id}:1`], role: 'voter' })),
  outgoing: [],
}

function entry(index: number, term: number): Entry {
  return { index, term, type: 'command', payload: utf8(`${index} of ${term}`) }
}

function mark(index: number, term: number): SnapshotMark {
  return { index, term, config: { index: 1, config } }
}

/** What is open during a procedure. */
interface Opened {
  readonly journal: Journal
  readonly store: RaftLog
  readonly slots: HardStateSlots
}

/** Segments of a few frames, so that every procedure begins some. */
const segmentSizes = { first: 20 * 1024, max: 20 * 1024 }

function storesOf(journal: Journal): NodeStores {
  let drawn = 0
  const entropy = { unit: () => 0.5, bytes: (length: number) => new Uint8Array(length).fill(++drawn) }
  const segments = () => Promise.resolve(journal.extents)
  return { files: journal.files, kv: journal.factory, segments, entropy, segmentSizes }
}

async function open(content: Content, format: LogFormat): Promise<Opened & { readonly state: string }> {
  const journal = new Journal(content)
  const place = await openPlace(storesOf(journal), format)
  const slots = await HardStateSlots.open(journal.files, owner)
  const { store, recovered, hardState } = await openVerified(place, slots, journal.applied, cacheBytes)
  const { base, lastIndex } = recovered
  const entries = lastIndex === base.index ? [] : await store.read(base.index + 1, lastIndex, Number.POSITIVE_INFINITY)
  const log = entries.map(({ index, term, payload }) => `${index}/${term}/${toHex(payload)}`)
  const hard = `term ${hardState.term} vote ${hardState.vote}`
  return {
    journal,
    store,
    slots,
    state: `${hard}, base ${base.index}/${base.term}, applied ${journal.applied}: ${log}`,
  }
}

/** A log of six entries in terms 1, 1, 1, 2, 2, 2, of which three are applied; term 2. */
async function sixEntries(format: LogFormat): Promise<Content> {
  const journal = new Journal(emptyContent)
  const place = await openPlace(storesOf(journal), format)
  await place.create(config, { index: 1, term: 1, type: 'config', payload: encodeConfig(config) })
  const slots = await HardStateSlots.open(journal.files, owner)
  await slots.save({ term: 1, vote: '' })
  const { store } = await place.open(cacheBytes)
  await store.append(undefined, [entry(2, 1), entry(3, 1)], undefined, 2)
  await slots.save({ term: 2, vote: 'b' })
  await store.append(undefined, [entry(4, 2), entry(5, 2)], { term: 2, vote: 'b' }, 3)
  await store.append(undefined, [entry(6, 2)], undefined, 3)
  journal.replaceState(3)
  await place.close()
  return journal.content
}

type Step = (opened: Opened) => Promise<void>

const procedures: Readonly<Record<string, readonly Step[]>> = {
  vote: [({ slots }) => slots.save({ term: 3, vote: 'c' }), ({ store }) => store.note({ term: 3, vote: 'c' }, 3)],
  'two votes': [
    ({ slots }) => slots.save({ term: 3, vote: 'c' }),
    ({ store }) => store.note({ term: 3, vote: 'c' }, 3),
    ({ slots }) => slots.save({ term: 4, vote: 'a' }),
    ({ store }) => store.note({ term: 4, vote: 'a' }, 3),
  ],
  append: [
    ({ store }) => store.append(undefined, [entry(7, 2), entry(8, 2)], undefined, 4),
    ({ store }) => store.append(undefined, [entry(9, 2)], undefined, 6),
  ],
  'vote and append': [
    ({ slots }) => slots.save({ term: 3, vote: '' }),
    ({ store }) => store.append(undefined, [entry(7, 3)], { term: 3, vote: '' }, 4),
  ],
  'truncate and append': [
    ({ slots }) => slots.save({ term: 3, vote: '' }),
    ({ store }) => store.append(5, [entry(5, 3), entry(6, 3), entry(7, 3)], { term: 3, vote: '' }, 4),
    ({ store }) => store.append(undefined, [entry(8, 3)], undefined, 5),
  ],
  'truncate to less': [
    ({ slots }) => slots.save({ term: 4, vote: '' }),
    ({ store }) => store.append(4, [entry(4, 4)], { term: 4, vote: '' }, 3),
    ({ store }) => store.closeWatermark(3),
  ],
  'close the watermark': [({ store }) => store.closeWatermark(3)],
  compact: [
    ({ store }) => store.compact(2, 1, mark(2, 1).config),
    ({ store }) => store.compact(3, 1, mark(3, 1).config),
  ],
  'compact and append': [
    ({ store }) => store.compact(3, 1, mark(3, 1).config),
    ({ store }) => store.append(undefined, [entry(7, 2)], undefined, 4),
    ({ slots }) => slots.save({ term: 3, vote: '' }),
    ({ store }) => store.note({ term: 3, vote: '' }, 4),
    ({ store }) => store.append(5, [entry(5, 3)], undefined, 4),
  ],
  'install over the log': [
    ({ store }) => store.beginInstall(mark(10, 2)),
    async ({ journal }) => journal.replaceState(10),
    ({ store }) => store.finishInstall(mark(10, 2), false),
    ({ store }) => store.append(undefined, [entry(11, 2)], undefined, 10),
  ],
  'install over a log that differs': [
    ({ slots }) => slots.save({ term: 3, vote: '' }),
    ({ store }) => store.note({ term: 3, vote: '' }, 3),
    ({ store }) => store.beginInstall(mark(5, 3)),
    async ({ journal }) => journal.replaceState(5),
    ({ store }) => store.finishInstall(mark(5, 3), false),
  ],
  'install that the log continues': [
    ({ store }) => store.beginInstall(mark(5, 2)),
    async ({ journal }) => journal.replaceState(5),
    ({ store }) => store.finishInstall(mark(5, 2), true),
    ({ store }) => store.append(undefined, [entry(7, 2)], undefined, 6),
  ],
  'give an install up': [({ store }) => store.beginInstall(mark(10, 2)), ({ store }) => store.cancelInstall()],
}

/** States of contents that were tried already, with a crash at each point of their start: many crashes leave the same. */
type Tried = Map<string, string>

function keyOf({ kv, files, extents, applied }: Content): string {
  const parts = [...kv, ...files, ...extents].map(([name, bytes]) => `${name}=${bytes.length}/${crc32c(bytes)}`)
  return `${applied} ${parts.sort().join(' ')}`
}

/** The start from `content`, and again after a crash at each point of that start: always the same state. */
async function startsAs(
  content: Content,
  format: LogFormat,
  allowed: readonly string[],
  where: string,
  tried: Tried,
): Promise<number> {
  const known = tried.get(keyOf(content))
  if (known !== undefined) {
    expect(allowed, where).to.include(known)
    return 0
  }
  const first = await open(content, format).catch((error: unknown) => {
    throw new Error(`${where}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  })
  expect(allowed, where).to.include(first.state)
  tried.set(keyOf(content), first.state)
  let starts = 1
  const seen: Tried = new Map()
  for (let done = 0; done <= first.journal.count; done++) {
    for (const again of first.journal.crashes(done)) {
      const key = keyOf(again)
      const state = tried.get(key) ?? seen.get(key) ?? (await open(again, format)).state
      seen.set(key, state)
      expect(state, `${where}, and again in the start after ${done} writes`).to.equal(first.state)
      starts++
    }
  }
  return starts
}

/** Carries the steps out without a crash; then crashes everywhere. Returns how many starts were tried. */
async function crashEverywhere(name: string, steps: readonly Step[], format: LogFormat): Promise<number> {
  const start = await sixEntries(format)
  const opened = await open(start, format)
  const states = [opened.state]
  const ends = [opened.journal.count]
  for (const step of steps) {
    await step(opened)
    states.push((await open(opened.journal.content, format)).state)
    ends.push(opened.journal.count)
  }
  let starts = 0
  const tried: Tried = new Map()
  for (let done = 0; done <= opened.journal.count; done++) {
    // The last step that had returned, and the one under way; the start itself changes nothing.
    const returned = Math.max(
      0,
      ends.findLastIndex((end) => end <= done),
    )
    const allowed = states.slice(returned, returned + 2)
    for (const content of opened.journal.crashes(done)) {
      starts += await startsAs(content, format, allowed, `${name}, ${done} writes done`, tried)
    }
  }
  return starts
}

for (const [kind, format] of Object.entries(logFormats)) {
  describe(`sim: raft storage at every crash point, log in ${kind}`, () => {
    for (const [name, steps] of Object.entries(procedures)) {
      it(`${name}: starts from before or after the step`, async () => {
        expect(await crashEverywhere(name, steps, format)).to.be.greaterThan(2)
      })
    }
  })
}

/** Starts a node whose log may be moved into segments; what its directory holds then. */
async function startAndMove(content: Content): Promise<Journal> {
  const journal = new Journal(content)
  const identity = await readIdentity(journal.files, 'test')
  if (identity === undefined) throw new Error('no identity')
  const markReady = (log: LogFormat): Promise<void> => writeIdentity(journal.files, { ...identity, log })
  const formation = { identity, markReady }
  const { store } = await bootRaft(storesOf(journal), formation, content.applied, cacheBytes, logFormats.segments)
  await store.close()
  return journal
}

async function formatOf(content: Content): Promise<LogFormat> {
  return ((await readIdentity(new Journal(content).files, 'test'))?.log ?? 0) as LogFormat
}

describe('sim: raft storage at every crash point of the move into segments', () => {
  it('one of the two logs is in force, both say the same, and the next start ends the move', async () => {
    const before = new Journal(await sixEntries(logFormats.level))
    const identity = { ...newIdentity('a', owner.incarnation, false), clusterId: owner.clusterId, config, ready: true }
    await writeIdentity(before.files, identity)
    const start = before.content
    const { state } = await open(start, logFormats.level)
    const moved = await startAndMove(start)
    const formats = new Set<LogFormat>()
    const tried = new Set<string>()
    for (let done = 0; done <= moved.count; done++) {
      for (const content of moved.crashes(done)) {
        if (tried.has(keyOf(content))) continue
        tried.add(keyOf(content))
        const where = `${done} writes done`
        const format = await formatOf(content)
        formats.add(format)
        expect((await open(content, format)).state, where).to.equal(state)
        const after = (await startAndMove(content)).content
        expect(await formatOf(after), where).to.equal(logFormats.segments)
        expect((await open(after, logFormats.segments)).state, where).to.equal(state)
        expect(after.kv.size, where).to.equal(0)
      }
    }
    expect(formats.size, 'the move was interrupted before and after it was in force').to.equal(2)
  })

  it('an install that was under way is settled first', async () => {
    const journal = new Journal(await sixEntries(logFormats.level))
    await writeIdentity(journal.files, {
      ...newIdentity('a', owner.incarnation, false),
      clusterId: owner.clusterId,
      config,
      ready: true,
    })
    const place = await openPlace(storesOf(journal), logFormats.level)
    const { store } = await place.open(cacheBytes)
    await store.beginInstall(mark(10, 2))
    journal.replaceState(10)
    const moved = await startAndMove(journal.content)
    expect((await open(moved.content, logFormats.segments)).state).to.contain('base 10/2, applied 10: ')
  })
})

async function refusal(content: Content, format: LogFormat = logFormats.level): Promise<string> {
  try {
    return `started: ${(await open(content, format)).state}`
  } catch (error) {
    return isStoreError(error) ? error.code : String(error)
  }
}

function changed(content: Content, change: (kv: Map<string, Uint8Array>) => void): Content {
  const kv = new Map(content.kv)
  change(kv)
  return { ...content, kv }
}

describe('sim: raft storage that lost what it acknowledged', () => {
  const at = (index: number): string => toHex(entryKey(index))

  it('refuses every acknowledged entry that is missing, damaged, or older than what replaced it', async () => {
    const content = await sixEntries(logFormats.level)
    // Entry 6 is the last batch: nothing behind it says that it was synced.
    for (let index = 1; index <= 5; index++) {
      const missing = changed(content, (kv) => kv.delete(at(index)))
      expect(await refusal(missing), `entry ${index} is missing`).to.equal('DATA_LOST')
      const damaged = changed(content, (kv) => {
        const value = (kv.get(at(index)) as Uint8Array).slice()
        value[value.length - 6] = (value.at(-6) as number) ^ 1
        kv.set(at(index), value)
      })
      expect(await refusal(damaged), `entry ${index} is damaged`).to.equal('DATA_LOST')
    }
    for (let index = 2; index <= 5; index++) {
      const term = index < 4 ? 1 : 2
      // Well formed, of the right index and term, and from a log that was not this one.
      const stale = changed(content, (kv) => kv.set(at(index), encodeEntry(entry(index, term), 12345).value))
      expect(await refusal(stale), `entry ${index} is stale`).to.equal('DATA_LOST')
    }
  })

  it('cuts off a damaged end that nobody was told of', async () => {
    const content = await sixEntries(logFormats.level)
    const missing = await refusal(changed(content, (kv) => kv.delete(at(6))))
    const damaged = await refusal(changed(content, (kv) => kv.set(at(6), new Uint8Array(40))))
    expect(missing).to.match(/^started: .*5\/2\/[0-9a-f]+$/)
    expect(damaged).to.equal(missing)
  })

  it('refuses slots that are older than the log, and two damaged ones', async () => {
    const content = await sixEntries(logFormats.level)
    const opened = await open(content, logFormats.level)
    await opened.slots.save({ term: 3, vote: 'c' })
    await opened.store.append(undefined, [entry(7, 3)], { term: 3, vote: 'c' }, 4)
    const later = opened.journal.content
    expect(await refusal({ ...later, files: content.files })).to.equal('DATA_LOST')
    // Only the vote is newer, and then only who got it.
    const voted = await open(content, logFormats.level)
    await voted.store.note({ term: 3, vote: 'c' }, 3)
    expect(await refusal(voted.journal.content)).to.equal('DATA_LOST')
    const other = await open(content, logFormats.level)
    await other.store.note({ term: 2, vote: 'c' }, 3)
    expect(await refusal(other.journal.content)).to.equal('DATA_LOST')
    const files = new Map([...later.files.keys()].map((name) => [name, new Uint8Array(512)]))
    expect(await refusal({ ...later, files })).to.equal('CORRUPT')
  })

  it('refuses a state that is ahead of the log or behind its base', async () => {
    const content = await sixEntries(logFormats.level)
    expect(await refusal({ ...content, applied: 7 })).to.equal('DATA_LOST')
    const opened = await open(content, logFormats.level)
    await opened.store.compact(3, 1, mark(3, 1).config)
    expect(await refusal({ ...opened.journal.content, applied: 2 })).to.equal('DATA_LOST')
  })
})
