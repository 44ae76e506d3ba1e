/**
 * The lifetime of one call: its cancellation, its deadline, and waiting inside it.
 *
 * A Scope is one AbortSignal made of the caller's signal and a deadline on the port's clock. Its reason is always a
 * StoreError (CANCELLED or TIMEOUT), so that whoever stops because of it can throw the reason as it is.
 *
 * Invariant: `close` must be called; it removes the timer and the listener on the caller's signal.
 */

import { asStoreError, StoreError } from '../model/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { CallLimits } from './types.ts'

const fanOut = new WeakMap<AbortSignal, Set<() => void>>()

/**
 * Calls `handler` when the signal aborts (not when it has already); returns how to stop listening. One real listener a
 * signal, however many listen: hundreds of operations under one signal are normal here, and Node warns of them.
 */
export function onAbort(signal: AbortSignal, handler: () => void): () => void {
  let handlers = fanOut.get(signal)
  if (handlers === undefined) {
    const created = new Set<() => void>()
    handlers = created
    fanOut.set(signal, created)
    const onEvent = (): void => {
      for (const one of created) one()
    }
    signal.addEventListener('abort', onEvent, { once: true })
  }
  // Two registrations of one function are two entries.
  const entry = (): void => handler()
  handlers.add(entry)
  return () => {
    fanOut.get(signal)?.delete(entry)
  }
}

export class Scope {
  readonly #controller = new AbortController()
  readonly #stopListening: () => void
  readonly #timer: Timer | undefined

  constructor(clock: Clock, limits: CallLimits, doing: string) {
    const { signal, timeoutMs } = limits
    const follow = (): void => this.#controller.abort(reasonOf(signal, doing))
    if (signal?.aborted === true) follow()
    this.#stopListening = signal === undefined ? () => undefined : onAbort(signal, follow)
    this.#timer =
      timeoutMs === undefined
        ? undefined
        : clock.after(timeoutMs, () => {
            this.#controller.abort(
              new StoreError(
                'TIMEOUT',
                `${doing}: not done within ${timeoutMs} ms: allow more time or look at the status`,
              ),
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
    this.#stopListening()
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
export function sleep(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(abortReason(signal))
      return
    }
    const timer = clock.after(delayMs, () => {
      stopListening()
      resolve()
    })
    const stopListening = onAbort(signal, () => {
      timer.cancel()
      reject(abortReason(signal))
    })
  })
}

/** Settles like `work`, or rejects with the reason as soon as the signal aborts. `work` itself goes on. */
export function withSignal<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const give = (): void => reject(abortReason(signal))
    if (signal.aborted) give()
    const stopListening = onAbort(signal, give)
    work.then(
      (value) => {
        stopListening()
        resolve(value)
      },
      (error: unknown) => {
        stopListening()
        reject(error as Error)
      },
    )
  })
}

/** Runs one call in a scope of its own; whatever it throws leaves as a StoreError. */
export async function within<T>(
  clock: Clock,
  limits: CallLimits,
  doing: string,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const scope = new Scope(clock, limits, doing)
  try {
    return await work(scope.signal)
  } catch (error) {
    throw asStoreError(error, doing)
  } finally {
    scope.close()
  }
}
