/**
 * The door of the checkers: a whole history, key by key, the exact check first and then the search.
 */

import { byKey, checkExact } from './exact.ts'
import { describeOperation, type Operation } from './register.ts'
import { checkRegister } from './wgl.ts'

export interface HistoryReport {
  /** One text for each key that is not linearizable. */
  readonly violations: readonly string[]
  /** Keys whose search ran out of steps. */
  readonly undecided: readonly string[]
  readonly operations: number
  readonly steps: number
}

/** Operations shown around a violation. */
const shownMax = 12

/** Checks that every key of `history` behaved as one register. `stepsMax` bounds the search for each key. */
export function checkLinearizable(history: readonly Operation[], stepsMax = 2_000_000): HistoryReport {
  const exact = checkExact(history)
  if (exact !== undefined) {
    const lines = exact.operations.map((operation) => `  ${describeOperation(operation)}`)
    const violations = [[`key ${exact.key}: ${exact.why}`, ...lines].join('\n')]
    return { violations, undecided: [], operations: history.length, steps: 0 }
  }
  const violations: string[] = []
  const undecided: string[] = []
  let steps = 0
  for (const [key, operations] of byKey(history)) {
    const verdict = checkRegister(operations, stepsMax)
    steps += verdict.steps
    if (verdict.outcome === 'undecided') undecided.push(key)
    else if (verdict.outcome === 'violation') violations.push(describeViolation(key, operations, verdict.longest))
  }
  return { violations, undecided, operations: history.length, steps }
}

/** The end of the longest order that makes sense, and what could not follow it. */
function describeViolation(key: string, operations: readonly Operation[], longest: readonly Operation[]): string {
  const placed = new Set(longest)
  const next = operations
    .filter((operation) => !placed.has(operation) && operation.return !== undefined)
    .toSorted((a, b) => (a.return ?? 0) - (b.return ?? 0))
  const shown = longest.slice(-shownMax).map((operation) => `  ${describeOperation(operation)}`)
  const stuck = next.slice(0, shownMax).map((operation) => `  ${describeOperation(operation)}`)
  return [
    `key ${key}: no order of its ${operations.length} operations makes sense; the longest has ${longest.length} and ends with`,
    ...shown,
    ' and cannot go on with any of',
    ...stuck,
  ].join('\n')
}
