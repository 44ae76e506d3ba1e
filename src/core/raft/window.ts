/**
 * The newest entries of the log, in memory: what is being written, replicated and applied.
 *
 * Why not a plain array: entries leave at the front all the time, and moving everything that stays would cost more than
 * the entries. The front is a position instead, and the array is cut when half of it is empty.
 * Invariants: entries are contiguous and end at `last`; `bytes` is their sum.
 */

import { type Entry, entryBytes } from './types.ts'

/** Below this many empty slots at the front the array is left alone. */
const slackMin = 1024

export class EntryWindow {
  /** Entries `#first .. last`, from position `#head` on. */
  #slots: (Entry | undefined)[]
  #head = 0
  #first: number
  #bytes = 0
  readonly #bytesMax: number

  /** `tail` ends at `last`. */
  constructor(tail: readonly Entry[], last: number, bytesMax: number) {
    this.#slots = [...tail]
    this.#first = last - tail.length + 1
    for (const entry of tail) this.#bytes += entryBytes(entry)
    this.#bytesMax = bytesMax
  }

  /** Index of the first entry that is here. */
  get first(): number {
    return this.#first
  }

  get last(): number {
    return this.#first + this.#slots.length - this.#head - 1
  }

  at(index: number): Entry | undefined {
    return index < this.#first ? undefined : this.#slots[this.#head + index - this.#first]
  }

  push(entry: Entry): void {
    this.#slots.push(entry)
    this.#bytes += entryBytes(entry)
  }

  /** Forgets everything from `index` on; an `index` before the window empties it. */
  truncate(index: number): void {
    while (this.#slots.length > this.#head && this.last >= index) {
      this.#bytes -= entryBytes(this.#slots.pop() as Entry)
    }
    if (index < this.#first) this.#first = index
  }

  /** Forgets everything up to `index`. */
  dropTo(index: number): void {
    while (this.#first <= index && this.#head < this.#slots.length) this.#shift()
    if (this.#first <= index) this.#first = index + 1
    this.#cut()
  }

  /** Empties it; the next entry is the one after `last`. */
  reset(last: number): void {
    this.#slots = []
    this.#head = 0
    this.#bytes = 0
    this.#first = last + 1
  }

  /** Forgets the oldest entries up to `index` while there are more bytes than the bound. */
  evict(index: number): void {
    if (this.#bytes <= this.#bytesMax) return
    while (this.#bytes > this.#bytesMax && this.#first <= index && this.#head < this.#slots.length) this.#shift()
    this.#cut()
  }

  #shift(): void {
    this.#bytes -= entryBytes(this.#slots[this.#head] as Entry)
    this.#slots[this.#head] = undefined
    this.#head++
    this.#first++
  }

  #cut(): void {
    if (this.#head < slackMin || this.#head * 2 < this.#slots.length) return
    this.#slots = this.#slots.slice(this.#head)
    this.#head = 0
  }

  /** Entries `first..last` when all of them are here. */
  slice(first: number, last: number): readonly Entry[] | undefined {
    if (first > last) return []
    if (first < this.#first || last > this.last) return undefined
    const from = this.#head + first - this.#first
    return this.#slots.slice(from, from + last - first + 1) as Entry[]
  }

  /** Entries that are not here are taken as small: who reads them bounds what it reads. */
  #sizeAt(index: number): number {
    const entry = this.at(index)
    return entry === undefined ? 0 : entryBytes(entry)
  }

  /** Bytes of what is here of `first..last`. */
  bytesOf(first: number, last: number): number {
    let total = 0
    for (let i = Math.max(first, this.#first); i <= last; i++) total += this.#sizeAt(i)
    return total
  }

  /** Last index of a batch from `first` on, at most `end`, within `bytesMax` and `entriesMax`; at least one entry. */
  batchEnd(first: number, end: number, bytesMax: number, entriesMax: number): number {
    const furthest = Math.min(end, first + entriesMax - 1)
    let last = first
    let size = this.#sizeAt(first)
    while (last < furthest) {
      size += this.#sizeAt(last + 1)
      if (size > bytesMax) break
      last++
    }
    return last
  }
}
