/**
 * Health of one disk from what its I/O does: results, errors, how long the oldest one in flight has been waiting.
 *
 * ok -> suspect: `errorsSuspect` different places could not be read within `errorWindowMs`, or an I/O took longer than
 * `suspectMs`. suspect -> ok: no error left in the window, no slow I/O for `calmMs` (two thresholds, so that it cannot
 * flap). Anything -> read-only: the filesystem refuses writes (EROFS), or a sync or a write of the index found it full,
 * which cannot be taken back. Anything -> failed: a write or a sync failed otherwise, an I/O did not return within
 * `failMs`, or what was synced reads back wrong.
 *
 * Why read errors never make a disk failed: a failed disk is not read any more, and a dying one may hold the last copy of
 * something. What it cannot read is quarantined and repaired chunk by chunk; it gets nothing new. Why one failed sync
 * does: the kernel reports it once and drops the pages, so the next one succeeds and proves nothing. Why a full filesystem
 * is no state at all: puts are refused, the rest goes on, and it ends by itself.
 *
 * Pure: time is an argument. Out of read-only and failed leads nothing but a new start of the process.
 */

import { Histogram, latencyBounds } from '../../base/histogram.ts'
import type { DiskState } from '../../model/words.ts'

/** What an I/O was: of the extent log, or a read (`lookup`) or write (`index`) of the index, which syncs when it pleases. */
export type IoKind = 'read' | 'write' | 'sync' | 'lookup' | 'index'

/** What an I/O error means. `other`: not the disk's doing (no memory, no descriptors left). */
export type IoErrorClass = 'full' | 'read-only' | 'io' | 'other'

export interface DiskHealthTimes {
  /** An I/O that takes longer makes the disk suspect. */
  readonly suspectMs: number
  /** An I/O that has not returned after so long never will, as far as we are concerned. */
  readonly failMs: number
}

/** 30 s is the time after which Linux itself takes a command of a disk for lost and resets it. */
export const diskHealthTimes: DiskHealthTimes = { suspectMs: 5000, failMs: 30_000 }

/** Read errors are forgotten after so long. */
export const errorWindowMs: number = 10 * 60_000
/** One or two places that cannot be read are what any large disk has; a third within the window is a pattern. */
export const errorsSuspect = 3
/** Quiet time after which a disk that was slow is ok again. */
export const calmMs = 60_000
/** Places kept: what is more changes nothing. */
const placesMax = 64
/** Latency figures are of the last minute, in slices. */
const sliceMs = 10_000
const slices = 6
const figureQuantile = 0.9

/** What the node tells of a disk's speed, in milliseconds: nine in ten were quicker; 0 when there were none. */
export interface DiskFigures {
  readonly syncMs: number
  readonly readMs: number
  /** Errors of any kind within the window. */
  readonly errors: number
}

/** What the system calls an error, by its code or its words: LevelDB gives only words. */
export function ioErrorClass(error: unknown): IoErrorClass {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const code = (at as { code?: unknown }).code
    if (code === 'NO_SPACE' || code === 'ENOSPC' || code === 'EDQUOT') return 'full'
    if (code === 'EROFS' || /read-only file ?system/i.test(at.message)) return 'read-only'
    if (code === 'EMFILE' || code === 'ENFILE' || code === 'ENOMEM' || code === 'EAGAIN') return 'other'
  }
  return 'io'
}

const doing: Readonly<Record<IoKind, string>> = {
  read: 'reading',
  write: 'writing',
  sync: 'syncing',
  lookup: 'reading the index',
  index: 'writing the index',
}

class Latencies {
  readonly #slices: { readonly startMs: number; readonly histogram: Histogram }[] = []

  add(ms: number, nowMs: number): void {
    const last = this.#slices.at(-1)
    if (last !== undefined && nowMs - last.startMs < sliceMs) last.histogram.observe(ms / 1000)
    else {
      const histogram = new Histogram(latencyBounds)
      histogram.observe(ms / 1000)
      this.#slices.push({ startMs: nowMs, histogram })
    }
    this.#forget(nowMs)
  }

