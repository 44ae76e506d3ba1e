/**
 * One life of the real disk engine on a journal disk, with books of what it has promised, and the check of a disk after a
 * crash against them.
 *
 * The books are facts (`chunk 7`, `stopped in order`, `identity`) with the values that each may have now. A call that is
 * under way adds what it may lead to; a call that resolved leaves only what it promised. What no fact speaks of is absent.
 */

import { expect } from 'chai'
import { fromHex } from '../../src/base/bytes.ts'
import {
  decodeCheckpoint,
  decodeChunkRecord,
  decodeExtentRecord,
  decodeQuarantine,
} from '../../src/core/chunk/index-record.ts'
import { indexKeys, numberOfKey } from '../../src/core/chunk/keyspace.ts'
import type { Location } from '../../src/core/chunk/record.ts'
import type { Sum } from '../../src/core/chunk/sums.ts'
import { toHex } from '../../src/base/bytes.ts'
import { isStoreError } from '../../src/model/errors.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import type { DiskDeps, DiskOptions } from '../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import type { DiskJournal, Image } from './disk-journal.ts'
import { content, get, put, seeded, silentLog, silentMetrics, testHasher } from './disk-world.ts'
import { ManualClock } from './manual-clock.ts'

export const absent = 'absent'
/** Held, and every read of it says CORRUPT. */
export const corrupt = 'corrupt'
const stopped = 'stopped in order'
const identity = 'identity'
const owner = 'owner'
/** Free extent files that a disk keeps, the one being written and the one made ahead. */
const spareExtents = 4

const sum: Sum = (bytes, out, at) => testHasher.sumInto(bytes, out, at)

/** Values that a fact may have; a fact that is not there is not known yet. */
export type Books = ReadonlyMap<string, ReadonlySet<string>>

interface Note {
  readonly at: number
  readonly fact: string
  readonly values: readonly string[]
  /** Only these from here on, not these too. */
  readonly only: boolean
}

const chunkFact = (id: number): string => `chunk ${id}`
/** What a chunk is, in the books: its seed and its length. */
const contentName = (seed: number, length: number): string => `${seed}:${length}`

const contents = new Map<string, Uint8Array>()
export function contentOf(seed: number, length: number): Uint8Array {
  const name = contentName(seed, length)
  const bytes = contents.get(name) ?? content(seed, length)
  contents.set(name, bytes)
  return bytes
}

function ownerOf(disk: DiskEngine): string {
  return disk.clusterId === undefined ? 'nobody' : `${disk.clusterId} ${disk.clusterIncarnation}`
}

/** Names bytes by their checksum, so that two contents are compared without keeping both. */
function nameOf(bytes: Uint8Array, allowed: ReadonlySet<string>): string {
  for (const name of allowed) {
    const expected = contents.get(name)
    if (expected?.length === bytes.length && Buffer.compare(expected, bytes) === 0) return name
  }
  return `${bytes.length} bytes that were never put`
}

export const lifeOptions: DiskOptions = {
  path: '/disk',
  nodeId: 'n1',
  extentBytes: 128 * 1024,
  reserveBytes: 0,
  arenaBytes: 1 << 20,
}

export class Life {
  readonly journal: DiskJournal
  readonly clock = new ManualClock()
  readonly options: DiskOptions
  readonly #start: Books
  readonly #books: Map<string, ReadonlySet<string>>
  readonly #notes: Note[] = []
  readonly #deps: DiskDeps
  readonly #reported: number[] = []
  /** What replay said of damage in the log: nobody damages a head here. */
  readonly #alarms: string[] = []
  #disk: DiskEngine | undefined
  /** What the disk that is open may have said of its last stop. */
  #mayBeClean: ReadonlySet<string> | undefined

