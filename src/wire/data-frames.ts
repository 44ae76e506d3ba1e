/**
 * The two messages that carry bulk bytes, laid by hand: `ChunkRequest{request, put_data{data}}` and
 * `ChunkReply{request, get_data{data}}`. The bytes are exactly what protobuf asks for (a test decodes them with the
 * generated code), so any protobuf client reads them.
 *
 * Why: the generated writer grows and copies a buffer before it copies the result, and each of those allocations is
 * external memory that the garbage collector has to chase. Here the exact size is known: one allocation, one copy.
 */

import type { holdfast } from './messages.ts'

/** Field 1 (`request`), varint. */
const tagRequest = 0x08
/** Field 3 of ChunkRequest (`put_data`), length-delimited. */
const tagPutData = 0x1a
/** Field 4 of ChunkReply (`get_data`), length-delimited. */
const tagGetData = 0x22
/** Field 1 of PutData and GetData (`data`), length-delimited. */
const tagBytes = 0x0a

function varintSize(value: number): number {
  let size = 1
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++
  return size
}

function putVarint(out: Uint8Array, at: number, value: number): number {
  let position = at
  let rest = value
  while (rest >= 0x80) {
    out[position++] = (rest % 0x80) | 0x80
    rest = Math.floor(rest / 0x80)
  }
  out[position++] = rest
  return position
}

function layFrame(request: number, bodyTag: number, payload: Uint8Array): Uint8Array {
  const inner = payload.length === 0 ? 0 : 1 + varintSize(payload.length) + payload.length
  const head = request === 0 ? 0 : 1 + varintSize(request)
  const out = allocate(head + 1 + varintSize(inner) + inner)
  let at = 0
  if (request !== 0) {
    out[at++] = tagRequest
    at = putVarint(out, at, request)
  }
  out[at++] = bodyTag
  at = putVarint(out, at, inner)
  if (payload.length > 0) {
    out[at++] = tagBytes
    at = putVarint(out, at, payload.length)
    out.set(payload, at)
  }
  return out
}

/** Every byte is written below, so the memory need not be zeroed first where that can be chosen. */
const allocate: (size: number) => Uint8Array =
  typeof Buffer === 'undefined' ? (size) => new Uint8Array(size) : (size) => Buffer.allocUnsafeSlow(size)

/** Bytes of a data frame, or undefined when the message is another one. */
export function layChunkRequest(message: holdfast.v1.ChunkRequest.$Properties): Uint8Array | undefined {
  if (!message.putData) return undefined
  return layFrame(message.request ?? 0, tagPutData, message.putData.data ?? new Uint8Array(0))
}

/** Bytes of a data frame, or undefined when the message is another one. */
export function layChunkReply(message: holdfast.v1.ChunkReply.$Properties): Uint8Array | undefined {
  if (!message.getData) return undefined
  return layFrame(message.request ?? 0, tagGetData, message.getData.data ?? new Uint8Array(0))
}
