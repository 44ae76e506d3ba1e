/**
 * A persistent ordered map from byte keys to byte values (a treap with path copying).
 *
 * Why persistent: a simulated store hands out consistent views and remembers what was on disk before each crash; here
 * each is one reference instead of a copy. Keys are kept as strings with one character per byte, whose order is byte
 * order. A node's priority is a hash of its key, so the shape depends on the content alone.
 */

import { fnv } from './seed.ts'

interface TreeNode {
  readonly key: string
  readonly value: Uint8Array
  readonly priority: number
  readonly left: Tree
  readonly right: Tree
}

/** The map; `undefined` is the empty one. Never changed in place. */
export type Tree = TreeNode | undefined

export function keyOf(bytes: Uint8Array): string {
  let out = ''
  for (const byte of bytes) out += String.fromCharCode(byte)
  return out
}

export function bytesOf(key: string): Uint8Array {
  const out = new Uint8Array(key.length)
  for (let i = 0; i < key.length; i++) out[i] = key.charCodeAt(i)
  return out
}

export function treeGet(tree: Tree, key: string): Uint8Array | undefined {
  let at = tree
  while (at !== undefined) {
    if (key === at.key) return at.value
    at = key < at.key ? at.left : at.right
  }
  return undefined
}

function split(tree: Tree, key: string): [Tree, Tree] {
  if (tree === undefined) return [undefined, undefined]
  if (tree.key < key) {
    const [low, high] = split(tree.right, key)
    return [{ ...tree, right: low }, high]
  }
  const [low, high] = split(tree.left, key)
  return [low, { ...tree, left: high }]
}

function join(left: Tree, right: Tree): Tree {
  if (left === undefined) return right
  if (right === undefined) return left
  if (left.priority > right.priority) return { ...left, right: join(left.right, right) }
  return { ...right, left: join(left, right.left) }
}

export function treePut(tree: Tree, key: string, value: Uint8Array): Tree {
  if (tree === undefined) return { key, value, priority: fnv(key), left: undefined, right: undefined }
  if (key === tree.key) return { ...tree, value }
  const priority = fnv(key)
  if (priority > tree.priority) {
    const [left, rest] = split(tree, key)
    return { key, value, priority, left, right: treeDelete(rest, key) }
  }
  return key < tree.key
    ? { ...tree, left: treePut(tree.left, key, value) }
    : { ...tree, right: treePut(tree.right, key, value) }
}

export function treeDelete(tree: Tree, key: string): Tree {
  if (tree === undefined) return undefined
  if (key === tree.key) return join(tree.left, tree.right)
  if (key < tree.key) {
    const left = treeDelete(tree.left, key)
    return left === tree.left ? tree : { ...tree, left }
  }
  const right = treeDelete(tree.right, key)
  return right === tree.right ? tree : { ...tree, right }
}

/** Entries from `gte` up to `lt`, exclusive, in order or in reverse. */
export function* treeScan(
  tree: Tree,
  gte: string | undefined,
  lt: string | undefined,
  reverse: boolean,
): Generator<{ key: string; value: Uint8Array }> {
  if (tree === undefined) return
  const aboveLow = gte === undefined || tree.key >= gte
  const belowHigh = lt === undefined || tree.key < lt
  const low = aboveLow ? tree.left : undefined
  const high = belowHigh ? tree.right : undefined
  yield* treeScan(reverse ? high : low, gte, lt, reverse)
  if (aboveLow && belowHigh) yield { key: tree.key, value: tree.value }
  yield* treeScan(reverse ? low : high, gte, lt, reverse)
}
