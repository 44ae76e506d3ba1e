/**
 * Is a history of one register linearizable? The search of Wing and Gong with Lowe's memory.
 *
 * Calls and returns stand in one linked list in order of time. The search takes ("lifts") any call before the first
 * return, if the register could have answered it then; a set of lifted operations together with the state it led to is
 * remembered and never tried twice; at a return whose call was not lifted it goes back. Operations with an unknown outcome
 * have no return: they may be lifted anywhere after their call, or never.
 * Invariants: no recursion (an explicit stack of lifted calls); the number of steps is bounded, and running out of them is
 * told as such, never as a verdict.
 */

import { emptyRegister, type Operation, registerName, type RegisterState, stepRegister } from './register.ts'

export interface Verdict {
  /** `undecided`: the steps ran out. */
  readonly outcome: 'linearizable' | 'violation' | 'undecided'
  readonly steps: number
  /** The longest order of operations that the search found to make sense. */
  readonly longest: readonly Operation[]
}

/** One event of the list. */
interface Node {
  readonly operation: Operation
  /** Position of the operation. */
  readonly id: number
  /** Of a call: its return, undefined for an unknown outcome. Of a return: undefined. */
  readonly match: Node | undefined
  readonly isCall: boolean
  before: Node | undefined
  after: Node | undefined
}

interface Moment {
  readonly time: number
  readonly order: number
  readonly node: Node
}

/** Calls and returns in order of time; of one moment, calls first, so that what touches counts as overlapping. */
function listOf(operations: readonly Operation[]): { head: Node; known: number } {
  const moments: Moment[] = []
  let known = 0
  for (const [id, operation] of operations.entries()) {
    const { call } = operation
    let match: Node | undefined
    if (operation.return !== undefined) {
      known++
      match = { operation, id, match: undefined, isCall: false, before: undefined, after: undefined }
      moments.push({ time: operation.return, order: operations.length + id, node: match })
    }
    const node: Node = { operation, id, match, isCall: true, before: undefined, after: undefined }
    moments.push({ time: call, order: id, node })
  }
  moments.sort((a, b) => a.time - b.time || a.order - b.order)
  const head: Node = {
    operation: { client: '', key: '', op: { kind: 'get' }, call: 0, return: 0, result: undefined },
    id: -1,
    match: undefined,
    isCall: false,
    before: undefined,
    after: undefined,
  }
  let last = head
  for (const { node } of moments) {
    last.after = node
    node.before = last
    last = node
  }
  return { head, known }
}

function unlink(node: Node): void {
  if (node.before !== undefined) node.before.after = node.after
  if (node.after !== undefined) node.after.before = node.before
}

function relink(node: Node): void {
  if (node.before !== undefined) node.before.after = node
  if (node.after !== undefined) node.after.before = node
}

/** Which operations are lifted. */
class Lifted {
  readonly #words: Uint32Array

  constructor(count: number) {
    this.#words = new Uint32Array((count + 31) >>> 5)
  }

  flip(id: number): void {
    this.#words[id >>> 5] = (this.#words[id >>> 5] as number) ^ (1 << (id & 31))
  }

  copy(): Uint32Array {
    return this.#words.slice()
  }

  equals(other: Uint32Array): boolean {
    for (let i = 0; i < other.length; i++) if (other[i] !== this.#words[i]) return false
    return true
  }

  hash(seed: number): number {
    let hash = seed | 0
    for (let i = 0; i < this.#words.length; i++)
      hash = Math.imul(hash ^ (this.#words[i] as number), 0x01000193) ^ (hash >>> 15)
    return hash
  }
}

/** States by name, as small numbers. */
class States {
  readonly #ids = new Map<string, number>()

  idOf(state: RegisterState): number {
    const name = registerName(state)
    const known = this.#ids.get(name)
    if (known !== undefined) return known
    this.#ids.set(name, this.#ids.size)
    return this.#ids.size - 1
  }
}

interface Seen {
  readonly lifted: Uint32Array
  readonly state: number
}

class Memory {
  readonly #seen = new Map<number, Seen[]>()

  /** True when this is new. */
  add(lifted: Lifted, state: number): boolean {
    const hash = lifted.hash(Math.imul(state + 1, 0x9e3779b1))
    const bucket = this.#seen.get(hash)
    if (bucket === undefined) {
      this.#seen.set(hash, [{ lifted: lifted.copy(), state }])
      return true
    }
    if (bucket.some((seen) => seen.state === state && lifted.equals(seen.lifted))) return false
    bucket.push({ lifted: lifted.copy(), state })
    return true
  }
}

/** A lifted call and the state before it. */
interface Choice {
  readonly node: Node
  readonly state: RegisterState
}

function longer(longest: readonly Operation[], stack: readonly Choice[]): readonly Operation[] {
  return stack.length > longest.length ? stack.map((choice) => choice.node.operation) : longest
}

/** Checks the operations of one key. Reads without an answer say nothing and are left out. */
export function checkRegister(all: readonly Operation[], stepsMax = 2_000_000): Verdict {
  const operations = all.filter((operation) => operation.op.kind !== 'get' || operation.return !== undefined)
  const { head, known } = listOf(operations)
  const lifted = new Lifted(operations.length)
  const states = new States()
  const memory = new Memory()
  const stack: Choice[] = []
  let longest: readonly Operation[] = []
  let state = emptyRegister
  let left = known
  let steps = 0
  let at = head.after
  while (left > 0) {
    if (++steps > stepsMax) return { outcome: 'undecided', steps, longest: longer(longest, stack) }
    if (at?.isCall === true) {
      const { op, result } = at.operation
      const next = stepRegister(state, op, at.match === undefined ? undefined : result)
      lifted.flip(at.id)
      if (next !== undefined && memory.add(lifted, states.idOf(next))) {
        stack.push({ node: at, state })
        state = next
        unlink(at)
        if (at.match !== undefined) {
          unlink(at.match)
          left--
        }
        at = head.after
      } else {
        lifted.flip(at.id)
        at = at.after
      }
      continue
    }
    // A return whose call was not lifted, or the end of the list: the last choice was wrong.
    longest = longer(longest, stack)
    const back = stack.pop()
    if (back === undefined) return { outcome: 'violation', steps, longest }
    state = back.state
    lifted.flip(back.node.id)
    if (back.node.match !== undefined) {
      relink(back.node.match)
      left++
    }
    relink(back.node)
    at = back.node.after
  }
  return { outcome: 'linearizable', steps, longest: stack.map((item) => item.node.operation) }
}
