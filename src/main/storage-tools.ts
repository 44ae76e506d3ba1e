/**
 * `holdfast storage inspect` and `holdfast storage rebuild-index`: one disk of a storage node, while no node runs on it.
 *
 * Inspecting changes no byte of the disk (src/drivers/disk-reader.ts). The exit code is the verdict: 0 sound, 6 damaged; a
 * disk that cannot be looked at has the code of its error (3 no disk there, 1 locked, newer format or unreadable).
 */

import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { toHex } from '../base/bytes.ts'
import { createNodeClock } from '../drivers/clock-node.ts'
import { openIndexShadow, readExtentFiles } from '../drivers/disk-reader.ts'
import { createNodeEntropy } from '../drivers/entropy-node.ts'
import { openExtentFiles } from '../drivers/extents-node.ts'
import { createFiles } from '../drivers/files-node.ts'
import { createXxHasher } from '../drivers/hasher-xxhash.ts'
import { createLevelFactory } from '../drivers/kv-level.ts'
import { createJsonLog } from '../drivers/log-json.ts'
import { createTextMetrics } from '../drivers/metrics-text.ts'
import { plural, showBytes, table } from '../faces/cli/format.ts'
import { StoreError } from '../model/errors.ts'
import { formatChunkId, parseChunkId } from '../model/ids.ts'
import { quote } from '../model/names.ts'
import {
  type ChunkInspection,
  type DiskInspection,
  inspectChunk,
  inspectDisk,
} from '../services/storage/engine/inspect.ts'
import { rebuildIndex, type RebuildReport } from '../services/storage/engine/rebuild.ts'

/** Of an extent that a rebuild has to begin when the disk has none: only notes of damage go there. */
const extentBytesSpare = 16 * 1024 * 1024

export interface InspectFlags {
  /** False: payloads are not read. */
  readonly payload?: boolean
  readonly chunk?: string
  readonly json?: boolean
}

export interface RebuildFlags {
  readonly json?: boolean
}

type Print = (text: string) => void

/** The directory of a disk; throws NOT_FOUND when there is none in it. */
function diskDirectory(dir: string): string {
  const path = resolve(dir)
  if (existsSync(join(path, 'identity'))) return path
  throw new StoreError('NOT_FOUND', `${quote(path)} holds no disk of a storage node: give the directory of one disk`)
}

function showChunk({ id, state, record, finding }: ChunkInspection): string {
  const rows = [
    ['chunk', formatChunkId(id)],
    ['state', finding === undefined ? state : `${state}, damaged: ${finding}`],
  ]
  if (record !== undefined) {
    const { location, length, lease, root } = record
    rows.push(['bytes', `${length}, root ${toHex(root)}, lease ${lease}`])
    rows.push(['place', `extent ${location.extent}, group ${location.group}, payload ${location.payload}`])
  }
  return table([], rows)
}

function chunkJson({ id, state, record, finding }: ChunkInspection): string {
  const { length, lease, location, root } = record ?? {}
  return JSON.stringify({
    chunk: formatChunkId(id),
    state,
    finding,
    length,
    lease,
    root: root === undefined ? undefined : toHex(root),
    location,
  })
}

function showExtents({ extents }: DiskInspection): string {
  const header = [
    'extent',
    'size',
    'state',
    'header',
    'groups',
    'puts',
    'deletes',
    'quarantines',
    'live',
    'kept',
    'dead',
    'damage',
    'torn',
  ]
  const rows = extents.map((one) => [
    String(one.extent),
    showBytes(one.bytes),
    one.state,
    one.header,
    ...[one.groups, one.puts, one.deletes, one.quarantines].map(String),
    ...[one.liveBytes, one.quarantinedBytes, one.deadBytes].map(showBytes),
    String(one.damage),
    String(one.torn),
  ])
  return table(header, rows, header.slice(4))
}

function showDisk(found: DiskInspection, indexFiles: string, payload: boolean): string {
  const { identity, checkpoint, chunks } = found
  const owner = identity.nodeId === undefined ? 'adopted by none yet' : `node ${identity.nodeId}`
  const place = checkpoint === undefined ? 'none' : `extent ${checkpoint.extent}, offset ${checkpoint.offset}`
  const stop = checkpoint === undefined ? '' : checkpoint.clean ? ', stopped in order' : ', not stopped in order'
  const rows = [
    ['disk', identity.diskId],
    ['owner', `${owner}, cluster ${identity.clusterId ?? 'none'}, incarnation ${identity.clusterIncarnation}`],
    ['format', '1'],
    ['checkpoint', place + stop],
    ['next start', found.startReason === '' ? found.start : `${found.start}: ${found.startReason}`],
    ['index', indexFiles],
    [
      'chunks',
      `${chunks.inIndex} in the index, ${chunks.verified} ${payload ? 'verified' : 'small ones verified'}, ${chunks.corrupt} corrupt`,
    ],
    ['quarantined', showBytes(chunks.quarantined)],
    ['log', `${plural(chunks.toReplay, 'group')} behind the checkpoint`],
    ['in index, not in log', String(chunks.inIndexNotInLog)],
    ['in log, not in index', `${chunks.inLogNotInIndex} (deleted, or lost when the verdict says so)`],
  ]
  const lines = [table([], rows), '', showExtents(found), '']
  for (const note of found.notes) lines.push(`note: ${note}`)
  for (const finding of found.findings) lines.push(`damage: ${finding}`)
  lines.push(verdictOf(found))
  return lines.join('\n')
}

