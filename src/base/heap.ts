/**
 * A min-heap whose items are found by key: the order of deadlines, of repairs, of leases.
 *
 * Why indexed: a queue that is re-sorted or scanned for one key on every change costs more than the work it orders.
 *
 * Invariants: one entry per key; `peek` is an entry that no other precedes; of entries that compare equal, the one whose
 * key was put in first comes out first, and changing a value does not change that age. All changes are O(log n).
 */

export interface HeapEntry<K, V> {
  readonly key: K
  readonly value: V
}

interface Slot<K, V> extends HeapEntry<K, V> {
  value: V
  position: number
  readonly age: number
}

/** Ordered by `compare` (negative: first argument comes first), then by age. */
export class IndexedHeap<K, V> {
  readonly #compare: (a: V, b: V) => number
  readonly #slots: Slot<K, V>[] = []
  readonly #byKey = new Map<K, Slot<K, V>>()
  #nextAge = 0

  constructor(compare: (a: V, b: V) => number) {
    this.#compare = compare
  }

  get size(): number {
    return this.#slots.length
  }

  has(key: K): boolean {
    return this.#byKey.has(key)
  }

  get(key: K): V | undefined {
    return this.#byKey.get(key)?.value
  }

  /** Puts a new entry in, or gives the entry of this key another value (in either direction). */
  set(key: K, value: V): void {
    const known = this.#byKey.get(key)
    if (known !== undefined) {
      known.value = value
      this.#settle(known)
      return
    }
    const slot: Slot<K, V> = { key, value, position: this.#slots.length, age: this.#nextAge++ }
    this.#slots.push(slot)
    this.#byKey.set(key, slot)
    this.#settle(slot)
  }

  /** The first entry, left where it is. */
  peek(): HeapEntry<K, V> | undefined {
    return this.#slots[0]
  }

  /** Takes the first entry out. */
  pop(): HeapEntry<K, V> | undefined {
    const first = this.#slots[0]
    if (first !== undefined) this.#take(first)
    return first
  }

  /** Takes the entry of `key` out; false when there is none. */
  delete(key: K): boolean {
    const slot = this.#byKey.get(key)
    if (slot === undefined) return false
    this.#take(slot)
    return true
  }

  #take(slot: Slot<K, V>): void {
    this.#byKey.delete(slot.key)
    const last = this.#slots.pop()
    if (last === undefined || last === slot) return
    this.#put(last, slot.position)
    this.#settle(last)
  }

  #precedes(a: Slot<K, V>, b: Slot<K, V>): boolean {
    const order = this.#compare(a.value, b.value)
    return order < 0 || (order === 0 && a.age < b.age)
  }

  #put(slot: Slot<K, V>, position: number): void {
    this.#slots[position] = slot
    slot.position = position
  }

  #settle(slot: Slot<K, V>): void {
    while (slot.position > 0) {
      const parent = this.#slots[(slot.position - 1) >> 1]
      if (parent === undefined || !this.#precedes(slot, parent)) break
      const position = parent.position
      this.#put(parent, slot.position)
      this.#put(slot, position)
    }
    for (;;) {
      const left = this.#slots[2 * slot.position + 1]
      if (left === undefined) return
      const right = this.#slots[2 * slot.position + 2]
      const child = right !== undefined && this.#precedes(right, left) ? right : left
      if (!this.#precedes(child, slot)) return
      const position = child.position
      this.#put(child, slot.position)
      this.#put(slot, position)
    }
  }
}
