/**
 * What must hold after every event, whatever the faults (docs/ARCHITECTURE.md, invariants I1, I4, I6).
 *
 * - At most one leader in a term.
 * - The entry at an index, once applied anywhere, is the same on every node that applies it.
 * - Nodes that applied the same index have the same state digest; applied never goes back, not even over a crash.
 * - A chunk of an acknowledged object that nobody may have deleted since has an intact copy on some disk, always.
 *
 * All checks are incremental: they look at what one event touched.
 */

import { decode } from '../base/schema.ts'
import { type AppliedRecord, appliedRecord } from '../core/meta/records.ts'
import type { KvOperation } from '../ports/kv.ts'
import type { AgentDisk } from './agent.ts'
import type { WriteRecord } from './history.ts'
import type { ChunkFact } from './workload.ts'

interface AppliedFact {
  readonly digest: number
  readonly term: number
  readonly by: string
}

/** One version that a client was told is safe. */
interface AckedObject {
  readonly key: string
  readonly version: number
  readonly chunks: readonly ChunkFact[]
}

const appliedKey = 'A'.charCodeAt(0)

/** The applied record among what a batch writes. */
export function appliedIn(operations: readonly KvOperation[]): AppliedRecord | undefined {
  for (const operation of operations) {
    if (operation.type !== 'put' || operation.key.length !== 1 || operation.key[0] !== appliedKey) continue
    return decode(appliedRecord, operation.value)
  }
  return undefined
}

/** The watcher of one run. Every method throws on a broken invariant. */
export class Invariants {
  readonly #leaders = new Map<number, string>()
  readonly #applied = new Map<number, AppliedFact>()
  readonly #appliedBy = new Map<string, number>()
  readonly #entries = new Map<number, { readonly text: string; readonly by: string }>()
  readonly #acked = new Map<string, AckedObject[]>()
  readonly #disks: readonly AgentDisk[]
  readonly #writes: readonly WriteRecord[]

  constructor(disks: readonly AgentDisk[], writes: readonly WriteRecord[]) {
    this.#disks = disks
    this.#writes = writes
  }

  /** `node` says that it leads in `term`. */
  leads(node: string, term: number): void {
    const other = this.#leaders.get(term)
    if (other !== undefined && other !== node) throw new Error(`two leaders in term ${term}: ${other} and ${node}`)
    this.#leaders.set(term, node)
  }

  /** `node` wrote a batch into its state store: looks for the applied record in it. */
  stateWritten(node: string, operations: readonly KvOperation[]): number | undefined {
    const record = appliedIn(operations)
    if (record === undefined) return undefined
    const before = this.#appliedBy.get(node) ?? 0
    if (record.index < before) throw new Error(`applied of ${node} went back from ${before} to ${record.index}`)
    this.#appliedBy.set(node, record.index)
    const known = this.#applied.get(record.index)
    if (known === undefined) this.#applied.set(record.index, { digest: record.digest, term: record.term, by: node })
    else if (known.digest !== record.digest || known.term !== record.term) {
      throw new Error(
        `${known.by} and ${node} applied index ${record.index} and differ: term ${known.term} and ${record.term}, digest ${known.digest} and ${record.digest}`,
      )
    }
    return record.index
  }

  /** The entry at `index`, as `text`, was applied by `node`. */
  applied(node: string, index: number, text: string): void {
    const known = this.#entries.get(index)
    if (known === undefined) this.#entries.set(index, { text, by: node })
    else if (known.text !== text) {
      throw new Error(`committed entry ${index} changed: ${known.text} on ${known.by}, ${text} on ${node}`)
    }
  }

  appliedOf(node: string): number {
    return this.#appliedBy.get(node) ?? 0
  }

  acknowledged(key: string, version: number, chunks: readonly ChunkFact[]): void {
    const versions = (this.#acked.get(key) ?? []).filter((object) => object.version > version - 1000)
    versions.push({ key, version, chunks })
    this.#acked.set(key, versions)
  }

  /** A replica went (deleted or rotten): the objects that nobody may have replaced must still have an intact copy. */
  replicaGone(id: number): void {
    for (const object of this.mustBeThere()) {
      for (const chunk of object.chunks) {
        if (chunk.id === id && this.intactCopies(id) === 0) {
          throw new Error(`chunk ${id} of ${object.key} version ${object.version} lost its last copy`)
        }
      }
    }
  }

  intactCopies(id: number): number {
    let count = 0
    for (const disk of this.#disks) if (disk.intact(id)) count++
    return count
  }

  /** The newest acknowledged version of each key that no other write may have replaced or deleted. */
  mustBeThere(): AckedObject[] {
    const out: AckedObject[] = []
    for (const versions of this.#acked.values()) {
      const newest = versions.reduce((a, b) => (a.version > b.version ? a : b))
      const replaced = this.#writes.some((write) => this.#mayReplace(write, newest))
      if (!replaced) out.push(newest)
    }
    return out
  }

  #mayReplace(write: WriteRecord, object: AckedObject): boolean {
    if (write.key !== object.key || write.outcome === 'failed') return false
    if (write.kind === 'delete') return write.version === 0 || write.version >= object.version
    return write.version === 0 || write.version > object.version
  }
}
