/**
 * Memory for chunks on their way in: one aligned region, cut into slots of whole sectors as chunks come.
 *
 * Bounded by its size (I9): who finds no room waits in line, first come first served, and a line that is too long
 * is answered with OVERLOADED. First fit from the low end keeps the touched memory small when little is in flight.
 * Invariants: slots never overlap; free runs are sorted, apart and not empty; a slot is released once.
 */

import { assert } from '../../../base/assert.ts'
import { abortError } from '../../../base/async/semaphore.ts'
import { alignUp, sectorBytes } from '../../../core/chunk/position.ts'
import { StoreError } from '../../../model/errors.ts'

/** Longest line for memory. */
const waitersMax = 4096

export interface Slot {
  readonly bytes: Uint8Array
  /** Gives the memory back; further calls do nothing. */
  release(): void
}

interface Run {
  start: number
  length: number
}

interface Waiter {
  readonly length: number
  readonly grant: (slot: Slot) => void
}

export class Arena {
  readonly #memory: Uint8Array
  #free: Run[]
  #waiters: Waiter[] = []

  constructor(memory: Uint8Array) {
    assert(memory.length % sectorBytes === 0 && memory.length > 0, 'the arena is whole sectors')
    this.#memory = memory
    this.#free = [{ start: 0, length: memory.length }]
  }

  /** A slot of at least `length` bytes. Rejects with OVERLOADED when the line is full, or when `signal` aborts. */
  take(length: number, signal: AbortSignal): Promise<Slot> {
    const needed = alignUp(length)
    assert(needed > 0 && needed <= this.#memory.length, 'a slot fits the arena')
    if (signal.aborted) return Promise.reject(abortError('waiting for memory'))
    const slot = this.#waiters.length === 0 ? this.#fit(needed) : undefined
    if (slot !== undefined) return Promise.resolve(slot)
    if (this.#waiters.length >= waitersMax) {
      const message = 'too many chunks wait for memory on this disk: try again later'
      return Promise.reject(new StoreError('OVERLOADED', message, { details: { retryAfterMs: 200 } }))
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter)
        this.#serve()
        reject(abortError('waiting for memory'))
      }
      const waiter: Waiter = {
        length: needed,
        grant: (granted) => {
          signal.removeEventListener('abort', onAbort)
          resolve(granted)
        },
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiters.push(waiter)
    })
  }

  #fit(length: number): Slot | undefined {
    const index = this.#free.findIndex((run) => run.length >= length)
    const run = this.#free[index]
    if (run === undefined) return undefined
    const start = run.start
    if (run.length === length) this.#free.splice(index, 1)
    else {
      run.start += length
      run.length -= length
    }
    let held = true
    return {
      bytes: this.#memory.subarray(start, start + length),
      release: () => {
        if (!held) return
        held = false
        this.#giveBack(start, length)
        this.#serve()
      },
    }
  }

  #giveBack(start: number, length: number): void {
    let index = this.#free.findIndex((run) => run.start > start)
    if (index < 0) index = this.#free.length
    const before = this.#free[index - 1]
    const after = this.#free[index]
    const joinsBefore = before !== undefined && before.start + before.length === start
    const joinsAfter = after !== undefined && start + length === after.start
    if (joinsBefore && joinsAfter) {
      before.length += length + after.length
      this.#free.splice(index, 1)
    } else if (joinsBefore) before.length += length
    else if (joinsAfter) {
      after.start = start
      after.length += length
    } else this.#free.splice(index, 0, { start, length })
  }

  #serve(): void {
    for (;;) {
      const first = this.#waiters[0]
      if (first === undefined) return
      const slot = this.#fit(first.length)
      if (slot === undefined) return
      this.#waiters.shift()
      first.grant(slot)
    }
  }
}
