/** XXH64. The only hash of the data path; collisions by accident are its concern, not by malice. */
export interface Hasher {
  /** XXH64 with seed 0 of `bytes`, written as 8 little-endian bytes into `out` at `at`. */
  sumInto(bytes: Uint8Array, out: Uint8Array, at: number): void
}
