/**
 * Term and vote in two small slots that are overwritten in turn (docs/formats/raft.md): the first copy of the hard
 * state, written and synced before anything else of a new term or vote; the log's batches carry the second.
 *
 * Invariants: a slot is one 512-byte sector with a sequence number and a CRC32C; the older slot is always intact while
 * the newer is written, so a torn write loses only what was never acted upon. When the log is ahead of the slots, or
 * neither slot is intact, the node refuses to start: a vote could be given twice.
 */

import { extended, fixed, struct, text, type TypeOf, uint } from '../../base/schema.ts'
import { fromHex, getU32, putU32, toHex } from '../../base/bytes.ts'
import { StoreError } from '../../model/errors.ts'
import type { Files } from '../../ports/files.ts'
import type { HardState } from '../../core/raft/types.ts'
import { seal, unseal } from './log-format.ts'

const slotNames = ['raft-hard-0', 'raft-hard-1'] as const
const slotBytes = 512

const slotRecord = extended(
  struct({
    sequence: uint,
    term: uint,
    vote: text,
    cluster: fixed(16),
    incarnation: fixed(16),
  }),
  struct({ clusterIncarnation: uint }),
  { clusterIncarnation: 1 },
)

/** One sector: length u32, sealed record, zeros. */
function encodeSlot(record: TypeOf<typeof slotRecord>): Uint8Array {
  const sealed = seal(slotRecord, record)
  const slot = new Uint8Array(slotBytes)
  putU32(slot, 0, sealed.length)
  slot.set(sealed, 4)
  return slot
}

function decodeSlot(slot: Uint8Array): TypeOf<typeof slotRecord> | undefined {
  if (slot.length !== slotBytes) return undefined
  const length = getU32(slot, 0)
  return length > slotBytes - 4 ? undefined : unseal(slotRecord, slot.slice(4, 4 + length))
}

export interface SlotOwner {
  /** 32 hex digits each. */
  readonly clusterId: string
  readonly incarnation: string
  readonly clusterIncarnation: number
}

export class HardStateSlots {
  readonly #files: Files
  readonly #owner: SlotOwner
  #sequence: number
  #value: HardState | undefined

  private constructor(files: Files, owner: SlotOwner, sequence: number, value: HardState | undefined) {
    this.#files = files
    this.#owner = owner
    this.#sequence = sequence
    this.#value = value
  }

  /** The newest intact hard state; undefined when none was ever written. */
  get value(): HardState | undefined {
    return this.#value
  }

  /**
   * Reads both slots. CORRUPT when slots exist and none is intact; WRONG_CLUSTER when they belong to another life.
   * `recovering`: they may be of an older incarnation of the cluster, which a recovery is about to end.
   */
  static async open(files: Files, owner: SlotOwner, recovering = false): Promise<HardStateSlots> {
    let sequence = 0
    let value: HardState | undefined
    let seen = 0
    let newest = 0
    for (const name of slotNames) {
      const stored = await files.read(name)
      if (stored === undefined) continue
      seen++
      const record = decodeSlot(stored)
      if (record === undefined) continue
      const own =
        toHex(record.cluster) === owner.clusterId &&
        toHex(record.incarnation) === owner.incarnation &&
        record.clusterIncarnation <= owner.clusterIncarnation
      if (!own) {
        throw new StoreError(
          'WRONG_CLUSTER',
          `open the hard state: ${name} belongs to another cluster or node: use the directory of this node`,
        )
      }
      if (record.sequence <= sequence) continue
      sequence = record.sequence
      value = { term: record.term, vote: record.vote }
      newest = record.clusterIncarnation
    }
    // The older slot may be of the incarnation before.
    if (value !== undefined && newest !== owner.clusterIncarnation && !recovering) {
      throw new StoreError(
        'WRONG_CLUSTER',
        `open the hard state: it is of incarnation ${newest} of the cluster and the directory of ${owner.clusterIncarnation}: remove this member and add it again with an empty directory`,
      )
    }
    if (seen === slotNames.length && value === undefined) {
      throw new StoreError(
        'CORRUPT',
        'open the hard state: both slots are damaged, so a vote could be given twice: remove this member and add it again with an empty directory',
      )
    }
    return new HardStateSlots(files, owner, sequence, value)
  }

  /** Durable when it resolves. One call at a time. */
  async save(value: HardState): Promise<void> {
    const sequence = this.#sequence + 1
    const slot = encodeSlot({
      sequence,
      term: value.term,
      vote: value.vote,
      cluster: idBytes(this.#owner.clusterId),
      incarnation: idBytes(this.#owner.incarnation),
      clusterIncarnation: this.#owner.clusterIncarnation,
    })
    await this.#files.overwrite(slotNames[sequence % 2] as string, slot)
    this.#sequence = sequence
    this.#value = value
  }
}

function idBytes(hex: string): Uint8Array {
  return fromHex(hex) ?? new Uint8Array(0)
}
