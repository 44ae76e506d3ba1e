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
import { groupHeadBytesMax } from '../../../core/chunk/group.ts'
import type { Checkpoint } from '../../../core/chunk/index-record.ts'
import { firstGroupOffset } from '../../../core/chunk/position.ts'
import type { Sum } from '../../../core/chunk/sums.ts'
import { isStoreError, StoreError } from '../../../model/errors.ts'
import type { ExtentFiles } from '../../../ports/extents.ts'
import type { Kv } from '../../../ports/kv.ts'
import { Checkpointer } from './checkpointer.ts'
import { ChunkIndex } from './chunk-index.ts'
import { ExtentTable } from './extent-table.ts'
import { checkOwner, createIdentity, readIdentity } from './identity-file.ts'
import { Ledger } from './ledger.ts'
import { findLostExtents, type LostExtents } from './lost-extents.ts'
import { LogWriter } from './log-writer.ts'
import { replay, type ReplayResult } from './replay.ts'
import { Space } from './space.ts'
import type { DiskDeps, DiskGate, DiskOptions } from './types.ts'

const indexName = 'index'
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
  readonly clean: boolean
  readonly rebuilt: boolean
  readonly replayed: ReplayResult
  /** Extents whose files are gone or were cut off while nobody looked. */
  readonly lost: LostExtents
  /** True when the index may name places that are not there: it has to be looked through. */
  readonly suspicious: boolean
}

async function openIndex(deps: DiskDeps, path: string): Promise<{ kv: Kv; lost: boolean }> {
  try {
    return { kv: await deps.kv.open(indexName), lost: false }
  } catch (error) {
    if (isStoreError(error) && error.code === 'LOCKED') {
      const message = `disk ${path} is in use by another process: stop that one or use another directory`
      throw new StoreError('LOCKED', message, { cause: error })
    }
    if (!isStoreError(error) || error.code !== 'CORRUPT') throw error
    deps.log.error('index does not open, rebuilding it from the log', { disk: path, reason: error.message })
    await deps.kv.destroy(indexName)
    return { kv: await deps.kv.open(indexName), lost: true }
  }
}

interface IndexState {
  readonly index: ChunkIndex
  /** Undefined when there is nothing to go by: a new disk, or a lost index. */
  readonly checkpoint: Checkpoint | undefined
  readonly live: Map<number, number>
  readonly rebuilt: boolean
}

async function loadIndex(deps: DiskDeps, path: string, sum: Sum, numbers: readonly number[]): Promise<IndexState> {
  const { kv, lost } = await openIndex(deps, path)
  const index = new ChunkIndex(kv, sum)
  const checkpoint = await index.checkpoint()
  const live = await index.liveBytes()
  if (checkpoint !== undefined && checkpoint !== 'damaged' && live !== undefined) {
    return { index, checkpoint, live, rebuilt: false }
  }
  const rebuilt = lost || numbers.length > 0
  if (!rebuilt || lost) return { index, checkpoint: undefined, live: new Map(), rebuilt }
  deps.log.error('index has no valid checkpoint, rebuilding it from the log', { disk: path })
  await index.close()
  await deps.kv.destroy(indexName)
  const fresh = new ChunkIndex(await deps.kv.open(indexName), sum)
  return { index: fresh, checkpoint: undefined, live: new Map(), rebuilt }
}

async function sizeOf(extents: ExtentFiles, number: number): Promise<number> {
  const file = await extents.open(number)
  const { size } = file
  await file.close()
  return size
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
    else table.addFree(number, await sizeOf(deps.extents, number))
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

/** True when numbers are left out: a file that the log went through may be gone. */
function hasGap(extents: readonly number[]): boolean {
  return extents.some((number, i) => i > 0 && number !== (extents[i - 1] ?? 0) + 1)
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
  const state = await loadIndex(deps, path, sum, numbers)
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
  const { index, checkpoint, live, rebuilt } = state
  const identity = found ?? (await createIdentity(deps.files, deps.entropy, sum))
  const diskId = fromHex(identity.diskId)
  assert(diskId !== undefined, 'a disk id is hex')
  const space = new Space(deps.extents, deps.clock)
  await space.refresh()
  const { extentBytes, reserveBytes } = options
  const table = new ExtentTable(deps.extents, { extentBytes, reserveBytes, diskId }, space, deps.entropy, sum)
  const ledger = new Ledger(checkpoint?.chunks ?? 0, live)
  const extents = await sortExtents(deps, table, state, numbers)
  const from = { extent: checkpoint?.extent ?? 0, offset: checkpoint?.offset ?? firstGroupOffset }
  const wanted = new Set([...live.keys(), ...extents])
  if (from.extent > 0) wanted.add(from.extent)
  const lost = await findLostExtents(deps.extents, table, wanted, extentBytes)
  const chain = rebuilt ? undefined : (checkpoint?.chain.slice() ?? new Uint8Array(8))
  const replayed = checkpoint?.clean
    ? { end: from, chain: chain ?? new Uint8Array(8), groups: 0, damage: [], suspects: [], torn: false }
    : await replay({ table, index, ledger, sum }, { from, chain, extents })
  await freeBeyond(deps, table, replayed.end.extent, extents)

  const checkpointer = new Checkpointer({ index, ledger, table, gate, clock: deps.clock }, replayed.end, replayed.chain)
  for (const number of numbers) if (number < replayed.end.extent) checkpointer.emptied(number)
  await checkpointer.save(false)
  await table.trim()
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
      idleMs: options.idleMs ?? idleMsDefault,
    },
    await activeExtent(table, replayed.end.extent),
    replayed.end,
    replayed.chain,
  )
  const suspicious = lost.size > 0 || replayed.damage.length > 0 || hasGap(extents)
  const clean = checkpoint?.clean ?? !rebuilt
  return { identity, index, ledger, table, checkpointer, log, space, clean, rebuilt, replayed, lost, suspicious }
}

/** The extent that the log goes on in; undefined when it is missing, cut off, or its header is damaged: a new one is begun. */
async function activeExtent(table: ExtentTable, sequence: number) {
  const held = await table.hold(sequence)
  if (held?.header !== undefined && held.header.size <= held.file.size) return held
  held?.release()
  return undefined
}
