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

/** What one call takes as arguments. */
const argumentsMax = 1024

export function keyOf(bytes: Uint8Array): string {
  // Three times as fast as a spread.
  const text = (part: Uint8Array): string => String.fromCharCode.apply(null, part as unknown as number[])
  if (bytes.length <= argumentsMax) return text(bytes)
  let out = ''
  for (let at = 0; at < bytes.length; at += argumentsMax) out += text(bytes.subarray(at, at + argumentsMax))
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

function node(from: TreeNode, left: Tree, right: Tree): TreeNode {
  return { key: from.key, value: from.value, priority: from.priority, left, right }
}

function split(tree: Tree, key: string): [Tree, Tree] {
  if (tree === undefined) return [undefined, undefined]
  if (tree.key < key) {
    const [low, high] = split(tree.right, key)
    return [node(tree, tree.left, low), high]
  }
  const [low, high] = split(tree.left, key)
  return [low, node(tree, high, tree.right)]
}

function join(left: Tree, right: Tree): Tree {
  if (left === undefined) return right
  if (right === undefined) return left
  if (left.priority > right.priority) return node(left, left.left, join(left.right, right))
  return node(right, join(left, right.left), right.right)
}

export function treePut(tree: Tree, key: string, value: Uint8Array): Tree {
  return put(tree, key, value, fnv(key))
}

function put(tree: Tree, key: string, value: Uint8Array, priority: number): TreeNode {
  if (tree === undefined) return { key, value, priority, left: undefined, right: undefined }
  if (key === tree.key) return { key, value, priority, left: tree.left, right: tree.right }
  if (priority > tree.priority) {
    // A node of this priority belongs here, and so the key is nowhere below.
    const [left, right] = split(tree, key)
    return { key, value, priority, left, right }
  }
  return key < tree.key
    ? node(tree, put(tree.left, key, value, priority), tree.right)
    : node(tree, tree.left, put(tree.right, key, value, priority))
}

export function treeDelete(tree: Tree, key: string): Tree {
  if (tree === undefined) return undefined
  if (key === tree.key) return join(tree.left, tree.right)
  if (key < tree.key) {
    const left = treeDelete(tree.left, key)
    return left === tree.left ? tree : node(tree, left, tree.right)
  }
  const right = treeDelete(tree.right, key)
  return right === tree.right ? tree : node(tree, tree.left, right)
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
