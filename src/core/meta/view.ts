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
import { emptyBytes, putU32 } from '../../base/bytes.ts'
import { decode, encode, type Schema } from '../../base/schema.ts'
import { StoreError } from '../../model/errors.ts'
import type { Effect } from './commands.ts'
import { keys } from './keys.ts'
import { type AppliedRecord, appliedRecord, type ClusterRecord, clusterRecord } from './records.ts'

/** The durable state below the overlay. */
export interface StateReader {
  getSync(key: Uint8Array): Uint8Array | undefined
}

/** One write of an apply group. */
type StateWrite =
  | { readonly type: 'put'; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: 'del'; readonly key: Uint8Array }

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
}

/** The applied record of a stored state. */
export function readApplied(reader: StateReader): AppliedRecord {
  const value = reader.getSync(keys.applied())
  return value === undefined ? nothingApplied : decode(appliedRecord, value)
}

interface GroupSlot {
  readonly key: Uint8Array
  readonly value: Uint8Array | undefined
  readonly written: boolean
}

/** The state as the entries of one group see it. Bounded by the group: make a new one for each. */
export class StateView {
  readonly #reader: StateReader
  readonly #slots = new Map<string, GroupSlot>()
  #applied: AppliedRecord

  constructor(reader: StateReader, applied: AppliedRecord) {
    this.#reader = reader
    this.#applied = applied
  }

  /** As of the last entry. */
  get applied(): AppliedRecord {
    return this.#applied
  }

  getSync(key: Uint8Array): Uint8Array | undefined {
    const name = keyName(key)
    const slot = this.#slots.get(name)
    if (slot !== undefined) return slot.value
    const value = this.#reader.getSync(key)
    this.#slots.set(name, { key, value, written: false })
    return value
  }

  /** Takes the writes of an accepted entry, in order, into the group and the digest. */
  accept(writes: readonly StateWrite[], applied: AppliedRecord): void {
    let digest = this.#applied.digest
    for (const write of writes) {
      digest = chain(digest, write)
      const value = write.type === 'put' ? write.value : undefined
      this.#slots.set(keyName(write.key), { key: write.key, value, written: true })
    }
    this.#applied = { ...applied, digest }
  }

  /** An entry that changes nothing: a leader's no-op, or a refused command (whose time still counts). */
  pass(index: number, term: number, timeMs: number): void {
    this.#applied = { ...this.#applied, index, term, timeMs: Math.max(this.#applied.timeMs, timeMs) }
  }

  /** All writes of the group and the applied record: one atomic batch. */
  finish(): StateWrite[] {
    const out: StateWrite[] = []
    for (const { key, value, written } of this.#slots.values()) {
      if (written) out.push(value === undefined ? { type: 'del', key } : { type: 'put', key, value })
    }
    out.push({ type: 'put', key: keys.applied(), value: encode(appliedRecord, this.#applied) })
    return out
  }
}

interface EntrySlot {
  readonly key: Uint8Array
  readonly schema: Schema<unknown> | undefined
  readonly value: unknown
  readonly written: boolean
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
  #counters: AppliedRecord

  constructor(view: StateView, index: number, term: number, nowMs: number) {
    this.#view = view
    this.index = index
    this.term = term
    this.nowMs = Math.max(view.applied.timeMs, nowMs)
    this.#counters = { ...view.applied, index, term, timeMs: this.nowMs }
  }

  /** Cluster-wide counters as this entry sees them. */
  get counters(): AppliedRecord {
    return this.#counters
  }

  count(change: Partial<Omit<AppliedRecord, 'index' | 'term' | 'timeMs' | 'digest'>>): void {
    this.#counters = { ...this.#counters, ...change }
  }

  get<T>(key: Uint8Array, schema: Schema<T>): T | undefined {
    const name = keyName(key)
    const slot = this.#slots.get(name)
    if (slot !== undefined) return slot.value as T | undefined
    const bytes = this.#view.getSync(key)
    const value = bytes === undefined ? undefined : decode(schema, bytes)
    this.#slots.set(name, { key, schema, value, written: false })
    return value
  }

  put<T>(key: Uint8Array, schema: Schema<T>, value: T): void {
    this.#slots.set(keyName(key), { key, schema, value, written: true })
  }

  del(key: Uint8Array): void {
    this.#slots.set(keyName(key), { key, schema: undefined, value: undefined, written: true })
  }

  effect(effect: Effect): void {
    this.#effects.push(effect)
  }

  get effects(): readonly Effect[] {
    return this.#effects
  }

  /** The cluster record; every command but `found` needs it. */
  cluster(): ClusterRecord {
    const cluster = this.get(keys.cluster(), clusterRecord)
    if (cluster === undefined) {
      throw new StoreError('UNAVAILABLE', 'the cluster is not founded yet: try again', { outcome: 'definite' })
    }
    return cluster
  }

  /** Makes the entry's writes part of the view. */
  commit(): void {
    const writes: StateWrite[] = []
    for (const { key, schema, value, written } of this.#slots.values()) {
      if (!written) continue
      if (value === undefined || schema === undefined) writes.push({ type: 'del', key })
      else writes.push({ type: 'put', key, value: encode(schema, value) })
    }
    this.#view.accept(writes, this.#counters)
  }
}

/** Value of entries whose key says everything. */
export const noValue: Schema<true> = {
  write: () => undefined,
  read: () => true,
}

/** One step of the digest chain: deletes and puts, keys and values cannot be mistaken for each other. */
function chain(digest: number, write: StateWrite): number {
  const head = new Uint8Array(9)
  const value = write.type === 'put' ? write.value : emptyBytes
  head[0] = write.type === 'put' ? 1 : 0
  putU32(head, 1, write.key.length)
  putU32(head, 5, value.length)
  return crc32c(value, crc32c(write.key, crc32c(head, digest)))
}

/** A key as a map key: one character a byte. */
function keyName(key: Uint8Array): string {
  return String.fromCharCode(...key)
}
