/**
 * What apply reads and writes: an overlay over the durable state, in two levels.
 *
 * `StateView` collects the writes of one apply group. `Transaction` collects those of one entry: a refused command drops
 * its transaction, so a command happens whole or not at all. Reads see the entry's writes, then the group's, then the
 * store's.
 *
 * Invariants: the digest chain runs over each entry's writes in the order the entry first touched its keys, so it does
 * not depend on how entries were grouped. Values are encoded once, when the entry is accepted. Decoded values are
 * never changed in place.
 */

import { crc32c } from '../../base/crc32c.ts'
import { putU32 } from '../../base/bytes.ts'
import { decode, encode, type Schema } from '../../base/schema.ts'
import { StoreError } from '../../model/errors.ts'
import type { Effect } from './commands.ts'
import { keys } from './keys.ts'
import { type AppliedRecord, appliedRecord, type ClusterRecord, clusterRecord } from './records.ts'

/** The state below the overlay. */
export interface StateReader {
  /** The value of `key`, whose name (`keyName`) is `name`. */
  getSync(key: Uint8Array, name: string): Uint8Array | undefined
}

/** One write of an apply group; `name` is the key's. */
export type StateWrite =
  | { readonly type: 'put'; readonly key: Uint8Array; readonly name: string; readonly value: Uint8Array }
  | { readonly type: 'del'; readonly key: Uint8Array; readonly name: string }

/** A key as a map key: one character a byte. */
export function keyName(key: Uint8Array): string {
  return String.fromCharCode.apply(undefined, key as unknown as number[])
}

const clusterKey: Uint8Array = keys.cluster()
const clusterName: string = keyName(clusterKey)
const appliedKey: Uint8Array = keys.applied()
const appliedName: string = keyName(appliedKey)

/** The applied record before the first entry. */
export const nothingApplied: AppliedRecord = {
  index: 0,
  term: 0,
  timeMs: 0,
  digest: 0,
  objects: 0,
  bytes: 0,
  chunks: 0,
  findings: 0,
  outcomesFrom: 0,
  outcomesTo: 0,
  sessions: 0,
}

/** The applied record of a stored state. */
export function readApplied(reader: StateReader): AppliedRecord {
  const value = reader.getSync(appliedKey, appliedName)
  return value === undefined ? nothingApplied : decode(appliedRecord, value)
}

/** Records that almost every command reads and few write: cluster, buckets, disks, leases, nodes, the oldest outcome. */
const hotPrefixes: readonly boolean[] = Array.from({ length: 256 }, (_, byte) =>
  'Cbklnq'.includes(String.fromCharCode(byte)),
)
const hotMax = 4096

/** Decoded hot records as applied. Kept over groups by whoever makes the views; a state of its own needs its own. */
export class HotRecords {
  readonly #records = new Map<string, unknown>()

  get(name: string): unknown {
    return this.#records.get(name)
  }

  set(name: string, record: unknown): void {
    if (this.#records.size >= hotMax) this.#records.clear()
    this.#records.set(name, record)
  }

  delete(name: string): void {
    this.#records.delete(name)
  }
}

function isHot(key: Uint8Array): boolean {
  return hotPrefixes[key[0] as number] === true
}

/** The state as the entries of one group see it. Bounded by the group: make a new one for each. */
export class StateView {
  readonly #reader: StateReader
  readonly #hot: HotRecords
  readonly #written = new Map<string, StateWrite>()
  #applied: AppliedRecord
  /** Of the writes so far. */
  #digest: number

  constructor(reader: StateReader, applied: AppliedRecord, hot: HotRecords = new HotRecords()) {
    this.#reader = reader
    this.#hot = hot
    this.#applied = applied
    this.#digest = applied.digest
  }

  /** As of the last entry. */
  get applied(): AppliedRecord {
    return this.#applied
  }

  /** The record under `key`, whose name is `name`. */
  get<T>(key: Uint8Array, name: string, schema: Schema<T>): T | undefined {
    const hot = isHot(key)
    if (hot) {
      const known = this.#hot.get(name)
      if (known !== undefined) return known as T
    }
    const write = this.#written.get(name)
    const bytes = write === undefined ? this.#reader.getSync(key, name) : write.type === 'put' ? write.value : undefined
    if (bytes === undefined) return undefined
    const value = decode(schema, bytes)
    if (hot) this.#hot.set(name, value)
    return value
  }

  /** Takes one write of an accepted entry into the group and the digest; `accept` ends the entry. */
  write(slot: EntrySlot): void {
    const { key, name, schema, value } = slot
    const bytes = value === undefined || schema === undefined ? undefined : encode(schema, value)
    this.#digest = chain(this.#digest, key, bytes)
    this.#written.set(name, bytes === undefined ? { type: 'del', key, name } : { type: 'put', key, name, value: bytes })
    if (!isHot(key)) return
    if (bytes === undefined) this.#hot.delete(name)
    else this.#hot.set(name, value)
  }

