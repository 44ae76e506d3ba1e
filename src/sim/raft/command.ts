/**
 * The commands of the simulated state machine, as bytes in entries: one operation of one client on one register.
 */

import { getU32, putU32 } from '../../base/bytes.ts'
import { crc32c } from '../../base/crc32c.ts'
import { decodeReceipt } from '../../core/raft/receipts.ts'
import type { Entry } from '../../core/raft/types.ts'

/** Positions are what is stored. */
export const commandKinds = ['put', 'cas', 'delete', 'filler'] as const

export interface Command {
  readonly kind: (typeof commandKinds)[number]
  /** Session of the client and number of the command in it: the same when it is sent again. */
  readonly session: number
  readonly sequence: number
  readonly key: number
  /** Unique for each write. */
  readonly value: number
  /** Of a cas: the version that must be there; 0: nothing must be. */
  readonly onVersion: number
}

const headBytes = 18

/** `padding` bytes are added, so that sizes differ. */
export function encodeCommand(command: Command, padding: number): Uint8Array {
  const out = new Uint8Array(headBytes + padding)
  out[0] = commandKinds.indexOf(command.kind)
  out[1] = command.key
  putU32(out, 2, command.session)
  putU32(out, 6, command.sequence)
  putU32(out, 10, command.value)
  putU32(out, 14, command.onVersion)
  return out
}

export function decodeCommand(bytes: Uint8Array): Command {
  return {
    kind: commandKinds[bytes[0] as number] ?? 'filler',
    key: bytes[1] as number,
    session: getU32(bytes, 2),
    sequence: getU32(bytes, 6),
    value: getU32(bytes, 10),
    onVersion: getU32(bytes, 14),
  }
}

const hashes = new WeakMap<Uint8Array, number>()

/** Hash of a payload, remembered as long as the payload lives. */
export function payloadHash(payload: Uint8Array): number {
  const known = hashes.get(payload)
  if (known !== undefined) return known
  const hash = crc32c(payload)
  hashes.set(payload, hash)
  return hash
}

/** Hash of what an entry says: a witness's receipt has that of the entry it stands for. */
export function entryHash(entry: Entry): number {
  if (entry.type === 'command') return mix(payloadHash(entry.payload), entry.payload.length)
  if (entry.type !== 'receipt') return payloadHash(entry.payload)
  const { crc, length } = decodeReceipt(entry.payload)
  return mix(crc, length)
}

/** One number after the other into one hash. */
export function mix(hash: number, value: number): number {
  let out = Math.imul(hash ^ value ^ (value / 0x1_0000_0000), 0x01000193)
  out ^= out >>> 15
  return Math.imul(out, 0x2c1b3c6d) >>> 0
}
