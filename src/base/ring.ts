/**
 * A bounded first-in first-out queue in a circular array: no shifting of elements, no growth beyond its capacity.
 *
 * Why: `Array.shift` moves everything, and a queue without a bound is memory growth under load. The caller decides what
 * a full queue means; `push` only says that it is full.
 */

import { assert } from './assert.ts'

export class Ring<T> {
  readonly #slots: (T | undefined)[]
  #first = 0
  #length = 0

  constructor(capacity: number) {
    assert(Number.isInteger(capacity) && capacity > 0, 'ring capacity is a positive integer')
    this.#slots = Array.from<T | undefined>({ length: capacity })
  }

  get length(): number {
    return this.#length
  }

  get full(): boolean {
    return this.#length === this.#slots.length
  }

  /** Appends; false, and nothing changed, when full. */
  push(item: T): boolean {
    if (this.full) return false
    this.#slots[(this.#first + this.#length) % this.#slots.length] = item
    this.#length++
    return true
  }

  /** Takes the oldest item out. */
  shift(): T | undefined {
    if (this.#length === 0) return undefined
    const item = this.#slots[this.#first]
    this.#slots[this.#first] = undefined
    this.#first = (this.#first + 1) % this.#slots.length
    this.#length--
    return item
  }

  /** The oldest item, left where it is. */
  peek(): T | undefined {
    return this.#length === 0 ? undefined : this.#slots[this.#first]
  }
}
