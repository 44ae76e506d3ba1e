/**
 * The clock port over Node's timers.
 *
 * A pending timer keeps the process alive: a command that waits to try again has nothing else that does. A timer never
 * fires early: Node may fire up to 1 ms before the monotonic deadline, so the remainder is waited for again.
 */

import { performance } from 'node:perf_hooks'
import type { Clock, Timer } from '../ports/clock.ts'

/** Longest delay a Node timer takes; a longer one would fire at once. */
const delayMsMax = 0x7fff_ffff

function after(delayMs: number, handler: () => void): Timer {
  const due = performance.now() + delayMs
  let timeout: NodeJS.Timeout
  function arm(waitMs: number): void {
    timeout = setTimeout(fire, Math.min(Math.max(0, Math.ceil(waitMs)), delayMsMax))
  }
  function fire(): void {
    const left = due - performance.now()
    if (left > 0) arm(left)
    else handler()
  }
  arm(delayMs)
  return { cancel: () => clearTimeout(timeout) }
}

/** The machine's clocks. */
export function createNodeClock(): Clock {
  return {
    monotonicMs: () => performance.now(),
    wallMs: () => Date.now(),
    after,
    turn: (handler) => {
      setImmediate(handler)
    },
  }
}
