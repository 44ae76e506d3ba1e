/** Randomness. The real one is cryptographic; the simulator's comes from its seed. */
export interface Entropy {
  /** `length` random bytes. */
  bytes(length: number): Uint8Array
  /** A number in [0, 1). */
  unit(): number
}
