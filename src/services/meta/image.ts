/**
 * The image of the metadata state that a snapshot carries: every key and value in key order, packed into pieces.
 *
 * Format (docs/formats/meta-state.md): a piece is a list of entries, each key length u32, value length u32, key, value.
 * Pieces hold whole entries and are at most 1 MiB long; the transfer adds order, sums and an end. What comes
 * in is not believed: lengths are checked, keys must rise, and the applied record must be the one that was announced.
 */

import { compareBytes, getU32, putU32 } from '../../base/bytes.ts'
import { StoreError } from '../../model/errors.ts'
import type { KvOperation, KvSnapshot } from '../../ports/kv.ts'

/** A piece: well within one transfer message of 1 MiB, and taken in without holding up much else. Every entry fits. */
const pieceBytes: number = 256 * 1024

const headBytes = 8

/** The pieces of a consistent view; closes it at the end, also when the reader stops early. */
export async function* imagePieces(view: KvSnapshot): AsyncGenerator<Uint8Array> {
  try {
    // Packed entry by entry: a piece at once would hold up everything else for milliseconds.
    let piece = new Uint8Array(0)
    let length = 0
    for await (const { key, value } of view.iterate({})) {
      const entryBytes = headBytes + key.length + value.length
      if (length + entryBytes > piece.length) {
        if (length > 0) yield piece.subarray(0, length)
        piece = new Uint8Array(Math.max(pieceBytes, entryBytes))
        length = 0
      }
      putU32(piece, length, key.length)
      putU32(piece, length + 4, value.length)
      piece.set(key, length + headBytes)
      piece.set(value, length + headBytes + key.length)
      length += entryBytes
    }
    if (length > 0) yield piece.subarray(0, length)
  } finally {
    await view.close()
  }
}

/** The entries of one piece as writes; CORRUPT when it is not a piece or its keys do not rise beyond `after`. */
export function unpackPiece(piece: Uint8Array, after: Uint8Array | undefined): KvOperation[] {
  const out: KvOperation[] = []
  let last = after
  let at = 0
  while (at < piece.length) {
    if (at + headBytes > piece.length) throw damaged('an entry is cut short')
    const keyEnd = at + headBytes + getU32(piece, at)
    const valueEnd = keyEnd + getU32(piece, at + 4)
    if (valueEnd > piece.length) throw damaged('an entry is cut short')
    const key = piece.slice(at + headBytes, keyEnd)
    if (last !== undefined && compareBytes(last, key) >= 0) throw damaged('keys do not rise')
    out.push({ type: 'put', key, value: piece.slice(keyEnd, valueEnd) })
    last = key
    at = valueEnd
  }
  return out
}

/** The error of an image that cannot be installed. */
export function damaged(why: string): StoreError {
  return new StoreError('CORRUPT', `install a snapshot of the metadata state: ${why}; it will be sent again`)
}
