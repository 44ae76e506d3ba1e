/**
 * The check that no wrong byte passes: the frames of one read, verified block by block against the manifest's root.
 *
 * First the node's block sums must hash to the root that the manifest names; after that each 64 KiB block is checked
 * against its sum before any of it is given out. Frames need not end on block boundaries; ours do, and cost no copy.
 *
 * Invariant: bytes come out in order, exactly those of [from, to) of the chunk, each of them verified.
 */

import { equalBytes } from '../base/bytes.ts'
import { sumBytes, sumsMatchRoot, type SumInto } from '../core/object/sums.ts'
import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { holdfast } from '../wire/messages.ts'

/** The chunk as the manifest names it. */
export interface KnownChunk {
  readonly id: number
  readonly length: number
  readonly root: Uint8Array
}

export class BlockCheck {
  readonly #chunk: KnownChunk
  readonly #to: number
  readonly #sumInto: SumInto
  readonly #give: (bytes: Uint8Array) => void
  readonly #sum = new Uint8Array(sumBytes)
  #sums: Uint8Array | undefined
  /** Next byte of the chunk to check; block-aligned until the end. */
  #at = 0
  #end = 0
  /** Next byte to give out. */
  #wanted: number
  #carry: Uint8Array | undefined

  /** `give` gets the verified bytes; views on the receive buffer. */
  constructor(chunk: KnownChunk, from: number, to: number, sumInto: SumInto, give: (bytes: Uint8Array) => void) {
    this.#chunk = chunk
    this.#to = to
    this.#wanted = from
    this.#sumInto = sumInto
    this.#give = give
  }

  #refuse(why: string): StoreError {
    return new StoreError('CORRUPT', `chunk ${this.#chunk.id}: ${why}`)
  }

  /** Checks what the node says it will send. Throws CORRUPT. */
  begin(begin: holdfast.v1.GetBegin): void {
    const { length, root } = this.#chunk
    if (this.#sums !== undefined) throw this.#refuse('the node began its answer twice')
    if (begin.length !== length || !equalBytes(begin.root, root))
      throw this.#refuse('the node holds another length or root')
    if (!sumsMatchRoot(length, begin.blockSums, root, this.#sumInto))
      throw this.#refuse('the block sums do not match the root')
    const firstBlock = Math.floor(this.#wanted / limits.blockBytes) * limits.blockBytes
    const lastEnd = Math.min(Math.ceil(this.#to / limits.blockBytes) * limits.blockBytes, length)
    if (begin.offset !== firstBlock || begin.offset + begin.bytes < lastEnd || begin.offset + begin.bytes > length) {
      throw this.#refuse('the node offers other bytes than were asked for')
    }
    this.#sums = new Uint8Array(begin.blockSums)
    this.#at = begin.offset
    this.#end = begin.offset + begin.bytes
  }

  /** Takes the next frame. Throws CORRUPT. True when all that was announced has come. */
  frame(bytes: Uint8Array): boolean {
    if (this.#sums === undefined) throw this.#refuse('bytes came before the announcement')
    let rest = bytes
    if (this.#carry !== undefined) {
      const joined = new Uint8Array(this.#carry.length + rest.length)
      joined.set(this.#carry)
      joined.set(rest, this.#carry.length)
      rest = joined
      this.#carry = undefined
    }
    if (this.#at + rest.length > this.#end) throw this.#refuse('more bytes came than announced')
    let checked = 0
    while (checked < rest.length) {
      const want = Math.min(limits.blockBytes, this.#chunk.length - this.#at - checked, this.#end - this.#at - checked)
      if (rest.length - checked < want) break
      this.#checkBlock(rest.subarray(checked, checked + want), this.#at + checked)
      checked += want
    }
    this.#pass(rest.subarray(0, checked))
    if (checked < rest.length) this.#carry = rest.slice(checked)
    return this.#at >= this.#end
  }

  #checkBlock(block: Uint8Array, offset: number): void {
    const sums = this.#sums as Uint8Array
    const index = (offset / limits.blockBytes) * sumBytes
    this.#sumInto(block, this.#sum, 0)
    if (!equalBytes(this.#sum, sums.subarray(index, index + sumBytes))) {
      throw this.#refuse(`block ${offset / limits.blockBytes} does not match its sum`)
    }
  }

  /** Gives out the wanted part of verified bytes that start at `#at`. */
  #pass(verified: Uint8Array): void {
    const from = Math.max(this.#wanted - this.#at, 0)
    const to = Math.min(this.#to - this.#at, verified.length)
    this.#at += verified.length
    if (from >= to) return
    this.#wanted += to - from
    this.#give(verified.subarray(from, to))
  }
}