  constructor(journal: DiskJournal, books: Books, seed: number, options: Partial<DiskOptions> = {}) {
    this.journal = journal
    this.#start = books
    this.#books = new Map(books)
    this.options = { ...lifeOptions, ...options }
    const random = seeded(seed)
    this.#deps = {
      files: journal.files,
      extents: journal.extents,
      kv: journal.kv,
      hasher: testHasher,
      clock: this.clock,
      entropy: { bytes: (length) => Uint8Array.from({ length }, () => random() * 256), unit: random },
      log: {
        ...silentLog,
        error: (event) => {
          if (event.startsWith('the log is damaged')) this.#alarms.push(event)
        },
      },
      metrics: silentMetrics,
    }
  }

  get disk(): DiskEngine {
    if (this.#disk === undefined) throw new Error('the disk is not open')
    return this.#disk
  }

  /** What may be true of a disk whose power went at `time`. */
  booksAt(time: number): Books {
    const books = new Map(this.#start)
    for (const note of this.#notes) {
      if (note.at > time) break
      merge(books, note)
    }
    return books
  }

  #note(fact: string, only: boolean, ...values: string[]): void {
    const at = only ? this.journal.now : this.journal.weaken()
    const note = { at, fact, values, only }
    this.#notes.push(note)
    merge(this.#books, note)
  }

  async open(): Promise<void> {
    this.#mayBeClean = this.#books.get(stopped)
    if (this.#mayBeClean?.has('yes') === true) this.#note(stopped, false, 'no')
    this.#disk = await openDisk(this.#deps, this.options)
    this.#disk.onCorrupt((id) => this.#reported.push(id))
    this.#note(stopped, true, 'no')
    if (!this.#books.has(identity)) this.#note(identity, true, this.#disk.id)
    if (!this.#books.has(owner)) this.#note(owner, true, ownerOf(this.#disk))
  }

  async close(): Promise<void> {
    this.#note(stopped, false, 'yes')
    await this.disk.close()
    this.#disk = undefined
    this.#note(stopped, true, 'yes')
  }

  async adopt(cluster: string, incarnation: number): Promise<void> {
    const value = `${cluster} ${incarnation}`
    this.#note(owner, false, value)
    await this.disk.adopt(cluster, 'n1', incarnation)
    this.#note(owner, true, value)
  }

  async put(id: number, length: number, seed: number = id, replace = false): Promise<void> {
    await this.#put(id, contentName(seed, length), contentOf(seed, length), replace)
  }

  /** Puts these bytes. */
  async putBytes(id: number, bytes: Uint8Array): Promise<void> {
    const name = `bytes of chunk ${id}`
    contents.set(name, bytes)
    await this.#put(id, name, bytes, false)
  }

  async #put(id: number, name: string, bytes: Uint8Array, replace: boolean): Promise<void> {
    if (!this.#books.has(chunkFact(id))) this.#note(chunkFact(id), true, absent)
    this.#note(chunkFact(id), false, name)
    await put(this.disk, id, bytes, { replace })
    this.#note(chunkFact(id), true, name)
  }

  async delete(ids: readonly number[]): Promise<void> {
    for (const id of ids) this.#note(chunkFact(id), false, absent)
    await this.disk.delete(ids)
    for (const id of ids) this.#note(chunkFact(id), true, absent)
  }

  /** Damages the chunk's bytes on disk. It is to be a large one: of a small one the index has a copy. */
  rot(id: number): void {
    const place = this.placeOf(id)
    this.journal.rot(place.extent, place.payload + 5)
    this.#note(chunkFact(id), true, corrupt)
  }

  /** The index of the closed disk does not open any more. */
  loseIndex(): void {
    this.journal.damaged.add('index')
    this.#note(stopped, true, 'yes', 'no')
  }

  async verify(id: number): Promise<'intact' | 'corrupt' | 'missing'> {
    const rotten = this.#books.get(chunkFact(id))?.has(corrupt) === true
    if (rotten) this.#note(chunkFact(id), false, absent)
    const found = await this.disk.verify(id)
    if (rotten) this.#note(chunkFact(id), true, absent)
    return found
  }

  placeOf(id: number): Location {
    const value = this.journal.live.store('index').get(toHex(indexKeys.chunk(id)))
    const record = value === undefined ? undefined : decodeChunkRecord(id, value, sum)
    if (record === undefined) throw new Error(`chunk ${id} is not in the index`)
    return record.location
  }

  /** Waits until the engine has nothing under way. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 20; quiet = this.journal.busy === 0 ? quiet + 1 : 0) {
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }

  async advance(ms: number): Promise<void> {
    await this.settle()
    this.clock.advance(ms)
    await this.settle()
  }

  /** Holds the open disk to the books. What it says now is what everybody goes by from here on. */
  async check(): Promise<void> {
    const clean = this.disk.clean ? 'yes' : 'no'
    if (this.#mayBeClean?.has(clean) === false) throw new Error(`${stopped}: it says ${clean}`)
    const observed = await this.#observe()
    for (const [fact, value] of observed) {
      const allowed = this.#books.get(fact) ?? (fact.startsWith('chunk') ? new Set([absent]) : undefined)
      if (allowed?.has(value) === false) throw new Error(`${fact} is ${value}, it must be ${[...allowed].join(' or ')}`)
      // What is corrupt was quarantined when it was read.
      this.#note(fact, true, value === corrupt ? absent : value)
    }
    const allowedCorrupt = this.#reported.filter(
      (id) => observed.get(chunkFact(id)) !== corrupt && observed.get(chunkFact(id)) !== absent,
    )
    expect(allowedCorrupt, 'chunks called corrupt').to.deep.equal([])
    expect(this.#alarms, 'false alarms').to.deep.equal([])
  }

  async #observe(): Promise<Map<string, string>> {
    const { disk } = this
    const observed = new Map<string, string>()
    observed.set(identity, disk.id)
    observed.set(owner, ownerOf(disk))
    for (const fact of this.#books.keys()) if (fact.startsWith('chunk')) observed.set(fact, absent)
    const { ids } = await disk.list(0, Number.MAX_SAFE_INTEGER, 100_000)
    expect(disk.status().chunks, 'the count of chunks').to.equal(ids.length)
    for (const id of ids) observed.set(chunkFact(id), await this.#read(id))
    return observed
  }

  async #read(id: number): Promise<string> {
    // Whoever reads what is corrupt takes it out of service.
    if (this.#books.get(chunkFact(id))?.has(corrupt) === true) this.#note(chunkFact(id), false, absent)
    try {
      const name = nameOf(await get(this.disk, id), this.#books.get(chunkFact(id)) ?? new Set())
      const found = await this.disk.verify(id)
      return found === 'intact' ? name : `${name} and ${found} in the log`
    } catch (error) {
      if (isStoreError(error) && error.code === 'CORRUPT') return corrupt
      throw error
    }
  }

  /** Of a closed disk: the figures saved with the last checkpoint are what a recount gives, and no file has leaked. */
  checkFigures(): void {
    const { live } = this.journal
    const recount = recountOf(live)
    expect(Object.fromEntries(recount.saved), 'live bytes by extent, saved and counted').to.deep.equal(
      Object.fromEntries(recount.live),
    )
    expect(recount.chunksSaved, 'chunks, saved and counted').to.equal(recount.chunks)
    const spare = [...live.names.keys()].filter((name) => !recount.live.has(name))
    expect(spare.length, `extents that hold nothing: ${spare.join(' ')}`).to.be.at.most(spareExtents)
    for (const extent of recount.live.keys()) expect(live.names.has(extent), `extent ${extent} is there`).to.equal(true)
  }
}

function merge(books: Map<string, ReadonlySet<string>>, { fact, values, only }: Note): void {
  books.set(fact, new Set(only ? values : [...(books.get(fact) ?? []), ...values]))
}

interface Recount {
  readonly live: Map<number, number>
  readonly saved: Map<number, number>
  readonly chunks: number
  readonly chunksSaved: number | undefined
}

/** What the records of an index add up to, beside the figures that are saved in it. */
function recountOf(image: Image): Recount {
  const live = new Map<number, number>()
  const saved = new Map<number, number>()
  let chunks = 0
  let chunksSaved: number | undefined
  const add = ({ extent, span }: Location): void => {
    live.set(extent, (live.get(extent) ?? 0) + span)
  }
  for (const [hex, value] of image.store('index')) {
    const key = fromHex(hex) as Uint8Array
    const kind = String.fromCharCode(key[0] as number)
    if (kind === 'c') {
      chunks++
      const record = decodeChunkRecord(numberOfKey(key), value, sum)
      if (record !== undefined) add(record.location)
    } else if (kind === 'q') {
      const record = decodeQuarantine(key, value, sum)
      if (record !== undefined) add(record.location)
    } else if (kind === 'e') {
      const bytes = decodeExtentRecord(numberOfKey(key), value, sum) ?? -1
      // An extent that is empty is in the figures until it is recycled.
      if (bytes !== 0) saved.set(numberOfKey(key), bytes)
    } else if (kind === 'P') {
      const checkpoint = decodeCheckpoint(value, sum)
      chunksSaved = checkpoint === undefined ? undefined : checkpoint.chunks
    }
  }
  return { live, saved, chunks, chunksSaved }
}

/** Places of quarantined bytes in the index of a disk, with the ids they were under. */
export function quarantinesIn(image: Image): { id: number; location: Location }[] {
  const out: { id: number; location: Location }[] = []
  for (const [hex, value] of image.store('index')) {
    const key = fromHex(hex) as Uint8Array
    if (String.fromCharCode(key[0] as number) !== 'q') continue
    const record = decodeQuarantine(key, value, sum)
    if (record !== undefined) out.push({ id: numberOfKey(key), location: record.location })
  }
  return out
}
