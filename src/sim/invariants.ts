/**
 * What must hold after every event, whatever the faults (docs/ARCHITECTURE.md, invariants I1, I4, I6).
 *
 * - At most one leader in a term.
 * - The entry at an index, once applied anywhere, is the same on every node that applies it.
 * - Nodes that applied the same index have the same state digest.
 * - A chunk of an acknowledged object that nobody may have deleted since has an intact copy on some disk, always.
 * - A replica that a node deletes is one that the metadata has given up: `deleting` there, or not known on that disk.
 *
 * All checks are incremental: they look at what one event touched.
 */

import { equalBytes, toHex } from '../base/bytes.ts'
import { decode, uint } from '../base/schema.ts'
import { decodeCommand } from '../core/meta/commands.ts'
import { keys } from '../core/meta/keys.ts'
import { chunkRecord } from '../core/meta/records.ts'
import type { Entry } from '../core/raft/types.ts'
import type { ReplicaDisk } from './context.ts'
import type { History, WriteRecord } from './history.ts'

/** One version that a client was told is safe. */
interface AckedObject {
  readonly key: string
  readonly version: number
  readonly etag: string
}

/** Reads a key of the metadata as of the highest applied index; undefined when no node that has it runs. */
export type StatePeek = () => ((key: Uint8Array) => Uint8Array | undefined) | undefined

/** The watcher of one run. Every method throws on a broken invariant. */
export class Invariants {
  readonly #leaders = new Map<number, string>()
  readonly #digests = new Map<number, { readonly digest: number; readonly by: string }>()
  readonly #entries = new Map<number, { readonly entry: Entry; readonly by: string }>()
  /** Highest index that any node has ever applied. */
  #highest = 0
  readonly #acked = new Map<string, AckedObject>()
  /** Chunks of the content with this etag, as commits brought them: the same content may come more than once. */
  readonly #chunks = new Map<string, number[][]>()
  readonly #etagsOfChunk = new Map<number, string>()
  readonly #disks: readonly ReplicaDisk[]
  readonly #history: History
  readonly #state: StatePeek

  constructor(disks: readonly ReplicaDisk[], history: History, state: StatePeek = () => undefined) {
    this.#disks = disks
    this.#history = history
    this.#state = state
  }

  /** `node` says that it leads in `term`. */
  leads(node: string, term: number): void {
    const other = this.#leaders.get(term)
    if (other !== undefined && other !== node) throw new Error(`two leaders in term ${term}: ${other} and ${node}`)
    this.#leaders.set(term, node)
  }

  /** `node` has applied everything up to `index`, which gives it this digest. */
  digest(node: string, index: number, digest: number): void {
    this.#highest = Math.max(this.#highest, index)
    const known = this.#digests.get(index)
    if (known === undefined) this.#digests.set(index, { digest, by: node })
    else if (known.digest !== digest) {
      throw new Error(`${known.by} and ${node} applied index ${index} and differ: ${known.digest} and ${digest}`)
    }
  }

  /** The entry was applied by `node`. */
  applied(node: string, entry: Entry): void {
    const known = this.#entries.get(entry.index)
    if (known === undefined) {
      this.#entries.set(entry.index, { entry, by: node })
      this.#learn(entry)
    } else if (!sameEntry(known.entry, entry)) {
      throw new Error(
        `committed entry ${entry.index} changed: ${describe(known.entry)} on ${known.by}, ${describe(entry)} on ${node}`,
      )
    }
  }

  /** Takes the chunks of new contents from the commits that bring them. */
  #learn(entry: Entry): void {
    if (entry.type !== 'command') return
    const command = decodeCommand(entry.payload)
    if (command.kind !== 'commit') return
    for (const operation of command.operations) {
      if (operation.kind !== 'put') continue
      const etag = toHex(operation.etag)
      const ids = operation.chunks.map((chunk) => chunk.id)
      const known = this.#chunks.get(etag)
      if (known === undefined) this.#chunks.set(etag, [ids])
      else known.push(ids)
      for (const id of ids) this.#etagsOfChunk.set(id, etag)
    }
  }

  get highestApplied(): number {
    return this.#highest
  }

  /** A client was told that this version is safe. */
  acknowledged(key: string, version: number, etag: string): void {
    const newest = this.#acked.get(key)
    if (newest === undefined || newest.version < version) this.#acked.set(key, { key, version, etag })
  }

  /** A node deletes its replica of the chunk. */
  replicaDeleted(id: number, diskId: string): void {
    this.#checkGivenUp(id, diskId)
    this.replicaGone(id)
  }

  /** A replica went, deleted or rotten: acknowledged objects that nobody may have replaced still have an intact copy. */
  replicaGone(id: number): void {
    const etag = this.#etagsOfChunk.get(id)
    if (etag === undefined || this.intactCopies(id) > 0) return
    const object = this.mustBeThere().find((candidate) => candidate.etag === etag)
    // The same content may have been committed twice, the first time without an answer.
    if (object === undefined || this.#isWhole(object)) return
    throw new Error(`chunk ${id} of ${object.key} version ${object.version} lost its last copy`)
  }

  #checkGivenUp(id: number, diskId: string): void {
    const peek = this.#state()
    const number = peek?.(keys.diskById(diskId))
    const value = peek?.(keys.chunk(id))
    if (number === undefined || value === undefined) return
    const own = decode(uint, number)
    const replica = decode(chunkRecord, value).replicas.find(({ disk }) => disk === own)
    if (replica?.state === 'current' || replica?.state === 'copying') {
      throw new Error(`disk ${replica.disk} deletes chunk ${id}, which the metadata has there as ${replica.state}`)
    }
  }

  intactCopies(id: number): number {
    let count = 0
    for (const disk of this.#disks) if (disk.intact(id)) count++
    return count
  }

  /** True when some set of chunks with the object's content has an intact copy of each. */
  #isWhole(object: AckedObject): boolean {
    const sets = this.#chunks.get(object.etag)
    // Applied entries that came to every node in a snapshot were not seen one by one.
    return sets === undefined || sets.some((ids) => ids.every((id) => this.intactCopies(id) > 0))
  }

  /** Throws unless every acknowledged object is there as a whole, on whatever disks. */
  checkWhole(): void {
    for (const object of this.mustBeThere()) {
      if (!this.#isWhole(object)) throw new Error(`${object.key} version ${object.version} has a chunk without a copy`)
    }
  }

  /** The newest acknowledged version of each key that no other write may have replaced or deleted. */
  mustBeThere(): AckedObject[] {
    return [...this.#acked.values()].filter(
      (object) => !this.#history.writesOf(object.key).some((write) => mayReplace(write, object)),
    )
  }
}

function mayReplace(write: WriteRecord, object: AckedObject): boolean {
  if (write.outcome === 'failed') return false
  if (write.kind === 'delete') return write.version === 0 || write.version >= object.version
  return write.version === 0 || write.version > object.version
}

function sameEntry(a: Entry, b: Entry): boolean {
  return a.term === b.term && a.type === b.type && equalBytes(a.payload, b.payload)
}

function describe(entry: Entry): string {
  return `term ${entry.term} ${entry.type} ${toHex(entry.payload).slice(0, 80)}`
}
