/**
 * Chain value, size and place of every entry between the base of the log and its end, as a window over typed arrays:
 * entries come at the end and go at both ends, and none of that moves what stays.
 *
 * Why not arrays: dropping a prefix of tens of thousands of numbers from an array copies the rest each time.
 * Invariant: the window holds consecutive indexes from `first` on; sizes are kept as running sums, so that dropping any
 * number of entries costs the same.
 */

const capacityMin = 1024

export class LogWindow {
  /** Index of the first entry in the window. */
  #first: number
  #length = 0
  /** Position of the first entry in the arrays, which are rings. */
  #head = 0
  #chains: Uint32Array = new Uint32Array(capacityMin)
  /** Sum of all sizes up to and including the entry, from an arbitrary start. */
  #sums: Float64Array = new Float64Array(capacityMin)
  /** Sum before the first entry. */
  #sumBefore = 0
  /** Segment file and offset in it where the record of each entry begins; zeros where entries have no place. */
  #segments: Uint32Array = new Uint32Array(capacityMin)
  #offsets: Uint32Array = new Uint32Array(capacityMin)

  constructor(first: number) {
    this.#first = first
  }

  get first(): number {
    return this.#first
  }

  /** Index of the last entry; `first - 1` when empty. */
  get last(): number {
    return this.#first + this.#length - 1
  }

  /** Sum of the sizes of all entries in the window. */
  get bytes(): number {
    return this.#sumAt(this.last) - this.#sumBefore
  }

  #slot(index: number): number {
    return (this.#head + index - this.#first) & (this.#chains.length - 1)
  }

  #sumAt(index: number): number {
    return index < this.#first ? this.#sumBefore : (this.#sums[this.#slot(index)] as number)
  }

  /** Chain value of the entry at `index`; undefined outside the window. */
  chainAt(index: number): number | undefined {
    return index < this.#first || index > this.last ? undefined : this.#chains[this.#slot(index)]
  }

  /** Size of the entry at `index`, which is in the window. */
  sizeAt(index: number): number {
    return this.#sumAt(index) - this.#sumAt(index - 1)
  }

  /** Segment of the entry at `index`, which is in the window. */
  segmentAt(index: number): number {
    return this.#segments[this.#slot(index)] as number
  }

  /** Offset in its segment of the entry at `index`, which is in the window. */
  offsetAt(index: number): number {
    return this.#offsets[this.#slot(index)] as number
  }

  push(chain: number, size: number, segment = 0, offset = 0): void {
    if (this.#length === this.#chains.length) this.#grow()
    const sum = this.#sumAt(this.last) + size
    const slot = this.#slot(this.last + 1)
    this.#chains[slot] = chain
    this.#sums[slot] = sum
    this.#segments[slot] = segment
    this.#offsets[slot] = offset
    this.#length++
  }

  #grow(): void {
    const chains = new Uint32Array(this.#chains.length * 2)
    const sums = new Float64Array(this.#sums.length * 2)
    const segments = new Uint32Array(chains.length)
    const offsets = new Uint32Array(chains.length)
    for (let i = 0; i < this.#length; i++) {
      const slot = this.#slot(this.#first + i)
      chains[i] = this.#chains[slot] as number
      segments[i] = this.#segments[slot] as number
      offsets[i] = this.#offsets[slot] as number
      // Sums begin anew here, so that they never outgrow what a number holds exactly.
      sums[i] = (this.#sums[slot] as number) - this.#sumBefore
    }
    this.#chains = chains
    this.#sums = sums
    this.#segments = segments
    this.#offsets = offsets
    this.#sumBefore = 0
    this.#head = 0
  }

  /** Forgets everything from `index` on. */
  truncate(index: number): void {
    this.#length = Math.max(0, Math.min(this.#length, index - this.#first))
  }

  /** Forgets everything up to and including `index`. */
  drop(index: number): void {
    const count = Math.min(this.#length, index - this.#first + 1)
    if (count <= 0) return
    this.#sumBefore = this.#sumAt(this.#first + count - 1)
    this.#head = this.#slot(this.#first + count)
    this.#first += count
    this.#length -= count
  }

  /** Forgets everything; the next entry is `first`. */
  reset(first: number): void {
    this.#first = first
    this.#length = 0
    this.#head = 0
    this.#sumBefore = 0
  }
}
