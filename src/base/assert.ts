/**
 * Assertions: the line between a broken invariant and an expected failure.
 *
 * A failed assertion is a bug in Holdfast, never a reaction to input from outside. It stays on in production and ends
 * the process, because going on with broken state is how data gets lost. Expected failures are `StoreError`s
 * (src/model/errors.ts).
 */

export class AssertionError extends Error {
  override readonly name = 'AssertionError'
}

/** Throws when `condition` is false. The message says which invariant broke. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(`broken invariant: ${message}`)
}

/** Marks a branch that the types say cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable value: ${String(value)}`)
}
