/**
 * Reads the files of a closed LevelDB and says what in them is damaged, without LevelDB and without writing.
 *
 * LevelDB as Node opens it checks neither its tables nor the end of its MANIFEST: a flipped bit in a table, its filter or
 * a length in the MANIFEST makes keys vanish without an error. Every block of a table and every record of the MANIFEST
 * carries a CRC32C; here they are all looked at. LevelDB's own log is left to LevelDB, which does check it: what is lost
 * there lies after the last checkpoint of whoever uses the store, or is that checkpoint, and then an earlier one counts.
 *
 * Formats: doc/table_format.md and doc/log_format.md of LevelDB. A MANIFEST that was torn by a power cut is called damaged
 * too: which of the two it was cannot be told.
 */

import { open, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32c } from '../base/crc32c.ts'

const blockBytes = 32 * 1024
const recordHeaderBytes = 7
const footerBytes = 48
/** Compression type and checksum behind each block of a table. */
const trailerBytes = 5
const tableMagic = Buffer.from('57fb808b247547db', 'hex')
const snappyType = 1
/** No block of a table of ours is larger; a length beyond it is damage. */
const tableBlockBytesMax = 64 * 1024 * 1024

export interface LevelCheck {
  /** One line; undefined when nothing is damaged. */
  readonly damage: string | undefined
  readonly tables: number
  readonly bytes: number
  /** Bytes of tables whose data was left out because of `dataBytesMax`. */
  readonly unchecked: number
}

/** Damage, on its way up. */
class Damage extends Error {}

function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** A varint at `at`: value and the place after it. */
function varint(bytes: Uint8Array, at: number): { value: number; end: number } {
  let value = 0
  for (let i = 0; i < 8; i++) {
    const byte = bytes[at + i]
    if (byte === undefined) break
    value += (byte & 0x7f) * 2 ** (7 * i)
    if (byte < 0x80) return { value, end: at + i + 1 }
  }
  throw new Damage('a number is cut off')
}

/** Bytes of a snappy block. */
function unpack(bytes: Uint8Array): Uint8Array {
  const head = varint(bytes, 0)
  if (head.value > tableBlockBytesMax) throw new Damage('a block is too large')
  const out = new Uint8Array(head.value)
  let from = head.end
  let to = 0
  const number = (count: number): number => {
    let value = 0
    for (let i = 0; i < count; i++) value += (bytes[from + i] ?? 0) * 2 ** (8 * i)
    from += count
    return value
  }
  while (from < bytes.length) {
    const tag = bytes[from++] ?? 0
    const kind = tag & 3
    if (kind === 0) {
      const short = tag >> 2
      const length = (short < 60 ? short : number(short - 59)) + 1
      if (from + length > bytes.length || to + length > out.length) throw new Damage('a block does not unpack')
      out.set(bytes.subarray(from, from + length), to)
      from += length
      to += length
      continue
    }
    const length = kind === 1 ? ((tag >> 2) & 7) + 4 : (tag >> 2) + 1
    const back = kind === 1 ? ((tag >> 5) << 8) + number(1) : number(kind === 2 ? 2 : 4)
    if (back === 0 || back > to || to + length > out.length) throw new Damage('a block does not unpack')
    for (let i = 0; i < length; i++, to++) out[to] = out[to - back] ?? 0
  }
  if (to !== out.length) throw new Damage('a block does not unpack')
  return out
}

interface Handle {
  readonly offset: number
  readonly size: number
}

function handleAt(bytes: Uint8Array, at: number): Handle & { end: number } {
  const offset = varint(bytes, at)
  const size = varint(bytes, offset.end)
  return { offset: offset.value, size: size.value, end: size.end }
}

/** The handles that the values of an index block are. */
function handlesOf(block: Uint8Array): Handle[] {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength)
  if (block.length < 4) throw new Damage('a block is too short')
  const entriesEnd = block.length - 4 * (view.getUint32(block.length - 4, true) + 1)
  if (entriesEnd < 0) throw new Damage('a block is too short')
  const handles: Handle[] = []
  for (let at = 0; at < entriesEnd; ) {
    const shared = varint(block, at)
    const rest = varint(block, shared.end)
    const length = varint(block, rest.end)
    handles.push(handleAt(block, length.end + rest.value))
    at = length.end + rest.value + length.value
  }
  return handles
}

type ReadAt = (offset: number, length: number) => Promise<Uint8Array>

/** The checked content of a block, still packed unless `unpacked`. */
async function blockAt(
  read: ReadAt,
  { offset, size }: Handle,
  fileBytes: number,
  unpacked: boolean,
): Promise<Uint8Array> {
  if (offset + size + trailerBytes > fileBytes - footerBytes) throw new Damage('a block lies outside')
  const bytes = await read(offset, size + trailerBytes)
  const stored = new DataView(bytes.buffer, bytes.byteOffset).getUint32(size + 1, true)
  if (masked(crc32c(bytes, 0, 0, size + 1)) !== stored)
    throw new Damage(`the block at ${offset} does not match its checksum`)
  const content = bytes.subarray(0, size)
  return unpacked && bytes[size] === snappyType ? unpack(content) : content
}

