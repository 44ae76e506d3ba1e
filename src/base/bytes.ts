/**
 * Byte helpers shared by every format: compare, concatenate, hex, big-endian integers.
 *
 * Integers wider than 32 bits are JavaScript numbers below 2^53; a larger one is refused, never rounded.
 */

import { assert } from './assert.ts'

const textEncoder = new TextEncoder()
const textDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export const emptyBytes: Uint8Array = new Uint8Array(0)

/** UTF-8 bytes of `text`. */
export function utf8(text: string): Uint8Array {
  return textEncoder.encode(text)
}

/** Text of UTF-8 bytes, or undefined when they are not valid UTF-8. */
export function fromUtf8(bytes: Uint8Array): string | undefined {
  try {
    return textDecoder.decode(bytes)
  } catch {
    return undefined
  }
}

/** Lexicographic order of unsigned bytes, the order LevelDB sorts its keys in. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shared = Math.min(a.length, b.length)
  for (let i = 0; i < shared; i++) {
    const difference = (a[i] as number) - (b[i] as number)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareBytes(a, b) === 0
}

/** One new array that holds `parts` in order. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const out = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

export function toHex(bytes: Uint8Array): string {
  let out = ''
  for (const byte of bytes) out += byte.toString(16).padStart(2, '0')
  return out
}

/** Bytes of an even-length hex string, or undefined when it is not one. */
export function fromHex(text: string): Uint8Array | undefined {
  if (text.length % 2 !== 0 || !/^[0-9a-fA-F]*$/.test(text)) return undefined
  const out = new Uint8Array(text.length / 2)
  for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(text.slice(i * 2, i * 2 + 2), 16)
  return out
}

export function putU32(out: Uint8Array, at: number, value: number): void {
  assert(Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff, `u32 out of range: ${value}`)
  out[at] = value >>> 24
  out[at + 1] = (value >>> 16) & 0xff
  out[at + 2] = (value >>> 8) & 0xff
  out[at + 3] = value & 0xff
}

export function getU32(bytes: Uint8Array, at: number): number {
  assert(at >= 0 && at + 4 <= bytes.length, 'u32 read within the bytes')
  const high = ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number)
  return high * 256 + (bytes[at + 3] as number)
}

/** Writes a safe integer as 8 big-endian bytes, so that byte order is number order. */
export function putU64(out: Uint8Array, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `u64 out of the safe range: ${value}`)
  putU32(out, at, Math.floor(value / 0x1_0000_0000))
  putU32(out, at + 4, value % 0x1_0000_0000)
}

/** Reads 8 big-endian bytes; asserts that they hold a safe integer. Check foreign bytes with `isSafeU64` first. */
export function getU64(bytes: Uint8Array, at: number): number {
  const high = getU32(bytes, at)
  assert(high <= 0x1f_ffff, 'u64 below 2^53')
  return high * 0x1_0000_0000 + getU32(bytes, at + 4)
}

/** True when the 8 bytes at `at` exist and hold an integer below 2^53. */
export function isSafeU64(bytes: Uint8Array, at: number): boolean {
  return at >= 0 && at + 8 <= bytes.length && getU32(bytes, at) <= 0x1f_ffff
}
