/**
 * A bound on bytes in memory, shared by everything one client does at once.
 *
 * Waiters are served in order, so that a large chunk is not starved by small ones. A request above the whole budget
 * is let through alone: bounded and slow is better than never.
 *
 * Invariant: every `take` that resolved is followed by exactly one `release` of as many bytes.
 */

import { assert } from '../base/assert.ts'
import { abortReason, onAbort } from './scope.ts'

interface Waiter {
  readonly bytes: number
  readonly admit: () => void
}

export class ByteBudget {
  readonly #max: number
  #used = 0
  #peak = 0
  readonly #waiters: Waiter[] = []

  constructor(max: number) {
    this.#max = max
  }

  /** Bytes taken now. */
  get used(): number {
    return this.#used
  }

  /** Most bytes ever taken at once. */
  get peak(): number {
    return this.#peak
  }

  #fits(bytes: number): boolean {
    return this.#used === 0 || this.#used + bytes <= this.#max
  }

  #add(bytes: number): void {
    this.#used += bytes
    this.#peak = Math.max(this.#peak, this.#used)
  }

  /** Takes at once when there is room and nobody waits. */
  tryTake(bytes: number): boolean {
    if (this.#waiters.length > 0 || !this.#fits(bytes)) return false
    this.#add(bytes)
    return true
  }

  /** Resolves when the bytes are taken; rejects with the signal's reason. */
  take(bytes: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(abortReason(signal))
    if (this.tryTake(bytes)) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const stopListening = onAbort(signal, () => {
        const at = this.#waiters.indexOf(waiter)
        if (at >= 0) this.#waiters.splice(at, 1)
        reject(abortReason(signal))
        this.#admit()
      })
      const waiter: Waiter = {
        bytes,
        admit: () => {
          stopListening()
          resolve()
        },
      }
      this.#waiters.push(waiter)
    })
  }

  release(bytes: number): void {
    assert(bytes <= this.#used, 'no more bytes are released than were taken')
    this.#used -= bytes
    this.#admit()
  }

  #admit(): void {
    for (let next = this.#waiters[0]; next !== undefined && this.#fits(next.bytes); next = this.#waiters[0]) {
      this.#waiters.shift()
      this.#add(next.bytes)
      next.admit()
    }
  }
}
