/**
 * How a simulated world is driven on the real event loop: one event, then everything that its promises set off, and so on.
 *
 * V8 is told to run its queue of settled promises between two events, which takes a fifth of the time of a turn of
 * Node's event loop. What runs and in which order is the same either way (a test compares the two).
 */

import { setFlagsFromString } from 'node:v8'
import { runInThisContext } from 'node:vm'
import type { Turns } from '../src/sim/clock.ts'

setFlagsFromString('--allow-natives-syntax')
const followUp = runInThisContext('() => %PerformMicrotaskCheckpoint()') as () => void

/** Steps within one callback of the event loop. */
export const turns: Turns = (step) =>
  new Promise((resolve, reject) => {
    // In a callback of its own: V8 does not run the queue from inside of a promise's reaction.
    setImmediate(() => {
      try {
        while (step()) followUp()
        resolve()
      } catch (error) {
        reject(error as Error)
      }
    })
  })

/** The same with a turn of the event loop for each step. */
export const slowTurns: Turns = async (step) => {
  const turn = (): Promise<void> =>
    new Promise((resolve) => {
      setImmediate(resolve)
    })
  do await turn()
  while (step())
}