  /** The writes of an accepted entry are all in; `applied` is ours from now on. */
  accept(applied: Counters): void {
    applied.digest = this.#digest
    this.#applied = applied
  }

  /** An entry that changes nothing: a leader's no-op, or a refused command (whose time still counts). */
  pass(index: number, term: number, timeMs: number): void {
    this.#applied = { ...this.#applied, index, term, timeMs: Math.max(this.#applied.timeMs, timeMs) }
  }

  /** All writes of the group and the applied record: one atomic batch. */
  finish(): StateWrite[] {
    const out = [...this.#written.values()]
    out.push({ type: 'put', key: appliedKey, name: appliedName, value: encode(appliedRecord, this.#applied) })
    return out
  }
}

type Counters = { -readonly [Field in keyof AppliedRecord]: AppliedRecord[Field] }

interface EntrySlot {
  readonly key: Uint8Array
  readonly name: string
  schema: Schema<unknown> | undefined
  value: unknown
  written: boolean
}

/** The state as one entry sees it, and what the entry writes. */
export class Transaction {
  readonly #view: StateView
  readonly #slots = new Map<string, EntrySlot>()
  readonly #effects: Effect[] = []
  /** Raft index and term of the entry. */
  readonly index: number
  readonly term: number
  /** The entry's time: the leader's clock, clamped to never go back. */
  readonly nowMs: number
  readonly #counters: Counters
  /** The key that was named last: what is read is often written next. */
  #lastKey: Uint8Array = clusterKey
  #lastName: string = clusterName

  constructor(view: StateView, index: number, term: number, nowMs: number) {
    this.#view = view
    this.index = index
    this.term = term
    this.nowMs = Math.max(view.applied.timeMs, nowMs)
    this.#counters = { ...view.applied, index, term, timeMs: this.nowMs }
  }

  /** Cluster-wide counters as this entry sees them; they change with it. */
  get counters(): Readonly<AppliedRecord> {
    return this.#counters
  }

  count(change: Partial<Omit<AppliedRecord, 'index' | 'term' | 'timeMs' | 'digest'>>): void {
    Object.assign(this.#counters, change)
  }

  #nameOf(key: Uint8Array): string {
    if (key === this.#lastKey) return this.#lastName
    this.#lastKey = key
    return (this.#lastName = keyName(key))
  }

  get<T>(key: Uint8Array, schema: Schema<T>): T | undefined {
    return this.#get(key, this.#nameOf(key), schema)
  }

  #get<T>(key: Uint8Array, name: string, schema: Schema<T>): T | undefined {
    const slot = this.#slots.get(name)
    if (slot !== undefined) return slot.value as T | undefined
    const value = this.#view.get(key, name, schema)
    this.#slots.set(name, { key, name, schema, value, written: false })
    return value
  }

  put<T>(key: Uint8Array, schema: Schema<T>, value: T): void {
    this.#set(key, schema, value)
  }

  del(key: Uint8Array): void {
    this.#set(key, undefined, undefined)
  }

  /** The order in which an entry first touches its keys is that of the digest: a known slot stays where it is. */
  #set(key: Uint8Array, schema: Schema<unknown> | undefined, value: unknown): void {
    const name = this.#nameOf(key)
    const slot = this.#slots.get(name)
    if (slot === undefined) {
      this.#slots.set(name, { key, name, schema, value, written: true })
      return
    }
    slot.schema = schema
    slot.value = value
    slot.written = true
  }

  effect(effect: Effect): void {
    this.#effects.push(effect)
  }

  get effects(): readonly Effect[] {
    return this.#effects
  }

  /** The cluster record; every command but `found` needs it. */
  cluster(): ClusterRecord {
    const cluster = this.#get(clusterKey, clusterName, clusterRecord)
    if (cluster === undefined) {
      throw new StoreError('UNAVAILABLE', 'the cluster is not founded yet: try again', { outcome: 'definite' })
    }
    return cluster
  }

  /** Makes the entry's writes part of the view, once nothing can refuse it any more. */
  commit(): void {
    for (const slot of this.#slots.values()) if (slot.written) this.#view.write(slot)
    this.#view.accept(this.#counters)
  }
}

/** Value of entries whose key says everything. */
export const noValue: Schema<true> = {
  write: () => undefined,
  read: () => true,
}

const head = new Uint8Array(9)

/** One step of the digest chain: deletes and puts, keys and values cannot be mistaken for each other. */
function chain(digest: number, key: Uint8Array, value: Uint8Array | undefined): number {
  head[0] = value === undefined ? 0 : 1
  putU32(head, 1, key.length)
  putU32(head, 5, value?.length ?? 0)
  const ofKey = crc32c(key, crc32c(head, digest))
  return value === undefined ? ofKey : crc32c(value, ofKey)
}
