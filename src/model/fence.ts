/**
 * The fence of what the meta leader orders (docs/RULES.md, rule 2): its term, and above all terms the incarnation of the
 * cluster, which rises when the metadata is recovered. One number, so that what is older is what is lower.
 */

/** More terms than a cluster can have. */
const termSpan: number = 2 ** 40

/** Incarnations start with 1. */
export function fenceOf(term: number, incarnation: number): number {
  return term + (incarnation - 1) * termSpan
}

export function incarnationOf(fence: number): number {
  return Math.floor(fence / termSpan) + 1
}
