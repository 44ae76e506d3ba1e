/**
 * Manifests: the chunks of one object version, in pages, shared by every object that is a copy of it.
 *
 * A manifest is `staging` while its upload runs, `committed` while objects name it, `dropping` in the trash. Its chunks
 * are referenced in all three; pages leave the trash one entry at a time, so no command touches more records than a
 * page has (docs/RULES.md, rule 11). An upload lives by the lease of its latest page: a large one outlasts the ids of
 * many leases.
 *
 * Invariants: every page but the last holds `limits.pageChunksMax` chunks; a staging manifest is listed under its lease;
 * a dropping one is in the trash under its `trashedMs`; a committed one has at least one reference.
 */

import { assert } from '../../base/assert.ts'
import { equalBytes } from '../../base/bytes.ts'
import { limits } from '../../model/limits.ts'
import type { CommitId, LeaseId } from '../../model/ids.ts'
import type { WriteConcern } from '../../model/words.ts'
import { type Intake, takeChunk } from './acks.ts'
import { dropReference } from './chunks.ts'
import type { CommittedChunk } from './commands.ts'
import { keys } from './keys.ts'
import { countUploads, leaseIsOpen, openLease } from './leases.ts'
import { type ManifestRecord, manifestRecord, type PageChunk, pageRecord, trashRecord } from './records.ts'
import { demand, refuse } from './refuse.ts'
import { noValue, type Transaction } from './view.ts'

/** Pages of one manifest: 65,536 pages of 512 chunks hold 128 TiB of 4 MiB chunks. */
export const manifestPagesMax = 65_536

/** In an object without chunks, which needs no manifest since cluster version 2. */
const noManifest = '0'.repeat(32)
const bareObjectsVersion = 2

/** The manifest that an object without chunks names: its own, as it always had, or none. */
export function bareManifest(tx: Transaction, id: string): string {
  return tx.cluster().version < bareObjectsVersion ? id : noManifest
}

/** True when the object names a manifest that is there. */
export function hasManifest(object: { readonly manifest: string; readonly chunks: number }): boolean {
  return object.chunks > 0 || object.manifest !== noManifest
}

/** Cluster version from which the pages of an upload may come from several leases. */
const manyLeasesVersion = 2

/** One page of an upload as its writer sends it. */
interface StagedPage {
  readonly commitId: CommitId
  readonly lease: LeaseId
  readonly page: number
  readonly chunks: readonly CommittedChunk[]
  readonly copies: number
  readonly concern: WriteConcern
}

export function getManifest(tx: Transaction, id: string): ManifestRecord | undefined {
  return tx.get(keys.manifest(id), manifestRecord)
}

export function putManifest(tx: Transaction, id: string, record: ManifestRecord): void {
  tx.put(keys.manifest(id), manifestRecord, record)
}

/** Takes one page of a large object; the same page again is answered the same. */
export function stagePage(tx: Transaction, staged: StagedPage): void {
  const { commitId, page } = staged
  demand(
    staged.chunks.length >= 1,
    `page ${page} of upload ${commitId} has no chunk: send 1 to ${limits.pageChunksMax}`,
  )
  demand(
    staged.chunks.length <= limits.pageChunksMax,
    `page ${page} of upload ${commitId} has too many chunks: send 1 to ${limits.pageChunksMax}`,
  )
  demand(page < manifestPagesMax, `page ${page} of upload ${commitId} is too high: use less than ${manifestPagesMax}`)
  const before = getManifest(tx, commitId)
  if (before !== undefined && page < before.pages) {
    if (samePage(tx, commitId, page, staged.chunks)) return
    refuse('CONFLICT', `page ${page} of upload ${commitId} was staged with other chunks: start a new upload`)
  }
  const lease = openLease(tx, staged.lease)
  const moves = before !== undefined && before.lease !== staged.lease
  if (before !== undefined && (before.state !== 'staging' || (moves && tx.cluster().version < manyLeasesVersion))) {
    refuse('CONFLICT', `upload ${commitId} is not open under this lease: start a new upload`)
  }
  if (moves) openLease(tx, before.lease)
  const pages = before?.pages ?? 0
  demand(page === pages, `page ${page} of upload ${commitId} leaves a gap: send page ${pages} first`)
  demand(
    before === undefined || before.chunks === page * limits.pageChunksMax,
    `upload ${commitId} had its last page: only the last may hold fewer than ${limits.pageChunksMax} chunks`,
  )
  const intake: Intake = { ...staged, leaseId: staged.lease, lease, pin: false, disks: new Map() }
  const taken = takePage(tx, commitId, page, staged.chunks, intake)
  if (moves) closeUpload(tx, commitId, before)
  if (before === undefined || moves) {
    countUploads(tx, staged.lease, 1)
    tx.put(keys.upload(staged.lease, commitId), noValue, true)
  }
  putManifest(tx, commitId, {
    state: 'staging',
    references: 0,
    pages: pages + 1,
    chunks: (before?.chunks ?? 0) + staged.chunks.length,
    size: (before?.size ?? 0) + taken.size,
    lease: staged.lease,
    trashedMs: 0,
    durable: Math.min(before?.durable ?? taken.durable, taken.durable),
  })
}

