/**
 * How fast a disk is scrubbed, and how far behind it is: pure arithmetic over times that are arguments.
 *
 * A pass reads everything that is of use on a disk once. Its rate follows from what is left of it and of its period. An
 * idle disk may run ahead; one with clients gets what the period needs and a bounded share of its time, so that clients
 * come first and a disk without free time falls behind, which shows as debt.
 *
 * The cursor says where a pass is. It is a hint: one that is lost or damaged only repeats work.
 */

import { bool, decode, encode, SchemaError, struct, type TypeOf, uint } from '../../base/schema.ts'
import { equalBytes } from '../../base/bytes.ts'
import { indexKeys } from './keyspace.ts'
import { type Sum, sumBytes, sumOf } from './sums.ts'

export interface ScrubTargets {
  /** A full pass shall take no longer than this. */
  readonly periodMs: number
  /** An idle disk is read at least so fast. */
  readonly rateMin: number
  /** Never faster than this. */
  readonly rateMax: number
}

/** How a pass stands at a moment. Times are wall clock milliseconds. */
export interface PassState {
  readonly startedMs: number
  readonly remainingBytes: number
}

/** Part of the period that a pass is planned for: the rest is slack for busy hours and restarts. */
const planned = 0.9
/** A pass that is late is planned over this part of the period, so that it catches up without a jump to the cap. */
const lateShare = 0.05
/** How much faster than needed an idle disk is read. */
const aheadFactor = 4
/** After a read on a disk with clients, the disk is left alone for so many times as long as the read took. */
const politeness = 3
/** A debt below this part of the period is noise. */
const debtShareMin = 0.01
/** Passes in one period at most: a small disk rests in between. */
const passesPerPeriod = 7
/** Time that has passed cannot be negative, whatever the wall clock did. */
function since(fromMs: number, nowMs: number): number {
  return Math.max(0, nowMs - fromMs)
}

/** Bytes per second that the rest of the pass needs to be done in time. */
export function neededRate({ startedMs, remainingBytes }: PassState, nowMs: number, periodMs: number): number {
  const leftMs = Math.max(periodMs * planned - since(startedMs, nowMs), periodMs * lateShare)
  return (remainingBytes * 1000) / leftMs
}

/** Bytes per second to read at now. `hurried`: a pass that somebody asked for. */
export function scrubRate(targets: ScrubTargets, needed: number, load: { busy: boolean; hurried: boolean }): number {
  const { rateMin, rateMax } = targets
  if (load.hurried) return rateMax
  const wanted = load.busy ? needed : Math.max(rateMin, needed * aheadFactor)
  return Math.min(rateMax, Math.max(1, wanted))
}

/** How long to leave the disk alone after `bytes` were read in `tookMs`. */
export function pauseMs(bytes: number, tookMs: number, rate: number, busy: boolean): number {
  const pacedMs = (bytes * 1000) / rate - tookMs
  return Math.max(0, pacedMs, busy ? tookMs * politeness : 0)
}

/**
 * By how much the pass will be older than the period when it is done, at `rate` bytes per second. On target, and where a rate
 * is too rough to say otherwise, 0.
 */
export function debtMs(pass: PassState, nowMs: number, rate: number, periodMs: number): number {
  const restMs = pass.remainingBytes === 0 ? 0 : (pass.remainingBytes * 1000) / Math.max(1, rate)
  const debt = since(pass.startedMs, nowMs) + restMs - periodMs
  return debt < periodMs * debtShareMin ? 0 : debt
}

/** How long to wait before the next pass when one that began at `startedMs` is done. */
export function restMs(startedMs: number, nowMs: number, periodMs: number): number {
  return Math.max(0, periodMs / passesPerPeriod - since(startedMs, nowMs))
}

/** Bytes per second over about the last `spanMs`, of which the first pieces weigh in full. */
export class RateMeter {
  readonly #spanMs: number
  #rate = 0
  #filledMs = 0
  #lastMs: number | undefined

  constructor(spanMs: number) {
    this.#spanMs = spanMs
  }

  add(bytes: number, nowMs: number): void {
    const lastMs = this.#lastMs
    this.#lastMs = nowMs
    if (lastMs === undefined || nowMs <= lastMs) return
    const tookMs = nowMs - lastMs
    this.#filledMs = Math.min(this.#spanMs, this.#filledMs + tookMs)
    const weight = Math.min(1, tookMs / this.#filledMs)
    this.#rate += ((bytes * 1000) / tookMs - this.#rate) * weight
  }

  /** The figure is of no use any more: nothing was read for a reason of its own. */
  reset(): void {
    this.#rate = 0
    this.#filledMs = 0
    this.#lastMs = undefined
  }

  /** Bytes per second; undefined before anything can be said. */
  get rate(): number | undefined {
    return this.#filledMs === 0 ? undefined : this.#rate
  }
}

const cursorSchema = struct({
  version: uint,
  /** Number of the pass, from 1. */
  pass: uint,
  /** When it began and when the one before it was done (0: none was), wall clock. */
  startedMs: uint,
  finishedMs: uint,
  /** True while the pass is under way, false when it is done and the next one is due later. */
  running: bool,
  /** Somebody asked for it: it runs as fast as is allowed. */
  hurried: bool,
  /** Every extent before this one was checked. */
  extent: uint,
  /** The pass ends with this extent. */
  until: uint,
  scannedBytes: uint,
  totalBytes: uint,
})
export type ScrubCursor = Omit<TypeOf<typeof cursorSchema>, 'version'>

const version = 1

/** The value of the cursor's key: sealed like every value of the index. */
export function encodeScrubCursor(cursor: ScrubCursor, sum: Sum): Uint8Array {
  const body = encode(cursorSchema, { version, ...cursor })
  const out = new Uint8Array(body.length + sumBytes)
  out.set(body)
  out.set(sumOf(sum, [indexKeys.scrubCursor(), body]), body.length)
  return out
}

/** The cursor, or undefined when it is damaged or of another version: the pass begins again. */
export function decodeScrubCursor(value: Uint8Array, sum: Sum): ScrubCursor | undefined {
  if (value.length < sumBytes) return undefined
  const body = value.subarray(0, value.length - sumBytes)
  if (!equalBytes(sumOf(sum, [indexKeys.scrubCursor(), body]), value.subarray(body.length))) return undefined
  try {
    const { version: found, ...cursor } = decode(cursorSchema, body)
    return found === version ? cursor : undefined
  } catch (error) {
    if (error instanceof SchemaError) return undefined
    throw error
  }
}
