/**
 * Raft frames that carry messages, laid by hand. The bytes are what protobuf asks for (a test decodes them with the
 * generated code).
 *
 * Why: messages are nearly all of a frame. The generated writer grows its buffer in steps and copies it at the end; here
 * the size is known, so that they are copied once.
 */

import { type holdfast, v1 } from './messages.ts'

/** Field 5 (`messages`), length-delimited. */
const tagMessages = 0x2a

function lengthBytes(length: number): number {
  return length < 0x80 ? 1 : length < 0x4000 ? 2 : length < 0x20_0000 ? 3 : length < 0x1000_0000 ? 4 : 5
}

/** Every byte is written below, so the memory need not be zeroed first where that can be chosen. */
const allocate: (size: number) => Uint8Array =
  typeof Buffer === 'undefined' ? (size) => new Uint8Array(size) : (size) => Buffer.allocUnsafe(size)

/** Bytes of `frame`. */
export function layRaftFrame(frame: holdfast.v1.RaftFrame.$Properties): Uint8Array {
  const { messages, ...rest } = frame
  const head = v1.RaftFrame.encode(rest).finish()
  if (messages === null || messages === undefined || messages.length === 0) return head
  let size = head.length
  for (const { length } of messages) size += 1 + lengthBytes(length) + length
  const out = allocate(size)
  out.set(head)
  let at = head.length
  for (const message of messages) {
    out[at++] = tagMessages
    let length = message.length
    for (; length >= 0x80; length = Math.floor(length / 0x80)) out[at++] = (length % 0x80) | 0x80
    out[at++] = length
    out.set(message, at)
    at += message.length
  }
  return out
}
