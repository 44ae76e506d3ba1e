/**
 * One world's faults: what counts operations, stops the world at one of them, and makes syncs fail.
 *
 * When the world stops, the operation it stopped at and all later ones never resolve, as if the process were gone.
 */

export type Operation = 'write' | 'sync' | 'create' | 'rename' | 'remove' | 'batch' | 'flush' | 'file'

export class FaultPlan {
  readonly counts = new Map<Operation, number>()
  total = 0
  /** The world stops at this operation (counted from 1). */
  stopAt = Number.POSITIVE_INFINITY
  stopped = false
  failSync = false
  failWrite = false
  /** Reads of these bytes of an extent fail. */
  failRead: ((extent: number, offset: number, length: number) => boolean) | undefined
  #onStop: (() => void)[] = []

  /** Counts an operation. Resolves a turn later, or never when the world has stopped. */
  async pass(operation: Operation): Promise<void> {
    this.total++
    this.counts.set(operation, this.count(operation) + 1)
    if (this.total >= this.stopAt && !this.stopped) {
      this.stopped = true
      for (const handler of this.#onStop) handler()
    }
    if (this.stopped) await new Promise<never>(() => undefined)
    await new Promise<void>((resolve) => setImmediate(resolve))
    if (this.stopped) await new Promise<never>(() => undefined)
  }

  count(operation: Operation): number {
    return this.counts.get(operation) ?? 0
  }

  /** Resolves when the world stops. */
  whenStopped(): Promise<void> {
    if (this.stopped) return Promise.resolve()
    return new Promise((resolve) => this.#onStop.push(resolve))
  }
}
