/**
 * Rot: a small store on the real drivers, one byte of it flipped at a time, and what must hold afterwards.
 *
 * What a flip may do: nothing; be repaired by the disk itself; take a chunk out of service with a report of its id; make
 * the disk refuse to open in one sentence. What it may never do: give a reader a wrong byte, take an acknowledged chunk away
 * without a word, bring the process down, or leave a disk that does not take a repair.
 */

import { existsSync } from 'node:fs'
import { cp, mkdir, open, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createNodeClock } from '../../src/drivers/clock-node.ts'
import { openExtentFiles } from '../../src/drivers/extents-node.ts'
import { createFiles } from '../../src/drivers/files-node.ts'
import { createLevelFactory } from '../../src/drivers/kv-level.ts'
import { isStoreError } from '../../src/model/errors.ts'
import type { Log } from '../../src/ports/log.ts'
import { openDisk } from '../../src/services/storage/engine/disk.ts'
import type { DiskDeps, DiskOptions } from '../../src/services/storage/engine/types.ts'
import type { DiskEngine } from '../../src/services/storage/types.ts'
import { content, get, put, seeded, silentLog, silentMetrics, testHasher } from './disk-world.ts'

const KiB = 1024
/** Where stores are flipped: in memory where the system has a filesystem there, because nothing of this is about fsync. */
export const rotPlace: string = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

/** The smallest extents that take the chunks of the store. */
const extentBytes = 160 * KiB
const sectorBytes = 4096

/** Chunks that were acknowledged and are neither deleted nor quarantined: id and size. */
export const kept: ReadonlyMap<number, number> = new Map([
  [1, 100],
  [2, 3000],
  [3, 17_000],
  [4, 20_000],
  [7, 1],
  [8, 500],
  [9, 30_000],
])
const deletedId = 5
const quarantinedId = 6
const newId = 99

/** The world of a disk in `directory`, with the lines that it logs as errors. */
export async function realDeps(directory: string, errors: string[] = []): Promise<DiskDeps> {
  const random = seeded(7)
  const log: Log = {
    ...silentLog,
    error: (message, fields) => void errors.push(`${message} ${JSON.stringify(fields ?? {})}`),
  }
  return {
    files: createFiles(directory),
    extents: await openExtentFiles(directory),
    kv: createLevelFactory(directory),
    hasher: testHasher,
    clock: createNodeClock(),
    entropy: { bytes: (length: number) => Uint8Array.from({ length }, () => random() * 256), unit: random },
    log,
    metrics: silentMetrics,
  }
}

export function realOptions(directory: string): DiskOptions {
  return { path: directory, nodeId: 's1', extentBytes, reserveBytes: 0, arenaBytes: 256 * KiB }
}

/** Flips the bits of `mask` in the byte at `offset` of the file. */
export async function flip(path: string, offset: number, mask: number): Promise<void> {
  const file = await open(path, 'r+')
  try {
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, offset)
    byte[0] = (byte[0] ?? 0) ^ mask
    await file.write(byte, 0, 1, offset)
  } finally {
    await file.close()
  }
}

async function extentOf(directory: string, payload: Uint8Array): Promise<{ path: string; offset: number }> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith('extent-')) continue
    const offset = (await readFile(join(directory, name))).indexOf(payload)
    if (offset >= 0) return { path: join(directory, name), offset }
  }
  throw new Error('no extent has the payload')
}

async function fill(disk: DiskEngine, from: number, to: number): Promise<void> {
  for (const [id, size] of kept) if (id >= from && id <= to) await put(disk, id, content(id, size))
}

/**
 * Makes the store in `directory`: three lives, so that the index has several tables. `crash`: the last life did not end in
 * order, and the index has to be brought up from the log.
 */
export async function makeStore(directory: string, stop: 'clean' | 'crash'): Promise<void> {
  const live = `${directory}-live`
  await mkdir(live, { recursive: true })
  let disk = await openDisk(await realDeps(live), realOptions(live))
  await disk.adopt('a'.repeat(32), 's1')
  await fill(disk, 1, 3)
  await put(disk, deletedId, content(deletedId, 18_000))
  await put(disk, quarantinedId, content(quarantinedId, 19_000))
  await disk.close()
  const { path, offset } = await extentOf(live, content(quarantinedId, 19_000))
  await flip(path, offset + 5000, 1)
  disk = await openDisk(await realDeps(live), realOptions(live))
  await disk.verify(quarantinedId)
  await disk.delete([deletedId])
  await fill(disk, 4, 7)
  await disk.close()
  disk = await openDisk(await realDeps(live), realOptions(live))
  await fill(disk, 8, 9)
  if (stop === 'clean') await disk.close()
  await cp(live, directory, { recursive: true })
  if (stop === 'crash') await disk.close()
  await rm(live, { recursive: true, force: true })
}

/** Bytes of one kind are protected in one way. */
export type SpotKind = 'index' | 'identity' | 'header' | 'payload' | 'blank'

/** One byte to flip. */
export interface Spot {
  /** Relative to the store. */
  readonly file: string
  readonly offset: number
  readonly mask: number
  readonly kind: SpotKind
}

const masks = [0x01, 0x80, 0x10] as const

/** Spots of an extent, by sectors: a header up to its last byte that is not zero, payload, or nothing. */
function* extentSpots(bytes: Uint8Array): Generator<{ offset: number; kind: SpotKind }> {
  for (let at = 0; at < bytes.length; at += sectorBytes) {
    const sector = bytes.subarray(at, at + sectorBytes)
    const magic = Buffer.from(sector.subarray(0, 4)).toString('latin1')
    const last = sector.findLastIndex((byte) => byte !== 0)
    const payload = last >= 0 && magic !== 'HFEX' && magic !== 'HFGR'
    const used = payload ? sectorBytes : last < 0 ? 0 : last + 1
    for (let i = 0; i < used; i++) yield { offset: at + i, kind: payload ? 'payload' : 'header' }
    if (used < sectorBytes) yield { offset: at + used, kind: 'blank' }
  }
}

