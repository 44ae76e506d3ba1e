/**
 * The header of an extent file: its first sector, and once more its last, so that one bad sector does not hide 256 MiB.
 *
 * | at | bytes | field |
 * | --- | --- | --- |
 * | 0 | 8 | magic `HFEXTENT` |
 * | 8 | 4 | version, 1 |
 * | 12 | 4 | zero |
 * | 16 | 8 | sequence number of this use of the file |
 * | 24 | 8 | size of the file in bytes |
 * | 32 | 16 | disk id |
 * | 48 | 16 | nonce, drawn anew for each use |
 * | 64 | 8 | XXH64 over the 64 bytes before |
 *
 * Integers are big-endian. The header is durable before the first group of the extent is written. A file whose header
 * names another sequence number than its name is an extent that was being recycled when the process ended: free space.
 */

import { equalBytes, getU32, getU64, isSafeU64, putU32, putU64, utf8 } from '../../base/bytes.ts'
import { sectorBytes } from './position.ts'
import { type Sum, sumOf } from './sums.ts'

const magic = utf8('HFEXTENT')
const version = 1
const checkedBytes = 64

export interface ExtentHeader {
  readonly sequence: number
  readonly size: number
  /** 16 bytes. */
  readonly diskId: Uint8Array
  /** 16 random bytes: the seed of every checksum in the extent. */
  readonly nonce: Uint8Array
}

/** Writes the header into the first `sectorBytes` of `sector`; the rest of the sector becomes zero. */
export function encodeExtentHeader(header: ExtentHeader, sector: Uint8Array, sum: Sum): void {
  sector.fill(0, 0, sectorBytes)
  sector.set(magic, 0)
  putU32(sector, 8, version)
  putU64(sector, 16, header.sequence)
  putU64(sector, 24, header.size)
  sector.set(header.diskId, 32)
  sector.set(header.nonce, 48)
  sum(sector.subarray(0, checkedBytes), sector, checkedBytes)
}

/** The header in `sector`, or undefined when it is damaged, blank or of another version. Copies what it keeps. */
export function decodeExtentHeader(sector: Uint8Array, sum: Sum): ExtentHeader | undefined {
  if (sector.length < checkedBytes + 8 || !equalBytes(sector.subarray(0, 8), magic)) return undefined
  if (!equalBytes(sumOf(sum, [sector.subarray(0, checkedBytes)]), sector.subarray(checkedBytes, checkedBytes + 8))) {
    return undefined
  }
  if (getU32(sector, 8) !== version || !isSafeU64(sector, 16) || !isSafeU64(sector, 24)) return undefined
  return {
    sequence: getU64(sector, 16),
    size: getU64(sector, 24),
    diskId: sector.slice(32, 48),
    nonce: sector.slice(48, 64),
  }
}

/** The version of a header that is whole and newer than this program knows; undefined for anything else. */
export function newerExtentVersion(sector: Uint8Array, sum: Sum): number | undefined {
  if (sector.length < checkedBytes + 8 || !equalBytes(sector.subarray(0, 8), magic)) return undefined
  const found = getU32(sector, 8)
  const whole = equalBytes(
    sumOf(sum, [sector.subarray(0, checkedBytes)]),
    sector.subarray(checkedBytes, checkedBytes + 8),
  )
  return whole && found > version ? found : undefined
}