/** Checks one table; its data only when `whole`. */
async function checkTable(read: ReadAt, fileBytes: number, whole: boolean): Promise<void> {
  if (fileBytes < footerBytes) throw new Damage('it is too short')
  const footer = await read(fileBytes - footerBytes, footerBytes)
  if (!tableMagic.equals(footer.subarray(footerBytes - 8))) throw new Damage('its footer is damaged')
  const meta = handleAt(footer, 0)
  const index = handleAt(footer, meta.end)
  const filters = handlesOf(await blockAt(read, meta, fileBytes, true))
  const data = handlesOf(await blockAt(read, index, fileBytes, true))
  for (const filter of filters) await blockAt(read, filter, fileBytes, false)
  // Blocks follow each other without a gap, so that a handle that was changed shows.
  let next = 0
  for (const handle of [...data, ...filters, meta, index]) {
    if (handle.offset !== next) throw new Damage(`there is no block at ${next}`)
    next += handle.size + trailerBytes
  }
  if (next !== fileBytes - footerBytes) throw new Damage('its end is missing')
  if (whole) for (const handle of data) await blockAt(read, handle, fileBytes, false)
}

/** Checks that a file of LevelDB's log format is whole to its last byte. */
function checkRecords(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (let at = 0; at < bytes.length; ) {
    const left = blockBytes - (at % blockBytes)
    if (left < recordHeaderBytes) {
      at += left
      continue
    }
    const end = at + recordHeaderBytes + (at + recordHeaderBytes <= bytes.length ? view.getUint16(at + 4, true) : 0)
    if (end > bytes.length || end - at > left || at + recordHeaderBytes > bytes.length) {
      throw new Damage(`it ends within the record at ${at}`)
    }
    if (masked(crc32c(bytes, 0, at + 6, end)) !== view.getUint32(at, true)) {
      throw new Damage(`the record at ${at} does not match its checksum`)
    }
    at = end
  }
}

async function checkManifest(directory: string, names: readonly string[]): Promise<void> {
  if (!names.includes('CURRENT')) throw new Damage('CURRENT is missing')
  const [, name] = /^(MANIFEST-\d+)\n$/.exec(await readFile(join(directory, 'CURRENT'), 'latin1')) ?? []
  if (name === undefined || !names.includes(name)) throw new Damage('CURRENT names no file that is there')
  try {
    const bytes = await readFile(join(directory, name))
    if (bytes.length === 0) throw new Damage('it is empty')
    checkRecords(bytes)
  } catch (error) {
    if (error instanceof Damage) throw new Damage(`${name}: ${error.message}`)
    throw error
  }
}

async function checkTableFile(
  path: string,
  name: string,
  dataBytesLeft: number,
): Promise<{ size: number; whole: boolean }> {
  const file = await open(path, 'r')
  try {
    const { size } = await file.stat()
    const whole = size <= dataBytesLeft
    const all = whole ? await file.readFile() : undefined
    const read: ReadAt = async (offset, length) => {
      if (all !== undefined) return all.subarray(offset, offset + length)
      const into = Buffer.alloc(length)
      const { bytesRead } = await file.read(into, 0, length, offset)
      if (bytesRead < length) throw new Damage('it ends early')
      return into
    }
    await checkTable(read, size, whole)
    return { size, whole }
  } catch (error) {
    // What `DataView` throws at the end of a view is damage too.
    if (error instanceof Damage || error instanceof RangeError) throw new Damage(`${name}: ${error.message}`)
    throw error
  } finally {
    await file.close()
  }
}

/**
 * Checks the LevelDB in `directory`, which nobody has open: CURRENT, the MANIFEST, the frame of every table, and the data of
 * tables as long as those are no more than `dataBytesMax` bytes together. A directory that is missing or empty is sound.
 */
export async function checkLevel(directory: string, dataBytesMax: number): Promise<LevelCheck> {
  let names: string[] = []
  try {
    names = await readdir(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
  let tables = 0
  let bytes = 0
  let unchecked = 0
  try {
    if (!names.some((name) => /^(CURRENT|MANIFEST-\d+|\d+\.(ldb|sst|log))$/.test(name))) {
      return { damage: undefined, tables, bytes, unchecked }
    }
    await checkManifest(directory, names)
    for (const name of names
      .filter((one) => /^\d+\.(ldb|sst)$/.test(one))
      .sort()
      .reverse()) {
      const { size, whole } = await checkTableFile(join(directory, name), name, dataBytesMax - bytes)
      tables++
      if (whole) bytes += size
      else unchecked += size
    }
    return { damage: undefined, tables, bytes, unchecked }
  } catch (error) {
    if (error instanceof Damage) return { damage: error.message, tables, bytes, unchecked }
    throw error
  }
}
