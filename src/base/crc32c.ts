/**
 * CRC32C (Castagnoli), eight bytes a step with eight tables: about as fast as plain JavaScript gets. It guards our own
 * small records (log entries, hard state, headers); chunk bytes use XXH64.
 *
 * `crc32c(b, crc32c(a))` is the CRC of a followed by b. Check value: "123456789" gives 0xe3069283.
 */

const polynomial = 0x82f63b78

function makeTables(): Uint32Array {
  const tables = new Uint32Array(8 * 256)
  for (let i = 0; i < 256; i++) {
    let value = i
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1
    tables[i] = value
  }
  for (let i = 0; i < 256; i++) {
    for (let table = 1; table < 8; table++) {
      const previous = tables[(table - 1) * 256 + i] as number
      tables[table * 256 + i] = (previous >>> 8) ^ (tables[previous & 0xff] as number)
    }
  }
  return tables
}

const tables: Uint32Array = makeTables()

/** CRC32C of `bytes[start, end)`, continuing `seed` (the CRC of what came before; 0 at the start). Unsigned 32 bits. */
export function crc32c(bytes: Uint8Array, seed = 0, start = 0, end: number = bytes.length): number {
  const t = tables
  let crc = ~seed
  let i = start
  for (const stop = end - 7; i < stop; i += 8) {
    const low =
      crc ^
      ((bytes[i] as number) |
        ((bytes[i + 1] as number) << 8) |
        ((bytes[i + 2] as number) << 16) |
        ((bytes[i + 3] as number) << 24))
    crc =
      (t[1792 + (low & 0xff)] as number) ^
      (t[1536 + ((low >>> 8) & 0xff)] as number) ^
      (t[1280 + ((low >>> 16) & 0xff)] as number) ^
      (t[1024 + (low >>> 24)] as number) ^
      (t[768 + (bytes[i + 4] as number)] as number) ^
      (t[512 + (bytes[i + 5] as number)] as number) ^
      (t[256 + (bytes[i + 6] as number)] as number) ^
      (t[bytes[i + 7] as number] as number)
  }
  for (; i < end; i++) crc = (t[(crc ^ (bytes[i] as number)) & 0xff] as number) ^ (crc >>> 8)
  return ~crc >>> 0
}
