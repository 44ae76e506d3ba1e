/**
 * What a witness holds in place of an entry: its type, the length of its payload and the checksum of it. Index and term
 * stay, so a witness votes and counts like everybody, and what a member says it holds can be compared with what was
 * committed (docs/RULES.md, rule 8). Entries that steer Raft itself are held whole.
 */

import { crc32c } from '../../base/crc32c.ts'
import { decode, encode, oneOf, struct, type TypeOf, uint } from '../../base/schema.ts'
import { type Entry, entryTypes } from './types.ts'

const receipt = struct({ type: oneOf(entryTypes), length: uint, crc: uint })
export type Receipt = TypeOf<typeof receipt>

/** `entry` as a witness holds it. */
export function receiptOf(entry: Entry): Entry {
  if (entry.type !== 'command') return entry
  const { type, payload } = entry
  const bytes = encode(receipt, { type, length: payload.length, crc: crc32c(payload) })
  return { ...entry, type: 'receipt', payload: bytes }
}

/** Throws SchemaError. */
export function decodeReceipt(payload: Uint8Array): Receipt {
  return decode(receipt, payload)
}
