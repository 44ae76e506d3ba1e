/**
 * The bound on bytes that came for puts which still wait for room in an arena, shared by all streams of a node.
 */

/** A count of bytes with an upper bound. */
export class Waiting {
  #left: number

  constructor(bytesMax: number) {
    this.#left = bytesMax
  }

  /** False when they do not fit. */
  take(lengthBytes: number): boolean {
    if (lengthBytes > this.#left) return false
    this.#left -= lengthBytes
    return true
  }

  giveBack(lengthBytes: number): void {
    this.#left += lengthBytes
  }
}