  #forget(nowMs: number): void {
    while ((this.#slices[0]?.startMs ?? nowMs) + slices * sliceMs <= nowMs) this.#slices.shift()
  }

  figureMs(nowMs: number): number {
    this.#forget(nowMs)
    const sum = new Histogram(latencyBounds)
    for (const { histogram } of this.#slices) sum.merge(histogram)
    return (sum.quantile(figureQuantile) ?? 0) * 1000
  }
}

export class DiskHealth {
  readonly #times: DiskHealthTimes
  readonly #syncs = new Latencies()
  readonly #reads = new Latencies()
  /** When each place could not be read last, oldest first. */
  readonly #places = new Map<string, number>()
  /** When errors of other kinds came. */
  #otherErrors: number[] = []
  #erring = false
  #slowUntilMs = Number.NEGATIVE_INFINITY
  #slowReason = ''
  #final: { readonly state: 'read-only' | 'failed'; readonly reason: string } | undefined

  constructor(times: DiskHealthTimes = diskHealthTimes) {
    this.#times = times
  }

  /** The state and, unless it is ok, one line that says why. */
  verdict(nowMs: number): { readonly state: DiskState; readonly reason: string } {
    if (this.#final !== undefined) return this.#final
    this.#forget(nowMs)
    if (this.#places.size === 0) this.#erring = false
    if (this.#places.size >= errorsSuspect) this.#erring = true
    if (this.#erring) {
      const minutes = Math.round(errorWindowMs / 60_000)
      return { state: 'suspect', reason: `${this.#places.size} places could not be read within ${minutes} minutes` }
    }
    if (nowMs < this.#slowUntilMs) return { state: 'suspect', reason: this.#slowReason }
    return { state: 'ok', reason: '' }
  }

  /** An I/O came back after `ms`. */
  done(kind: IoKind, ms: number, nowMs: number): void {
    if (kind === 'sync') this.#syncs.add(ms, nowMs)
    if (kind === 'read') this.#reads.add(ms, nowMs)
    if (ms > this.#times.suspectMs) this.#slow(kind, ms, nowMs)
  }

  /** The oldest I/O in flight has been waiting for `ms` of the process's running time. */
  waiting(kind: IoKind, ms: number, nowMs: number): void {
    if (ms >= this.#times.failMs) this.fail(`${doing[kind]}: no answer within ${seconds(ms)}`)
    else if (ms > this.#times.suspectMs) this.#slow(kind, ms, nowMs)
  }

  #slow(kind: IoKind, ms: number, nowMs: number): void {
    this.#slowUntilMs = nowMs + calmMs
    this.#slowReason = `${doing[kind]} took ${seconds(ms)}`
  }

  /** An I/O failed. `place` tells one spot of the disk from another. */
  error(kind: IoKind, error: IoErrorClass, words: string, place: string, nowMs: number): void {
    this.#forget(nowMs)
    if (kind === 'read' || kind === 'lookup') {
      if (error === 'other') return
      this.#places.delete(place)
      if (this.#places.size < placesMax) this.#places.set(place, nowMs)
      return
    }
    // What such a write of the log was to be is taken back, and nothing is wrong with the disk.
    if (kind === 'write' && (error === 'full' || error === 'other')) return
    if (this.#otherErrors.length < placesMax) this.#otherErrors.push(nowMs)
    const why = `${doing[kind]}: ${words}`
    if (error === 'read-only' || error === 'full') this.#refuseWrites(why)
    else this.fail(why)
  }

  #refuseWrites(reason: string): void {
    this.#final ??= { state: 'read-only', reason }
  }

  /** The disk is finished, whatever it was before. */
  fail(reason: string): void {
    if (this.#final?.state !== 'failed') this.#final = { state: 'failed', reason }
  }

  figures(nowMs: number): DiskFigures {
    this.#forget(nowMs)
    return {
      syncMs: this.#syncs.figureMs(nowMs),
      readMs: this.#reads.figureMs(nowMs),
      errors: this.#places.size + this.#otherErrors.length,
    }
  }

  #forget(nowMs: number): void {
    for (const [place, atMs] of this.#places) {
      if (nowMs < atMs + errorWindowMs) break
      this.#places.delete(place)
    }
    this.#otherErrors = this.#otherErrors.filter((atMs) => nowMs < atMs + errorWindowMs)
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`
}
