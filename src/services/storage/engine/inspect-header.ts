/** Both copies of an extent's header, for whoever wants to know how many are left. */

import { decodeExtentHeader, type ExtentHeader } from '../../../core/chunk/extent-header.ts'
import { sectorBytes } from '../../../core/chunk/position.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import type { ExtentFile } from '../../../ports/extents.ts'
import { refuseNewer } from './extent-table.ts'

export interface FoundHeader {
  readonly header: ExtentHeader | undefined
  /** `none`: blank, or of another use of the file, which is free. */
  readonly state: 'ok' | 'one copy' | 'damaged' | 'none'
}

/** Reads the first and the last sector. */
export async function readExtentHeaders(file: ExtentFile, sum: Sum): Promise<FoundHeader> {
  const sector = new Uint8Array(sectorBytes)
  const found: ExtentHeader[] = []
  let blank = true
  for (const offset of [0, Math.max(0, file.size - sectorBytes)]) {
    sector.fill(0)
    await file.read(sector, offset)
    blank &&= sector.every((byte) => byte === 0)
    const header = decodeExtentHeader(sector, sum)
    if (header === undefined) refuseNewer(file.number, sector, sum)
    else found.push(header)
  }
  const own = found.filter((header) => header.sequence === file.number)
  const [header] = own
  if (header === undefined) return { header: undefined, state: blank || found.length > 0 ? 'none' : 'damaged' }
  return { header, state: own.length === 2 ? 'ok' : 'one copy' }
}
