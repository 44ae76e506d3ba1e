/**
 * The fence of what the meta leader orders (docs/RULES.md, rule 2): its term, and above all terms the incarnation of the
 * cluster, which rises when the metadata is recovered. One number, so that what is older is what is lower.
 */

import { assert } from '../base/assert.ts'

/** Above every term that a cluster can reach: ten elections a second for thirteen years. */
const termSpan: number = 2 ** 32

/** Terms above it are refused wherever they come from outside. */
export const termMax: number = termSpan - 1
/** Highest incarnation of a cluster whose fences are safe integers. */
export const incarnationMax: number = 2 ** 21

/** Incarnations start with 1. */
export function fenceOf(term: number, incarnation: number): number {
  assert(term <= termMax && incarnation >= 1 && incarnation <= incarnationMax, 'term and incarnation are within bounds')
  return term + (incarnation - 1) * termSpan
}

export function incarnationOf(fence: number): number {
  return Math.floor(fence / termSpan) + 1
}