function verdictOf({ sound, findingsCount, start }: DiskInspection): string {
  if (sound) return start === 'nothing to do' ? 'sound' : `sound; the next start has to ${start}`
  return `damaged: ${plural(findingsCount, 'finding')}`
}

/**
 * Shows what is on the disk in `dir`. Throws CORRUPT after the report when it is damaged; NOT_FOUND, LOCKED,
 * INCOMPATIBLE_VERSION, IO, USAGE when it cannot be looked at.
 */
export async function runInspect(dir: string, flags: InspectFlags, print: Print): Promise<void> {
  const { payload = true, json = false } = flags
  const chunk = flags.chunk === undefined ? undefined : parseChunkId(flags.chunk)
  if (flags.chunk !== undefined && chunk === undefined)
    throw new StoreError('USAGE', `--chunk ${quote(flags.chunk)} is not a chunk id`)
  const path = diskDirectory(dir)
  const hasher = await createXxHasher()
  const shadow = await openIndexShadow(path, 'index')
  try {
    const sum = (bytes: Uint8Array, out: Uint8Array, at: number): void => hasher.sumInto(bytes, out, at)
    const world = {
      files: createFiles(path),
      extents: readExtentFiles(path),
      kv: shadow.kv,
      indexReason: shadow.reason,
      sum,
    }
    if (chunk !== undefined) {
      const found = await inspectChunk(world, { path, payload }, chunk)
      print(json ? chunkJson(found) : showChunk(found))
      if (found.state === 'not held')
        throw new StoreError('NOT_FOUND', `chunk ${formatChunkId(chunk)} is not on disk ${path}`)
      if (found.finding !== undefined || found.state === 'damaged record') {
        throw new StoreError(
          'CORRUPT',
          `chunk ${formatChunkId(chunk)} on disk ${path} is damaged; start its node, it is repaired from another copy`,
        )
      }
      return
    }
    const found = await inspectDisk(world, { path, payload })
    if (found === undefined) throw new StoreError('NOT_FOUND', `disk ${path}: its identity is gone`)
    const { tables, bytes } = shadow.check
    const files =
      shadow.kv === undefined
        ? `damaged: ${shadow.reason}`
        : `${plural(tables, 'table')}, ${showBytes(bytes)}, all checksums match`
    if (json)
      print(
        JSON.stringify({
          ...jsonOf(found),
          index: { sound: shadow.kv !== undefined, tables, bytes, reason: shadow.reason },
        }),
      )
    else print(showDisk(found, files, payload))
    if (!found.sound) {
      const message = `disk ${path} is damaged (${plural(found.findingsCount, 'finding')}); start its node, what is lost is repaired from other copies`
      throw new StoreError('CORRUPT', message)
    }
  } finally {
    await shadow.close()
  }
}

function jsonOf(found: DiskInspection) {
  const { checkpoint } = found
  return {
    verdict: found.sound ? 'sound' : 'damaged',
    ...found,
    checkpoint: checkpoint === undefined ? undefined : { ...checkpoint, chain: toHex(checkpoint.chain) },
  }
}

function showRebuild({ diskId, groups, chunks, damage, corrupt }: RebuildReport): string {
  const lines = [
    `rebuilt the index of disk ${diskId}: ${plural(chunks, 'chunk')} from ${plural(groups, 'group')} of the log`,
  ]
  for (const { from, to } of damage)
    lines.push(`damage: the log from ${from.extent}:${from.offset} to ${to.extent}:${to.offset}`)
  for (const { id, finding } of corrupt) lines.push(`quarantined: chunk ${formatChunkId(id)}: ${finding}`)
  lines.push(
    'start the node: the disk takes a new generation and reports in full; what it lacks is repaired from other copies',
  )
  return lines.join('\n')
}

/** Makes the index of the disk in `dir` anew from its log. NOT_FOUND, LOCKED, CORRUPT, INCOMPATIBLE_VERSION, IO, NO_SPACE. */
export async function runRebuildIndex(dir: string, flags: RebuildFlags, print: Print): Promise<void> {
  const path = diskDirectory(dir)
  const extents = await openExtentFiles(path)
  const sizes = await Promise.all((await extents.list()).map((number) => extents.sizeOf(number)))
  const deps = {
    files: createFiles(path),
    extents,
    kv: createLevelFactory(path),
    hasher: await createXxHasher(),
    clock: createNodeClock(),
    entropy: createNodeEntropy(),
    log: createJsonLog({ level: 'error' }),
    metrics: createTextMetrics(),
  }
  const extentBytes = Math.max(extentBytesSpare, ...sizes.map((size) => size ?? 0))
  const report = await rebuildIndex(deps, { path, extentBytes, reserveBytes: 0 })
  print(flags.json === true ? JSON.stringify({ rebuilt: true, ...report }) : showRebuild(report))
}
