/**
 * Puts a disk together at the start: identity, lock, index, replay, first checkpoint.
 *
 * Order matters: the identity is checked before anything is opened for writing; the index's lock is taken before anything
 * is written; everything beyond the believed end of the log is made unreadable before the first append; and a synced
 * checkpoint that says "not stopped in order" is down before that too.
 */

import { fromHex } from '../../../base/bytes.ts'
import { assert } from '../../../base/assert.ts'
import type { DiskIdentity } from '../../../core/chunk/identity.ts'
import { ExtentRanking } from '../../../core/chunk/compaction.ts'
import { decodeGroupHeader, groupHeadBytesMax } from '../../../core/chunk/group.ts'
import { firstGroupOffset, type Position, sectorBytes } from '../../../core/chunk/position.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { ChunkId } from '../../../model/ids.ts'
import { limits } from '../../../model/limits.ts'
import { Checkpointer } from './checkpointer.ts'
import type { ChunkIndex } from './chunk-index.ts'
import { ExtentTable } from './extent-table.ts'
import { checkOwner, createIdentity, readIdentity } from './identity-file.ts'
import { Ledger } from './ledger.ts'
import { type IndexGuard, type IndexState, loadIndex, rebuildDone } from './index-state.ts'
import { findLostExtents, type LostExtents } from './lost-extents.ts'
import { LogWriter, urgentTailBytes } from './log-writer.ts'
import { replay, type ReplayResult } from './replay.ts'
import { Space } from './space.ts'
import type { DiskDeps, DiskGate, DiskOptions } from './types.ts'

const idleMsDefault = 1000

/** A disk that is ready to serve, in parts. */
export interface DiskParts {
  readonly identity: DiskIdentity
  readonly index: ChunkIndex
  readonly ledger: Ledger
  readonly table: ExtentTable
  readonly checkpointer: Checkpointer
  readonly log: LogWriter
  readonly space: Space
  /** Highest id that is held, 0 when none is. */
  readonly idMax: ChunkId
  /** Where the index's reads say that LevelDB calls them corrupt. */
  readonly guard: IndexGuard
  readonly clean: boolean
  /** The index was rebuilt from the log, now or since meta last registered the disk. */
  readonly rebuilt: boolean
  readonly replayed: ReplayResult
  /** Extents whose files are gone or were cut off while nobody looked. */
  readonly lost: LostExtents
  /** True when the index may name places that are not there: it has to be looked through. */
  readonly suspicious: boolean
}

/** Tells the table which files hold records and which are free. Gives those that replay has to look at. */
async function sortExtents(
  deps: DiskDeps,
  table: ExtentTable,
  state: IndexState,
  numbers: readonly number[],
): Promise<number[]> {
  const from = state.checkpoint?.extent ?? 0
  const toReplay: number[] = []
  for (const number of numbers) {
    table.reserveSequence(number)
    if (number >= from) toReplay.push(number)
    if (number >= from || state.live.has(number)) table.addUsed(number)
    else table.addFree(number, (await deps.extents.sizeOf(number)) ?? 0)
  }
  table.reserveSequence(from)
  return toReplay
}

/**
 * Extents beyond the end of the log are free. They get new numbers at once, which their headers do not name: nothing in
 * them is believed any more, whatever happens before they are written again.
 */
async function freeBeyond(deps: DiskDeps, table: ExtentTable, end: number, numbers: readonly number[]): Promise<void> {
  let next = Math.max(end, ...numbers) + 1
  for (const number of numbers) {
    if (number <= end) continue
    const size = await table.forget(number)
    await deps.extents.rename(number, next)
    table.addFree(next, size)
    next++
  }
}

