/**
 * The term of every index of the log, as runs: a log has far fewer terms than entries, so this is small and the term
 * of any index after the base is known without reading entries.
 *
 * Invariants: runs are sorted by first index and by term; terms never decrease; the last run ends at `lastIndex`.
 */

import { assert } from '../../base/assert.ts'

interface Run {
  readonly first: number
  readonly term: number
}

export class TermRuns {
  #baseIndex: number
  #baseTerm: number
  #runs: Run[]
  #last: number

  constructor(baseIndex: number, baseTerm: number, runs: readonly Run[], last: number) {
    this.#baseIndex = baseIndex
    this.#baseTerm = baseTerm
    this.#runs = [...runs]
    this.#last = last
    let previous = { first: baseIndex, term: baseTerm }
    for (const run of runs) {
      assert(run.first > previous.first && run.term >= previous.term && run.first <= last, 'term runs are in order')
      previous = run
    }
  }

  get baseIndex(): number {
    return this.#baseIndex
  }

  get baseTerm(): number {
    return this.#baseTerm
  }

  get last(): number {
    return this.#last
  }

  /** Term of the last entry, or of the base when there is none. */
  get lastTerm(): number {
    return this.#runs.at(-1)?.term ?? this.#baseTerm
  }

  /** Term of the entry at `index`, or undefined when it is before the base or after the end. */
  at(index: number): number | undefined {
    if (index < this.#baseIndex || index > this.#last) return undefined
    const run = this.#runs[this.#runAt(index)]
    return run === undefined ? this.#baseTerm : run.term
  }

  /** Position of the run that holds `index`; -1 for the base. */
  #runAt(index: number): number {
    let low = 0
    let high = this.#runs.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#runs[middle] as Run).first <= index) low = middle + 1
      else high = middle
    }
    return low - 1
  }

  /** Records that `index` (the next one) has `term`. */
  push(index: number, term: number): void {
    assert(index === this.#last + 1, 'entries are appended in order')
    const newest = this.#runs.at(-1)
    const previous = newest?.term ?? this.#baseTerm
    assert(term >= previous, 'terms in the log never decrease')
    if (newest === undefined || newest.term !== term) this.#runs.push({ first: index, term })
    this.#last = index
  }

  /** Forgets everything from `index` on. */
  truncate(index: number): void {
    assert(index > this.#baseIndex, 'nothing at or before the base is truncated')
    this.#last = Math.min(this.#last, index - 1)
    while ((this.#runs.at(-1)?.first ?? 0) > this.#last) this.#runs.pop()
  }

  /** Makes `index` the base: what is before it is forgotten. */
  compact(index: number): void {
    const term = this.at(index)
    assert(term !== undefined, 'compaction stays within the log')
    const position = this.#runAt(index)
    const rest = this.#runs.slice(position + 1)
    if (index < this.#last && rest[0]?.first !== index + 1) rest.unshift({ first: index + 1, term })
    this.#runs = rest
    this.#baseIndex = index
    this.#baseTerm = term
  }

  /** Forgets everything; the log is empty after `index`. */
  reset(index: number, term: number): void {
    this.#baseIndex = index
    this.#baseTerm = term
    this.#runs = []
    this.#last = index
  }

  /** The largest index up to `index` whose term is at most `term`, and its term; the base when there is none. */
  lastAtMost(index: number, term: number): { index: number; term: number } {
    let at = Math.min(index, this.#last)
    while (at > this.#baseIndex) {
      const position = this.#runAt(at)
      const run = this.#runs[position]
      if (run === undefined) break
      if (run.term <= term) return { index: at, term: run.term }
      at = run.first - 1
    }
    return { index: this.#baseIndex, term: this.#baseTerm }
  }
}
