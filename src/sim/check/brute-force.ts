/**
 * The slow oracle of the linearizability search: tries every order of a small history, with nothing remembered and nothing
 * clever, so that the two can disagree.
 */

import { assert } from '../../base/assert.ts'
import { emptyRegister, type Operation, type RegisterState, stepRegister } from './register.ts'

const operationsMax = 10

/** True when some order of the operations (those of unknown outcome may be left out) makes sense and keeps real time. */
export function bruteForce(all: readonly Operation[]): boolean {
  const operations = all.filter((operation) => operation.op.kind !== 'get' || operation.return !== undefined)
  assert(operations.length <= operationsMax, 'a small history')
  return completes(emptyRegister, operations)
}

function completes(state: RegisterState, rest: readonly Operation[]): boolean {
  if (rest.every((operation) => operation.return === undefined)) return true
  for (const [position, operation] of rest.entries()) {
    // Something that returned before this one was called has to come first.
    if (rest.some((other) => other.return !== undefined && other.return < operation.call)) continue
    const next = stepRegister(state, operation.op, operation.return === undefined ? undefined : operation.result)
    if (next !== undefined && completes(next, rest.toSpliced(position, 1))) return true
  }
  return false
}