/** Opens or creates the disk. See openDisk for what it throws. */
export async function assembleDisk(deps: DiskDeps, options: DiskOptions, gate: DiskGate, sum: Sum): Promise<DiskParts> {
  const { path } = options
  const found = await readIdentity(deps.files, path, sum)
  if (found !== undefined && options.nodeId !== undefined) checkOwner(path, found, options.nodeId)
  const numbers = (await deps.extents.list()).sort((a, b) => a - b)
  if (found === undefined && numbers.length > 0) {
    const message = `disk ${path} has extents and no identity file: restore the file or give an empty directory`
    throw new StoreError('CORRUPT', message)
  }
  const asked = options.rebuildIndex === true ? 'it was asked for' : undefined
  const state = await loadIndex(deps, path, sum, numbers.length > 0, asked)
  try {
    return await assembleWithIndex(deps, options, gate, sum, { found, numbers, state })
  } catch (error) {
    await state.index.close().catch(() => undefined)
    if (state.rebuilt || !isStoreError(error) || error.code !== 'CORRUPT') throw error
    return assembleAnew(deps, options, gate, sum, error.message)
  }
}

/** Once more, with the index made from the log: damage in it showed only when it was used. */
async function assembleAnew(deps: DiskDeps, options: DiskOptions, gate: DiskGate, sum: Sum, reason: string) {
  const found = await readIdentity(deps.files, options.path, sum)
  const numbers = (await deps.extents.list()).sort((a, b) => a - b)
  const state = await loadIndex(deps, options.path, sum, numbers.length > 0, reason)
  try {
    return await assembleWithIndex(deps, options, gate, sum, { found, numbers, state })
  } catch (error) {
    await state.index.close().catch(() => undefined)
    throw error
  }
}

interface Found {
  readonly found: DiskIdentity | undefined
  readonly numbers: readonly number[]
  readonly state: IndexState
}

async function assembleWithIndex(
  deps: DiskDeps,
  options: DiskOptions,
  gate: DiskGate,
  sum: Sum,
  { found, numbers, state }: Found,
): Promise<DiskParts> {
  const identity = found ?? (await createIdentity(deps.files, deps.entropy, sum))
  const diskId = fromHex(identity.diskId)
  assert(diskId !== undefined, 'a disk id is hex')
  const space = new Space(deps.extents, deps.clock)
  await space.refresh()
  const { extentBytes, reserveBytes } = options
  const table = new ExtentTable(deps.extents, { extentBytes, reserveBytes, diskId }, space, deps.entropy, sum)
  const payloadMax = Math.min(limits.chunkBytesMax + sectorBytes + urgentTailBytes, extentBytes / 2 + extentBytes / 16)
  try {
    return await assembleOver(deps, options, gate, sum, { numbers, state, table, space, payloadMax, identity })
  } catch (error) {
    // Whoever tries again opens the files anew.
    await table.close()
    throw error
  }
}

interface Begun {
  readonly numbers: readonly number[]
  readonly state: IndexState
  readonly table: ExtentTable
  readonly space: Space
  readonly payloadMax: number
  readonly identity: DiskIdentity
}

