/**
 * Replicas found corrupt that meta has not acknowledged yet.
 *
 * A finding rides in every heartbeat until a Beat answers a heartbeat that carried it: meta holds that Beat back until the
 * finding is committed. Bounded: beyond `findingsMax` the newest is dropped, which loses nothing for good, because a
 * quarantined replica is missing from every later report of its disk.
 */

import type { ChunkId, DiskNumber } from '../../model/ids.ts'
import type { DiskSlot } from './disks.ts'

const findingsMax = 4096
/** Findings in one heartbeat. */
const perHeartbeat = 256

/** What a disk said of one of its chunks. */
export interface Finding {
  readonly chunk: ChunkId
  /** The disk; it may have no number yet (what its replay found is known before the node registers). */
  readonly slot: Pick<DiskSlot, 'number' | 'engine'>
  readonly finding: string
}

/** A finding as a heartbeat carries it. */
interface SentFinding {
  readonly chunk: ChunkId
  readonly disk: DiskNumber
  readonly finding: string
}

interface Pending {
  readonly entry: Finding
  /** First heartbeat of the present stream that carried it. */
  sentIn: number | undefined
}

export class Findings {
  readonly #pending = new Map<string, Pending>()

  add(entry: Finding): void {
    const key = `${entry.slot.engine.id}/${entry.chunk}`
    if (this.#pending.has(key) || this.#pending.size >= findingsMax) return
    this.#pending.set(key, { entry, sentIn: undefined })
  }

  /** What the heartbeat `sequence` shall carry, oldest first. */
  take(sequence: number): SentFinding[] {
    const out: SentFinding[] = []
    for (const pending of this.#pending.values()) {
      if (out.length === perHeartbeat) break
      const { chunk, slot, finding } = pending.entry
      if (slot.number === undefined) continue
      pending.sentIn ??= sequence
      out.push({ chunk, disk: slot.number, finding })
    }
    return out
  }

  /** True while there is something that no heartbeat of the present stream carried. */
  get unsent(): boolean {
    for (const { sentIn, entry } of this.#pending.values()) {
      if (sentIn === undefined && entry.slot.number !== undefined) return true
    }
    return false
  }

  /** Meta answered heartbeat `sequence`: what it carried is known there. */
  acknowledge(sequence: number): void {
    for (const [key, pending] of this.#pending) {
      if (pending.sentIn !== undefined && pending.sentIn <= sequence) this.#pending.delete(key)
    }
  }

  /** A new stream: what was sent on the old one may not have arrived. */
  detach(): void {
    for (const pending of this.#pending.values()) pending.sentIn = undefined
  }
}
