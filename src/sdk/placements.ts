/**
 * Where new chunks go, fetched from the leader ahead of need and in batches.
 *
 * A placement is used once. It goes stale: after two seconds, or at once when it names a disk that just failed this
 * client (`avoid`), because the leader may need seconds to see what the client saw.
 *
 * Invariant: at most one batch is on its way per number of copies, and at most one batch waits.
 */

import { StoreError } from '../model/errors.ts'
import { limits } from '../model/limits.ts'
import type { Env } from '../ports/env.ts'
import type { holdfast } from '../wire/messages.ts'
import type { Target } from './chunk-streams.ts'
import type { MetaCaller } from './meta-calls.ts'
import { Scope, sleep, withSignal } from './scope.ts'

const batchChunks = 32
const aheadChunks = 8
const freshMs = 2_000
const avoidMs = 10_000
/** A cluster that just started has no disks for a moment; a cluster that lacks them is told from it by this wait. */
const patienceMs = 3_000

export type TargetSet = readonly Target[]

interface Batch {
  readonly fetchedMs: number
  readonly sets: TargetSet[]
}

/** What is needed to reach the disks of an answer, by disk number. */
export function targetsOf(disks: readonly holdfast.v1.DiskAddress[]): Map<number, Target> {
  const out = new Map<number, Target>()
  for (const { disk, node, addresses, zone, health } of disks) {
    out.set(disk, { disk, node, addresses: [...addresses], zone, health })
  }
  return out
}

export class Placements {
  readonly #env: Env
  readonly #meta: MetaCaller
  readonly #batches = new Map<number, Batch>()
  readonly #fetching = new Map<number, Promise<void>>()
  readonly #avoided = new Map<number, number>()
  readonly #lifetime: Scope

  constructor(env: Env, meta: MetaCaller) {
    this.#env = env
    this.#meta = meta
    this.#lifetime = new Scope(env.clock, {}, 'find places for chunks')
  }

  /** Places for one new chunk: `copies` disks, or fewer, at least `least`. NO_PLACEMENT when there are not so many. */
  async take(copies: number, least: number, signal: AbortSignal): Promise<TargetSet> {
    const startMs = this.#env.clock.monotonicMs()
    for (;;) {
      const set = this.#next(copies)
      if (set !== undefined && set.length >= least) return set
      if (set !== undefined && this.#env.clock.monotonicMs() - startMs >= patienceMs) {
        throw new StoreError(
          'NO_PLACEMENT',
          `${copies} copies wanted, at least ${least} at once, but only ${set.length} disks can take a chunk now: ask for fewer copies or bring nodes back`,
        )
      }
      if (set !== undefined) {
        this.#batches.delete(copies)
        await sleep(this.#env.clock, 200, signal)
      }
      await withSignal(this.#fetch(copies), signal)
    }
  }

  #next(copies: number): TargetSet | undefined {
    const batch = this.#batches.get(copies)
    const nowMs = this.#env.clock.monotonicMs()
    if (batch === undefined || nowMs - batch.fetchedMs > freshMs) return undefined
    const set = batch.sets.pop()
    if (batch.sets.length < aheadChunks) this.#fetch(copies).catch(() => undefined) // asked again when it is needed
    return set
  }

  #fetch(copies: number): Promise<void> {
    const running = this.#fetching.get(copies)
    if (running !== undefined) return running
    const fetching = this.#place(copies).finally(() => this.#fetching.delete(copies))
    this.#fetching.set(copies, fetching)
    return fetching
  }

  async #place(copies: number): Promise<void> {
    const avoided = this.#avoidedNow()
    let sets = await this.#ask(batchChunks, copies, avoided, [])
    // Better a disk that was slow a moment ago than none.
    if (avoided.length > 0 && sets.some((set) => set.length < copies))
      sets = await this.#ask(batchChunks, copies, [], [])
    this.#batches.set(copies, { fetchedMs: this.#env.clock.monotonicMs(), sets })
  }

  async #ask(
    chunks: number,
    copies: number,
    exclude: readonly number[],
    have: readonly number[],
  ): Promise<TargetSet[]> {
    const request = { chunks, copies, chunkBytes: limits.chunkBytesDefault, exclude: [...exclude], have: [...have] }
    try {
      const reply = await this.#meta.call('place', request, { signal: this.#lifetime.signal })
      const targets = targetsOf(reply.disks)
      return reply.placements.map((placement) =>
        placement.disks.map((disk) => targets.get(disk)).filter((target) => target !== undefined),
      )
    } catch (error) {
      if (error instanceof StoreError && error.code === 'NO_PLACEMENT') return [[]]
      throw error
    }
  }

  /** One more disk for a chunk that `have` disks hold or will hold; undefined when none is left. */
  async replacement(
    have: readonly number[],
    exclude: readonly number[],
    signal: AbortSignal,
  ): Promise<Target | undefined> {
    const not = [...new Set([...have, ...exclude])].sort((a, b) => a - b)
    const sets = await withSignal(this.#ask(1, 1, not, have), signal)
    return sets[0]?.find((target) => !not.includes(target.disk))
  }

  /** The disk failed or was slow: for some seconds it is not chosen when there is another. */
  avoid(disk: number): void {
    this.#avoided.set(disk, this.#env.clock.monotonicMs())
    for (const [copies, batch] of this.#batches) {
      const kept = batch.sets.filter((set) => set.every((target) => target.disk !== disk))
      if (kept.length === 0) this.#batches.delete(copies)
      else this.#batches.set(copies, { fetchedMs: batch.fetchedMs, sets: kept })
    }
  }

  #avoidedNow(): number[] {
    const nowMs = this.#env.clock.monotonicMs()
    for (const [disk, sinceMs] of this.#avoided) if (nowMs - sinceMs > avoidMs) this.#avoided.delete(disk)
    return [...this.#avoided.keys()].sort((a, b) => a - b)
  }

  close(): void {
    this.#lifetime.abort(new StoreError('CANCELLED', 'the connection was closed by the caller'))
    this.#lifetime.close()
  }
}