function samePage(tx: Transaction, manifest: string, page: number, chunks: readonly CommittedChunk[]): boolean {
  const stored = tx.get(keys.page(manifest, page), pageRecord)
  return (
    stored !== undefined &&
    stored.length === chunks.length &&
    stored.every((one, i) => {
      const other = chunks[i]
      return other !== undefined && one.id === other.id && equalBytes(one.root, other.root)
    })
  )
}

/** Stores a page and takes its chunks; answers their size together and the least counted copies. */
export function takePage(
  tx: Transaction,
  manifest: string,
  page: number,
  chunks: readonly CommittedChunk[],
  intake: Intake,
): { readonly size: number; readonly durable: number } {
  let durable = Number.MAX_SAFE_INTEGER
  let size = 0
  const entries: PageChunk[] = []
  for (const chunk of chunks) {
    durable = Math.min(durable, takeChunk(tx, chunk, intake))
    size += chunk.length
    entries.push({ id: chunk.id, length: chunk.length, root: chunk.root })
  }
  tx.put(keys.page(manifest, page), pageRecord, entries)
  return { size, durable }
}

/** One object less names the manifest; the last one sends it to the trash. */
export function releaseManifest(tx: Transaction, id: string): void {
  const manifest = getManifest(tx, id)
  assert(manifest !== undefined && manifest.references > 0, `manifest ${id} of an object is committed`)
  const references = manifest.references - 1
  if (references > 0) putManifest(tx, id, { ...manifest, references })
  else trashManifest(tx, id, manifest)
}

function trashManifest(tx: Transaction, id: string, manifest: ManifestRecord): void {
  if (manifest.pages === 0) {
    tx.del(keys.manifest(id))
    return
  }
  putManifest(tx, id, { ...manifest, references: 0, state: 'dropping', trashedMs: tx.nowMs })
  tx.put(keys.trash(tx.nowMs, id), trashRecord, { nextPage: 0 })
  tx.effect({ kind: 'trash', manifest: id, sinceMs: tx.nowMs })
}

/** Gives up an upload whose lease has expired. Ignored when it was committed or given up meanwhile. */
export function abortUpload(tx: Transaction, id: string): void {
  const manifest = getManifest(tx, id)
  if (manifest === undefined || manifest.state !== 'staging') return
  if (leaseIsOpen(tx, manifest.lease)) {
    refuse('CONDITION_FAILED', `upload ${id} belongs to an open lease: expire the lease first`)
  }
  closeUpload(tx, id, manifest)
  trashManifest(tx, id, manifest)
}

/** The upload is no longer staging: its lease forgets it. */
export function closeUpload(tx: Transaction, id: string, manifest: ManifestRecord): void {
  tx.del(keys.upload(manifest.lease, id))
  countUploads(tx, manifest.lease, -1)
}

/** Drops the references of one page of a trashed manifest; the last page takes the manifest with it. */
export function dropPage(tx: Transaction, id: string, page: number): void {
  const manifest = getManifest(tx, id)
  if (manifest === undefined || manifest.state !== 'dropping') return
  const trashKey = keys.trash(manifest.trashedMs, id)
  const trash = tx.get(trashKey, trashRecord)
  assert(trash !== undefined, `manifest ${id} that is dropping is in the trash`)
  if (trash.nextPage !== page) return
  const chunks = tx.get(keys.page(id, page), pageRecord)
  assert(chunks !== undefined, `page ${page} of manifest ${id} is there until it is dropped`)
  for (const chunk of chunks) dropReference(tx, chunk.id, manifest.trashedMs)
  tx.del(keys.page(id, page))
  if (page + 1 < manifest.pages) {
    tx.put(trashKey, trashRecord, { nextPage: page + 1 })
    tx.effect({ kind: 'trash', manifest: id, sinceMs: manifest.trashedMs })
    return
  }
  tx.del(trashKey)
  tx.del(keys.manifest(id))
}