async function assembleOver(
  deps: DiskDeps,
  { extentBytes, idleMs }: DiskOptions,
  gate: DiskGate,
  sum: Sum,
  { numbers, state, table, space, payloadMax, identity }: Begun,
): Promise<DiskParts> {
  const { index, checkpoint, live, rebuilt } = state
  const ledger = new Ledger(checkpoint?.chunks ?? 0, live, new ExtentRanking(payloadMax))
  const extents = await sortExtents(deps, table, state, numbers)
  const from = { extent: checkpoint?.extent ?? 0, offset: checkpoint?.offset ?? firstGroupOffset }
  const inUse = [...live].flatMap(([extent, bytes]) => (bytes > 0 ? [extent] : []))
  const wanted = new Set([...inUse, ...extents])
  if (from.extent > 0) wanted.add(from.extent)
  const lost = await findLostExtents(deps.extents, table, wanted, extentBytes)
  const chain = rebuilt ? undefined : (checkpoint?.chain.slice() ?? new Uint8Array(8))
  const stopped = checkpoint?.clean === true && !(await goesOn(table, from, extents, sum))
  const replayed = stopped
    ? { end: from, chain: chain ?? new Uint8Array(8), groups: 0, damage: [], suspects: [], torn: false }
    : await replay({ table, index, ledger, sum }, { from, chain, extents })
  await freeBeyond(deps, table, replayed.end.extent, extents)
  // Records are missing that later ones free: what the log says of the books does not add up any more.
  if (replayed.damage.length > 0 || lost.size > 0) ledger.recount(await index.recount())

  const checkpointer = new Checkpointer({ index, ledger, table, gate, clock: deps.clock }, replayed.end, replayed.chain)
  await openBooks(deps, { index, ledger, table, checkpointer }, numbers, replayed.end.extent)
  await checkpointer.save(false)
  if (rebuilt) await rebuildDone(deps.files)
  const idMax = await index.highest()
  await table.trim()
  const active = await activeExtent(table, replayed.end.extent)
  if (active === undefined) await sealExtent(deps, { index, ledger, table, checkpointer }, replayed.end.extent)
  const log = new LogWriter(
    {
      table,
      index,
      ledger,
      checkpointer,
      gate,
      clock: deps.clock,
      metrics: deps.metrics,
      sum,
      packing: deps.extents.arena(groupHeadBytesMax),
      salt: deps.entropy.bytes(8),
      idleMs: idleMs ?? idleMsDefault,
    },
    active,
    replayed.end,
    replayed.chain,
  )
  // A file that is gone from the middle of the log breaks its chain, which is damage.
  const suspicious = lost.size > 0 || replayed.damage.length > 0
  const clean = stopped || (checkpoint === undefined && !rebuilt)
  const books = { index, ledger, table, checkpointer, log, space, idMax, guard: state.guard }
  return { ...books, identity, clean, rebuilt: rebuilt || state.unreported, replayed, lost, suspicious }
}

/**
 * True when the log has groups behind a place that a checkpoint calls its end. Then that is an earlier checkpoint, and the
 * index lost a later one: LevelDB drops records of its own log that do not check out.
 */
async function goesOn(table: ExtentTable, from: Position, extents: readonly number[], sum: Sum): Promise<boolean> {
  const sector = new Uint8Array(sectorBytes)
  for (const extent of extents) {
    const held = await table.hold(extent)
    if (held === undefined) continue
    try {
      const offset = extent === from.extent ? from.offset : firstGroupOffset
      const nonce = held.header?.nonce
      if (nonce === undefined || (await held.file.read(sector, offset)) < sectorBytes) continue
      if (decodeGroupHeader(sector, { extent, offset }, nonce, sum) !== undefined) return true
    } finally {
      held.release()
    }
  }
  return false
}

type Books = Pick<DiskParts, 'index' | 'ledger' | 'table' | 'checkpointer'>

/** Enters the extents that the log has left, and looks which of them are empty. */
async function openBooks(deps: DiskDeps, books: Books, numbers: readonly number[], end: number): Promise<void> {
  const { index, ledger, table } = books
  ledger.setPinned(await index.quarantinedBytes())
  const files = new Set(numbers)
  // Files that were recycled after the last checkpoint.
  for (const extent of ledger.extents())
    if (extent < end && !files.has(extent) && ledger.liveBytes(extent) === 0) ledger.retired(extent)
  for (const number of table.sequences(0, end - 1)) await sealExtent(deps, books, number)
}

async function sealExtent(deps: DiskDeps, { ledger, checkpointer }: Books, number: number): Promise<void> {
  ledger.tombstones.unknown(number)
  const size = await deps.extents.sizeOf(number)
  if (size !== undefined) ledger.seal(number, size, undefined)
  checkpointer.emptied(number)
}

/** The extent that the log goes on in; undefined when it is missing, cut off, or its header is damaged: a new one is begun. */
async function activeExtent(table: ExtentTable, sequence: number) {
  const held = await table.hold(sequence)
  if (held?.header !== undefined && held.header.size <= held.file.size) return held
  held?.release()
  return undefined
}
