/**
 * The exact check of a history whose versions are log indexes: linear in the operations, so it comes first and takes
 * millions of them.
 *
 * Where every answer names the index of the write that it made or saw, the order of all writes of a key is known. What is
 * left to check is that this order agrees with real time, that every read saw a write that was there, and that no write was
 * carried out twice.
 * Invariant: it finds fault only with histories that are not linearizable; what has no version is left to the search.
 */

import type { Operation } from './register.ts'

interface Write {
  readonly value: string | undefined
  readonly version: number
  readonly call: number
  readonly return: number
  readonly operation: Operation
}

export interface Contradiction {
  readonly key: string
  readonly why: string
  readonly operations: readonly Operation[]
}

/** The first contradiction in `history` (any keys), undefined when there is none. */
export function checkExact(history: readonly Operation[]): Contradiction | undefined {
  for (const [key, operations] of byKey(history)) {
    const found = checkKey(operations)
    if (found !== undefined) return { key, ...found }
  }
  return undefined
}

/** Operations by key, keys in the order in which they first appear. */
export function byKey(history: readonly Operation[]): Map<string, Operation[]> {
  const keys = new Map<string, Operation[]>()
  for (const operation of history) {
    const known = keys.get(operation.key)
    if (known === undefined) keys.set(operation.key, [operation])
    else known.push(operation)
  }
  return keys
}

type Found = Omit<Contradiction, 'key'>

function checkKey(operations: readonly Operation[]): Found | undefined {
  const writes = writesOf(operations)
  if ('why' in writes) return writes
  const versions = new Map(writes.map((write) => [write.version, write]))
  return checkReads(operations, versions) ?? checkOrder(operations)
}

/** Acknowledged writes that name their version; a fault when two of them have the same. */
function writesOf(operations: readonly Operation[]): Write[] | Found {
  const writes: Write[] = []
  const seen = new Map<number, Operation>()
  for (const operation of operations) {
    const { op, result, call } = operation
    const version = result?.version
    if (op.kind === 'get' || operation.return === undefined || result?.ok !== true || version === undefined) continue
    const twin = seen.get(version)
    if (twin !== undefined) return { why: `two writes made version ${version}`, operations: [twin, operation] }
    seen.set(version, operation)
    const value = op.kind === 'delete' ? undefined : op.value
    writes.push({ value, version, call, return: operation.return, operation })
  }
  return writes
}

/** Every read saw what the write of that version wrote, and not before that write was called. */
function checkReads(operations: readonly Operation[], versions: ReadonlyMap<number, Write>): Found | undefined {
  const writes = operations.filter(({ op, result }) => op.kind !== 'get' && result?.ok !== false)
  const unanswered = writes.filter(({ result }) => result?.version === undefined)
  for (const operation of operations) {
    const { op, result } = operation
    if (op.kind !== 'get' || operation.return === undefined || result === undefined) continue
    const { version } = result
    const write = version === undefined ? undefined : versions.get(version)
    if (write !== undefined) {
      if (write.value !== result.value) {
        return { why: `a read of version ${version} saw another value`, operations: [write.operation, operation] }
      }
      if (write.call > operation.return) {
        return { why: `a read saw version ${version} before its write began`, operations: [write.operation, operation] }
      }
    } else if (result.value !== undefined) {
      const sources = (version === undefined ? writes : unanswered).filter((other) => valueOf(other) === result.value)
      const [source] = sources
      if (source === undefined) return { why: 'a read saw a value that nobody wrote', operations: [operation] }
      const end = operation.return
      if (sources.every((other) => other.call > end)) {
        return { why: 'a read saw a value before its write began', operations: [source, operation] }
      }
    }
  }
  return undefined
}

function valueOf({ op }: Operation): string | undefined {
  return op.kind === 'put' || op.kind === 'cas' ? op.value : undefined
}

/**
 * In order of time, what an operation made or saw is never below what was made or seen before it was called; a write is
 * above it.
 */
function checkOrder(operations: readonly Operation[]): Found | undefined {
  const dated = operations.filter(
    (operation) => operation.return !== undefined && operation.result?.ok === true && indexOf(operation) !== undefined,
  )
  const byCall = dated.toSorted((a, b) => a.call - b.call)
  const byReturn = dated.toSorted((a, b) => (a.return ?? 0) - (b.return ?? 0))
  let at = 0
  let highest: Operation | undefined
  for (const operation of byCall) {
    for (; at < byReturn.length; at++) {
      const ended = byReturn[at] as Operation
      if ((ended.return ?? 0) >= operation.call) break
      if (highest === undefined || (indexOf(ended) ?? 0) > (indexOf(highest) ?? 0)) highest = ended
    }
    if (highest === undefined) continue
    const floor = indexOf(highest) ?? 0
    const index = indexOf(operation) ?? 0
    if (index < floor || (index === floor && operation.op.kind !== 'get')) {
      const what = operation.op.kind === 'get' ? 'a read saw' : 'a write made'
      return { why: `${what} version ${index} after version ${floor} was there`, operations: [highest, operation] }
    }
  }
  return undefined
}

/** The version an operation made or saw; undefined when its answer does not say. */
function indexOf({ op, result }: Operation): number | undefined {
  // A read of nothing says which version it saw only when the store keeps versions of removals.
  if (op.kind === 'get' && result?.value === undefined && result?.version === 0) return undefined
  return result?.version
}
