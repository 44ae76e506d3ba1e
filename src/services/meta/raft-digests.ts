/**
 * Compares the state of the replicas: each node tells the digest of its state at every checkpoint (an index that is a
 * multiple of `checkpointEntries`) in its frames, and looks at what the others tell.
 *
 * A peer that differs at the same index is reported. A node that differs from more than half of all full members, which
 * agree with each other, is itself the odd one: its state is wrong, and it must not lead or answer reads any more
 * (docs/decisions/2026-11-22-a-diverged-replica-stops-itself.md). At most a minority can find that of itself.
 */

import type { NodeId } from '../../model/ids.ts'

/** Entries between two digests that are compared. */
export const checkpointEntries = 256
/** Checkpoints remembered of this node and of each peer: what a slow follower still reports must be among ours. */
const ownMax = 256
const peerMax = 8

export interface Checkpoint {
  readonly index: number
  readonly digest: number
}

/** Last index of the part of `first..last` that ends at a checkpoint, or `last`. */
export function checkpointEnd(first: number, last: number): number {
  return Math.min(last, Math.ceil(first / checkpointEntries) * checkpointEntries)
}

export class Digests {
  /** Digests by index, oldest first. */
  readonly #own = new Map<number, number>()
  readonly #peers = new Map<NodeId, Checkpoint[]>()
  #newest: Checkpoint | undefined

  /** This node's newest checkpoint. */
  get newest(): Checkpoint | undefined {
    return this.#newest
  }

  /** The state of this node at a checkpoint. */
  reached(index: number, digest: number): void {
    this.#newest = { index, digest }
    this.#own.set(index, digest)
    const oldest = this.#own.keys().next().value
    if (this.#own.size > ownMax && oldest !== undefined) this.#own.delete(oldest)
  }

  /** The state was replaced: what was known of the old one says nothing of the new. */
  replaced(): void {
    this.#own.clear()
    this.#newest = undefined
  }

  heard(id: NodeId, checkpoint: Checkpoint): void {
    const known = this.#peers.get(id) ?? []
    if (known.at(-1)?.index === checkpoint.index && known.at(-1)?.digest === checkpoint.digest) return
    known.push(checkpoint)
    if (known.length > peerMax) known.shift()
    this.#peers.set(id, known)
  }

  /** Members whose newest comparable digest differs from ours. */
  diverged(members: readonly NodeId[]): NodeId[] {
    return members.filter((id) => {
      const newest = this.#peers.get(id)?.findLast((item) => this.#own.has(item.index))
      return newest !== undefined && newest.digest !== this.#own.get(newest.index)
    })
  }

  /**
   * The newest checkpoint at which more than half of `members` (this node is one) agree on another digest than ours, and
   * who they are; undefined when there is none.
   */
  outvoted(members: readonly NodeId[]): { readonly index: number; readonly by: readonly NodeId[] } | undefined {
    const claims = this.diverged(members).flatMap((id) => this.#peers.get(id) ?? [])
    for (const { index, digest } of claims.toSorted((a, b) => b.index - a.index)) {
      const own = this.#own.get(index)
      if (own === undefined || own === digest) continue
      const by = members.filter((id) =>
        this.#peers.get(id)?.some((item) => item.index === index && item.digest === digest),
      )
      if (by.length > members.length / 2) return { index, by }
    }
    return undefined
  }
}
