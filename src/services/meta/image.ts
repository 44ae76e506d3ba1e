/**
 * The image of the metadata state that a snapshot carries: every key and value in key order, packed into pieces, but for
 * the disk -> chunk entries: they repeat what the chunks say and are three of four entries of a large state, so the
 * receiver makes them anew. (An image of a cluster at version 1 has them.)
 *
 * Format (docs/formats/meta-state.md): a piece is a list of entries, each key length u32, value length u32, key, value.
 * Pieces hold whole entries and are at most 1 MiB long; the transfer adds order, sums and an end. What comes
 * in is not believed: lengths are checked, keys must rise, and the applied record must be the one that was announced.
 */

import { compareBytes, copyBytes, getU32, putU32 } from '../../base/bytes.ts'
import { decode } from '../../base/schema.ts'
import { mirrorsOf } from '../../core/meta/chunks.ts'
import { keyParts, keys } from '../../core/meta/keys.ts'
import { clusterRecord } from '../../core/meta/records.ts'
import { StoreError } from '../../model/errors.ts'
import type { KvEntry, KvOperation, KvSnapshot } from '../../ports/kv.ts'

/** A piece: well within one transfer message of 1 MiB, and taken in without holding up much else. Every entry fits. */
const pieceBytes: number = 256 * 1024

const headBytes = 8
/** Writes that are made of a piece before anything else gets its turn. */
const groupWrites = 1024
const [clusterPrefix, chunkPrefix, mirrorPrefix] = ['C', 'c', 'd'].map((letter) => letter.charCodeAt(0)) as [
  number,
  number,
  number,
]

/** What an image holds of a consistent view, in key order. */
async function* imageEntries(view: KvSnapshot): AsyncGenerator<KvEntry> {
  const cluster = await view.get(keys.cluster())
  if (cluster === undefined || !leavesMirrorsOut(cluster)) {
    yield* view.iterate({})
    return
  }
  yield* view.iterate({ lt: new Uint8Array([mirrorPrefix]) })
  yield* view.iterate({ gte: new Uint8Array([mirrorPrefix + 1]) })
}

/** True from cluster version 2 on: nobody is left who needs to be sent the mirrors. */
function leavesMirrorsOut(cluster: Uint8Array): boolean {
  return decode(clusterRecord, cluster).version >= 2
}

/** The pieces of a consistent view; closes it at the end, also when the reader stops early. */
export async function* imagePieces(view: KvSnapshot): AsyncGenerator<Uint8Array> {
  try {
    // Packed entry by entry: a piece at once would hold up everything else for milliseconds.
    let piece = new Uint8Array(0)
    let length = 0
    for await (const { key, value } of imageEntries(view)) {
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

/** Takes an image in: the writes of its pieces, in groups small enough that none holds up anything else for long. */
export class ImageReader {
  #last: Uint8Array | undefined
  #mirrorsLeftOut = false

  #take(key: Uint8Array, value: Uint8Array, group: KvOperation[]): void {
    if (this.#last !== undefined && compareBytes(this.#last, key) >= 0) throw damaged('keys do not rise')
    this.#last = key
    group.push({ type: 'put', key, value })
    // The cluster record comes before every chunk.
    if (key[0] === clusterPrefix) this.#mirrorsLeftOut = leavesMirrorsOut(value)
    else if (key[0] === chunkPrefix && this.#mirrorsLeftOut) {
      for (const mirror of mirrorsOf(keyParts.chunk(key), value)) group.push({ type: 'put', ...mirror })
    }
  }

  /** Groups of writes of the next piece. CORRUPT when it is no piece or its keys do not rise. */
  *writes(piece: Uint8Array): Generator<KvOperation[]> {
    let group: KvOperation[] = []
    for (let at = 0; at < piece.length; ) {
      if (at + headBytes > piece.length) throw damaged('an entry is cut short')
      const keyEnd = at + headBytes + getU32(piece, at)
      const valueEnd = keyEnd + getU32(piece, at + 4)
      if (valueEnd > piece.length) throw damaged('an entry is cut short')
      this.#take(copyBytes(piece.subarray(at + headBytes, keyEnd)), copyBytes(piece.subarray(keyEnd, valueEnd)), group)
      at = valueEnd
      if (group.length < groupWrites) continue
      yield group
      group = []
    }
    if (group.length > 0) yield group
  }
}

/** The error of an image that cannot be installed. */
export function damaged(why: string): StoreError {
  return new StoreError('CORRUPT', `install a snapshot of the metadata state: ${why}; it will be sent again`)
}
