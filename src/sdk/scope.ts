/**
 * The lifetime of one call: its cancellation, its deadline, and waiting inside it.
 *
 * A Scope is one AbortSignal made of the caller's signal and a deadline on the port's clock. Its reason is always a
 * StoreError (CANCELLED or TIMEOUT), so that whoever stops because of it can throw the reason as it is.
 *
 * Invariant: `close` must be called; it removes the timer and the listener on the caller's signal.
 */

import { StoreError } from '../model/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { CallLimits } from './types.ts'

export class Scope {
  readonly #controller = new AbortController()
  readonly #outer: AbortSignal | undefined
  readonly #onAbort: () => void
  readonly #timer: Timer | undefined

  constructor(clock: Clock, limits: CallLimits, doing: string) {
    this.#outer = limits.signal
    this.#onAbort = () => {
      this.#controller.abort(reasonOf(this.#outer, doing))
    }
    if (this.#outer?.aborted === true) this.#onAbort()
    else this.#outer?.addEventListener('abort', this.#onAbort, { once: true })
    const { timeoutMs } = limits
    this.#timer =
      timeoutMs === undefined
        ? undefined
        : clock.after(timeoutMs, () => {
            this.#controller.abort(
              new StoreError('TIMEOUT', `${doing}: not done within ${timeoutMs} ms: allow more time or look at the status`),
            )
          })
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Gives up everything that runs in this scope. */
  abort(reason: StoreError): void {
    this.#controller.abort(reason)
  }

  close(): void {
    this.#timer?.cancel()
    this.#outer?.removeEventListener('abort', this.#onAbort)
  }
}

function reasonOf(signal: AbortSignal | undefined, doing: string): StoreError {
  const reason: unknown = signal?.reason
  if (reason instanceof StoreError) return reason
  return new StoreError('CANCELLED', `${doing}: cancelled by the caller`, { cause: reason })
}

/** The StoreError an aborted signal stands for. */
export function abortReason(signal: AbortSignal, doing = 'call'): StoreError {
  return reasonOf(signal, doing)
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw abortReason(signal)
}

/** Resolves after `delayMs`; rejects with the reason when the signal aborts first. */
export function sleep(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(abortReason(signal))
      return
    }
    const onAbort = (): void => {
      timer.cancel()
      reject(abortReason(signal as AbortSignal))
    }
    const timer = clock.after(delayMs, () => {
      signal?.removeEventListener('abort', onAbort)
      resolve()
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** Settles like `work`, or rejects with the reason as soon as the signal aborts. `work` itself goes on. */
export function withSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(abortReason(signal))
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    work.then(
      (value) => {
        signal.removeEventListener('abort', onAbort)
        resolve(value)
      },
      (error: unknown) => {
        signal.removeEventListener('abort', onAbort)
        reject(error as Error)
      },
    )
  })
}
