/**
 * Which outcomes of commits the state may hold: a filter in memory that answers "certainly not" for almost every new commit,
 * so that apply does not search the store for a record that is not there, for each put on every member.
 *
 * It knows the ids of all outcomes written since it began, and of those that were in the store before, once they were read;
 * until then it rules nothing out. They are read when the first thousand lookups show that it pays. Bits are chosen by
 * the id itself, which is random; ids that somebody chose badly make it answer "maybe" more often, and the store is asked.
 * Invariants: an outcome that the state holds is never ruled out; memory is bounded (2.5 MiB, and 2 MiB more until the
 * outcomes from before are forgotten). Outcomes are forgotten in the order in which they were written and at most
 * `outcomesMax` are kept: what so many came after is not in the state any more, and is dropped here.
 */

import { getU32 } from '../../base/bytes.ts'
import { outcomesMax } from '../../core/meta/outcomes.ts'

/** Ids of one generation. The one that fills and `generationsKept` full ones hold more than the state keeps. */
const generationIds = 1 << 18
const generationsKept: number = Math.ceil((outcomesMax + 1) / generationIds)
/** 16 bits an id, four of them set: one of 400 new ids is not told from the known ones. */
const bitsPerId = 16
/** Prefix byte, then the id's four words. */
const keyBytes = 17
const wordsAt = [1, 5, 9, 13] as const

class Bits {
  readonly #words: Uint32Array
  readonly #mask: number
  size = 0

  /** For `ids` ids, a power of two. */
  constructor(ids: number) {
    this.#words = new Uint32Array((ids * bitsPerId) / 32)
    this.#mask = ids * bitsPerId - 1
  }

  add(key: Uint8Array): void {
    for (const at of wordsAt) {
      const bit = getU32(key, at) & this.#mask
      this.#words[bit >>> 5] = (this.#words[bit >>> 5] as number) | (1 << (bit & 31))
    }
    this.size++
  }

  mayHave(key: Uint8Array): boolean {
    for (const at of wordsAt) {
      const bit = getU32(key, at) & this.#mask
      if (((this.#words[bit >>> 5] as number) & (1 << (bit & 31))) === 0) return false
    }
    return true
  }
}

/** Lookups that are left to the store before the outcomes of earlier are read. */
const lookupsBeforeLoad = 1000

export class KnownOutcomes {
  readonly #read: () => AsyncIterable<{ readonly key: Uint8Array }>
  readonly #onFailure: (error: unknown) => void
  #loading: Promise<void> | undefined
  #stopped = false
  #lookups = 0
  /** Newest first. */
  #generations: Bits[] = []
  /** Outcomes from before this began; undefined until they were all read. */
  #earlier: Bits | undefined
  #complete = false
  /** Outcomes written since those were read. */
  #since = 0

  /** `read`: the outcomes that the store holds when it is called, or later; `empty`: it holds none now. */
  constructor(
    read: () => AsyncIterable<{ readonly key: Uint8Array }>,
    empty: boolean,
    onFailure: (error: unknown) => void,
  ) {
    this.#read = read
    this.#complete = empty
    this.#onFailure = onFailure
  }

  /** False only when the state holds no outcome under `key`, the key of its record. */
  mayHold(key: Uint8Array): boolean {
    if (!this.#complete) {
      if (++this.#lookups === lookupsBeforeLoad) this.#loading = this.#load().catch(this.#onFailure)
      return true
    }
    if (key.length !== keyBytes) return true
    if (this.#earlier?.mayHave(key) === true) return true
    for (const generation of this.#generations) if (generation.mayHave(key)) return true
    return false
  }

  /** The outcome under `key` is written. */
  wrote(key: Uint8Array): void {
    let newest = this.#generations[0]
    if (newest === undefined || newest.size === generationIds) {
      newest = new Bits(generationIds)
      this.#generations = [newest, ...this.#generations.slice(0, generationsKept)]
    }
    newest.add(key)
    if (this.#earlier !== undefined && ++this.#since > outcomesMax) this.#earlier = undefined
  }

  async #load(): Promise<void> {
    const earlier = new Bits(1 << Math.ceil(Math.log2(outcomesMax)))
    for await (const { key } of this.#read()) {
      if (this.#stopped) return
      earlier.add(key)
    }
    this.#earlier = earlier
    this.#complete = true
  }

  /** Resolves when nothing is read any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#loading
  }
}