/** All bytes of the store; where a sector of an extent is blank, the first blank byte. */
export async function spotsOf(store: string): Promise<Spot[]> {
  const spots: Spot[] = []
  const entries = await readdir(store, { recursive: true, withFileTypes: true })
  for (const entry of entries.filter((one) => one.isFile())) {
    const path = join(entry.parentPath, entry.name)
    const file = path.slice(store.length + 1)
    const bytes = await readFile(path)
    const add = (offset: number, kind: SpotKind): void => {
      spots.push({ file, offset, mask: masks[offset % masks.length] as number, kind })
    }
    if (file.startsWith('extent')) for (const { offset, kind } of extentSpots(bytes)) add(offset, kind)
    else for (let offset = 0; offset < bytes.length; offset++) add(offset, file === 'identity' ? 'identity' : 'index')
  }
  return spots
}

/** What became of a flip. */
export type Outcome = 'untouched' | 'repaired' | 'reported' | 'refused'

async function readAll(disk: DiskEngine, reported: Set<number>, said: () => boolean): Promise<number[]> {
  const gone: number[] = []
  for (const [id, size] of kept) {
    try {
      const bytes = await get(disk, id)
      if (!Buffer.from(bytes).equals(content(id, size))) throw new Error(`chunk ${id}: a reader got wrong bytes`)
      continue
    } catch (error) {
      if (!isStoreError(error)) throw error
      if (error.code !== 'CORRUPT' && error.code !== 'NOT_FOUND')
        throw new Error(`chunk ${id}: ${error.code} ${error.message}`)
    }
    if (!reported.has(id) && !said()) throw new Error(`chunk ${id} is gone and nobody said so`)
    gone.push(id)
  }
  return gone
}

/** Bytes under an id that was deleted or quarantined: none, or the right ones. */
async function checkOthers(disk: DiskEngine): Promise<void> {
  for (const [id, size] of [
    [deletedId, 18_000],
    [quarantinedId, 19_000],
  ] as const) {
    const bytes = await get(disk, id).catch(() => undefined)
    if (bytes !== undefined && !Buffer.from(bytes).equals(content(id, size))) {
      throw new Error(`chunk ${id}: a reader got wrong bytes`)
    }
  }
}

async function life(
  directory: string,
  reported: Set<number>,
  first: boolean,
): Promise<{ gone: number[]; rebuilt: boolean }> {
  const errors: string[] = []
  const disk = await openDisk(await realDeps(directory, errors), realOptions(directory))
  try {
    disk.onCorrupt((id) => reported.add(id))
    const said = (): boolean => errors.some((line) => line.includes('log is damaged below'))
    await readAll(disk, reported, said)
    for (const id of kept.keys()) await disk.verify(id)
    await checkOthers(disk)
    const gone = await readAll(disk, reported, said)
    const listed = (await disk.list(0, 1000, 1000)).ids
    const missing = await disk.missing([...kept.keys()])
    for (const id of kept.keys()) {
      if (!gone.includes(id) && (!listed.includes(id) || missing.includes(id))) {
        throw new Error(`chunk ${id} is read and not listed`)
      }
    }
    if (first) {
      for (const id of gone) await put(disk, id, content(id, kept.get(id) ?? 0), { replace: true })
      await put(disk, newId, content(newId, 200))
    }
    return { gone, rebuilt: disk.rebuilt }
  } finally {
    await disk.close()
  }
}

/** Copies the store to `work`, flips one byte there and lives with it. Throws when a promise is broken. */
export async function flipAndLive(store: string, work: string, spot: Spot): Promise<Outcome> {
  await rm(work, { recursive: true, force: true })
  await cp(store, work, { recursive: true })
  await flip(join(work, spot.file), spot.offset, spot.mask)
  const reported = new Set<number>()
  let found: { gone: number[]; rebuilt: boolean }
  try {
    found = await life(work, reported, true)
  } catch (error) {
    if (!isStoreError(error) || spot.file !== 'identity') throw error
    if (error.code !== 'CORRUPT' && error.code !== 'INCOMPATIBLE_VERSION') throw error
    return 'refused'
  }
  // What was put again, and what is new, stays: the damage does not come back.
  const later = await life(work, new Set(), false)
  if (later.gone.length > 0) throw new Error(`chunks ${later.gone.join(' ')} were repaired and are gone again`)
  reported.delete(quarantinedId)
  if (found.gone.length > 0 || reported.size > 0) return 'reported'
  return found.rebuilt ? 'repaired' : 'untouched'
}

/** Flips the bytes of `spots` one after the other. Gives how many ended how, by kind, and the promises that were broken. */
export async function rotAll(
  store: string,
  work: string,
  spots: readonly Spot[],
): Promise<{ readonly counts: ReadonlyMap<string, number>; readonly broken: readonly string[] }> {
  const counts = new Map<string, number>()
  const broken: string[] = []
  for (const spot of spots) {
    let end: string
    try {
      end = await flipAndLive(store, work, spot)
    } catch (error) {
      end = 'broken'
      const what = error instanceof Error ? error.message : String(error)
      broken.push(`${spot.file} byte ${spot.offset} xor ${spot.mask} (${spot.kind}): ${what}`)
    }
    const key = `${spot.kind} ${end}`
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  return { counts, broken }
}
