/**
 * Byte helpers shared by every format: allocate, compare, concatenate, hex, big-endian integers.
 *
 * Integers wider than 32 bits are JavaScript numbers below 2^53; a larger one is refused, never rounded.
 *
 * These are the inner loops of everything replicated, so they avoid what V8 does slowly: a backing store for every small
 * array, a message built for an assertion that holds, a regular expression for sixteen bytes.
 */

import { AssertionError, assert } from './assert.ts'

const textEncoder = new TextEncoder()
const textDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export const emptyBytes: Uint8Array = new Uint8Array(0)

/** Small arrays are cut from a slab: one of their own costs about ten times the time, and more to collect. */
const slabBytes = 64 * 1024
const slabShareMax = 4 * 1024
let slab = new Uint8Array(slabBytes)
let slabUsed = 0

/** New bytes, all zero. Small ones share their `buffer` with others, so they are never transferred or resized. */
export function allocateBytes(length: number): Uint8Array {
  if (length > slabShareMax) return new Uint8Array(length)
  if (slabUsed + length > slabBytes) {
    slab = new Uint8Array(slabBytes)
    slabUsed = 0
  }
  const out = slab.subarray(slabUsed, slabUsed + length)
  slabUsed += length
  return out
}

/** A copy in memory of its own, for what is kept long after its neighbours are gone. */
export function copyBytes(bytes: Uint8Array): Uint8Array {
  const out = allocateBytes(bytes.length)
  out.set(bytes)
  return out
}

/** Text is encoded here first, when its longest encoding fits. */
const scratch = new Uint8Array(16 * 1024)

/** Text up to this length is written character by character while it is ASCII: a call of the encoder costs more. */
const shortText = 48

/** Writes `text` at `at` when it is short and ASCII; false when it is not, and then what is there is undefined. */
function putShort(out: Uint8Array, at: number, text: string): boolean {
  const { length } = text
  if (length > shortText || at + length > out.length) return false
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0x7f) return false
    out[at + i] = code
  }
  return true
}

/** UTF-8 bytes of `text`. */
export function utf8(text: string): Uint8Array {
  if (text.length <= shortText) {
    const out = allocateBytes(text.length)
    if (putShort(out, 0, text)) return out
  }
  if (text.length * 3 > scratch.length) return textEncoder.encode(text)
  const length = textEncoder.encodeInto(text, scratch).written
  const out = allocateBytes(length)
  out.set(scratch.subarray(0, length))
  return out
}

/** How many bytes `utf8(text)` has. */
export function utf8Length(text: string): number {
  if (putShort(scratch, 0, text)) return text.length
  if (text.length * 3 > scratch.length) return textEncoder.encode(text).length
  return textEncoder.encodeInto(text, scratch).written
}

/** Writes the UTF-8 bytes of `text` at `at`, where three bytes for each of its UTF-16 units must fit; returns how many. */
export function putUtf8(out: Uint8Array, at: number, text: string): number {
  if (putShort(out, at, text)) return text.length
  return textEncoder.encodeInto(text, at === 0 ? out : out.subarray(at)).written
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
  const out = allocateBytes(length)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** The two digits of each byte, and the value of each digit's character code. */
const hexPairs: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
const notHex = 0xff
const hexValues: Uint8Array = new Uint8Array(256).fill(notHex)
for (let value = 0; value < 16; value++) {
  const digit = value.toString(16)
  hexValues[digit.charCodeAt(0)] = value
  hexValues[digit.toUpperCase().charCodeAt(0)] = value
}

export function toHex(bytes: Uint8Array): string {
  let out = ''
  for (let i = 0; i < bytes.length; i++) out += hexPairs[bytes[i] as number] as string
  return out
}

/** Writes the bytes of an even-length hex string at `at`; false when it is none, and then what is there is undefined. */
export function putHex(out: Uint8Array, at: number, text: string): boolean {
  if (text.length % 2 !== 0) return false
  for (let i = 0; i < text.length; i += 2) {
    // A code above 255 has no value, and undefined becomes 0 in the arithmetic: it is looked for first.
    const high = hexValues[text.charCodeAt(i)] ?? notHex
    const low = hexValues[text.charCodeAt(i + 1)] ?? notHex
    if (high === notHex || low === notHex) return false
    out[at + (i >> 1)] = (high << 4) | low
  }
  return true
}

/** Bytes of an even-length hex string, or undefined when it is not one. */
export function fromHex(text: string): Uint8Array | undefined {
  const out = allocateBytes(text.length >> 1)
  return putHex(out, 0, text) ? out : undefined
}

function outOfRange(what: string, value: number): never {
  throw new AssertionError(`broken invariant: ${what} out of range: ${value}`)
}

export function putU32(out: Uint8Array, at: number, value: number): void {
  if (value >>> 0 !== value) outOfRange('u32', value)
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
  if (!Number.isSafeInteger(value) || value < 0) outOfRange('u64', value)
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
